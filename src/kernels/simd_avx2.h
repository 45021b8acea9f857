// SPDX-License-Identifier: Apache-2.0
// Registers of AVX2 with FMA and F16C: sixteen lanes are two of them.
// See simd_scalar.h for what each function means.
#pragma once
#include <immintrin.h>

#include "kernels/table.h"

namespace rill {
namespace {

struct V {
  __m256 a, b;  // lanes 0-7, 8-15
};
struct I {
  __m256i a, b;
};

constexpr int kFloatRows = 6, kIntRows = 5, kRegisters = 16;
// Accumulators that fit beside as many sums of integers.
constexpr int kBesideSums = 3;
// Rows for which the processor's own prefetching is better left alone: none, since even one row has
// so much to compute here that it falls behind (int4: to 40 % of the speed, on a Zen 5).
constexpr int kUnaidedRows = 0;
constexpr int float_panels(int rows) {
  return rows == 1 ? 4 : rows == 2 ? 2 : 1;
}
constexpr int int_panels(int rows) {
  return rows <= 2 ? 2 : 1;
}

inline V zero() {
  return {_mm256_setzero_ps(), _mm256_setzero_ps()};
}
inline V splat(float x) {
  return {_mm256_set1_ps(x), _mm256_set1_ps(x)};
}
inline V load(const float* p) {
  return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)};
}
inline void store(float* p, V x) {
  _mm256_storeu_ps(p, x.a);
  _mm256_storeu_ps(p + 8, x.b);
}
inline __m256i first_lanes(ptrdiff_t n) {
  const ptrdiff_t lanes = n < 0 ? 0 : n > 8 ? 8 : n;
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(lanes)),
                            _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
