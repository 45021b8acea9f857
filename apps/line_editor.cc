// SPDX-License-Identifier: Apache-2.0
#include "line_editor.h"

#include <histedit.h>
#include <unistd.h>

#include <clocale>
#include <cstdio>
#include <cstring>

#include "base/error.h"
#include "program.h"
#include "standard_input.h"

namespace rill::apps {

struct LineEditor::State {
  EditLine* edit = nullptr;
  History* history = nullptr;
  const std::string* prompt = nullptr;
  bool interrupted = false;

  ~State() {
    if (edit != nullptr) el_end(edit);
    if (history != nullptr) history_end(history);
  }

  static State& of(EditLine* edit) {
    void* data = nullptr;
    el_get(edit, EL_CLIENTDATA, &data);
    return *static_cast<State*>(data);
  }
};

namespace {

/// libedit works on characters only in a locale of UTF-8; numbers stay as they are in "C".
void choose_locale() {
  const char* locale = std::setlocale(LC_CTYPE, "");
  if (locale == nullptr || std::strstr(locale, "UTF-8") == nullptr) {
    if (std::setlocale(LC_CTYPE, "C.UTF-8") == nullptr) std::setlocale(LC_CTYPE, "en_US.UTF-8");
  }
}

}  // namespace

LineEditor::LineEditor(std::string prompt) : prompt_(std::move(prompt)) {
  if (::isatty(STDIN_FILENO) == 0) return;
  choose_locale();
  auto state = std::make_unique<State>();
  state->prompt = &prompt_;
  state->edit = el_init("rill", stdin, stderr, stderr);
  state->history = history_init();
  if (state->edit == nullptr || state->history == nullptr)
    fail("cannot set up line editing on this terminal; pipe the lines in instead");
  HistEvent event;
  history(state->history, &event, H_SETSIZE, 1000);
  el_set(state->edit, EL_CLIENTDATA, state.get());
  using PromptFunction = const char* (*)(EditLine*);
  el_set(state->edit, EL_PROMPT, static_cast<PromptFunction>([](EditLine* edit) {
           return State::of(edit).prompt->c_str();
         }));
  el_set(state->edit, EL_EDITOR, "emacs");
  el_set(state->edit, EL_HIST, history, state->history);
  // Ctrl-C is a key while a line is edited: it drops the line.
  using KeyFunction = unsigned char (*)(EditLine*, int);
  el_set(state->edit, EL_ADDFN, "rill-interrupt", "drop the line",
         static_cast<KeyFunction>([](EditLine* edit, int) -> unsigned char {
           State::of(edit).interrupted = true;
           return CC_EOF;
         }));
  el_set(state->edit, EL_SETTY, "-d", "-isig", nullptr);
  el_set(state->edit, EL_BIND, "^C", "rill-interrupt", nullptr);
  state_ = std::move(state);
}

LineEditor::~LineEditor() = default;

LineEditor::Input LineEditor::read() {
  if (state_ == nullptr) {
    std::optional<std::string> line = read_standard_input_line();
    return line ? Input{Event::LINE, std::move(*line)} : Input{Event::END, ""};
  }
  state_->interrupted = false;
  int count = 0;
  const char* text = el_gets(state_->edit, &count);
  if (state_->interrupted) {
    el_reset(state_->edit);
    note("\n");
    return {Event::INTERRUPTED, ""};
  }
  if (text == nullptr || count <= 0) {
    note("\n");
    return {Event::END, ""};
  }
  std::string line(text, static_cast<size_t>(count));
  while (!line.empty() && (line.back() == '\n' || line.back() == '\r')) line.pop_back();
  if (!line.empty()) {
    HistEvent event;
    history(state_->history, &event, H_ENTER, line.c_str());
  }
  return {Event::LINE, std::move(line)};
}

}  // namespace rill::apps
