// SPDX-License-Identifier: Apache-2.0
// The volumes that are planned with are those that are counted, to the byte, step by step. Ranks
// are threads here; mpi_test compares with processes.
#include "engine/comm_model.h"

#include <gtest/gtest.h>

#include <mutex>

#include "comm/thread_ranks.h"
#include "model/golden.h"
#include "model/stripe_tree.h"

namespace rill {
namespace {

struct Split {
  int tp, sp;
};

const Split kSplits[] = {{1, 1}, {2, 1},  {3, 1}, {5, 1}, {8, 1}, {1, 2}, {1, 3},
                         {1, 7}, {1, 64}, {2, 2}, {3, 2}, {2, 5}, {7, 3}};

// Steps of a few sequences, each after those before: a long prompt, another beside it, tokens one
// by one, and pieces that begin and end anywhere.
const std::vector<std::vector<StepShare>> kSteps = {
    {{0, 150, 1}},
    {{150, 1, 1}},
    {{151, 70, 0}, {0, 131, 3}},
    {{221, 1, 1}, {131, 1, 1}},
    {{222, 12, 12}, {132, 1, 0}, {0, 80, 2}},
    {{234, 200, 0}},
    {{434, 13, 13}},
    // Pieces of a cut step with the end of one sequence in the first, logits in both.
    {{447, 20, 3}, {133, 260, 150}, {80, 10, 1}},
};

// What a rank counted beside what the model says, after each step.
void compare(Communicator& world, const Split& split, const LoadedGolden& whole) {
  const Ranks ranks(world, split.tp, split.sp);
  Team team(1);
  const Runtime runtime{choose_kernels(), team, ranks};
  const Weights weights = Weights::pack(whole.config, whole.arithmetic, whole.checkpoint, runtime);
  constexpr size_t kMostRows = 300, kContext = 512;
  Transformer transformer(whole.config, whole.arithmetic, weights, runtime, kMostRows, kContext);
  KvCache cache({whole.config, weights.shard(), whole.arithmetic.block_size}, whole.arithmetic.kv,
                3 * kContext, 3);
  std::vector<KvSequence> sequences;
  for (size_t i = 0; i < 3; ++i) sequences.emplace_back(cache);
  const CommSubject subject{whole.config, whole.arithmetic, ranks.tp_place(), ranks.sp_place(),
                            ranks.on_several_machines()};
  std::vector<float> logits(160 * whole.config.vocab_size);
  std::vector<int32_t> tokens(kMostRows);
  for (size_t step = 0; step < kSteps.size(); ++step) {
    std::vector<SequenceStep> steps;
    size_t rows = 0;
    for (size_t i = 0; i < kSteps[step].size(); ++i) {
      const StepShare& share = kSteps[step][i];
      for (size_t t = 0; t < share.tokens; ++t)
        tokens[rows + t] =
            static_cast<int32_t>((rows + t + step) * 2654435761u % whole.config.vocab_size);
      steps.push_back({&sequences[i], std::span(tokens).subspan(rows, share.tokens), share.logits});
      rows += share.tokens;
    }
    const Traffic tp = ranks.tp().traffic(), sp = ranks.sp().traffic();
    transformer.forward(steps, logits.data());
    const std::vector<CommCall> calls =
        comm_calls(subject, {kSteps[step], std::span(tokens).first(rows)});
    const CommTotals tensor = total_of(calls, true), sequence = total_of(calls, false);
    const std::string where = "tp " + std::to_string(split.tp) + " sp " + std::to_string(split.sp) +
                              ", rank " + std::to_string(world.rank()) + ", step " +
                              std::to_string(step);
    EXPECT_EQ(ranks.tp().traffic().calls - tp.calls, tensor.calls) << where;
    EXPECT_EQ(ranks.tp().traffic().sent - tp.sent, tensor.sent) << where;
    EXPECT_EQ(ranks.tp().traffic().messages - tp.messages, tensor.messages) << where;
    EXPECT_EQ(ranks.sp().traffic().calls - sp.calls, sequence.calls) << where;
    EXPECT_EQ(ranks.sp().traffic().sent - sp.sent, sequence.sent) << where;
    EXPECT_EQ(ranks.sp().traffic().messages - sp.messages, sequence.messages) << where;
  }
}

struct ModelCase {
  std::string folder;
  ArithmeticOptions options;
};

class CommModel : public testing::TestWithParam<ModelCase> {};

TEST_P(CommModel, EqualsWhatIsCounted) {
  const LoadedGolden whole(GetParam().folder, GetParam().options);
  for (const Split& split : kSplits)
    for (const bool one_machine : {true, false}) {
      SCOPED_TRACE(one_machine);
      run_ranks(
          split.tp * split.sp, [&](Communicator& world) { compare(world, split, whole); },
          one_machine);
    }
}

const ModelCase kCases[] = {
    {"tied-gqa-bf16", {}},
    {"odd-mha-f32", {.attention = AttentionType::STANDARD}},
    {"wide-heads-sharded-f16", {.block_size = 16}},
    {"head128-long-bf16", {.block_size = 128}},
    {"yarn-bf16", {.attention = AttentionType::STANDARD}},
};

std::string case_name(const testing::TestParamInfo<ModelCase>& info) {
  std::string name = info.param.folder;
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
}
INSTANTIATE_TEST_SUITE_P(Golden, CommModel, testing::ValuesIn(kCases), case_name);

TEST(CommModel, KeepersOwnTheirStripes) {
  for (size_t ranks = 1; ranks <= kStripes; ++ranks)
    for (size_t run = 0; run < 2 * kStripes; ++run) {
      const size_t keeper = keeper_of(run, ranks);
      EXPECT_TRUE(in_range(share_of(kStripes, {keeper, ranks}), tree_place(run)));
    }
}

// Cuts and shares of ranks fall between the sequences and into them.
TEST(CommModel, AlikeSequencesCountAsEachByItself) {
  const ModelConfig config = published_model("qwen3-0.6b").config();
  const Arithmetic arithmetic = resolve_arithmetic({}, DType::BF16);
  const std::vector<std::vector<StepShare>> steps = {
      {{100, 1, 1, 1000}},
      {{4096, 1, 1, 13}, {0, 100, 3}, {5, 1, 0, 2}},
      {{60, 7, 3, 100}, {0, 5, 5}, {1000, 3, 1, 200}},
  };
  for (const auto& [tp, sp] : kSplits)
    for (const bool several : {false, true})
      for (const std::vector<StepShare>& step : steps)
        for (size_t rank = 0; rank < static_cast<size_t>(sp); ++rank) {
          std::vector<StepShare> each;
          for (const StepShare& share : step)
            each.insert(each.end(), share.alike, {share.start, share.tokens, share.logits});
          const CommSubject subject{config,
                                    arithmetic,
                                    {0, static_cast<size_t>(tp)},
                                    {rank, static_cast<size_t>(sp)},
                                    several};
          const auto expected = comm_calls(subject, {each}), calls = comm_calls(subject, {step});
          ASSERT_EQ(calls.size(), expected.size());
          for (size_t i = 0; i < calls.size(); ++i) {
            EXPECT_EQ(calls[i].part, expected[i].part);
            EXPECT_EQ(calls[i].piece, expected[i].piece);
            EXPECT_EQ(calls[i].times, expected[i].times) << to_string(calls[i].part);
            EXPECT_EQ(calls[i].sent, expected[i].sent) << to_string(calls[i].part);
          }
        }
}

// Without the tokens each rank is taken to own its part of the vocabulary; the sum is right.
TEST(CommModel, EmbeddingsAreExpectedByThePartOfTheVocabulary) {
  const ModelConfig config = published_model("qwen3-0.6b").config();
  const Arithmetic arithmetic = resolve_arithmetic({}, DType::BF16);
  const std::vector<StepShare> share = {{0, 512, 1}};
  for (size_t rank = 0; rank < 4; ++rank) {
    const auto calls = comm_calls({config, arithmetic, {rank, 4}, {}}, {share});
    ASSERT_EQ(calls.front().part, CommPart::EMBEDDING);
    EXPECT_NEAR(static_cast<double>(calls.front().bytes()), 128.0 * 1024 * 4 * 3, 2 * 1024 * 4 * 3);
  }
}

}  // namespace
}  // namespace rill