inline V load_part(const float* p, size_t n) {
  const auto lanes = static_cast<ptrdiff_t>(n);
  return {_mm256_maskload_ps(p, first_lanes(lanes)),
          _mm256_maskload_ps(p + 8, first_lanes(lanes - 8))};
}
// A masked store takes a Zen 3 as long as ten others.
inline void store_part(float* p, V x, size_t n) {
  if (n >= 16) return store(p, x);
  const auto lanes = static_cast<ptrdiff_t>(n);
  _mm256_maskstore_ps(p, first_lanes(lanes), x.a);
  _mm256_maskstore_ps(p + 8, first_lanes(lanes - 8), x.b);
}
inline V add(V x, V y) {
  return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)};
}
inline V sub(V x, V y) {
  return {_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)};
}
inline V mul(V x, V y) {
  return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)};
}
inline V div(V x, V y) {
  return {_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)};
}
inline V fma(V x, V y, V z) {
  return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)};
}
inline V max(V x, V y) {
  return {_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)};
}
inline V min(V x, V y) {
  return {_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)};
}
inline V round_even(V x) {
  return {_mm256_round_ps(x.a, 8), _mm256_round_ps(x.b, 8)};
}
inline V where_ge(V x, V bound, V yes, V no) {
  return {_mm256_blendv_ps(no.a, yes.a, _mm256_cmp_ps(x.a, bound.a, _CMP_GE_OQ)),
          _mm256_blendv_ps(no.b, yes.b, _mm256_cmp_ps(x.b, bound.b, _CMP_GE_OQ))};
}
inline V zero_below(V x, V bound, V y) {
  return {_mm256_and_ps(_mm256_cmp_ps(x.a, bound.a, _CMP_NLT_UQ), y.a),
          _mm256_and_ps(_mm256_cmp_ps(x.b, bound.b, _CMP_NLT_UQ), y.b)};
}
inline V keep_lanes(V x, ptrdiff_t n, V other) {
  return {_mm256_blendv_ps(other.a, x.a, _mm256_castsi256_ps(first_lanes(n))),
          _mm256_blendv_ps(other.b, x.b, _mm256_castsi256_ps(first_lanes(n - 8)))};
}
inline __m256 add_exponent(__m256 p, __m256 n) {
  const __m256i shifted = _mm256_slli_epi32(_mm256_cvtps_epi32(n), 23);
  return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(p), shifted));
}
inline V add_exponent(V p, V n) {
  return {add_exponent(p.a, n.a), add_exponent(p.b, n.b)};
}
inline float sum_tree(V x) {
  const __m256 eight = _mm256_add_ps(x.a, x.b);
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
inline float max_lane(V x) {
  const __m256 eight = _mm256_max_ps(x.a, x.b);
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}

inline void store_largest(float* m, V a, V b, V c, V d) {
  const auto halves = [](V x) { return _mm256_max_ps(x.a, x.b); };
  const auto pairs = [](__m256 x, __m256 y) {  // x y x y in each half
    return _mm256_max_ps(_mm256_unpacklo_ps(x, y), _mm256_unpackhi_ps(x, y));
  };
  const __m256 ab = pairs(halves(a), halves(b)), cd = pairs(halves(c), halves(d));
  const __m256 all =
      _mm256_max_ps(_mm256_shuffle_ps(ab, cd, 0x44), _mm256_shuffle_ps(ab, cd, 0xee));
  _mm_storeu_ps(m, _mm_max_ps(_mm256_castps256_ps128(all), _mm256_extractf128_ps(all, 1)));
}

inline __m256i load_ints(const void* p, int half) {
  return _mm256_loadu_si256(static_cast<const __m256i*>(p) + half);
}
inline V widen_even(const void* pairs) {
  return {_mm256_castsi256_ps(_mm256_slli_epi32(load_ints(pairs, 0), 16)),
          _mm256_castsi256_ps(_mm256_slli_epi32(load_ints(pairs, 1), 16))};
}
inline V widen_odd(const void* pairs) {
  const __m256i mask = _mm256_set1_epi32(static_cast<int>(0xffff0000));
  return {_mm256_castsi256_ps(_mm256_and_si256(load_ints(pairs, 0), mask)),
          _mm256_castsi256_ps(_mm256_and_si256(load_ints(pairs, 1), mask))};
}

// What a tile that takes nearly all registers does in place of fma and widen_odd. GCC 12 lets sums
// change registers, keeps weights for both halves of a pair, and runs out of registers.
#define RILL_TIGHT_TILES
inline void add_product(__m256& sum, __m256 x, __m256 y) {
  asm("vfmadd231ps %2, %1, %0" : "+x"(sum) : "x"(x), "x"(y));
}
inline void add_product(V& sum, V x, V y) {
  add_product(sum.a, x.a, y.a);
  add_product(sum.b, x.b, y.b);
}
alignas(32) constexpr uint32_t kUpperHalves[8] = {0xffff0000, 0xffff0000, 0xffff0000, 0xffff0000,
                                                  0xffff0000, 0xffff0000, 0xffff0000, 0xffff0000};
inline __m256 load_odd(const __m256i* pairs) {
  __m256 odd;
  asm("vmovdqu %1, %0\n\tvpand %2, %0, %0"
      : "=&x"(odd)
      : "m"(*pairs), "m"(*reinterpret_cast<const __m256i*>(kUpperHalves)));
  return odd;
}
inline V load_odd(const void* pairs) {
  const auto* words = static_cast<const __m256i*>(pairs);
  return {load_odd(words), load_odd(words + 1)};
}

inline V load_f16(const void* p) {
  const auto* halves = static_cast<const __m128i*>(p);
  return {_mm256_cvtph_ps(_mm_loadu_si128(halves)), _mm256_cvtph_ps(_mm_loadu_si128(halves + 1))};
}
inline void store_f16(uint16_t* p, V x) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(x.a, 0));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p + 8), _mm256_cvtps_ph(x.b, 0));
}
inline __m256 round_bf16(__m256 x) {
  const __m256i bits = _mm256_castps_si256(x);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i sum = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd);
  return _mm256_castsi256_ps(
      _mm256_and_si256(sum, _mm256_set1_epi32(static_cast<int>(0xffff0000))));
}
inline V round_bf16(V x) {
  return {round_bf16(x.a), round_bf16(x.b)};
}
inline void store_upper_halves(uint16_t* p, V x) {
  const __m256i a = _mm256_srli_epi32(_mm256_castps_si256(x.a), 16);
  const __m256i b = _mm256_srli_epi32(_mm256_castps_si256(x.b), 16);
  const __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(a, b), 0xd8);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), packed);
}
inline void store_bf16(uint16_t* p, V x) {
  store_upper_halves(p, round_bf16(x));
}
inline __m256 round_bf16_exact(__m256 x) {
  const __m256i exponent = _mm256_set1_epi32(0x7f800000);
  const __m256i small = _mm256_cmpeq_epi32(_mm256_and_si256(_mm256_castps_si256(x), exponent),
                                           _mm256_setzero_si256());
  const __m256 quiet = _mm256_or_ps(x, _mm256_castsi256_ps(_mm256_set1_epi32(0x00400000)));
  const __m256 rounded = _mm256_blendv_ps(round_bf16(x), quiet, _mm256_cmp_ps(x, x, _CMP_UNORD_Q));
  return _mm256_blendv_ps(rounded, _mm256_and_ps(x, _mm256_set1_ps(-0.0f)),
                          _mm256_castsi256_ps(small));
}
inline void store_bf16_exact(uint16_t* p, V x) {
  store_upper_halves(p, {round_bf16_exact(x.a), round_bf16_exact(x.b)});
}
inline uint32_t largest_magnitude(V x, V y) {
  const __m256i mask = _mm256_set1_epi32(0x7fffffff);
  const auto magnitude = [&](__m256 v) { return _mm256_and_si256(_mm256_castps_si256(v), mask); };
  const __m256i eight = _mm256_max_epu32(_mm256_max_epu32(magnitude(x.a), magnitude(x.b)),
                                         _mm256_max_epu32(magnitude(y.a), magnitude(y.b)));
  const __m128i four =
      _mm_max_epu32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
  const __m128i two = _mm_max_epu32(four, _mm_shuffle_epi32(four, 0x4e));
  return static_cast<uint32_t>(_mm_cvtsi128_si32(_mm_max_epu32(two, _mm_shuffle_epi32(two, 0xb1))));
}

