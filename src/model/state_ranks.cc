// SPDX-License-Identifier: Apache-2.0
#include "model/state_ranks.h"

#include <algorithm>

#include "model/arena.h"
#include "model/stripe_tree.h"

namespace rill {

StateRanks::StateRanks(const Ranks& ranks, size_t stripe_tokens, size_t head_dim)
    : ranks_(ranks.sp()),
      me_(ranks.sp_place()),
      stripe_tokens_(stripe_tokens),
      width_(round_up(head_dim, kPanel)),
      row_floats_(row_floats(head_dim)) {
  for (size_t rank = 0; rank < me_.count; ++rank)
    parts_.push_back(subtrees_of(share_of(kStripes, {rank, me_.count})));
  parts_[me_.index].reserve(kStripes);
  out_.reserve(me_.count);
  in_.reserve(me_.count);
}

size_t StateRanks::row_floats(size_t head_dim) {
  return 1 + kPanel + round_up(head_dim, kPanel);
}

// This rank's parts of all rows, and everyone's parts of its own rows.
size_t StateRanks::rank_floats(RankOf rank, size_t most_rows, size_t heads, size_t head_dim) {
  if (rank.count == 1) return 0;
  size_t parts = 0;
  for (size_t i = 0; i < rank.count; ++i)
    parts += subtrees_of(share_of(kStripes, {i, rank.count})).size();
  const size_t own = subtrees_of(share_of(kStripes, rank)).size();
  const size_t states = most_rows * own + RowShares::most(most_rows, rank.count) * parts;
  return states * heads * row_floats(head_dim) + rank.count * most_rows * heads;
}

void StateRanks::reserve(size_t chunks) {
  chunks_.reserve(chunks);
  first_.reserve(chunks);
  offsets_.reserve((chunks + 1) * me_.count);
  bytes_.reserve(me_.count);
}

void StateRanks::set_own_parts(const std::vector<Range>& parts) {
  parts_[me_.index].assign(parts.begin(), parts.end());
}

bool StateRanks::present(Range part, size_t most) const {
  return stripe_at(part.begin) * stripe_tokens_ < most;
}

size_t StateRanks::live_parts(size_t rank, size_t most) const {
  size_t count = 0;
  for (const Range part : parts_[rank]) count += present(part, most) ? 1 : 0;
  return count;
}

// Of this rank's own parts every chunk has a place, of others' parts this rank's chunks.
void StateRanks::plan(std::span<const Chunk> chunks, const RowShares& shares, float* memory) {
  chunks_.assign(chunks.begin(), chunks.end());
  shares_ = shares;
  memory_ = memory;
  offsets_.clear();
  first_.clear();
  all_rows_ = 0;
  for (const Chunk& chunk : chunks_) {
    first_.push_back(all_rows_);
    all_rows_ += chunk.rows;
  }
  size_t at = 0;
  for (size_t rank = 0; rank < me_.count; ++rank) {
    for (const Chunk& chunk : chunks_) {
      offsets_.push_back(at);
      if (rank == me_.index || in_range(shares.own(), chunk.first_row))
        at += live_parts(rank, chunk.most) * chunk.rows * row_floats_;
    }
    offsets_.push_back(at);
  }
  maxima_ = memory + at;
}

float* StateRanks::at(const Place& place, size_t rank, size_t part) const {
  const Chunk& chunk = chunks_[place.chunk];
  size_t before = 0;  // parts that have a place
  for (size_t i = 0; i < part; ++i) before += present(parts_[rank][i], chunk.most) ? 1 : 0;
  return memory_ + offsets_[rank * (chunks_.size() + 1) + place.chunk] +
         (before * chunk.rows + place.first) * row_floats_;
}

void StateRanks::put(const Place& place, size_t part, SoftmaxState state) {
  float* to = at(place, me_.index, part);
  for (size_t r = 0; r < place.rows; ++r, to += row_floats_) {
    to[0] = state.m[r];
    std::copy_n(state.l + r * kPanel, kPanel, to + 1);
    std::copy_n(state.o + r * width_, width_, to + 1 + kPanel);
  }
}

void StateRanks::get(const Place& place, size_t rank, size_t part, SoftmaxState state) const {
  const float* from = at(place, rank, part);
  for (size_t r = 0; r < place.rows; ++r, from += row_floats_) {
    state.m[r] = from[0];
    std::copy_n(from + 1, kPanel, state.l + r * kPanel);
    std::copy_n(from + 1 + kPanel, width_, state.o + r * width_);
  }
}

void StateRanks::start() {
  out_.clear();
  in_.clear();
  const size_t stride = chunks_.size() + 1;
  for (size_t rank = 0; rank < me_.count; ++rank) {
    if (rank == me_.index) continue;
    // The other's chunks, which follow one another.
    size_t first = 0;
    while (first < chunks_.size() && !in_range(shares_.of(rank), chunks_[first].first_row)) ++first;
    size_t last = first;
    while (last < chunks_.size() && in_range(shares_.of(rank), chunks_[last].first_row)) ++last;
    const size_t* mine = offsets_.data() + me_.index * stride;
    const size_t* theirs = offsets_.data() + rank * stride;
    out_.push_back({static_cast<int>(rank),
                    std::as_bytes(std::span(memory_ + mine[first], mine[last] - mine[first]))});
    in_.push_back(
        {static_cast<int>(rank), std::as_writable_bytes(std::span(
                                     memory_ + theirs[0], theirs[chunks_.size()] - theirs[0]))});
  }
  started_ = ranks_.start(out_, in_);
}

float* StateRanks::maxima_at(const Place& place, size_t rank) const {
  return maxima_ + rank * all_rows_ + first_[place.chunk] + place.first;
}

void StateRanks::put_maxima(const Place& place, const float* maxima) {
  std::copy_n(maxima, place.rows, maxima_at(place, me_.index));
}

void StateRanks::share_maxima() {
  bytes_.assign(me_.count, all_rows_ * sizeof(float));
  ranks_.all_gather(reinterpret_cast<std::byte*>(maxima_), bytes_);
}

void StateRanks::get_maxima(const Place& place, float* maxima) const {
  for (size_t rank = 0; rank < me_.count; ++rank)
    for (size_t r = 0; r < place.rows; ++r)
      maxima[r] = std::max(maxima[r], maxima_at(place, rank)[r]);
}

}  // namespace rill
