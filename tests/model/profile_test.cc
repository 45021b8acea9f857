// SPDX-License-Identifier: Apache-2.0
#include "model/profile.h"

#include <gtest/gtest.h>

#include "base/error.h"
#include "model/golden.h"
#include "model/transformer.h"

namespace rill {
namespace {

double sum(const Profile& profile) {
  double seconds = 0;
  for (size_t i = 0; i < kOperations; ++i) seconds += profile.seconds(static_cast<Operation>(i));
  return seconds;
}

class ProfileTest : public testing::TestWithParam<int> {};

TEST_P(ProfileTest, OperationsAddUpToTheStepsAndChangeNoBit) {
  LoadedGolden golden("tied-gqa-bf16", {});
  Team team(GetParam());
  Transformer transformer(golden.config, golden.arithmetic, golden.weights,
                          {choose_kernels(), team}, 64, 128);
  const std::vector<int32_t> ids(64, 3);
  const size_t vocabulary = golden.config.vocab_size;
  std::vector<float> plain(vocabulary), measured(vocabulary);
  KvCache cache(golden.config, golden.arithmetic.kv, 256, 2);
  Profile profile(team.size());
  for (bool with : {false, true}) {
    transformer.set_profile(with ? &profile : nullptr);
    KvSequence sequence(cache);
    float* logits = (with ? measured : plain).data();
    for (const size_t tokens : {60, 1, 3}) {
      const SequenceStep step{&sequence, std::span(ids).first(tokens), 1};
      transformer.forward({&step, 1}, logits);
    }
  }
  EXPECT_EQ(first_difference(plain, measured), vocabulary);
  EXPECT_EQ(profile.steps(), 3u);
  EXPECT_GT(profile.total(), 0);
  EXPECT_NEAR(sum(profile), profile.total(), 1e-9);
  for (size_t i = 0; i < kOperations; ++i) {
    const auto operation = static_cast<Operation>(i);
    if (operation == Operation::WAITING && team.size() == 1) continue;
    EXPECT_GT(profile.seconds(operation), 0) << to_string(operation);
  }
  transformer.set_profile(nullptr);
  KvSequence sequence(cache);
  const SequenceStep step{&sequence, ids, 1};
  transformer.forward({&step, 1}, measured.data());
  EXPECT_EQ(profile.steps(), 3u);
}

INSTANTIATE_TEST_SUITE_P(Threads, ProfileTest, testing::Values(1, 2, 5));

TEST(ProfileOfOneStep, ThatIsRefusedIsMeasuredToo) {
  LoadedGolden golden("tied-gqa-bf16", {});
  Transformer transformer(golden.config, golden.arithmetic, golden.weights,
                          {choose_kernels(), golden.team}, 4, 4);
  Profile profile(golden.team.size());
  transformer.set_profile(&profile);
  KvCache cache(golden.config, golden.arithmetic.kv, 64);
  KvSequence sequence(cache);
  const std::vector<int32_t> ids(5, 1);
  const SequenceStep step{&sequence, ids, 1};
  EXPECT_THROW(transformer.forward({&step, 1}, nullptr), Error);
  EXPECT_EQ(profile.steps(), 1u);
  EXPECT_NEAR(sum(profile), profile.total(), 1e-9);
}

}  // namespace
}  // namespace rill
