// SPDX-License-Identifier: Apache-2.0
// `rill bench` and `benchmark_qwen3` from outside.
#include <gtest/gtest.h>

#include <cstdio>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <set>

#include "cli/process.h"

namespace rill {
namespace {

using Json = nlohmann::json;

const std::string kModel = golden("tied-gqa-bf16");

Finished run_benchmark(const std::string& arguments) {
  return run_shell("'" RILL_BIN_DIR "/benchmark_qwen3' " + arguments + "\n");
}

TEST(RillBench, JsonOfAllTestsAndTheirPercentages) {
  const Finished run = run_rill({"bench", kModel, "-p", "8,70", "-n", "3", "-pg", "4,2", "-d",
                                 "0,5", "-t", "2", "-r", "2", "--chunk", "16", "-o", "json"});
  ASSERT_EQ(run.status, 0) << run.err;
  const Json rows = Json::parse(run.out);
  ASSERT_EQ(rows.size(), 2 * 4u);
  EXPECT_EQ(rows[0]["test"], "pp8");
  EXPECT_EQ(rows[3]["test"], "pp4+tg2");
  EXPECT_EQ(rows[5]["test"], "pp70 @ d5");
  EXPECT_EQ(rows[7]["n_threads"], 2);
  for (const Json& row : rows) {
    EXPECT_EQ(row["samples_ns"].size(), 2u);
    EXPECT_EQ(row["attention"], "streaming");
    EXPECT_EQ(row["n_batch"], 16);
    EXPECT_GT(row["avg_ts"].get<double>(), 0);
    EXPECT_GT(row["pct_of_ceiling"].get<double>(), 0);
    EXPECT_LE(row["pct_of_ceiling"].get<double>(), 102);
    const std::string ceiling = row["ceiling"];
    EXPECT_EQ(row["ceiling_value"], row["peak_" + ceiling]);
    EXPECT_EQ(row["samples_pct"].size(), 2u);
  }
}

TEST(RillBench, TheProfileAddsUpToTheTime) {
  const Finished run = run_rill({"bench", kModel, "-p", "40", "-n", "4", "-d", "200", "--fill",
                                 "-t", "2", "-r", "2", "--profile", "-o", "json"});
  ASSERT_EQ(run.status, 0) << run.err;
  for (const Json& row : Json::parse(run.out)) {
    double sum = 0, shares = 0, flops = 0;
    std::set<std::string> names;
    for (const Json& line : row["profile"]) {
      names.insert(line["operation"].get<std::string>());
      sum += line["ns"].get<double>();
      shares += line["share"].get<double>();
      flops += line["flops"].get<double>();
      EXPECT_GE(line["ns"].get<double>(), 0) << line;
      EXPECT_EQ(line["pct_of_ceiling"].is_null(), line["ceiling"] == "") << line;
    }
    EXPECT_NEAR(sum / row["avg_ns"].get<double>(), 1, 1e-4) << row["test"];
    EXPECT_NEAR(shares, 100, 1e-3);
    EXPECT_NEAR(flops / (row["gflops"].get<double>() * row["avg_ns"].get<double>()), 1, 1e-4);
    for (const char* name : {"waiting", "embedding", "norms", "qkv", "heads", "attention", "o",
                             "gate_up", "down", "head", "rest"})
      EXPECT_TRUE(names.count(name)) << name;
  }
}

TEST(RillBench, TheProfileIsATableForEachTest) {
  const Finished run =
      run_rill({"bench", kModel, "-p", "8", "-n", "2", "-t", "1-2", "-r", "1", "--profile"});
  ASSERT_EQ(run.status, 0) << run.err;
  for (const char* piece : {"profile of pp8, 1 thread,", "profile of tg2, 2 threads,", "| gate_up"})
    EXPECT_NE(run.out.find(piece), std::string::npos) << piece << "\n" << run.out;
}

TEST(RillBench, TheRooflineIsDrawnOrRefusedBeforeMeasuring) {
  const std::string file = testing::TempDir() + "it's a roofline.svg";
  std::remove(file.c_str());
  const std::string command =
      "rill bench " + kModel + " -p 8 -n 2 -t 1 -r 1 -o csv --roofline \"" + file + "\"\n";
  const Finished without =
      run_shell("PATH=/nonexistent rill bench " + kModel + " --roofline \"" + file + "\"\n");
  EXPECT_EQ(without.status, 1);
  EXPECT_EQ(without.out, "");
  EXPECT_NE(without.err.find("gnuplot"), std::string::npos) << without.err;
  EXPECT_EQ(std::count(without.err.begin(), without.err.end(), '\n'), 1) << without.err;
  if (run_shell("command -v gnuplot").status != 0) return;  // as on many machines
  const Finished run = run_shell(command);
  ASSERT_EQ(run.status, 0) << run.err;
  std::ifstream stream(file);
  const std::string svg{std::istreambuf_iterator<char>(stream), {}};
  EXPECT_NE(svg.find("<svg"), std::string::npos);
  EXPECT_NE(svg.find("</svg>"), std::string::npos);
  for (const char* word : {"gate_up", "attention", "pp8, 1 thread", "tg2, 1 thread"})
    EXPECT_NE(svg.find(word), std::string::npos) << word;
  EXPECT_NE(run_rill({"bench", kModel, "--roofline", "/no/such/folder/x.svg"}).status, 0);
}

TEST(RillBench, OptionsOfTheArithmeticAreUsedAndReported) {
  const Finished run =
      run_rill({"bench",        kModel,   "-p",          "4",    "-n",          "0",
                "-r",           "1",      "-t",          "1",    "-b",          "3",
                "--isa",        "scalar", "--weights",   "int8", "--attention", "standard",
                "--block-size", "32",     "--no-warmup", "-o",   "jsonl"});
  ASSERT_EQ(run.status, 0) << run.err;
  const Json row = Json::parse(run.out);
  EXPECT_EQ(row["isa"], "scalar");
  EXPECT_EQ(row["weights"], "int8");
  EXPECT_EQ(row["attention"], "standard");
  EXPECT_EQ(row["block"], 32);
  EXPECT_EQ(row["n_sequences"], 3);
}

TEST(RillBench, RefusesInOneSentence) {
  const std::vector<std::pair<std::vector<std::string>, int>> cases = {
      {{"bench"}, 2},
      {{"bench", kModel, "--shape", "qwen3-0.6b"}, 2},
      {{"bench", kModel, "-o", "xml"}, 2},
      {{"bench", kModel, "-p", "0", "-n", "0"}, 2},
      {{"bench", kModel, "-p", "8-"}, 2},
      {{"bench", kModel, "-pg", "8"}, 2},
      {{"bench", kModel, "-t", "0"}, 2},
      {{"bench", kModel, "-b", "0"}, 2},
      {{"bench", kModel, "-r", "0"}, 2},
      {{"bench", kModel, "-p", "1000000"}, 1},
      {{"bench", "--shape", "qwen3-0.7b"}, 2},
      {{"bench", "/no/such/folder"}, 1},
  };
  for (const auto& [arguments, status] : cases) {
    const Finished run = run_rill(arguments);
    EXPECT_EQ(run.status, status) << run.err;
    EXPECT_EQ(run.out, "");
    EXPECT_EQ(std::count(run.err.begin(), run.err.end(), '\n'), 1) << run.err;
  }
}

TEST(BenchmarkQwen3, VerifiesThatBothAttentionsGiveTheSameTokens) {
  const Finished run = run_benchmark("--model " + kModel + " --verify 1,2,3 --gen-len 5");
  EXPECT_EQ(run.status, 0) << run.err;
  EXPECT_EQ(run.out.find("standard: ["), 0u) << run.out;
  EXPECT_NE(run.out.find("\nstreaming: ["), std::string::npos) << run.out;
  EXPECT_NE(run.out.find("\nsame tokens: yes\n"), std::string::npos) << run.out;
  // Neither the method, nor the steps of the prompt, nor a batch change a token.
  const Finished other = run_benchmark("--model " + kModel +
                                       " --verify 1,2,3 --gen-len 5 --method baseline "
                                       "--q-block-size 2 --batch-size 2 --attention streaming");
  EXPECT_EQ(other.status, 0) << other.err;
  const size_t begin = run.out.find('['), end = run.out.find(']');
  const std::string tokens = run.out.substr(begin, end - begin);
  EXPECT_EQ(other.out.find("streaming, sequence 1: " + tokens), 0u) << other.out;
  EXPECT_NE(other.out.find("sequence 2: " + tokens), std::string::npos) << other.out;
}

TEST(BenchmarkQwen3, PrintsTheTablesOfTheFirstDescription) {
  const Finished run = run_benchmark("--model " + kModel + " --prompt-len 4-16*2 --iters 1");
  ASSERT_EQ(run.status, 0) << run.err;
  for (const char* piece : {"### Prefill, Baseline\n", "Standard (ms)", "Streaming (ms)", "Speedup",
                            "### Decode, after 16 tokens", "- Baseline, Standard: Step 1: "})
    EXPECT_NE(run.out.find(piece), std::string::npos) << piece << "\n" << run.out;
}

TEST(BenchmarkQwen3, OnePhaseOfOneMethod) {
  const Finished run = run_benchmark("--model " + kModel +
                                     " --phase prefill --method baseline --prompt-len 20 "
                                     "--iters 1 --warmup 0 --kv-block-size 16 --threads 1");
  ASSERT_EQ(run.status, 0) << run.err;
  EXPECT_NE(run.out.find("attention standard, block 16"), std::string::npos) << run.out;
  EXPECT_NE(run.out.find("|     20 |"), std::string::npos) << run.out;
  EXPECT_EQ(run.out.find("Decode"), std::string::npos);
  EXPECT_EQ(run.out.find("Streaming"), std::string::npos);
}

TEST(BenchmarkQwen3, RefusesInOneSentence) {
  const std::pair<const char*, int> cases[] = {
      {"--method mpi", 2},       {"--method mpi_avx2", 2},      {"--method neon", 2},
      {"--phase train", 2},      {"--attention flash", 2},      {"--prompt-len 0", 2},
      {"--kv-block-size 48", 2}, {"--verify 1,2 --iters 3", 2}, {"--verify x", 2},
      {"--shape qwen3-0.6b", 2}, {"--verify 99999999", 1},      {"--prompt-len 9999999", 1},
  };
  for (const auto& [arguments, status] : cases) {
    const Finished run = run_benchmark("--model " + kModel + " " + arguments);
    EXPECT_EQ(run.status, status) << arguments << ": " << run.err;
    EXPECT_EQ(run.out, "") << arguments;
    EXPECT_EQ(std::count(run.err.begin(), run.err.end(), '\n'), 1) << run.err;
  }
  const Finished mpi = run_benchmark("--method mpi");
  EXPECT_NE(mpi.err.find("--method mpi runs on ranks, but no launcher"), std::string::npos)
      << mpi.err;
}

}  // namespace
}  // namespace rill
