// SPDX-License-Identifier: Apache-2.0
#include "answer_printer.h"

#include "program.h"

namespace rill::apps {
namespace {

constexpr std::string_view kThink = "<think>", kEndThink = "</think>";
constexpr std::string_view kDim = "\033[2m", kPlain = "\033[0m";

std::string replace_controls(std::string_view text) {
  std::string out;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if ((byte < 0x20 && c != '\n' && c != '\t') || byte == 0x7f) {
      out += "\xef\xbf\xbd";
    } else {
      out += c;
    }
  }
  return out;
}

}  // namespace

AnswerPrinter::~AnswerPrinter() {
  if (dim_) note(kPlain);  // an error must not leave the terminal dimmed
}

void AnswerPrinter::piece(std::string_view text) {
  if (text.empty()) return;
  last_ = text.back();
  if (!terminal_) {
    print(text);
    return;
  }
  // The tags are tokens of their own, so each arrives in one piece.
  std::string shown = replace_controls(text);
  size_t at = 0;
  while (true) {
    const std::string_view tag = dim_ ? kEndThink : kThink;
    at = shown.find(tag, at);
    if (at == std::string::npos) break;
    if (dim_) at += tag.size();
    shown.insert(at, dim_ ? kPlain : kDim);
    at += kDim.size();
    dim_ = !dim_;
  }
  print(shown);
}

void AnswerPrinter::finish() {
  std::string end = dim_ ? std::string(kPlain) : "";
  dim_ = false;
  if (last_ != '\n') end += "\n";
  last_ = '\n';
  if (!end.empty()) print(end);
}

std::string without_thinking(std::string_view answer) {
  const size_t end = answer.rfind(kEndThink);
  if (end != std::string_view::npos) answer.remove_prefix(end + kEndThink.size());
  constexpr std::string_view kBlank = " \t\r\n";
  const size_t first = answer.find_first_not_of(kBlank);
  if (first == std::string_view::npos) return "";
  return std::string(answer.substr(first, answer.find_last_not_of(kBlank) - first + 1));
}

}  // namespace rill::apps
