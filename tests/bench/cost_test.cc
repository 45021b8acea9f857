// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include "base/team.h"
#include "engine/bench_cost.h"
#include "model/weights.h"

namespace rill {
namespace {

Arithmetic arithmetic_of(WeightType weights, ComputeType compute = ComputeType::AUTO) {
  ArithmeticOptions options;
  options.weights = weights;
  options.compute = compute;
  return resolve_arithmetic(options, DType::BF16);
}

// 28 layers of (4096 + 2048 + 3 * 3072) x 1024 weights, and a head of 151936 x 1024.
constexpr double kLayerWeights = 28.0 * 1024 * (4096 + 2048 + 3 * 3072);
constexpr double kHeadWeights = 151936.0 * 1024;

Work step(CostModel cost, StepShare share) {
  cost.add_share(share);
  cost.end_step();
  return cost.total();
}

TEST(CostModel, CountsDecodeOfTheSmallestQwen3ByHand) {
  const ModelConfig config = published_model("qwen3-0.6b").config();
  const CostModel bf16(config, arithmetic_of(WeightType::BF16), "avx512bf16");
  const Work first = step(bf16, {0, 1, 1}), later = step(bf16, {99, 1, 1});
  const double kv_bytes = 28 * 2 * 8 * 128 * 2, attention_flops = 28 * 4 * 16 * 128;
  EXPECT_DOUBLE_EQ(first.bytes, 2 * (kLayerWeights + kHeadWeights) + kv_bytes);
  EXPECT_DOUBLE_EQ(first.flops, 2 * (kLayerWeights + kHeadWeights) + attention_flops);
  EXPECT_DOUBLE_EQ(later.bytes - first.bytes, 99 * kv_bytes);
  EXPECT_DOUBLE_EQ(later.flops - first.flops, 99 * attention_flops);
  // A block of 32 weights is 34 bytes of int8, 18 of int4; under int4 the head is int8.
  const Work int8 = step(CostModel(config, arithmetic_of(WeightType::INT8), "avx2"), {0, 1, 1});
  EXPECT_DOUBLE_EQ(int8.bytes, (kLayerWeights + kHeadWeights) / 32 * 34 + kv_bytes);
  const Work int4 = step(CostModel(config, arithmetic_of(WeightType::INT4), "avx2"), {0, 1, 1});
  EXPECT_DOUBLE_EQ(int4.bytes, kLayerWeights / 32 * 18 + kHeadWeights / 32 * 34 + kv_bytes);
}

TEST(CostModel, CountsPrefillAndOnlyTheLogitsWanted) {
  const ModelConfig config = published_model("qwen3-0.6b").config();
  const CostModel cost(config, arithmetic_of(WeightType::BF16), "avx512bf16");
  const double attention = 28.0 * 4 * 16 * 128;
  EXPECT_DOUBLE_EQ(step(cost, {0, 512, 0}).flops,
                   512 * 2 * kLayerWeights + attention * 512 * 513 / 2);
  EXPECT_DOUBLE_EQ(step(cost, {100, 2, 0}).flops, 2 * 2 * kLayerWeights + attention * (101 + 102));
  EXPECT_DOUBLE_EQ(step(cost, {0, 512, 1}).flops - step(cost, {0, 512, 0}).flops, 2 * kHeadWeights);
  EXPECT_DOUBLE_EQ(step(cost, {0, 512, 1}).bytes - step(cost, {0, 512, 0}).bytes, 2 * kHeadWeights);
}

TEST(CostModel, ABatchReadsTheWeightsOnce) {
  const ModelConfig config = published_model("qwen3-0.6b").config();
  CostModel cost(config, arithmetic_of(WeightType::BF16), "avx512bf16");
  const Work one = step(cost, {10, 1, 1});
  cost.add_share({10, 1, 1});
  cost.add_share({10, 1, 1});
  cost.end_step();
  EXPECT_DOUBLE_EQ(cost.total().flops, 2 * one.flops);
  EXPECT_DOUBLE_EQ(cost.total().bytes - one.bytes, 11.0 * 28 * 2 * 8 * 128 * 2);
  const CostModel alike(config, arithmetic_of(WeightType::BF16), "avx512bf16");
  EXPECT_DOUBLE_EQ(step(alike, {10, 1, 1, 2}).flops, cost.total().flops);
  EXPECT_DOUBLE_EQ(step(alike, {10, 1, 1, 2}).bytes, cost.total().bytes);
}

TEST(CostModel, CountsTheBytesThatPackingMade) {
  ModelConfig config = published_model("qwen3-0.6b").config();
  config.hidden_size = 40;  // padded to 64
  config.intermediate_size = 72;
  config.num_layers = 2;
  config.num_heads = 3;
  config.num_kv_heads = 1;
  config.head_dim = 20;
  config.vocab_size = 101;
  config.tie_word_embeddings = false;
  Team team(1);
  for (WeightType type :
       {WeightType::BF16, WeightType::F16, WeightType::F32, WeightType::INT8, WeightType::INT4}) {
    const Arithmetic arithmetic = arithmetic_of(type);
    const Weights weights =
        Weights::random(config, arithmetic, Runtime{choose_kernels("scalar"), team}, 1);
    const double kv = 2 * 2.0 * 20 * (arithmetic.kv == Format::F32 ? 4 : 2);
    EXPECT_DOUBLE_EQ(step(CostModel(config, arithmetic, "scalar"), {0, 1, 1}).bytes - kv,
                     static_cast<double>(weights.bytes_per_token()))
        << to_string(type);
  }
}

TEST(CostModel, Int8KeysAndValuesWithTheirScales) {
  const AttentionWork work = attention_work({16, 8, 128}, Format::INT8, {1000, 100});
  EXPECT_EQ(work.scores.flops, 2.0 * 16 * 128 * 1000);
  EXPECT_EQ(work.values.flops, work.scores.flops);
  EXPECT_EQ(work.scores.bytes, 100.0 * 8 * (128 + 4 * 2));  // a half for each 32
  EXPECT_EQ(work.values.bytes, 100.0 * 8 * (128 + 4));
  const AttentionCeilings ceilings = attention_ceilings(Format::INT8, Operand::BF16, "avx512bf16");
  EXPECT_EQ(ceilings.scores, Ceiling::VNNI);
  EXPECT_EQ(ceilings.values, Ceiling::VDPBF16PS);
  EXPECT_EQ(attention_ceilings(Format::INT8, Operand::BF16X32, "amx").scores, Ceiling::VNNI);
  Ceilings measured;
  measured.vnni = 4e9;
  measured.vdpbf16ps = 2e9;
  measured.bandwidth = 1e12;
  EXPECT_DOUBLE_EQ(work.ideal(ceilings, measured).seconds, work.scores.flops * 0.75e-9);
  EXPECT_EQ(work.ideal(ceilings, measured).binding, Ceiling::VDPBF16PS);
}

TEST(CostModel, SlowDotProductsAreHeldAgainstFma) {
  Ceilings measured;
  measured.fma = 4e9;
  measured.vdpbf16ps = 2e9;
  measured.bandwidth = 1e12;
  const IdealTime slow = ideal_time({8e9, 0}, Ceiling::VDPBF16PS, measured);
  EXPECT_EQ(slow.binding, Ceiling::FMA);
  EXPECT_DOUBLE_EQ(slow.seconds, 2);
  measured.vdpbf16ps = 8e9;
  const IdealTime fast = ideal_time({8e9, 0}, Ceiling::VDPBF16PS, measured);
  EXPECT_EQ(fast.binding, Ceiling::VDPBF16PS);
  EXPECT_DOUBLE_EQ(fast.seconds, 1);
}

TEST(CostModel, EveryOperationAgainstItsOwnCeiling) {
  const ModelConfig config = published_model("qwen3-0.6b").config();
  Ceilings measured;
  measured.fma = 100e9;
  measured.vdpbf16ps = 200e9;
  measured.vnni = 400e9;
  measured.maddubs = 300e9;
  measured.bandwidth = 10e9;
  const double linear = 512 * 2 * kLayerWeights, attention = 28.0 * 4 * 16 * 128 * 512 * 513 / 2;
  const auto ideal = [&](WeightType weights, ComputeType compute, const char* isa) {
    CostModel cost(config, arithmetic_of(weights, compute), isa);
    cost.add_share({0, 512, 1});
    cost.end_step();
    return cost.ideal(measured);
  };
  const double bf16_head = 2 * kHeadWeights / 10e9, int8_head = kHeadWeights / 32 * 34 / 10e9;
  const IdealTime bf16 = ideal(WeightType::BF16, ComputeType::BF16, "avx512bf16");
  EXPECT_NEAR(bf16.seconds, (linear + attention) / 200e9 + bf16_head, 1e-9);
  EXPECT_EQ(bf16.binding, Ceiling::VDPBF16PS);
  const IdealTime fma = ideal(WeightType::BF16, ComputeType::F32, "avx512bf16");
  EXPECT_NEAR(fma.seconds, (linear + attention) / 100e9 + bf16_head, 1e-9);
  EXPECT_EQ(fma.binding, Ceiling::FMA);
  EXPECT_EQ(ideal(WeightType::BF16, ComputeType::BF16, "avx2").binding, Ceiling::FMA);
  EXPECT_EQ(ideal(WeightType::BF16, ComputeType::BF16X32, "avx512bf16").binding, Ceiling::FMA);
  measured.amx_bf16 = 800e9;
  EXPECT_EQ(ideal(WeightType::BF16, ComputeType::BF16X32, "amx").binding, Ceiling::AMX_BF16);
  EXPECT_EQ(ideal(WeightType::BF16, ComputeType::BF16, "amx").binding, Ceiling::FMA);
  const IdealTime int8 = ideal(WeightType::INT8, ComputeType::BF16, "avx512vnni");
  EXPECT_NEAR(int8.seconds, linear / 400e9 + attention / 100e9 + int8_head, 1e-9);
  EXPECT_EQ(int8.binding, Ceiling::VNNI);
  EXPECT_EQ(ideal(WeightType::INT8, ComputeType::BF16, "avx2").binding, Ceiling::MADDUBS);
  measured.amx_int8 = 1600e9;
  const IdealTime tiles = ideal(WeightType::INT8, ComputeType::BF16, "amx");
  EXPECT_NEAR(tiles.seconds, linear / 1600e9 + attention / 100e9 + int8_head, 1e-9);
  EXPECT_EQ(ideal(WeightType::INT4, ComputeType::BF16X32, "amx").binding, Ceiling::AMX_INT8);
}

TEST(CostModel, OperationsAddUpToTheWhole) {
  const ModelConfig config = published_model("qwen3-0.6b").config();
  Ceilings measured;
  measured.fma = measured.vnni = measured.maddubs = 100e9;
  measured.vdpbf16ps = 200e9;
  measured.bandwidth = 10e9;
  CostModel cost(config, arithmetic_of(WeightType::BF16), "avx512bf16");
  for (const StepShare share : {StepShare{0, 512, 0}, {512, 30, 1}, {542, 1, 1}}) {
    cost.add_share(share);
    cost.end_step();
  }
  double flops = 0, bytes = 0, seconds = 0;
  for (size_t i = 0; i < kOperations; ++i) {
    const auto operation = static_cast<Operation>(i);
    flops += cost.total(operation).flops;
    bytes += cost.total(operation).bytes;
    seconds += cost.ideal(measured, operation).seconds;
  }
  EXPECT_DOUBLE_EQ(flops, cost.total().flops);
  EXPECT_DOUBLE_EQ(bytes, cost.total().bytes);
  EXPECT_DOUBLE_EQ(seconds, cost.ideal(measured).seconds);
  EXPECT_EQ(cost.total(Operation::HEAD).flops, 2 * 2 * kHeadWeights);
  EXPECT_EQ(cost.total(Operation::WAITING).bytes, 0);
}

TEST(CostModel, DecodeIsBytesOverBandwidth) {
  const ModelConfig config = published_model("qwen3-0.6b").config();
  Ceilings measured;
  measured.fma = measured.vdpbf16ps = measured.vnni = measured.maddubs = 1e12;
  measured.bandwidth = 30e9;
  CostModel cost(config, arithmetic_of(WeightType::BF16), "avx512bf16");
  for (size_t start = 0; start < 4; ++start) {
    cost.add_share({start, 1, 1});
    cost.end_step();
  }
  EXPECT_NEAR(cost.ideal(measured).seconds, cost.total().bytes / 30e9, 1e-12);
  EXPECT_EQ(cost.ideal(measured).binding, Ceiling::BANDWIDTH);
}

}  // namespace
}  // namespace rill
