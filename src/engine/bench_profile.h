// SPDX-License-Identifier: Apache-2.0
// The profile of a test: per operation its time, its work, and how near it came to its ceiling.
#pragma once
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "engine/bench_run.h"

namespace rill {

/// An array of one object per operation, the longest first: operation, ns (of one repetition, the
/// mean over the threads), share (percent), flops, bytes, gflops, gbps, ceiling ("" where no work
/// is counted), pct_of_ceiling (null there; the mean over the repetitions of the ideal times, each
/// under its own ceilings, over the mean time). The ns add up to the mean time of a repetition:
/// "rest" holds what is outside of the forward steps. The result must have a profile and
/// judgements.
nlohmann::ordered_json profile_rows(const BenchResult& result);

/// Of rows with a "profile" a Markdown table each, with a title; "" if there are none.
std::string profile_tables(const std::vector<nlohmann::ordered_json>& rows);

}  // namespace rill
