// SPDX-License-Identifier: Apache-2.0
#include "model/attention.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <limits>
#include <optional>

#include "model/arena.h"
#include "model/block_walk.h"
#include "model/stripe_tree.h"

namespace rill {
namespace {

/// Passes that a task makes side by side over its blocks. Those of several tiles read K and V of a
/// block from a near cache, all but the first: four halve what two read (a long context does not
/// fit the last cache), and their states still fit the second; eight gain no more. Fewer tiles
/// than that, as in decode, take several lanes of stripes instead, and so read longer runs of
/// memory.
constexpr size_t kPassesPerTask = 4;
/// Tasks a thread should have to choose from, so that none waits long for the last.
constexpr size_t kTasksPerThread = 4;
constexpr size_t kMostBlockTokens = 1024;

size_t tiles_of(size_t folded_rows) {
  return (folded_rows + kMostRows - 1) / kMostRows;
}

size_t stripe_tokens(const AttentionShape& shape) {
  return stripe_length(shape.block_size);
}

// Subtrees whose states are kept apart: plan() splits only when there are fewer tiles than wanted
// tasks, and then into less than twice as many as wanted.
size_t most_partial(int threads) {
  return 2 * kTasksPerThread * static_cast<size_t>(threads);
}

// One thread's scratch.
struct ThreadScratch {
  float* states;      // [kPassesPerTask][kLiveStates] states (streaming), [kLiveStates] (standard)
  std::byte* kernel;  // attention_scratch_bytes
  std::byte* scores;  // of the whole context (standard)
  size_t bytes;
};

ThreadScratch lay_out_thread(const AttentionShape& shape, size_t most_context, std::byte* base) {
  Arena arena(base);
  const bool streaming = shape.type == AttentionType::STREAMING;
  ThreadScratch s{};
  s.states = arena.take<float>((streaming ? kPassesPerTask : 1) * kLiveStates *
                               state_floats(shape.head_dim));
  s.kernel = arena.take<std::byte>(streaming ? attention_scratch_bytes(shape.block_size) : 0);
  s.scores = arena.take<std::byte>(streaming ? 0 : attention_scratch_bytes(most_context));
  s.bytes = arena.used();
  return s;
}

// Of one slice of a query row; and how many slices there are.
size_t query_bytes(const AttentionShape& shape, const Kernels& kernels) {
  return kernels.activation_bytes(query_operand(shape.kv, shape.operand), kQuerySlice);
}
size_t query_slices(const AttentionShape& shape) {
  return (shape.head_dim + kQuerySlice - 1) / kQuerySlice;
}

// The pool blocks behind a run of keys, as kernels take them, and the one that is read next.
struct KeyBlocks {
  std::array<const std::byte*, kMostBlockTokens / kBlockTokens + 1> k, v;

  KeyBlocks(const KvSequence& sequence, size_t layer, size_t kv_head, Range keys, size_t next) {
    const auto put = [&](size_t to, size_t key) {
      const uint32_t block = sequence.blocks()[key / kBlockTokens];
      k[to] = sequence.cache().k(block, layer, kv_head);
      v[to] = sequence.cache().v(block, layer, kv_head);
    };
    size_t n = 0;
    for (size_t key = keys.begin; key < keys.end; key += kBlockTokens) put(n++, key);
    put(n, next);
  }
};

}  // namespace

// Up to kMostRows folded rows.
struct Attention::Tile {
  const AttentionQueries* queries;
  size_t kv_head, first, rows;
  const std::byte* q;
  size_t q_slice_bytes;
  size_t sees[kMostRows];  // keys that each row sees, ascending
  size_t most;             // that the last row sees

