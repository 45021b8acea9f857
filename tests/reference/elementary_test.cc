// SPDX-License-Identifier: Apache-2.0
// The twin's elementary functions against long double, and its quantisation. What is checked here
// is that docs/arithmetic.md is good; that the engine follows it is checked in tests/kernels.
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <random>
#include <stdexcept>

#include "reference/arithmetic.h"

namespace rill::reference {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

double ulps(float got, double exact) {
  int exponent;
  std::frexp(exact, &exponent);
  return std::fabs(got - exact) / std::ldexp(1.0, exponent - 24);
}

TEST(Conversions, EveryHalfSurvivesARoundTrip) {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const uint16_t half = static_cast<uint16_t>(bits);
    const float value = float_from_f16(half);
    if (std::isnan(value)) {
      EXPECT_TRUE(std::isnan(round_f16(value)));
    } else {
      EXPECT_EQ(f16_from_float(value), half);
    }
    const float wide = float_from_bf16(half);
    const bool subnormal = (bits & 0x7f80u) == 0;
    if (std::isnan(wide)) {
      EXPECT_TRUE(std::isnan(round_bf16(wide)));
    } else {
      EXPECT_EQ(bf16_from_float(wide), subnormal ? bits & 0x8000u : bits);
    }
  }
}

// Between two neighbours: the midpoint goes to the even one, anything off it to the nearer one.
TEST(Conversions, RoundToNearestEven) {
  const auto check = [](auto widen, auto narrow, uint16_t a) {
    const uint16_t b = static_cast<uint16_t>(a + 1);
    const float low = widen(a), high = widen(b);
    if (!std::isfinite(high)) return;
    const float middle = static_cast<float>((static_cast<double>(low) + high) / 2);
    EXPECT_EQ(narrow(middle), (a & 1) == 0 ? a : b) << a;
    EXPECT_EQ(narrow(std::nextafter(middle, low)), a) << a;
    EXPECT_EQ(narrow(std::nextafter(middle, high)), b) << a;
    EXPECT_EQ(narrow(-middle), ((a & 1) == 0 ? a : b) | 0x8000) << a;
  };
  for (uint16_t a = 0; a < 0x7bff; ++a) check(float_from_f16, f16_from_float, a);
  for (uint16_t a = 0x80; a < 0x7f7f; ++a) check(float_from_bf16, bf16_from_float, a);
}

TEST(Conversions, HalfOverflowsAt65520) {
  EXPECT_EQ(round_f16(65519.996f), 65504.0f);
  EXPECT_EQ(round_f16(65520.0f), kInfinity);
  EXPECT_EQ(round_f16(-1e30f), -kInfinity);
  EXPECT_EQ(f16_from_float(0x1p-25f), 0);
  EXPECT_EQ(f16_from_float(0x1.000002p-25f), 1);
}

TEST(Conversions, FlushIsScoped) {
  volatile float tiny = 0x1p-100f;
  {
    const FlushSubnormals flush;
    volatile float product = tiny * tiny * 0x1p66f;
    EXPECT_EQ(std::bit_cast<uint32_t>(static_cast<float>(product)), 0u);
    volatile float half = 0x1p-126f;
    half = half * 0.5f;
    EXPECT_EQ(std::bit_cast<uint32_t>(static_cast<float>(half)), 0u);
  }
  volatile float half = 0x1p-126f;
  half = half * 0.5f;
  EXPECT_EQ(std::bit_cast<uint32_t>(static_cast<float>(half)), 0x00400000u);
}

TEST(Exp2, WithinFourFifthsOfAnUlp) {
  double worst = 0;
  const auto check = [&](float x) {
    worst = std::max(worst, ulps(exp2(x), std::exp2(static_cast<double>(x))));
  };
  for (int i = -(1 << 22); i <= 1 << 22; ++i) check(std::ldexp(static_cast<float>(i), -23));
  for (int i = 0; i < 2'000'000; ++i) check(-126.0f + 254.0f * static_cast<float>(i) / 2e6f);
  EXPECT_LT(worst, 0.8);
  EXPECT_GT(worst, 0.5);  // a polynomial of this degree in fp32: less means nothing was measured
}

