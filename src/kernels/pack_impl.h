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

inline float largest(V a, V b) {
  const uint32_t bits = largest_magnitude(a, b);
  float amax;
  __builtin_memcpy(&amax, &bits, 4);
  return amax;
}

// ---- §7: a block of 32 columns of sixteen rows of weights, one row a lane ----

using Columns = float[32][kPanel];

RILL_INLINE V magnitude(V x) {
  return max(x, sub(zero(), x));
}
RILL_INLINE V rounded_to_half(V x, char* halves) {
  uint16_t rounded[kPanel];
  store_f16(rounded, x);
  __builtin_memcpy(halves, rounded, sizeof(rounded));
  return load_f16(rounded);
}

// Signed codes for a scale in half precision, of which none that is above 0 is below 2^-24.
RILL_INLINE V int8_codes(V w, V scale) {
  const V q = max(min(round_even(div(w, scale)), splat(127.0f)), splat(-127.0f));
  return where_ge(scale, splat(0x1p-24f), q, zero());
}

// The largest magnitude of each row. False if one is not finite, or too large for a scale.
bool largest_magnitudes(const Columns& w, V& largest) {
  V rest = zero();  // a NaN where a weight is not finite
  largest = zero();
  for (const auto& column : w) {
    const V x = load(column);
    rest = add(rest, sub(x, x));
    largest = max(largest, magnitude(x));
  }
  const V one = splat(1.0f);
  const V fits =
      where_ge(splat(kLargestScaled), largest, where_ge(rest, zero(), one, zero()), zero());
  return sum_tree(fits) == static_cast<float>(kPanel);
}

bool pack_int8(const Columns& w, char* out) {
  V largest;
  if (!largest_magnitudes(w, largest)) return false;
  const V scale = rounded_to_half(div(largest, splat(127.0f)), out);
  const auto code = [&](size_t k) RILL_INLINE_LAMBDA {
    return add(int8_codes(load(w[k]), scale), splat(128.0f));
  };
  out += 2 * kPanel;
  for (size_t k = 0; k < 32; k += 4, out += 64)
    store_bytes(out, code(k), code(k + 1), code(k + 2), code(k + 3));
  return true;
}

// The sum of sixteen columns that sum_tree has across lanes.
RILL_INLINE V sum_columns(float (&lanes)[16][kPanel]) {
  for (size_t width = 8; width; width /= 2)
    for (size_t i = 0; i < width; ++i) store(lanes[i], add(load(lanes[i]), load(lanes[i + width])));
  return load(lanes[0]);
}

// One try at the scales and codes of int4 weights, and what the best one gave so far.
struct Int4Search {
  const Columns& w;
  alignas(64) float codes[32][kPanel], lanes[16][kPanel];
  alignas(64) float best_codes[32][kPanel] = {};
  V best_scale = zero(), least_error = splat(__builtin_inff());

  explicit Int4Search(const Columns& weights) : w(weights) {}

  void set_codes(V d) {
    const V bound = splat(0x1.fffffep+127f);
    V inverse = div(splat(1.0f), d);
    inverse = where_ge(bound, inverse, inverse, zero());
    inverse = where_ge(inverse, sub(zero(), bound), inverse, zero());  // what is not finite is 0
    for (size_t k = 0; k < 32; ++k) {
      const V scaled = max(mul(load(w[k]), inverse), splat(-8.0f));
      store(codes[k], round_even(min(scaled, splat(7.0f))));
    }
  }

  void attempt(V d) {
    set_codes(d);
    V squares = zero();  // exact, in any order
    for (size_t i = 0; i < 16; ++i) {
      const V a = load(codes[i]), b = load(codes[16 + i]);
      squares = fma(b, b, fma(a, a, squares));
      store(lanes[i], fma(load(w[16 + i]), b, fma(load(w[i]), a, zero())));
    }
    char halves[2 * kPanel];
    const V scale = rounded_to_half(div(sum_columns(lanes), squares), halves);
    set_codes(scale);
    for (size_t i = 0; i < 16; ++i) {
      const V ra = fma(sub(zero(), scale), load(codes[i]), load(w[i]));
      const V rb = fma(sub(zero(), scale), load(codes[16 + i]), load(w[16 + i]));
      store(lanes[i], fma(rb, rb, fma(ra, ra, zero())));
    }
    V error = sum_columns(lanes);
    const V none = splat(__builtin_inff()), size = magnitude(scale);
    error = where_ge(zero(), squares, none, error);
    error = where_ge(splat(65504.0f), size, where_ge(zero(), size, none, error), none);
    for (size_t k = 0; k < 32; ++k)
      store(best_codes[k], where_ge(error, least_error, load(best_codes[k]), load(codes[k])));
    best_scale = where_ge(error, least_error, best_scale, scale);
    least_error = min(error, least_error);
  }
};

bool pack_int4(const Columns& w, char* out) {
  V largest, extreme = zero();
  if (!largest_magnitudes(w, largest)) return false;
  for (const auto& column : w) {
    const V x = load(column);
    extreme = where_ge(magnitude(extreme), magnitude(x), extreme, x);
  }
  Int4Search search(w);
  const float divisors[] = {8.8f, 8.2f, 7.6f, 7.0f, 6.4f};
  for (const float t : divisors) search.attempt(sub(zero(), div(extreme, splat(t))));
  rounded_to_half(search.best_scale, out);
  const auto code = [&](size_t k) RILL_INLINE_LAMBDA {
    const V low = load(search.best_codes[k]), high = load(search.best_codes[16 + k]);
    return add(fma(high, splat(16.0f), low), splat(8.0f * 17.0f));
  };
  out += 2 * kPanel;
  for (size_t k = 0; k < 16; k += 4, out += 64)
    store_bytes(out, code(k), code(k + 1), code(k + 2), code(k + 3));
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
      case Format::INT4: {
        alignas(64) Columns columns;
        for (size_t k = 0; k < 32; ++k)
          for (size_t r = 0; r < kPanel; ++r) columns[k][r] = rows[r][k];
        fits = (format == Format::INT8 ? pack_int8 : pack_int4)(columns, out);
        break;
      }
    }
    if (!fits) return false;
  }
  return true;
}

}  // namespace
}  // namespace rill