  // The keys of this tile's sequence in a block, as far as any row sees them.
  AttentionTile over(const AttentionShape& shape, Range keys, const KeyBlocks& blocks,
                     int32_t* visible) const {
    AttentionTile tile{};
    tile.kv = shape.kv;
    tile.operand = shape.operand;
    tile.head_dim = shape.head_dim;
    tile.rows = rows;
    tile.q = q;
    tile.q_slice_bytes = q_slice_bytes;
    tile.k = blocks.k.data();
    tile.v = blocks.v.data();
    tile.first = keys.begin % kBlockTokens;
    tile.keys = std::min(keys.end - keys.begin, round_up(most - keys.begin, 16));
    if (sees[0] < keys.begin + tile.keys) {
      for (size_t r = 0; r < rows; ++r)
        visible[r] = static_cast<int32_t>(sees[r] > keys.begin ? sees[r] - keys.begin : 0);
      tile.visible = visible;
    }
    return tile;
  }
};

Attention::Scratch Attention::lay_out(const AttentionShape& shape, const Kernels& kernels,
                                      int threads, size_t most_rows, size_t most_context,
                                      std::byte* base) {
  Arena arena(base);
  Scratch s;
  s.q = arena.take<std::byte>(shape.heads * query_slices(shape) * most_rows *
                              query_bytes(shape, kernels));
  s.threads = arena.take<std::byte>(static_cast<size_t>(threads) *
                                    lay_out_thread(shape, most_context, nullptr).bytes);
  s.partial =
      arena.take<float>(most_partial(threads) * kMostRows * StateRanks::row_floats(shape.head_dim) +
                        StateRanks::rank_floats(shape.sp, most_rows, shape.heads, shape.head_dim));
  s.bytes = arena.used();
  return s;
}

size_t Attention::scratch_bytes(const AttentionShape& shape, const Kernels& kernels, int threads,
                                size_t most_rows, size_t most_context) {
  return lay_out(shape, kernels, threads, most_rows, most_context, nullptr).bytes;
}

Attention::Attention(const AttentionShape& shape, Runtime runtime, size_t most_rows,
                     size_t most_context)
    : shape_(shape),
      runtime_(runtime),
      q_bytes_(query_bytes(shape, runtime.kernels)),
      state_floats_(state_floats(shape.head_dim)),
      most_rows_(most_rows),
      most_context_(most_context),
      memory_(scratch_bytes(shape, runtime.kernels, runtime.team.size(), most_rows, most_context),
              "the scratch of attention"),
      scratch_(lay_out(shape, runtime.kernels, runtime.team.size(), most_rows, most_context,
                       memory_.data())),
      states_(runtime.ranks, stripe_tokens(shape), shape.head_dim) {
  // At most a chunk for each sequence and each rank whose share begins within one.
  const size_t chunks = most_rows + shape.sp.count;
  const size_t parts = shape.sp.count > 1 ? states_.own_parts().size() : 1;
  const size_t tiles = most_rows * shape.kv_heads * tiles_of(shape.group);
  queries_.reserve(chunks);
  chunks_.reserve(chunks);
  parts_.reserve(kStripes);
  states_.reserve(chunks);
  tasks_.reserve(std::max(most_partial(runtime.team.size()), tiles * parts));
  joins_.reserve(std::max(most_partial(runtime.team.size()), tiles));
}

size_t Attention::sees(const AttentionQueries& queries, size_t token) const {
  const size_t length = queries.sequence->length();
  return queries.causal ? std::min(length, queries.position + token + 1) : length;
}

// Is this rank the one that keeps the key?
bool Attention::holds(size_t key) const {
  return in_range(share_of(kStripes, shape_.sp), tree_place(key / stripe_tokens(shape_)));
}

// Queries of one sequence and of one rank's share of the rows.
void Attention::cut_queries(std::span<const AttentionQueries> queries, const RowShares& shares) {
  queries_.clear();
  chunks_.clear();
  first_row_ = shares.own().begin;
  for (const AttentionQueries& q : queries)
    for (size_t done = 0, tokens; done < q.tokens; done += tokens) {
      size_t rank = 0;
      while (q.row + done >= shares.of(rank).end) ++rank;
      tokens = std::min(q.tokens - done, shares.of(rank).end - (q.row + done));
      queries_.push_back({q.sequence, q.row + done, tokens, q.position + done, q.causal});
      chunks_.push_back({q.row + done, tokens * shape_.heads, sees(queries_.back(), tokens - 1)});
    }
}

// A process by itself splits the stripes where there is too little to do for all threads; ranks
// have theirs.
void Attention::choose_parts(size_t tiles, size_t longest) {
  if (shape_.sp.count > 1) return;
  const size_t wanted = kTasksPerThread * static_cast<size_t>(runtime_.team.size());
  size_t parts = 1;
  if (shape_.type == AttentionType::STREAMING) {
    const size_t stripes =
        std::min(kStripes, (longest + stripe_tokens(shape_) - 1) / stripe_tokens(shape_));
    while (tiles * parts < wanted && 2 * parts <= stripes) parts *= 2;
  }
  parts_.clear();
  for (size_t i = 0; i < parts; ++i) parts_.push_back(share_of(kStripes, {i, parts}));
  states_.set_own_parts(parts_);
}

void Attention::add_tasks(size_t chunk, size_t per_task) {
  const AttentionQueries& queries = queries_[chunk];
  const bool streaming = shape_.type == AttentionType::STREAMING;
  const size_t step = per_task * kMostRows;
  const size_t parts = streaming ? states_.own_parts().size() : 1;
  for (size_t head = 0; head < shape_.kv_heads; ++head) {
    const size_t group = shape_.group_of(head), rows = queries.tokens * group;
    for (size_t first = 0; first < rows; first += step) {
      Task task{};
      task.queries = static_cast<uint32_t>(chunk);
      task.kv_head = static_cast<uint32_t>(head);
      task.first = static_cast<uint32_t>(first);
      task.rows = static_cast<uint32_t>(std::min(step, rows - first));
      task.cost = task.rows * sees(queries, (first + task.rows - 1) / group);
      const bool ours = queries.row >= first_row_ && queries.row < last_row_;
      if (keeps_states_ && ours) joins_.push_back(task);
      for (size_t part = 0; part < parts; ++part) {
        task.part = static_cast<uint32_t>(part);
        tasks_.push_back(task);
      }
    }
  }
}

void Attention::plan(std::span<const AttentionQueries> queries, const RowShares& shares) {
  cut_queries(queries, shares);
  last_row_ = shares.own().end;
  const size_t wanted = kTasksPerThread * static_cast<size_t>(runtime_.team.size());
  size_t tiles = 0, longest = 0, per_task = 1;
  for (const AttentionQueries& q : queries_) {
    for (size_t head = 0; head < shape_.kv_heads; ++head)
      tiles += tiles_of(q.tokens * shape_.group_of(head));
    longest = std::max(longest, sees(q, q.tokens - 1));
  }
  choose_parts(tiles, longest);
  keeps_states_ = states_.ranks() > 1 || states_.own_parts().size() > 1;
  if (shape_.type == AttentionType::STREAMING && !keeps_states_)
    while (per_task < kPassesPerTask && tiles / (2 * per_task) >= wanted) per_task *= 2;
  if (keeps_states_) states_.plan(chunks_, shares, scratch_.partial);
  tasks_.clear();
  joins_.clear();
  for (size_t chunk = 0; chunk < queries_.size(); ++chunk) add_tasks(chunk, per_task);
  // The longest first, so that the last ones to end are short. Which thread takes what, and when,
  // changes no bit.
  std::sort(tasks_.begin(), tasks_.end(),
            [](const Task& a, const Task& b) { return a.cost > b.cost; });
  for (TaskCounter& counter : next_task_) counter.reset();
  next_join_.reset();
}

std::byte* Attention::query(size_t kv_head, size_t slice, size_t folded_row) const {
  const size_t place =
      shape_.heads_of(kv_head).begin * query_slices(shape_) + slice * shape_.group_of(kv_head);
  return scratch_.q + (place * most_rows_ + folded_row) * q_bytes_;
}

void Attention::set_query(size_t head, size_t row, const float* q) {
  const size_t kv_head = shape_.kv_head_of(head), group = shape_.group_of(kv_head);
  const size_t folded_row = row * group + head - shape_.heads_of(kv_head).begin;
  for (size_t slice = 0; slice < query_slices(shape_); ++slice) {
    const size_t first = slice * kQuerySlice;
    runtime_.kernels.convert(query_operand(shape_.kv, shape_.operand), q + first,
                             std::min(kQuerySlice, shape_.head_dim - first), kQuerySlice,
                             query(kv_head, slice, folded_row));
  }
}

Attention::Tile Attention::tile_at(const Task& task, size_t offset) const {
  Tile tile{};
  tile.queries = &queries_[task.queries];
  tile.kv_head = task.kv_head;
  tile.first = task.first + offset;
  tile.rows = std::min(kMostRows, task.rows - offset);
  const size_t group = shape_.group_of(task.kv_head);
  tile.q = query(task.kv_head, 0, tile.queries->row * group + tile.first);
  tile.q_slice_bytes = most_rows_ * group * q_bytes_;
  for (size_t r = 0; r < tile.rows; ++r)
    tile.sees[r] = sees(*tile.queries, (tile.first + r) / group);
  tile.most = tile.sees[tile.rows - 1];
  return tile;
}

void Attention::finish(const Tile& tile, SoftmaxState state, float* out, size_t stride) const {
  const Range heads = shape_.heads_of(tile.kv_head);
  const size_t group = heads.end - heads.begin;
  for (size_t r = 0; r < tile.rows; ++r) {
    const size_t row = tile.queries->row + (tile.first + r) / group - first_row_;
    const size_t head = heads.begin + (tile.first + r) % group;
    runtime_.kernels.finish(state, r, shape_.head_dim, out + row * stride + head * shape_.head_dim);
  }
}

void Attention::run(Worker& worker, size_t layer, float* out, size_t stride) {
  const size_t thread_bytes = lay_out_thread(shape_, most_context_, nullptr).bytes;
  std::byte* scratch = scratch_.threads + static_cast<size_t>(worker.index()) * thread_bytes;
  TaskCounter& next_task = next_task_[layer % 2];
  if (worker.first()) {  // what the last layer used, and all threads have left
    next_task_[(layer + 1) % 2].reset();
    next_join_.reset();
  }
  if (shape_.type == AttentionType::STANDARD && states_.ranks() > 1)
    settle_maxima(worker, layer, scratch);
  for (size_t i = next_task.next(); i < tasks_.size(); i = next_task.next()) {
    if (shape_.type == AttentionType::STREAMING)
      stream(tasks_[i], layer, scratch, out, stride);
    else
      standard(tasks_[i], layer, scratch, out, stride);
  }
  if (!keeps_states_) return;
  worker.barrier();
  if (states_.ranks() > 1) {
    if (worker.first()) states_.exchange();
    worker.barrier();
  }
  for (size_t i = next_join_.next(); i < joins_.size(); i = next_join_.next())
    join_parts(joins_[i], scratch, out, stride);
}

StateRanks::Place Attention::place_of(const Tile& tile) const {
  const size_t chunk = static_cast<size_t>(tile.queries - queries_.data());
  const size_t heads_before = shape_.heads_of(tile.kv_head).begin;
  return {chunk, heads_before * tile.queries->tokens + tile.first, tile.rows};
}

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

void Attention::stream(const Task& task, size_t layer, std::byte* scratch, float* out,
                       size_t stride) {
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
      finish(tiles[t], *lanes[0], out, stride);
    else if (lanes[0])
      states_.put(place_of(tiles[t]), task.part, *lanes[0]);
  }
}

