// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "cli/process.h"
#include "engine/bench_attention.h"

namespace rill {
namespace {

using Json = nlohmann::json;

TEST(AttentionBenchTest, CountsWhatItDoes) {
  AttentionLayer layer{4, 2, 32, Operand::F32, Format::F32, 16};
  Team team(2);
  CeilingProbe probe(team, size_t{1} << 20);
  AttentionBench bench(layer, 200, {choose_kernels("scalar"), team});
  EXPECT_EQ(bench.kv_bytes(200), 200u * 2 * 2 * 32 * 4);
  const AttentionCase one{70, 40, AttentionType::STREAMING, 64};
  const AttentionResult result = bench.run(one, {choose_kernels("scalar"), team}, 2, probe);
  EXPECT_EQ(result.steps.size(), 3u);  // 16, 16 and 8 queries
  double pairs = 0;
  for (int token = 30; token < 70; ++token) pairs += token + 1;
  EXPECT_EQ(result.work().total().flops, pairs * 4 * 4 * 32);
  EXPECT_EQ(result.work().total().bytes, (46 + 62 + 70) * 2.0 * 2 * 32 * 4);
  EXPECT_EQ(result.seconds.size(), 2u);
  EXPECT_EQ(result.judgements.size(), 2u);
  EXPECT_EQ(result.ceilings.scores, Ceiling::FMA);
  EXPECT_EQ(result.ceilings.values, Ceiling::FMA);
}

TEST(AttentionBenchTest, RefusesWhatMakesNoSenseOrDoesNotFit) {
  Team team(1);
  const Runtime runtime{choose_kernels("scalar"), team};
  EXPECT_THROW(AttentionBench({3, 2, 32, Operand::F32, Format::F32, 16}, 10, runtime), Error);
  EXPECT_THROW(AttentionBench({2, 2, 31, Operand::F32, Format::F32, 16}, 10, runtime), Error);
  EXPECT_THROW(
      AttentionBench({2, 2, 65536, Operand::F32, Format::F32, 16}, size_t{1} << 40, runtime),
      Error);
}

TEST(RillBenchAttention, EveryCaseOnEveryMethod) {
  const Finished run = run_rill(
      {"bench-attention", "--tokens",  "130",        "--queries", "all,1", "--heads", "2",
       "--kv-heads",      "1",         "--head-dim", "16",        "-t",    "1,2",     "--isa",
       "scalar",          "--compute", "f32",        "-r",        "1",     "-o",      "json"});
  ASSERT_EQ(run.status, 0) << run.err;
  const Json rows = Json::parse(run.out);
  ASSERT_EQ(rows.size(), 2u * 2 * 2);
  for (const Json& row : rows) {
    const size_t tokens = row["n_tokens"], queries = row["n_queries"];
    const double pairs = queries == 1 ? tokens : tokens * (tokens + 1) / 2.0;
    EXPECT_EQ(row["flops"].get<double>(), pairs * 4 * 2 * 16);
    const double seconds = row["avg_ns"].get<double>() / 1e9;
    EXPECT_NEAR(row["gflops"].get<double>() * 1e9 * seconds / row["flops"].get<double>(), 1, 0.01);
    EXPECT_NEAR(row["avg_ts"].get<double>() * seconds / static_cast<double>(queries), 1, 0.01);
    if (row["n_threads"] == 1) {
      EXPECT_EQ(row["speedup"], 1.0);
      EXPECT_DOUBLE_EQ(row["efficiency"].get<double>(), 100);
    } else {
      EXPECT_NEAR(row["efficiency"].get<double>(), 50 * row["speedup"].get<double>(), 1e-6);
    }
  }
  EXPECT_EQ(rows[0]["attention"], "standard");
  EXPECT_EQ(rows[2]["attention"], "streaming");
}

// The operator of the first users' study, as they would ask for it.
TEST(RillBenchAttention, OneQueryOfOneHead) {
  const Finished run = run_rill({"bench-attention", "--tokens", "64..256", "--head-dim", "128",
                                 "--queries", "1", "--heads", "1", "--block-size", "64,128",
                                 "--isa", "auto", "-t", "1", "-r", "1", "-o", "json"});
  ASSERT_EQ(run.status, 0) << run.err;
  const Json rows = Json::parse(run.out);
  ASSERT_EQ(rows.size(), 3u * 2 * 2);
  EXPECT_EQ(rows[2]["n_tokens"], 256);
  EXPECT_EQ(rows[2]["kv_heads"], 1);
  EXPECT_EQ(rows[2]["n_ranks"], 1);
  EXPECT_GT(rows[2]["pct_of_bandwidth"].get<double>(), 0);
}

TEST(RillBenchAttention, TablesOfTheFirstDescription) {
  const Finished run = run_rill({"bench-attention", "--tokens", "64", "--heads", "2", "--kv-heads",
                                 "2", "--head-dim", "16", "--isa", "scalar,auto", "-t", "1", "-r",
                                 "1", "--block-size", "16"});
  ASSERT_EQ(run.status, 0) << run.err;
  for (const char* piece :
       {"2 heads over 2 KV heads of 16, compute bf16, kv bf16", "pct_of_ceiling",
        "### prefill, standard, block 16", "### prefill, scalar, 1 thread, block 16",
        "standard (ms)", "streaming (ms)", "Speedup"})
    EXPECT_NE(run.out.find(piece), std::string::npos) << piece << "\n" << run.out;
}

TEST(RillBenchAttention, RefusesInOneSentence) {
  const std::vector<std::pair<std::vector<std::string>, int>> cases = {
      {{"--tokens", "0"}, 2},
      {{"--tokens", "x"}, 2},
      {{"--queries", "some"}, 2},
      {{"--queries", "65", "--tokens", "64"}, 2},
      {{"--attention", "flash"}, 2},
      {{"--attention", "standard,"}, 2},
      {{"--block-size", "48"}, 2},
      {{"--isa", "neon"}, 2},
      {{"--ranks", "2"}, 2},
      {{"-t", "0"}, 2},
      {{"--heads", "3", "--kv-heads", "2"}, 2},
      {{"--head-dim", "15"}, 2},
      {{"-o", "xml"}, 2},
      {{"--kv", "int3"}, 2},
      {{"--plot", "/no/such/folder/x.svg"}, 1},
  };
  for (auto [arguments, status] : cases) {
    arguments.insert(arguments.begin(), "bench-attention");
    const Finished run = run_rill(arguments);
    EXPECT_EQ(run.status, status) << arguments[1] << " " << run.err;
    EXPECT_EQ(run.out, "");
    EXPECT_EQ(std::count(run.err.begin(), run.err.end(), '\n'), 1) << run.err;
  }
}

TEST(RillRun, StatsOfTheStart) {
  const Finished demo = run_rill({"run", kDemo, "Hi", "--max-tokens", "2", "--stats"});
  ASSERT_EQ(demo.status, 0) << demo.err;
  EXPECT_NE(demo.err.find(" s after the start of the process"), std::string::npos) << demo.err;
  EXPECT_NE(demo.err.find("; peak memory "), std::string::npos) << demo.err;
}

}  // namespace
}  // namespace rill
