// SPDX-License-Identifier: Apache-2.0
#include "engine/bench_profile.h"

#include <algorithm>

#include "engine/bench_table.h"
#include "engine/bench_values.h"

namespace rill {
namespace {

using Json = nlohmann::ordered_json;

Json profile_row(const BenchResult& result, Operation operation, double seconds) {
  const Work work = result.cost.total(operation);
  IdealTime ideal;
  for (const Judgement& judgement : result.judgements) {
    const IdealTime one = result.cost.ideal(judgement.ceilings, operation);
    ideal.seconds += one.seconds / static_cast<double>(result.judgements.size());
    ideal.binding = one.binding;
  }
  const bool counted = work.bytes > 0 && seconds > 0;
  return Json{{"operation", to_string(operation)},
              {"ns", seconds * 1e9},
              {"share", 100 * seconds / statistics(result.seconds).mean},
              {"flops", work.flops},
              {"bytes", work.bytes},
              {"gflops", counted ? work.flops / seconds / 1e9 : 0},
              {"gbps", counted ? work.bytes / seconds / 1e9 : 0},
              {"ceiling", counted ? to_string(ideal.binding) : ""},
              {"pct_of_ceiling", counted ? Json(100 * ideal.seconds / seconds) : Json()}};
}

}  // namespace

Json profile_rows(const BenchResult& result) {
  const auto repetitions = static_cast<double>(result.seconds.size());
  const double outside = statistics(result.seconds).mean - result.profile->total() / repetitions;
  std::vector<Json> rows;
  for (size_t i = 0; i < kOperations; ++i) {
    const auto operation = static_cast<Operation>(i);
    double seconds = result.profile->seconds(operation) / repetitions;
    if (operation == Operation::REST) seconds += outside;
    rows.push_back(profile_row(result, operation, seconds));
  }
  std::stable_sort(rows.begin(), rows.end(), [](const Json& a, const Json& b) {
    return a["ns"].get<double>() > b["ns"].get<double>();
  });
  return rows;
}

std::string profile_tables(const std::vector<Json>& rows) {
  std::string text;
  for (const Json& row : rows) {
    if (!row.contains("profile")) continue;
    std::vector<std::vector<std::string>> cells = {
        {"operation", "ms", "share", "GFLOP", "GB", "gflops", "gbps", "ceiling", "pct_of_ceiling"}};
    for (const Json& line : row["profile"]) {
      const auto number = [&](const char* field) { return line[field].get<double>(); };
      const bool counted = line["pct_of_ceiling"].is_number();
      const auto cell = [&](const std::string& value) { return counted ? value : ""; };
      cells.push_back({line["operation"].get<std::string>(), fixed(number("ns") / 1e6, 3),
                       fixed(number("share"), 1), cell(fixed(number("flops") / 1e9, 3)),
                       cell(fixed(number("bytes") / 1e9, 4)), cell(fixed(number("gflops"), 1)),
                       cell(fixed(number("gbps"), 2)), line["ceiling"].get<std::string>(),
                       counted ? fixed(number("pct_of_ceiling"), 1) : ""});
    }
    const int threads = row["n_threads"].get<int>();
    text += "\nprofile of " + row["test"].get<std::string>() + ", " + std::to_string(threads) +
            (threads == 1 ? " thread" : " threads") + ", of one repetition:\n\n" +
            markdown_table(cells, 1);
  }
  return text;
}

}  // namespace rill
