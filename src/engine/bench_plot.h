// SPDX-License-Identifier: Apache-2.0
// Drawings of benchmark results, as scripts for gnuplot that write an SVG file.
#pragma once
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace rill {

/// The roofline model (Williams, Waterman, Patterson 2009): FLOP/s over FLOPs per byte, a roof for
/// each ceiling that binds something, a point for each operation with counted work of each test.
/// `rows`: bench_row with "profile".
std::string roofline_script(const std::vector<nlohmann::ordered_json>& rows,
                            const std::string& svg_file);

/// Points of one line of a drawing.
struct PlotSeries {
  std::string name;
  std::vector<std::pair<double, double>> points;
};

/// Lines over a number of tokens; both axes are logarithmic.
std::string lines_script(const std::vector<PlotSeries>& series, const std::string& title,
                         const std::string& y_axis, const std::string& svg_file);

}  // namespace rill
