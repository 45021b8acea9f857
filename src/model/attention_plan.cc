// SPDX-License-Identifier: Apache-2.0
#include "model/attention_plan.h"

#include <bit>
#include <functional>

#include "model/attention_tile.h"

namespace rill {
namespace {

// With so many tiles a thread, none waits long for the last.
constexpr size_t kEnoughTiles = 8;
// Pairs of a query and a key that a thread meets while others come to a barrier.
constexpr size_t kBarrierCost = 256;

// A pair of a query and a key in a streaming tile of so many rows, beside one in a tile of
// kMostRows: keys and values are widened and read for all of them at once. Seen with AVX-512, one
// thread and one head of 128, the rows of all tiles fixed; a guess for anything else. It decides
// how long a step takes, and no result.
double relative_time(size_t rows) {
  return rows == kMostRows ? 1 : rows == 2 * kMostRows ? 0.88 : rows == 4 * kMostRows ? 0.82 : 0.78;
}

}  // namespace

AttentionPlan::AttentionPlan(const AttentionShape& shape, const std::vector<Range>& parts,
                             const Limits& limits)
    : shape_(shape), parts_(parts), limits_(limits) {
  for (const Range part : parts_) own_stripes_ += length(part);
  tiles_.reserve(limits.tiles);
  shared_.reserve(most_slots(limits.threads));
  if (shape_.sp.count > 1) joins_.reserve(limits.tiles);
  tasks_.reserve(limits.tiles * parts_.size() + most_slots(limits.threads));
  loads_.reserve(limits.threads);
}

Range AttentionPlan::stripes_of(const AttentionTask& task) const {
  const Range part = parts_[task.part];
  const size_t stripes = length(part) / task.pieces;
  return {part.begin + task.piece * stripes, part.begin + (task.piece + 1) * stripes};
}

size_t AttentionPlan::keys_of(Range stripes, size_t most) const {
  return SubtreeKeys(stripes, stripe_tokens(shape_), most).count();
}

size_t AttentionPlan::score_bytes(size_t rows, Range stripes, size_t most) const {
  return attention_scratch_bytes(keys_of(stripes, most), rows);
}

// Keys that the last row sees.
size_t AttentionPlan::sees(const AttentionTask& tile) const {
  const size_t group = shape_.group_of(tile.kv_head);
  return queries_[tile.queries].sees((tile.first + tile.rows - 1) / group);
}

size_t AttentionPlan::score_bytes(const AttentionTask& tile) const {
  size_t bytes = 0;
  for (const Range part : parts_) bytes += score_bytes(tile.rows, part, sees(tile));
  return bytes;
}

size_t AttentionPlan::cost_from(size_t first) const {
  size_t cost = 0;
  for (size_t i = first; i < tiles_.size(); ++i) cost += tiles_[i].cost;
  return cost;
}

size_t AttentionPlan::scores_from(size_t first) const {
  size_t bytes = 0;
  for (size_t i = first; i < tiles_.size(); ++i) bytes += score_bytes(tiles_[i]);
  return bytes;
}

// Calls f(a tile) for all tiles of up to `rows` rows of some queries.
template <class F>
void AttentionPlan::each_tile(size_t chunk, size_t rows, const F& f) const {
  for (size_t head = 0; head < shape_.kv_heads; ++head) {
    const size_t all = queries_[chunk].tokens * shape_.group_of(head);
    for (size_t first = 0; first < all; first += rows) {
      AttentionTask tile{};
      tile.queries = static_cast<uint32_t>(chunk);
      tile.kv_head = static_cast<uint32_t>(head);
      tile.first = static_cast<uint32_t>(first);
      tile.rows = static_cast<uint32_t>(std::min(rows, all - first));
      tile.part = AttentionTask::kAllParts;
      tile.pieces = 1;
      f(tile);
    }
  }
}

void AttentionPlan::cut(std::span<const AttentionQueries> queries, Range own) {
  queries_ = queries;
  joins_.clear();
  if (shape_.sp.count > 1)
    for (size_t chunk = 0; chunk < queries.size(); ++chunk)
      if (in_range(own, queries[chunk].row))
        each_tile(chunk, kMostRows, [&](const AttentionTask& tile) { joins_.push_back(tile); });
  if (shape_.type == AttentionType::STANDARD) return cut_tiles(kMostRows);
  size_t most = 0;  // rows of a KV head
  for (const AttentionQueries& q : queries)
    for (size_t head = 0; head < shape_.kv_heads; ++head)
      most = std::max(most, q.tokens * shape_.group_of(head));
  // The largest that are needed, or smaller ones if the last thread ends sooner with them.
  size_t rows = std::min(kMostQueries, tile_rows(most)), best_rows = rows;
  double best = 0;
  for (;; rows /= 2) {
    cut_tiles(rows);
    // Not all threads are equally fast: where the first task to be begun is long, others wait more.
    const size_t end = tasks_.empty() ? 0 : makespan(tasks_) + tasks_.front().cost / 4;
    const double time = relative_time(rows) * static_cast<double>(end);
    if (best == 0 || time < best) {
      best = time;
      best_rows = rows;
    }
    if (rows == kMostRows || tiles_.size() >= kEnoughTiles * limits_.threads) break;
  }
  if (best_rows != rows) cut_tiles(best_rows);
}

// With tiles of up to so many rows.
void AttentionPlan::cut_tiles(size_t rows) {
  // Over ranks also the maxima of rows without a key on this one are asked for.
  const bool all = shape_.type == AttentionType::STANDARD && shape_.sp.count > 1;
  tiles_.clear();
  for (size_t chunk = 0; chunk < queries_.size(); ++chunk)
    each_tile(chunk, rows, [&](AttentionTask tile) {
      for (const Range part : parts_) tile.cost += tile.rows * keys_of(part, sees(tile));
      if (tile.cost > 0 || all) tiles_.push_back(tile);
    });
  const auto longer = [](const AttentionTask& a, const AttentionTask& b) {
    return a.cost > b.cost;
  };
  std::sort(tiles_.begin(), tiles_.end(), longer);
  choose_whole();
  // As many pieces as there is room for.
  for (double scale = 1; !add_tasks(scale); scale *= 1.25) {
  }
  if (shared_.empty() && parts_.size() == 1) return;  // tasks are tiles
  std::sort(tasks_.begin() + static_cast<ptrdiff_t>(whole_), tasks_.end(), longer);
}

// Until the last thread ends, if each takes the next task as it becomes free.
size_t AttentionPlan::makespan(std::span<const AttentionTask> tasks) {
  loads_.assign(limits_.threads, 0);
  for (const AttentionTask& task : tasks) {  // a heap whose first is the least
    std::pop_heap(loads_.begin(), loads_.end(), std::greater<>());
    loads_.back() += task.cost;
    std::push_heap(loads_.begin(), loads_.end(), std::greater<>());
  }
  return *std::max_element(loads_.begin(), loads_.end());
}

// Which tiles threads do one by one. In standard attention a tile that threads share keeps its
// scores from one barrier to the next, and those of all tiles are too many: so of a process by
// itself all tiles are shared, if they are few, or those that are left when each thread has done
// equally many, whichever ends first. Over ranks all wait for the maxima, and there is but the
// question whether scores can be kept.
void AttentionPlan::choose_whole() {
  const size_t count = tiles_.size(), threads = limits_.threads;
  const bool ranks = shape_.sp.count > 1;
  whole_ = 0;
  keeps_scores_ = false;
  if (shape_.type == AttentionType::STREAMING) return;
  keeps_scores_ = !ranks || scores_from(0) <= threads * limits_.score_bytes;
  if (ranks) return;
  whole_ = count;
  if (threads == 1 || count >= kEnoughTiles * threads) return;
  double best = time_of(count);
  for (const size_t whole : {count - count % threads, size_t{0}}) {
    if (scores_from(whole) > threads * limits_.score_bytes) continue;
    if (const double time = time_of(whole); time < best) {
      best = time;
      whole_ = whole;
    }
  }
}

// Until the last thread ends, if the first tiles are dealt out and the others are shared.
double AttentionPlan::time_of(size_t whole) {
  const size_t dealt = makespan(std::span(tiles_).first(whole));
  if (whole == tiles_.size()) return static_cast<double>(dealt);
  size_t piece = 0;  // a run of keys is not cut
  for (size_t i = whole; i < tiles_.size(); ++i)
    piece = std::max(piece, tiles_[i].rows * std::min(sees(tiles_[i]), stripe_tokens(shape_)));
  const size_t shared = std::max(piece, cost_from(whole) / limits_.threads);
  const size_t barriers = whole == 0 ? 1 : 2;
  // Shares are not quite equal.
  return static_cast<double>(dealt + shared + shared / 16 + barriers * kBarrierCost);
}

// Tiles are shared where they would take a thread longer than half of what is then left for each:
// so the last ones to be begun are short; but not into shorter pieces than an eighth of its whole
// work. `scale`: how many times longer. False if the pieces have no room for their states.
bool AttentionPlan::add_tasks(double scale) {
  tasks_.clear();
  shared_.clear();
  slots_ = states_ = scores_ = 0;
  for (size_t i = 0; i < whole_; ++i) tasks_.push_back(tiles_[i]);
  const size_t all = cost_from(whole_);
  const auto threads = static_cast<double>(limits_.threads);
  const bool standard = shape_.type == AttentionType::STANDARD, ranks = shape_.sp.count > 1;
  const bool shares = limits_.threads > 1 && !(standard && !keeps_scores_);
  size_t left = all;
  for (size_t i = whole_; i < tiles_.size(); ++i) {
    AttentionTask tile = tiles_[i];
    // When a thread begins this tile, others are at work on it; half of it stands for them.
    left -= tile.cost;
    const double after = static_cast<double>(left) + 0.5 * static_cast<double>(tile.cost);
    const double most =
        scale * std::max(after / (2 * threads), static_cast<double>(all) / (8 * threads));
    const size_t stripes = shares && tile.cost > 0 ? piece_stripes(tile, most) : kStripes;
    const bool cut = std::any_of(parts_.begin(), parts_.end(),
                                 [&](Range part) { return length(part) > stripes; });
    if (cut || (standard && !ranks)) {
      if (!add_pieces(tile, stripes)) return false;
    } else if (standard) {
      tile.scores = scores_;
      scores_ += score_bytes(tile);
      tasks_.push_back(tile);
    } else {
      for (tile.part = 0; tile.part < parts_.size(); ++tile.part) {
        tile.cost = tile.rows * keys_of(parts_[tile.part], sees(tile));
        if (tile.cost > 0) tasks_.push_back(tile);
      }
    }
  }
  return true;
}

// The most stripes of a piece; no fewer than have a key each.
size_t AttentionPlan::piece_stripes(const AttentionTask& tile, double most_cost) const {
  const double pieces = static_cast<double>(tile.cost) / most_cost;
  const double stripes = static_cast<double>(own_stripes_) / std::max(pieces, 1.0);
  const size_t runs = (sees(tile) + stripe_tokens(shape_) - 1) / stripe_tokens(shape_);
  const size_t least = kStripes / std::min(kStripes, std::bit_ceil(runs));
  return pieces <= 1 ? kStripes : std::max(least, std::bit_floor(static_cast<size_t>(stripes)));
}

bool AttentionPlan::add_pieces(AttentionTask tile, size_t stripes) {
  const size_t floats = state_floats(shape_.head_dim, tile.rows);
  tile.first_slot = slots_;
  tile.states = states_;
  tile.slots = 0;
  for (const Range part : parts_)
    tile.slots += static_cast<uint32_t>(std::max<size_t>(1, length(part) / stripes));
  slots_ += tile.slots;
  states_ += tile.slots * floats;
  if (slots_ > most_slots(limits_.threads) || states_ > limits_.state_floats) return false;
  shared_.push_back(tile);
  tile.part_slot = 0;
  for (tile.part = 0; tile.part < parts_.size(); ++tile.part) {
    tile.pieces = static_cast<uint32_t>(std::max<size_t>(1, length(parts_[tile.part]) / stripes));
    for (tile.piece = 0; tile.piece < tile.pieces; ++tile.piece) {
      const Range range = stripes_of(tile);
      tile.cost = tile.rows * keys_of(range, sees(tile));
      if (tile.cost == 0) continue;
      tile.scores = scores_;
      scores_ += score_bytes(tile.rows, range, sees(tile));
      tasks_.push_back(tile);
    }
    tile.part_slot += tile.pieces;
  }
  return true;
}

}  // namespace rill
