// SPDX-License-Identifier: Apache-2.0
// Benchmark results as llama-bench prints them: Markdown, CSV, JSON, JSON lines.
#pragma once
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "engine/bench_run.h"
#include "engine/bench_values.h"
#include "kernels/ceilings.h"

namespace rill {

enum class ReportFormat { MD, CSV, JSON, JSONL };

/// Throws rill::Error naming `option`, the value and the accepted ones.
ReportFormat parse_report_format(const std::string& text, const std::string& option);

/// What all tests of one run share.
struct BenchSubject {
  std::string model_file;  // folder, or the published name of a shape
  std::string model_type;  // "qwen3 0.6B bf16"
  size_t model_bytes = 0;  // packed
  size_t parameters = 0;
  Arithmetic arithmetic;
  std::string isa;
  int threads = 1;
  size_t chunk = 512;
  Ceilings ceilings;  // of these threads
};

/// "qwen3 0.6B bf16": the size as the series counts it.
std::string model_type(const ModelConfig& config, const Arithmetic& arithmetic);

/// One result: the fields that readers of llama-bench know, then Rill's own. An ordered
/// object; numbers are in ns, tokens/s, GB/s and GFLOP/s. pct_of_ceiling is 100 times the ideal
/// time (IdealTime) over the mean time.
nlohmann::ordered_json bench_row(const BenchSubject& subject, const BenchResult& result);

/// Throws rill::Error if a row is above 102 % of its ceiling: then the ceiling was measured too
/// low, and no percentage of the run is to be trusted.
void check_ceilings(const std::vector<nlohmann::ordered_json>& rows);

/// All rows in `format`, ending with a newline.
std::string format_report(const std::vector<nlohmann::ordered_json>& rows, ReportFormat format);

/// A Markdown table of `cells` (the first row is the header), columns padded to equal widths; the
/// columns from `numbers` on are aligned to the right.
std::string markdown_table(const std::vector<std::vector<std::string>>& cells, size_t numbers);

/// "1.23": with `digits` after the point.
std::string fixed(double value, int digits = 2);

}  // namespace rill
