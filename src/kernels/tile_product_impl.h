// SPDX-License-Identifier: Apache-2.0
// Products of 32 rows and two panels on AMX's tiles, over a piece of k: bf16x32 in the order of §8,
// and int8 activations with int8 or int4 weights. Included by tile_linear_impl.h.
#pragma once
#include "kernels/product_impl.h"

namespace rill {
namespace {

constexpr size_t kTallRows = 2 * kTileRows;
constexpr size_t kPairWidth = 2 * kPanel;
constexpr size_t kRun = 32;  // inputs of a tile: 64 bytes of bf16, or a block of int8

// A panel or two, and two more that are to come as near as the second-level cache (null: none).
struct PanelPair {
  size_t panels;
  const char *left, *right;  // the same where there is one
  const char *next_left, *next_right;
};

// A tall tile's part of a pair's products: inputs [k, k + depth) of the rows from `x` on.
struct TallTile {
  const char* x;
  size_t x_stride, x_depth;
  size_t rows;  // up to kTallRows
  size_t k, depth;
  float* sums;                      // [rows][kPairWidth]
  bool go_on;                       // from what `sums` hold, else from +0
  size_t ahead_first, ahead_lines;  // of each run of the next pair, 2 kRunLines: asked for
};

// Heights of the two halves of a tall tile.
constexpr size_t upper_rows(size_t rows) {
  return rows < kTileRows ? rows : kTileRows;
}
constexpr size_t lower_rows(size_t rows) {
  return rows - upper_rows(rows);
}

// Asks for a tall tile's share of the next pair's run that begins `offset` bytes into its panels.
template <class Product>
RILL_INLINE void ask_for_next(const PanelPair& pair, const TallTile& t, size_t offset) {
  for (size_t i = t.ahead_first; i < t.ahead_first + t.ahead_lines; ++i) {
    const bool left = i < Product::kRunLines;
    const char* panel = left ? pair.next_left : pair.next_right;
    __builtin_prefetch(panel + offset + (left ? i : i - Product::kRunLines) * 64, 0, 2);
  }
}

// The tile registers of a tall tile and a pair of panels, a run of inputs of kBytes each at a time.
// 0 to 3 hold sums: 0 and 1 of the upper rows with the left and the right panel, 2 and 3 of the
// lower rows. 4 and 5 hold the upper and the lower rows of activations, 6 and 7 the weights of the
// left and the right panel.
template <size_t kBytes>
class TallTiles {
 public:
  // For so many rows.
  void configure(size_t rows) {
    if (rows == rows_) return;
    rows_ = rows;
    constexpr size_t kRunRow = kRun * kBytes;  // of activations; weights stand in groups of 4 bytes
    TileConfig config;
    const size_t halves[] = {upper_rows(rows), lower_rows(rows)};
    for (size_t half = 0; half < 2; ++half) {
      config.set(2 * half, halves[half]), config.set(2 * half + 1, halves[half]);
      config.set(4 + half, halves[half], kRunRow);
      config.set(6 + half, kRunRow / 4);
    }
    tiles_.configure(config);
  }

 private:
  Tiles tiles_;
  size_t rows_ = 0;
};

// bf16x32.
class Bf16OnTiles {
 public:
  // Inputs of two panels that stay in the first-level cache (16 KiB) while all rows meet them.
  static constexpr size_t kDepthBlock = 256;
  static constexpr size_t kRunBytes = panel_bytes(Format::BF16, kRun), kRunLines = kRunBytes / 64;

  void begin(const PanelPair&, size_t, size_t) {}

  void multiply(const PanelPair& pair, const TallTile& t) {
    tiles_.configure(t.rows);
    (t.rows > kTileRows ? multiply_runs<true> : multiply_runs<false>)(pair, t);
  }

 private:
  // kTwo: there are lower rows.
  template <bool kTwo>
  static void multiply_runs(const PanelPair& pair, const TallTile& t) {
    constexpr size_t kStride = kPairWidth * sizeof(float);
    float* const lower = t.sums + kTileRows * kPairWidth;
    if (t.go_on) {
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
      if (pair.next_left) ask_for_next<Bf16OnTiles>(pair, t, offset);
    }
    store_tile<0>(t.sums, kStride), store_tile<1>(t.sums + kPanel, kStride);
    if constexpr (kTwo) store_tile<2>(lower, kStride), store_tile<3>(lower + kPanel, kStride);
  }

  TallTiles<sizeof(uint16_t)> tiles_;
};

// int8 and int4 weights against int8 activations: the exact int32 dot products of some blocks of 32
// on tiles, then the fma of each in registers, which read them from the first-level cache. (A tile
// adds up to 64 inputs, but two blocks have two scales.)
template <Format kFormat>
class IntOnTiles {
 public:
  static constexpr size_t kDepthBlock = 256;
  static constexpr size_t kRunBytes = panel_bytes(kFormat, kRun), kRunLines = (kRunBytes + 63) / 64;

  // Unpacks the piece: codes as signed bytes, scales as floats, once for all rows.
  void begin(const PanelPair& pair, size_t k, size_t depth) {
    for (size_t p = 0; p < 2; ++p) {
      const char* block = (p ? pair.right : pair.left) + k / kRun * kRunBytes;
      for (size_t i = 0; i < depth / kRun; ++i, block += kRunBytes) {
        store(scales_[i][p], load_f16(block));
        unpack(block + 2 * kPanel, codes_[i][p]);
      }
    }
  }

