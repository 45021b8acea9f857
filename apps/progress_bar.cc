// SPDX-License-Identifier: Apache-2.0
#include "progress_bar.h"

#include <unistd.h>

#include <memory>

#include "program.h"

namespace rill::apps {

std::function<void(size_t, size_t)> progress_bar(const std::string& label) {
  if (!is_terminal(STDERR_FILENO)) return {};
  auto shown = std::make_shared<size_t>(size_t{1000});  // percent drawn last
  return [label, shown](size_t done, size_t total) {
    constexpr size_t kWidth = 32;
    if (total == 0 || done >= total) {
      if (*shown != 1000) note("\r\033[K");
      *shown = 1000;
      return;
    }
    const size_t percent = done * 100 / total;
    if (percent == *shown) return;
    *shown = percent;
    const size_t filled = percent * kWidth / 100;
    note("\r" + label + " [" + std::string(filled, '#') + std::string(kWidth - filled, '.') + "] " +
         std::to_string(percent) + " %");
  };
}

}  // namespace rill::apps
