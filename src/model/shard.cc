// SPDX-License-Identifier: Apache-2.0
#include "model/shard.h"

#include <algorithm>
#include <bit>
#include <numeric>

#include "model/stripe_tree.h"

namespace rill {

Shard::Shard(const ModelConfig& config, RankOf tp_place, RankOf sp_place)
    : tp(tp_place), sp(sp_place), leaves(share_of(kLeaves, tp)), stripes(share_of(kStripes, sp)) {
  const Range attended = LeafCut::of_o(config).columns_of(leaves);
  heads = {attended.begin / config.head_dim, attended.end / config.head_dim};
  const size_t group = config.num_heads / config.num_kv_heads;
  kv_heads = {heads.begin / group, heads.begin / group};
  if (heads.begin < heads.end) kv_heads.end = (heads.end - 1) / group + 1;
  columns = LeafCut::of_down(config).columns_of(leaves);
  const Range panels = share_of((config.vocab_size + kPanel - 1) / kPanel, tp);
  vocabulary = {std::min(panels.begin * kPanel, config.vocab_size),
                std::min(panels.end * kPanel, config.vocab_size)};
}

std::vector<Range> subtrees_of(Range run) {
  std::vector<Range> subtrees;
  for (size_t at = run.begin; at < run.end;) {
    // A subtree of 2^n leaves begins at a multiple of 2^n.
    size_t size = at == 0 ? std::bit_floor(run.end) : at & ~(at - 1);
    while (at + size > run.end) size /= 2;
    subtrees.push_back({at, at + size});
    at += size;
  }
  return subtrees;
}

LeafCut LeafCut::of_o(const ModelConfig& config) {
  return {config.num_heads * config.head_dim, std::lcm(config.head_dim, kDepthUnit)};
}

LeafCut LeafCut::of_down(const ModelConfig& config) {
  return {config.intermediate_size, kDepthUnit};
}

Range LeafCut::columns_of(Range leaves) const {
  const size_t units = (columns + unit - 1) / unit;
  return {std::min(leaves.begin * units / kLeaves * unit, columns),
          std::min(leaves.end * units / kLeaves * unit, columns)};
}

std::vector<Range> LeafCut::subtrees(Range leaves) const {
  std::vector<Range> live;
  for (const Range subtree : subtrees_of(leaves))
    if (length(columns_of(subtree)) > 0) live.push_back(subtree);
  return live;
}

}  // namespace rill
