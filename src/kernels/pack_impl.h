// SPDX-License-Identifier: Apache-2.0
// Packing of weights into panels, and their quantisation: docs/arithmetic.md §2, §7.
// Included after pointwise_impl.h.
#pragma once
#include "kernels/pointwise_impl.h"

namespace rill {
namespace {

constexpr float kLargestScaled =
    400000.0f;  // beyond, a block's scale would not fit in half precision

// Thirty-two columns of one row, widened to fp32, zeros past the end.
void read_block(const PackSource& source, size_t row, size_t column, float* out) {
  const char* from = reinterpret_cast<const char*>(source.row[row]);
  const size_t left = source.columns > column ? source.columns - column : 0;
  const size_t n = from == nullptr ? 0 : left < 32 ? left : 32;
  if (n < 32)
    for (size_t i = 0; i < 32; ++i) out[i] = 0.0f;
  if (source.dtype == Format::F32) {
    if (n) __builtin_memcpy(out, from + column * 4, n * 4);
  } else if (source.dtype == Format::BF16) {
    for (size_t i = 0; i < n; ++i) {
      uint16_t half;
      __builtin_memcpy(&half, from + (column + i) * 2, 2);
      const uint32_t bits = uint32_t{half} << 16;
      __builtin_memcpy(out + i, &bits, 4);
    }
  } else {
    uint16_t halves[32] = {};
    if (n) __builtin_memcpy(halves, from + column * 2, n * 2);
    store(out, load_f16(halves));
    store(out + 16, load_f16(halves + 16));
  }
  if (source.through_f16 && source.dtype != Format::F16) {
    uint16_t halves[32];
    store_f16(halves, load(out));
    store_f16(halves + 16, load(out + 16));
    store(out, load_f16(halves));
    store(out + 16, load_f16(halves + 16));
  }
}

// ---- §7: blocks of 32 weights to codes in -128..127 (int8) or -8..7 (int4), and a half scale ----

inline uint16_t half_scale(float scale) {
  uint16_t halves[16];
  store_f16(halves, splat(scale));
  return halves[0];
}
inline float widen_half(uint16_t half) {
  uint16_t halves[16] = {half};
  float floats[16];
  store(floats, load_f16(halves));
  return floats[0];
}
inline float largest(V a, V b) {
  const uint32_t bits = largest_magnitude(a, b);
  float amax;
  __builtin_memcpy(&amax, &bits, 4);
  return amax;
}

// `amax`: the largest magnitude. If that is not finite, or too large, neither is the scale.
uint16_t quantise_int8(V a, V b, float amax, float* codes) {
  const uint16_t scale = half_scale(amax / 127.0f);
  const float s = widen_half(scale);
  const V low = splat(-127.0f), high = splat(127.0f);
  for (int i = 0; i < 2; ++i) {
    const V q = round_even(div(i ? b : a, splat(s)));
    store(codes + 16 * i, s > 0.0f ? max(min(q, high), low) : zero());
  }
  return scale;
}
// Row r of sixteen in an int8 block of a panel.
void put_int8(size_t r, uint16_t scale, const float* codes, char* block) {
  __builtin_memcpy(block + 2 * r, &scale, 2);
  auto* q = reinterpret_cast<uint8_t*>(block + 2 * kPanel);
  for (size_t k = 0; k < 32; ++k)
    q[k / 4 * 64 + r * 4 + k % 4] = static_cast<uint8_t>(static_cast<int>(codes[k]) + 128);
}

struct Int4Codes {
  V a, b;
};
RILL_INLINE Int4Codes int4_codes(V a, V b, float d) {
  const float inverse = 1.0f / d;
  if (!(inverse <= 0x1.fffffep+127f && inverse >= -0x1.fffffep+127f)) return {zero(), zero()};
  const V f = splat(inverse), low = splat(-8.0f), high = splat(7.0f);
  return {round_even(min(max(mul(a, f), low), high)), round_even(min(max(mul(b, f), low), high))};
}

bool quantise_int4(const float* w, float* codes, uint16_t& scale) {
  const V a = load(w), b = load(w + 16);
  if (!(largest(a, b) <= kLargestScaled)) return false;
  float extreme = 0.0f;
  for (int i = 0; i < 32; ++i)
    if (__builtin_fabsf(w[i]) > __builtin_fabsf(extreme)) extreme = w[i];
  scale = 0;
  store(codes, zero());
  store(codes + 16, zero());
  if (extreme == 0.0f) return true;
  bool found = false;
  float least_error = 0.0f;
  const float divisors[5] = {8.8f, 8.2f, 7.6f, 7.0f, 6.4f};
  for (const float t : divisors) {
    const Int4Codes c = int4_codes(a, b, -(extreme / t));
    const float squares = sum_tree(fma(c.b, c.b, mul(c.a, c.a)));
    if (squares == 0.0f) continue;
    const float products = sum_tree(fma(b, c.b, fma(a, c.a, zero())));
    const uint16_t half = half_scale(products / squares);
    const float d = widen_half(half);
    if (d == 0.0f || !(__builtin_fabsf(d) <= 65504.0f)) continue;
    const Int4Codes q = int4_codes(a, b, d);
    const V ra = fma(splat(-d), q.a, a), rb = fma(splat(-d), q.b, b);
    const float error = sum_tree(fma(rb, rb, fma(ra, ra, zero())));
    if (found && !(error < least_error)) continue;
    found = true;
    least_error = error;
    scale = half;
    store(codes, q.a);
    store(codes + 16, q.b);
  }
  return true;
}

// One block of 32 columns of sixteen rows as the panel stores it.
bool pack_int8(const float (&rows)[kPanel][32], char* out) {
  for (size_t r = 0; r < kPanel; ++r) {
    alignas(64) float codes[32];
    const V a = load(rows[r]), b = load(rows[r] + 16);
    const float amax = largest(a, b);
    if (!(amax <= kLargestScaled)) return false;
    const uint16_t scale = quantise_int8(a, b, amax, codes);
    put_int8(r, scale, codes, out);
  }
  return true;
}
bool pack_int4(const float (&rows)[kPanel][32], char* out) {
  for (size_t r = 0; r < kPanel; ++r) {
    alignas(64) float codes[32];
    uint16_t scale;
    if (!quantise_int4(rows[r], codes, scale)) return false;
    __builtin_memcpy(out + 2 * r, &scale, 2);
    auto* q = reinterpret_cast<uint8_t*>(out + 2 * kPanel);
    for (size_t k = 0; k < 16; ++k) {
      const int low = static_cast<int>(codes[k]) + 8, high = static_cast<int>(codes[16 + k]) + 8;
      q[k / 4 * 64 + r * 4 + k % 4] = static_cast<uint8_t>(low | high << 4);
    }
  }
  return true;
}
void pack_f32(const float (&rows)[kPanel][32], char* out) {
  auto* to = reinterpret_cast<float*>(out);
  for (size_t k = 0; k < 32; ++k)
    for (size_t r = 0; r < kPanel; ++r) to[k * kPanel + r] = rows[r][k];
}
bool pack_f16(const float (&rows)[kPanel][32], bool exact, char* out) {
  auto* to = reinterpret_cast<uint16_t*>(out);
  for (size_t r = 0; r < kPanel; ++r) {
    uint16_t halves[32];
    store_f16(halves, load(rows[r]));
    store_f16(halves + 16, load(rows[r] + 16));
    // 65520 is where rounding to half precision gives an infinity; one that was stored so may stay.
    if (!exact && !(largest(load(rows[r]), load(rows[r] + 16)) < 65520.0f)) return false;
    for (size_t k = 0; k < 32; ++k) to[k * kPanel + r] = halves[k];
  }
  return true;
}
void pack_bf16(const float (&rows)[kPanel][32], char* out) {
  auto* to = reinterpret_cast<uint16_t*>(out);
  for (size_t r = 0; r < kPanel; ++r) {
    uint16_t halves[32];
    store_bf16(halves, load(rows[r]));
    store_bf16(halves + 16, load(rows[r] + 16));
    for (size_t k = 0; k < 32; ++k) to[k / 2 * 32 + r * 2 + k % 2] = halves[k];
  }
}

// bf16 as it is stored: sixteen rows of pairs, transposed.
void copy_bf16(const PackSource& source, size_t column, char* out) {
  uint32_t pairs[kPanel][16] = {};
  const size_t left = source.columns > column ? source.columns - column : 0;
  const size_t bytes = (left < 32 ? left : 32) * 2;
  for (size_t r = 0; r < kPanel; ++r)
    if (source.row[r] && bytes)
      __builtin_memcpy(pairs[r], reinterpret_cast<const char*>(source.row[r]) + column * 2, bytes);
  auto* to = reinterpret_cast<uint32_t*>(out);
  for (size_t k = 0; k < 16; ++k)
    for (size_t r = 0; r < kPanel; ++r) to[k * kPanel + r] = pairs[r][k];
}

bool pack(const PackSource& source, Format format, size_t depth, std::byte* panel) {
  const size_t block_bytes = panel_bytes(format, 32);
  char* out = reinterpret_cast<char*>(panel);
  const bool copy = format == Format::BF16 && source.dtype == Format::BF16 && !source.through_f16;
  alignas(64) float rows[kPanel][32];
  for (size_t column = 0; column < depth; column += 32, out += block_bytes) {
    if (copy) {
      copy_bf16(source, column, out);
      continue;
    }
    for (size_t r = 0; r < kPanel; ++r) read_block(source, r, column, rows[r]);
    bool fits = true;
    switch (format) {
      case Format::F32:
        pack_f32(rows, out);
        break;
      case Format::F16:
        fits = pack_f16(rows, source.dtype == Format::F16, out);
        break;
      case Format::BF16:
        pack_bf16(rows, out);
        break;
      case Format::INT8:
        fits = pack_int8(rows, out);
        break;
      case Format::INT4:
        fits = pack_int4(rows, out);
        break;
    }
    if (!fits) return false;
  }
  return true;
}

}  // namespace
}  // namespace rill