inline I int_splat(int32_t x) {
  return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)};
}
inline V to_float(I x) {
  return {_mm256_cvtepi32_ps(x.a), _mm256_cvtepi32_ps(x.b)};
}
inline int32_t sum_codes(V x, V y) {
  const __m256i eight =
      _mm256_add_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(x.a), _mm256_cvtps_epi32(x.b)),
                       _mm256_add_epi32(_mm256_cvtps_epi32(y.a), _mm256_cvtps_epi32(y.b)));
  const __m128i four =
      _mm_add_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
  const __m128i two = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0x4e));
  return _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32(two, 0xb1)));
}

inline __m256i join_bytes(__m256 a, __m256 b, __m256 c, __m256 d) {
  const __m256i ab =
      _mm256_or_si256(_mm256_cvtps_epi32(a), _mm256_slli_epi32(_mm256_cvtps_epi32(b), 8));
  const __m256i cd = _mm256_or_si256(_mm256_slli_epi32(_mm256_cvtps_epi32(c), 16),
                                     _mm256_slli_epi32(_mm256_cvtps_epi32(d), 24));
  return _mm256_or_si256(ab, cd);
}
inline void store_bytes(char* p, V a, V b, V c, V d) {
  auto* to = reinterpret_cast<__m256i*>(p);
  _mm256_storeu_si256(to, join_bytes(a.a, b.a, c.a, d.a));
  _mm256_storeu_si256(to + 1, join_bytes(a.b, b.b, c.b, d.b));
}

