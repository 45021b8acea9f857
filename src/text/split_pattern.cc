// SPDX-License-Identifier: Apache-2.0
#include "text/split_pattern.h"

#include <algorithm>
#include <charconv>
#include <new>
#include <span>
#include <utility>

#include "base/error.h"
#include "base/json.h"
#include "text/unicode.h"
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

namespace rill {
namespace {

constexpr size_t kLongestExpression = 16384;
/// Steps of one search, and how many more for each byte of the text: the expression of Qwen3 takes
/// one per character of a run of spaces.
constexpr size_t kMatchSteps = 100'000;
constexpr size_t kMatchStepsPerByte = 8;
constexpr uint32_t kHeapLimitKiB = 65536;

/// The property White_Space, which \s is in Oniguruma; PCRE2's \s also takes U+180E. It ends with a
/// range, so that a hyphen after it stays a hyphen.
constexpr std::string_view kSpace =
    R"(\t-\r \x{85}\x{a0}\x{1680}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000}\x{2000}-\x{200a})";

struct Range {
  uint32_t first, last;
};

/// Letters and numbers that entered Unicode with versions 15 to 16, which Hugging Face's Oniguruma
/// knows and the PCRE2 of Debian 12 (Unicode 14) does not. To a newer PCRE2 the lists say nothing
/// new.
constexpr Range kNewerLetters[] = {
    {0x1c89, 0x1c8a},   {0xa7cb, 0xa7cd},   {0xa7da, 0xa7dc},   {0x105c0, 0x105f3},
    {0x10d4a, 0x10d65}, {0x10d6f, 0x10d85}, {0x10ec2, 0x10ec4}, {0x1123f, 0x11240},
    {0x11380, 0x11389}, {0x1138b, 0x1138b}, {0x1138e, 0x1138e}, {0x11390, 0x113b5},
    {0x113b7, 0x113b7}, {0x113d1, 0x113d1}, {0x113d3, 0x113d3}, {0x11bc0, 0x11be0},
    {0x11f02, 0x11f02}, {0x11f04, 0x11f10}, {0x11f12, 0x11f33}, {0x1342f, 0x1342f},
    {0x13441, 0x13446}, {0x13460, 0x143fa}, {0x16100, 0x1611d}, {0x16d40, 0x16d6c},
    {0x18cff, 0x18cff}, {0x1b132, 0x1b132}, {0x1b155, 0x1b155}, {0x1df25, 0x1df2a},
    {0x1e030, 0x1e06d}, {0x1e4d0, 0x1e4eb}, {0x1e5d0, 0x1e5ed}, {0x1e5f0, 0x1e5f0},
    {0x2b739, 0x2b739}, {0x2ebf0, 0x2ee5d}, {0x31350, 0x323af}};
constexpr Range kNewerNumbers[] = {{0x10d40, 0x10d49}, {0x116d0, 0x116e3}, {0x11bf0, 0x11bf9},
                                   {0x11f50, 0x11f59}, {0x16130, 0x16139}, {0x16d70, 0x16d79},
                                   {0x1ccf0, 0x1ccf9}, {0x1d2c0, 0x1d2d3}, {0x1e4f0, 0x1e4f9},
                                   {0x1e5f1, 0x1e5fa}};

bool contains(std::span<const Range> ranges, uint32_t code_point) {
  const auto at =
      std::partition_point(ranges.begin(), ranges.end(),
                           [code_point](const Range& range) { return range.last < code_point; });
  return at != ranges.end() && at->first <= code_point;
}

/// Whether valid UTF-8 `text` has a character of the lists above.
bool has_newer_character(std::string_view text) {
  for (size_t at = 0; at < text.size(); ++at) {
    const unsigned char lead = static_cast<unsigned char>(text[at]);
    if (lead != 0xe1 && lead != 0xea && lead != 0xf0) continue;  // no other leads to the lists
    const uint32_t c = next_utf8(text.substr(at)).code_point;
    if (contains(kNewerLetters, c) || contains(kNewerNumbers, c)) return true;
  }
  return false;
}

void append_class_items(std::span<const Range> ranges, std::string& out) {
  const auto append = [&out](uint32_t code_point) {
    char digits[8];
    const auto [end, error] = std::to_chars(digits, digits + sizeof digits, code_point, 16);
    out.append("\\x{").append(digits, end).append("}");
  };
  for (const Range& range : ranges) {
    append(range.first);
    if (range.last == range.first) continue;
    out.push_back('-');
    append(range.last);
  }
}

/// Copies an expression to PCRE2's dialect, construct by construct; anything whose meaning might
/// differ between the two engines is refused rather than guessed.
class Translator {
 public:
  /// `newer`: name the characters that PCRE2 may not know, which makes matching slower.
  Translator(std::string_view expression, std::string_view where, bool newer)
      : expression_(expression), where_(where), newer_(newer) {}

