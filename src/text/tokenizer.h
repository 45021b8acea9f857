// SPDX-License-Identifier: Apache-2.0
// The byte-level BPE tokenizer of a Hugging Face tokenizer.json: the same ids and the same text as
// the `tokenizers` library gives.
#pragma once
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace rill {

/// What encode makes of the contents of added tokens ("<|im_start|>", "<think>") in a text.
enum class SpecialTokens {
  kRecognise,  // each becomes its token, as Hugging Face does
  kPlain,      // ordinary text, so that what a stranger wrote cannot pass for a turn of the chat
};

/// Immutable once loaded: any number of threads may use one Tokenizer at the same time.
class Tokenizer {
 public:
  /// The longest text that encode takes, in bytes.
  static constexpr size_t kLongestText = size_t{256} << 20;

  /// Reads `folder`/tokenizer.json, and tokenizer_config.json for added tokens if it is there.
  /// Throws Error if they are missing, damaged, or of a kind that Rill does not implement: it
  /// implements BPE over bytes with the normaliser NFC or none, cut by regular expressions.
  static Tokenizer load(const std::filesystem::path& folder);

  /// The same from the text of a tokenizer.json; `name` is what errors call it.
  static Tokenizer from_json(std::string_view text, std::string_view name);

  /// The ids of `text`, without any that a post-processor would add (add_special_tokens=False).
  /// Throws Error, giving the byte offset, if the text is not valid UTF-8, or is too long.
  std::vector<int32_t> encode(std::string_view text,
                              SpecialTokens mode = SpecialTokens::kRecognise) const;

  /// The text of `ids`; bytes that are not UTF-8 become U+FFFD, one for each maximal ill-formed
  /// part. `skip_special` leaves special tokens out. Throws Error for an id that is no token.
  std::string decode(std::span<const int32_t> ids, bool skip_special = false) const;

  /// The bytes that one token stands for, not always whole characters. Throws as decode does.
  std::string_view token_bytes(int32_t id) const;

  /// The largest id + 1. A model may have more rows than this; those ids are never to be sampled.
  size_t vocab_size() const;
  /// Whether `id` is a token; a file may leave ids below vocab_size() unused.
  bool contains(int32_t id) const;
  /// The id of a token by its content as tokenizer.json spells it, say "<|im_end|>".
  std::optional<int32_t> id_of(std::string_view content) const;
  /// Whether `id` is an added token that is marked special ("<think>" is not).
  bool is_special(int32_t id) const;

 private:
  struct Data;
  explicit Tokenizer(std::shared_ptr<const Data> data) : data_(std::move(data)) {}
  std::shared_ptr<const Data> data_;
};

/// Turns ids into text as they come. What push and flush return, joined, is decode of all ids; a
/// character whose bytes lie in several tokens comes out once, whole, with the last of them.
/// Borrows the tokenizer.
class StreamDecoder {
 public:
  explicit StreamDecoder(const Tokenizer& tokenizer, bool skip_special = false)
      : tokenizer_(tokenizer), skip_special_(skip_special) {}

  /// Text that `id` completes, maybe none. Throws Error for an id that is no token.
  std::string push(int32_t id);
  /// U+FFFD if the ids ended within a character, else nothing. The decoder is then as new.
  std::string flush();

 private:
  const Tokenizer& tokenizer_;
  bool skip_special_;
  std::string pending_;  // the start of a character
};

}  // namespace rill