// Bytes widened to 16 bits: of each four k the first and the third, then the others. vpmaddwd is
// exact where vpmaddubsw on full-range bytes would saturate.
using Code = int16_t;
constexpr int kCodeParts = 2;
struct W4 {
  __m256i a, b;
};
inline __m256i words_of_codes(V x) {
  return _mm256_permute4x64_epi64(
      _mm256_packs_epi32(_mm256_cvtps_epi32(x.a), _mm256_cvtps_epi32(x.b)), 0xd8);
}
inline void store_codes(int16_t* p, V x) {
  // words 0 1 2 3 of each group of four become 0 2 1 3
  const __m256i order = _mm256_shufflelo_epi16(words_of_codes(x), 0xd8);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm256_shufflehi_epi16(order, 0xd8));
}
template <int kPart>
inline W4 load_u8(const void* p) {
  const __m256i a = load_ints(p, 0), b = load_ints(p, 1), mask = _mm256_set1_epi16(0xff);
  if constexpr (kPart == 0) return {_mm256_and_si256(a, mask), _mm256_and_si256(b, mask)};
  return {_mm256_srli_epi16(a, 8), _mm256_srli_epi16(b, 8)};
}
inline __m256i splat_four_bytes(const void* p) {
  int four;
  __builtin_memcpy(&four, p, 4);
  return _mm256_set1_epi32(four);
}
// GCC 12 else puts off additions of integers to the end, and keeps all products until then.
inline void add_now(__m256i& sum) {
  asm("" : "+x"(sum));
}
template <int kPart>
inline I dot4(I sum, const W4& w, const int16_t* x) {
  const __m256i two = splat_four_bytes(x + 2 * kPart);
  sum.a = _mm256_add_epi32(sum.a, _mm256_madd_epi16(w.a, two));
  sum.b = _mm256_add_epi32(sum.b, _mm256_madd_epi16(w.b, two));
  add_now(sum.a);
  add_now(sum.b);
  return sum;
}

// Codes below 16 are unsigned bytes with which vpmaddubsw does not saturate, and a block's products
// fit in 16 bits: 8 * 2 * 15 * 127 = 30,480. Its sums have two words for each output.
using Code4 = int8_t;
struct I4 {
  __m256i a, b;
};
inline void store_codes(int8_t* p, V x) {
  const __m256i words = words_of_codes(x);
  _mm_storeu_si128(
      reinterpret_cast<__m128i*>(p),
      _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1)));
}
template <int kHalf>
inline W4 load_u4(const void* p) {
  const __m256i mask = _mm256_set1_epi8(15);
  __m256i a = load_ints(p, 0), b = load_ints(p, 1);
  if constexpr (kHalf == 1) {
    a = _mm256_srli_epi16(a, 4);
    b = _mm256_srli_epi16(b, 4);
  }
  return {_mm256_and_si256(a, mask), _mm256_and_si256(b, mask)};
}
inline I4 start_u4(int32_t) {
  return {_mm256_setzero_si256(), _mm256_setzero_si256()};
}
template <int kPart>
inline I4 dot4(I4 sum, const W4& w, const int8_t* x) {
  const __m256i four = splat_four_bytes(x);
  sum.a = _mm256_add_epi16(sum.a, _mm256_maddubs_epi16(w.a, four));
  sum.b = _mm256_add_epi16(sum.b, _mm256_maddubs_epi16(w.b, four));
  add_now(sum.a);
  add_now(sum.b);
  return sum;
}
inline I whole_u4(const I4& sum, int32_t start) {
  const __m256i ones = _mm256_set1_epi16(1), first = _mm256_set1_epi32(start);
  return {_mm256_add_epi32(_mm256_madd_epi16(sum.a, ones), first),
          _mm256_add_epi32(_mm256_madd_epi16(sum.b, ones), first)};
}

constexpr int kWeightPasses = 1;
inline void store_weights(char* row, size_t at, V x) {
  store_codes(reinterpret_cast<Code*>(row) + at, x);
}
template <int kPart>
inline W4 load_s8(const void* p) {
  __m256i a = load_ints(p, 0), b = load_ints(p, 1);
  if constexpr (kPart == 0) {
    a = _mm256_slli_epi16(a, 8);
    b = _mm256_slli_epi16(b, 8);
  }
  return {_mm256_srai_epi16(a, 8), _mm256_srai_epi16(b, 8)};
}
template <int kPart>
inline I dot4_weights(I sum, const W4& v, const char* row, size_t at, int) {
  return dot4<kPart>(sum, v, reinterpret_cast<const Code*>(row) + at);
}
inline I times_256(I x) {
  return {_mm256_slli_epi32(x.a, 8), _mm256_slli_epi32(x.b, 8)};
}

}  // namespace
}  // namespace rill
