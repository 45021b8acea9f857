// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cstring>
#include <vector>

#include "base/error.h"
#include "engine/bench_fill.h"

namespace rill {
namespace {

ModelConfig small_config() {
  ModelConfig config;
  config.num_layers = 3;
  config.num_heads = 4;
  config.num_kv_heads = 2;
  config.head_dim = 32;
  return config;
}

/// The blocks of 150 tokens that were filled in the steps of `parts`.
std::vector<std::byte> filled(Format format, const std::vector<size_t>& parts, int threads) {
  const ModelConfig config = small_config();
  KvCache cache(config, format, 192);
  KvSequence sequence(cache);
  Team team(threads);
  for (size_t part : parts) fill_random(sequence, part, 7, {choose_kernels(), team});
  EXPECT_EQ(sequence.length(), 150u);
  const size_t bytes = KvCache::block_bytes(config, format);
  std::vector<std::byte> blocks;
  for (const uint32_t block : sequence.blocks())
    blocks.insert(blocks.end(), cache.k(block, 0, 0), cache.k(block, 0, 0) + bytes);
  return blocks;
}

TEST(FillRandom, TheSameWhateverTheThreadsAndTheSteps) {
  for (Format format : {Format::F32, Format::F16, Format::BF16, Format::INT8}) {
    const std::vector<std::byte> once = filled(format, {150}, 1);
    EXPECT_EQ(filled(format, {150}, 3), once);
    EXPECT_EQ(filled(format, {1, 63, 70, 16}, 2), once);
    const std::vector<std::byte> zeros(once.size());
    EXPECT_NE(once, zeros);
  }
}

TEST(FillRandom, ValuesHaveMeanZeroAndVarianceOne) {
  std::vector<float> values(100001);
  random_values(3, values.size(), values.data());
  double sum = 0, squares = 0;
  for (float value : values) {
    sum += value;
    squares += value * value;
  }
  const auto count = static_cast<double>(values.size());
  EXPECT_NEAR(sum / count, 0, 0.02);  // six standard errors
  EXPECT_NEAR(squares / count, 1, 0.02);
  std::vector<float> other(values.size());
  random_values(4, other.size(), other.data());
  EXPECT_NE(std::memcmp(values.data(), other.data(), 16), 0);
}

TEST(FillRandom, RefusesMoreThanTheCacheHolds) {
  const ModelConfig config = small_config();
  KvCache cache(config, Format::BF16, 64);
  KvSequence sequence(cache);
  Team team(1);
  EXPECT_THROW(fill_random(sequence, 65, 1, {choose_kernels(), team}), Error);
  EXPECT_EQ(sequence.length(), 0u);
}

}  // namespace
}  // namespace rill
