// SPDX-License-Identifier: Apache-2.0
// Storing keys and values as the KV cache holds them. Included after pointwise_impl.h.
#pragma once
#include "kernels/pack_impl.h"

namespace rill {
namespace {

// Up to sixteen values of one row as the cache holds them, one after the other; +0 beyond.
struct CacheRow {
  alignas(64) char bytes[kPanel * 4];
};
RILL_INLINE CacheRow cache_row(Format format, const float* x, size_t n) {
  const V v = n < kPanel ? load_part(x, n) : load(x);
  CacheRow row;
  if (format == Format::F32)
    store(reinterpret_cast<float*>(row.bytes), v);
  else if (format == Format::F16)
    store_f16(reinterpret_cast<uint16_t*>(row.bytes), v);
  else
    store_bf16_exact(reinterpret_cast<uint16_t*>(row.bytes), v);
  return row;
}

// `count` units of a row to `to`, one row of K apart.
template <size_t kUnit>
RILL_INLINE void scatter(const CacheRow& row, size_t count, char* to) {
  for (size_t i = 0; i < count; ++i)
    __builtin_memcpy(to + i * kUnit * kBlockTokens, row.bytes + i * kUnit, kUnit);
}

// A key is quantised like a row of weights. Where its largest value is not finite or too large,
// neither is the scale.
void store_int8_k(const float* k, size_t head_dim, size_t slot, char* block) {
  constexpr size_t kBytes = panel_bytes(Format::INT8, 32);
  char* to = block + slot / kPanel * kBytes;
  for (size_t d = 0; d < head_dim; d += 32, to += kBlockTokens / kPanel * kBytes) {
    const size_t left = head_dim - d, row = slot % kPanel;
    const V a = load_part(k + d, left < 16 ? left : 16);
    const V b = left > 16 ? load_part(k + d + 16, left < 32 ? left - 16 : 16) : zero();
    char halves[2 * kPanel];
    const V scale = rounded_to_half(div(splat(largest(a, b)), splat(127.0f)), halves);
    alignas(64) float codes[32];
    store(codes, int8_codes(a, scale));
    store(codes + 16, int8_codes(b, scale));
    __builtin_memcpy(to + 2 * row, halves, 2);
    auto* q = reinterpret_cast<uint8_t*>(to + 2 * kPanel);
    for (size_t i = 0; i < 32; ++i)
      q[i / 4 * 64 + row * 4 + i % 4] = static_cast<uint8_t>(static_cast<int>(codes[i]) + 128);
  }
}

// A value has one scale, which goes into the probability that it is multiplied with.
void store_int8_v(const float* v, size_t head_dim, size_t slot, char* block) {
  const size_t width = (head_dim + kPanel - 1) / kPanel * kPanel;
  const auto part = [&](size_t d) { return head_dim - d < kPanel ? head_dim - d : kPanel; };
  uint32_t bits = 0;
  for (size_t d = 0; d < head_dim; d += kPanel) {
    const uint32_t here = largest_magnitude(load_part(v + d, part(d)), zero());
    bits = bits > here ? bits : here;
  }
  float amax;
  __builtin_memcpy(&amax, &bits, 4);
  const float scale = amax / 127.0f, inverse = 127.0f / amax;
  const bool usable = inverse > 0.0f && inverse <= 0x1.fffffep+127f;  // false for NaN
  __builtin_memcpy(block + kBlockTokens * width + slot * sizeof scale, &scale, sizeof scale);
  for (size_t d = 0; d < head_dim; d += kPanel) {
    alignas(64) float codes[kPanel];
    store(codes, usable ? round_even(mul(load_part(v + d, part(d)), splat(inverse))) : zero());
    char* to = block + slot / 32 * 32 * width + d * 32 + slot % 32 / 4 * 64 + slot % 4;
    for (size_t i = 0; i < kPanel; ++i) to[4 * i] = static_cast<char>(codes[i]);
  }
}

void store_k(Format format, const float* k, size_t head_dim, size_t slot, std::byte* block) {
  char* to = reinterpret_cast<char*>(block);
  if (format == Format::INT8) return store_int8_k(k, head_dim, slot, to);
  for (size_t d = 0; d < head_dim; d += kPanel) {
    const size_t n = head_dim - d < kPanel ? head_dim - d : kPanel;
    const CacheRow row = cache_row(format, k + d, n);
    if (format == Format::F32)
      scatter<4>(row, n, to + (d * kBlockTokens + slot) * 4);
    else if (format == Format::F16)
      scatter<2>(row, n, to + (d * kBlockTokens + slot) * 2);
    else
      scatter<4>(row, n / 2, to + (d / 2 * kBlockTokens + slot) * 4);  // head_dim is even
  }
}

// Puts sixteen halves beside those of the other token of their pair.
RILL_INLINE void put_halves(const CacheRow& row, bool odd, char* line) {
  uint16_t halves[kPanel];
  uint32_t pairs[kPanel];
  __builtin_memcpy(halves, row.bytes, sizeof halves);
  __builtin_memcpy(pairs, line, sizeof pairs);
  const uint32_t kept = odd ? 0x0000ffffu : 0xffff0000u;
  const int shift = odd ? 16 : 0;
  for (size_t i = 0; i < kPanel; ++i) pairs[i] = (pairs[i] & kept) | uint32_t{halves[i]} << shift;
  __builtin_memcpy(line, pairs, sizeof pairs);
}

void store_v(Format format, const float* v, size_t head_dim, size_t slot, std::byte* block) {
  const size_t width = (head_dim + kPanel - 1) / kPanel * kPanel;
  char* to = reinterpret_cast<char*>(block);
  if (format == Format::INT8) return store_int8_v(v, head_dim, slot, to);
  for (size_t d = 0; d < head_dim; d += kPanel) {
    const CacheRow row = cache_row(format, v + d, head_dim - d < kPanel ? head_dim - d : kPanel);
    if (format == Format::F32)
      __builtin_memcpy(to + (slot * width + d) * 4, row.bytes, kPanel * 4);
    else if (format == Format::F16)
      __builtin_memcpy(to + (slot * width + d) * 2, row.bytes, kPanel * 2);
    else
      put_halves(row, slot % 2, to + (slot / 2 * width + d) * 4);
  }
}

}  // namespace
}  // namespace rill
