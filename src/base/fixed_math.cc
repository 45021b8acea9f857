// SPDX-License-Identifier: Apache-2.0
#include "base/fixed_math.h"

#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

namespace rill::fixed {
namespace {

// The compiler divides as IEEE says, so these are the same bits everywhere.
constexpr double inverse_factorial(int k) {
  double product = 1;
  for (int i = 2; i <= k; ++i) product *= i;
  return 1 / product;
}

constexpr std::array<double, 14> kExp = [] {
  std::array<double, 14> c{};
  for (int i = 0; i < 14; ++i) c[i] = inverse_factorial(i);
  return c;
}();

constexpr std::array<double, 10> kAtanh = [] {  // 1/3, 1/5, ..., 1/21
  std::array<double, 10> c{};
  for (int i = 0; i < 10; ++i) c[i] = 1.0 / (2 * i + 3);
  return c;
}();

template <size_t n>
double horner(const std::array<double, n>& c, double z) {
  double p = c[n - 1];
  for (size_t i = n - 1; i-- > 0;) p = std::fma(p, z, c[i]);
  return p;
}

constexpr double kLn2High = 0x1.62e42fefa39efp-1, kLn2Low = 0x1.abc9e3b39803fp-56;

}  // namespace

double log(double x) {
  if (x == 0) return -std::numeric_limits<double>::infinity();
  const auto bits = std::bit_cast<uint64_t>(x);
  const uint64_t t = bits - 0x3fe6a09e667f3bcdull;  // the bits of sqrt(1/2)
  const auto e = static_cast<double>(static_cast<int64_t>(t) >> 52);
  const auto m = std::bit_cast<double>(bits - (t & 0xfff0000000000000ull));
  const double s = (m - 1) / (m + 1), z = s * s, h = s + s;
  const double r = std::fma(h, z * horner(kAtanh, z), h);  // log m = 2 atanh s
  return std::fma(e, kLn2High, std::fma(e, kLn2Low, r));
}

double exp(double x) {
  if (std::isnan(x)) return x;
  if (x < -708) return 0;
  if (x > 709) return std::numeric_limits<double>::infinity();
  const double n = std::nearbyint(x * 0x1.71547652b82fep+0);
  double r = std::fma(-n, kLn2High, x);
  r = std::fma(-n, kLn2Low, r);
  // p is in [0.7, 1.42] and n at most 1023, so two exact factors replace ldexp.
  const auto power = [](int64_t k) {
    return std::bit_cast<double>(static_cast<uint64_t>(k + 1023) << 52);
  };
  const auto k = static_cast<int64_t>(n);
  return horner(kExp, r) * power(k / 2) * power(k - k / 2);
}

double pow(double x, double y) {
  return exp(y * log(x));
}

}  // namespace rill::fixed
