// SPDX-License-Identifier: Apache-2.0
// A tokenizer.json of the smallest kind that loads, for tests to vary.
#pragma once
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "text/bpe.h"

namespace rill::test {

/// The 256 byte tokens (ids 0 to 255), and nothing else but what the caller adds.
inline nlohmann::json small_tokenizer() {
  nlohmann::json vocab = nlohmann::json::object();
  for (int byte = 0; byte < 256; ++byte) {
    vocab[std::string(byte_character(static_cast<unsigned char>(byte)))] = byte;
  }
  return {{"version", "1.0"},
          {"added_tokens", nlohmann::json::array()},
          {"normalizer", {{"type", "NFC"}}},
          {"pre_tokenizer",
           {{"type", "Sequence"},
            {"pretokenizers",
             {{{"type", "Split"},
               {"pattern", {{"Regex", R"(\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+)"}}},
               {"behavior", "Isolated"},
               {"invert", false}},
              {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", false}}}}}},
          {"decoder", {{"type", "ByteLevel"}}},
          {"model",
           {{"type", "BPE"},
            {"dropout", nullptr},
            {"ignore_merges", false},
            {"vocab", vocab},
            {"merges", nlohmann::json::array()}}}};
}

/// Adds the merge of `left` and `right`, and its token under the next free id from 256 on.
inline void add_merge(nlohmann::json& json, const std::string& left, const std::string& right) {
  auto& model = json["model"];
  const size_t next = model["vocab"].size();
  if (!model["vocab"].contains(left + right)) model["vocab"][left + right] = next;
  model["merges"].push_back({left, right});
}

inline void add_token(nlohmann::json& json, int id, const std::string& content,
                      const std::vector<std::string>& flags = {}) {
  nlohmann::json token = {{"id", id},        {"content", content}, {"single_word", false},
                          {"lstrip", false}, {"rstrip", false},    {"normalized", false},
                          {"special", false}};
  for (const std::string& flag : flags) token[flag] = true;
  json["added_tokens"].push_back(token);
}

}  // namespace rill::test
