// SPDX-License-Identifier: Apache-2.0
// The fixed double-precision functions, and the tables made of them, against the twin's bits.
#include "base/fixed_math.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <random>

#include "base/half.h"
#include "kernels/kernels.h"
#include "model/golden.h"
#include "model/rope.h"

namespace rill {
namespace {

void expect_bits(double found, double expected, double x) {
  EXPECT_EQ(std::bit_cast<uint64_t>(found), std::bit_cast<uint64_t>(expected))
      << "at " << x << ": " << found << " and " << expected;
}

TEST(FixedMath, HasTheBitsOfTheTwin) {
  std::mt19937_64 random(1);
  std::uniform_real_distribution<double> exponent(-720, 720), power(-30, 30);
  for (int i = 0; i < 20000; ++i) {
    const double y = exponent(random), z = power(random);
    expect_bits(fixed::exp(y), reference::fixed::exp(y), y);
    const double positive = std::ldexp(1 + std::fabs(z) / 31, static_cast<int>(y));
    expect_bits(fixed::log(positive), reference::fixed::log(positive), positive);
    expect_bits(fixed::pow(1e6, z), reference::fixed::pow(1e6, z), z);
  }
  for (const double x : {-709.5, -708.0, 0.0, -0.0, 709.0, 709.5, 1e300, -1e300}) {
    expect_bits(fixed::exp(x), reference::fixed::exp(x), x);
  }
  EXPECT_TRUE(std::isnan(fixed::exp(std::nan(""))));
  expect_bits(fixed::log(0), -INFINITY, 0);
}

// Against the library, which is right to about one unit in the last place.
TEST(FixedMath, IsAccurate) {
  std::mt19937_64 random(2);
  std::uniform_real_distribution<double> exponent(-700, 700);
  for (int i = 0; i < 20000; ++i) {
    const double y = exponent(random);
    EXPECT_NEAR(fixed::exp(y) / std::exp(y), 1, 1e-15 + 2e-16);
    EXPECT_NEAR(fixed::log(std::exp(y)), std::log(std::exp(y)), 1e-15 * std::fabs(y) + 1e-15);
  }
}

TEST(Rope, HasTheBitsOfTheTwin) {
  ModelConfig config;
  config.head_dim = 128;
  config.rope_theta = 1000000;
  config.max_position_embeddings = 40960;
  YarnScaling yarn;
  yarn.factor = 4;
  yarn.original_max_position_embeddings = 32768;
  YarnScaling given = yarn;
  given.attention_factor = 1.25;
  given.truncate = false;
  YarnScaling scaled = yarn;
  scaled.mscale = 0.7;
  scaled.mscale_all_dim = 1.1;
  for (const auto& scaling : {std::optional<YarnScaling>(), std::optional(yarn),
                              std::optional(given), std::optional(scaled)}) {
    config.yarn = scaling;
    reference::Rope twin;
    twin.head_dim = 128;
    twin.theta = config.rope_theta;
    if (scaling) {
      twin.yarn = true;
      twin.factor = scaling->factor;
      twin.original_max_position_embeddings = scaling->original_max_position_embeddings;
      twin.truncate = scaling->truncate;
      twin.attention_factor = scaling->attention_factor.value_or(0);
      twin.mscale = scaling->mscale.value_or(0);
      twin.mscale_all_dim = scaling->mscale_all_dim.value_or(0);
    }
    const Rope rope(config);
    std::vector<float> cosine(64), sine(64);
    for (const size_t position : {0, 1, 17, 4095, 40959, 131071}) {
      choose_kernels().rotations(rope.angles(), static_cast<double>(position), cosine.data(),
                                 sine.data());
      const reference::RopeRow row = reference::rope_row(twin, static_cast<int64_t>(position));
      EXPECT_EQ(first_difference(cosine, row.cos), 64u) << position;
      EXPECT_EQ(first_difference(sine, row.sin), 64u) << position;
    }
  }
}

TEST(Half, RoundsAsTheTwin) {
  std::mt19937 random(3);
  for (int i = 0; i < 200000; ++i) {
    const auto bits =
        static_cast<uint32_t>(i < 70000 ? uint32_t(i) << 16 | random() % 65536 : random());
    const auto x = std::bit_cast<float>(bits);
    if (std::isnan(x)) {
      EXPECT_TRUE(std::isnan(bf16_to_float(float_to_bf16(x))));
      EXPECT_TRUE(std::isnan(f16_to_float(float_to_f16(x))));
      continue;
    }
    ASSERT_EQ(float_to_bf16(x), reference::bf16_from_float(x)) << x;
    ASSERT_EQ(float_to_f16(x), reference::f16_from_float(x)) << x;
  }
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const auto half = static_cast<uint16_t>(bits);
    const float x = f16_to_float(half), y = reference::float_from_f16(half);
    ASSERT_EQ(std::isnan(x), std::isnan(y)) << bits;
    if (std::isnan(y)) continue;
    ASSERT_EQ(std::bit_cast<uint32_t>(x), std::bit_cast<uint32_t>(y)) << bits;
  }
}

}  // namespace
}  // namespace rill