// All ranks' parts of a tile in tree order. The first one holds key 0, which every row sees.
void Attention::join_parts(const Task& task, std::byte* scratch, float* out, size_t stride) {
  const Tile tile = tile_at(task, 0);
  const StateRanks::Place place = place_of(tile);
  const Kernels& kernels = runtime_.kernels;
  const auto merge = shape_.type == AttentionType::STREAMING ? kernels.merge : kernels.add;
  struct Part {
    size_t rank, index;
    Range stripes;
  };
  std::array<Part, kStripes + 1> present;
  size_t count = 0;
  for (size_t rank = 0; rank < states_.ranks(); ++rank) {
    const std::vector<Range>& parts = states_.parts()[rank];
    for (size_t i = 0; i < parts.size(); ++i)
      if (states_.present(parts[i], tile.most)) present[count++] = {rank, i, parts[i]};
  }
  present[count].stripes = {kStripes, kStripes};
  StripeTree tree(lay_out_thread(shape_, most_context_, scratch).states, state_floats_);
  for (size_t i = 0; i < count; ++i) {
    states_.get(place, present[i].rank, present[i].index, tree.own());
    const auto level = static_cast<size_t>(std::countr_zero(length(present[i].stripes)));
    join(tree.close(present[i + 1].stripes.begin, level), tile.rows, merge);
  }
  finish(tile, tree.root(), out, stride);
}

