// SPDX-License-Identifier: Apache-2.0
#include "model/state_ranks.h"

#include <algorithm>

#include "model/arena.h"
#include "model/stripe_tree.h"

namespace rill {
namespace {

StateTransport::Sizes transport_sizes(size_t ranks, const StateRanks::Sizes& sizes) {
  StateTransport::Sizes most{{}, {}, sizes.most_rows * sizes.heads};
  for (size_t rank = 0; rank < ranks; ++rank) {
    const size_t row = subtrees_of(share_of(kStripes, {rank, ranks})).size() * sizes.heads *
                       StateRanks::row_floats(sizes.head_dim);
    most.made.push_back(sizes.most_rows * row);
    most.joined.push_back(RowShares::most(sizes.most_rows, ranks) * row);
  }
  return most;
}

}  // namespace

StateRanks::StateRanks(const Ranks& ranks, const Sizes& sizes)
    : me_(ranks.sp_place()),
      stripe_tokens_(sizes.stripe_tokens),
      width_(round_up(sizes.head_dim, kPanel)),
      row_floats_(row_floats(sizes.head_dim)),
      step_{std::vector<Range>(me_.count), std::vector<Range>(me_.count), 0},
      transport_(StateTransport::make(ranks, transport_sizes(me_.count, sizes))) {
  for (size_t rank = 0; rank < me_.count; ++rank)
    parts_.push_back(subtrees_of(share_of(kStripes, {rank, me_.count})));
}

size_t StateRanks::rank_bytes(RankOf rank, const Sizes& sizes) {
  return StateTransport::bytes(transport_sizes(rank.count, sizes), rank.index);
}

size_t StateRanks::row_floats(size_t head_dim) {
  return 1 + kPanel + round_up(head_dim, kPanel);
}

void StateRanks::reserve(size_t chunks) {
  chunks_.reserve(chunks);
  first_.reserve(chunks);
  offsets_.reserve((chunks + 1) * me_.count);
}

bool StateRanks::present(Range part, size_t most) const {
  return stripe_at(part.begin) * stripe_tokens_ < most;
}

size_t StateRanks::live_parts(size_t rank, size_t most) const {
  size_t count = 0;
  for (const Range part : parts_[rank]) count += present(part, most) ? 1 : 0;
  return count;
}

// Those that begin within some rows, which follow one another.
Range StateRanks::chunks_of(Range rows) const {
  const auto before = [&](size_t row) {
    return static_cast<size_t>(
        std::partition_point(chunks_.begin(), chunks_.end(),
                             [&](const Chunk& chunk) { return chunk.first_row < row; }) -
        chunks_.begin());
  };
  return {before(rows.begin), before(rows.end)};
}

void StateRanks::plan(std::span<const Chunk> chunks, const RowShares& shares) {
  chunks_.assign(chunks.begin(), chunks.end());
  first_.clear();
  step_.maxima = 0;
  for (const Chunk& chunk : chunks_) {
    first_.push_back(step_.maxima);
    step_.maxima += chunk.rows;
  }
  offsets_.clear();
  for (size_t rank = 0; rank < me_.count; ++rank) {
    offsets_.push_back(0);
    for (const Chunk& chunk : chunks_)
      offsets_.push_back(offsets_.back() + live_parts(rank, chunk.most) * chunk.rows * row_floats_);
  }
  const auto made = [&](size_t rank, Range of) {
    const size_t* offsets = offsets_.data() + rank * (chunks_.size() + 1);
    return Range{offsets[of.begin], offsets[of.end]};
  };
  for (size_t rank = 0; rank < me_.count; ++rank) {
    step_.sent[rank] = made(me_.index, chunks_of(shares.of(rank)));
    step_.joined[rank] = made(rank, chunks_of(shares.own()));
  }
  transport_->plan(step_);
}

size_t StateRanks::floats_to(const Place& place, size_t rank, size_t part) const {
  const Chunk& chunk = chunks_[place.chunk];
  size_t before = 0;  // parts that have a place
  for (size_t i = 0; i < part; ++i) before += present(parts_[rank][i], chunk.most) ? 1 : 0;
  return offsets_[rank * (chunks_.size() + 1) + place.chunk] +
         (before * chunk.rows + place.first) * row_floats_;
}

void StateRanks::put(const Place& place, size_t part, SoftmaxState state) {
  float* to = transport_->own(floats_to(place, me_.index, part));
  for (size_t r = 0; r < place.rows; ++r, to += row_floats_) {
    to[0] = state.m[r];
    std::copy_n(state.l + r * kPanel, kPanel, to + 1);
    std::copy_n(state.o + r * width_, width_, to + 1 + kPanel);
  }
}

void StateRanks::get(const Place& place, size_t rank, size_t part, SoftmaxState state) const {
  const float* from = transport_->of(rank, floats_to(place, rank, part));
  for (size_t r = 0; r < place.rows; ++r, from += row_floats_) {
    state.m[r] = from[0];
    std::copy_n(from + 1, kPanel, state.l + r * kPanel);
    std::copy_n(from + 1 + kPanel, width_, state.o + r * width_);
  }
}

void StateRanks::put_maxima(const Place& place, const float* maxima) {
  std::copy_n(maxima, place.rows, transport_->own_maxima() + rows_to(place));
}

void StateRanks::get_maxima(const Place& place, float* maxima) const {
  for (size_t rank = 0; rank < me_.count; ++rank) {
    const float* theirs = transport_->maxima(rank) + rows_to(place);
    for (size_t r = 0; r < place.rows; ++r) maxima[r] = std::max(maxima[r], theirs[r]);
  }
}

}  // namespace rill
