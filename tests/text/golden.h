// SPDX-License-Identifier: Apache-2.0
// The golden files of the text side, read once for all tests of this program.
#pragma once
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <vector>

#include "text/tokenizer.h"

namespace rill::test {

inline std::filesystem::path data_folder() {
  return RILL_TEXT_DATA;
}

inline std::vector<std::string> read_lines(const std::string& name) {
  std::ifstream file(data_folder() / name);
  if (!file) throw std::runtime_error("no golden file " + name);
  std::vector<std::string> lines;
  for (std::string line; std::getline(file, line);) lines.push_back(line);
  return lines;
}

/// The published Qwen3 tokenizer.
inline const Tokenizer& qwen3() {
  static const Tokenizer tokenizer = Tokenizer::load(data_folder() / "qwen3-tokenizer");
  return tokenizer;
}

struct TextCase {
  std::string text;
  std::vector<int32_t> ids;
  std::string decoded;
};

inline const std::vector<TextCase>& texts() {
  static const std::vector<TextCase> cases = [] {
    std::vector<TextCase> all;
    for (const std::string& line : read_lines("text/tokenizer.jsonl")) {
      const auto json = nlohmann::json::parse(line);
      all.push_back({json.at("text"), json.at("ids"), json.at("decoded")});
    }
    return all;
  }();
  return cases;
}

}  // namespace rill::test
