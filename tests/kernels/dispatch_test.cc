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

// Whatever this machine is: machines that run a table and all less capable ones.
TEST(Dispatch, TakesTheDotProductOfBf16OnlyWhereItPays) {
  const auto best = [](const char* most_capable, bool dot_pays) -> std::string {
    bool runs = false;
    return best_kernels(
               [&](const Kernels& kernels) {
                 runs = runs || std::string(kernels.name) == most_capable;
                 return runs;
               },
               dot_pays)
        .name;
  };
  EXPECT_EQ(best("avx512bf16", true), "avx512bf16");
  EXPECT_EQ(best("avx512bf16", false), "avx512vnni");
  for (const bool pays : {false, true})
    for (const char* other : {"amx", "avx512vnni", "avx512", "avx2", "scalar"})
      EXPECT_EQ(best(other, pays), other);
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
  if (amx_allowed()) {
    EXPECT_TRUE(bf16_tiles_match());
    EXPECT_STREQ(choose_kernels("amx").name, "amx");
  } else {
    EXPECT_THROW(choose_kernels("amx"), Error);
  }
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