void Attention::join(const JoinChain& chain, size_t rows,
                     void (*merge)(SoftmaxState, SoftmaxState, size_t, size_t)) const {
  for (size_t i = 1; i < chain.count; ++i)
    merge(chain.earlier[i], chain.earlier[i - 1], rows, shape_.head_dim);
}

// One tile's scores, and with them its sums, block by block of 64 keys, as far as this rank has the
// keys.
class Attention::Rows {
 public:
  Rows(const Attention& attention, const Task& task, size_t layer, std::byte* scratch)
      : attention_(attention),
        kernels_(attention.runtime_.kernels),
        tile_(attention.tile_at(task, 0)),
        layer_(layer),
        scores_(lay_out_thread(attention.shape_, attention.most_context_, scratch).scores) {
    std::fill_n(maximum_, 16, -std::numeric_limits<float>::infinity());
  }

  // The scores of all keys, and their maximum.
  void score() {
    for (size_t key = 0; key < tile_.most; key += kBlockTokens)
      if (attention_.holds(key))
        run(key,
            [&](const AttentionTile& keys, float* to) { kernels_.scores(keys, to, maximum_); });
  }
  // Adds the keys of a stripe, from nothing.
  void accumulate(size_t stripe, SoftmaxState state) {
    const size_t step = stripe_tokens(attention_.shape_);
    std::memset(state.m, 0, attention_.state_floats_ * sizeof(float));
    std::copy_n(maximum_, kMostRows, state.m);
    for (size_t start = stripe * step; start < tile_.most; start += kStripes * step)
      for (size_t key = start; key < std::min(tile_.most, start + step); key += kBlockTokens)
        run(key, [&](const AttentionTile& keys, float* from) {
          kernels_.accumulate(keys, from, state);
        });
  }
  float* maximum() { return maximum_; }
  const Tile& tile() const { return tile_; }