TEST(Exp2, PolynomialIsTheMinimaxOne) {
  const double c[] = {1,
                      0x1.62e430p-1,
                      0x1.ebfbdcp-3,
                      0x1.c6af7cp-5,
                      0x1.3b2de0p-7,
                      0x1.5f082ep-10,
                      0x1.416b56p-13};
  double worst = 0;
  for (int i = -50'000; i <= 50'000; ++i) {
    const double f = i * 1e-5;
    double p = c[6];
    for (int k = 5; k >= 0; --k) p = p * f + c[k];
    worst = std::max(worst, std::fabs(p / std::exp2(f) - 1));
  }
  EXPECT_NEAR(worst, 3.0e-9, 0.1e-9);
}

TEST(Exp2, Edges) {
  for (int n = -126; n < 128; ++n) EXPECT_EQ(exp2(static_cast<float>(n)), std::ldexp(1.0f, n));
  EXPECT_EQ(std::bit_cast<uint32_t>(exp2(std::nextafter(-126.0f, -200.0f))), 0u);
  EXPECT_EQ(std::bit_cast<uint32_t>(exp2(-kInfinity)), 0u);
  EXPECT_EQ(exp2(128.0f), kInfinity);
  EXPECT_EQ(exp2(kInfinity), kInfinity);
  EXPECT_TRUE(std::isfinite(exp2(std::nextafter(128.0f, 0.0f))));
  EXPECT_EQ(std::bit_cast<uint32_t>(exp2(std::nanf(""))), 0u);
  for (float x = 0.0f; x > -0.01f; x = std::nextafter(x - 1e-7f, -1.0f)) EXPECT_LE(exp2(x), 1.0f);
}

TEST(Fixed, LogExpPow) {
  std::mt19937_64 random(1);
  std::uniform_real_distribution<double> uniform(0, 1);
  long double log_error = 0, exp_error = 0, pow_error = 0;
  const auto relative = [](double got, long double exact) {
    return std::fabs((got - exact) / exact);
  };
  for (int i = 0; i < 300'000; ++i) {
    const double u = uniform(random), v = uniform(random);
    const double x = std::ldexp(0.5 + u, static_cast<int>(40 * v) - 20);
    log_error = std::max(log_error, relative(fixed::log(x), std::log(static_cast<long double>(x))));
    const double near = 1.0 + (u - 0.5) * std::pow(10.0, -12 * v);
    if (near != 1.0) {
      const long double exact = std::log(static_cast<long double>(near));
      log_error = std::max(log_error, relative(fixed::log(near), exact));
    }
    const double y = -708 + 1417 * u;
    exp_error = std::max(exp_error, relative(fixed::exp(y), std::exp(static_cast<long double>(y))));
    const double base = 1e4 + v * 1e7;
    const long double exact =
        std::pow(static_cast<long double>(base), -static_cast<long double>(u));
    pow_error = std::max(pow_error, relative(fixed::pow(base, -u), exact));
  }
  EXPECT_LT(log_error, 5e-16);
  EXPECT_LT(exp_error, 5e-16);
  EXPECT_LT(pow_error, 1e-14);
  EXPECT_EQ(fixed::log(1.0), 0.0);
  EXPECT_EQ(fixed::log(0.0), -std::numeric_limits<double>::infinity());
  EXPECT_EQ(fixed::exp(0.0), 1.0);
  EXPECT_EQ(fixed::exp(-709.0), 0.0);
  EXPECT_EQ(fixed::pow(1e6, 0.0), 1.0);
}

TEST(Fixed, SinCos) {
  std::mt19937_64 random(2);
  std::uniform_real_distribution<double> uniform(0, 1);
  long double worst = 0;
  for (const double range : {0.7, 10.0, 1e3, 1e5, 1e7}) {
    for (int i = 0; i < 100'000; ++i) {
      const double x = range * (2 * uniform(random) - 1);
      const long double wide = x;
      worst = std::max({worst, std::fabs(fixed::sin(x) - std::sin(wide)),
                        std::fabs(fixed::cos(x) - std::cos(wide))});
    }
  }
  for (int position = 0; position < 100'000; ++position) {  // RoPE's first frequency: whole numbers
    worst = std::max(worst, std::fabs(fixed::sin(position) - std::sin((long double)position)));
  }
  EXPECT_LT(worst, 2e-16);
  EXPECT_EQ(fixed::sin(0.0), 0.0);
  EXPECT_EQ(fixed::cos(0.0), 1.0);
}

