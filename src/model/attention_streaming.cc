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

// One tile's way through the blocks of a task: what it has seen of the current stripe, and the tree
// of those that are done.
class Attention::Pass {
 public:
  Pass(const Attention& attention, const Tile& tile, Range stripes, float* states)
      : attention_(attention),
        tile_(tile),
        stripes_(stripes),
        tree_(states, attention.state_floats_) {}

  // The block of keys at `start`, of the i-th stripe in tree order; `next` is that stripe's next.
  void attend(size_t i, Range keys, size_t next, const KeyBlocks& blocks, std::byte* scratch) {
    if (tile_.most <= keys.begin) return;
    const Kernels& kernels = attention_.runtime_.kernels;
    int32_t visible[kMostRows];
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
  Tile tile_;
  Range stripes_;
  StripeTree tree_;
  bool fresh_ = true;
};

void Attention::stream(const Task& task, size_t layer, std::byte* scratch, const Output& out) {
  const ThreadScratch mine = lay_out_thread(shape_, most_context_, scratch);
  const size_t count = tiles_of(task.rows);
  std::array<Tile, kPassesPerTask> tiles{};
  for (size_t t = 0; t < count; ++t) tiles[t] = tile_at(task, t * kMostRows);
  const size_t most = tiles[count - 1].most;
  BlockWalk walk(states_.own_parts()[task.part], kPassesPerTask / std::bit_ceil(count),
                 stripe_tokens(shape_), shape_.block_size, most);
  std::array<std::optional<Pass>, kPassesPerTask> passes;  // [lanes][count]
  for (size_t i = 0; i < walk.lanes() * count; ++i)
    passes[i].emplace(*this, tiles[i % count], walk.lane(i / count),
                      mine.states + i * kLiveStates * state_floats_);

  while (!walk.done()) {
    const BlockWalk here = walk;
    walk.advance();
    const Range keys = {here.key(), std::min(here.key() + shape_.block_size, round_up(most, 16))};
    const KeyBlocks blocks(*tiles[0].queries->sequence, layer, task.kv_head, keys,
                           walk.done() ? here.key() : walk.key());
    for (size_t t = 0; t < count; ++t)
      passes[here.lane_index() * count + t]->attend(here.stripe(), keys, here.next_of_stripe(),
                                                    blocks, mine.kernel);
  }

  for (size_t t = 0; t < count; ++t) {
    std::array<std::optional<SoftmaxState>, kPassesPerTask> lanes;  // in tree order
    for (size_t i = 0; i < walk.lanes(); ++i)
      if (const StripeTree& tree = passes[i * count + t]->tree(); tree.present())
        lanes[walk.place_in_tree(i)] = tree.root();
    for (size_t apart = 1; apart < walk.lanes(); apart *= 2)
      for (size_t i = 0; i < walk.lanes(); i += 2 * apart)
        if (lanes[i + apart])  // its stripes' keys come after those of the i-th
          runtime_.kernels.merge(*lanes[i], *lanes[i + apart], tiles[t].rows, shape_.head_dim);
    if (!keeps_states_)
      finish(tiles[t], *lanes[0], out);
    else if (lanes[0])
      states_.put(place_of(tiles[t]), task.part, *lanes[0]);
  }
}

}  // namespace rill
