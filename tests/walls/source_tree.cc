// SPDX-License-Identifier: Apache-2.0
#include "walls/source_tree.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <regex>
#include <sstream>
#include <stdexcept>

namespace rill::walls {
namespace {

std::string area_of(const std::string& path) {
  if (path.rfind("src/", 0) == 0) return path.substr(4, path.find('/', 4) - 4);
  if (path.rfind("tests/reference/", 0) == 0) return "tests/reference";
  return path.substr(0, path.find('/'));
}

// Blanks comments and the insides of literals, so that a word in a message is not taken for code.
// Raw strings are not known: none of the sources that are scanned may hold one with a quote in it.
std::string without_comments(const std::string& text) {
  std::string code;
  enum { CODE, LINE_COMMENT, BLOCK_COMMENT, STRING, CHARACTER } state = CODE;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i], next = i + 1 < text.size() ? text[i + 1] : '\0';
    const bool literal = state == STRING || state == CHARACTER;
    if (state == CODE && c == '/' && (next == '/' || next == '*')) {
      state = next == '/' ? LINE_COMMENT : BLOCK_COMMENT;
    } else if (state == BLOCK_COMMENT && c == '*' && next == '/') {
      state = CODE;
      ++i;
      continue;
    } else if (literal && c == '\\' && next != '\n') {
      ++i;
      continue;
    }
    if (c == '\n' && state != BLOCK_COMMENT) state = CODE;
    // An apostrophe between digits separates them.
    const bool separator =
        c == '\'' && i > 0 && std::isalnum(static_cast<unsigned char>(text[i - 1]));
    if (state == CODE && c == '"') {
      state = STRING;
    } else if (state == CODE && c == '\'' && !separator) {
      state = CHARACTER;
    } else if ((state == STRING && c == '"') || (state == CHARACTER && c == '\'')) {
      state = CODE;
    } else if (state != CODE && c != '\n') {
      continue;
    }
    code += c;
  }
  return code;
}

}  // namespace

SourceFile scan(const std::string& path, const std::string& text) {
  SourceFile file{path, area_of(path), {}, {}, {}};
  std::istringstream original(text), code(without_comments(text));
  static const std::regex kInclude(R"(^\s*#\s*include\s*([<"])([^>"]+)[>"].*)");
  int number = 0;
  std::smatch match;
  for (std::string line; std::getline(original, line);) {
    if (++number == 1) file.first_line = line;
    if (std::regex_match(line, match, kInclude))
      file.includes.push_back({number, match[1] == "<", match[2]});
  }
  for (std::string line; std::getline(code, line);) file.lines.push_back(line);
  return file;
}

std::vector<SourceFile> read_sources() {
  namespace fs = std::filesystem;
  const fs::path root = RILL_SOURCE_DIR;
  std::vector<SourceFile> files;
  for (const char* folder : {"include", "src", "apps", "tests/reference"}) {
    for (const auto& entry : fs::recursive_directory_iterator(root / folder)) {
      const fs::path extension = entry.path().extension();
      if (!entry.is_regular_file() || (extension != ".h" && extension != ".cc")) continue;
      std::ifstream stream(entry.path());
      const std::string text{std::istreambuf_iterator<char>(stream), {}};
      files.push_back(scan(fs::relative(entry.path(), root).generic_string(), text));
    }
  }
  if (files.empty()) throw std::runtime_error("no sources under " + root.string());
  std::sort(files.begin(), files.end(),
            [](const SourceFile& a, const SourceFile& b) { return a.path < b.path; });
  return files;
}

}  // namespace rill::walls
