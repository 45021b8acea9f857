// SPDX-License-Identifier: Apache-2.0
// The two products of attention on AMX's tiles, for bf16x32: K [d/2][64][2] and V [64/2][W][2] are
// the tiles' second operand as they lie in the cache, queries and probabilities, rows of bf16, the
// first. Included by attention_impl.h.
#pragma once
#include "kernels/attention_family_impl.h"

namespace rill {
namespace {

constexpr size_t kTileKeys = 32;  // a run: what a tile of K's or V's pairs adds up

// Whether whole runs are all that the tile has: registers take the rest.
bool fits_tiles(const AttentionTile& t) {
  return t.kv == Format::BF16 && t.operand == Operand::BF16X32 && t.rows > kFewQueries &&
         t.head_dim % 64 == 0 && t.first % kTileKeys == 0 && t.keys % kTileKeys == 0;
}

// A tile's rows in groups of equal height, so that the tiles are configured once; the last group
// overlaps the one before if need be, which computes the same twice.
struct RowGroups {
  explicit RowGroups(size_t n)
      : rows(n), count((n + kTileRows - 1) / kTileRows), height((n + count - 1) / count) {}
  size_t first(size_t group) const { return least(group * height, rows - height); }

  size_t rows, count, height;
};

// The panels of K or V that are multiplied side by side: four with the rows of one group, if there
// is no other, or two, mostly with the rows of two groups.
RILL_INLINE bool four_panels(const RowGroups& groups) {
  return groups.count == 1;
}

// The tiles of this thread while it attends to one that fits them: four of sums, then the rows of Q
// or P of one group or two, then panels of K or V in turn.
struct AttentionTiles {
  explicit AttentionTiles(const AttentionTile& t) {
    if (!fits_tiles(t)) return;
    TileConfig config = TileConfig::whole();
    const RowGroups groups(t.rows);
    for (size_t tile = 0; tile < (four_panels(groups) ? 5 : 6); ++tile)
      config.set(tile, groups.height);
    tiles.configure(config);
  }
  Tiles tiles;
};

// The sums of one or two groups of rows with two or four panels.
template <int kGroups, int kPanels>
struct GroupSums {
  static_assert(kGroups * kPanels <= 4);
  static constexpr int kRows = 4, kOperands = kPanels == 4 ? 5 : 6, kInTurn = 8 - kOperands;

  // f<sum>(group, panel) for all sums.
  template <class F, int kSum = 0>
  static RILL_INLINE void each(const F& f) {
    if constexpr (kSum < kGroups * kPanels) {
      f.template operator()<kSum>(kSum / kPanels, kSum % kPanels);
      each<F, kSum + 1>(f);
    }
  }
  static RILL_INLINE void zero() {
    each([]<int kSum>(int, int) RILL_INLINE_LAMBDA { zero_tile<kSum>(); });
  }
  // Sums of the second group are `second` floats after those of the first.
  static RILL_INLINE void load(const float* from, size_t second, size_t stride) {
    each([&]<int kSum>(int g, int p) RILL_INLINE_LAMBDA {
      load_tile<kSum>(from + (g ? second : 0) + p * static_cast<int>(kPanel), stride);
    });
  }
  static RILL_INLINE void store(float* to, size_t second, size_t stride) {
    each([&]<int kSum>(int g, int p) RILL_INLINE_LAMBDA {
      store_tile<kSum>(to + (g ? second : 0) + p * static_cast<int>(kPanel), stride);
    });
  }
  // += a run of the rows at x, the second group's `second` bytes further on, times the panels of
  // sixteen pairs at w.
  static RILL_INLINE void add(const char* x, size_t second, size_t x_stride, const char* w,
                              size_t w_stride) {
    load_tile<kRows>(x, x_stride);
    if constexpr (kGroups == 2) load_tile<kRows + 1>(x + second, x_stride);
    add_panels(w, w_stride);
  }

