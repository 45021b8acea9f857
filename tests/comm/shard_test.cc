// SPDX-License-Identifier: Apache-2.0
// What each rank has of a model, for every number of ranks and odd sizes.
#include "model/shard.h"

#include <gtest/gtest.h>

#include "base/error.h"
#include "comm/thread_ranks.h"
#include "model/stripe_tree.h"
#include "model/test_folder.h"

namespace rill {
namespace {

// Head counts, group sizes, widths and vocabularies of which some leave leaves or ranks empty.
std::vector<ModelConfig> odd_configs() {
  std::vector<ModelConfig> configs;
  for (const size_t kv_heads : {1, 2, 3, 5, 8})
    for (const size_t group : {1, 2, 3, 5})
      for (const size_t head_dim : {10, 16, 24, 64, 128})
        for (const size_t width : {1, 33, 100, 192, 3072}) {
          ModelConfig config;
          config.num_kv_heads = kv_heads;
          config.num_heads = kv_heads * group;
          config.head_dim = head_dim;
          config.intermediate_size = width;
          config.vocab_size = width + 7;
          configs.push_back(config);
        }
  return configs;
}

// `next` follows `last` without a gap; returns next.end.
size_t follow(size_t last, Range next) {
  EXPECT_EQ(last, next.begin);
  EXPECT_LE(next.begin, next.end);
  return next.end;
}

TEST(Shard, PartsMakeTheWhole) {
  for (const ModelConfig& c : odd_configs())
    for (size_t tp = 1; tp <= kLeaves; ++tp) {
      size_t leaves = 0, heads = 0, columns = 0, vocabulary = 0;
      for (size_t rank = 0; rank < tp; ++rank) {
        const Shard shard(c, {rank, tp});
        leaves = follow(leaves, shard.leaves);
        heads = follow(heads, shard.heads);
        columns = follow(columns, shard.columns);
        vocabulary = follow(vocabulary, shard.vocabulary);
        EXPECT_LE(subtrees_of(shard.leaves).size(), kMostSubtrees);
        EXPECT_EQ(shard.columns.begin % kDepthUnit * length(shard.columns), 0u);
        EXPECT_EQ(shard.heads.begin * c.head_dim % kDepthUnit * length(shard.heads), 0u);
        EXPECT_EQ(shard.vocabulary.begin % kPanel * length(shard.vocabulary), 0u);
        EXPECT_EQ(length(shard.stripes), kStripes);
        const size_t group = c.num_heads / c.num_kv_heads;
        EXPECT_EQ(length(shard.kv_heads) == 0, length(shard.heads) == 0);
        if (length(shard.heads) == 0) continue;
        EXPECT_EQ(shard.kv_heads.begin, shard.heads.begin / group);
        EXPECT_EQ(shard.kv_heads.end, (shard.heads.end - 1) / group + 1);
      }
      EXPECT_EQ(leaves, kLeaves);
      EXPECT_EQ(heads, c.num_heads);
      EXPECT_EQ(columns, c.intermediate_size);
      EXPECT_EQ(vocabulary, c.vocab_size);
    }
}

TEST(Shard, StripesMakeTheWhole) {
  const ModelConfig config = odd_configs().front();
  for (size_t sp = 1; sp <= kStripes; ++sp) {
    size_t stripes = 0;
    for (size_t rank = 0; rank < sp; ++rank) {
      stripes = follow(stripes, Shard(config, {}, {rank, sp}).stripes);
      EXPECT_GT(length(Shard(config, {}, {rank, sp}).stripes), 0u);
    }
    EXPECT_EQ(stripes, kStripes);
  }
}

TEST(Shard, SubtreesAreTheLargest) {
  for (size_t begin = 0; begin <= 64; ++begin)
    for (size_t end = begin; end <= 64; ++end) {
      size_t at = begin;
      const std::vector<Range> subtrees = subtrees_of({begin, end});
      for (size_t i = 0; i < subtrees.size(); ++i) {
        at = follow(at, subtrees[i]);
        const size_t size = length(subtrees[i]);
        EXPECT_EQ(size & (size - 1), 0u);
        EXPECT_EQ(subtrees[i].begin % size, 0u);
        // Twice the size would begin earlier, end later, or not be a subtree.
        const bool twice =
            subtrees[i].begin % (2 * size) == 0 && subtrees[i].begin + 2 * size <= end;
        EXPECT_FALSE(twice) << begin << " " << end;
      }
      EXPECT_EQ(at, end);
    }
}

TEST(Shard, ShapesThatDoNotExistAreRefused) {
  const auto shape = [](int count, int tp, int sp) {
    run_ranks(count, [&](Communicator& world) { Ranks ranks(world, tp, sp); });
  };
  shape(6, 3, 2);
  expect_error([&] { shape(6, 4, 2); }, {"--tp 4 --sp 2", "8 ranks where 6 run", "--tp 3 --sp 2"});
  expect_error([&] { shape(9, 9, 1); }, {"--tp 1 --sp 9", "--tp 3 --sp 3"});
  expect_error([&] { shape(2, 0, 2); }, {"--tp 2 --sp 1"});
  expect_error([&] { shape(67, 1, 67); }, {"start 66 and take --tp 2 --sp 33, --tp 3 --sp 22"});
}

}  // namespace
}  // namespace rill
