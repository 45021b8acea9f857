// SPDX-License-Identifier: Apache-2.0
#include "model/attention.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <limits>

#include "model/arena.h"
#include "model/stripe_tree.h"

namespace rill {
namespace {

/// Tiles that share one pass over the blocks: K and V of a block are read from a near cache by all
/// but the first. Four halve what two read (a long context does not fit the last cache), and their
/// states still fit the second; eight gain no more.
constexpr size_t kTilesPerTask = 4;
/// Tasks a thread should have to choose from, so that none waits long for the last.
constexpr size_t kTasksPerThread = 4;
constexpr size_t kMostBlockTokens = 1024;

size_t tiles_of(size_t folded_rows) {
  return (folded_rows + kMostRows - 1) / kMostRows;
}

size_t stripe_tokens(const AttentionShape& shape) {
  return std::max(shape.block_size, kBlockTokens);
}

// Subtrees whose states are kept apart: plan() splits only when there are fewer tiles than wanted
// tasks, and then into less than twice as many as wanted.
size_t most_partial(int threads) {
  return 2 * kTasksPerThread * static_cast<size_t>(threads);
}

// One thread's scratch.
struct ThreadScratch {
  float* states;      // [kTilesPerTask][kLiveStates] states (streaming), [kLiveStates] (standard)
  std::byte* kernel;  // attention_scratch_bytes
  std::byte* scores;  // of the whole context (standard)
  size_t bytes;
};

ThreadScratch lay_out_thread(const AttentionShape& shape, size_t most_context, std::byte* base) {
  Arena arena(base);
  const bool streaming = shape.type == AttentionType::STREAMING;
  ThreadScratch s{};
  s.states = arena.take<float>((streaming ? kTilesPerTask : 1) * kLiveStates *
                               state_floats(shape.head_dim));
  s.kernel = arena.take<std::byte>(streaming ? attention_scratch_bytes(shape.block_size) : 0);
  s.scores = arena.take<std::byte>(streaming ? 0 : attention_scratch_bytes(most_context));
  s.bytes = arena.used();
  return s;
}

// Of one slice of a query row; and how many slices there are.
size_t query_bytes(const AttentionShape& shape, const Kernels& kernels) {
  return kernels.activation_bytes(shape.operand, kQuerySlice);
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

// The attention blocks that hold the keys [0, most) in the order in which a task visits them.
class BlockWalk {
 public:
  // Of the given stripes, counted in tree order; the first has keys.
  BlockWalk(Range stripes, size_t step, size_t block, size_t most)
      : stripes_(stripes),
        step_(step),
        block_(block),
        most_(most),
        stripe_(stripes.begin),
        key_(stripe_at(stripe_) * step),
        next_(after(key_)) {}

  bool done() const { return stripe_ >= stripes_.end; }
  size_t stripe() const { return stripe_; }
  size_t key() const { return key_; }
  // The stripe's block after this one; it need not have keys.
  size_t next_of_stripe() const { return next_; }
  void advance() {
    key_ = next_;
    while (key_ >= most_ && ++stripe_ < stripes_.end) key_ = stripe_at(stripe_) * step_;
    next_ = after(key_);
  }

 private:
  size_t after(size_t key) const {
    const size_t end = key + block_;
    return end % step_ ? end : end + (kStripes - 1) * step_;
  }

  Range stripes_;
  size_t step_, block_, most_, stripe_, key_, next_;
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
  s.partial = arena.take<float>(most_partial(threads) * state_floats(shape.head_dim));
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
      partial_present_(most_partial(runtime.team.size())) {
  queries_.reserve(most_rows);
  const size_t partial = most_partial(runtime.team.size());
  tasks_.reserve(std::max(partial, most_rows * shape.kv_heads * tiles_of(shape.group)));
  joins_.reserve(partial);
}

size_t Attention::sees(const AttentionQueries& queries, size_t token) const {
  const size_t length = queries.sequence->length();
  return queries.causal ? std::min(length, queries.position + token + 1) : length;
}

void Attention::plan(std::span<const AttentionQueries> queries) {
  queries_.assign(queries.begin(), queries.end());
  const size_t wanted = kTasksPerThread * static_cast<size_t>(runtime_.team.size());
  size_t tiles = 0, longest = 0;
  for (const AttentionQueries& q : queries_) {
    for (size_t head = 0; head < shape_.kv_heads; ++head)
      tiles += tiles_of(q.tokens * shape_.group_of(head));
    longest = std::max(longest, sees(q, q.tokens - 1));
  }
  size_t per_task = 1;
  parts_ = 1;
  if (shape_.type == AttentionType::STREAMING) {
    while (per_task < kTilesPerTask && tiles / (2 * per_task) >= wanted) per_task *= 2;
    const size_t stripes =
        std::min(kStripes, (longest + stripe_tokens(shape_) - 1) / stripe_tokens(shape_));
    while (tiles * parts_ < wanted && 2 * parts_ <= stripes) parts_ *= 2;
  }
  tasks_.clear();
  joins_.clear();
  for (size_t i = 0; i < queries_.size(); ++i) {
    const size_t step = per_task * kMostRows;
    for (size_t head = 0; head < shape_.kv_heads; ++head) {
      const size_t group = shape_.group_of(head), rows = queries_[i].tokens * group;
      for (size_t first = 0; first < rows; first += step) {
        Task task{};
        task.queries = static_cast<uint32_t>(i);
        task.kv_head = static_cast<uint32_t>(head);
        task.first = static_cast<uint32_t>(first);
        task.rows = static_cast<uint32_t>(std::min(step, rows - first));
        task.cost = task.rows * sees(queries_[i], (first + task.rows - 1) / group);
        task.state = static_cast<uint32_t>(joins_.size() * parts_);
        if (parts_ > 1) joins_.push_back(task);
        for (size_t part = 0; part < parts_; ++part) {
          task.part = static_cast<uint32_t>(part);
          tasks_.push_back(task);
        }
      }
    }
  }
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
    runtime_.kernels.convert(shape_.operand, q + first,
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
    const size_t row = tile.queries->row + (tile.first + r) / group;
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
  for (size_t i = next_task.next(); i < tasks_.size(); i = next_task.next()) {
    if (shape_.type == AttentionType::STREAMING)
      stream(tasks_[i], layer, scratch, out, stride);
    else
      standard(tasks_[i], layer, scratch, out, stride);
  }
  if (parts_ == 1) return;
  worker.barrier();
  for (size_t i = next_join_.next(); i < joins_.size(); i = next_join_.next())
    join_parts(joins_[i], scratch, out, stride);
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

  const Tile& tile() const { return tile_; }
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
  const Range stripes = {task.part * (kStripes / parts_), (task.part + 1) * (kStripes / parts_)};
  const auto pass = [&](size_t t) {
    return Pass(*this, tile_at(task, std::min(t, count - 1) * kMostRows), stripes,
                mine.states + t * kLiveStates * state_floats_);
  };
  std::array<Pass, kTilesPerTask> passes = {pass(0), pass(1), pass(2), pass(3)};
  const size_t most = passes[count - 1].tile().most;
  const KvSequence& sequence = *passes[0].tile().queries->sequence;

  BlockWalk walk(stripes, stripe_tokens(shape_), shape_.block_size, most);
  if (walk.key() >= most) walk.advance();
  while (!walk.done()) {
    const BlockWalk here = walk;
    walk.advance();
    const Range keys = {here.key(), std::min(here.key() + shape_.block_size, round_up(most, 16))};
    const KeyBlocks blocks(sequence, layer, task.kv_head, keys,
                           walk.done() ? here.key() : walk.key());
    for (size_t t = 0; t < count; ++t)
      passes[t].attend(here.stripe(), keys, here.next_of_stripe(), blocks, mine.kernel);
  }

  if (parts_ == 1) {
    for (size_t t = 0; t < count; ++t)
      finish(passes[t].tile(), passes[t].tree().root(), out, stride);
    return;
  }
  const size_t place = task.state + task.part;
  const StripeTree& tree = passes[0].tree();
  partial_present_[place] = tree.present();
  if (tree.present())
    std::memcpy(scratch_.partial + place * state_floats_, tree.root().m,
                state_floats_ * sizeof(float));
}

void Attention::join_parts(const Task& task, std::byte* scratch, float* out, size_t stride) {
  const Tile tile = tile_at(task, 0);
  StripeTree tree(lay_out_thread(shape_, most_context_, scratch).states, state_floats_);
  for (size_t part = 0, next; part < parts_; part = next) {
    for (next = part + 1; next < parts_ && !partial_present_[task.state + next];) ++next;
    std::memcpy(tree.own().m, scratch_.partial + (task.state + part) * state_floats_,
                state_floats_ * sizeof(float));
    join(tree.close(next), tile.rows, runtime_.kernels.merge);
  }
  finish(tile, tree.root(), out, stride);
}

void Attention::join(const JoinChain& chain, size_t rows,
                     void (*merge)(SoftmaxState, SoftmaxState, size_t, size_t)) const {
  for (size_t i = 1; i < chain.count; ++i)
    merge(chain.earlier[i], chain.earlier[i - 1], rows, shape_.head_dim);
}

void Attention::standard(const Task& task, size_t layer, std::byte* scratch, float* out,
                         size_t stride) {
  const Kernels& kernels = runtime_.kernels;
  const ThreadScratch mine = lay_out_thread(shape_, most_context_, scratch);
  const Tile tile = tile_at(task, 0);
  const KvSequence& sequence = *tile.queries->sequence;
  const size_t step = stripe_tokens(shape_);
  int32_t visible[kMostRows];
  const auto run = [&](size_t key, const auto& use) {
    const Range keys = {key, std::min(key + kBlockTokens, round_up(tile.most, 16))};
    const KeyBlocks blocks(sequence, layer, task.kv_head, keys,
                           key + kBlockTokens < tile.most ? key + kBlockTokens : key);
    use(tile.over(shape_, keys, blocks, visible),
        reinterpret_cast<float*>(mine.scores + attention_scratch_bytes(key)));
  };

  alignas(64) float maximum[16];
  std::fill_n(maximum, 16, -std::numeric_limits<float>::infinity());
  for (size_t key = 0; key < tile.most; key += kBlockTokens)
    run(key, [&](const AttentionTile& keys, float* to) { kernels.scores(keys, to, maximum); });

  StripeTree tree(mine.states, state_floats_);
  for (size_t i = 0; i < kStripes;) {
    const SoftmaxState state = tree.own();
    std::memset(state.m, 0, state_floats_ * sizeof(float));
    std::copy_n(maximum, kMostRows, state.m);
    for (size_t start = stripe_at(i) * step; start < tile.most; start += kStripes * step)
      for (size_t key = start; key < std::min(tile.most, start + step); key += kBlockTokens)
        run(key,
            [&](const AttentionTile& keys, float* from) { kernels.accumulate(keys, from, state); });
    do ++i;
    while (i < kStripes && stripe_at(i) * step >= tile.most);
    join(tree.close(i), tile.rows, kernels.add);
  }
  finish(tile, tree.root(), out, stride);
}

}  // namespace rill
