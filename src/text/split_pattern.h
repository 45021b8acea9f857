// SPDX-License-Identifier: Apache-2.0
// The regular expression by which a tokenizer cuts text into pieces before BPE.
#pragma once
#include <cstddef>
#include <memory>
#include <string>
#include <string_view>

namespace rill {

/// A compiled expression. Hugging Face's `tokenizers` runs these with Oniguruma (Ruby syntax); here
/// they run with PCRE2, translated where the two differ and refused where that cannot be.
/// Immutable after construction, so many threads may share it.
class SplitPattern {
 public:
  /// Throws Error, naming `where`, if the expression is malformed or uses what is not implemented.
  SplitPattern(std::string_view expression, std::string_view where);

  /// What one thread needs while matching; make one per call of encode.
  class Scratch {
   public:
    Scratch();
    ~Scratch();
    Scratch(const Scratch&) = delete;
    Scratch& operator=(const Scratch&) = delete;

   private:
    friend class SplitPattern;
    struct State;
    std::unique_ptr<State> state_;
  };

  /// Calls `piece` for every part of valid UTF-8 `text` in order: each match, and each gap between
  /// matches (Hugging Face's behaviour "Isolated"). No part is empty; together they are `text`.
  /// Throws Error if matching takes more steps than any sensible expression needs.
  template <class Piece>
  void split(std::string_view text, Scratch& scratch, const Piece& piece) const {
    const void* code = prepare(text, scratch);
    size_t done = 0;       // pieces cover the text up to here
    Match match = {0, 0};  // the search begins at match.end
    while (match.end <= text.size() && find(code, text, scratch, match)) {
      if (match.begin > done) piece(text.substr(done, match.begin - done));
      if (match.end > match.begin) piece(text.substr(match.begin, match.end - match.begin));
      done = match.end;
      if (match.end == match.begin) match.end = after_character(text, match.end);
    }
    if (done < text.size()) piece(text.substr(done));
  }

 private:
  struct Match {
    size_t begin, end;
  };
  /// The compiled expression for `text`; sets how many steps a search in it may take.
  const void* prepare(std::string_view text, Scratch& scratch) const;
  /// Finds the first match at or after match.end.
  bool find(const void* compiled, std::string_view text, Scratch& scratch, Match& match) const;
  static size_t after_character(std::string_view text, size_t at);

  std::shared_ptr<const void> code_;        // compiled by PCRE2
  std::shared_ptr<const void> newer_code_;  // the same for text with characters PCRE2 may not know
  std::string where_;
};

}  // namespace rill
