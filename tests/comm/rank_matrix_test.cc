// SPDX-License-Identifier: Apache-2.0
// The bits of one process on every number of ranks that is promised, with everything that must not
// change them. `rank_matrix_test --gtest_list_tests` prints the cases.
#include <gtest/gtest.h>

#include <numeric>

#include "comm/pairwise.h"
#include "comm/thread_ranks.h"
#include "model/golden.h"

namespace rill {
namespace {

// Every tp x sp of 1, 2, 3, 4, 5, 7, 8 and 16 ranks.
struct Split {
  int tp, sp;
};
constexpr Split kSplits[] = {{1, 1}, {1, 2}, {2, 1},  {1, 3}, {3, 1}, {1, 4}, {2, 2},
                             {4, 1}, {1, 5}, {5, 1},  {1, 7}, {7, 1}, {1, 8}, {2, 4},
                             {4, 2}, {8, 1}, {1, 16}, {2, 8}, {4, 4}, {8, 2}};
struct Model {
  const char *name, *folder;
};
constexpr Model kOdd = {"odd", "odd-mha-f32"}, kHead128 = {"head128", "head128-long-bf16"},
                kDemoModel = {"demo", "../../models/rill-demo"};
constexpr Model kModels[] = {kOdd, kHead128, kDemoModel};
constexpr AttentionType kAttentions[] = {AttentionType::STREAMING, AttentionType::STANDARD};
constexpr WeightType kWeights[] = {WeightType::BF16, WeightType::INT8, WeightType::INT4};
constexpr ComputeType kComputes[] = {ComputeType::AUTO, ComputeType::F32, ComputeType::BF16X32};
constexpr int kThreads[] = {1, 2, 3};  // of each rank
constexpr size_t kChunks[] = {1000, 100, 29};
struct Batch {
  const char* name;
  size_t before, after;  // other sequences in every step
};
constexpr Batch kBatches[] = {{"alone", 0, 0}, {"first_of_2", 0, 1}, {"second_of_4", 1, 2}};
enum class Isas { BEST, SCALAR, MIXED };  // MIXED: each rank another one
constexpr const char* kIsaNames[] = {"best", "scalar", "mixed"};

struct Case {
  Split split;
  Model model;
  AttentionType attention = AttentionType::STREAMING;
  WeightType weights = WeightType::AUTO;
  ComputeType compute = ComputeType::AUTO;
  int threads = 1;
  size_t chunk = 1000;
  Batch batch = kBatches[0];
  Isas isas = Isas::BEST;
  bool one_machine = true;  // ranks share memory

  std::string name() const {
    return "tp" + std::to_string(split.tp) + "_sp" + std::to_string(split.sp) + "_threads" +
           std::to_string(threads) + "_" + model.name + "_" + to_string(weights) + "_" +
           to_string(compute) + "_" + to_string(attention) + "_chunk" + std::to_string(chunk) +
           "_" + batch.name + "_" + kIsaNames[static_cast<size_t>(isas)] +
           (one_machine ? "" : "_by_messages");
  }
};

void PrintTo(const Case& c, std::ostream* out) {
  *out << c.name();
}

const Kernels& kernels_of(Isas isas, int rank) {
  if (isas == Isas::BEST) return choose_kernels();
  if (isas == Isas::SCALAR) return choose_kernels("scalar");
  std::vector<const Kernels*> supported;
  for (const Kernels* kernels : all_kernels())
    if (kernels->supported()) supported.push_back(kernels);
  return *supported[static_cast<size_t>(rank) % supported.size()];
}

// Keys of ten stripes and a part, then some tokens one by one.
constexpr size_t kTokens = 650, kSingles = 3;

std::vector<int32_t> some_ids(size_t vocabulary) {
  std::vector<int32_t> ids(kTokens);
  for (size_t i = 0; i < kTokens; ++i)
    ids[i] = static_cast<int32_t>((i * 2654435761u + 12345u) % vocabulary);
  return ids;
}

class RankMatrix : public testing::TestWithParam<Case> {};

TEST_P(RankMatrix, SameBits) {
  const Case& c = GetParam();
  ArithmeticOptions options;
  options.attention = c.attention;
  options.weights = c.weights;
  options.compute = c.compute;
  const LoadedGolden whole(c.model.folder, options);
  const std::vector<int32_t> ids = some_ids(whole.config.vocab_size);
  const ModelOutput base = run_model(whole.config, whole.arithmetic, whole.weights, ids, {});
  const auto on_rank = [&](Communicator& world) {
    const Ranks ranks(world, c.split.tp, c.split.sp);
    const Kernels& kernels = kernels_of(c.isas, world.rank());
    Team team(c.threads);
    const Weights weights =
        Weights::pack(whole.config, whole.arithmetic, whole.checkpoint, {kernels, team, ranks});
    const RunSetting setting{.threads = c.threads,
                             .chunk = c.chunk,
                             .singles = kSingles,
                             .before = c.batch.before,
                             .after = c.batch.after,
                             .kernels = &kernels,
                             .ranks = &ranks};
    const ModelOutput output = run_model(whole.config, whole.arithmetic, weights, ids, setting);
    EXPECT_EQ(first_difference(output.hidden, base.hidden), base.hidden.size())
        << "on rank " << world.rank();
    EXPECT_EQ(first_difference(output.logits, base.logits), base.logits.size())
        << "on rank " << world.rank();
  };
  run_ranks(c.split.tp * c.split.sp, on_rank, c.one_machine);
}

std::vector<Case> every_split() {
  std::vector<Case> cases;
  for (const Model* model : {&kOdd, &kHead128})
    for (const Split& split : kSplits) {
      Case c{split, *model};
      c.one_machine = model == &kHead128;
      cases.push_back(c);
    }
  return cases;
}

std::vector<Case> all_pairs() {
  std::vector<Case> cases;
  for (const std::vector<size_t>& v :
       pairwise({std::size(kSplits), std::size(kModels), std::size(kAttentions),
                 std::size(kWeights), std::size(kComputes), std::size(kThreads), std::size(kChunks),
                 std::size(kBatches), std::size(kIsaNames), 2}))
    cases.push_back({kSplits[v[0]], kModels[v[1]], kAttentions[v[2]], kWeights[v[3]],
                     kComputes[v[4]], kThreads[v[5]], kChunks[v[6]], kBatches[v[7]],
                     static_cast<Isas>(v[8]), v[9] == 0});
  return cases;
}

std::string case_name(const testing::TestParamInfo<Case>& info) {
  return info.param.name();
}
INSTANTIATE_TEST_SUITE_P(EverySplit, RankMatrix, testing::ValuesIn(every_split()), case_name);
INSTANTIATE_TEST_SUITE_P(Pairwise, RankMatrix, testing::ValuesIn(all_pairs()), case_name);

TEST(Pairwise, EveryPairMeets) {
  const std::vector<size_t> sizes = {5, 1, 3, 4, 2};
  const auto cases = pairwise(sizes);
  EXPECT_LE(cases.size(), 24u);  // 20 are the least: 5 x 4
  for (size_t a = 0; a < sizes.size(); ++a)
    for (size_t b = a + 1; b < sizes.size(); ++b) {
      std::vector<bool> met(sizes[a] * sizes[b]);
      for (const auto& one : cases) met[one[a] * sizes[b] + one[b]] = true;
      EXPECT_EQ(std::accumulate(met.begin(), met.end(), size_t{0}), met.size());
    }
}

}  // namespace
}  // namespace rill
