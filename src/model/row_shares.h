// SPDX-License-Identifier: Apache-2.0
// Which rows of a step sequence-parallel ranks compute.
#pragma once
#include <algorithm>
#include <cstdint>

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

/// The most pieces in which a step goes through the layers.
constexpr size_t kMostPieces = 2;

/// Where messages leave the machine a step of many rows goes through the layers in two pieces: one
/// computes while what the other needs travels. Of fewer rows a rank would read all weights twice
/// for too few in each.
struct StepPieces {
  bool several;  // on_several_machines
  size_t sp;     // ranks that rows are dealt to

  /// Rows of the first piece; the second has the others.
  size_t first(size_t rows) const { return rows < least() ? rows : (rows + 1) / 2; }
  /// How many of a sequence's rows, and of the last `logits` of them whose logits are wanted, go
  /// into the first piece where it has room for so many.
  struct Cut {
    size_t rows, logits;
  };
  static Cut cut(size_t room, size_t rows, size_t logits) {
    const size_t here = std::min(room, rows);
    return {here, logits - std::min(logits, rows - here)};
  }
  /// The most rows of the index-th piece of a step of up to `most`.
  size_t most(size_t most, size_t index) const {
    if (most < least()) return index == 0 ? most : 0;
    return index == 0 ? std::max(least() - 1, (most + 1) / 2) : most / 2;
  }

 private:
  static constexpr size_t kLeastRows = 64;  // of a rank in a piece
  size_t least() const { return several ? 2 * kLeastRows * sp : SIZE_MAX; }
};

}  // namespace rill
