// SPDX-License-Identifier: Apache-2.0
// How a step is cut into tasks.
#include <algorithm>

#include "model/attention.h"
#include "model/attention_tile.h"

namespace rill {

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

// Tasks of up to `rows` folded rows.
void Attention::add_tasks(size_t chunk, size_t rows) {
  const AttentionQueries& queries = queries_[chunk];
  const bool streaming = shape_.type == AttentionType::STREAMING;
  const size_t parts = streaming ? states_.own_parts().size() : 1;
  for (size_t head = 0; head < shape_.kv_heads; ++head) {
    const size_t group = shape_.group_of(head), all = queries.tokens * group;
    for (size_t first = 0; first < all; first += rows) {
      Task task{};
      task.queries = static_cast<uint32_t>(chunk);
      task.kv_head = static_cast<uint32_t>(head);
      task.first = static_cast<uint32_t>(first);
      task.rows = static_cast<uint32_t>(std::min(rows, all - first));
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
  size_t tiles = 0, longest = 0, rows = kMostRows;
  for (const AttentionQueries& q : queries_) {
    for (size_t head = 0; head < shape_.kv_heads; ++head)
      tiles += least_tiles(q.tokens * shape_.group_of(head));
    longest = std::max(longest, sees(q, q.tokens - 1));
  }
  choose_parts(tiles, longest);
  keeps_states_ = states_.ranks() > 1 || states_.own_parts().size() > 1;
  if (shape_.type == AttentionType::STREAMING)
    while (2 * rows <= kMostQueries && tiles * kMostRows / (2 * rows) >= wanted) rows *= 2;
  if (keeps_states_) states_.plan(chunks_, shares);
  tasks_.clear();
  joins_.clear();
  for (size_t chunk = 0; chunk < queries_.size(); ++chunk) add_tasks(chunk, rows);
  // The longest first, so that the last ones to end are short. Which thread takes what, and when,
  // changes no bit.
  std::sort(tasks_.begin(), tasks_.end(),
            [](const Task& a, const Task& b) { return a.cost > b.cost; });
  for (TaskCounter& counter : next_task_) counter.reset();
  next_join_.reset();
}

}  // namespace rill