  void multiply(const PanelPair& pair, const TallTile& t) {
    tiles_.configure(t.rows);
    const size_t blocks = t.depth / kRun;
    for (size_t first = 0; first < blocks; first += kAtOnce) {
      const size_t count = blocks - first < kAtOnce ? blocks - first : kAtOnce;
      for (size_t i = 0; i < count; ++i) {
        t.rows > kTileRows ? dot<true>(t, first + i, dots_[i]) : dot<false>(t, first + i, dots_[i]);
        if (pair.next_left) ask_for_next<IntOnTiles>(pair, t, (t.k / kRun + first + i) * kRunBytes);
      }
      for (size_t row = 0; row < t.rows; row += kGroup)
        kAdd.rows[t.rows - row < kGroup ? t.rows - row : kGroup](*this, t, row, first, count);
    }
  }

 private:
  static constexpr size_t kBlocks = kDepthBlock / kRun, kBlockCodes = kRun * kPanel;
  static constexpr size_t kAtOnce = 4;  // blocks: 16 KiB of dot products
  static constexpr size_t kGroup = 8;   // rows whose sums stay in registers

  static RILL_INLINE void unpack(const char* from, char* codes) {
    if constexpr (kFormat == Format::INT8) {
      for (size_t i = 0; i < kBlockCodes; i += 64) store_signed_u8(codes + i, from + i);
    } else {
      for (size_t i = 0; i < kBlockCodes / 2; i += 64)
        store_signed_u4(codes + i, codes + kBlockCodes / 2 + i, from + i);
    }
  }

  // The dot products of the piece's block i. kTwo: there are lower rows.
  template <bool kTwo>
  RILL_INLINE void dot(const TallTile& t, size_t i, int32_t* dots) const {
    constexpr size_t kStride = kPairWidth * sizeof(int32_t);
    const char* x = t.x + t.k * sizeof(Code) + i * kRun;
    load_tile<4>(x, t.x_stride);
    load_tile<6>(codes_[i][0], kTileRowBytes);
    zero_tile<0>();
    dot_int8_tiles<0, 4, 6>();
    store_tile<0>(dots, kStride);
    load_tile<7>(codes_[i][1], kTileRowBytes);
    zero_tile<1>();
    dot_int8_tiles<1, 4, 7>();
    store_tile<1>(dots + kPanel, kStride);
    if constexpr (kTwo) {
      dots += kTileRows * kPairWidth;
      load_tile<5>(x + kTileRows * t.x_stride, t.x_stride);
      zero_tile<2>();
      dot_int8_tiles<2, 5, 6>();
      store_tile<2>(dots, kStride);
      zero_tile<3>();
      dot_int8_tiles<3, 5, 7>();
      store_tile<3>(dots + kPanel, kStride);
    }
  }

  // Adds `count` blocks of the piece, from `first` on, to the sums of R rows from `row` on.
  template <int R>
  static void add_blocks(const IntOnTiles& self, const TallTile& t, size_t row, size_t first,
                         size_t count) {
    const char* scales =
        t.x + row * t.x_stride + scales_offset(t.x_depth) + (t.k / kRun + first) * sizeof(float);
    float* const sums = t.sums + row * kPairWidth;
    V acc[R][2];
    if (t.go_on || first > 0)
      load_tile(acc, sums, kPairWidth);
    else
      clear(acc);
    for (size_t i = 0; i < count; ++i, scales += sizeof(float)) {
      const int32_t* dots = self.dots_[i] + row * kPairWidth;
      const V scale_w[] = {load(self.scales_[first + i][0]), load(self.scales_[first + i][1])};
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
        const V scale_x =
            splat(*reinterpret_cast<const float*>(scales + static_cast<size_t>(r) * t.x_stride));
#pragma GCC unroll 2
        for (int p = 0; p < 2; ++p) {
          const V dot = to_float(dots + static_cast<size_t>(r) * kPairWidth +
                                 static_cast<size_t>(p) * kPanel);
          acc[r][p] = fma(mul(scale_w[p], scale_x), dot, acc[r][p]);
        }
      }
    }
    store_tile(acc, sums, kPairWidth);
  }

  // By number of rows.
  struct Functions {
    void (*rows[kGroup + 1])(const IntOnTiles& self, const TallTile& t, size_t row, size_t first,
                             size_t count);
  };
  template <int R = static_cast<int>(kGroup)>
  static constexpr void fill(Functions& functions) {
    if constexpr (R > 0) {
      functions.rows[R] = add_blocks<R>;
      fill<R - 1>(functions);
    }
  }
  static constexpr Functions functions() {
    Functions functions{};
    fill(functions);
    return functions;
  }
  static constexpr Functions kAdd = functions();

  TallTiles<sizeof(Code)> tiles_;
  alignas(64) char codes_[kBlocks][2][kBlockCodes];
  alignas(64) float scales_[kBlocks][2][kPanel];
  alignas(64) int32_t dots_[kAtOnce][kTallRows * kPairWidth];
};

}  // namespace
}  // namespace rill
