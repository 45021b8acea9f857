// SPDX-License-Identifier: Apache-2.0
// An answer as it streams to the screen.
#pragma once
#include <string>
#include <string_view>

namespace rill::apps {

/// Writes pieces of an answer to standard output. On a terminal what the model thinks is dimmed and
/// control characters that could steer the terminal are replaced; elsewhere the text is untouched.
class AnswerPrinter {
 public:
  explicit AnswerPrinter(bool terminal) : terminal_(terminal) {}
  ~AnswerPrinter();
  AnswerPrinter(const AnswerPrinter&) = delete;
  AnswerPrinter& operator=(const AnswerPrinter&) = delete;

  void piece(std::string_view text);
  /// Ends the line, and the dimming if the answer was cut while thinking.
  void finish();

 private:
  bool terminal_, dim_ = false;
  char last_ = '\n';
};

/// The text behind the thinking block, without the white space around it; all of it if there is no
/// thinking.
std::string without_thinking(std::string_view answer);

}  // namespace rill::apps
