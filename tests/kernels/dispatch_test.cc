// SPDX-License-Identifier: Apache-2.0
#include <cstdlib>

#include "base/error.h"
#include "kernels/support.h"

namespace rill::test {
namespace {

TEST(Dispatch, TakesTheBestThatRuns) {
  unsetenv("RILL_ISA");
  const Kernels& best = choose_kernels();
  EXPECT_TRUE(best.supported());
  for (const Kernels* kernels : all_kernels()) {
    if (kernels == &best) break;
    const bool pays = std::string(kernels->name) != "avx512bf16" || bf16_dot_pays();
    EXPECT_FALSE(kernels->supported() && pays) << kernels->name << " is better and runs";
  }
}

TEST(Dispatch, CanBeForced) {
  for (const Kernels* kernels : all_kernels()) {
    if (kernels->supported()) {
      EXPECT_STREQ(choose_kernels(kernels->name).name, kernels->name);
      setenv("RILL_ISA", kernels->name, 1);
      EXPECT_STREQ(choose_kernels().name, kernels->name);
      EXPECT_STREQ(choose_kernels("auto").name, kernels->name);
      unsetenv("RILL_ISA");
    } else {
      EXPECT_THROW(choose_kernels(kernels->name), Error);
    }
  }
}

TEST(Dispatch, TakesTheDotProductOfBf16OnlyWhereItPays) {
  unsetenv("RILL_ISA");
  if (!bf16_dot_pays()) {
    EXPECT_STRNE(choose_kernels().name, "avx512bf16");
  }
}

TEST(Dispatch, NamesWhatItDoesNotKnow) {
  try {
    choose_kernels("sse9");
    FAIL() << "accepted";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("--isa is 'sse9'; use one of auto"), std::string::npos)
        << error.what();
  }
  setenv("RILL_ISA", "neon", 1);
  EXPECT_THROW(choose_kernels(), Error);
  unsetenv("RILL_ISA");
}

TEST(Dispatch, DotProductInstructionIsCheckedAgainstItsTwin) {
  if (__builtin_cpu_supports("avx512bf16"))
    EXPECT_TRUE(bf16_dot_matches());
  else
    EXPECT_THROW(choose_kernels("avx512bf16"), Error);
}

TEST(Dispatch, TilesAreCheckedAgainstTheirTwin) {
  if (!__builtin_cpu_supports("avx512bf16") || !bf16_tiles_match()) {
    EXPECT_THROW(choose_kernels("amx"), Error);
    GTEST_SKIP() << "no AMX here";
  }
  EXPECT_STREQ(choose_kernels("amx").name, "amx");
}

TEST(FloatMode, FlushesAndRestores) {
  volatile float tiny = 1e-38f, half = 0.25f;
  EXPECT_NE(tiny * half, 0.0f);
  {
    FloatMode mode;
    EXPECT_EQ(tiny * half, 0.0f);
  }
  EXPECT_NE(tiny * half, 0.0f);
}

}  // namespace
}  // namespace rill::test
