// SPDX-License-Identifier: Apache-2.0
#include "model/arithmetic.h"

#include <gtest/gtest.h>

#include "model/test_folder.h"

namespace rill {
namespace {

TEST(Arithmetic, FollowsTheStoredType) {
  const Arithmetic bf16 = resolve_arithmetic({}, DType::BF16);
  EXPECT_EQ(bf16.weights, Format::BF16);
  EXPECT_EQ(bf16.linear, Operand::BF16);
  EXPECT_EQ(bf16.attention, Operand::BF16);
  EXPECT_EQ(bf16.kv, Format::BF16);
  EXPECT_EQ(describe(bf16), "weights bf16, compute bf16, kv bf16, attention streaming, block 64");
  EXPECT_EQ(describe(bf16, "both attentions"),
            "weights bf16, compute bf16, kv bf16, both attentions, block 64");
  for (const DType stored : {DType::F16, DType::F32}) {
    const Arithmetic a = resolve_arithmetic({}, stored);
    EXPECT_EQ(a.weights, stored == DType::F16 ? Format::F16 : Format::F32);
    EXPECT_EQ(a.linear, Operand::F32);
    EXPECT_EQ(a.kv, Format::F32);
  }
}

TEST(Arithmetic, QuantisedWeights) {
  const Arithmetic int4 = resolve_arithmetic({.weights = WeightType::INT4}, DType::F32);
  EXPECT_EQ(int4.weights, Format::INT4);
  EXPECT_EQ(int4.table, Format::INT8);
  EXPECT_EQ(int4.linear, Operand::Q8);
  EXPECT_EQ(int4.attention, Operand::BF16);
  const Arithmetic int8 =
      resolve_arithmetic({.weights = WeightType::INT8, .compute = ComputeType::F32}, DType::BF16);
  EXPECT_EQ(int8.linear, Operand::Q8);
  EXPECT_EQ(int8.attention, Operand::F32);
  EXPECT_EQ(int8.kv, Format::F32);
}

TEST(Arithmetic, Bf16ComputeHoldsWeightsAsBf16) {
  const Arithmetic a =
      resolve_arithmetic({.weights = WeightType::F16, .compute = ComputeType::BF16}, DType::F32);
  EXPECT_EQ(a.weights, Format::BF16);
  EXPECT_EQ(a.declared, WeightType::F16);
  EXPECT_EQ(a.linear, Operand::BF16);
  EXPECT_EQ(describe(a), "weights f16, compute bf16, kv bf16, attention streaming, block 64");
  EXPECT_FALSE(a == resolve_arithmetic({.compute = ComputeType::BF16}, DType::BF16));
}

TEST(Arithmetic, Bf16x32IsBf16InAnotherOrder) {
  const Arithmetic a =
      resolve_arithmetic({.weights = WeightType::F16, .compute = ComputeType::BF16X32}, DType::F32);
  EXPECT_EQ(a.weights, Format::BF16);
  EXPECT_EQ(a.linear, Operand::BF16X32);
  EXPECT_EQ(a.attention, Operand::BF16X32);
  EXPECT_EQ(describe(a), "weights f16, compute bf16x32, kv bf16, attention streaming, block 64");
  const Arithmetic int8 = resolve_arithmetic(
      {.weights = WeightType::INT8, .compute = ComputeType::BF16X32}, DType::BF16);
  EXPECT_EQ(int8.linear, Operand::Q8);
  EXPECT_EQ(int8.attention, Operand::BF16X32);
}

TEST(Arithmetic, RefusesWhatHasNoMeaning) {
  const auto resolve = [](const ArithmeticOptions& options) {
    return [options] { resolve_arithmetic(options, DType::BF16); };
  };
  expect_error(resolve({.kv = KvType::F16}), {"--kv", "f16", "--compute"});
  expect_error(resolve({.compute = ComputeType::BF16X32, .kv = KvType::F32}),
               {"--kv", "f32", "--compute bf16x32"});
  expect_error(resolve({.weights = WeightType::INT8, .kv = KvType::F32}), {"--kv", "f32"});
  for (const size_t block : {1, 8, 48, 2048})
    expect_error(resolve({.block_size = block}), {"--block-size", std::to_string(block)});
  expect_error([] { resolve_arithmetic({}, DType::F8_E4M3); }, {"F8_E4M3", "BF16"});
}

TEST(BlockSize, AutoGoesByTheCacheTheHeadAndTheContext) {
  constexpr size_t kCache = size_t{1} << 20;
  EXPECT_EQ(choose_block_size({128, 4096}, Format::BF16, kCache), 256u);
  EXPECT_EQ(choose_block_size({128, 4096}, Format::F32, kCache), 128u);
  EXPECT_EQ(choose_block_size({128, 4096}, Format::BF16, kCache / 2), 128u);
  EXPECT_EQ(choose_block_size({128, 512}, Format::BF16, kCache), 128u);
  EXPECT_EQ(choose_block_size({96, 4096}, Format::BF16, kCache), 256u) << "a power of two";
  EXPECT_EQ(choose_block_size({2, 1 << 20}, Format::BF16, kCache), 1024u);
  EXPECT_EQ(choose_block_size({65536, 4096}, Format::F32, kCache), 16u);
  EXPECT_EQ(choose_block_size({128, 1}, Format::BF16, 0), 16u);
}

TEST(BlockSize, AutoIsPrintedAndGivesTheSameWhenPassed) {
  const Arithmetic chosen =
      resolve_arithmetic({.block_size = kAutoBlockSize}, DType::BF16, {128, 100});
  EXPECT_EQ(chosen.block_size, 16u) << "a quarter of the context, whatever the machine";
  EXPECT_EQ(describe(chosen), "weights bf16, compute bf16, kv bf16, attention streaming, block 16");
  EXPECT_TRUE(chosen == resolve_arithmetic({.block_size = chosen.block_size}, DType::BF16));
}

TEST(Stripe, IsNeverNarrowerThanABlockOfTheCache) {
  EXPECT_EQ(resolve_arithmetic({.block_size = 16}, DType::BF16).stripe(), 64u);
  EXPECT_EQ(resolve_arithmetic({.block_size = 256}, DType::BF16).stripe(), 256u);
}

TEST(StoredType, IsTheTypeOfMostBytes) {
  EXPECT_EQ(stored_type(Checkpoint::open(golden_folder() / "odd-mha-f32")), DType::F32);
  EXPECT_EQ(stored_type(Checkpoint::open(golden_folder() / "wide-heads-sharded-f16")), DType::F16);
  EXPECT_EQ(stored_type(Checkpoint::open(golden_folder() / "tied-gqa-bf16")), DType::BF16);
}

}  // namespace
}  // namespace rill
