// SPDX-License-Identifier: Apache-2.0
#include "engine/sampler.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>

#include "base/error.h"
#include "reference/sampling.h"

namespace rill {
namespace {

std::vector<float> random_logits(std::mt19937& random, size_t count) {
  std::normal_distribution<float> normal(0, 3);
  std::vector<float> logits(count);
  // Coarse values, so that ties occur.
  for (float& logit : logits) logit = std::round(normal(random) * 4) / 4;
  return logits;
}

reference::Sampling twin(const SamplingOptions& options) {
  reference::Sampling sampling;
  sampling.temperature = options.greedy ? 0 : options.temperature;
  sampling.top_k = static_cast<int>(options.top_k);
  sampling.top_p = options.top_p;
  sampling.min_p = options.min_p;
  sampling.repetition_penalty = options.repetition_penalty;
  sampling.presence_penalty = options.presence_penalty;
  sampling.seed = options.seed;
  return sampling;
}

TEST(Sampler, RandomNumbersAreTheTwins) {
  for (const uint64_t seed : {0ull, 1ull, 0xfeedfacecafebeefull}) {
    for (const uint64_t position : {0ull, 1ull, 4095ull, 0x100000001ull}) {
      const double u = uniform_at(seed, position);
      EXPECT_EQ(u, reference::uniform(seed, position));
      EXPECT_GE(u, 0);
      EXPECT_LT(u, 1);
    }
  }
  EXPECT_NE(uniform_at(1, 2), uniform_at(2, 1));
}

TEST(Sampler, ChoosesAsTheTwin) {
  std::mt19937 random(7);
  auto one_of = [&](std::initializer_list<double> values) {
    return values.begin()[random() % values.size()];
  };
  for (int round = 0; round < 400; ++round) {
    SamplingOptions options;
    options.temperature = one_of({0, 0.1, 0.7, 1, 3});
    options.top_k = static_cast<size_t>(one_of({0, 1, 5, 20, 1000}));
    options.top_p = one_of({1, 0.95, 0.5, 1e-6});
    options.min_p = one_of({0, 0.05, 0.5, 1});
    options.repetition_penalty = one_of({1, 1.3, 0.8});
    options.presence_penalty = one_of({0, 1.5, -0.5});
    options.seed = random();
    const std::vector<float> logits = random_logits(random, 1 + random() % 300);
    std::vector<int32_t> prompt, generated;
    for (int i = 0; i < 6; ++i) prompt.push_back(static_cast<int32_t>(random() % logits.size()));
    for (int i = 0; i < 4; ++i) generated.push_back(static_cast<int32_t>(random() % logits.size()));
    Sampler sampler(options, logits.size());
    sampler.start(prompt);
    for (const int32_t id : generated) sampler.accept(id);
    ASSERT_EQ(sampler.sample(logits, prompt.size() + generated.size()),
              reference::sample(logits, twin(options), prompt, generated))
        << "round " << round;
  }
}

TEST(Sampler, TiesGoToTheLowestId) {
  SamplingOptions greedy;
  greedy.greedy = true;
  Sampler sampler(greedy, 4);
  sampler.start({});
  EXPECT_EQ(sampler.sample(std::vector<float>{1, 2, 2, 2}, 0), 1);
}

TEST(Sampler, NeverTakesWhatTheTokenizerLacks) {
  std::mt19937 random(3);
  for (const bool greedy : {false, true}) {
    SamplingOptions options;
    options.temperature = 5;
    options.greedy = greedy;
    const std::vector<int32_t> unused = {0, 2};
    Sampler sampler(options, 4, unused);
    sampler.start(std::vector<int32_t>{0, 9});
    for (uint64_t position = 0; position < 300; ++position) {
      std::vector<float> logits = random_logits(random, 8);
      logits[0] = logits[6] = 50;
      const int32_t id = sampler.sample(logits, position);
      EXPECT_TRUE(id == 1 || id == 3) << id;
    }
  }
}

TEST(Sampler, FrequenciesFollowTheProbabilities) {
  SamplingOptions options;
  options.temperature = 1;
  Sampler sampler(options, 3);
  sampler.start({});
  const std::vector<float> logits = {std::log(0.5f), std::log(0.3f), std::log(0.2f)};
  int counts[3] = {};
  for (uint64_t position = 0; position < 20000; ++position)
    ++counts[sampler.sample(logits, position)];
  EXPECT_NEAR(counts[0] / 20000.0, 0.5, 0.015);
  EXPECT_NEAR(counts[1] / 20000.0, 0.3, 0.015);
}

TEST(Sampler, RefusesValuesOutOfRange) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  auto refused = [](auto change) {
    SamplingOptions options;
    change(options);
    EXPECT_THROW(check_sampling(options), Error);
  };
  refused([](SamplingOptions& o) { o.temperature = -1; });
  refused([](SamplingOptions& o) { o.temperature = 1e-9; });
  refused([&](SamplingOptions& o) { o.temperature = nan; });
  refused([](SamplingOptions& o) { o.top_p = 0; });
  refused([](SamplingOptions& o) { o.top_p = 1.5; });
  refused([&](SamplingOptions& o) { o.min_p = nan; });
  refused([](SamplingOptions& o) { o.min_p = 2; });
  refused([](SamplingOptions& o) { o.repetition_penalty = 0; });
  refused([](SamplingOptions& o) { o.presence_penalty = 1e9; });
  EXPECT_NO_THROW(check_sampling(SamplingOptions{}));
}

}  // namespace
}  // namespace rill
