// SPDX-License-Identifier: Apache-2.0
#include "engine/memory_plan.h"

#include <gtest/gtest.h>

#include "engine/loaded_model.h"
#include "engine/session.h"

namespace rill {
namespace {

MemoryPlan plan(size_t context, size_t available, AttentionType type = AttentionType::STREAMING) {
  const ModelConfig config = published_model("qwen3-0.6b").config();
  ArithmeticOptions options;
  options.attention = type;
  const Arithmetic arithmetic = resolve_arithmetic(options, DType::BF16);
  return plan_memory({config, arithmetic, choose_kernels("scalar"), 2}, {512, context, 1, 1},
                     available);
}

constexpr size_t kGiB = size_t{1} << 30;

TEST(MemoryPlan, LongestContextIsTheLongestThatFits) {
  const size_t available = 3 * kGiB;
  const size_t longest = plan(64, available).longest_context;
  ASSERT_GT(longest, 0u);
  ASSERT_LT(longest, 40960u);
  EXPECT_TRUE(plan(longest, available).fits());
  EXPECT_FALSE(plan(longest + 64, available).fits());
  EXPECT_EQ(plan(64, 100 * kGiB).longest_context, 40960u);
  EXPECT_EQ(plan(64, kGiB / 2).longest_context, 0u);
}

TEST(MemoryPlan, StreamingScratchDoesNotGrowWithTheContext) {
  EXPECT_EQ(plan(128, kGiB).scratch, plan(40960, kGiB).scratch);
  EXPECT_LT(plan(128, kGiB, AttentionType::STANDARD).scratch,
            plan(40960, kGiB, AttentionType::STANDARD).scratch);
}

TEST(MemoryPlan, WeightsAreCountedOnce) {
  const MemoryPlan p = plan(4096, 8 * kGiB);
  EXPECT_NEAR(static_cast<double>(p.weights), 596e6 * 2, 30e6);
  EXPECT_NEAR(static_cast<double>(p.kv_cache), 4096.0 * 28 * 8 * 128 * 2 * 2, 8e6);
}

TEST(MemoryPlan, WhatDoesNotFitIsToldWithTheTable) {
  try {
    require_fit(plan(40960, 2 * kGiB));
    FAIL() << "nothing was thrown";
  } catch (const DoesNotFit& error) {
    EXPECT_NE(std::string(error.what()).find("--ctx"), std::string::npos);
    EXPECT_NE(error.table().find("it does not fit"), std::string::npos);
    EXPECT_EQ(error.table(), plan(40960, 2 * kGiB).table());
  }
  EXPECT_THROW(require_fit(plan(40960, kGiB / 4)), DoesNotFit);
}

TEST(MemoryPlan, TheAdviceHoldsForEveryProgram) {
  const auto sentence = [](size_t sequences, size_t available) -> std::string {
    const ModelConfig config = published_model("qwen3-0.6b").config();
    const Arithmetic arithmetic = resolve_arithmetic({}, DType::BF16);
    try {
      require_fit(plan_memory({config, arithmetic, choose_kernels("scalar"), 2},
                              {4096, 4096, sequences, 1}, available));
    } catch (const DoesNotFit& error) {
      return error.what();
    }
    return "";
  };
  // benchmark_qwen3 has no --ctx, but lengths and --batch-size.
  EXPECT_NE(sentence(64, 8 * kGiB).find("benchmark"), std::string::npos);
  EXPECT_NE(sentence(64, 8 * kGiB).find("or fewer sequences"), std::string::npos);
  EXPECT_EQ(sentence(1, 2 * kGiB / 3).find("sequences"), std::string::npos);
}

TEST(MemoryPlan, ContextIsChosenWithinTheModel) {
  const ModelConfig config = published_model("qwen3-0.6b").config();
  EXPECT_EQ(choose_context(config, 0, 40960), kDefaultContext);
  EXPECT_EQ(choose_context(config, 0, 1000), 1000u);
  EXPECT_EQ(choose_context(config, 40960, 40960), 40960u);
  EXPECT_THROW(choose_context(config, 40961, 40960), Error);
}

TEST(MemoryPlan, NothingLargeIsAllocatedForWhatCannotFit) {
  LoadOptions options;
  options.session = {512, 4096, 100000, 1};  // sequences
  EXPECT_THROW(LoadedModel::load(RILL_TESTS_DIR "/golden/head128-long-bf16", options), DoesNotFit);
}

}  // namespace
}  // namespace rill
