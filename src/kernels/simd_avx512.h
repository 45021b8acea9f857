// SPDX-License-Identifier: Apache-2.0
// Registers of AVX-512 (F, BW, DQ, VL), with VNNI and BF16 where the target has them.
// See simd_scalar.h for what each function means.
#pragma once
#include <immintrin.h>

#include "kernels/table.h"

namespace rill {
namespace {

using V = __m512;   // 16 floats
using I = __m512i;  // 16 int32

constexpr int kFloatRows = 12, kIntRows = 6, kRegisters = 32;
constexpr int kBesideSums = 24;  // all: registers are enough
// Up to this many rows a thread does little but read, and the processor's own prefetching, left
// alone with two streams, reads at the memory's speed; being asked for every line costs it 4 % of
// that (bf16) to 15 % (int8, all on a Zen 5; reading.h says where it is so). With more rows it
// falls behind between the products.
constexpr int kUnaidedRows = 2;
constexpr int float_panels(int rows) {
  return rows <= 6 ? 4 : 2;
}
constexpr int int_panels(int rows) {
  return rows <= 3 ? 4 : 2;
}

inline V zero() {
  return _mm512_setzero_ps();
}
inline V splat(float x) {
  return _mm512_set1_ps(x);
}
inline V load(const float* p) {
  return _mm512_loadu_ps(p);
}
inline void store(float* p, V x) {
  _mm512_storeu_ps(p, x);
}
inline __mmask16 first_lanes(ptrdiff_t n) {
  return n <= 0 ? 0 : n >= 16 ? 0xffff : static_cast<__mmask16>((1u << n) - 1);
}
inline V load_part(const float* p, size_t n) {
  return _mm512_maskz_loadu_ps(first_lanes(static_cast<ptrdiff_t>(n)), p);
}
inline void store_part(float* p, V x, size_t n) {
  _mm512_mask_storeu_ps(p, first_lanes(static_cast<ptrdiff_t>(n)), x);
}
inline V add(V a, V b) {
  return _mm512_add_ps(a, b);
}
inline V sub(V a, V b) {
  return _mm512_sub_ps(a, b);
}
inline V mul(V a, V b) {
  return _mm512_mul_ps(a, b);
}
inline V div(V a, V b) {
  return _mm512_div_ps(a, b);
}
inline V fma(V a, V b, V c) {
  return _mm512_fmadd_ps(a, b, c);
}
inline V max(V a, V b) {
  return _mm512_max_ps(a, b);
}
inline V min(V a, V b) {
  return _mm512_min_ps(a, b);
}
inline V round_even(V x) {
  return _mm512_roundscale_ps(x, 8);
}
inline V where_ge(V x, V bound, V yes, V no) {
  return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(x, bound, _CMP_GE_OQ), no, yes);
}
inline V zero_below(V x, V bound, V y) {
  return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, bound, _CMP_NLT_UQ), y);
}
inline V keep_lanes(V x, ptrdiff_t n, V other) {
  return _mm512_mask_blend_ps(first_lanes(n), other, x);
}
inline V add_exponent(V p, V n) {
  return _mm512_scalef_ps(p, n);
}
inline float sum_tree(V x) {
  const __m256 low = _mm512_castps512_ps256(x), high = _mm512_extractf32x8_ps(x, 1);
  const __m256 eight = _mm256_add_ps(low, high);
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
inline float max_lane(V x) {
  return _mm512_reduce_max_ps(x);
}

inline void store_largest(float* m, V a, V b, V c, V d) {
  const V ab = _mm512_max_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));  // a b a b ...
  const V cd = _mm512_max_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
  const V all = _mm512_max_ps(_mm512_shuffle_ps(ab, cd, 0x44), _mm512_shuffle_ps(ab, cd, 0xee));
  const __m256 two = _mm256_max_ps(_mm512_castps512_ps256(all), _mm512_extractf32x8_ps(all, 1));
  _mm_storeu_ps(m, _mm_max_ps(_mm256_castps256_ps128(two), _mm256_extractf128_ps(two, 1)));
}

