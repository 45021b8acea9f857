// SPDX-License-Identifier: Apache-2.0
// Runs the `rill` program of this build.
#pragma once
#include <string>
#include <vector>

namespace rill {

struct Finished {
  int status = -1;  // exit status; 128 + signal if one ended it
  std::string out, err;
};

/// Runs `rill` with `arguments` and `input` on its standard input.
Finished run_rill(const std::vector<std::string>& arguments, const std::string& input = "");

/// The same through a shell, for redirections: `rill` stands for the program.
Finished run_shell(const std::string& script);

inline std::string golden(const std::string& name) {
  return std::string(RILL_TESTS_DIR "/golden/") + name;
}
inline const std::string kDemo = RILL_SOURCE_DIR "/models/rill-demo";

}  // namespace rill
