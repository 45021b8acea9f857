// SPDX-License-Identifier: Apache-2.0
// What is planned for ranks against what processes under mpirun do.
#include <gtest/gtest.h>

#include <sstream>

#include "comm/mpirun.h"
#include "engine/comm_model.h"
#include "engine/machine_constants.h"
#include "model/test_folder.h"

namespace rill {
namespace {

// A line of --profile-comm: calls and bytes over the tp and the sp group.
struct Counted {
  CommTotals tp, sp;
};
std::vector<Counted> counted(const std::string& profile) {
  std::istringstream text(profile.substr(profile.find("tp calls")));
  std::string line;
  std::getline(text, line);
  std::vector<Counted> ranks;
  while (std::getline(text, line)) {
    std::istringstream words(line);
    size_t rank = 0;
    double seconds = 0;
    Counted c;
    double share = 0;  // of the steps, in percent
    if (words >> rank >> c.tp.calls >> c.tp.sent >> seconds >> c.sp.calls >> c.sp.sent >> seconds >>
            share &&
        rank == ranks.size()) {
      EXPECT_GT(share, 0);
      EXPECT_LE(share, 100);
      ranks.push_back(c);
    }
  }
  return ranks;
}

// `rill bench` of a prompt, then some tokens, with the tokens that it takes.
TEST(PlanMpi, ProcessesCountWhatTheModelSays) {
  const std::string folder = golden("tied-gqa-bf16");
  const ModelConfig config = ModelConfig::load(folder);
  const Arithmetic arithmetic = resolve_arithmetic({}, DType::BF16);
  std::vector<int32_t> tokens(64);
  for (size_t i = 0; i < tokens.size(); ++i)
    tokens[i] = static_cast<int32_t>((i * 2654435761u + 12345u) % config.vocab_size);
  for (const auto& [tp, sp] : {std::pair<size_t, size_t>{3, 1}, {1, 3}, {2, 2}}) {
    const Finished bench = under_mpirun(static_cast<int>(tp * sp),
                                        "rill bench " + folder +
                                            " -p 0 -n 0 -pg 47,3 --chunk 32 -r 1 --no-warmup "
                                            "--profile-comm --tp " +
                                            std::to_string(tp) + " --sp " + std::to_string(sp));
    ASSERT_EQ(bench.status, 0) << bench.err;
    const std::vector<Counted> ranks = counted(bench.err);
    ASSERT_EQ(ranks.size(), tp * sp) << bench.err;
    for (size_t rank = 0; rank < ranks.size(); ++rank) {
      const CommSubject subject{config, arithmetic, {rank % tp, tp}, {rank / tp, sp}};
      Counted sum;
      for (const StepShare& step :
           {StepShare{0, 32, 0}, {32, 15, 1}, {47, 1, 1}, {48, 1, 1}, {49, 1, 1}}) {
        const auto calls =
            comm_calls(subject, {{&step, 1}, std::span(tokens).subspan(step.start, step.tokens)});
        for (const bool tensor : {true, false}) {
          const CommTotals one = total_of(calls, tensor);
          CommTotals& all = tensor ? sum.tp : sum.sp;
          all.calls += one.calls;
          all.sent += one.sent;
        }
      }
      EXPECT_EQ(ranks[rank].tp.calls, sum.tp.calls) << bench.err;
      EXPECT_EQ(ranks[rank].tp.sent, sum.tp.sent) << bench.err;
      EXPECT_EQ(ranks[rank].sp.calls, sum.sp.calls) << bench.err;
      EXPECT_EQ(ranks[rank].sp.sent, sum.sp.sent) << bench.err;
    }
  }
}

TEST(PlanMpi, MeasuredConstantsAreTaken) {
  const TestFolder folder;
  const Finished bench = under_mpirun(2, "rill bench --comm -o json");
  ASSERT_EQ(bench.status, 0) << bench.err;
  const MachineConstants constants = constants_from_json(bench.out, "bench");
  EXPECT_GT(constants.node.bandwidth, 1e9);
  EXPECT_GT(constants.here.exchange_bandwidth, 1e6);
  EXPECT_GT(constants.here.gather_latency, 0);
  EXPECT_EQ(constants.there.gather_latency, default_constants().there.gather_latency);
  folder.write("constants.json", bench.out);
  const std::string file = (folder.path() / "constants.json").string();

  const Finished plan =
      run_shell("rill plan --shape qwen3-0.6b --ranks 6 --tp auto --constants " + file);
  ASSERT_EQ(plan.status, 0) << plan.err;
  EXPECT_NE(plan.out.find("predicted for 2 ranks of 1 thread"), std::string::npos) << plan.out;
  for (const char* shape : {"| 1 x 6 ", "| 2 x 3 ", "| 3 x 2 ", "| 6 x 1 "})
    EXPECT_NE(plan.out.find(shape), std::string::npos) << plan.out;

  folder.write("constants.json", bench.out.substr(0, bench.out.size() / 2));
  EXPECT_EQ(run_shell("rill plan --shape qwen3-0.6b --tp 2 --constants " + file).status, 1);
}

TEST(PlanMpi, AutoChoosesForAllRanksAndSaysWhy) {
  const TestFolder folder;
  const std::string command = "rill logits " + golden("tied-gqa-bf16") + " --ids 1,2,3 --out " +
                              (folder.path() / "logits").string();
  const Finished both = under_mpirun(4, command + " --tp auto --sp auto");
  EXPECT_EQ(both.status, 0) << both.err;
  EXPECT_NE(both.err.find("of 3 shapes the fastest predicted: tp "), std::string::npos) << both.err;
  EXPECT_EQ(both.err.find("rill: takes"), both.err.rfind("rill: takes")) << both.err;
  const Finished one = under_mpirun(4, command + " --tp auto --sp 4");
  EXPECT_EQ(one.status, 0) << one.err;
  EXPECT_NE(one.err.find("takes --tp 1 --sp 4, of 1 shape"), std::string::npos) << one.err;
  const Finished none = under_mpirun(4, command + " --tp auto --sp 3");
  EXPECT_EQ(none.status, 2) << none.err;
  EXPECT_NE(none.err.find("take --tp 1 --sp 4"), std::string::npos) << none.err;
  EXPECT_EQ(run_shell(command + " --tp autos").status, 2);
  EXPECT_EQ(run_shell("rill plan --shape qwen3-0.6b --tp auto").status, 2);
}

}  // namespace
}  // namespace rill
