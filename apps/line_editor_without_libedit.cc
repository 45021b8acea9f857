// SPDX-License-Identifier: Apache-2.0
#include <unistd.h>

#include "base/error.h"
#include "line_editor.h"
#include "program.h"
#include "standard_input.h"

namespace rill::apps {

struct LineEditor::State {};

LineEditor::LineEditor(std::string prompt) : prompt_(std::move(prompt)) {
  if (::isatty(STDIN_FILENO) != 0) state_ = std::make_unique<State>();
}

LineEditor::~LineEditor() = default;

LineEditor::Input LineEditor::read() {
  if (terminal()) note(prompt_);
  std::optional<std::string> line = read_standard_input_line();
  if (line) return {Event::LINE, std::move(*line)};
  if (terminal()) note("\n");
  return {Event::END, ""};
}

}  // namespace rill::apps
