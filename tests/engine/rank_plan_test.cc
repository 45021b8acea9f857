// SPDX-License-Identifier: Apache-2.0
#include "engine/rank_plan.h"

#include <gtest/gtest.h>

#include "base/error.h"

namespace rill {
namespace {

class RankPlan : public testing::Test {
 protected:
  Prediction predict(RankShape shape, const RankTask& task, size_t per_node) const {
    return RankModel(config_, arithmetic_, {constants_, per_node}, 512).predict(shape, task);
  }

  const ModelConfig config_ = published_model("qwen3-0.6b").config();
  const Arithmetic arithmetic_ = resolve_arithmetic({}, DType::BF16);
  MachineConstants constants_ = default_constants();
};

TEST_F(RankPlan, ShapesMakeTheRanks) {
  std::vector<std::pair<size_t, size_t>> shapes;
  for (const RankShape& shape : possible_shapes(12)) shapes.emplace_back(shape.tp, shape.sp);
  EXPECT_EQ(shapes,
            (std::vector<std::pair<size_t, size_t>>{{1, 12}, {2, 6}, {3, 4}, {4, 3}, {6, 2}}));
  ASSERT_EQ(possible_shapes(12, {0, 4}).size(), 1u);
  EXPECT_EQ(possible_shapes(12, {0, 4})[0].tp, 3u);
  EXPECT_TRUE(possible_shapes(12, {5, 0}).empty());
  EXPECT_TRUE(possible_shapes(11 * 64).empty());
}

// One rank on a whole node: the weights once through the memory's bandwidth, and nothing sent.
TEST_F(RankPlan, OneRankIsTheRoofline) {
  const Prediction token = predict({1, 1}, {0, 0, 1}, 1);
  const double bytes =
      2.0 * (28 * (1024 * (2048 + 2 * 1024 + 2048) + 3 * 1024 * 3072.0) + 151936 * 1024.0);
  const double bandwidth = constants_.node.bandwidth * constants_.part_reached.bandwidth;
  EXPECT_NEAR(token.computing, bytes / bandwidth, 0.01 * token.computing);
  EXPECT_EQ(token.talking, 0);
  EXPECT_EQ(token.tensor_sent + token.sequence_sent + token.messages, 0u);

  const Prediction prompt = predict({1, 1}, {512, 0, 1}, 1);
  const double head = 2.0 * 151936 * 1024;  // of one row: bound by reading
  const double flops = 512 * (bytes - head) + 28 * 4 * 2048.0 * 512 * 513 / 2;
  EXPECT_NEAR(prompt.computing,
              flops / (constants_.node.fma * constants_.part_reached.fma) + head / bandwidth,
              0.01 * prompt.computing);
}

// Twice the ranks of a node have half of it each.
TEST_F(RankPlan, RanksShareTheirNode) {
  EXPECT_NEAR(predict({1, 1}, {0, 0, 1}, 2).computing, 2 * predict({1, 1}, {0, 0, 1}, 1).computing,
              1e-9);
  EXPECT_NEAR(predict({2, 1}, {0, 0, 1}, 2).computing, predict({1, 1}, {0, 0, 1}, 1).computing,
              1e-3 * predict({1, 1}, {0, 0, 1}, 1).computing);
}

TEST_F(RankPlan, SlowLinksBetweenNodesCost) {
  const Prediction near = predict({2, 1}, {512, 0, 1}, 2), far = predict({2, 1}, {512, 0, 1}, 1);
  constants_.there.exchange_bandwidth /= 10;
  constants_.there.gather_bandwidth /= 10;
  EXPECT_GT(predict({2, 1}, {512, 0, 1}, 1).talking, 5 * far.talking);
  EXPECT_EQ(predict({2, 1}, {512, 0, 1}, 2).talking, near.talking);
  // Two roots of 512 x 1024 floats a layer, the embedding's rows, half of the logits.
  const double sent = 4.0 * (2 * 28 * 512 * 1024 + 256 * 1024 + 151936 / 2);
  EXPECT_NEAR(static_cast<double>(far.tensor_sent), sent, 1e-4 * sent);
}

// Ranks of one node meet, once for each call however many they are, and read each other's memory.
TEST_F(RankPlan, RanksOfANodeReadSharedMemory) {
  const Prediction two = predict({1, 2}, {0, 0, 1}, 2), eight = predict({1, 8}, {0, 0, 1}, 8);
  const double calls = 28 * 5 + 2;  // columns and states of each layer, logits, status
  for (const Prediction& token : {two, eight}) {
    EXPECT_GT(token.talking, calls * constants_.here.gather_latency);
    EXPECT_LT(token.talking, 3 * calls * constants_.here.gather_latency);
  }
  const double prompt = predict({2, 2}, {512, 0, 1}, 4).talking;
  constants_.here.gather_bandwidth /= 10;  // of messages
  constants_.here.exchange_bandwidth /= 10;
  EXPECT_EQ(predict({2, 2}, {512, 0, 1}, 4).talking, prompt);
}

// A context is read by those who keep it.
TEST_F(RankPlan, SequenceRanksShareTheContext) {
  const double empty = predict({1, 1}, {0, 0, 1}, 1).computing;
  const double empty_four = predict({1, 4}, {0, 0, 1}, 1).computing;
  const double alone = predict({1, 1}, {0, 32767, 1}, 1).computing - empty;
  const double four = predict({1, 4}, {0, 32767, 1}, 1).computing - empty_four;
  EXPECT_NEAR(four, alone / 4, 0.01 * alone);
  EXPECT_NEAR(empty_four, empty / 4, 0.01 * empty);  // and the columns of a token's products
}

// One by one they would take hours.
TEST_F(RankPlan, ABatchIsPredictedWithoutAWalkOverItsSequences) {
  const size_t batch = size_t{1} << 26;
  const Prediction large = predict({8, 64}, {0, 4096, batch}, 2);
  const Prediction half = predict({8, 64}, {0, 4096, batch / 2}, 2);
  EXPECT_NEAR(large.computing, 2 * half.computing, 1e-3 * large.computing);
  const auto sent = static_cast<double>(large.sequence_sent);
  EXPECT_NEAR(sent, 2 * static_cast<double>(half.sequence_sent), 1e-3 * sent);
}

TEST_F(RankPlan, TheFastestThatFitsIsFirst) {
  std::vector<ShapeChoice> choices = {
      {{1, 4}, 2, 0.1, true}, {{2, 2}, 1, 0.1, true}, {{4, 1}, 0.1, 0.1, false}};
  sort_choices(choices);
  EXPECT_EQ(choices[0].shape.tp, 2u);
  EXPECT_EQ(choices[2].shape.tp, 4u);
  EXPECT_NE(describe(choices).find("tp 2 x sp 2"), std::string::npos);
}

TEST_F(RankPlan, MemoryIsOfTheRankThatNeedsMost) {
  const PlanSubject whole = {config_, arithmetic_, choose_kernels("scalar"), 2};
  const SessionSize size = {512, 4096, 1, 1};
  const RankMemory memory = plan_ranks(whole, size, {3, 2}, {SIZE_MAX, 2});
  size_t most = 0, all = 0;
  for (size_t rank = 0; rank < 6; ++rank) {
    PlanSubject one = whole;
    one.tp = {rank % 3, 3};
    one.sp = {rank / 3, 2};
    const size_t bytes = plan_memory(one, size, SIZE_MAX).total();
    most = std::max(most, bytes);
    all += bytes;
  }
  EXPECT_EQ(memory.largest.total(), most);
  EXPECT_GE(memory.fullest_node, all / 3);
  EXPECT_LE(memory.fullest_node, 2 * most);
}

// As when they load: a rank has an equal part of its node, and the least fortunate one decides.
TEST_F(RankPlan, TheLongestContextIsWhatFitsEveryRank) {
  const PlanSubject whole = {config_, arithmetic_, choose_kernels("scalar"), 2};
  const SessionSize size = {512, 4096, 1, 1};
  const size_t part = plan_ranks(whole, size, {3, 2}, {SIZE_MAX, 2}).largest.total();
  const RankMemory memory = plan_ranks(whole, size, {3, 2}, {2 * part, 2});
  EXPECT_EQ(memory.largest.available, part);
  EXPECT_TRUE(memory.largest.fits());
  EXPECT_GE(memory.largest.longest_context, 4096u);
  EXPECT_LT(memory.largest.longest_context, config_.max_position_embeddings);
  const MemoryPlan none = plan_ranks(whole, size, {3, 2}, {1 << 20, 2}).largest;
  EXPECT_FALSE(none.fits());
  EXPECT_EQ(none.longest_context, 0u);
}

TEST_F(RankPlan, ConstantsComeBackFromJson) {
  constants_.here.assumed = constants_.there.assumed = false;
  constants_.there.message = 7.5e-6;
  const MachineConstants back = constants_from_json(to_json(constants_).dump(), "file");
  EXPECT_EQ(to_json(back), to_json(constants_));
  EXPECT_EQ(back.there.message, 7.5e-6);
  EXPECT_FALSE(back.here.assumed || back.there.assumed);
  nlohmann::ordered_json broken = to_json(constants_);
  broken["between_nodes"]["message"] = -1;
  EXPECT_THROW(constants_from_json(broken.dump(), "file"), Error);
  broken = to_json(constants_);
  broken["isa"] = "mmx";
  EXPECT_THROW(constants_from_json(broken.dump(), "file"), Error);
  EXPECT_THROW(constants_from_json("{}", "file"), Error);
}

TEST_F(RankPlan, LinksThatNobodyMeasuredStayAssumed) {
  constants_.here = {1e-6, 1e-6, 1e-7, 5e9, 5e9};
  const nlohmann::ordered_json json = to_json(constants_);
  EXPECT_TRUE(json.contains("within_a_node"));
  EXPECT_FALSE(json.contains("between_nodes"));
  const MachineConstants back = constants_from_json(json.dump(), "file");
  EXPECT_FALSE(back.here.assumed);
  EXPECT_EQ(back.here.gather_bandwidth, 5e9);
  EXPECT_TRUE(back.there.assumed);
  EXPECT_EQ(back.there.gather_bandwidth, default_constants().there.gather_bandwidth);
  nlohmann::ordered_json broken = json;
  broken["between_nodes"] = 3;
  EXPECT_THROW(constants_from_json(broken.dump(), "file"), Error);
}

// rill-demo has 4 heads: of 5 ranks or more, some have no subtree of o_proj to send.
TEST_F(RankPlan, ARankThatOnlyReceivesTakesNoTimeForMessages) {
  const ModelConfig config = ModelConfig::load(RILL_SOURCE_DIR "/models/rill-demo");
  const RankModel model(config, arithmetic_, {constants_, 1}, 512);
  for (const size_t tp : {1, 2, 3, 4, 5, 6, 7, 8}) {
    const Prediction prompt = model.predict({tp, 1}, {512, 0, 1});
    EXPECT_LT(prompt.talking, 0.1) << tp;
    const double exchanges = tp > 1 ? 2.0 * static_cast<double>(config.num_layers) : 0;
    EXPECT_GE(prompt.talking, exchanges * constants_.there.exchange_latency) << tp;
  }
}

// What Rill reaches of a ceiling is known for all of them; a peak of 0 is refused, not divided by.
TEST_F(RankPlan, EveryCeilingOfAnInstructionSetIsNeeded) {
  for (const auto kind : kCeilingFields) {
    EXPECT_GT(constants_.part_reached.*kind, 0);
    constants_.node.*kind = 1e12;
  }
  for (const ArithmeticOptions& options :
       {ArithmeticOptions{}, {.compute = ComputeType::BF16X32}, {.weights = WeightType::INT8}})
    for (const char* isa : {"scalar", "avx2", "avx512", "avx512vnni", "avx512bf16", "amx"}) {
      constants_.isa = isa;
      const RankModel model(config_, resolve_arithmetic(options, DType::BF16), {constants_, 1},
                            512);
      EXPECT_GT(model.predict({1, 1}, {512, 0, 1}).computing, 0);
    }
  constants_.node.bandwidth = 0;
  EXPECT_THROW(predict({1, 1}, {512, 0, 1}, 1), Error);
}

}  // namespace
}  // namespace rill
