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

/// Two repetitions of pp512 on a machine whose ceilings are made up.
Json row(std::vector<double> seconds, const std::string& file = "qwen3-0.6b") {
  ArithmeticOptions options;
  const Arithmetic arithmetic = resolve_arithmetic(options, DType::BF16);
  BenchSubject subject{
      file, model_type(config(), arithmetic), 1 << 30, 596049920, arithmetic, "avx512bf16", 2, 512,
      {}};
  subject.ceilings.fma = 200e9;
  subject.ceilings.vdpbf16ps = 400e9;
  subject.ceilings.bandwidth = 30e9;
  BenchResult result{{512, 0, 0, 1},
                     std::move(seconds),
                     CostModel(config(), arithmetic, subject.isa),
                     "2026-01-01T00:00:00Z"};
  result.cost.add_share({0, 512, 1});
  result.cost.end_step();
  return bench_row(subject, result);
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

TEST(BenchRow, PercentageIsIdealOverMeanTime) {
  const Json json = row({2, 4});
  const double layer_flops = json["gflops"].get<double>() * 1e9 * 3 - 2 * 151936.0 * 1024;
  const double ideal = layer_flops / 400e9 + 2 * 151936.0 * 1024 / 30e9;
  EXPECT_NEAR(json["pct_of_ceiling"].get<double>(), 100 * ideal / 3, 1e-6);
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
  EXPECT_NE(text.find("ceilings measured in this run, 2 threads: fma 200.0 GFLOP/s"),
            std::string::npos);
}

TEST(FormatReport, UnknownFormat) {
  EXPECT_THROW(parse_report_format("xml", "--output"), Error);
}

}  // namespace
}  // namespace rill
