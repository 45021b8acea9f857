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

  // What is to be done with `tile`, a block of the i-th stripe in tree order; `next` is that
  // stripe's next. Good until the next call.
  AttentionJob meet(size_t i, const AttentionTile& tile, size_t next) {
    if (next < tile_.most) {
      chain_.earlier[0] = tree_.own();
      const AttentionJob job = {tile, chain_.earlier, fresh_ ? size_t{0} : 1, chain_.earlier[0]};
      fresh_ = false;
      return job;
    }
    chain_ = tree_.close(closed_after(i));
    fresh_ = true;
    return {tile, chain_.earlier, chain_.count, chain_.target};
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
  JoinChain chain_;
  bool fresh_ = true;
};

namespace {

struct Visit {
  explicit Visit(const BlockWalk& walk)
      : lane(walk.lane_index()),
        stripe(walk.stripe()),
        key(walk.key()),
        next_of_stripe(walk.next_of_stripe()) {}
  Visit() = default;
  size_t lane, stripe, key, next_of_stripe;
};

// The blocks that are met next: one, or of several lanes one each if `together` and all rows, which
// see `seen` keys, see the whole blocks.
size_t next_visits(BlockWalk& walk, bool together, size_t block_size, size_t seen,
                   std::array<Visit, kMostLanes>& visits) {
  size_t count = 0;
  do {
    visits[count++] = Visit(walk);
    walk.advance();
  } while (together && !walk.done() && walk.lane_index() > visits[count - 1].lane &&
           std::max(walk.key(), visits[count - 1].key) + block_size <= seen);
  return count;
}

}  // namespace

void Attention::stream(const Task& task, size_t layer, std::byte* scratch, const Output& out) {
  const ThreadScratch mine = lay_out_thread(shape_, scratch);
  const Tile tile = tile_of(task);
  const size_t rows = tile_rows(tile.rows);
  BlockWalk walk(plan_.stripes_of(task), std::max<size_t>(kMostLanes * kMostRows / rows, 1),
                 stripe_tokens(shape_), shape_.block_size, tile.most);
  std::array<std::optional<Pass>, kMostLanes> lanes;
  for (size_t i = 0; i < walk.lanes(); ++i)
    lanes[i].emplace(*this, tile, walk.lane(i),
                     mine.states + i * kLiveStates * state_floats(shape_.head_dim, rows));

  const bool together = tile.rows <= kFewQueries && shape_.block_size % kBlockTokens == 0;
  while (!walk.done()) {
    std::array<Visit, kMostLanes> visits;
    const size_t count = next_visits(walk, together, shape_.block_size, tile.sees[0], visits);
    std::array<KeyBlocks, kMostLanes> blocks;
    std::array<AttentionJob, kMostLanes> jobs;
    int32_t visible[kMostQueries];
    BlockWalk after = walk;
    for (size_t i = 0; i < count; ++i) {
      const Visit& here = visits[i];
      const Range keys = {here.key,
                          std::min(here.key + shape_.block_size, last_key(shape_, tile.most))};
      const size_t next = after.done() ? here.key : after.key();
      if (!after.done()) after.advance();
      blocks[i].find(*tile.queries->sequence, layer, task.kv_head, keys, next);
      AttentionTile block = tile.over(shape_, keys, blocks[i], visible);
      block.scratch = mine.kernel + i * attention_scratch_bytes(shape_.block_size, tile.rows);
      jobs[i] = lanes[here.lane]->meet(here.stripe, block, here.next_of_stripe);
    }
    runtime_.kernels.attend(jobs.data(), count);
  }

  std::array<std::optional<SoftmaxState>, kMostLanes> states;  // in tree order
  for (size_t i = 0; i < walk.lanes(); ++i)
    if (const StripeTree& tree = lanes[i]->tree(); tree.present())
      states[walk.place_in_tree(i)] = tree.root();
  for (size_t apart = 1; apart < walk.lanes(); apart *= 2)
    for (size_t i = 0; i < walk.lanes(); i += 2 * apart)
      if (states[i + apart])  // its stripes' keys come after those of the i-th
        runtime_.kernels.merge(*states[i], *states[i + apart], tile.rows, shape_.head_dim);
  bring(task, tile, *states[0], out);
}

}  // namespace rill
