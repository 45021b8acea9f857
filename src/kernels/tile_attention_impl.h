// SPDX-License-Identifier: Apache-2.0
// The two products of attention on AMX's tiles, for bf16x32: K [d/2][64][2] and V [64/2][W][2] are
// the tiles' second operand as they lie in the cache, queries and probabilities, rows of bf16, the
// first. Included by attention_impl.h.
#pragma once
#include "kernels/attention_product_impl.h"

namespace rill {
namespace {

constexpr int kFewQueries = 4;  // up to which registers do as well: decoding
constexpr int kSideBySide =
    4;  // panels, each with its tile of sums; tile 4 holds the rows of Q or P

// Whether whole runs of 32 are all that the tile has: registers take the rest.
bool fits_tiles(const AttentionTile& t) {
  return t.kv == Format::BF16 && t.operand == Operand::BF16X32 && t.rows > kFewQueries &&
         t.head_dim % 64 == 0 && t.first % 32 == 0 && t.keys % 32 == 0;
}

// Tiles 0 to 3 hold sums, 4 the rows of Q or P, 5 to 7 keys or values in turn.
constexpr TileConfig attention_config(size_t queries) {
  TileConfig config = TileConfig::whole();
  for (size_t tile = 0; tile <= kSideBySide; ++tile) config.set(tile, queries);
  return config;
}

// The tiles of this thread while it attends to one that fits them.
struct AttentionTiles {
  explicit AttentionTiles(const AttentionTile& t) {
    if (fits_tiles(t)) tiles.configure(attention_config(t.rows));
  }
  Tiles tiles;
};

// sums of panel kFirst + 0, 1, ... += rows in tile 4 times the panels at `w`, [16 pairs][stride].
template <int kCount, int kFirst = 0>
RILL_INLINE void multiply_panels(const char* w, size_t stride) {
  if constexpr (kFirst < kCount) {
    constexpr int kOperand = 5 + kFirst % 3;
    load_tile<kOperand>(w + kFirst * kTileRowBytes, stride);
    dot_bf16_tiles<kFirst, 4, kOperand>();
    multiply_panels<kCount, kFirst + 1>(w, stride);
  }
}
template <int kCount, int kFirst = 0>
RILL_INLINE void zero_sums() {
  if constexpr (kFirst < kCount) {
    zero_tile<kFirst>();
    zero_sums<kCount, kFirst + 1>();
  }
}
template <int kCount, int kFirst = 0>
RILL_INLINE void load_sums(const float* from, size_t stride) {
  if constexpr (kFirst < kCount) {
    load_tile<kFirst>(from + kFirst * static_cast<int>(kPanel), stride);
    load_sums<kCount, kFirst + 1>(from, stride);
  }
}
template <int kCount, int kFirst = 0>
RILL_INLINE void store_sums(float* to, size_t stride) {
  if constexpr (kFirst < kCount) {
    store_tile<kFirst>(to + kFirst * static_cast<int>(kPanel), stride);
    store_sums<kCount, kFirst + 1>(to, stride);
  }
}

// Scores of all rows with kCount panels of keys from `k` on.
template <int kCount>
RILL_INLINE void score_panels(const AttentionTile& t, const char* k, float* out) {
  constexpr size_t kRowBytes = kBlockTokens * 4, kQueryRowBytes = RunKind::kQueryRowBytes;
  zero_sums<kCount>();
  const char* q = reinterpret_cast<const char*>(t.q);
  for (size_t d = 0; d < t.head_dim; d += 32) {
    load_tile<4>(q + d / kQuerySlice * t.q_slice_bytes + d % kQuerySlice * 2, kQueryRowBytes);
    multiply_panels<kCount>(k + d / 2 * kRowBytes, kRowBytes);
  }
  store_sums<kCount>(out, kScoreRowBytes);
}

void scores_on_tiles(const AttentionTile& t, float* s) {
  for (size_t part = 0; part * kBlockTokens < t.keys; ++part) {
    const char* k = reinterpret_cast<const char*>(t.k[part]) + t.first * 4;
    float* const out = s + part * kPartFloats;
    if (t.keys - part * kBlockTokens >= kBlockTokens)
      score_panels<kSideBySide>(t, k, out);
    else
      score_panels<kSideBySide / 2>(t, k, out);
  }
}

// Sums of kSideBySide panels of values, from panel `panel` on, to `sums` [rows][kSideBySide * 16].
void value_panels_on_tiles(const AttentionTile& t, const float* p, size_t panel,
                           const ValueSink& sink, float* sums) {
  constexpr size_t kStride = kSideBySide * kPanel * sizeof(float);
  const size_t row_bytes = t.head_dim * 4;
  if (sink.accumulate)
    load_sums<kSideBySide>(sink.o + panel * kPanel, t.head_dim * sizeof(float));
  else
    zero_sums<kSideBySide>();
  for (size_t part = 0; part * kBlockTokens < t.keys; ++part) {
    const char* x = reinterpret_cast<const char*>(p + part * kPartFloats);
    const char* v =
        reinterpret_cast<const char*>(t.v[part]) + t.first / 2 * row_bytes + panel * kTileRowBytes;
    const size_t keys = least(kBlockTokens, t.keys - part * kBlockTokens);
    for (size_t key = 0; key < keys; key += 32) {
      load_tile<4>(x + key * 2, kScoreRowBytes);
      multiply_panels<kSideBySide>(v + key / 2 * row_bytes, row_bytes);
    }
  }
  store_sums<kSideBySide>(sums, kStride);
}

// As value_rows does it: `sink.o` may be the state of an earlier one, so sums wait beside it.
void values_on_tiles(const AttentionTile& t, const float* p, const ValueSink& sink) {
  constexpr size_t kWidth = kSideBySide * kPanel;
  alignas(64) float sums[kMostRows * kWidth];
  for (size_t panel = 0; panel < t.head_dim / kPanel; panel += kSideBySide) {
    value_panels_on_tiles(t, p, panel, sink, sums);
    for (size_t r = 0; r < t.rows; ++r) {
      const size_t offset = r * t.head_dim + panel * kPanel;
      V acc[kSideBySide];
#pragma GCC unroll 4
      for (size_t i = 0; i < kSideBySide; ++i)
        acc[i] = add(load(sums + r * kWidth + i * kPanel), zero());
      for (size_t j = 0; sink.joins && j < sink.joins->count; ++j) {
        const V f = splat(sink.joins->f[j][r]), g = splat(sink.joins->g[j][r]);
        const float* o = sink.joins->earlier[j].o + offset;
#pragma GCC unroll 4
        for (size_t i = 0; i < kSideBySide; ++i)
          acc[i] = fma(load(o + i * kPanel), f, mul(acc[i], g));
      }
#pragma GCC unroll 4
      for (size_t i = 0; i < kSideBySide; ++i) store(sink.o + offset + i * kPanel, acc[i]);
    }
  }
}

}  // namespace
}  // namespace rill
