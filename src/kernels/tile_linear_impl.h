// SPDX-License-Identifier: Apache-2.0
// Linear layers on AMX's tiles: 32 rows times two panels in four tiles of sums, the order of §8 for
// bf16x32. A few rows, bound by memory, are left to linear_impl.h. Included after that.
#pragma once
#include "kernels/linear_impl.h"

namespace rill {
namespace {

constexpr size_t kFewRows = 4;  // up to which registers do as well
// Tiles 0 to 3 hold sums: 0 and 1 of the upper rows with the left and the right panel, 2 and 3 of
// the lower rows. 4 and 5 hold the upper and the lower rows of activations, 6 and 7 the weights of
// the left and the right panel.
constexpr TileConfig tall_config(size_t upper, size_t lower) {
  TileConfig config = TileConfig::whole();
  config.set(0, upper), config.set(1, upper), config.set(4, upper);
  config.set(2, lower), config.set(3, lower), config.set(5, lower);
  return config;
}
constexpr size_t kTallRows = 2 * kTileRows;
constexpr size_t kMostTallTiles = 8;  // of a block of rows
constexpr size_t kPairWidth = 2 * kPanel;
// Inputs of two panels that stay in the first-level cache (16 KiB) while all rows of a block meet
// them, and the activations of a block, which stay in the second-level one for all panels.
constexpr size_t kDepthBlock = 256;
constexpr size_t kRowBlockBytes = size_t{1280} << 10;
constexpr size_t kRun = 32;                              // inputs of a tile: 64 bytes of bf16
constexpr size_t kRunBytes = kTileRows * kTileRowBytes;  // that a panel stores for them

// Sums of a block of rows, [rows][kPairWidth]: what is being added up, and the left sides of the
// tree of leaves.
struct BlockSums {
  alignas(64) float final[kMostTallTiles * kTallRows * kPairWidth];
  alignas(64) float level[kFinal][kMostTallTiles * kTallRows * kPairWidth];

  float* of(size_t out) { return out == kFinal ? final : level[out]; }
};

// Two panels, and two more that are to come as near as the second-level cache (null: none).
struct PanelPair {
  const char *left, *right;
  const char *next_left, *next_right;
};

// A tall tile's part of a pair's products: inputs [k, k + depth) of the rows from `x` on.
struct TallTile {
  const char* x;
  size_t x_stride;
  size_t k, depth;
  float* sums;                      // [rows][kPairWidth]
  size_t ahead_first, ahead_lines;  // of the 32 lines of each run of the next pair: asked for
};

RILL_INLINE void ask_for_next(const PanelPair& pair, const TallTile& t, size_t offset) {
  for (size_t i = t.ahead_first; i < t.ahead_first + t.ahead_lines; ++i) {
    const char* panel = i < kTileRows ? pair.next_left : pair.next_right;
    __builtin_prefetch(panel + offset + i % kTileRows * kTileRowBytes, 0, 2);
  }
}

// sums = (go_on ? sums : 0) + x * w. kTwo: there are lower rows.
template <bool kTwo>
void multiply(const PanelPair& pair, const TallTile& t, bool go_on) {
  constexpr size_t kStride = kPairWidth * sizeof(float);
  float* const lower = t.sums + kTileRows * kPairWidth;
  if (go_on) {
    load_tile<0>(t.sums, kStride), load_tile<1>(t.sums + kPanel, kStride);
    if constexpr (kTwo) load_tile<2>(lower, kStride), load_tile<3>(lower + kPanel, kStride);
  } else {
    zero_tile<0>(), zero_tile<1>();
    if constexpr (kTwo) zero_tile<2>(), zero_tile<3>();
  }
  const char* x = t.x + t.k * sizeof(uint16_t);
  size_t offset = t.k / kRun * kRunBytes;
  for (size_t k = 0; k < t.depth; k += kRun, x += kTileRowBytes, offset += kRunBytes) {
    load_tile<4>(x, t.x_stride);
    load_tile<6>(pair.left + offset, kTileRowBytes);
    dot_bf16_tiles<0, 4, 6>();
    load_tile<7>(pair.right + offset, kTileRowBytes);
    dot_bf16_tiles<1, 4, 7>();
    if constexpr (kTwo) {
      load_tile<5>(x + kTileRows * t.x_stride, t.x_stride);
      dot_bf16_tiles<2, 5, 6>();
      dot_bf16_tiles<3, 5, 7>();
    }
    if (pair.next_left) ask_for_next(pair, t, offset);
  }
  store_tile<0>(t.sums, kStride), store_tile<1>(t.sums + kPanel, kStride);
  if constexpr (kTwo) store_tile<2>(lower, kStride), store_tile<3>(lower + kPanel, kStride);
}

// Heights of the two halves of a tall tile.
constexpr size_t upper_rows(size_t rows) {
  return rows < kTileRows ? rows : kTileRows;
}
constexpr size_t lower_rows(size_t rows) {
  return rows - upper_rows(rows);
}

// A block of rows of a job, and the pair of panels from `panel` on (or one panel).
class PairOnTiles {
 public:
  PairOnTiles(const LinearJob& job, const LeafPlan& plan, Tiles& tiles, BlockSums& sums)
      : job_(job),
        plan_(plan),
        tiles_(tiles),
        sums_(sums),
        panel_bytes_(panel_bytes(job.weight->format, job.weight->depth)) {}

