// SPDX-License-Identifier: Apache-2.0
#include "engine/bench_report.h"

#include <algorithm>
#include <sstream>

#include "base/error.h"
#include "base/numa.h"
#include "base/topology.h"
#include "build_commit.h"
#include "engine/bench_profile.h"

namespace rill {
namespace {

using Json = nlohmann::ordered_json;

std::string size_text(double bytes) {
  constexpr double kGiB = 1024.0 * 1024 * 1024;
  return bytes < kGiB ? fixed(bytes / 1024 / 1024) + " MiB" : fixed(bytes / kGiB) + " GiB";
}

std::string count_text(double count) {
  return count < 1e9 ? fixed(count / 1e6) + " M" : fixed(count / 1e9) + " B";
}

/// Do the rows differ from `usual` in `field`? Then the table shows it.
bool unusual(const std::vector<Json>& rows, const char* field, size_t usual) {
  return std::any_of(rows.begin(), rows.end(),
                     [&](const Json& row) { return row[field].get<size_t>() != usual; });
}

/// "fma 530.1" or, if the tests of these threads differ, "fma 528.0 to 531.2"; "" if there is none.
std::string range_of(const std::vector<Json>& rows, int threads, Ceiling kind) {
  double least = 0, most = 0;
  for (const Json& row : rows) {
    if (row["n_threads"].get<int>() != threads) continue;
    const double value = row[std::string("peak_") + to_string(kind)].get<double>();
    least = most == 0 ? value : std::min(least, value);
    most = std::max(most, value);
  }
  if (most <= 0) return "";
  const std::string low = fixed(least, 1), high = fixed(most, 1);
  return std::string(to_string(kind)) + " " + (low == high ? low : low + " to " + high);
}

/// One line for each thread count.
std::string ceiling_lines(const std::vector<Json>& rows) {
  std::ostringstream text;
  int threads = 0;
  for (const Json& row : rows) {
    if (row["n_threads"].get<int>() == threads) continue;
    threads = row["n_threads"].get<int>();
    text << "ceilings measured beside the tests, " << threads
         << (threads == 1 ? " thread: " : " threads: ");
    for (Ceiling kind : kPeaks) {
      const std::string range = range_of(rows, threads, kind);
      if (!range.empty()) text << range << " GFLOP/s, ";
    }
    text << range_of(rows, threads, Ceiling::BANDWIDTH) << " GB/s\n";
  }
  return text.str();
}

/// What the threads ran on; a line for each thread count that was placed otherwise.
std::string machine_lines(const std::vector<Json>& rows) {
  std::string text, last;
  for (const Json& row : rows) {
    const std::string line = "machine: " + row["machine"].get<std::string>() + "; " +
                             row["numa"].get<std::string>() + "\n";
    if (line != last) text += line;
    last = line;
  }
  return text;
}

std::string markdown(const std::vector<Json>& rows) {
  std::vector<std::string> names = {"model", "size", "params", "backend", "threads"};
  const bool batch = unusual(rows, "n_sequences", 1), chunk = unusual(rows, "n_batch", 512);
  const bool ranks = unusual(rows, "tp", 1) || unusual(rows, "sp", 1);
  if (ranks) names.insert(names.end(), {"tp", "sp"});
  if (batch) names.push_back("batch");
  if (chunk) names.push_back("chunk");
  names.insert(names.end(), {"test", "t/s", "isa", "compute", "weights", "kv", "attention", "block",
                             "gbps", "gflops", "ceiling", "ceiling_value", "pct_of_ceiling"});
  std::vector<std::vector<std::string>> cells = {names};
  for (const Json& row : rows) {
    const auto text = [&](const char* field) { return row[field].get<std::string>(); };
    const auto number = [&](const char* field) { return row[field].get<double>(); };
    const auto count = [&](const char* field) { return std::to_string(row[field].get<size_t>()); };
    std::vector<std::string> line = {text("model_type"), size_text(number("model_size")),
                                     count_text(number("model_n_params")), text("backends"),
                                     count("n_threads")};
    if (ranks) line.insert(line.end(), {count("tp"), count("sp")});
    if (batch) line.push_back(count("n_sequences"));
    if (chunk) line.push_back(count("n_batch"));
    line.insert(line.end(),
                {text("test"), fixed(number("avg_ts")) + " ± " + fixed(number("stddev_ts")),
                 text("isa"), text("compute"), text("weights"), text("kv"), text("attention"),
                 count("block"), fixed(number("gbps")), fixed(number("gflops"), 1), text("ceiling"),
                 fixed(number("ceiling_value"), 1), fixed(number("pct_of_ceiling"), 1)});
    cells.push_back(line);
  }
  return markdown_table(cells, 1) + "\n" + machine_lines(rows) + ceiling_lines(rows) +
         profile_tables(rows) + "\nbuild: " + kBuildCommit + "\n";
}

}  // namespace

std::string model_type(const ModelConfig& config, const Arithmetic& arithmetic) {
  for (const PublishedModel& model : published_models()) {
    if (model.hidden_size != config.hidden_size || model.num_layers != config.num_layers) continue;
    const std::string name(model.name);
    const size_t dash = name.find('-');
    std::string size = dash == std::string::npos ? name : name.substr(dash + 1);
    if (!size.empty() && size.back() == 'b') size.back() = 'B';
    return "qwen3 " + size + " " + to_string(arithmetic.declared);
  }
  const auto parameters = static_cast<double>(config.parameter_count());
  const std::string size =
      parameters < 1e9 ? fixed(parameters / 1e6, 1) + "M" : fixed(parameters / 1e9, 1) + "B";
  return "qwen3 " + size + " " + to_string(arithmetic.declared);
}

Json bench_row(const BenchSubject& subject, const BenchResult& result) {
  const auto tokens = static_cast<double>(result.tokens());
  Json samples_ns = Json::array(), samples_ts = Json::array();
  std::vector<double> rates;
  for (double seconds : result.seconds) {
    samples_ns.push_back(static_cast<int64_t>(seconds * 1e9));
    rates.push_back(tokens / seconds);
    samples_ts.push_back(rates.back());
  }
  const Statistics time = statistics(result.seconds), rate = statistics(rates);
  const Work work = result.cost.total();
  const Verdict verdict =
      verdict_of(result.seconds, result.judgements,
                 [&](const Ceilings& ceilings) { return result.cost.ideal(ceilings).seconds; });
  const Ceilings& peaks = verdict.ceilings;
  const IdealTime ideal = result.cost.ideal(peaks);
  const Arithmetic& arithmetic = subject.arithmetic;
  const BenchTest& test = result.test;
  Json row{{"build_commit", kBuildCommit},
           {"cpu_info", cpu_name()},
           {"backends", "CPU"},
           {"model_filename", subject.model_file},
           {"model_type", subject.model_type},
           {"model_size", subject.model_bytes},
           {"model_n_params", subject.parameters},
           {"n_batch", subject.chunk},
           {"n_threads", subject.threads},
           {"tp", subject.tp},
           {"sp", subject.sp},
           {"machine", read_machine().describe()},
           {"numa", subject.numa},
           {"type_k", name_of(arithmetic.kv)},
           {"type_v", name_of(arithmetic.kv)},
           {"n_prompt", test.prompt},
           {"n_gen", test.generated},
           {"n_depth", test.depth},
           {"n_sequences", test.batch},
           {"test", test.name()},
           {"test_time", result.time},
           {"avg_ns", static_cast<int64_t>(time.mean * 1e9)},
           {"stddev_ns", static_cast<int64_t>(time.deviation * 1e9)},
           {"avg_ts", rate.mean},
           {"stddev_ts", rate.deviation},
           {"samples_ns", samples_ns},
           {"samples_ts", samples_ts},
           {"isa", subject.isa},
           {"compute", name_of(arithmetic.attention)},
           {"compute_linear", name_of(arithmetic.linear)},
           {"weights", to_string(arithmetic.declared)},
           {"kv", name_of(arithmetic.kv)},
           {"attention", to_string(arithmetic.attention_type)},
           {"block", arithmetic.block_size},
           {"gbps", work.bytes / time.mean / 1e9},
           {"gflops", work.flops / time.mean / 1e9},
           {"ceiling", to_string(ideal.binding)},
           {"ceiling_value", value_of(peaks, ideal.binding) / 1e9},
           {"pct_of_ceiling", verdict.percent},
           {"samples_pct", verdict.percents},
           {"settled", verdict.settled},
           {"peak_fma", peaks.fma / 1e9},
           {"peak_vdpbf16ps", peaks.vdpbf16ps / 1e9},
           {"peak_vnni", peaks.vnni / 1e9},
           {"peak_maddubs", peaks.maddubs / 1e9},
           {"peak_amx_bf16", peaks.amx_bf16 / 1e9},
           {"peak_amx_int8", peaks.amx_int8 / 1e9},
           {"peak_bandwidth", peaks.bandwidth / 1e9}};
  if (result.profile) row["profile"] = profile_rows(result);
  return row;
}

void check_ceilings(const std::vector<Json>& rows) {
  constexpr double kMostPercent = 102;
  for (const Json& row : rows) {
    const double percent = row["pct_of_ceiling"].get<double>();
    if (percent <= kMostPercent) continue;
    fail(row["test"].get<std::string>(), " with ", row["n_threads"].get<int>(), " threads reached ",
         fixed(percent, 1), " % of the ", row["ceiling"].get<std::string>(),
         " ceiling, so the ceiling was measured too low; end what else this machine computes and "
         "run again");
  }
}

std::string format_report(const std::vector<Json>& rows, ReportFormat format) {
  return format == ReportFormat::MD ? markdown(rows) : format_rows(rows, format);
}

}  // namespace rill
