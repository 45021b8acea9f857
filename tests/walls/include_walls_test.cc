// SPDX-License-Identifier: Apache-2.0
// The walls: apps → engine → {model, text} → {kernels, comm} → base. Who may include whom, where
// instruction sets, OpenMP and MPI may be named, and that the library neither prints nor exits.
#include <gtest/gtest.h>

#include <map>
#include <regex>
#include <set>
#include <string>

#include "walls/source_tree.h"

namespace rill::walls {
namespace {

// Which folders of src/ a folder may include from, itself and the public headers aside.
const std::map<std::string, std::set<std::string>> kMayInclude = {
    {"base", {}},
    {"kernels", {"base"}},
    {"comm", {"base"}},
    {"model", {"base", "kernels", "comm"}},
    {"text", {"base", "kernels", "comm"}},
    {"engine", {"base", "kernels", "comm", "model", "text"}},
    {"apps", {"base", "kernels", "comm", "model", "text", "engine"}},
    {"include", {}},
    {"tests/reference", {}},
};

std::string place(const SourceFile& file, int line) {
  return file.path + ":" + std::to_string(line);
}

// Adds one failure for each line of code that matches, in files that are not let off.
template <class LetOff>
void expect_nowhere(const std::regex& pattern, const std::string& why, LetOff let_off) {
  for (const SourceFile& file : read_sources()) {
    if (let_off(file)) continue;
    for (size_t i = 0; i < file.lines.size(); ++i)
      if (std::regex_search(file.lines[i], pattern))
        ADD_FAILURE() << place(file, int(i) + 1) << ": " << file.lines[i] << "\n" << why;
  }
}

// The twin sets the processor's flush-to-zero mode, for which C++ has no name.
bool may_name_instructions(const SourceFile& file) {
  return file.area == "kernels" || file.area == "tests/reference";
}

TEST(Walls, EveryFolderOfSourcesIsKnown) {
  std::set<std::string> areas;
  for (const SourceFile& file : read_sources()) areas.insert(file.area);
  for (const std::string& area : areas)
    EXPECT_TRUE(kMayInclude.count(area)) << area << " has no place in the layout; give it one here";
  for (const char* area : {"base", "kernels", "model", "text", "engine", "apps", "include"})
    EXPECT_TRUE(areas.count(area))
        << "no sources in " << area << ": the test looks in the wrong place";
}

TEST(Walls, IncludesPointDownwards) {
  for (const SourceFile& file : read_sources()) {
    for (const Include& include : file.includes) {
      if (include.system) continue;
      const size_t slash = include.name.find('/');
      if (slash == std::string::npos) continue;  // a neighbour in the same folder, or generated
      const std::string target = include.name.substr(0, slash);
      if (file.area == "tests/reference") {
        // An independent twin that shared code with what it checks would share its mistakes.
        EXPECT_EQ(target, "reference") << place(file, include.line) << " includes " << include.name;
        continue;
      }
      if (target == file.area || target == "rill") continue;
      EXPECT_TRUE(kMayInclude.at(file.area).count(target))
          << place(file, include.line) << ": " << file.area << " must not include " << include.name;
    }
  }
}

TEST(Walls, InstructionSetsAreNamedInKernelsOnly) {
  static const std::set<std::string> kHeaders = {"immintrin.h", "x86intrin.h", "xmmintrin.h",
                                                 "emmintrin.h", "arm_neon.h",  "cpuid.h"};
  for (const SourceFile& file : read_sources())
    for (const Include& include : file.includes)
      EXPECT_FALSE(kHeaders.count(include.name) && !may_name_instructions(file))
          << place(file, include.line) << " includes <" << include.name << ">";
  expect_nowhere(
      std::regex(
          R"(\b(_mm(256|512)?_\w+|__m(128|256|512)[bdi]?h?\b|_xgetbv|__cpuid\w*)|#\s*(el)?if.*__(AVX|FMA|SSE|F16C))"),
      "intrinsics and instruction-set #ifs live in src/kernels", may_name_instructions);
}

TEST(Walls, OpenMpIsInOneFile) {
  expect_nowhere(std::regex(R"(#\s*pragma\s+omp|\bomp_\w+\s*\(|include\s*<omp\.h>)"),
                 "threads are src/base/team.cc's affair: use Team",
                 [](const SourceFile& file) { return file.path == "src/base/team.cc"; });
}

TEST(Walls, MpiIsInOneFile) {
  expect_nowhere(std::regex(R"(\bMPI_\w+|include\s*<mpi\.h>)"), "MPI is src/comm/mpi.cc's affair",
                 [](const SourceFile& file) { return file.path == "src/comm/mpi.cc"; });
}

TEST(Walls, TheLibraryPrintsNothingAndNeverExits) {
  expect_nowhere(
      std::regex(
          R"(\bstd::(cout|cerr|clog)\b|\b(printf|fprintf|puts|fputs|perror)\s*\(|(^|[^.\w>])(std::)?(exit|_exit|abort|quick_exit|terminate)\s*\()"),
      "the library throws rill::Error and leaves talking to apps/",
      [](const SourceFile& file) { return file.area == "apps" || file.area == "tests/reference"; });
}

TEST(Walls, TargetFilesSeeOnlyCHeadersAndKernelHeaders) {
  static const std::set<std::string> kAllowed = {
      "cstddef",  "cstdint",  "cstring", "cmath",   "cfloat",   "climits",    "stddef.h",
      "stdint.h", "string.h", "math.h",  "float.h", "limits.h", "immintrin.h"};
  std::map<std::string, const SourceFile*> by_path;
  const std::vector<SourceFile> files = read_sources();
  for (const SourceFile& file : files) by_path[file.path] = &file;
  int targets = 0;
  for (const SourceFile& file : files) {
    if (file.path.rfind("src/kernels/target_", 0) != 0) continue;
    ++targets;
    std::set<std::string> seen;
    std::vector<const SourceFile*> open = {&file};
    while (!open.empty()) {
      const SourceFile* current = open.back();
      open.pop_back();
      for (const Include& include : current->includes) {
        if (include.system) {
          EXPECT_TRUE(kAllowed.count(include.name)) << place(*current, include.line) << " brings <"
                                                    << include.name << "> into " << file.path;
          continue;
        }
        EXPECT_EQ(include.name.rfind("kernels/", 0), 0u)
            << place(*current, include.line) << " brings " << include.name << " into " << file.path;
        const auto found = by_path.find("src/" + include.name);
        if (found != by_path.end() && seen.insert(include.name).second)
          open.push_back(found->second);
      }
    }
  }
  EXPECT_GE(targets, 4) << "scalar, AVX2 and AVX-512 with its dot products have a file each";
}

TEST(Walls, EverySourceBeginsWithItsLicence) {
  for (const SourceFile& file : read_sources())
    EXPECT_EQ(file.first_line, "// SPDX-License-Identifier: Apache-2.0") << file.path;
}

TEST(Walls, TheScannerTellsCodeFromCommentsAndStrings) {
  const SourceFile file = scan("src/text/example.cc",
                               "// exit(1) in a comment\n"
                               "#include \"model/config.h\"  // a reason\n"
                               "#include <omp.h>\n"
                               "int a = 1'000; /* printf(\n"
                               "*/ const char* s = \"exit(\\\"1\\\")\"; char c = '\"'; exit(2);\n");
  EXPECT_EQ(file.area, "text");
  ASSERT_EQ(file.includes.size(), 2u);
  EXPECT_FALSE(file.includes[0].system);
  EXPECT_EQ(file.includes[0].name, "model/config.h");
  EXPECT_EQ(file.includes[1].name, "omp.h");
  EXPECT_EQ(file.includes[1].line, 3);
  ASSERT_EQ(file.lines.size(), 5u);
  EXPECT_EQ(file.lines[0], "");
  EXPECT_EQ(file.lines[3], "int a = 1'000; ");
  EXPECT_EQ(file.lines[4], " const char* s = \"\"; char c = ''; exit(2);");
}

}  // namespace
}  // namespace rill::walls
