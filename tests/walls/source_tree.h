// SPDX-License-Identifier: Apache-2.0
// The repository's own sources, as text.
#pragma once
#include <string>
#include <vector>

namespace rill::walls {

struct Include {
  int line;
  bool system;       // <...>
  std::string name;  // without brackets or quotes
};

struct SourceFile {
  std::string path;                // from the repository's root: "src/base/team.cc"
  std::string area;                // "base", "kernels", ...; "include", "apps", "tests/reference"
  std::vector<std::string> lines;  // without comments and the insides of string literals
  std::string first_line;          // as it stands in the file
  std::vector<Include> includes;
};

/// Every .h and .cc under include/, src/, apps/ and tests/reference/.
std::vector<SourceFile> read_sources();

/// One file, for tests of the scanner itself.
SourceFile scan(const std::string& path, const std::string& text);

}  // namespace rill::walls