TEST(Pointwise, LaneTreeAddsEightFourTwoOne) {
  Lanes lanes{};
  lanes[0] = 1.0f;
  lanes[8] = 0x1p-24f;  // lost against 1 alone, kept when lanes 8 and 12 were to meet first
  lanes[12] = 0x1p-24f;
  EXPECT_EQ(lane_tree(lanes), 1.0f);
  Lanes others{};
  others[0] = 1.0f;
  others[4] = 0x1p-24f;
  others[12] = 0x1p-24f;  // 4 and 12 meet first
  EXPECT_EQ(lane_tree(others), 1.0f + 0x1p-23f);
}

TEST(Pointwise, RmsNormAndSilu) {
  std::mt19937 random(3);
  std::normal_distribution<float> normal;
  for (const int n : {1, 15, 16, 40, 1024, 1027}) {
    std::vector<float> x(n), w(n);
    double squares = 0;
    for (int i = 0; i < n; ++i) {
      x[i] = 3 * normal(random);
      w[i] = 1 + 0.2f * normal(random);
      squares += static_cast<double>(x[i]) * x[i];
    }
    const std::vector<float> y = rmsnorm(x, w, 1e-6f), z = silu_mul(x, w);
    for (int i = 0; i < n; ++i) {
      const double exact = x[i] / std::sqrt(squares / n + 1e-6) * w[i];
      EXPECT_NEAR(y[i], exact, 1e-6 * std::fabs(exact));
      const double silu = x[i] / (1 + std::exp(-static_cast<double>(x[i]))) * w[i];
      EXPECT_NEAR(z[i], silu, 1e-6 * std::fabs(silu));
    }
  }
  const std::vector<float> edge =
      silu_mul(std::vector<float>{-1e4f, 1e4f, 0.0f}, std::vector<float>{2.0f, 2.0f, 2.0f});
  EXPECT_EQ(std::bit_cast<uint32_t>(edge[0]), 0x80000000u);
  EXPECT_EQ(edge[1], 2e4f);
  EXPECT_EQ(edge[2], 0.0f);
}

TEST(Rope, TablesAndRotation) {
  const Rope rope{.head_dim = 128, .theta = 1e6};
  for (const int64_t position : {0, 1, 704, 40959, 262143, 1'000'003}) {
    const RopeRow row = rope_row(rope, position);
    std::vector<float> head(128);
    for (int i = 0; i < 128; ++i) head[i] = static_cast<float>(i - 50) / 16;
    std::vector<float> rotated = head;
    apply_rope(row, rotated);
    for (int i = 0; i < 64; ++i) {
      const long double inverse = std::pow(1e6L, -2.0L * i / 128);
      const long double c = std::cos(position * inverse), s = std::sin(position * inverse);
      EXPECT_NEAR(row.cos[i], static_cast<double>(c), 6.1e-8);
      EXPECT_NEAR(row.sin[i], static_cast<double>(s), 6.1e-8);
      EXPECT_NEAR(rotated[i], static_cast<double>(head[i] * c - head[i + 64] * s), 2e-6);
      EXPECT_NEAR(rotated[i + 64], static_cast<double>(head[i + 64] * c + head[i] * s), 2e-6);
    }
  }
}

double squared_error(const std::vector<float>& w, const QuantisedRow& q) {
  double sum = 0;
  for (size_t i = 0; i < w.size(); ++i) {
    const double e = w[i] - static_cast<double>(q.scales[i / kQuantBlock]) * q.codes[i];
    sum += e * e;
  }
  return sum;
}