  std::string run() {
    while (at_ < expression_.size()) {
      const char c = expression_[at_];
      if (c == '\\') {
        escape();
      } else if (in_class_) {
        inside_class(c);
      } else if (c == '[') {
        open_class();
      } else if (c == '(') {
        group();
      } else if (c == '{') {
        repeat();
      } else if (c == '^' || c == '$') {
        refuse(1);
      } else {
        copy(1);
      }
    }
    return std::move(out_);
  }

 private:
  [[noreturn]] void refuse(size_t length) const {
    fail(where_, ": the split expression ", quote(expression_), " has ",
         quote(expression_.substr(at_, length)), " at byte ", at_,
         ", which Rill does not implement; take a checkpoint with the Qwen3 tokenizer");
  }

  std::string_view rest() const { return expression_.substr(at_); }

  void copy(size_t length) {
    out_.append(rest().substr(0, length));
    at_ += length;
  }

  void escape() {
    if (at_ + 1 == expression_.size()) refuse(1);
    const char c = expression_[at_ + 1];
    if (c == 's' || (c == 'S' && !in_class_)) {
      if (!in_class_) out_.append(c == 's' ? "[" : "[^");
      out_.append(kSpace);
      if (!in_class_) out_.push_back(']');
      at_ += 2;
    } else if (c == 'p' || c == 'P') {
      property();
    } else if (c == 'x') {
      const size_t close = rest().find('}');
      if (rest().substr(2, 1) != "{" || close == std::string_view::npos) refuse(2);
      copy(close + 1);
    } else if (std::string_view("dDrntf").find(c) != std::string_view::npos) {
      copy(2);
    } else if ((c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') ||
               static_cast<unsigned char>(c) >= 0x80) {
      refuse(2);
    } else {
      copy(2);
    }
  }

  void property() {
    const size_t close = rest().find('}');
    if (rest().substr(2, 1) != "{" || close == std::string_view::npos) refuse(2);
    const std::string_view name = rest().substr(3, close - 3);
    const bool listed = newer_ && (name == "L" || name == "N");
    if (!listed || (in_class_ && rest()[1] == 'P')) return copy(close + 1);
    if (!in_class_) out_.append(rest()[1] == 'p' ? "[" : "[^");
    out_.append("\\p{").append(name).append("}");
    append_class_items(
        name == "L" ? std::span(kNewerLetters) : std::span<const Range>(kNewerNumbers), out_);
    if (!in_class_) out_.push_back(']');
    at_ += close + 1;
  }

  void open_class() {
    in_class_ = true;
    copy(1);
    if (rest().substr(0, 1) == "^") copy(1);
    if (rest().substr(0, 1) == "]") refuse(1);  // empty to Oniguruma, a literal to PCRE2
  }

  void inside_class(char c) {
    // Oniguruma nests and intersects classes.
    if (c == '[' || rest().substr(0, 2) == "&&") refuse(c == '[' ? 1 : 2);
    if (c == ']') in_class_ = false;
    copy(1);
  }

  void group() {
    if (rest().substr(0, 2) == "(*") refuse(2);  // a PCRE2 verb
    if (rest().substr(0, 2) != "(?") return copy(1);
    for (const std::string_view kind : {"(?:", "(?=", "(?!", "(?>", "(?<=", "(?<!", "(?i:"}) {
      if (rest().substr(0, kind.size()) == kind) return copy(kind.size());
    }
    refuse(3);
  }

  void repeat() {
    const size_t close = rest().find('}');
    const std::string_view count =
        rest().substr(1, close == std::string_view::npos ? 0 : close - 1);
    if (count.empty() || count[0] < '0' || count[0] > '9' ||
        count.find_first_not_of("0123456789,") != std::string_view::npos) {
      refuse(1);
    }
    copy(close + 1);
    if (rest().substr(0, 1) == "+") refuse(1);  // possessive to PCRE2, a repeat to Oniguruma
  }

  std::string_view expression_;
  std::string_view where_;
  bool newer_;
  std::string out_;
  size_t at_ = 0;
  bool in_class_ = false;
};

std::string message_of(int code) {
  PCRE2_UCHAR text[256];
  if (pcre2_get_error_message(code, text, sizeof text) < 0) return std::to_string(code);
  return reinterpret_cast<const char*>(text);
}

std::shared_ptr<const void> compile(std::string_view expression, std::string_view where,
                                    bool newer) {
  const std::string translated = Translator(expression, where, newer).run();
  const std::shared_ptr<pcre2_compile_context> context(pcre2_compile_context_create(nullptr),
                                                       pcre2_compile_context_free);
  if (context == nullptr) throw std::bad_alloc();
  pcre2_set_newline(context.get(), PCRE2_NEWLINE_LF);
  int error = 0;
  PCRE2_SIZE offset = 0;
  const std::shared_ptr<pcre2_code> code(
      pcre2_compile(reinterpret_cast<PCRE2_SPTR>(translated.data()), translated.size(),
                    PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C, &error, &offset,
                    context.get()),
      pcre2_code_free);
  if (code == nullptr) {
    fail(where, ": the split expression ", quote(expression), " is not valid (", message_of(error),
         "), expected a regular expression; download the file again");
  }
  // Without JIT, where a platform has none, pcre2_match interprets: slower, the same matches.
  pcre2_jit_compile(code.get(), PCRE2_JIT_COMPLETE);
  return code;
}

}  // namespace

SplitPattern::SplitPattern(std::string_view expression, std::string_view where) : where_(where) {
  if (expression.size() > kLongestExpression) {
    fail(where, ": the split expression has ", expression.size(), " bytes, expected at most ",
         kLongestExpression, "; download the file again");
  }
  code_ = compile(expression, where, false);
  newer_code_ = compile(expression, where, true);
}

struct SplitPattern::Scratch::State {
  std::shared_ptr<pcre2_match_data> data{pcre2_match_data_create(1, nullptr),
                                         pcre2_match_data_free};
  std::shared_ptr<pcre2_match_context> context{pcre2_match_context_create(nullptr),
                                               pcre2_match_context_free};
};

SplitPattern::Scratch::Scratch() : state_(std::make_unique<State>()) {
  if (state_->data == nullptr || state_->context == nullptr) throw std::bad_alloc();
  pcre2_set_heap_limit(state_->context.get(), kHeapLimitKiB);
}

SplitPattern::Scratch::~Scratch() = default;

const void* SplitPattern::prepare(std::string_view text, Scratch& scratch) const {
  const size_t steps = kMatchSteps + kMatchStepsPerByte * text.size();
  pcre2_set_match_limit(scratch.state_->context.get(),
                        static_cast<uint32_t>(std::min<size_t>(steps, UINT32_MAX)));
  return (has_newer_character(text) ? newer_code_ : code_).get();
}

bool SplitPattern::find(const void* compiled, std::string_view text, Scratch& scratch,
                        Match& match) const {
  const auto* code = static_cast<const pcre2_code*>(compiled);
  const auto search = [&](uint32_t options) {
    return pcre2_match(code, reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), match.end,
                       PCRE2_NO_UTF_CHECK | options, scratch.state_->data.get(),
                       scratch.state_->context.get());
  };
  int result = search(0);
  if (result == PCRE2_ERROR_JIT_STACKLIMIT) result = search(PCRE2_NO_JIT);
  if (result == PCRE2_ERROR_NOMATCH) return false;
  if (result < 0) {
    fail(where_, ": the split expression gave up at byte ", match.end, " of a text of ",
         text.size(), " bytes (", message_of(result),
         "), expected one that matches in linear time; take a checkpoint with the Qwen3 tokenizer");
  }
  const PCRE2_SIZE* offsets = pcre2_get_ovector_pointer(scratch.state_->data.get());
  match = {offsets[0], offsets[1]};
  return true;
}

size_t SplitPattern::after_character(std::string_view text, size_t at) {
  ++at;
  while (at < text.size() && (static_cast<unsigned char>(text[at]) & 0xc0) == 0x80) ++at;
  return at;
}

}  // namespace rill
