// SPDX-License-Identifier: Apache-2.0
#include "standard_input.h"

#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <iostream>

#include "base/error.h"

namespace rill::apps {

std::optional<std::string> read_standard_input_line() {
  std::string line;
  if (std::getline(std::cin, line)) return line;
  if (std::cin.bad()) fail("cannot read standard input; see where it comes from");
  return std::nullopt;
}

std::string read_standard_input() {
  std::string text;
  char buffer[1 << 16];
  while (true) {
    const ssize_t count = ::read(STDIN_FILENO, buffer, sizeof(buffer));
    if (count == 0) return text;
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) {
      fail("cannot read standard input (", std::strerror(errno),
           "), expected text; see where it comes from");
    }
    text.append(buffer, static_cast<size_t>(count));
  }
}

}  // namespace rill::apps
