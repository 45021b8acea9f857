// SPDX-License-Identifier: Apache-2.0
// What Rill's programs share: the one place where errors are caught, and output that is checked.
#pragma once
#include <functional>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <utility>

#include "base/error.h"
#include "comm/communicator.h"

namespace CLI {
class App;
}

namespace rill::apps {

/// A mistake on the command line: exit status 2 instead of 1.
class UsageError : public Error {
 public:
  using Error::Error;
};

/// Standard output is gone or full: no use in going on.
class OutputLost : public Error {
 public:
  using Error::Error;
};

/// The options that may differ from rank to rank.
constexpr const char* kMachineGroup = "Machine (never part of the result)";

/// A command line being defined. The callback of the chosen (sub)command sets `action`, which runs
/// after the whole line was understood and returns the exit status.
struct Program {
  CLI::App& app;
  std::function<int()> action;
  /// The ranks of this job, of which the first one talks: what the others print goes nowhere.
  Communicator& world;
  /// (Sub)commands that run on several ranks.
  std::set<const CLI::App*> ranked = {};
  const CLI::App* chosen = nullptr;
  /// Options of two letters after one dash, by subcommand, and what they stand for: ("bench",
  /// "-pg")
  /// -> "--pg". CLI11 would read -p with the value g.
  std::map<std::pair<std::string, std::string>, std::string> spellings = {};
};

/// Adds a subcommand whose --help ends with `example` and whose action is `run`.
CLI::App* add_command(Program& program, const std::string& name, const std::string& description,
                      const std::string& example, std::function<int()> run);

/// Runs a program: `define` adds its options. Exit status 0; 1 after an error, 2 after a mistake
/// on the command line, each told in one sentence on standard error.
int run_program(int argc, char** argv, const std::string& description,
                const std::function<void(Program&)>& define);

/// Runs `parse` on the text of an option; its rill::Error becomes a UsageError.
template <class Function>
auto as_usage(Function&& parse) -> decltype(parse()) {
  try {
    return parse();
  } catch (const Error& error) {
    throw UsageError(error.what());
  }
}

/// Writes to standard output at once. Throws OutputLost if that fails (a closed pipe, a full disk).
void print(std::string_view text);

/// Writes to standard error; failures are ignored, since there is nowhere to tell them.
void note(std::string_view text);

/// Is this descriptor a terminal that understands escape sequences?
bool is_terminal(int descriptor);

/// What runs now, on the last line of the terminal behind standard error if there is one; "" clears
/// the line.
void show_status(const std::string& what);

}  // namespace rill::apps
