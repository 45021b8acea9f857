// SPDX-License-Identifier: Apache-2.0
// Added tokens (<|im_start|>, <think> …): found in the text before anything else cuts it.
#pragma once
#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace rill {

struct AddedToken {
  int32_t id = 0;
  std::string content;
  bool single_word = false;  // only where no word character touches it
  bool lstrip = false;       // swallows white space before it
  bool rstrip = false;       // and after it
  bool normalized = false;   // sought in the normalised text instead of the text as given
  bool special = false;      // left out by decode(…, skip_special)
};

/// Finds added tokens in text: leftmost, of those the longest, never overlapping, as Hugging Face's
/// AddedVocabulary does.
class AddedTokenMatcher {
 public:
  /// Longer contents are refused, so that matching stays linear in the text.
  static constexpr size_t kLongestContent = 1024;

  /// A stretch of the text; `id` is -1 for text between tokens.
  struct Stretch {
    int32_t id;
    std::string_view text;
  };

  /// Looks for `content` from now on (`token.content` or its normalised form; not empty).
  void add(const AddedToken& token, std::string_view content);
  bool empty() const { return tokens_.empty(); }

  /// The stretches of valid UTF-8 `text` in order.
  std::vector<Stretch> split(std::string_view text) const;

 private:
  struct Found {
    size_t length;
    int32_t token;  // index into tokens_, -1 for none
  };
  Found longest(std::string_view text) const;

  std::vector<AddedToken> tokens_;
  std::unordered_map<uint64_t, uint32_t> edges_;  // node << 8 | byte -> node; node 0 is the root
  std::vector<int32_t> ends_{-1};                 // [node]: index of the token that ends here
  std::array<bool, 256> first_byte_{};            // bytes that begin some token
};

}  // namespace rill
