// SPDX-License-Identifier: Apache-2.0
#include "engine/bench_plot.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <set>
#include <sstream>

#include "base/error.h"
#include "engine/bench_cost.h"

namespace rill {
namespace {

using Json = nlohmann::ordered_json;

/// gnuplot's string without escapes: only the quote itself is doubled.
std::string quoted(const std::string& text) {
  std::string result = "'";
  for (char c : text) {
    if (static_cast<unsigned char>(c) < ' ')
      fail("a file for a drawing has a control character in its name; take another name");
    if (c == '\'') result += c;
    result += c;
  }
  return result + "'";
}

std::string head(const std::string& title, const std::string& svg_file) {
  return "set terminal svg size 1000,680 noenhanced font 'sans,13' background rgb 'white'\n"
         "set output " +
         quoted(svg_file) + "\nset title " + quoted(title) +
         "\nset grid\nset logscale y\nset key outside below\n";
}

/// The roofs of one number of threads, in GFLOP/s and GB/s: the best of its tests.
struct Roofs {
  double bandwidth = 0;
  std::map<std::string, double> peaks;
};

struct Point {
  double intensity, gflops;
  std::string operation;
};

std::vector<Point> points_of(const Json& row) {
  std::vector<Point> points;
  for (const Json& line : row["profile"]) {
    const double flops = line["flops"].get<double>(), bytes = line["bytes"].get<double>();
    const double speed = line["gflops"].get<double>();
    if (flops > 0 && bytes > 0 && speed > 0)
      points.push_back({flops / bytes, speed, line["operation"].get<std::string>()});
  }
  return points;
}

std::map<int, Roofs> roofs_of(const std::vector<Json>& rows) {
  std::set<std::string> binding = {to_string(Ceiling::FMA)};
  for (const Json& row : rows)
    for (const Json& line : row["profile"]) binding.insert(line["ceiling"].get<std::string>());
  std::map<int, Roofs> roofs;
  for (const Json& row : rows) {
    Roofs& mine = roofs[row["n_threads"].get<int>()];
    mine.bandwidth = std::max(mine.bandwidth, row["peak_bandwidth"].get<double>());
    for (Ceiling kind : kPeaks) {
      const double peak = row[std::string("peak_") + to_string(kind)].get<double>();
      double& best = mine.peaks[to_string(kind)];
      best = std::max(best, peak);
      if (best <= 0 || !binding.count(to_string(kind))) mine.peaks.erase(to_string(kind));
    }
  }
  return roofs;
}

std::string threads_text(int threads) {
  return std::to_string(threads) + (threads == 1 ? " thread" : " threads");
}

}  // namespace

std::string roofline_script(const std::vector<Json>& rows, const std::string& svg_file) {
  std::ostringstream data, plot;
  double least = 1, most = 1;
  for (size_t i = 0; i < rows.size(); ++i) {
    data << "$test" << i << " << END\n";
    for (const Point& point : points_of(rows[i])) {
      data << point.intensity << " " << point.gflops << " " << point.operation << "\n";
      least = std::min(least, point.intensity);
      most = std::max(most, point.intensity);
    }
    data << "END\n";
    const std::string colour = " lc " + std::to_string(i + 1);
    plot << ", \\\n  $test" << i << " using 1:2 with points pt 7 ps 0.8" << colour << " title "
         << quoted(rows[i]["test"].get<std::string>() + ", " +
                   threads_text(rows[i]["n_threads"].get<int>()))
         << ", \\\n  $test" << i << " using 1:2:3 with labels offset 0,0.7 font ',9' notitle";
  }
  std::ostringstream roofs;
  bool first = true;
  for (const auto& [threads, roof] : roofs_of(rows))
    for (const auto& [name, peak] : roof.peaks) {
      roofs << (first ? "plot " : ", \\\n  ") << "(" << roof.bandwidth << " * x < " << peak << " ? "
            << roof.bandwidth << " * x : " << peak << ") with lines lc 'gray40' title "
            << quoted(name + ", " + threads_text(threads));
      most = std::max(most, peak / roof.bandwidth);
      first = false;
    }
  std::ostringstream range;
  range << "set xrange [" << least / 2 << ":" << most * 4 << "]\n";
  return head("Operations under the ceilings of this run", svg_file) +
         "set logscale x\nset samples 1000\nset xlabel 'FLOP for each byte read'\n"
         "set ylabel 'GFLOP/s'\n" +
         range.str() + data.str() + roofs.str() + plot.str() + "\n";
}

std::string lines_script(const std::vector<PlotSeries>& series, const std::string& title,
                         const std::string& y_axis, const std::string& svg_file) {
  std::ostringstream data, plot;
  for (size_t i = 0; i < series.size(); ++i) {
    data << "$series" << i << " << END\n";
    for (const auto& [x, y] : series[i].points) data << x << " " << y << "\n";
    data << "END\n";
    plot << (i == 0 ? "plot " : ", \\\n  ") << "$series" << i
         << " using 1:2 with linespoints pt 7 ps 0.6 title " << quoted(series[i].name);
  }
  return head(title, svg_file) + "set logscale x 2\nset xlabel 'tokens'\nset ylabel " +
         quoted(y_axis) + "\n" + data.str() + plot.str() + "\n";
}

}  // namespace rill
