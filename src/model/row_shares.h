// SPDX-License-Identifier: Apache-2.0
// Which rows of a step sequence-parallel ranks compute.
#pragma once
#include <algorithm>

#include "model/shard.h"

namespace rill {

/// The rows (tokens) of a step are dealt to ranks in runs of equal length. A few rows are bound by
/// reading weights: every rank has all of them then, and computes some columns of each product.
struct RowShares {
  size_t rows = 0;
  RankOf me = {};

  bool everyone() const { return rows <= most_of_everyone(me.count); }
  /// The rows of a rank.
  Range of(size_t rank) const {
    return everyone() ? Range{0, rows} : share_of(rows, {rank, me.count});
  }
  Range own() const { return of(me.index); }

  bool cuts_columns() const { return me.count > 1 && everyone(); }
  /// Of `count` columns or panels, cut between runs of `unit`, those that a rank computes.
  Range columns_of(size_t rank, size_t count, size_t unit) const {
    if (!cuts_columns()) return {0, count};
    const Range units = share_of((count + unit - 1) / unit, {rank, me.count});
    return {std::min(count, units.begin * unit), std::min(count, units.end * unit)};
  }
  Range own_columns(size_t count, size_t unit) const { return columns_of(me.index, count, unit); }

  /// The most rows of which everyone has all.
  static size_t most_of_everyone(size_t ranks) { return std::max(kMostRows, ranks); }
  /// The most rows that a rank has of a step of up to `rows` rows.
  static size_t most(size_t rows, size_t ranks) {
    return std::min(rows, std::max(most_of_everyone(ranks), (rows + ranks - 1) / ranks));
  }
};

}  // namespace rill
