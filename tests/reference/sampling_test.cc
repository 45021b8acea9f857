// SPDX-License-Identifier: Apache-2.0
#include "reference/sampling.h"

#include <gtest/gtest.h>

#include <cmath>

namespace rill::reference {
namespace {

// The known answers published with Random123 (kat_vectors).
TEST(Philox, KnownAnswers) {
  using Words = std::array<uint32_t, 4>;
  EXPECT_EQ(philox4x32({0, 0, 0, 0}, {0, 0}),
            (Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  const uint32_t ones = 0xffffffff;
  EXPECT_EQ(philox4x32({ones, ones, ones, ones}, {ones, ones}),
            (Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
            (Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(Philox, UniformIsUniform) {
  double sum = 0, squares = 0;
  const int count = 100'000;
  for (int i = 0; i < count; ++i) {
    const double u = uniform(0x123456789abcdefull, static_cast<uint64_t>(i));
    ASSERT_GE(u, 0.0);
    ASSERT_LT(u, 1.0);
    sum += u;
    squares += u * u;
  }
  EXPECT_NEAR(sum / count, 0.5, 0.005);
  EXPECT_NEAR(squares / count, 1.0 / 3, 0.005);
  EXPECT_NE(uniform(1, 7), uniform(2, 7));
  EXPECT_NE(uniform(1, 7), uniform(1, 7 + (1ull << 32)));
}

TEST(Sample, GreedyTakesTheLowestOfTies) {
  const Sampling greedy{.temperature = 0};
  EXPECT_EQ(sample({1, 3, 3, 2}, greedy, {}, {}), 1);
  const Sampling penalised{.temperature = 0, .repetition_penalty = 2};
  EXPECT_EQ(sample({1, 3, 3, 2}, penalised, {1}, {2}), 3);
  const Sampling present{.temperature = 0, .presence_penalty = 0.5};
  EXPECT_EQ(sample({1, 3, 3, 2}, present, {2}, {1}), 2);
}

TEST(Sample, FrequenciesFollowTheSoftmaxWithinTheFilters) {
  const std::vector<float> logits = {0.0f, 2.0f, 1.0f, -3.0f, 1.0f};
  const auto frequencies = [&](Sampling options) {
    std::vector<double> counts(logits.size(), 0.0);
    const int draws = 20'000;
    for (int i = 0; i < draws; ++i) {
      options.seed = static_cast<uint64_t>(i);
      counts[sample(logits, options, {0, 1, 2}, {})] += 1.0 / draws;
    }
    return counts;
  };
  const double t = 0.7;
  double total = 0;
  for (const float l : logits) total += std::exp(l / t);
  const std::vector<double> all = frequencies({.temperature = t});
  for (size_t i = 0; i < logits.size(); ++i) {
    EXPECT_NEAR(all[i], std::exp(logits[i] / t) / total, 0.012);
  }
  const std::vector<double> two = frequencies({.temperature = t, .top_k = 2});  // ids 1 and 2
  EXPECT_EQ(two[0] + two[3] + two[4], 0.0);
  EXPECT_GT(two[2], 0.1);
  const std::vector<double> nucleus = frequencies({.temperature = t, .top_p = 0.5});
  EXPECT_NEAR(nucleus[1], 1.0, 1e-9);  // the best holds 0.65
  const std::vector<double> likely = frequencies({.temperature = t, .min_p = 0.1});
  EXPECT_EQ(likely[0] + likely[3], 0.0);  // e^(-2/0.7) is 0.06
  EXPECT_GT(likely[4], 0.1);
}

}  // namespace
}  // namespace rill::reference
