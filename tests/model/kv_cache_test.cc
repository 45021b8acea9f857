// SPDX-License-Identifier: Apache-2.0
#include "model/kv_cache.h"

#include <gtest/gtest.h>

#include <cstring>
#include <set>

#include "base/half.h"
#include "model/test_folder.h"

namespace rill {
namespace {

ModelConfig small_config() {
  ModelConfig config;
  config.num_layers = 3;
  config.num_kv_heads = 2;
  config.head_dim = 20;
  return config;
}

TEST(KvCache, HoldsWhatItWasAskedFor) {
  const ModelConfig config = small_config();
  EXPECT_EQ(KvCache(config, Format::BF16, 64).blocks(), 1u);
  EXPECT_EQ(KvCache(config, Format::BF16, 65).blocks(), 2u);
  // 3 layers, 2 heads, K of 64 x 20 and V of 64 x 32 (whole panels).
  EXPECT_EQ(KvCache::block_bytes(config, Format::BF16), 3u * 2 * 64 * (20 + 32) * 2);
  EXPECT_EQ(KvCache::bytes(config, Format::F32, 65, 1), 2 * 3u * 2 * 64 * (20 + 32) * 4);
  // Any share of 130 tokens among 4 sequences fits.
  KvCache cache(config, Format::BF16, 130, 4);
  std::vector<KvSequence> sequences;
  for (const size_t tokens : {1, 1, 63, 65}) {
    sequences.emplace_back(cache);
    sequences.back().extend(tokens);
  }
  EXPECT_EQ(cache.free_blocks(), cache.blocks() - 5);
}

TEST(KvCache, RefusesWhatCannotBe) {
  ModelConfig config = small_config();
  expect_error([&] { KvCache::bytes(config, Format::F32, SIZE_MAX / 2, 1); }, {"--ctx"});
}

TEST(KvSequence, GrowsWholeOrNotAtAll) {
  KvCache cache(small_config(), Format::BF16, 128);
  KvSequence sequence(cache);
  sequence.extend(60);
  EXPECT_EQ(sequence.blocks_for(4), 0u);
  EXPECT_EQ(sequence.blocks_for(5), 1u);
  expect_error([&] { sequence.extend(69); }, {"64", "69", "--ctx"});
  EXPECT_EQ(sequence.length(), 60u);
  EXPECT_EQ(cache.free_blocks(), 1u);
  sequence.extend(68);
  EXPECT_EQ(cache.free_blocks(), 0u);
  EXPECT_THROW(cache.allocate(), Error);
  sequence.truncate(64);
  EXPECT_EQ(sequence.blocks().size(), 1u);
  sequence.truncate(100);  // nothing to forget
  EXPECT_EQ(sequence.length(), 64u);
}

TEST(KvSequence, GivesItsBlocksBack) {
  KvCache cache(small_config(), Format::BF16, 256);
  {
    KvSequence a(cache);
    a.extend(100);
    KvSequence b(std::move(a));
    EXPECT_EQ(b.length(), 100u);
    EXPECT_EQ(a.length(), 0u);
    KvSequence c(cache);
    c.extend(10);
    c = std::move(b);
    EXPECT_EQ(c.length(), 100u);
    EXPECT_EQ(cache.free_blocks(), 2u);
  }
  EXPECT_EQ(cache.free_blocks(), 4u);
}

TEST(KvCache, HeadsOfNeighbouringBlocksLieSideBySide) {
  KvCache cache(small_config(), Format::BF16, 6 * kBlockTokens);
  const auto bytes = static_cast<ptrdiff_t>(KvCache::block_bytes(small_config(), Format::BF16) / 6);
  EXPECT_EQ(cache.k(1, 2, 1) - cache.k(0, 2, 1), bytes);
  EXPECT_EQ(cache.k(5, 0, 1) - cache.k(4, 0, 1), bytes);
  // All of them have a place of their own, in the memory of six blocks.
  std::set<const std::byte*> places;
  for (uint32_t block = 0; block < 6; ++block)
    for (size_t head = 0; head < 6; ++head) places.insert(cache.k(block, head / 2, head % 2));
  EXPECT_EQ(places.size(), 36u);
  EXPECT_EQ(*places.rbegin() - *places.begin(), 35 * bytes);
}

class KvFormats : public testing::TestWithParam<Format> {
 protected:
  static constexpr size_t kHeadDim = 20;
  ModelConfig config_ = small_config();

