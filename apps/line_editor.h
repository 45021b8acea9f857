// SPDX-License-Identifier: Apache-2.0
// Lines from a person (edited with libedit, where Rill was built with it) or from a file or pipe
// (read as they are).
#pragma once
#include <memory>
#include <string>

namespace rill::apps {

class LineEditor {
 public:
  /// `prompt` is shown before each line on a terminal, and nowhere else.
  explicit LineEditor(std::string prompt);
  ~LineEditor();

  bool terminal() const { return state_ != nullptr; }

  enum class Event { LINE, INTERRUPTED, END };
  struct Input {
    Event event;
    std::string line;  // without its newline
  };
  /// The next line. INTERRUPTED: Ctrl-C was typed, which drops the line. END: Ctrl-D or the end of
  /// the input. Throws Error if reading fails.
  Input read();

 private:
  struct State;
  std::string prompt_;
  std::unique_ptr<State> state_;  // null when standard input is no terminal
};

}  // namespace rill::apps