 private:
  template <int kPanel = 0>
  static RILL_INLINE void add_panels(const char* w, size_t stride) {
    if constexpr (kPanel < kPanels) {
      constexpr int kOperand = kOperands + kPanel % kInTurn;
      load_tile<kOperand>(w + kPanel * kTileRowBytes, stride);
      dot_bf16_tiles<kPanel, kRows, kOperand>();
      if constexpr (kGroups == 2) dot_bf16_tiles<kPanels + kPanel, kRows + 1, kOperand>();
      add_panels<kPanel + 1>(w, stride);
    }
  }
};

// Groups [group, group + kGroups) of a tile's rows.
struct GroupRows {
  GroupRows(const AttentionTile& t, const RowGroups& groups, size_t group, size_t count)
      : first(groups.first(group)),
        second(groups.first(group + count - 1) - first),
        height(groups.height) {
    keys = keys_seen(t, first, second + groups.height);
    keys = least(t.keys, (keys + kTileKeys - 1) / kTileKeys * kTileKeys);
  }
  size_t first, second;  // row, and how many rows after it the second group begins
  size_t height;         // of each
  size_t keys;           // that they see, in whole runs
};

// Calls f<kGroups>(rows) for one group, or two where panels leave room for their sums, at a time.
template <int kPanels, class F>
RILL_INLINE void each_groups(const AttentionTile& t, const F& f) {
  const RowGroups groups(t.rows);
  size_t group = 0;
  if constexpr (kPanels == 2)
    for (; group + 2 <= groups.count; group += 2)
      f.template operator()<2>(GroupRows(t, groups, group, 2));
  for (; group < groups.count; ++group) f.template operator()<1>(GroupRows(t, groups, group, 1));
}

// Scores of some rows with kPanels panels of keys from `k` on.
template <int kGroups, int kPanels>
RILL_INLINE void score_panels(const AttentionTile& t, const GroupRows& rows, const char* k,
                              float* out, AskEvenly& ahead) {
  using Sums = GroupSums<kGroups, kPanels>;
  constexpr size_t kRowBytes = kBlockTokens * 4, kQueryRowBytes = RunKind::kQueryRowBytes;
  const char* q = reinterpret_cast<const char*>(t.q) + rows.first * kQueryRowBytes;
  Sums::zero();
  for (size_t d = 0; d < t.head_dim; d += 32) {
    ahead.ask();
    Sums::add(q + d / kQuerySlice * t.q_slice_bytes + d % kQuerySlice * 2,
              rows.second * kQueryRowBytes, kQueryRowBytes, k + d / 2 * kRowBytes, kRowBytes);
  }
  Sums::store(out, rows.second * kBlockTokens, kScoreRowBytes);
}

template <int kPanels>
void scores_by_panels(const AttentionTile& t, float* s) {
  for (size_t part = 0; part * kBlockTokens < t.keys; ++part) {
    const char* k = reinterpret_cast<const char*>(t.k[part]) + t.first * 4;
    each_groups<kPanels>(t, [&]<int kGroups>(const GroupRows& rows) RILL_INLINE_LAMBDA {
      float* const out = s + part * part_floats(t) + rows.first * kBlockTokens;
      if (rows.keys <= part * kBlockTokens) return;
      const size_t keys = least(kBlockTokens, rows.keys - part * kBlockTokens);
      constexpr size_t kKeys = kPanels * kPanel;
      AskEvenly ahead(t, part, rows.first, rows.second + rows.height,
                      (keys + kKeys - 1) / kKeys * (t.head_dim / 32));
      size_t key = 0;
      for (; key + kKeys <= keys; key += kKeys)
        score_panels<kGroups, kPanels>(t, rows, k + key * 4, out + key, ahead);
      if (key < keys) score_panels<kGroups, 2>(t, rows, k + key * 4, out + key, ahead);
    });
  }
}

void scores_on_tiles(const AttentionTile& t, float* s) {
  four_panels(RowGroups(t.rows)) ? scores_by_panels<4>(t, s) : scores_by_panels<2>(t, s);
}

// Sums of kPanels panels of values, from panel `panel` on, to `sums` [rows][kPanels * 16].
template <int kGroups, int kPanels>
RILL_INLINE void value_panels_on_tiles(const AttentionTile& t, const GroupRows& rows,
                                       const float* p, size_t panel, const ValueSink& sink,
                                       float* sums) {
  using Sums = GroupSums<kGroups, kPanels>;
  constexpr size_t kWidth = kPanels * kPanel;
  const size_t row_bytes = t.head_dim * 4;
  if (sink.accumulate)
    Sums::load(sink.o + rows.first * t.head_dim + panel * kPanel, rows.second * t.head_dim,
               t.head_dim * sizeof(float));
  else
    Sums::zero();
  for (size_t part = 0; part * kBlockTokens < rows.keys; ++part) {
    const char* x =
        reinterpret_cast<const char*>(p + part * part_floats(t)) + rows.first * kScoreRowBytes;
    const char* v =
        reinterpret_cast<const char*>(t.v[part]) + t.first / 2 * row_bytes + panel * kTileRowBytes;
    const size_t keys = least(kBlockTokens, rows.keys - part * kBlockTokens);
    for (size_t key = 0; key < keys; key += kTileKeys)
      Sums::add(x + key * 2, rows.second * kScoreRowBytes, kScoreRowBytes, v + key / 2 * row_bytes,
                row_bytes);
  }
  Sums::store(sums + rows.first * kWidth, rows.second * kWidth, kWidth * sizeof(float));
}

// `sink.o` may be the state of an earlier one, and groups overlap, so the sums of all rows wait
// beside it.
template <int kPanels>
void values_by_panels(const AttentionTile& t, const float* p, const ValueSink& sink) {
  alignas(64) float sums[kMostQueries * kPanels * kPanel];
  for (size_t panel = 0; panel < t.head_dim / kPanel; panel += kPanels) {
    each_groups<kPanels>(t, [&]<int kGroups>(const GroupRows& rows) RILL_INLINE_LAMBDA {
      value_panels_on_tiles<kGroups, kPanels>(t, rows, p, panel, sink, sums);
    });
    for (size_t r = 0; r < t.rows; ++r) {
      V acc[1][kPanels];
      load_tile(acc, sums + r * kPanels * kPanel, 0);
      finish_values(sink, r, panel * kPanel, t.head_dim, acc);
    }
  }
}

void values_on_tiles(const AttentionTile& t, const float* p, const ValueSink& sink) {
  four_panels(RowGroups(t.rows)) ? values_by_panels<4>(t, p, sink)
                                 : values_by_panels<2>(t, p, sink);
}

}  // namespace
}  // namespace rill
