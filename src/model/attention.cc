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

AttentionPlan::Limits plan_limits(const AttentionShape& shape, size_t threads, size_t most_rows,
                                  size_t most_context) {
  return {threads, most_rows * shape.kv_heads * least_tiles(shape.group),
          partial_floats(shape, threads), thread_score_bytes(shape, most_context)};
}

}  // namespace

Attention::Scratch Attention::lay_out(const AttentionShape& shape, const Kernels& kernels,
                                      int threads, size_t most_rows, size_t most_context,
                                      std::byte* base) {
  Arena arena(base);
  Scratch s;
  s.q = arena.take<std::byte>(shape.heads * query_slices(shape) * most_rows *
                              query_bytes(shape, kernels));
  const auto count = static_cast<size_t>(threads);
  s.threads = arena.take<std::byte>(count * lay_out_thread(shape, nullptr).bytes);
  s.scores = arena.take<std::byte>(count * thread_score_bytes(shape, most_context));
  s.partial = arena.take<float>(partial_floats(shape, count));
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
      memory_(lay_out(shape, runtime.kernels, runtime.team.size(), most_rows, most_context, nullptr)
                  .bytes,
              "the scratch of attention"),
      scratch_(lay_out(shape, runtime.kernels, runtime.team.size(), most_rows, most_context,
                       memory_.data())),
      states_(runtime.ranks, state_sizes(shape, most_rows)),
      plan_(shape, states_.own_parts(),
            plan_limits(shape, static_cast<size_t>(runtime.team.size()), most_rows, most_context)),
      partial_(scratch_.partial, shape.head_dim,
               AttentionPlan::most_slots(static_cast<size_t>(runtime.team.size()))) {
  // At most a chunk for each sequence and each rank whose share begins within one.
  const size_t chunks = most_rows + shape.sp.count;
  queries_.reserve(chunks);
  chunks_.reserve(chunks);
  states_.reserve(chunks);
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
      chunks_.push_back({q.row + done, tokens * shape_.heads, queries_.back().sees(tokens - 1)});
    }
}

void Attention::plan(std::span<const AttentionQueries> queries, const RowShares& shares) {
  cut_queries(queries, shares);
  if (states_.ranks() > 1) states_.plan(chunks_, shares);
  plan_.cut(queries_, shares.own());
  if (shape_.type == AttentionType::STANDARD) forget_maxima();
  for (auto& counters : next_task_)
    for (TaskCounter& counter : counters) counter.reset();
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
    tile.sees[r] = tile.queries->sees((tile.first + r) / group);
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
  return scratch_.threads +
         static_cast<size_t>(worker.index()) * lay_out_thread(shape_, nullptr).bytes;
}

void Attention::attend(Worker& worker, size_t layer, const Output& out) {
  if (worker.first()) {  // what the last layer used, and all threads have left
    for (TaskCounter& counter : next_task_[(layer + 1) % 2]) counter.reset();
    next_join_.reset();
  }
  std::byte* scratch = thread_scratch(worker);
  if (shape_.type == AttentionType::STREAMING)
    deal(worker, layer, Phase::WHOLE, plan_.tasks(),
         [&](const Task& task) { stream(task, layer, scratch, out); });
  else
    standard(worker, layer, out);
  if (states_.ranks() == 1) return;
  worker.barrier();
  if (worker.first()) states_.start();
}

void Attention::join(Worker& worker, const Output& out) {
  if (states_.ranks() == 1) return;
  if (worker.first()) states_.finish();
  worker.barrier();
  std::byte* scratch = thread_scratch(worker);
  const std::vector<Task>& tiles = plan_.joins();
  for (size_t i = next_join_.next(); i < tiles.size(); i = next_join_.next())
    join_parts(tiles[i], scratch, out);
}

PartialStates::Subtree Attention::pieces_of(const Task& task) const {
  return {task.first_slot + task.part_slot,
          task.states + task.part_slot * state_floats(shape_.head_dim, task.rows), task.rows,
          task.pieces};
}

// The state of a task's rows and keys is ready: on its way to the others of its tile.
void Attention::bring(const Task& task, const Tile& tile, SoftmaxState state, const Output& out) {
  if (task.slots == 0) return deliver(tile, task.part, state, out);
  const PartialStates::Subtree pieces = pieces_of(task);
  const SoftmaxState mine = partial_.state(pieces, task.piece);
  // In standard attention all have the same maximum, and others may still look for it in this one.
  if (shape_.type == AttentionType::STREAMING) std::copy_n(state.m, task.rows, mine.m);
  std::copy_n(state.l, task.rows * kPanel, mine.l);
  std::copy_n(state.o, task.rows * round_up(shape_.head_dim, kPanel), mine.o);
  const Range part = states_.own_parts()[task.part];
  const size_t stripes = length(part) / task.pieces;
  const auto present = [&](size_t piece) {
    return states_.present({part.begin + piece * stripes, part.end}, tile.most);
  };
  if (partial_.bring(pieces, task.piece, present, merge()))
    deliver(tile, task.part, partial_.state(pieces, 0), out);
}

// The state of a tile and of a whole part is ready.
void Attention::deliver(const Tile& tile, size_t part, SoftmaxState state, const Output& out) {
  if (states_.ranks() > 1)
    states_.put(place_of(tile), part, state);
  else
    finish(tile, state, out);
}

Attention::Merge Attention::merge() const {
  return shape_.type == AttentionType::STREAMING ? runtime_.kernels.merge : runtime_.kernels.add;
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
  StripeTree tree(lay_out_thread(shape_, scratch).states, shape_.head_dim, tile_rows(tile.rows));
  for (size_t i = 0; i < count; ++i) {
    states_.get(place, present[i].rank, present[i].index, tree.own());
    const auto level = static_cast<size_t>(std::countr_zero(length(present[i].stripes)));
    join(tree.close(present[i + 1].stripes.begin, level), tile.rows);
  }
  finish(tile, tree.root(), out);
}

void Attention::join(const JoinChain& chain, size_t rows) const {
  for (size_t i = 1; i < chain.count; ++i)
    merge()(chain.earlier[i], chain.earlier[i - 1], rows, shape_.head_dim);
}

}  // namespace rill
