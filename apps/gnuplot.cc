// SPDX-License-Identifier: Apache-2.0
#include "gnuplot.h"

#include <cstdio>
#include <cstdlib>

#include "base/error.h"
#include "base/output_file.h"

namespace rill::apps {

void require_plot(const std::string& svg_file, const std::string& option) {
  if (std::system("command -v gnuplot >/dev/null 2>&1") != 0)
    fail(option, " draws with gnuplot, which is not installed; tools/install-deps.sh plots ",
         "installs it (Debian's gnuplot-nox), or leave ", option, " out");
  const OutputFile writable(svg_file);
}

void run_gnuplot(const std::string& script) {
  FILE* pipe = popen("gnuplot", "w");
  const bool written = pipe && std::fwrite(script.data(), 1, script.size(), pipe) == script.size();
  if (!pipe || pclose(pipe) != 0 || !written)
    fail("gnuplot could not draw the results (its own message stands above); the table is whole");
}

}  // namespace rill::apps
