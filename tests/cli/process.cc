// SPDX-License-Identifier: Apache-2.0
#include "cli/process.h"

#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "model/test_folder.h"

namespace rill {
namespace {

std::string shell_quoted(const std::string& text) {
  std::string quoted = "'";
  for (const char c : text) quoted += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return quoted + "'";
}

}  // namespace

Finished run_shell(const std::string& script) {
  const TestFolder folder;
  const std::string out = (folder.path() / "out").string(), err = (folder.path() / "err").string();
  folder.write("script", "rill() { '" RILL_BIN_DIR "/rill' \"$@\"; }\n" + script);
  const std::string command =
      "bash " + (folder.path() / "script").string() + " >" + out + " 2>" + err;
  const int status = std::system(command.c_str());
  Finished finished;
  finished.status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  finished.out = read_text(out);
  finished.err = read_text(err);
  return finished;
}

Finished run_rill(const std::vector<std::string>& arguments, const std::string& input) {
  const TestFolder folder;
  folder.write("input", input);
  std::string line = "rill";
  for (const std::string& argument : arguments) line += " " + shell_quoted(argument);
  return run_shell(line + " <" + (folder.path() / "input").string() + "\n");
}

}  // namespace rill
