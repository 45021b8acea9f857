// SPDX-License-Identifier: Apache-2.0
// The promise over ranks: however a model is split, the bits of one process. Ranks are threads
// here, with a team each.
#include <gtest/gtest.h>

#include "comm/thread_ranks.h"
#include "model/golden.h"

namespace rill {
namespace {

struct RankCase {
  std::string folder;
  ArithmeticOptions options;
};

void PrintTo(const RankCase& c, std::ostream* out) {
  *out << c.folder;
}

struct Split {
  int tp, sp;
};

class RankBits : public testing::TestWithParam<RankCase> {
 protected:
  RankBits() : whole_(GetParam().folder, GetParam().options) {
    ids_ = GoldenReference(GetParam().folder).prompt;
    // The keys of eleven stripes; the prompt again where it is short.
    for (size_t i = 0; ids_.size() < 650; ++i) ids_.push_back(ids_[i]);
    ids_.resize(650);
    base_ = run_model(whole_.config, whole_.arithmetic, whole_.weights, ids_, {});
  }

  // Every rank's results against those of one process, in shared memory and by messages.
  void expect_same(const Split& split, const RunSetting& setting) const {
    for (const bool one_machine : {true, false}) expect_same(split, setting, one_machine);
  }
  void expect_same(const Split& split, const RunSetting& setting, bool one_machine) const {
    SCOPED_TRACE("tp " + std::to_string(split.tp) + ", sp " + std::to_string(split.sp) +
                 ", chunks of " + std::to_string(setting.chunk) +
                 (one_machine ? "" : ", by messages"));
    const auto on_rank = [&](Communicator& world) {
      const Ranks ranks(world, split.tp, split.sp);
      Team team(setting.threads);
      const Weights weights = Weights::pack(whole_.config, whole_.arithmetic, whole_.checkpoint,
                                            {*setting.kernels, team, ranks});
      RunSetting mine = setting;
      mine.ranks = &ranks;
      const ModelOutput output = run_model(whole_.config, whole_.arithmetic, weights, ids_, mine);
      EXPECT_EQ(first_difference(output.hidden, base_.hidden), base_.hidden.size())
          << "on rank " << world.rank();
      EXPECT_EQ(first_difference(output.logits, base_.logits), base_.logits.size())
          << "on rank " << world.rank();
    };
    run_ranks(split.tp * split.sp, on_rank, one_machine);
  }

  LoadedGolden whole_;
  std::vector<int32_t> ids_;
  ModelOutput base_;
};

TEST_P(RankBits, TensorParallel) {
  for (const int tp : {2, 3, 4, 5, 6, 7, 8}) expect_same({tp, 1}, {.threads = 1});
  expect_same({2, 1}, {.threads = 2, .chunk = 12});
  expect_same({3, 1}, {.threads = 2, .chunk = 29, .before = 1, .after = 2});
  expect_same({5, 1}, {.threads = 1, .chunk = 100});
  expect_same({8, 1}, {.threads = 1, .chunk = 64});
}

TEST_P(RankBits, SequenceParallel) {
  for (const int sp : {2, 3, 4, 5, 7, 8, 16}) expect_same({1, sp}, {.threads = 1});
  expect_same({1, 2}, {.threads = 2, .chunk = 12});
  expect_same({1, 3}, {.threads = 2, .chunk = 29, .before = 1, .after = 2});
  expect_same({1, 5}, {.threads = 1, .chunk = 50, .before = 2, .after = 1});
  expect_same({1, 64}, {.threads = 1, .chunk = 100});
}

// Threads of a rank share tiles of attention.
TEST_P(RankBits, SequenceParallelOnManyThreads) {
  expect_same({1, 2}, {.threads = 8, .chunk = 20, .singles = 3});
  expect_same({1, 3}, {.threads = 5, .chunk = 325, .singles = 3});
  expect_same({2, 2}, {.threads = 3, .chunk = 100, .singles = 3});
}

TEST_P(RankBits, Both) {
  for (const auto& [tp, sp] : {std::pair{2, 2}, {2, 3}, {3, 2}, {4, 2}, {2, 4}, {8, 2}, {5, 3}})
    expect_same({tp, sp}, {.threads = 1});
  expect_same({2, 2}, {.threads = 2, .chunk = 5});
  expect_same({2, 2}, {.threads = 1, .chunk = 30, .before = 2, .after = 3});
}

const RankCase kCases[] = {
    {"tied-gqa-bf16", {}},
    {"odd-mha-f32", {.compute = ComputeType::BF16, .attention = AttentionType::STANDARD}},
    {"odd-mha-f32", {}},
    {"wide-heads-sharded-f16", {.weights = WeightType::INT8}},
    {"yarn-bf16", {.weights = WeightType::INT4}},
    {"head128-long-bf16", {.block_size = 16}},
    {"bias-f32", {.kv = KvType::F16}},
    {"bias-f32", {.compute = ComputeType::BF16, .kv = KvType::INT8}},
    {"yarn-bf16", {.attention = AttentionType::STANDARD, .block_size = 128}},
    {"yarn-bf16", {.compute = ComputeType::BF16X32}},
    {"odd-mha-f32", {.compute = ComputeType::BF16X32, .attention = AttentionType::STANDARD}},
};

std::string case_name(const testing::TestParamInfo<RankCase>& info) {
  const ArithmeticOptions& o = info.param.options;
  std::string name = info.param.folder + "_" + to_string(o.weights) + "_" + to_string(o.compute) +
                     "_" + to_string(o.attention);
  for (char& c : name) c = c == '-' ? '_' : c;
  return name;
}
INSTANTIATE_TEST_SUITE_P(Golden, RankBits, testing::ValuesIn(kCases), case_name);

}  // namespace
}  // namespace rill
