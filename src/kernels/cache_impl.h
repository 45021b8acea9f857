// SPDX-License-Identifier: Apache-2.0
// Storing keys and values as the KV cache holds them. Included after pointwise_impl.h.
#pragma once
#include "kernels/pointwise_impl.h"

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

void store_k(Format format, const float* k, size_t head_dim, size_t slot, std::byte* block) {
  char* to = reinterpret_cast<char*>(block);
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
