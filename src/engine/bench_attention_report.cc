// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <map>

#include "base/topology.h"
#include "build_commit.h"
#include "engine/bench_attention.h"
#include "engine/bench_plot.h"
#include "engine/bench_values.h"

namespace rill {
namespace {

using Json = nlohmann::ordered_json;
using Table = std::vector<std::vector<std::string>>;

bool same_case(const AttentionResult& a, const AttentionResult& b) {
  return a.what.tokens == b.what.tokens && a.what.queries == b.what.queries &&
         a.what.type == b.what.type && a.what.block_size == b.what.block_size;
}

double mean(const AttentionResult& result) {
  return statistics(result.seconds).mean;
}

/// Percent of the speed that perfect scaling from the fewest threads and ranks would give.
double efficiency(const AttentionResult& result, const std::vector<AttentionResult>& all) {
  const AttentionResult* least = &result;
  for (const AttentionResult& other : all)
    if (same_case(result, other) && result.isa == other.isa && other.workers() < least->workers())
      least = &other;
  return 100 * mean(*least) * least->workers() / (mean(result) * result.workers());
}

std::string phase_of(size_t tokens, size_t queries) {
  if (queries == tokens) return "prefill";
  return queries == 1 ? "decode" : std::to_string(queries) + " queries";
}

Json row_of(const AttentionLayer& layer, const AttentionResult& result, const AttentionResult& base,
            double scaling) {
  const Statistics time = statistics(result.seconds);
  const Verdict verdict =
      verdict_of(result.seconds, result.judgements,
                 [&](const Ceilings& ceilings) { return result.ideal(ceilings); });
  const Ceilings& peaks = verdict.ceilings;
  const Work work = result.work().total();
  const Ceiling binding = result.work().ideal(result.ceilings, peaks).binding;
  std::vector<int64_t> samples;
  for (double seconds : result.seconds) samples.push_back(static_cast<int64_t>(seconds * 1e9));
  return Json{{"build_commit", kBuildCommit},
              {"cpu_info", cpu_name()},
              {"test", phase_of(result.what.tokens, result.what.queries) + " of " +
                           std::to_string(result.what.tokens) + " tokens, " +
                           to_string(result.what.type) + " attention"},
              {"heads", layer.heads},
              {"kv_heads", layer.kv_heads},
              {"head_dim", layer.head_dim},
              {"n_tokens", result.what.tokens},
              {"n_queries", result.what.queries},
              {"attention", to_string(result.what.type)},
              {"block", result.what.block_size},
              {"compute", name_of(layer.operand)},
              {"kv", name_of(layer.kv)},
              {"isa", result.isa},
              {"n_threads", result.threads},
              {"n_ranks", result.ranks},
              {"avg_ns", static_cast<int64_t>(time.mean * 1e9)},
              {"stddev_ns", static_cast<int64_t>(time.deviation * 1e9)},
              {"samples_ns", samples},
              {"avg_ts", static_cast<double>(result.what.queries) / time.mean},
              {"flops", work.flops},
              {"bytes", work.bytes},
              {"gflops", work.flops / time.mean / 1e9},
              {"gbps", work.bytes / time.mean / 1e9},
              {"ceiling", to_string(binding)},
              {"ceiling_value", value_of(peaks, binding) / 1e9},
              {"pct_of_ceiling", verdict.percent},
              {"samples_pct", verdict.percents},
              {"pct_of_bandwidth", 100 * work.bytes / time.mean / peaks.bandwidth},
              {"settled", verdict.settled},
              {"speedup", mean(base) / time.mean},
              {"efficiency", scaling},
              {"kv_bytes", result.kv_bytes},
              {"scratch_bytes", result.scratch_bytes},
              {"peak_bytes", result.peak_bytes},
              {"peak_fma", peaks.fma / 1e9},
              {"peak_vdpbf16ps", peaks.vdpbf16ps / 1e9},
              {"peak_amx_bf16", peaks.amx_bf16 / 1e9},
              {"peak_bandwidth", peaks.bandwidth / 1e9}};
}

std::string text_of(const Json& row, const char* field) {
  return row[field].is_string() ? row[field].get<std::string>()
                                : std::to_string(row[field].get<size_t>());
}

std::string method_of(const Json& row) {
  const int threads = row["n_threads"].get<int>(), ranks = row["n_ranks"].get<int>();
  return row["isa"].get<std::string>() + ", " + std::to_string(threads) +
         (threads == 1 ? " thread" : " threads") +
         (ranks == 1 ? "" : ", " + std::to_string(ranks) + " ranks");
}

std::string queries_of(const Json& row) {
  return phase_of(row["n_tokens"].get<size_t>(), row["n_queries"].get<size_t>());
}

std::string milliseconds(const Json& row) {
  return fixed(row["avg_ns"].get<double>() / 1e6, 3);
}

std::string full_table(const std::vector<Json>& rows) {
  Table table = {{"attention", "block", "isa", "threads", "ranks", "tokens", "queries", "ms",
                  "tokens/s", "gflops", "gbps", "pct_of_bandwidth", "ceiling", "ceiling_value",
                  "pct_of_ceiling", "speedup", "efficiency", "peak KiB"}};
  for (const Json& row : rows) {
    const auto number = [&](const char* field, int digits) {
      return fixed(row[field].get<double>(), digits);
    };
    const double peak = row["peak_bytes"].get<double>() / 1024;
    table.push_back({text_of(row, "attention"), text_of(row, "block"), text_of(row, "isa"),
                     text_of(row, "n_threads"), text_of(row, "n_ranks"), text_of(row, "n_tokens"),
                     text_of(row, "n_queries"), milliseconds(row), number("avg_ts", 1),
                     number("gflops", 1), number("gbps", 2), number("pct_of_bandwidth", 1),
                     text_of(row, "ceiling"), number("ceiling_value", 1),
                     number("pct_of_ceiling", 1), number("speedup", 2), number("efficiency", 1),
                     fixed(peak, 0)});
  }
  return markdown_table(table, 1);
}

/// A table by number of tokens with a column of milliseconds for each value of `column`, and the
/// speed-up of every one over the first. "" if there is a single column.
std::string pivot(const std::string& title, const std::vector<const Json*>& rows,
                  const std::function<std::string(const Json&)>& column) {
  std::vector<std::string> names;
  std::map<size_t, std::map<std::string, const Json*>> lines;
  for (const Json* row : rows) {
    const std::string name = column(*row);
    if (std::find(names.begin(), names.end(), name) == names.end()) names.push_back(name);
    lines[(*row)["n_tokens"].get<size_t>()][name] = row;
  }
  if (names.size() < 2) return "";
  Table table = {{"Tokens"}};
  for (const std::string& name : names) {
    table[0].push_back(name + " (ms)");
    if (name != names.front()) table[0].push_back("Speedup");
  }
  for (const auto& [tokens, cells] : lines) {
    table.push_back({std::to_string(tokens)});
    for (const std::string& name : names) {
      const Json& row = *cells.at(name);
      table.back().push_back(milliseconds(row));
      if (name != names.front())
        table.back().push_back(fixed((*cells.at(names.front()))["avg_ns"].get<double>() /
                                     row["avg_ns"].get<double>()) +
                               "x");
    }
  }
  return "\n### " + title + "\n\n" + markdown_table(table, 0);
}

/// One pivot for each group of rows with the same title.
std::string pivots(const std::vector<Json>& rows,
                   const std::function<std::string(const Json&)>& title,
                   const std::function<std::string(const Json&)>& column) {
  std::vector<std::pair<std::string, std::vector<const Json*>>> groups;
  for (const Json& row : rows) {
    const std::string name = title(row);
    auto group = std::find_if(groups.begin(), groups.end(),
                              [&](const auto& candidate) { return candidate.first == name; });
    if (group == groups.end()) group = groups.insert(groups.end(), {name, {}});
    group->second.push_back(&row);
  }
  std::string text;
  for (const auto& [name, members] : groups) text += pivot(name, members, column);
  return text;
}

std::string block_of(const Json& row) {
  return ", block " + text_of(row, "block");
}

}  // namespace

std::vector<Json> attention_rows(const AttentionLayer& layer,
                                 const std::vector<AttentionResult>& results) {
  std::vector<Json> rows;
  for (const AttentionResult& result : results) {
    const auto base = std::find_if(results.begin(), results.end(), [&](const auto& candidate) {
      return same_case(candidate, result);
    });
    rows.push_back(row_of(layer, result, *base, efficiency(result, results)));
  }
  return rows;
}

std::string format_attention(const std::vector<Json>& rows, ReportFormat format) {
  if (format != ReportFormat::MD) return format_rows(rows, format);
  const Json& first = rows.front();
  const std::string head = text_of(first, "heads") + " heads over " + text_of(first, "kv_heads") +
                           " KV heads of " + text_of(first, "head_dim") + ", compute " +
                           text_of(first, "compute") + ", kv " + text_of(first, "kv") + "\n\n";
  const auto attention = [](const Json& row) { return text_of(row, "attention"); };
  return head + full_table(rows) +
         pivots(
             rows,
             [&](const Json& row) {
               return queries_of(row) + ", " + attention(row) + block_of(row);
             },
             method_of) +
         pivots(
             rows,
             [](const Json& row) {
               return queries_of(row) + ", " + method_of(row) + block_of(row);
             },
             attention) +
         "\nbuild: " + kBuildCommit + "\n";
}

std::string attention_script(const std::vector<Json>& rows, const std::string& svg_file) {
  std::vector<PlotSeries> series;
  for (const Json& row : rows) {
    const std::string name =
        queries_of(row) + ", " + text_of(row, "attention") + block_of(row) + ", " + method_of(row);
    auto line = std::find_if(series.begin(), series.end(),
                             [&](const PlotSeries& candidate) { return candidate.name == name; });
    if (line == series.end()) line = series.insert(series.end(), {name, {}});
    line->points.emplace_back(row["n_tokens"].get<double>(), row["gflops"].get<double>());
  }
  return lines_script(series, "Attention by itself", "GFLOP/s", svg_file);
}

}  // namespace rill
