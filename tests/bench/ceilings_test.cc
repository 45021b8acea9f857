// SPDX-License-Identifier: Apache-2.0
#include "kernels/ceilings.h"

#include <gtest/gtest.h>

#include "kernels/kernels.h"

namespace rill {
namespace {

TEST(CeilingsTest, MeasuresWhatTheProcessorHas) {
  Team team(2);
  const Ceilings measured = measure_ceilings(team, size_t{1} << 20);
  // A slow processor under emulation still does more than this; a loop folded away does not do less
  // than the upper bounds.
  EXPECT_GT(measured.fma, 1e7);
  EXPECT_LT(measured.fma, 1e13);
  EXPECT_GT(measured.bandwidth, 1e6);
  EXPECT_LT(measured.bandwidth, 1e13);
  for (const Kernels* kernels : all_kernels()) {
    if (!kernels->supported()) continue;
    const std::string name = kernels->name;
    if (name == "avx2") {
      EXPECT_GT(measured.maddubs, 0);
    }
    if (name == "avx512vnni") {
      EXPECT_GT(measured.vnni, 0);
    }
    if (name == "avx512bf16") {
      EXPECT_GT(measured.vdpbf16ps, 0);
    }
    if (name == "amx") {
      EXPECT_GT(measured.amx_bf16, 0);
      EXPECT_GT(measured.amx_int8, measured.amx_bf16);
    }
  }
}

TEST(CeilingsTest, MeasuresAgainInAShortTime) {
  Team team(2);
  CeilingProbe probe(team, size_t{1} << 20);
  const Ceilings again = probe.measure();
  EXPECT_EQ(again.vnni > 0, probe.first().vnni > 0);
  EXPECT_EQ(again.vdpbf16ps > 0, probe.first().vdpbf16ps > 0);
  // On a machine that is busy with other tests either may be far too low, none too high.
  EXPECT_GT(again.fma, 1e6);
  EXPECT_LT(again.fma, 1e13);
  EXPECT_GT(again.bandwidth, 1e6);
  EXPECT_LT(again.bandwidth, 1e13);
}

TEST(CeilingsTest, BriefComparisonOfInstructionsIsNotMovedByOtherWork) {
  const double gain = bf16_dot_gain();
  EXPECT_EQ(gain > 0, static_cast<bool>(__builtin_cpu_supports("avx512bf16")));
  // Rates of instructions on one core are 1/2, 1, 2, ... of each other: the root of 2 off would be
  // another one.
  for (int i = 0; i < 20; ++i) {
    EXPECT_LE(bf16_dot_gain(), gain * 1.4);
    EXPECT_GE(bf16_dot_gain(), gain / 1.4);
  }
}

TEST(CeilingsTest, KeepsTheBestOfEach) {
  Ceilings a, b;
  a.fma = 2;
  a.bandwidth = 1;
  b.fma = 1;
  b.bandwidth = 3;
  b.vnni = 4;
  a.keep_best(b);
  EXPECT_EQ(a.fma, 2);
  EXPECT_EQ(a.bandwidth, 3);
  EXPECT_EQ(a.vnni, 4);
  EXPECT_EQ(a.maddubs, 0);
}

}  // namespace
}  // namespace rill
