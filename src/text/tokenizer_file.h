// SPDX-License-Identifier: Apache-2.0
// Reads and validates a tokenizer.json; what it returns needs no further checks.
#pragma once
#include <string>
#include <string_view>
#include <vector>

#include "text/added_tokens.h"
#include "text/bpe.h"

namespace rill {

/// A tokenizer.json of the kind that Rill implements.
struct TokenizerFile {
  Vocabulary vocabulary;  // with the added tokens
  BpeModel model;
  std::vector<AddedToken> added_tokens;  // in the order of the file
  std::vector<std::string> expressions;  // each cuts what the one before it left
  bool nfc = false;
};

/// Parses the text of a tokenizer.json. Throws Error, naming `name`, if it is damaged,
/// inconsistent, or describes a kind of tokenizer that Rill does not implement.
TokenizerFile read_tokenizer_file(std::string_view text, std::string_view name);

/// Applies `added_tokens_decoder` of a tokenizer_config.json, as Transformers does: its flags win,
/// and tokens missing from tokenizer.json are added. Throws Error, naming `name`.
void apply_tokenizer_config(std::string_view text, std::string_view name, TokenizerFile& file);

}  // namespace rill
