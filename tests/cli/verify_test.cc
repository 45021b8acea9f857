// SPDX-License-Identifier: Apache-2.0
// rill verify, good and bad.
#include <gtest/gtest.h>

#include <filesystem>

#include "cli/process.h"
#include "model/test_folder.h"

namespace rill {
namespace {

bool has(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

class VerifyReference : public testing::TestWithParam<const char*> {};

TEST_P(VerifyReference, GoldenFolderPasses) {
  const std::string folder = golden(GetParam());
  const Finished run = run_rill({"verify", folder, "--reference", folder});
  EXPECT_EQ(run.status, 0) << run.out << run.err;
  EXPECT_TRUE(has(run.out, "24 of 24")) << run.out;
  EXPECT_FALSE(has(run.out, "FAIL"));
}

INSTANTIATE_TEST_SUITE_P(Golden, VerifyReference,
                         testing::Values("tied-gqa-bf16", "wide-heads-sharded-f16", "odd-mha-f32",
                                         "head128-long-bf16", "deep-bf16", "one-token-bf16",
                                         "yarn-bf16", "bias-f32"),
                         [](const auto& test) {
                           std::string name = test.param;
                           for (char& c : name) c = c == '-' ? '_' : c;
                           return name;
                         });

TEST(Verify, AnotherModelsReferenceFails) {
  const TestFolder folder;
  const std::string name = "tied-gqa-bf16";
  for (const char* file : {"reference.json", "reference.safetensors"})
    std::filesystem::copy(golden(name) + "/" + file, folder.path() / file);
  std::string json = read_text(folder.path() / "reference.json");
  const size_t at = json.find("\"greedy\": [") + 11;
  json.replace(at, json.find(',', at) - at, "7");
  folder.write("reference.json", json);
  const Finished run = run_rill({"verify", golden(name), "--reference", folder.path().string()});
  EXPECT_EQ(run.status, 1);
  EXPECT_TRUE(has(run.out, "0 of 24")) << run.out;
  EXPECT_TRUE(has(run.out, "FAIL"));
}

TEST(Verify, SameBitsOnAGoldenFolderAndOnTheDemo) {
  for (const std::string& folder : {golden("odd-mha-f32"), kDemo}) {
    const Finished run = run_rill({"verify", folder, "--gen-len", "3", "--quick"});
    EXPECT_EQ(run.status, 0) << run.out << run.err;
    EXPECT_TRUE(has(run.out, "same bits: yes"));
    EXPECT_FALSE(has(run.out, "same bits: no"));
    EXPECT_TRUE(has(run.out, "SKIPPED: --quick"));
    EXPECT_TRUE(has(run.out, "largest error"));
  }
}

}  // namespace
}  // namespace rill
