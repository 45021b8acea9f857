// SPDX-License-Identifier: Apache-2.0
#include "engine/bench_values.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <string_view>

#include "base/error.h"

namespace rill {
namespace {

constexpr size_t kMostValues = 1000, kMostValue = 100000000;

/// One element of a list under parsing: the text, and where to say that it is wrong.
class ListParser {
 public:
  ListParser(std::string_view text, const std::string& whole, const std::string& option)
      : text_(text), whole_(whole), option_(option) {}

  void append_to(std::vector<size_t>& values) {
    const size_t first = number();
    if (text_.empty()) return push(values, first);
    const bool doubles = take('.') && take('.');
    if (!doubles && !take('-')) wrong();
    const size_t last = number();
    size_t step = doubles ? 2 : 1;
    const bool multiply = doubles || take('*');
    if (!doubles && (multiply || take('+'))) step = number();
    if (!text_.empty() || last < first || step < (multiply ? 2 : 1) || (multiply && first == 0))
      wrong();
    for (size_t value = first; value <= last; value = multiply ? value * step : value + step)
      push(values, value);
  }

 private:
  bool take(char c) {
    if (text_.empty() || text_.front() != c) return false;
    text_.remove_prefix(1);
    return true;
  }

  size_t number() {
    size_t value = 0;
    const auto [end, error] = std::from_chars(text_.data(), text_.data() + text_.size(), value);
    if (error != std::errc() || value > kMostValue) wrong();
    text_.remove_prefix(static_cast<size_t>(end - text_.data()));
    return value;
  }

  void push(std::vector<size_t>& values, size_t value) {
    if (values.size() == kMostValues)
      fail(option_, " ", whole_, " stands for more than ", kMostValues,
           " values; take a larger step");
    values.push_back(value);
  }

  [[noreturn]] void wrong() const {
    fail(option_, " is \"", whole_, "\"; give numbers up to ", kMostValue,
         " joined by commas, or ranges such as 64-512*2, 64..512 or 0-4096+1024");
  }

  std::string_view text_;
  const std::string& whole_;
  const std::string& option_;
};

}  // namespace

std::vector<size_t> parse_list(const std::string& text, const std::string& option) {
  std::vector<size_t> values;
  size_t begin = 0;
  for (bool more = true; more;) {
    const size_t comma = text.find(',', begin);
    more = comma != std::string::npos;
    const size_t length = more ? comma - begin : text.size() - begin;
    ListParser(std::string_view(text).substr(begin, length), text, option).append_to(values);
    begin = comma + 1;
  }
  return values;
}

std::pair<size_t, size_t> parse_pair(const std::string& text, const std::string& option) {
  const std::vector<size_t> values = parse_list(text, option);
  if (values.size() != 2 || values[0] == 0 || values[1] == 0)
    fail(option, " is \"", text,
         "\"; give two numbers from 1 on, prompt and generated, as 512,128");
  return {values[0], values[1]};
}

Statistics statistics(const std::vector<double>& samples) {
  Statistics result;
  if (samples.empty()) return result;
  const auto count = static_cast<double>(samples.size());
  for (double sample : samples) result.mean += sample / count;
  if (samples.size() == 1) return result;
  double squares = 0;
  for (double sample : samples) squares += (sample - result.mean) * (sample - result.mean);
  result.deviation = std::sqrt(squares / (count - 1));
  return result;
}

double median(std::vector<double> samples) {
  if (samples.empty()) return 0;
  std::sort(samples.begin(), samples.end());
  const size_t half = samples.size() / 2;
  return samples.size() % 2 ? samples[half] : (samples[half - 1] + samples[half]) / 2;
}

}  // namespace rill
