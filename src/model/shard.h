// SPDX-License-Identifier: Apache-2.0
// Which part of a model a rank has: functions of the sizes alone (docs/arithmetic.md, sections 8,
// 9 and 11).
#pragma once
#include <vector>

#include "base/team.h"
#include "kernels/kernels.h"
#include "model/config.h"
#include "model/ranks.h"

namespace rill {

/// The most largest whole subtrees that a tensor-parallel rank's run of leaves has.
constexpr size_t kMostSubtrees = 2;

struct Shard {
  RankOf tp, sp;
  Range leaves;      // of o_proj and down_proj
  Range heads;       // query heads, columns of o_proj; there may be none
  Range kv_heads;    // that `heads` read; ranks may share one
  Range columns;     // of the feed-forward layer; there may be none
  Range vocabulary;  // rows of the embedding and of the head: whole panels
  Range stripes;     // of the keys, counted in tree order

  explicit Shard(const ModelConfig& config, RankOf tp_place = {}, RankOf sp_place = {});
  Shard(const ModelConfig& config, const Ranks& ranks)
      : Shard(config, ranks.tp_place(), ranks.sp_place()) {}
};

constexpr size_t length(Range range) {
  return range.end - range.begin;
}

constexpr bool in_range(Range range, size_t i) {
  return range.begin <= i && i < range.end;
}

/// The index-th of `count` contiguous shares of n items.
constexpr Range share_of(size_t n, RankOf rank) {
  return {n * rank.index / rank.count, n * (rank.index + 1) / rank.count};
}

/// The largest whole subtrees that make up a run of a binary tree's leaves, in order.
std::vector<Range> subtrees_of(Range run);

/// How o_proj (or down_proj) is cut into leaves: its columns, in units that stay whole.
struct LeafCut {
  size_t columns, unit;

  static LeafCut of_o(const ModelConfig& config);
  static LeafCut of_down(const ModelConfig& config);
  /// The columns of some leaves.
  Range columns_of(Range leaves) const;
  /// The subtrees of a run of leaves that have any columns.
  std::vector<Range> subtrees(Range leaves) const;
};

}  // namespace rill
