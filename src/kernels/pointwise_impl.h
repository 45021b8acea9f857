// SPDX-License-Identifier: Apache-2.0
// What touches each value once: exp2, norms, rotation, conversion of activations.
// docs/arithmetic.md §3, §5 to §7. Included after product_impl.h.
#pragma once
#include "kernels/product_impl.h"

namespace rill {
namespace {

// exp2(x) for -126 <= x < 128: §3.
RILL_INLINE V exp2_in_range(V x) {
  const V n = round_even(x), f = sub(x, n);
  V p = splat(0x1.416b56p-13f);
  p = fma(p, f, splat(0x1.5f082ep-10f));
  p = fma(p, f, splat(0x1.3b2de0p-7f));
  p = fma(p, f, splat(0x1.c6af7cp-5f));
  p = fma(p, f, splat(0x1.ebfbdcp-3f));
  p = fma(p, f, splat(0x1.62e430p-1f));
  p = fma(p, f, splat(1.0f));
  return add_exponent(p, n);
}
// Of any x: below -126, and for NaN, +0; from 128 on +inf.
RILL_INLINE V exp2(V x) {
  const V y = where_ge(x, splat(-126.0f), exp2_in_range(x), zero());
  return where_ge(x, splat(128.0f), splat(__builtin_inff()), y);
}

// (g / (1 + exp(-g))) * u
RILL_INLINE V silu_mul(V g, V u) {
  const V e = exp2(mul(sub(splat(-0.0f), g), splat(0x1.715476p+0f)));
  return mul(div(g, add(splat(1.0f), e)), u);
}

void rms_norm(const float* x, const float* weight, size_t n, float eps, float* y) {
  V squares = zero();
  for (size_t i = 0; i < n; i += 16) {
    const V v = n - i >= 16 ? load(x + i) : load_part(x + i, n - i);
    squares = fma(v, v, squares);
  }
  const V r = splat(1.0f / __builtin_sqrtf(sum_tree(squares) / static_cast<float>(n) + eps));
  for (size_t i = 0; i < n; i += 16) {
    if (n - i >= 16)
      store(y + i, mul(mul(load(x + i), r), load(weight + i)));
    else
      store_part(y + i, mul(mul(load_part(x + i, n - i), r), load_part(weight + i, n - i)), n - i);
  }
}

void rope(float* x, const float* cosine, const float* sine, size_t head_dim, float scale) {
  const size_t half = head_dim / 2;
  const V factor = splat(scale);
  for (size_t i = 0; i < half; i += 16) {
    const size_t n = half - i < 16 ? half - i : 16;
    const V a = load_part(x + i, n), b = load_part(x + half + i, n);
    const V c = load_part(cosine + i, n), s = load_part(sine + i, n);
    store_part(x + i, mul(fma(a, c, sub(splat(-0.0f), mul(b, s))), factor), n);
    store_part(x + half + i, mul(fma(b, c, mul(a, s)), factor), n);
  }
}

// Bytes of a converted row; 64 more where rows would fall on the same set of the L1 cache.
constexpr size_t activation_bytes(Operand operand, size_t depth) {
  size_t bytes = depth * 4;
  if (bf16_rows(operand)) bytes = depth * 2;
  if (operand == Operand::Q8) bytes = q8_bytes(depth);
  bytes = (bytes + 63) / 64 * 64;
  return bytes % 1024 == 0 ? bytes + 64 : bytes;
}

// §7: 32 values to codes, a scale and the sum of the codes.
RILL_INLINE void quantise_block(V a, V b, char* codes, char* codes4, float& scale, int32_t& sum) {
  const uint32_t bits = largest_magnitude(a, b);
  float amax;
  __builtin_memcpy(&amax, &bits, 4);
  scale = amax / 127.0f;
  const float inverse = 127.0f / amax;
  const bool usable = inverse > 0.0f && inverse <= 0x1.fffffep+127f;  // false for NaN
  const V factor = splat(usable ? inverse : 0.0f);
  // A block that is not finite has codes 0 (0 * inf would be NaN) and a scale that poisons the sum.
  const V qa = usable ? round_even(mul(a, factor)) : zero();
  const V qb = usable ? round_even(mul(b, factor)) : zero();
  store_codes(reinterpret_cast<Code*>(codes), qa);
  store_codes(reinterpret_cast<Code*>(codes) + 16, qb);
  if constexpr (kTwoCodes) {
    store_codes(reinterpret_cast<Code4*>(codes4), qa);
    store_codes(reinterpret_cast<Code4*>(codes4) + 16, qb);
  }
  sum = sum_codes(qa, qb);
}

bool converts_in_place(Operand operand) {
  return operand != Operand::Q8 && !bf16_rows(operand);
}

void convert(Operand operand, const float* x, size_t count, size_t depth, std::byte* out) {
  char* const row = reinterpret_cast<char*>(out);
  for (size_t i = 0; i < depth; i += 32) {
    const size_t left = i < count ? count - i : 0;
    const V a = left >= 16 ? load(x + i) : load_part(x + i, left);
    const V b = left >= 32  ? load(x + i + 16)
                : left > 16 ? load_part(x + i + 16, left - 16)
                            : zero();
    if (operand == Operand::Q8) {
      int32_t sum;
      quantise_block(a, b, row + i * sizeof(Code),
                     row + codes_offset(depth, Format::INT4) + i * sizeof(Code4),
                     reinterpret_cast<float*>(row + scales_offset(depth))[i / 32], sum);
      for (const Format format : kIntFormats)
        reinterpret_cast<int32_t*>(row + starts_offset(depth, format))[i / 32] =
            -code_offset(format) * sum;
    } else if (bf16_rows(operand)) {
      store_bf16(reinterpret_cast<uint16_t*>(row) + i, a);
      store_bf16(reinterpret_cast<uint16_t*>(row) + i + 16, b);
    } else {
      float* f = reinterpret_cast<float*>(row) + i;
      store(f, rounds_to_bf16(operand) ? round_bf16(a) : a);
      store(f + 16, rounds_to_bf16(operand) ? round_bf16(b) : b);
    }
  }
}

}  // namespace
}  // namespace rill
