// SPDX-License-Identifier: Apache-2.0
#include "text/added_tokens.h"

#include <algorithm>
#include <cassert>

#include "text/unicode.h"

namespace rill {
namespace {

/// The first character of `text`, which is not empty and valid.
uint32_t first_character(std::string_view text) {
  return next_utf8(text).code_point;
}

/// The offset at which the last character of `text` begins.
size_t last_character(std::string_view text) {
  size_t at = text.size() - 1;
  while ((static_cast<unsigned char>(text[at]) & 0xc0) == 0x80) --at;
  return at;
}

bool touches_word(std::string_view before, std::string_view after) {
  return (!before.empty() &&
          is_word_character(first_character(before.substr(last_character(before))))) ||
         (!after.empty() && is_word_character(first_character(after)));
}

}  // namespace

void AddedTokenMatcher::add(const AddedToken& token, std::string_view content) {
  assert(!content.empty());
  uint32_t node = 0;
  for (const char c : content) {
    const uint64_t key = uint64_t{node} << 8 | static_cast<unsigned char>(c);
    const auto [at, fresh] = edges_.try_emplace(key, static_cast<uint32_t>(ends_.size()));
    if (fresh) ends_.push_back(-1);
    node = at->second;
  }
  // Of two tokens that normalise to the same text the first one counts.
  if (ends_[node] < 0) ends_[node] = static_cast<int32_t>(tokens_.size());
  tokens_.push_back(token);
  first_byte_[static_cast<unsigned char>(content[0])] = true;
}

AddedTokenMatcher::Found AddedTokenMatcher::longest(std::string_view text) const {
  Found found = {0, -1};
  uint32_t node = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    const auto edge = edges_.find(uint64_t{node} << 8 | static_cast<unsigned char>(text[i]));
    if (edge == edges_.end()) break;
    node = edge->second;
    if (ends_[node] >= 0) found = {i + 1, ends_[node]};
  }
  return found;
}

std::vector<AddedTokenMatcher::Stretch> AddedTokenMatcher::split(std::string_view text) const {
  std::vector<Stretch> stretches;
  size_t done = 0;  // stretches cover the text up to here
  size_t at = 0;    // where the next token may begin
  while (at < text.size()) {
    if (!first_byte_[static_cast<unsigned char>(text[at])]) {
      ++at;
      continue;
    }
    const Found found = longest(text.substr(at));
    if (found.token < 0) {
      ++at;
      continue;
    }
    const AddedToken& token = tokens_[static_cast<size_t>(found.token)];
    size_t begin = at, end = at + found.length;
    at = end;
    if (token.single_word && touches_word(text.substr(0, begin), text.substr(end))) continue;
    if (token.lstrip) {
      while (begin > done) {
        const size_t previous = last_character(text.substr(0, begin));
        if (!is_white_space(first_character(text.substr(previous)))) break;
        begin = previous;
      }
      begin = std::max(begin, done);
    }
    while (token.rstrip && end < text.size()) {
      const Utf8Step step = next_utf8(text.substr(end));
      if (!is_white_space(step.code_point)) break;
      end += step.length;
    }
    if (begin > done) stretches.push_back({-1, text.substr(done, begin - done)});
    stretches.push_back({token.id, text.substr(begin, end - begin)});
    done = end;
  }
  if (done < text.size()) stretches.push_back({-1, text.substr(done)});
  return stretches;
}

}  // namespace rill