  void run(RowRange rows, size_t panel, size_t last) {
    const char* w = reinterpret_cast<const char*>(job_.weight->data) + panel * panel_bytes_;
    panel_ = panel;
    panels_ = last - panel < 2 ? 1 : 2;
    pair_ = {w, panels_ == 2 ? w + panel_bytes_ : w, nullptr, nullptr};
    if (panel + 3 < last)
      pair_.next_left = w + 2 * panel_bytes_, pair_.next_right = w + 3 * panel_bytes_;
    for (size_t s = 0; s < plan_.steps; ++s) {
      const LeafStep& step = plan_.step[s];
      for (size_t k = step.k_begin; k < step.k_end; k += kDepthBlock) {
        const size_t left = step.k_end - k;
        const bool closes = left <= kDepthBlock;
        run_rows(rows, step, {k, closes ? left : kDepthBlock}, closes);
      }
    }
  }

 private:
  struct Depth {
    size_t k, count;
  };

  // All rows with the inputs of `depth`; closes: a leaf ends with them.
  void run_rows(RowRange rows, const LeafStep& step, Depth depth, bool closes) {
    const size_t count = (rows.end - rows.begin + kTallRows - 1) / kTallRows;
    for (size_t i = 0; i < count; ++i) {
      const size_t begin = rows.begin + i * kTallRows;
      const RowRange tile_rows = {begin,
                                  begin + kTallRows < rows.end ? begin + kTallRows : rows.end};
      const bool final = closes && step.out == kFinal;
      if (final)
        for (size_t p = 0; p < panels_; ++p) expect_panel(job_, tile_rows, panel_ + p);
      TallTile t{};
      t.x = reinterpret_cast<const char*>(job_.x.data) + begin * job_.x.stride_bytes;
      t.x_stride = job_.x.stride_bytes;
      t.k = depth.k;
      t.depth = depth.count;
      t.sums = sums_.of(step.out) + i * kTallRows * kPairWidth;
      t.ahead_first = 2 * kTileRows * i / count;
      t.ahead_lines = 2 * kTileRows * (i + 1) / count - t.ahead_first;
      multiply_rows(t, tile_rows.end - begin, depth.k > step.k_begin);
      if (!closes) continue;
      add_left_sides(step, i, tile_rows.end - begin);
      if (final) finish(tile_rows, t.sums);
    }
  }

  void multiply_rows(const TallTile& t, size_t rows, bool go_on) {
    if (rows != configured_) tiles_.configure(tall_config(upper_rows(rows), lower_rows(rows)));
    configured_ = rows;
    (rows > kTileRows ? multiply<true> : multiply<false>)(pair_, t, go_on);
  }

  // The left sides of the tree that wait for the leaf of `step`, in the i-th tall tile.
  void add_left_sides(const LeafStep& step, size_t i, size_t rows) {
    const size_t first = i * kTallRows * kPairWidth;
    float* sums = sums_.of(step.out) + first;
    for (size_t a = 0; a < step.addends; ++a) {
      const float* left = sums_.level[step.addend[a]] + first;
      for (size_t j = 0; j < rows * kPairWidth; j += kPanel)
        store(sums + j, add(load(left + j), load(sums + j)));
    }
  }

  void finish(RowRange rows, const float* sums) {
    if (job_.epilogue == Epilogue::SILU_MUL) {
      finish_panel(job_, rows, panel_, sums, sums + kPanel, kPairWidth);
      return;
    }
    for (size_t p = 0; p < panels_; ++p)
      finish_panel(job_, rows, panel_ + p, sums + p * kPanel, nullptr, kPairWidth);
  }

  const LinearJob& job_;
  const LeafPlan& plan_;
  Tiles& tiles_;
  BlockSums& sums_;
  const size_t panel_bytes_;
  size_t panel_ = 0, panels_ = 0, configured_ = 0;  // rows that the tiles are configured for
  PanelPair pair_{};
};

// Rows whose activations stay in the second-level cache.
size_t block_rows(size_t stride_bytes) {
  const size_t tiles = kRowBlockBytes / stride_bytes / kTallRows;
  return kTallRows * (tiles < 1 ? 1 : tiles > kMostTallTiles ? kMostTallTiles : tiles);
}

void linear_on_tiles(const LinearJob& job, size_t first, size_t last) {
  if (job.x.operand != Operand::BF16X32 || job.x.rows <= kFewRows) {
    linear(job, first, last);
    return;
  }
  const LeafPlan plan = plan_leaves(*job.weight);
  BlockSums sums;
  Tiles tiles;
  PairOnTiles pair(job, plan, tiles, sums);
  const size_t step = block_rows(job.x.stride_bytes);
  for (size_t row = 0; row < job.x.rows; row += step) {
    const RowRange rows = {row, row + step < job.x.rows ? row + step : job.x.rows};
    for (size_t panel = first; panel < last; panel += 2) pair.run(rows, panel, last);
  }
}

}  // namespace
}  // namespace rill