 private:
  template <class Use>
  void run(size_t key, const Use& use) {
    const Range keys = {key, std::min(key + kBlockTokens, round_up(tile_.most, 16))};
    const size_t next = key + kBlockTokens;
    const bool more = next < tile_.most && attention_.holds(next);
    const KeyBlocks blocks(*tile_.queries->sequence, layer_, tile_.kv_head, keys,
                           more ? next : key);
    int32_t visible[kMostRows];
    use(tile_.over(attention_.shape_, keys, blocks, visible),
        reinterpret_cast<float*>(scores_ + attention_scratch_bytes(key)));
  }

  const Attention& attention_;
  const Kernels& kernels_;
  Tile tile_;
  size_t layer_;
  std::byte* scores_;
  alignas(64) float maximum_[16];
};

// The rows' maxima over the keys of all ranks. The scores are computed again afterwards: those of
// all tiles together would not fit.
void Attention::settle_maxima(Worker& worker, size_t layer, std::byte* scratch) {
  const auto count = static_cast<size_t>(worker.count());
  for (size_t i = static_cast<size_t>(worker.index()); i < tasks_.size(); i += count) {
    Rows rows(*this, tasks_[i], layer, scratch);
    rows.score();
    states_.put_maxima(place_of(rows.tile()), rows.maximum());
  }
  worker.barrier();
  if (worker.first()) states_.share_maxima();
  worker.barrier();
}

void Attention::standard(const Task& task, size_t layer, std::byte* scratch, float* out,
                         size_t stride) {
  Rows rows(*this, task, layer, scratch);
  rows.score();
  const Tile& tile = rows.tile();
  if (states_.ranks() > 1) states_.get_maxima(place_of(tile), rows.maximum());
  float* states = lay_out_thread(shape_, most_context_, scratch).states;
  const std::vector<Range>& parts = states_.own_parts();
  for (size_t part = 0; part < parts.size(); ++part) {
    if (!states_.present(parts[part], tile.most)) continue;
    StripeTree tree(states, state_floats_);
    for (size_t i = parts[part].begin; i < parts[part].end;) {
      rows.accumulate(stripe_at(i), tree.own());
      do ++i;
      while (i < parts[part].end && stripe_at(i) * stripe_tokens(shape_) >= tile.most);
      join(tree.close(i - parts[part].begin), tile.rows, runtime_.kernels.add);
    }
    if (keeps_states_)
      states_.put(place_of(tile), part, tree.root());
    else
      finish(tile, tree.root(), out, stride);
  }
}

}  // namespace rill