  // Of K (64 wide) the columns are tokens, of V dimensions.
  static float int8_at(const std::byte* rows, size_t width, size_t column, size_t k) {
    if (width == kBlockTokens) {
      const std::byte* panel = rows + (k / 32 * 4 + column / 16) * 544;
      uint16_t scale;
      std::memcpy(&scale, panel + column % 16 * 2, 2);
      const auto code = std::to_integer<int>(panel[32 + k % 32 / 4 * 64 + column % 16 * 4 + k % 4]);
      return f16_to_float(scale) * static_cast<float>(code - 128);
    }
    float scale;
    std::memcpy(&scale, rows + kBlockTokens * width + k * 4, 4);
    const std::byte code = rows[(k / 32 * (width / 16) + column / 16) * 512 + k % 32 / 4 * 64 +
                                column % 16 * 4 + k % 4];
    return scale * static_cast<float>(static_cast<int8_t>(code));
  }

  // What the kernels' contract says stands in column `column` of row k; rows are `width` wide.
  float at(const std::byte* rows, size_t width, size_t column, size_t k) const {
    const auto* halves = reinterpret_cast<const uint16_t*>(rows);
    if (GetParam() == Format::INT8) return int8_at(rows, width, column, k);
    if (GetParam() == Format::F32) return reinterpret_cast<const float*>(rows)[k * width + column];
    if (GetParam() == Format::F16) return f16_to_float(halves[k * width + column]);
    return bf16_to_float(halves[(k / 2 * width + column) * 2 + k % 2]);
  }
};

TEST_P(KvFormats, StoresWhatKernelsRead) {
  KvCache cache(config_, GetParam(), 64);
  const uint32_t block = cache.allocate();
  const Kernels& kernels = choose_kernels();
  std::vector<float> values(kHeadDim);
  for (size_t slot = 0; slot < kBlockTokens; ++slot) {
    for (size_t d = 0; d < kHeadDim; ++d)
      values[d] = static_cast<float>(slot) + 0.03125f * static_cast<float>(d / 4);
    kernels.store_k(GetParam(), values.data(), kHeadDim, slot, cache.k(block, 2, 1));
    for (float& x : values) x = -x;
    kernels.store_v(GetParam(), values.data(), kHeadDim, slot, cache.v(block, 2, 1));
  }
  const auto rounded = [](float x) {
    return GetParam() == Format::BF16 ? bf16_to_float(float_to_bf16(x)) : x;
  };
  for (size_t slot = 0; slot < kBlockTokens; ++slot)
    for (size_t d = 0; d < kHeadDim; ++d) {
      const float x = rounded(static_cast<float>(slot) + 0.03125f * static_cast<float>(d / 4));
      // Half a step of 1/127 of the largest value, and the rounding of its scale to f16.
      const float off = GetParam() == Format::INT8 ? x * (0.5f / 127 + 0x1p-11f) + 1e-3f : 0.0f;
      EXPECT_NEAR(at(cache.k(block, 2, 1), kBlockTokens, slot, d), x, off);
      EXPECT_NEAR(at(cache.v(block, 2, 1), 32, d, slot), -x, off);
    }
  // Its neighbours were not touched.
  const size_t head_bytes = KvCache::block_bytes(config_, GetParam()) / 6;
  for (size_t i = 0; i < 5 * head_bytes; ++i) ASSERT_EQ(cache.k(block, 0, 0)[i], std::byte{0});
}

TEST_P(KvFormats, BlocksComeZeroed) {
  KvCache cache(config_, GetParam(), 64);
  const size_t bytes = KvCache::block_bytes(config_, GetParam());
  const uint32_t block = cache.allocate();
  std::memset(cache.k(block, 0, 0), 0xff, bytes);
  cache.free(block);
  EXPECT_EQ(cache.allocate(), block);
  for (size_t i = 0; i < bytes; ++i) ASSERT_EQ(cache.k(block, 0, 0)[i], std::byte{0});
}

TEST_P(KvFormats, TruncatingClearsTheRestOfABlock) {
  KvCache cache(config_, GetParam(), 64);
  KvSequence sequence(cache);
  sequence.extend(64);
  const uint32_t block = sequence.blocks()[0];
  std::memset(cache.k(block, 0, 0), 0xff, KvCache::block_bytes(config_, GetParam()));
  sequence.truncate(37);
  for (size_t layer = 0; layer < 3; ++layer)
    for (size_t head = 0; head < 2; ++head)
      for (size_t slot = 0; slot < kBlockTokens; ++slot)
        for (size_t d = 0; d < kHeadDim; ++d) {
          const float k = at(cache.k(block, layer, head), kBlockTokens, slot, d);
          const float v = at(cache.v(block, layer, head), 32, d, slot);
          ASSERT_EQ(slot >= 37, k == 0);
          ASSERT_EQ(slot >= 37, v == 0);
        }
}

std::string format_name(const testing::TestParamInfo<Format>& test) {
  return test.param == Format::F32    ? "f32"
         : test.param == Format::F16  ? "f16"
         : test.param == Format::BF16 ? "bf16"
                                      : "int8";
}
INSTANTIATE_TEST_SUITE_P(All, KvFormats,
                         testing::Values(Format::F32, Format::F16, Format::BF16, Format::INT8),
                         format_name);

}  // namespace
}  // namespace rill
