// SPDX-License-Identifier: Apache-2.0
// Scratch, queries, and a step's way through its tasks. Next: attention_plan.cc makes the tasks,
// attention_streaming.cc and attention_standard.cc carry them out.
#include "model/attention.h"

#include <array>
#include <bit>

#include "model/arena.h"
#include "model/attention_tile.h"
#include "model/stripe_tree.h"

namespace rill {
namespace {

// Of one slice of a query row; and how many slices there are.
size_t query_bytes(const AttentionShape& shape, const Kernels& kernels) {
  return kernels.activation_bytes(query_operand(shape.kv, shape.operand), kQuerySlice);
}
size_t query_slices(const AttentionShape& shape) {
  return (shape.head_dim + kQuerySlice - 1) / kQuerySlice;
}

StateRanks::Sizes state_sizes(const AttentionShape& shape, size_t most_rows) {
  return {stripe_tokens(shape), shape.head_dim, shape.heads, most_rows};
}

}  // namespace

Attention::Scratch Attention::lay_out(const AttentionShape& shape, const Kernels& kernels,
                                      int threads, size_t most_rows, size_t most_context,
                                      std::byte* base) {
  Arena arena(base);
  Scratch s;
  s.q = arena.take<std::byte>(shape.heads * query_slices(shape) * most_rows *
                              query_bytes(shape, kernels));
  s.threads = arena.take<std::byte>(static_cast<size_t>(threads) *
                                    lay_out_thread(shape, most_context, nullptr).bytes);
  s.partial = arena.take<float>(shape.sp.count > 1 ? 0
                                                   : most_partial(threads) * kMostRows *
                                                         StateRanks::row_floats(shape.head_dim));
  s.bytes = arena.used();
  return s;
}

size_t Attention::scratch_bytes(const AttentionShape& shape, const Kernels& kernels, int threads,
                                size_t most_rows, size_t most_context) {
  return lay_out(shape, kernels, threads, most_rows, most_context, nullptr).bytes +
         StateRanks::rank_bytes(shape.sp, state_sizes(shape, most_rows));
}

Attention::Attention(const AttentionShape& shape, Runtime runtime, size_t most_rows,
                     size_t most_context)
    : shape_(shape),
      runtime_(runtime),
      q_bytes_(query_bytes(shape, runtime.kernels)),
      most_rows_(most_rows),
      most_context_(most_context),
      memory_(lay_out(shape, runtime.kernels, runtime.team.size(), most_rows, most_context, nullptr)
                  .bytes,
              "the scratch of attention"),
      scratch_(lay_out(shape, runtime.kernels, runtime.team.size(), most_rows, most_context,
                       memory_.data())),
      states_(runtime.ranks, state_sizes(shape, most_rows), scratch_.partial) {
  // At most a chunk for each sequence and each rank whose share begins within one.
  const size_t chunks = most_rows + shape.sp.count;
  const size_t parts = shape.sp.count > 1 ? states_.own_parts().size() : 1;
  const size_t tiles = most_rows * shape.kv_heads * least_tiles(shape.group);
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

Attention::Tile Attention::tile_of(const Task& task) const {
  Tile tile{};
  tile.queries = &queries_[task.queries];
  tile.kv_head = task.kv_head;
  tile.first = task.first;
  tile.rows = task.rows;
  const size_t group = shape_.group_of(task.kv_head);
  tile.q = query(task.kv_head, 0, tile.queries->row * group + tile.first);
  tile.q_slice_bytes = most_rows_ * group * q_bytes_;
  for (size_t r = 0; r < tile.rows; ++r)
    tile.sees[r] = sees(*tile.queries, (tile.first + r) / group);
  tile.most = tile.sees[tile.rows - 1];
  return tile;
}

void Attention::finish(const Tile& tile, SoftmaxState state, const Output& out) const {
  const Range heads = shape_.heads_of(tile.kv_head);
  const size_t group = heads.end - heads.begin;
  for (size_t r = 0; r < tile.rows; ++r) {
    const size_t row = tile.queries->row + (tile.first + r) / group - first_row_;
    const size_t head = heads.begin + (tile.first + r) % group;
    runtime_.kernels.finish(state, r, shape_.head_dim,
                            out.rows + row * out.stride + head * shape_.head_dim);
  }
}

std::byte* Attention::thread_scratch(const Worker& worker) const {
  const size_t bytes = lay_out_thread(shape_, most_context_, nullptr).bytes;
  return scratch_.threads + static_cast<size_t>(worker.index()) * bytes;
}

void Attention::attend(Worker& worker, size_t layer, const Output& out) {
  std::byte* scratch = thread_scratch(worker);
  TaskCounter& next_task = next_task_[layer % 2];
  if (worker.first()) {  // what the last layer used, and all threads have left
    next_task_[(layer + 1) % 2].reset();
    next_join_.reset();
  }
  if (shape_.type == AttentionType::STANDARD && states_.ranks() > 1)
    settle_maxima(worker, layer, scratch);
  for (size_t i = next_task.next(); i < tasks_.size(); i = next_task.next()) {
    if (shape_.type == AttentionType::STREAMING)
      stream(tasks_[i], layer, scratch, out);
    else
      standard(tasks_[i], layer, scratch, out);
    if (worker.first()) runtime_.ranks.progress();
  }
  if (!keeps_states_) return;
  worker.barrier();
  if (worker.first() && states_.ranks() > 1) states_.start();
}

void Attention::join(Worker& worker, const Output& out) {
  if (!keeps_states_) return;
  if (states_.ranks() > 1) {
    if (worker.first()) states_.finish();
    worker.barrier();
  }
  std::byte* scratch = thread_scratch(worker);
  for (size_t i = next_join_.next(); i < joins_.size(); i = next_join_.next())
    join_parts(joins_[i], scratch, out);
}

StateRanks::Place Attention::place_of(const Tile& tile) const {
  const size_t chunk = static_cast<size_t>(tile.queries - queries_.data());
  const size_t heads_before = shape_.heads_of(tile.kv_head).begin;
  return {chunk, heads_before * tile.queries->tokens + tile.first, tile.rows};
}

// All ranks' parts of a tile in tree order. The first one holds key 0, which every row sees.
void Attention::join_parts(const Task& task, std::byte* scratch, const Output& out) {
  const Tile tile = tile_of(task);
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
  StripeTree tree(lay_out_thread(shape_, most_context_, scratch).states, shape_.head_dim,
                  tile_rows(tile.rows));
  for (size_t i = 0; i < count; ++i) {
    states_.get(place, present[i].rank, present[i].index, tree.own());
    const auto level = static_cast<size_t>(std::countr_zero(length(present[i].stripes)));
    join(tree.close(present[i + 1].stripes.begin, level), tile.rows, merge);
  }
  finish(tile, tree.root(), out);
}

void Attention::join(const JoinChain& chain, size_t rows,
                     void (*merge)(SoftmaxState, SoftmaxState, size_t, size_t)) const {
  for (size_t i = 1; i < chain.count; ++i)
    merge(chain.earlier[i], chain.earlier[i - 1], rows, shape_.head_dim);
}

}  // namespace rill