inline V widen_even(const void* pairs) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_loadu_si512(pairs), 16));
}
inline V widen_odd(const void* pairs) {
  return _mm512_castsi512_ps(
      _mm512_and_si512(_mm512_loadu_si512(pairs), _mm512_set1_epi32(static_cast<int>(0xffff0000))));
}
inline V load_f16(const void* p) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(static_cast<const __m256i*>(p)));
}
inline void store_f16(uint16_t* p, V x) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph(x, 8));
}
inline __m512i bf16_bits(V x) {  // in the upper halves, rounded; the lower halves are rubbish
  const __m512i bits = _mm512_castps_si512(x);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  return _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
}
inline V round_bf16(V x) {
  return _mm512_castsi512_ps(
      _mm512_and_si512(bf16_bits(x), _mm512_set1_epi32(static_cast<int>(0xffff0000))));
}
inline void store_bf16(uint16_t* p, V x) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                      _mm512_cvtepi32_epi16(_mm512_srli_epi32(bf16_bits(x), 16)));
}
inline void store_bf16_exact(uint16_t* p, V x) {
#if defined(__AVX512BF16__)
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                      reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(x)));
#else
  const __m512i bits = _mm512_castps_si512(x), exponent = _mm512_set1_epi32(0x7f800000);
  __m512i rounded = bf16_bits(x);
  rounded = _mm512_mask_or_epi32(rounded, _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q), bits,
                                 _mm512_set1_epi32(0x00400000));
  rounded = _mm512_mask_and_epi32(rounded, _mm512_testn_epi32_mask(bits, exponent), bits,
                                  _mm512_set1_epi32(static_cast<int>(0x80000000)));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                      _mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded, 16)));
#endif
}
inline uint32_t largest_magnitude(V a, V b) {
  const __m512i mask = _mm512_set1_epi32(0x7fffffff);
  return _mm512_reduce_max_epu32(_mm512_max_epu32(_mm512_and_si512(_mm512_castps_si512(a), mask),
                                                  _mm512_and_si512(_mm512_castps_si512(b), mask)));
}

inline I int_splat(int32_t x) {
  return _mm512_set1_epi32(x);
}
inline V to_float(I x) {
  return _mm512_cvtepi32_ps(x);
}
inline int32_t sum_codes(V a, V b) {
  return _mm512_reduce_add_epi32(_mm512_add_epi32(_mm512_cvtps_epi32(a), _mm512_cvtps_epi32(b)));
}

inline void store_bytes(char* p, V a, V b, V c, V d) {
  const __m512i ab =
      _mm512_or_si512(_mm512_cvtps_epi32(a), _mm512_slli_epi32(_mm512_cvtps_epi32(b), 8));
  const __m512i cd = _mm512_or_si512(_mm512_slli_epi32(_mm512_cvtps_epi32(c), 16),
                                     _mm512_slli_epi32(_mm512_cvtps_epi32(d), 24));
  _mm512_storeu_si512(p, _mm512_or_si512(ab, cd));
}

