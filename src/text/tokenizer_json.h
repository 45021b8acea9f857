// SPDX-License-Identifier: Apache-2.0
// The streaming half of reading a tokenizer.json: its two large members never become a JSON tree.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "text/bpe.h"

namespace rill {

/// The text of the file, taken apart but not yet checked against each other.
struct TokenizerJson {
  Json rest;              // everything but model.vocab and model.merges
  Vocabulary vocabulary;  // model.vocab
  bool has_vocabulary = false;
  bool has_merges = false;

  /// The parts of all merges, two per merge, one after another in `merge_text`.
  std::string merge_text;
  std::vector<uint32_t> merge_ends;  // where each part ends in merge_text
};

/// Throws Error, naming `name`, for broken JSON, invalid UTF-8, and vocab or merges of the wrong
/// types, repeated, or out of range.
TokenizerJson parse_tokenizer_json(std::string_view text, std::string_view name);

}  // namespace rill
