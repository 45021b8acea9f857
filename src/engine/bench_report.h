// SPDX-License-Identifier: Apache-2.0
// Benchmark results as llama-bench prints them: Markdown, CSV, JSON, JSON lines.
#pragma once
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "engine/bench_run.h"
#include "engine/bench_table.h"
#include "engine/bench_values.h"
#include "kernels/ceilings.h"

namespace rill {

/// What all tests of one run share.
struct BenchSubject {
  std::string model_file;  // folder, or the published name of a shape
  std::string model_type;  // "qwen3 0.6B bf16"
  size_t model_bytes = 0;  // packed
  size_t parameters = 0;
  Arithmetic arithmetic;
  std::string isa;
  int threads = 1;  // of a rank
  size_t chunk = 512;
  int tp = 1, sp = 1;     // ranks
  std::string numa = {};  // what was placed where (Placement::describe)
};

/// "qwen3 0.6B bf16": the size as the series counts it.
std::string model_type(const ModelConfig& config, const Arithmetic& arithmetic);

/// One result: the fields that readers of llama-bench know, then Rill's own. An ordered
/// object; numbers are in ns, tokens/s, GB/s and GFLOP/s. Each repetition's percentage is 100 times
/// the ideal time (IdealTime) under its own ceilings over its time; pct_of_ceiling, ceiling_value
/// and the peak_ fields are medians over the `settled` repetitions (over all if there are none).
/// "profile" (profile_rows) only with one. The result must have judgements.
nlohmann::ordered_json bench_row(const BenchSubject& subject, const BenchResult& result);

/// Throws rill::Error if a row is above 102 % of its ceiling: then the ceiling was measured too
/// low, and no percentage of the run is to be trusted.
void check_ceilings(const std::vector<nlohmann::ordered_json>& rows);

/// All rows in `format`, ending with a newline.
std::string format_report(const std::vector<nlohmann::ordered_json>& rows, ReportFormat format);

}  // namespace rill
