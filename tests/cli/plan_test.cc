// SPDX-License-Identifier: Apache-2.0
// rill plan: what it prints, and what it refuses instead of dropping it.
#include <gtest/gtest.h>

#include "base/json.h"
#include "cli/process.h"
#include "model/test_folder.h"

namespace rill {
namespace {

bool has(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

Finished plan(const std::vector<std::string>& options) {
  std::vector<std::string> arguments = {"plan", "--shape", "qwen3-8b"};
  arguments.insert(arguments.end(), options.begin(), options.end());
  return run_rill(arguments);
}

void expect_refused(const std::vector<std::string>& options, int status,
                    const std::vector<std::string>& parts) {
  const Finished refused = plan(options);
  EXPECT_EQ(refused.status, status) << options[0] << "\n" << refused.out << refused.err;
  EXPECT_EQ(refused.out, "");
  for (const std::string& part : parts) EXPECT_TRUE(has(refused.err, part)) << refused.err;
}

TEST(Plan, ARankThatSendsNothingTakesNoEndlessTime) {
  for (const char* tp : {"5", "8"}) {
    const Finished times = run_rill({"plan", kDemo, "--tp", tp, "--node-memory", "64"});
    EXPECT_EQ(times.status, 0) << times.err;
    EXPECT_TRUE(has(times.out, "prompt of 512")) << times.out;
    EXPECT_FALSE(has(times.out, " 0.0 |")) << times.out;
    EXPECT_FALSE(has(times.out, "00000 s")) << times.out;
  }
}

TEST(Plan, NodeMemoryIsObeyedWithAndWithoutRanks) {
  for (const std::vector<std::string>& ranks :
       {std::vector<std::string>{}, {"--tp", "2"}, {"--ranks", "2"}}) {
    std::vector<std::string> options = {"--node-memory", "1"};
    options.insert(options.end(), ranks.begin(), ranks.end());
    const Finished small = plan(options);
    EXPECT_EQ(small.status, 1) << small.err;
    EXPECT_TRUE(has(small.out, "it does not fit")) << small.out;
    EXPECT_TRUE(has(small.out, "longest context that fits: none")) << small.out;
  }
  const Finished large = plan({"--node-memory", "64"});
  EXPECT_EQ(large.status, 0) << large.err;
  EXPECT_TRUE(has(large.out, "64.00 GiB   it fits")) << large.out;
}

TEST(Plan, OptionsOfRanksAreRefusedWithoutRanks) {
  for (const std::vector<std::string>& option : {std::vector<std::string>{"--constants", "nope"},
                                                 {"--link-gbits", "10"},
                                                 {"--link-latency", "5"},
                                                 {"-p", "100"},
                                                 {"-d", "100"}})
    expect_refused(option, 2, {option[0], "--ranks"});
}

TEST(Plan, MoreTokensThanPositionsAreRefused) {
  for (const char* tokens : {"40961", "99999999"})
    expect_refused({"--ranks", "2", "-p", tokens}, 1, {"-p", tokens, "40960 positions"});
  expect_refused({"--ranks", "2", "-d", "0,40960"}, 1, {"-d", "40961", "40960 positions"});
  EXPECT_EQ(plan({"--ranks", "2", "--node-memory", "64", "-p", "40960", "-d", "40959"}).status, 0);
}

// The lengths that nobody asked for must not have a small model refused.
TEST(Plan, TheUsualLengthsAreThoseThatTheModelHasPositionsFor) {
  const Finished small =
      run_rill({"plan", golden("tied-gqa-bf16"), "--tp", "2", "--node-memory", "64"});
  EXPECT_EQ(small.status, 0) << small.err;
  EXPECT_TRUE(has(small.out, "| a token ")) << small.out;
  EXPECT_FALSE(has(small.out, "| a token at 4096")) << small.out;
}

TEST(Plan, NumbersOfRanksAndNodesMustAgree) {
  expect_refused({"--tp", "1", "--nodes", "100"}, 2, {"--nodes is 100", "1 rank "});
  expect_refused({"--ranks", "16", "--nodes", "8", "--ranks-per-node", "4"}, 2,
                 {"--nodes is 8", "16 ranks", "4 on a node", "4 nodes"});
  expect_refused({"--ranks", "16", "--nodes", "2", "--ranks-per-node", "4"}, 2, {"4 nodes"});
  expect_refused({"--ranks", "5", "--nodes", "4"}, 2, {"--nodes is 4", "3 nodes"});
  expect_refused({"--tp", "2", "--ranks-per-node", "4"}, 2, {"--ranks-per-node is 4", "2 ranks"});
}

TEST(Plan, WhatIsNoNumberIsRefused) {
  for (const char* option : {"--link-gbits", "--link-latency", "--node-memory"})
    for (const char* value : {"nan", "-nan", "0", "x"})
      expect_refused({"--ranks", "2", option, value}, 2,
                     {option, std::string("'") + value + "'", "expected a number from 0.001"});
  for (const char* value : {"x", "1,2", "0", "65"})
    for (const char* option : {"--tp", "--sp"})
      expect_refused({"--ranks", "2", option, value}, 2,
                     {option + std::string(" is '") + value + "'; use 1 to ", "or auto"});
}

TEST(Plan, RanksThatNoShapeMakesAreToldWithSomeThatOneDoes) {
  expect_refused({"--ranks", "511"}, 2, {"511 ranks", "take for instance 504"});
  expect_refused({"--nodes", "512", "--ranks-per-node", "512"}, 2, {"262144", "instance 512"});
  expect_refused({"--ranks", "8", "--tp", "3"}, 2, {"as given, is not 8 ranks", "auto"});
}

TEST(Plan, NodesAloneHaveARankToANumaNode) {
  for (const std::vector<std::string>& options : {std::vector<std::string>{"--nodes", "4"},
                                                  {"--nodes", "4", "--tp", "auto"},
                                                  {"--nodes", "4", "--ranks-per-node", "2"},
                                                  {"--nodes", "4", "--ranks", "8"},
                                                  {"--nodes", "4", "--tp", "8"}}) {
    std::vector<std::string> all = options;
    all.insert(all.end(), {"--node-memory", "64"});
    const Finished nodes = plan(all);
    EXPECT_EQ(nodes.status, 0) << nodes.err;
    EXPECT_TRUE(has(nodes.out, "8 ranks (tp ")) << nodes.out;
    EXPECT_TRUE(has(nodes.out, "2 on each of 4 nodes")) << nodes.out;
  }
}

TEST(Plan, WhatIsNoFileOfConstantsIsRefusedByName) {
  const TestFolder folder;
  const std::string path = folder.path().string();
  expect_refused({"--ranks", "2", "--constants", path}, 1, {path + " is a folder"});
  expect_refused({"--ranks", "2", "--constants", path + "/none"}, 1, {path + "/none"});
}

TEST(Plan, LinksThatOneRankCannotMeasureAreAssumed) {
  const Finished bench = run_rill({"bench", "--comm", "-o", "json", "-t", "1"});
  ASSERT_EQ(bench.status, 0) << bench.err;
  EXPECT_FALSE(has(bench.out, "within_a_node")) << bench.out;
  EXPECT_FALSE(has(bench.out, "between_nodes")) << bench.out;
  const TestFolder folder;
  folder.write("constants.json", bench.out);
  const std::string file = (folder.path() / "constants.json").string();
  const Finished assumed = plan({"--ranks", "2", "--node-memory", "64", "--constants", file});
  EXPECT_EQ(assumed.status, 0) << assumed.err;
  EXPECT_TRUE(has(assumed.out, "; links assumed\n")) << assumed.out;

  nlohmann::ordered_json json = nlohmann::ordered_json::parse(bench.out);
  for (const char* field :
       {"gather_latency", "exchange_latency", "message", "gather_bandwidth", "exchange_bandwidth"})
    json["within_a_node"][field] = 1e9;
  folder.write("constants.json", json.dump());
  EXPECT_TRUE(has(plan({"--ranks", "2", "--node-memory", "64", "--constants", file}).out,
                  "; links between nodes assumed\n"));
}

}  // namespace
}  // namespace rill
