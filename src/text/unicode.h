// SPDX-License-Identifier: Apache-2.0
// UTF-8 and Unicode as the text side needs them. The tables come from utf8proc.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace rill {

/// What stands at the start of a run of bytes.
struct Utf8Step {
  enum Kind { kCharacter, kInvalid, kTruncated } kind;
  /// Bytes: of the character; of the maximal ill-formed part (Unicode 15, §3.9 U+FFFD
  /// substitution); or, for kTruncated, all that is left, which is a proper start of a character.
  size_t length;
  /// The code point of a kCharacter.
  uint32_t code_point;
};

/// Reads the first character of `bytes`, which is not empty.
Utf8Step next_utf8(std::string_view bytes);

/// The offset of the first byte that is not valid UTF-8, or `text.size()` if all of it is.
size_t valid_utf8_prefix(std::string_view text);

/// Throws Error, naming `what` and the byte offset, if `text` is not valid UTF-8.
void require_utf8(std::string_view text, std::string_view what);

/// Appends `code_point` to `out` as UTF-8.
void append_utf8(uint32_t code_point, std::string& out);

/// Moves the characters that are complete from the front of `pending` to `out`; each maximal
/// ill-formed part becomes one U+FFFD. What stays is empty or the start of a character.
void take_complete_utf8(std::string& pending, std::string& out);

/// `bytes` with each maximal ill-formed part replaced by U+FFFD.
std::string replace_invalid_utf8(std::string_view bytes);

/// Normalization Form C of valid UTF-8, as Hugging Face's `tokenizers` computes it. Linear in the
/// size but for the sorting of runs of combining marks; text below U+0300 is only copied.
std::string normalize_nfc(std::string_view text);

/// The property White_Space.
bool is_white_space(uint32_t code_point);

/// What the regular expression \w matches in Unicode Technical Standard 18, annex C: letters,
/// marks, decimal numbers, connectors, and other alphabetic characters.
bool is_word_character(uint32_t code_point);

/// Whether Python's repr() shows the character as it is (str.isprintable).
bool is_printable(uint32_t code_point);

}  // namespace rill
