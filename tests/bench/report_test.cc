// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include "base/error.h"
#include "engine/bench_report.h"

namespace rill {
namespace {

using Json = nlohmann::ordered_json;

const ModelConfig& config() {
  static const ModelConfig value = published_model("qwen3-0.6b").config();
  return value;
}

Ceilings ceilings() {
  Ceilings made_up;
  made_up.fma = 200e9;
  made_up.vdpbf16ps = 400e9;
  made_up.bandwidth = 30e9;
  return made_up;
}

BenchSubject subject(const std::string& file = "qwen3-0.6b") {
  const Arithmetic arithmetic = resolve_arithmetic({}, DType::BF16);
  return {file, model_type(config(), arithmetic), 1 << 30, 596049920, arithmetic, "avx512bf16", 2,
          512};
}

/// Some repetitions of pp512 on a machine whose ceilings are made up.
Json row(std::vector<double> seconds, const std::string& file = "qwen3-0.6b") {
  BenchResult result{{512, 0, 0, 1},
                     CostModel(config(), subject().arithmetic, "avx512bf16"),
                     "2026-01-01T00:00:00Z",
                     std::move(seconds)};
  result.judgements.assign(result.seconds.size(), {ceilings(), true});
  result.cost.add_share({0, 512, 1});
  result.cost.end_step();
  return bench_row(subject(file), result);
}

TEST(BenchRow, TheFieldsOfLlamaBenchAndRill) {
  const Json json = row({2, 4});
  for (const char* field : {"build_commit", "cpu_info",       "model_filename", "model_type",
                            "model_size",   "model_n_params", "n_batch",        "n_threads",
                            "type_k",       "type_v",         "n_prompt",       "n_gen",
                            "n_depth",      "test_time",      "avg_ns",         "stddev_ns",
                            "avg_ts",       "stddev_ts",      "samples_ns",     "samples_ts",
                            "isa",          "compute",        "weights",        "kv",
                            "attention",    "block",          "gbps",           "gflops",
                            "ceiling",      "ceiling_value",  "pct_of_ceiling"})
    EXPECT_TRUE(json.contains(field)) << field;
  EXPECT_EQ(json["avg_ns"], 3000000000);
  EXPECT_DOUBLE_EQ(json["avg_ts"].get<double>(), (512 / 2.0 + 512 / 4.0) / 2);
  EXPECT_EQ(json["model_type"], "qwen3 0.6B bf16");
  EXPECT_EQ(json["ceiling"], "vdpbf16ps");
  EXPECT_DOUBLE_EQ(json["ceiling_value"].get<double>(), 400);
}

TEST(BenchRow, PercentageIsTheMedianOfIdealOverTime) {
  const Json json = row({2, 4, 5});
  const double layer_flops = json["gflops"].get<double>() * 1e9 * 11 / 3 - 2 * 151936.0 * 1024;
  const double ideal = layer_flops / 400e9 + 2 * 151936.0 * 1024 / 30e9;
  EXPECT_NEAR(json["pct_of_ceiling"].get<double>(), 100 * ideal / 4, 1e-6);
  ASSERT_EQ(json["samples_pct"].size(), 3u);
  EXPECT_NEAR(json["samples_pct"][0].get<double>(), 100 * ideal / 2, 1e-6);
}

TEST(BenchRow, EachRepetitionIsJudgedByItsOwnCeilings) {
  BenchResult result{{0, 1, 0, 1},
                     CostModel(config(), subject().arithmetic, "avx512bf16"),
                     "",
                     {0.04, 0.02, 0.03}};
  result.cost.add_share({0, 1, 1});
  result.cost.end_step();
  const double bytes = result.cost.total().bytes;
  for (double bandwidth : {40e9, 80e9, 60e9}) {
    result.judgements.push_back({ceilings(), true});
    result.judgements.back().ceilings.bandwidth = bandwidth;
  }
  EXPECT_NEAR(bench_row(subject(), result)["pct_of_ceiling"].get<double>(),
              100 * bytes / 40e9 / 0.04, 1e-6);
  EXPECT_NEAR(bench_row(subject(), result)["peak_bandwidth"].get<double>(), 60, 1e-9);
  // What the machine's change of speed went through does not count.
  result.judgements[0].settled = result.judgements[2].settled = false;
  const Json json = bench_row(subject(), result);
  EXPECT_NEAR(json["pct_of_ceiling"].get<double>(), 100 * bytes / 80e9 / 0.02, 1e-6);
  EXPECT_NEAR(json["ceiling_value"].get<double>(), 80, 1e-9);
  EXPECT_EQ(json["settled"], 1);
}

TEST(Judge, TheBetterOfBeforeAndAfter) {
  Ceilings before = ceilings(), after = ceilings();
  after.bandwidth = 1.04 * before.bandwidth;
  after.fma = before.fma / 2;
  EXPECT_TRUE(judge(before, after).settled);
  EXPECT_EQ(judge(before, after).ceilings.bandwidth, after.bandwidth);
  EXPECT_EQ(judge(before, after).ceilings.fma, before.fma);
  after.bandwidth = 0.9 * before.bandwidth;
  EXPECT_FALSE(judge(before, after).settled);
  EXPECT_EQ(judge(before, after).ceilings.bandwidth, before.bandwidth);
}

TEST(CheckCeilings, RefusesWhatCannotBe) {
  EXPECT_NO_THROW(check_ceilings({row({2, 2})}));
  try {
    check_ceilings({row({2, 2}), row({0.5, 0.5})});
    ADD_FAILURE();
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("pp512"), std::string::npos);
    EXPECT_NE(std::string(error.what()).find("vdpbf16ps"), std::string::npos);
  }
}

TEST(FormatReport, JsonAndJsonLinesParse) {
  const std::vector<Json> rows = {row({2, 4}, "bad \xff\" name"), row({3})};
  const Json all = Json::parse(format_report(rows, ReportFormat::JSON));
  ASSERT_EQ(all.size(), 2u);
  EXPECT_EQ(all[1]["samples_ns"].size(), 1u);
  const std::string lines = format_report(rows, ReportFormat::JSONL);
  const size_t end = lines.find('\n');
  EXPECT_EQ(Json::parse(lines.substr(0, end)), all[0]);
  EXPECT_EQ(Json::parse(lines.substr(end + 1)), all[1]);
}

TEST(FormatReport, CsvHasAsManyCellsInEveryLine) {
  const std::string text = format_report({row({2, 4}, "a \"b\", c"), row({3})}, ReportFormat::CSV);
  EXPECT_NE(text.find("\"a \"\"b\"\", c\""), std::string::npos);
  const std::string header = text.substr(0, text.find('\n'));
  EXPECT_EQ(header.substr(0, 13), "build_commit,");
  const std::string last = text.substr(text.rfind('\n', text.size() - 2) + 1);
  size_t cells = 1;
  for (size_t at = last.find("\",\""); at != std::string::npos; at = last.find("\",\"", at + 1))
    ++cells;
  EXPECT_EQ(cells, static_cast<size_t>(std::count(header.begin(), header.end(), ',')) + 1);
}

TEST(FormatReport, MarkdownHasTheColumnsInOrder) {
  const std::string text = format_report({row({2, 4})}, ReportFormat::MD);
  std::string header = text.substr(0, text.find('\n'));
  header.erase(std::remove(header.begin(), header.end(), ' '), header.end());
  EXPECT_EQ(
      header,
      "|model|size|params|backend|threads|test|t/s|isa|compute|weights|kv|attention|block|gbps|"
      "gflops|ceiling|ceiling_value|pct_of_ceiling|");
  EXPECT_NE(text.find("192.00 ± 90.51"), std::string::npos) << text;
  EXPECT_NE(text.find("ceilings measured beside the tests, 2 threads: fma 200.0 GFLOP/s"),
            std::string::npos);
}

TEST(FormatReport, UnknownFormat) {
  EXPECT_THROW(parse_report_format("xml", "--output"), Error);
}

}  // namespace
}  // namespace rill
