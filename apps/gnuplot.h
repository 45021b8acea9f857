// SPDX-License-Identifier: Apache-2.0
// Running gnuplot, which draws what a benchmark measured.
#pragma once
#include <string>

namespace rill::apps {

/// To be called before an hour of measuring: throws rill::Error if gnuplot is not installed or if
/// `svg_file`, the value of `option`, cannot be written.
void require_plot(const std::string& svg_file, const std::string& option);

/// Throws rill::Error if gnuplot fails.
void run_gnuplot(const std::string& script);

}  // namespace rill::apps
