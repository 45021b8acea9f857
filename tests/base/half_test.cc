// SPDX-License-Identifier: Apache-2.0
// Every 16-bit pattern both ways, against conversions written from the definition of the formats
// in double precision, which holds all of their values and midpoints exactly. A float below the
// normal range counts as a zero of its sign (docs/arithmetic.md).
#include "base/half.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace rill {
namespace {

struct Layout {
  int exponent_bits, mantissa_bits;
  int bias() const { return (1 << (exponent_bits - 1)) - 1; }
  unsigned exponent_mask() const { return (1u << exponent_bits) - 1; }
};
constexpr Layout kBf16{8, 7}, kF16{5, 10};

// The value of `bits`; NaN for NaN.
double decode(Layout layout, unsigned bits) {
  const unsigned mantissa = bits & ((1u << layout.mantissa_bits) - 1);
  const unsigned exponent = (bits >> layout.mantissa_bits) & layout.exponent_mask();
  const double sign = bits & 0x8000u ? -1.0 : 1.0;
  if (exponent == layout.exponent_mask())
    return mantissa ? std::nan("") : sign * std::numeric_limits<double>::infinity();
  const double fraction = std::ldexp(double(mantissa), -layout.mantissa_bits);
  if (exponent == 0) return sign * std::ldexp(fraction, 1 - layout.bias());
  return sign * std::ldexp(1 + fraction, int(exponent) - layout.bias());
}

bool is_subnormal(double value) {
  return std::fabs(value) < 0x1p-126;
}

// The nearest 16-bit value, of two equally near ones the even one, found by bisection over the
// magnitudes, which the formats keep in the order of their bits.
unsigned encode(Layout layout, double value) {
  const unsigned sign = std::signbit(value) ? 0x8000u : 0;
  if (is_subnormal(value)) return sign;
  const double magnitude = std::fabs(value);
  const unsigned infinity = layout.exponent_mask() << layout.mantissa_bits;
  unsigned low = 0, high = infinity;  // decode(low) <= magnitude < decode(high), or high is it
  while (high - low > 1) {
    const unsigned middle = (low + high) / 2;
    (decode(layout, middle) <= magnitude ? low : high) = middle;
  }
  // Past the largest value the next step of the same size stands for infinity.
  const double above = high == infinity
                           ? decode(layout, low) + (decode(layout, low) - decode(layout, low - 1))
                           : decode(layout, high);
  const double to_low = magnitude - decode(layout, low), to_high = above - magnitude;
  if (std::isinf(magnitude)) return sign | infinity;
  if (to_low < to_high) return sign | low;
  if (to_low > to_high) return sign | high;
  return sign | (low % 2 == 0 ? low : high);
}

template <class ToFloat>
void expect_decodes_all(Layout layout, ToFloat to_float) {
  for (unsigned bits = 0; bits < 0x10000u; ++bits) {
    const double expected = decode(layout, bits);
    const float found = to_float(uint16_t(bits));
    if (std::isnan(expected)) {
      ASSERT_TRUE(std::isnan(found)) << std::hex << bits;
    } else {
      ASSERT_EQ(double(found), expected) << std::hex << bits;
      ASSERT_EQ(std::signbit(found), (bits & 0x8000u) != 0) << std::hex << bits;
    }
  }
}

TEST(Half, EveryBf16PatternDecodes) {
  expect_decodes_all(kBf16, bf16_to_float);
}
TEST(Half, EveryF16PatternDecodes) {
  expect_decodes_all(kF16, f16_to_float);
}

template <class ToFloat, class FromFloat>
void expect_round_trip(ToFloat to_float, FromFloat from_float) {
  for (unsigned bits = 0; bits < 0x10000u; ++bits) {
    const float value = to_float(uint16_t(bits));
    if (std::isnan(value)) {
      ASSERT_TRUE(std::isnan(to_float(from_float(value)))) << std::hex << bits;
    } else if (is_subnormal(value)) {
      ASSERT_EQ(from_float(value), bits & 0x8000u) << std::hex << bits;
    } else {
      ASSERT_EQ(from_float(value), bits) << std::hex << bits;
    }
  }
}

TEST(Half, EveryBf16ValueComesBack) {
  expect_round_trip(bf16_to_float, float_to_bf16);
}
TEST(Half, EveryF16ValueComesBack) {
  expect_round_trip(f16_to_float, float_to_f16);
}

// Between each value and the next: their midpoint (a tie), and the floats on both sides of it.
template <class ToFloat, class FromFloat>
void expect_rounds_to_nearest_even(Layout layout, ToFloat to_float, FromFloat from_float) {
  const unsigned infinity = layout.exponent_mask() << layout.mantissa_bits;
  for (unsigned bits = 0; bits < infinity; ++bits) {
    const double low = to_float(uint16_t(bits));
    const double high = bits + 1 == infinity ? low + (low - to_float(uint16_t(bits - 1)))
                                             : to_float(uint16_t(bits + 1));
    const float tie = float((low + high) / 2);
    ASSERT_EQ(double(tie), (low + high) / 2) << "midpoints fit a float";
    for (float value : {tie, std::nextafterf(tie, 0.f), std::nextafterf(tie, INFINITY)})
      for (float signed_value : {value, -value})
        ASSERT_EQ(from_float(signed_value), encode(layout, signed_value))
            << std::hex << bits << " " << std::hexfloat << signed_value;
  }
}

TEST(Half, Bf16RoundsToNearestEvenEverywhere) {
  expect_rounds_to_nearest_even(kBf16, bf16_to_float, float_to_bf16);
}
TEST(Half, F16RoundsToNearestEvenEverywhere) {
  expect_rounds_to_nearest_even(kF16, f16_to_float, float_to_f16);
}

TEST(Half, EdgesOfTheRange) {
  EXPECT_EQ(float_to_f16(65504.f), 0x7bffu);
  EXPECT_EQ(float_to_f16(65519.996f), 0x7bffu);  // the last float below the midpoint
  EXPECT_EQ(float_to_f16(65520.f), 0x7c00u);     // a tie, and infinity is the even one
  EXPECT_EQ(float_to_f16(INFINITY), 0x7c00u);
  EXPECT_EQ(float_to_f16(-INFINITY), 0xfc00u);
  EXPECT_EQ(float_to_f16(0x1p-24f), 0x0001u);   // the least subnormal
  EXPECT_EQ(float_to_f16(0x1p-25f), 0x0000u);   // half of it: a tie with zero
  EXPECT_EQ(float_to_f16(-0x1p-26f), 0x8000u);  // keeps its sign
  EXPECT_EQ(float_to_bf16(INFINITY), 0x7f80u);
  EXPECT_EQ(float_to_bf16(std::numeric_limits<float>::max()), 0x7f80u);
  EXPECT_EQ(float_to_bf16(-0.f), 0x8000u);
  EXPECT_TRUE(std::isnan(bf16_to_float(float_to_bf16(std::nanf("")))));
  EXPECT_TRUE(std::isnan(f16_to_float(float_to_f16(-std::nanf("")))));
  // A NaN whose payload lies in the bits that are dropped must not become infinity.
  EXPECT_TRUE(std::isnan(bf16_to_float(float_to_bf16(std::bit_cast<float>(0x7f800001u)))));
  EXPECT_TRUE(std::isnan(f16_to_float(float_to_f16(std::bit_cast<float>(0x7f800001u)))));
}

}  // namespace
}  // namespace rill