// The codes for one scale a block, by a plain division.
QuantisedRow codes_for(const std::vector<float>& w, const std::vector<float>& scales) {
  QuantisedRow q{scales, std::vector<int8_t>(w.size())};
  for (size_t i = 0; i < w.size(); ++i) {
    const float code = std::nearbyint(w[i] / scales[i / kQuantBlock]);
    q.codes[i] = static_cast<int8_t>(std::clamp(code, -8.0f, 7.0f));
  }
  return q;
}

// The figures that docs/arithmetic.md gives.
TEST(Quantise, Int4SearchBeatsTheMaximumByATenth) {
  std::mt19937 random(4);
  std::normal_distribution<float> normal(0.0f, 0.03f);
  double searched = 0, by_maximum = 0, dense = 0;
  for (int block = 0; block < 5000; ++block) {
    std::vector<float> w(kQuantBlock);
    for (float& x : w) x = normal(random);
    searched += squared_error(w, quantise_weights_int4(w));
    const float extreme = *std::max_element(
        w.begin(), w.end(), [](float a, float b) { return std::fabs(a) < std::fabs(b); });
    by_maximum += squared_error(w, codes_for(w, {round_f16(extreme / -8)}));
    double best = std::numeric_limits<double>::infinity();
    for (float t = 5.5f; t < 10.5f; t += 0.02f) {
      for (const float divisor : {-t, t}) {
        best = std::min(best, squared_error(w, codes_for(w, {round_f16(extreme / divisor)})));
      }
    }
    dense += best;
  }
  EXPECT_NEAR(searched / by_maximum, 1 - 0.106, 0.004);
  EXPECT_NEAR(dense / by_maximum, 1 - 0.114, 0.004);
}

TEST(Quantise, WeightsAtTheEdges) {
  std::vector<float> w(40, 0.0f);  // a block of zeros and a short one
  w[32] = 3.0f;
  w[33] = -1e-9f;
  for (const bool int4 : {false, true}) {
    const QuantisedRow q = int4 ? quantise_weights_int4(w) : quantise_weights_int8(w);
    ASSERT_EQ(q.scales.size(), 2u);
    ASSERT_EQ(q.codes.size(), 64u);
    EXPECT_EQ(q.scales[0], 0.0f);
    EXPECT_NEAR(q.scales[1] * q.codes[32], 3.0f, 2e-3f);
    for (size_t i = 34; i < 64; ++i) EXPECT_EQ(q.codes[i], 0);
  }
  const QuantisedRow tiny = quantise_weights_int8(std::vector<float>(32, 1e-8f));
  EXPECT_EQ(tiny.scales[0], 0.0f);
  EXPECT_EQ(tiny.codes[0], 0);
  const QuantisedRow small = quantise_weights_int8(std::vector<float>(32, 127 * 0x1p-24f));
  EXPECT_EQ(small.scales[0], 0x1p-24f);  // the least f16 subnormal
  EXPECT_EQ(small.codes[0], 127);
  for (const float bad : {std::nanf(""), kInfinity, 5e5f}) {
    w[3] = bad;
    EXPECT_THROW(quantise_weights_int8(w), std::runtime_error);
    EXPECT_THROW(quantise_weights_int4(w), std::runtime_error);
  }
}

TEST(Quantise, Activations) {
  std::vector<float> x(96, 0.0f);
  x[0] = 127.0f;
  x[1] = -63.5f;  // a tie: to the even 64
  x[2] = 0.5f;    // a tie: to 0
  x[32] = 1e-38f * 2;
  x[64] = std::nanf("");
  x[65] = 5.0f;
  const QuantisedRow q = quantise_activations(x);
  EXPECT_EQ(q.scales[0], 1.0f);
  EXPECT_EQ(q.codes[0], 127);
  EXPECT_EQ(q.codes[1], -64);
  EXPECT_EQ(q.codes[2], 0);
  EXPECT_EQ(q.codes[32], 0);  // 127 / amax is infinite
  EXPECT_TRUE(std::isnan(q.scales[2]));
  EXPECT_EQ(q.codes[65], 0);
  x[64] = kInfinity;
  EXPECT_EQ(quantise_activations(x).scales[2], kInfinity);
  EXPECT_EQ(quantise_activations(x).codes[65], 0);
}

}  // namespace
}  // namespace rill::reference
