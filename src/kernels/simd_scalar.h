// SPDX-License-Identifier: Apache-2.0
// Sixteen lanes without vector registers, and the meaning of each function of the simd_*.h headers:
// plain loops that the vectorised ones equal to the bit.
#pragma once
#include <cstddef>
#include <cstdint>

#include "kernels/table.h"

namespace rill {
namespace {

struct V {
  float f[16];
};
struct I {
  int32_t i[16];
};

// Register tiles: the most rows of float and of integer products, and how many panels go with them.
constexpr int kFloatRows = 4, kIntRows = 2, kRegisters = 16;
// Accumulators that may stay in registers beside as many sums of integers.
constexpr int kBesideSums = 2;
// Rows for which the processor's own prefetching is better left alone: none, as with AVX2.
constexpr int kUnaidedRows = 0;
constexpr int float_panels(int) {
  return 1;
}
constexpr int int_panels(int) {
  return 1;
}

inline uint32_t bits_of(float x) {
  uint32_t bits;
  __builtin_memcpy(&bits, &x, 4);
  return bits;
}
inline float float_of(uint32_t bits) {
  float x;
  __builtin_memcpy(&x, &bits, 4);
  return x;
}
template <class F>
inline V each(F f) {
  V y;
  for (int j = 0; j < 16; ++j) y.f[j] = f(j);
  return y;
}

inline V zero() {
  return V{};
}
inline V splat(float x) {
  return each([&](int) { return x; });
}
inline V load(const float* p) {
  return each([&](int j) { return p[j]; });
}
inline void store(float* p, V x) {
  __builtin_memcpy(p, x.f, sizeof x.f);
}
// The first n lanes from memory, +0 beyond; nothing past p + n is touched.
inline V load_part(const float* p, size_t n) {
  return each([&](int j) { return static_cast<size_t>(j) < n ? p[j] : 0.0f; });
}
inline void store_part(float* p, V x, size_t n) {
  for (size_t j = 0; j < 16 && j < n; ++j) p[j] = x.f[j];
}
inline V add(const V& a, const V& b) {
  return each([&](int j) { return a.f[j] + b.f[j]; });
}
inline V sub(const V& a, const V& b) {
  return each([&](int j) { return a.f[j] - b.f[j]; });
}
inline V mul(const V& a, const V& b) {
  return each([&](int j) { return a.f[j] * b.f[j]; });
}
inline V div(const V& a, const V& b) {
  return each([&](int j) { return a.f[j] / b.f[j]; });
}
inline V fma(const V& a, const V& b, const V& c) {  // a * b + c
  return each([&](int j) { return __builtin_fmaf(a.f[j], b.f[j], c.f[j]); });
}
inline V max(const V& a, const V& b) {  // b where either is NaN, as MAXPS
  return each([&](int j) { return a.f[j] > b.f[j] ? a.f[j] : b.f[j]; });
}
inline V min(const V& a, const V& b) {
  return each([&](int j) { return a.f[j] < b.f[j] ? a.f[j] : b.f[j]; });
}
// To the nearest integer, ties to even, as a float; |x| up to 2^22, NaN and infinities rubbish.
inline float round_even(float x) {
  constexpr float kMagic = 12582912.0f;  // 1.5 * 2^23: the sum has no fraction bits
  volatile float sum = x + kMagic;
  return sum - kMagic;
}
inline V round_even(const V& x) {
  return each([&](int j) { return round_even(x.f[j]); });
}
inline V where_ge(const V& x, const V& bound, const V& yes, const V& no) {
  return each([&](int j) { return x.f[j] >= bound.f[j] ? yes.f[j] : no.f[j]; });
}
// y, but +0 where x < bound; a NaN is not.
inline V zero_below(const V& x, const V& bound, const V& y) {
  return each([&](int j) { return x.f[j] < bound.f[j] ? 0.0f : y.f[j]; });
}
// The first n lanes of x (n may be negative), `other` beyond.
inline V keep_lanes(const V& x, ptrdiff_t n, const V& other) {
  return each([&](int j) { return j < n ? x.f[j] : other.f[j]; });
}
inline int32_t to_int(float x) {  // of an integer; out of range as CVTPS2DQ
  return x >= -2147483648.0f && x < 2147483648.0f ? static_cast<int32_t>(x) : INT32_MIN;
}
// p * 2^n by adding n to the exponent field.
inline V add_exponent(const V& p, const V& n) {
  return each([&](int j) {
    return float_of(bits_of(p.f[j]) + (static_cast<uint32_t>(to_int(n.f[j])) << 23));
  });
}
// lane j += lane j+8, then +4, +2, +1.
inline float sum_tree(V x) {
  for (int width = 8; width; width /= 2)
    for (int j = 0; j < width; ++j) x.f[j] = x.f[j] + x.f[j + width];
  return x.f[0];
}
inline float max_lane(const V& x) {
  float m = x.f[0];
  for (int j = 1; j < 16; ++j) m = m > x.f[j] ? m : x.f[j];
  return m;
}
// m[0..3] = the largest lanes of a to d.
inline void store_largest(float* m, const V& a, const V& b, const V& c, const V& d) {
  m[0] = max_lane(a);
  m[1] = max_lane(b);
  m[2] = max_lane(c);
  m[3] = max_lane(d);
}

// Sixteen pairs of bf16: the even and the odd halves, widened.
inline V widen_even(const void* pairs) {
  const auto* p = static_cast<const uint16_t*>(pairs);
  return each([&](int j) { return float_of(uint32_t{p[2 * j]} << 16); });
}
inline V widen_odd(const void* pairs) {
  const auto* p = static_cast<const uint16_t*>(pairs);
  return each([&](int j) { return float_of(uint32_t{p[2 * j + 1]} << 16); });
}
inline float half_to_float(uint16_t half) {  // exact; integer operations, so DAZ does not matter
  const uint32_t sign = uint32_t{half & 0x8000u} << 16, magnitude = half & 0x7fffu;
  if (magnitude >= 0x7c00u) return float_of(sign | 0x7f800000u | (magnitude & 0x3ffu) << 13);
  if (magnitude >= 0x0400u) return float_of(sign | ((magnitude << 13) + 0x38000000u));
  if (magnitude == 0) return float_of(sign);
  const int shift = __builtin_clz(magnitude) - 21;  // brings the leading one to bit 10
  return float_of(sign | (static_cast<uint32_t>(113 - shift) << 23) |
                  ((magnitude << (shift + 13)) & 0x007fffffu));
}
inline V load_f16(const void* p) {
  const auto* halves = static_cast<const uint16_t*>(p);
  return each([&](int j) { return half_to_float(halves[j]); });
}
// Rounds to nearest even; a subnormal fp32 gives a zero of its sign, as VCVTPS2PH under DAZ.
inline uint16_t float_to_half(float x) {
  const uint32_t bits = bits_of(x), sign = bits >> 16 & 0x8000u, magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u)
    return static_cast<uint16_t>(sign | 0x7e00u | (magnitude >> 13 & 0x3ffu));
  if (magnitude >= 0x477ff000u) return static_cast<uint16_t>(sign | 0x7c00u);
  if (magnitude >= 0x38800000u)
    return static_cast<uint16_t>(sign |
                                 (magnitude + 0xfffu + (magnitude >> 13 & 1u) - 0x38000000u) >> 13);
  if (magnitude < 0x33000000u) return static_cast<uint16_t>(sign);
  const uint32_t mantissa = (magnitude & 0x007fffffu) | 0x00800000u;
  const uint32_t shift = 126 - (magnitude >> 23);  // 14 to 24
  const uint32_t kept = mantissa >> shift, rest = mantissa & ((1u << shift) - 1u);
  const uint32_t tie = 1u << (shift - 1);
  return static_cast<uint16_t>(sign | (kept + (rest > tie || (rest == tie && (kept & 1u)))));
}
inline void store_f16(uint16_t* p, const V& x) {
  for (int j = 0; j < 16; ++j) p[j] = float_to_half(x.f[j]);
}
// Rounded to bf16, kept as fp32.
inline V round_bf16(const V& x) {
  return each([&](int j) {
    const uint32_t bits = bits_of(x.f[j]);
    return float_of((bits + 0x7fffu + ((bits >> 16) & 1u)) & 0xffff0000u);
  });
}
inline void store_bf16(uint16_t* p, const V& x) {
  const V rounded = round_bf16(x);
  for (int j = 0; j < 16; ++j) p[j] = static_cast<uint16_t>(bits_of(rounded.f[j]) >> 16);
}
// As the contract says for any value: a subnormal gives a zero of its sign, a NaN stays one.
inline void store_bf16_exact(uint16_t* p, const V& x) {
  for (int j = 0; j < 16; ++j) {
    const uint32_t bits = bits_of(x.f[j]), magnitude = bits & 0x7fffffffu;
    uint32_t half = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    if (magnitude > 0x7f800000u) half = bits >> 16 | 0x40u;
    if (magnitude < 0x00800000u) half = bits >> 16 & 0x8000u;
    p[j] = static_cast<uint16_t>(half);
  }
}
// The largest of all lanes' bits without the sign: a NaN or an infinity wins.
inline uint32_t largest_magnitude(const V& a, const V& b) {
  uint32_t m = 0;
  for (int j = 0; j < 32; ++j) {
    const uint32_t bits = bits_of(j < 16 ? a.f[j] : b.f[j - 16]) & 0x7fffffffu;
    m = m > bits ? m : bits;
  }
  return m;
}

inline I int_splat(int32_t x) {
  I y;
  for (int32_t& lane : y.i) lane = x;
  return y;
}
inline V to_float(const I& x) {
  return each([&](int j) { return static_cast<float>(x.i[j]); });
}
// Sum of 32 integers held as floats.
inline int32_t sum_codes(const V& a, const V& b) {
  int32_t sum = 0;
  for (int j = 0; j < 16; ++j) sum += to_int(a.f[j]) + to_int(b.f[j]);
  return sum;
}

// Of four vectors of integers in 0 .. 255 lane j as bytes 4j, 4j + 1, 4j + 2, 4j + 3.
inline void store_bytes(char* p, const V& a, const V& b, const V& c, const V& d) {
  const V* all[] = {&a, &b, &c, &d};
  for (int j = 0; j < 64; ++j) p[j] = static_cast<char>(to_int(all[j % 4]->f[j / 4]));
}

// An activation code, in the order that dot4 reads; four k of sixteen outputs as unsigned bytes, or
// where registers are few one of so many parts of them.
using Code = int8_t;
constexpr int kCodeParts = 1;
struct W4 {
  uint8_t u[64];
};
inline void store_codes(Code* p, const V& x) {
  for (int j = 0; j < 16; ++j) p[j] = static_cast<int8_t>(to_int(x.f[j]));
}
template <int kPart>
inline W4 load_u8(const void* p) {
  W4 w;
  __builtin_memcpy(w.u, p, 64);
  return w;
}
template <int kHalf>  // 0: the low nibbles, 1: the high ones
inline W4 load_u4(const void* p) {
  const auto* bytes = static_cast<const uint8_t*>(p);
  W4 w;
  for (int j = 0; j < 64; ++j) w.u[j] = kHalf == 0 ? bytes[j] & 15 : bytes[j] >> 4;
  return w;
}
// sum + w[output][0..3] * x[0..3], exact; or a part of that.
template <int kPart>
inline I dot4(I sum, const W4& w, const Code* x) {
  for (int j = 0; j < 16; ++j)
    for (int k = 0; k < 4; ++k) sum.i[j] += w.u[4 * j + k] * x[k];
  return sum;
}

// The same for weights below 16, whose sums of 32 products need fewer bits: activation codes, sums,
// how those begin, and what they are in the end.
using Code4 = Code;
using I4 = I;
inline I4 start_u4(int32_t start) {
  return int_splat(start);
}
inline I whole_u4(const I4& sum, int32_t) {
  return sum;
}

// Products of values, signed bytes, with weights: integers of 15 bits, of which a row holds
// 64, x from code `at` on. They may be stored in pieces, one for each pass over the
// values, the upper one first; sums are multiplied by 256 from pass to pass.
constexpr int kWeightPasses = 1;
inline void store_weights(char* row, size_t at, const V& x) {
  for (int j = 0; j < 16; ++j)
    reinterpret_cast<int16_t*>(row)[at + static_cast<size_t>(j)] =
        static_cast<int16_t>(to_int(x.f[j]));
}
template <int kPart>
inline W4 load_s8(const void* p) {
  return load_u8<kPart>(p);
}
// sum + v[output][0..3] * weights, exact; or a part of that.
template <int kPart>
inline I dot4_weights(I sum, const W4& v, const char* row, size_t at, int) {
  const auto* weights = reinterpret_cast<const int16_t*>(row) + at;
  for (int j = 0; j < 16; ++j)
    for (int k = 0; k < 4; ++k) sum.i[j] += static_cast<int8_t>(v.u[4 * j + k]) * weights[k];
  return sum;
}
inline I times_256(const I& x) {
  I y;
  for (int j = 0; j < 16; ++j) y.i[j] = x.i[j] * 256;
  return y;
}

}  // namespace
}  // namespace rill
