// SPDX-License-Identifier: Apache-2.0
// Which rows of a step sequence-parallel ranks compute.
#pragma once
#include <algorithm>

#include "model/shard.h"

namespace rill {

/// The rows (tokens) of a step are dealt to ranks in runs of equal length. A few rows, which are
/// bound by reading weights, are computed by every rank: that takes no longer, and nothing but
/// attention's states has to travel.
struct RowShares {
  size_t rows = 0;
  RankOf me = {};

  bool everyone() const { return rows <= std::max(kMostRows, me.count); }
  /// The rows of a rank.
  Range of(size_t rank) const {
    return everyone() ? Range{0, rows} : share_of(rows, {rank, me.count});
  }
  Range own() const { return of(me.index); }
  /// The most rows that a rank has of a step of up to `rows` rows.
  static size_t most(size_t rows, size_t ranks) {
    return std::min(rows, std::max({kMostRows, ranks, (rows + ranks - 1) / ranks}));
  }
};

}  // namespace rill
