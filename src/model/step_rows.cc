// SPDX-License-Identifier: Apache-2.0
#include "model/step_rows.h"

#include <algorithm>

namespace rill {

StepRows::StepRows(size_t most_rows, RankOf sp, size_t block_size)
    : run_(stripe_length(block_size)), counts_(sp.count), wanted_counts_(sp.count) {
  all_.reserve(most_rows);
  tokens_.reserve(most_rows);
  keepers_.reserve(most_rows);
  wanted_.reserve(most_rows);
  queries_.reserve(most_rows);
  for (uint32_t rank = 0; rank < sp.count; ++rank)
    for (size_t i = share_of(kStripes, {rank, sp.count}).begin; i < kStripes; ++i)
      keeper_of_[i] = rank;
}

void StepRows::clear() {
  all_.clear();
  tokens_.clear();
  keepers_.clear();
  wanted_.clear();
  queries_.clear();
}

void StepRows::add(const StepTokens& step) {
  queries_.push_back({step.sequence, all_.size(), step.tokens.size(), step.position, true});
  for (size_t i = 0; i < step.tokens.size(); ++i) {
    if (i + step.logits >= step.tokens.size()) wanted_.push_back(all_.size());
    tokens_.push_back(step.tokens[i]);
    all_.push_back({step.position + i, step.sequence});
    keepers_.push_back(keeper_of_[tree_place((step.position + i) / run_)]);
  }
}

void StepRows::share_out(const RowShares& shares) {
  const Range own = shares.own();
  first_ = own.begin;
  own_ = std::span(all_).subspan(own.begin, length(own));
  own_tokens_ = std::span(tokens_).subspan(own.begin, length(own));
  const auto place = [&](size_t row) {
    return static_cast<size_t>(std::lower_bound(wanted_.begin(), wanted_.end(), row) -
                               wanted_.begin());
  };
  for (size_t rank = 0; rank < shares.me.count; ++rank) {
    const Range range = shares.of(rank);
    counts_[rank] = length(range);
    wanted_counts_[rank] = place(range.end) - place(range.begin);
  }
  first_wanted_ = place(own.begin);
  own_wanted_ = std::span(wanted_).subspan(first_wanted_, place(own.end) - first_wanted_);
}

}  // namespace rill
