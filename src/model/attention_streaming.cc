// SPDX-License-Identifier: Apache-2.0
// Streaming attention: tiles fold the blocks of their stripes into states.
#include <array>
#include <bit>
#include <optional>

#include "model/attention.h"
#include "model/attention_tile.h"
#include "model/block_walk.h"
#include "model/stripe_tree.h"

namespace rill {

// A tile's way through the blocks of a lane: what it has seen of the current stripe, and the tree
// of those that are done.
class Attention::Pass {
 public:
  Pass(const Attention& attention, const Tile& tile, Range stripes, float* states)
      : attention_(attention),
        tile_(tile),
        stripes_(stripes),
        tree_(states, attention.shape_.head_dim, tile_rows(tile.rows)) {}

  // The block of keys at `start`, of the i-th stripe in tree order; `next` is that stripe's next.
  void attend(size_t i, Range keys, size_t next, const KeyBlocks& blocks, std::byte* scratch) {
    const Kernels& kernels = attention_.runtime_.kernels;
    int32_t visible[kMostQueries];
    AttentionTile tile = tile_.over(attention_.shape_, keys, blocks, visible);
    tile.scratch = scratch;
    if (next < tile_.most) {
      const SoftmaxState own = tree_.own();
      kernels.attend(tile, &own, fresh_ ? 0 : 1, own);
      fresh_ = false;
      return;
    }
    const JoinChain chain = tree_.close(closed_after(i));
    kernels.attend(tile, chain.earlier, chain.count, chain.target);
    fresh_ = true;
  }

  const StripeTree& tree() const { return tree_; }

 private:
  // Stripes that are closed with the i-th: those up to the next with keys.
  size_t closed_after(size_t i) const {
    const size_t step = stripe_tokens(attention_.shape_);
    do ++i;
    while (i < stripes_.end && stripe_at(i) * step >= tile_.most);
    return i - stripes_.begin;
  }

  const Attention& attention_;
  const Tile& tile_;
  Range stripes_;
  StripeTree tree_;
  bool fresh_ = true;
};

void Attention::stream(const Task& task, size_t layer, std::byte* scratch, const Output& out) {
  const ThreadScratch mine = lay_out_thread(shape_, most_context_, scratch);
  const Tile tile = tile_of(task);
  const size_t rows = tile_rows(tile.rows);
  BlockWalk walk(states_.own_parts()[task.part], std::max<size_t>(kMostLanes * kMostRows / rows, 1),
                 stripe_tokens(shape_), shape_.block_size, tile.most);
  std::array<std::optional<Pass>, kMostLanes> lanes;
  for (size_t i = 0; i < walk.lanes(); ++i)
    lanes[i].emplace(*this, tile, walk.lane(i),
                     mine.states + i * kLiveStates * state_floats(shape_.head_dim, rows));

  while (!walk.done()) {
    const BlockWalk here = walk;
    walk.advance();
    const Range keys = {here.key(),
                        std::min(here.key() + shape_.block_size, last_key(shape_, tile.most))};
    const KeyBlocks blocks(*tile.queries->sequence, layer, task.kv_head, keys,
                           walk.done() ? here.key() : walk.key());
    lanes[here.lane_index()]->attend(here.stripe(), keys, here.next_of_stripe(), blocks,
                                     mine.kernel);
  }

  std::array<std::optional<SoftmaxState>, kMostLanes> states;  // in tree order
  for (size_t i = 0; i < walk.lanes(); ++i)
    if (const StripeTree& tree = lanes[i]->tree(); tree.present())
      states[walk.place_in_tree(i)] = tree.root();
  for (size_t apart = 1; apart < walk.lanes(); apart *= 2)
    for (size_t i = 0; i < walk.lanes(); i += 2 * apart)
      if (states[i + apart])  // its stripes' keys come after those of the i-th
        runtime_.kernels.merge(*states[i], *states[i + apart], tile.rows, shape_.head_dim);
  if (!keeps_states_)
    finish(tile, *states[0], out);
  else if (states[0])
    states_.put(place_of(tile), task.part, *states[0]);
}

}  // namespace rill
