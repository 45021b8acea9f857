// SPDX-License-Identifier: Apache-2.0
// No target file of the kernels may export a weak symbol: the linker keeps one copy of each weak
// symbol of a program, and if it kept the AVX-512 file's, the scalar path would die of an illegal
// instruction. Optimised builds inline most of them away, so the files are compiled here without
// optimisation, with the very flags of this build otherwise.
#include <gtest/gtest.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <regex>
#include <sstream>
#include <string>
#include <vector>

namespace rill::walls {
namespace {

namespace fs = std::filesystem;

std::string output_of(const std::string& command, int& status) {
  std::string text;
  FILE* pipe = popen((command + " 2>&1").c_str(), "r");
  if (!pipe) throw std::runtime_error("cannot start " + command);
  std::array<char, 4096> buffer;
  while (size_t n = fread(buffer.data(), 1, buffer.size(), pipe)) text.append(buffer.data(), n);
  status = pclose(pipe);
  return text;
}

// nm's letters of weak and unique symbols that the object defines; empty when it defines none.
std::vector<std::string> weak_symbols(const std::string& nm_output) {
  std::vector<std::string> found;
  std::istringstream lines(nm_output);
  static const std::regex kWeak(R"(^[0-9a-f]+ ([WVuwv]) (.+)$)");
  std::smatch match;
  for (std::string line; std::getline(lines, line);)
    if (std::regex_match(line, match, kWeak))
      found.push_back(match[1].str() + " " + match[2].str());
  return found;
}

std::string as_debug_compile(std::string command, const fs::path& object) {
  for (const char* flag : {R"( -O[0-3sg]?\b)", R"( -DNDEBUG\b)", R"( -f(no-)?sanitize\S*)",
                           R"( -M(D|T \S+|F \S+))", R"( -o \S+)", R"( -flto\S*)"})
    command = std::regex_replace(command, std::regex(flag), "");
  return command + " -O0 -UNDEBUG -o '" + object.string() + "'";
}

TEST(WeakSymbols, NoneInADebugBuildOfTheKernelTargets) {
  std::ifstream stream(RILL_BUILD_DIR "/compile_commands.json");
  ASSERT_TRUE(stream) << RILL_BUILD_DIR "/compile_commands.json is missing; configure again";
  const fs::path scratch =
      fs::temp_directory_path() / ("rill-weak-symbols-" + std::to_string(getpid()));
  fs::create_directory(scratch);
  int targets = 0;
  for (const auto& entry : nlohmann::json::parse(stream)) {
    const fs::path file = entry.at("file").get<std::string>();
    if (file.parent_path().filename() != "kernels" ||
        file.filename().string().rfind("target_", 0) != 0 ||
        file.parent_path().parent_path().filename() != "src")
      continue;
    ++targets;
    SCOPED_TRACE(file.filename());
    const fs::path object = scratch / file.filename().replace_extension(".o");
    const std::string compile = "cd '" + entry.at("directory").get<std::string>() + "' && " +
                                as_debug_compile(entry.at("command").get<std::string>(), object);
    int status = 0;
    const std::string said = output_of(compile, status);
    ASSERT_EQ(status, 0) << compile << "\n" << said;
    const std::string symbols = output_of("nm -C '" + object.string() + "'", status);
    ASSERT_EQ(status, 0) << symbols;
    EXPECT_NE(symbols.find("rill::kKernels"), std::string::npos) << "no table in there:\n"
                                                                 << symbols;
    for (const std::string& symbol : weak_symbols(symbols)) ADD_FAILURE() << symbol;
  }
  fs::remove_all(scratch);
  EXPECT_GE(targets, 4) << "scalar, AVX2 and AVX-512 with its dot products have a file each";
}

TEST(WeakSymbols, ThePatternFindsThem) {
  const auto found = weak_symbols(
      "0000000000000000 W std::max(int, int)\n"
      "                 U memcpy\n"
      "                 w __gmon_start__\n"
      "0000000000000010 V vtable\n"
      "0000000000000020 u rill::counter\n"
      "0000000000000030 D rill::scalar_kernels\n"
      "0000000000000040 t rill::(anonymous namespace)::rope(float*)\n");
  ASSERT_EQ(found.size(), 3u);
  EXPECT_EQ(found[0], "W std::max(int, int)");
}

}  // namespace
}  // namespace rill::walls
