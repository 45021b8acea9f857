// SPDX-License-Identifier: Apache-2.0
// Values of benchmarks: lists given on the command line, and statistics of samples.
#pragma once
#include <cstddef>
#include <string>
#include <utility>
#include <vector>

namespace rill {

/// Parses llama-bench's lists: "512", "128,512", ranges "first-last", "first-last+step" and
/// "first-last*factor" (a plain range steps by 1; "first..last" doubles), joined by commas:
/// "4-64*2,100". Throws
/// rill::Error naming `option`, what was found and what is expected; at most 1000 values, each at
/// most 100 million.
std::vector<size_t> parse_list(const std::string& text, const std::string& option);

/// "512,128": a prompt and a number of tokens to generate after it. Throws rill::Error.
std::pair<size_t, size_t> parse_pair(const std::string& text, const std::string& option);

/// Of `samples`: mean, and the standard deviation of the population that they are drawn from
/// (n - 1 in the denominator; 0 for a single sample).
struct Statistics {
  double mean = 0, deviation = 0;
};
Statistics statistics(const std::vector<double>& samples);

/// The middle one, or the mean of the two in the middle; 0 of none.
double median(std::vector<double> samples);

}  // namespace rill
