// SPDX-License-Identifier: Apache-2.0
// Cosines and sines of RoPE's angles: docs/arithmetic.md §4 and §6. Plain loops over doubles, which
// the compiler spreads over the lanes that a target has.
#pragma once
#include "kernels/inline.h"
#include "kernels/table.h"

namespace rill {
namespace {

constexpr int kSeriesTerms = 8;
struct Series {
  double c[kSeriesTerms];
};
// sign (-1)^(i+1) / (first + 2 i)!: of sine (first = 3) and cosine (first = 2). The compiler
// divides as IEEE says.
constexpr Series alternating(int first) {
  Series series{};
  for (int i = 0; i < kSeriesTerms; ++i) {
    double factorial = 1;
    for (int k = 2; k <= first + 2 * i; ++k) factorial *= k;
    series.c[i] = (i % 2 ? 1 : -1) * (1 / factorial);
  }
  return series;
}
constexpr Series kSine = alternating(3), kCosine = alternating(2);

RILL_INLINE double horner(const Series& series, double z) {
  double p = series.c[kSeriesTerms - 1];
#pragma GCC unroll 8
  for (int i = kSeriesTerms - 2; i >= 0; --i) p = __builtin_fma(p, z, series.c[i]);
  return p;
}

void rotations(const RopeAngles& angles, double position, float* __restrict cosine,
               float* __restrict sine) {
  const double* const inverse = angles.inverse;
  const double factor = angles.factor;
  for (size_t i = 0; i < angles.count; ++i) {
    const double x = position * inverse[i];
    const double n = __builtin_nearbyint(x * 0x1.45f306dc9c883p-1);  // 2/pi
    double r = __builtin_fma(-n, 0x1.921fb54442d18p+0, x);           // pi/2 in two parts
    r = __builtin_fma(-n, 0x1.1a62633145c07p-54, r);
    const double z = r * r;
    const double s = __builtin_fma(r * z, horner(kSine, z), r);
    const double c = __builtin_fma(z, horner(kCosine, z), 1.0);
    const int quadrant = static_cast<int>(n) & 3;
    const double a = quadrant & 1 ? c : s, b = quadrant & 1 ? s : c;
    sine[i] = static_cast<float>((quadrant & 2 ? -a : a) * factor);
    cosine[i] = static_cast<float>(((quadrant + 1) & 2 ? -b : b) * factor);
  }
}

}  // namespace
}  // namespace rill
