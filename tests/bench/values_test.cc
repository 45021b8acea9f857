// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cmath>

#include "base/error.h"
#include "engine/bench_run.h"
#include "engine/bench_values.h"

namespace rill {
namespace {

using Values = std::vector<size_t>;

TEST(ParseList, NumbersAndRanges) {
  EXPECT_EQ(parse_list("512", "-p"), Values({512}));
  EXPECT_EQ(parse_list("128,512,0", "-p"), Values({128, 512, 0}));
  EXPECT_EQ(parse_list("1-4", "-t"), Values({1, 2, 3, 4}));
  EXPECT_EQ(parse_list("0-10+4", "-d"), Values({0, 4, 8}));
  EXPECT_EQ(parse_list("4-64*2,100", "-p"), Values({4, 8, 16, 32, 64, 100}));
  EXPECT_EQ(parse_list("4..65", "-p"), Values({4, 8, 16, 32, 64}));
  EXPECT_EQ(parse_list("7-7", "-p"), Values({7}));
}

TEST(ParseList, RefusesAndNamesTheOption) {
  for (const char* text :
       {"", ",", "5,", "x", "-5", "5-", "5-4", "1-9+0", "1-9*1", "0-9*2", "1-9+2x", "1 ,2",
        "100000001", "99999999999999999999", "1-5000", "5*2", "g"}) {
    try {
      parse_list(text, "--n-prompt");
      ADD_FAILURE() << "accepted \"" << text << "\"";
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find("--n-prompt"), std::string::npos) << error.what();
    }
  }
}

TEST(ParsePair, TwoPositiveNumbers) {
  EXPECT_EQ(parse_pair("512,128", "-pg"), std::make_pair(size_t{512}, size_t{128}));
  for (const char* text : {"512", "512,0", "0,4", "1,2,3", "a,b"})
    EXPECT_THROW(parse_pair(text, "-pg"), Error) << text;
}

TEST(MedianTest, OfOddAndEvenNumbers) {
  EXPECT_EQ(median({}), 0);
  EXPECT_EQ(median({5}), 5);
  EXPECT_EQ(median({9, 1, 2}), 2);
  EXPECT_EQ(median({9, 1, 2, 4}), 3);
}

TEST(StatisticsTest, MeanAndSampleDeviation) {
  const Statistics some = statistics({2, 4, 4, 4, 5, 5, 7, 9});
  EXPECT_DOUBLE_EQ(some.mean, 5);
  EXPECT_DOUBLE_EQ(some.deviation, std::sqrt(32.0 / 7));
  EXPECT_DOUBLE_EQ(statistics({3}).mean, 3);
  EXPECT_DOUBLE_EQ(statistics({3}).deviation, 0);
  EXPECT_DOUBLE_EQ(statistics({}).mean, 0);
}

TEST(BenchTests, NamesAsLlamaBenchGivesThem) {
  EXPECT_EQ((BenchTest{512, 0, 0, 1}).name(), "pp512");
  EXPECT_EQ((BenchTest{0, 128, 0, 1}).name(), "tg128");
  EXPECT_EQ((BenchTest{512, 128, 0, 1}).name(), "pp512+tg128");
  EXPECT_EQ((BenchTest{512, 0, 4096, 1}).name(), "pp512 @ d4096");
}

TEST(BenchTests, AllCombinationsButZeros) {
  const BenchPlan plan{{0, 8}, {4}, {0, 16}, {1}, {{2, 3}}};
  std::vector<std::string> names;
  for (const BenchTest& test : plan.tests()) names.push_back(test.name());
  EXPECT_EQ(names, (std::vector<std::string>{"pp8", "tg4", "pp2+tg3", "pp8 @ d16", "tg4 @ d16",
                                             "pp2+tg3 @ d16"}));
}

}  // namespace
}  // namespace rill