#if defined(__AVX512VNNI__)
using Code = int8_t;
constexpr int kCodeParts = 1;
struct W4 {
  __m512i bytes;
};
inline void store_codes(Code* p, V x) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(x)));
}
template <int kPart>
inline W4 load_u8(const void* p) {
  return {_mm512_loadu_si512(p)};
}
template <int kHalf>
inline W4 load_u4(const void* p) {
  const __m512i bytes = _mm512_loadu_si512(p), mask = _mm512_set1_epi8(15);
  return {_mm512_and_si512(kHalf == 0 ? bytes : _mm512_srli_epi16(bytes, 4), mask)};
}
template <int kPart>
inline I dot4(I sum, const W4& w, const Code* x) {
  int four;
  __builtin_memcpy(&four, x, 4);
  return _mm512_dpbusd_epi32(sum, w.bytes, _mm512_set1_epi32(four));
}
constexpr int kWeightPasses = 2;  // over the upper and the lower bytes, 64 of each in a row
inline void store_weights(char* row, size_t at, V x) {
  const __m512i codes = _mm512_cvtps_epi32(x);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(row + at),
                   _mm512_cvtepi32_epi8(_mm512_srli_epi32(codes, 8)));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(row + kBlockTokens + at),
                   _mm512_cvtepi32_epi8(codes));
}
template <int kPart>
inline W4 load_s8(const void* p) {
  return load_u8<kPart>(p);
}
template <int kPart>
inline I dot4_weights(I sum, const W4& v, const char* row, size_t at, int pass) {
  int four;
  __builtin_memcpy(&four, row + (pass ? kBlockTokens : 0) + at, 4);
  return _mm512_dpbusd_epi32(sum, _mm512_set1_epi32(four), v.bytes);
}
#else
// Without VNNI: unsigned bytes widened to 16 bits, k and k+2 in one word pair, k+1 and k+3 in the
// other; vpmaddwd is exact where vpmaddubsw would saturate.
using Code = int16_t;
constexpr int kCodeParts = 1;
struct W4 {
  __m512i even, odd;
};
inline void store_codes(Code* p, V x) {
  const __m512i order = _mm512_set_epi32(15, 13, 14, 12, 11, 9, 10, 8, 7, 5, 6, 4, 3, 1, 2, 0);
  const __m512i codes = _mm512_permutexvar_epi32(order, _mm512_cvtps_epi32(x));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16(codes));
}
inline W4 widen_bytes(__m512i bytes) {
  return {_mm512_and_si512(bytes, _mm512_set1_epi16(0xff)), _mm512_srli_epi16(bytes, 8)};
}
template <int kPart>
inline W4 load_u8(const void* p) {
  return widen_bytes(_mm512_loadu_si512(p));
}
template <int kHalf>
inline W4 load_u4(const void* p) {
  const __m512i bytes = _mm512_loadu_si512(p), mask = _mm512_set1_epi8(15);
  return widen_bytes(_mm512_and_si512(kHalf == 0 ? bytes : _mm512_srli_epi16(bytes, 4), mask));
}
template <int kPart>
inline I dot4(I sum, const W4& w, const Code* x) {
  int even, odd;
  __builtin_memcpy(&even, x, 4);
  __builtin_memcpy(&odd, x + 2, 4);
  sum = _mm512_add_epi32(sum, _mm512_madd_epi16(w.even, _mm512_set1_epi32(even)));
  return _mm512_add_epi32(sum, _mm512_madd_epi16(w.odd, _mm512_set1_epi32(odd)));
}
constexpr int kWeightPasses = 1;
inline void store_weights(char* row, size_t at, V x) {
  store_codes(reinterpret_cast<Code*>(row) + at, x);
}
template <int kPart>
inline W4 load_s8(const void* p) {
  const __m512i bytes = _mm512_loadu_si512(p);
  return {_mm512_srai_epi16(_mm512_slli_epi16(bytes, 8), 8), _mm512_srai_epi16(bytes, 8)};
}
template <int kPart>
inline I dot4_weights(I sum, const W4& v, const char* row, size_t at, int) {
  return dot4<kPart>(sum, v, reinterpret_cast<const Code*>(row) + at);
}
#endif
using Code4 = Code;
using I4 = I;
inline I4 start_u4(int32_t start) {
  return int_splat(start);
}
inline I whole_u4(I4 sum, int32_t) {
  return sum;
}
inline I times_256(I x) {
  return _mm512_slli_epi32(x, 8);
}

#if defined(__AVX512BF16__)
// Activations are bf16 pairs, and one instruction does both products of a pair, odd first. Not in
// the table for AMX: on the one processor with both that was measured (Granite Rapids) the
// instruction does half of what FMA does.
#if !defined(RILL_AMX)
#define RILL_BF16_DOT 1
#endif
using Pair = __m512i;
inline Pair load_pair(const void* pairs) {
  return _mm512_loadu_si512(pairs);
}
inline Pair splat_pair(const void* pair) {
  int bits;
  __builtin_memcpy(&bits, pair, 4);
  return _mm512_set1_epi32(bits);
}
inline V even_half(Pair x) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(x, 16));
}
inline V odd_half(Pair x) {
  return _mm512_castsi512_ps(_mm512_and_si512(x, _mm512_set1_epi32(static_cast<int>(0xffff0000))));
}
inline V dot_bf16(V sum, Pair w, Pair x) {
  return _mm512_dpbf16_ps(sum, reinterpret_cast<__m512bh>(w), reinterpret_cast<__m512bh>(x));
}
// Stores a and b, rounded, one after the other. Returns (sum + a) + b of what was stored: a dot
// product with pairs of ones adds the odd half (of a) first.
inline V store_bf16_and_add(uint16_t* p, V a, V b, V sum) {
  const __m512i both = reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(b, a));
  _mm512_storeu_si512(p, both);
  const __m512i pair = _mm512_set1_epi32(0x00000010), step = _mm512_set1_epi32(0x00010001);
  const __m512i lane = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
  const __m512i order = _mm512_add_epi32(_mm512_mullo_epi32(lane, step), pair);
  const __m512i ones = _mm512_set1_epi32(0x3f803f80);
  return dot_bf16(sum, _mm512_permutexvar_epi16(order, both), ones);
}
#endif

}  // namespace
}  // namespace rill
