// SPDX-License-Identifier: Apache-2.0
// Linear layers of many rows with fp32 activations. A piece of a few panels, small enough to stay
// in the L2 cache, is widened to fp32 by the first of many tiles of rows, so that the loops of the
// others hold nothing but multiplications. Between pieces the accumulators go through memory, which
// changes no bit.
// Included after linear_impl.h.
#pragma once
#include "kernels/linear_impl.h"

namespace rill {
namespace {

// Rows and panels (an even number: gate and up) of a tile: 24 accumulators, four weights and an
// activation, so for sets of 32 registers.
constexpr int kBlockRows = 6, kBlockPanels = 4;
constexpr size_t kBlockRow = kBlockPanels * kPanel;  // outputs side by side in a tile
constexpr size_t kBlockTiles = 32;                   // that share a widened piece, at most
// Of k in a piece: 128 KiB. The longer, the fewer times sums go to memory and back; 128 of k, which
// the L1 cache holds, are 3 to 5 % slower on a Xeon with 2 MiB of L2.
constexpr size_t kMostPiece = 512;

}  // namespace

// Where a tile's sums are: [rows][kBlockRow] each.
struct BlockJob {
  const float* x;      // row 0, first k of the piece
  size_t x_stride;     // floats from row to row
  float* piece;        // [count][kBlockRow]
  const char* panels;  // kBlockPanels of them, from the first k of the piece on
  size_t panel_stride;
  const char *ahead, *ahead_end;  // cache lines that are asked for meanwhile
  size_t count;                   // even
  float* out;
  bool accumulate;  // go on from what `out` holds, else from +0
  size_t addends;   // as in ProductJob
  const float* addend[3];
};
using BlockFunction = void (*)(const BlockJob& job);

// By number of rows, 1 to kBlockRows: of the first tile of a piece, and of the others.
struct BlockFunctions {
  BlockFunction first[kBlockRows + 1], others[kBlockRows + 1];
};

namespace {

// Where a tile's weights come from: the piece, widened already, or the panels, of which the first
// tile of a piece makes it.
struct FromPiece {
  template <bool kOdd>
  static RILL_INLINE V at(const BlockJob& job, size_t k, size_t p) {
    return load(job.piece + (k + kOdd) * kBlockRow + p * kPanel);
  }
};
template <Format kFormat>
struct FromPanels {
  template <bool kOdd>
  static RILL_INLINE V at(const BlockJob& job, size_t k, size_t p) {
    const V w = widened<kOdd>(job.panels + p * job.panel_stride, k);
    store(job.piece + (k + kOdd) * kBlockRow + p * kPanel, w);
    return w;
  }

 private:
  template <bool kOdd>
  static RILL_INLINE V widened(const char* panel, size_t k) {
    if constexpr (kFormat == Format::BF16)
      return LoadPairs::at<kOdd>(panel + k / 2 * LoadPairs::kBytes);
    else if constexpr (kFormat == Format::F16)
      return LoadF16::at(panel + (k + kOdd) * LoadF16::kBytes);
    else
      return LoadF32::at(panel + (k + kOdd) * LoadF32::kBytes);
  }
};

template <class Weights, bool kOdd, int R>
RILL_INLINE void block_step(const BlockJob& job, const float* const (&x)[R], size_t k,
                            V (&acc)[R][kBlockPanels]) {
  V w[kBlockPanels];
#pragma GCC unroll 16
  for (size_t p = 0; p < kBlockPanels; ++p) w[p] = Weights::template at<kOdd>(job, k, p);
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
    const V a = splat(x[r][k + kOdd]);
#pragma GCC unroll 16
    for (size_t p = 0; p < kBlockPanels; ++p) acc[r][p] = fma(w[p], a, acc[r][p]);
  }
}

template <class Weights, bool kOddFirst, int R>
void block_tile(const BlockJob& job) {
  V acc[R][kBlockPanels];
  const float* x[R];
  const auto each = [&](const auto& f) RILL_INLINE_LAMBDA {
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
      for (int p = 0; p < kBlockPanels; ++p)
        f(acc[r][p], static_cast<size_t>(r) * kBlockRow + static_cast<size_t>(p) * kPanel);
  };
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) x[r] = job.x + static_cast<size_t>(r) * job.x_stride;
  if (job.accumulate)
    each([&](V& sum, size_t at) RILL_INLINE_LAMBDA { sum = load(job.out + at); });
  else
    each([&](V& sum, size_t) RILL_INLINE_LAMBDA { sum = zero(); });
  const char* ahead = job.ahead;
  for (size_t k = 0; k < job.count; k += 2) {
    if (ahead != job.ahead_end) {
      __builtin_prefetch(ahead, 0, 2);
      ahead += 64;
    }
    block_step<Weights, kOddFirst>(job, x, k, acc);
    block_step<Weights, !kOddFirst>(job, x, k, acc);
  }
  for (size_t i = 0; i < job.addends; ++i)
    each([&](V& sum, size_t at) RILL_INLINE_LAMBDA { sum = add(load(job.addend[i] + at), sum); });
  each([&](V& sum, size_t at) RILL_INLINE_LAMBDA { store(job.out + at, sum); });
}

template <Format kFormat, bool kOddFirst, int R = kBlockRows>
constexpr void fill_blocks(BlockFunctions& functions) {
  if constexpr (R > 0) {
    functions.first[R] = block_tile<FromPanels<kFormat>, kOddFirst, R>;
    functions.others[R] = block_tile<FromPiece, kOddFirst, R>;
    fill_blocks<kFormat, kOddFirst, R - 1>(functions);
  }
}
template <Format kFormat, bool kOddFirst>
constexpr BlockFunctions block_functions() {
  BlockFunctions functions{};
  fill_blocks<kFormat, kOddFirst>(functions);
  return functions;
}

}  // namespace

RILL_FLOATS(BlockFunctions, kBlockF32, block_functions<Format::F32, false>())
RILL_FLOATS(BlockFunctions, kBlockF16, block_functions<Format::F16, false>())
RILL_FLOATS(BlockFunctions, kBlockAscending, block_functions<Format::BF16, false>())
RILL_FLOATS(BlockFunctions, kBlockOddFirst, block_functions<Format::BF16, true>())

namespace {

inline const BlockFunctions& block_functions(Format format, Operand operand) {
  if (format == Format::F32) return kBlockF32;
  if (format == Format::F16) return kBlockF16;
  return operand == Operand::BF16 ? kBlockOddFirst : kBlockAscending;
}

// The widened piece, and the sums of tiles before their epilogue with the left sides of the tree of
// leaves.
struct BlockScratch {
  alignas(64) float piece[kMostPiece * kBlockRow];
  alignas(64) float final[kBlockTiles][kBlockRows * kBlockRow];
  alignas(64) float level[kFinal][kBlockTiles][kBlockRows * kBlockRow];

  float* sums(size_t out, size_t tile) { return out == kFinal ? final[tile] : level[out][tile]; }
};

// How much of k is widened at once: an eighth of the L2 cache.
size_t piece_depth() {
  const size_t fit = level2_bytes() / 8 / (kBlockRow * sizeof(float)) / kDepthUnit * kDepthUnit;
  return fit < kDepthUnit ? kDepthUnit : fit < kMostPiece ? fit : kMostPiece;
}

// Rows of a group: their activations stay in most of the L2 cache while all panels pass.
size_t group_rows(size_t row_bytes) {
  const size_t most = static_cast<size_t>(kBlockRows) * kBlockTiles;
  const size_t fit = level2_bytes() * 3 / 4 / row_bytes;
  const size_t least = static_cast<size_t>(kBlockRows) * 4;
  return fit < least ? least : fit < most ? fit : most;
}

// A group of rows of a job, in tiles of nearly equal height.
class BlockGroup {
 public:
  BlockGroup(const LinearJob& job, const LeafPlan& plan, RowRange rows, BlockScratch& scratch)
      : job_(job),
        weight_(*job.weight),
        plan_(plan),
        functions_(block_functions(weight_.format, job.x.operand)),
        rows_(rows),
        tiles_((rows.end - rows.begin + kBlockRows - 1) / kBlockRows),
        depth_(piece_depth()),
        scratch_(scratch) {}

  // Multiplies the rows with kBlockPanels panels from `panel` on.
  void run(size_t panel) {
    for (size_t s = 0; s < plan_.steps; ++s) run_leaf(panel, plan_.step[s]);
    const bool pairs = job_.epilogue == Epilogue::SILU_MUL;
    for (size_t t = 0; t < tiles_; ++t)
      for (size_t p = 0; p < kBlockPanels; p += pairs ? 2 : 1) {
        const float* sum = scratch_.final[t] + p * kPanel;
        finish_panel(job_, tile(t), panel + p, sum, pairs ? sum + kPanel : nullptr, kBlockRow);
      }
  }

 private:
  RowRange tile(size_t i) const {
    const size_t n = rows_.end - rows_.begin;
    return {rows_.begin + n * i / tiles_, rows_.begin + n * (i + 1) / tiles_};
  }

  void run_leaf(size_t panel, const LeafStep& step) {
    BlockJob block{};
    block.x_stride = job_.x.stride_bytes / sizeof(float);
    block.piece = scratch_.piece;
    block.panel_stride = panel_bytes(weight_.format, weight_.depth);
    const char* const panels =
        reinterpret_cast<const char*>(weight_.data) + panel * block.panel_stride;
    for (size_t k = step.k_begin; k < step.k_end; k += block.count) {
      const size_t rest = step.k_end - k;
      block.count = rest < depth_ ? rest : depth_;
      block.accumulate = k != step.k_begin;
      block.addends = block.count == rest ? step.addends : 0;
      block.panels = panels + panel_bytes(weight_.format, k);
      for (size_t t = 0; t < tiles_; ++t) {
        const RowRange rows = tile(t);
        block.x =
            reinterpret_cast<const float*>(job_.x.data + rows.begin * job_.x.stride_bytes) + k;
        block.out = scratch_.sums(step.out, t);
        for (size_t i = 0; i < block.addends; ++i)
          block.addend[i] = scratch_.level[step.addend[i]][t];
        expect_piece(panel, k + block.count, t, block);
        if (k + block.count == weight_.depth)
          for (size_t p = 0; p < kBlockPanels; p += job_.epilogue == Epilogue::SILU_MUL ? 2 : 1)
            expect_panel(job_, rows, panel + p);
        (t == 0 ? functions_.first : functions_.others)[rows.end - rows.begin](block);
      }
    }
  }

  // Tile `t` asks for a part of what is widened next: the k that follow, or the next panels.
  RILL_INLINE void expect_piece(size_t panel, size_t k, size_t t, BlockJob& block) const {
    const size_t shares = tiles_ / kBlockPanels;
    block.ahead = block.ahead_end = nullptr;
    if (t >= shares * kBlockPanels) return;
    if (k == weight_.depth) {
      panel += kBlockPanels;
      k = 0;
    }
    const size_t rest = weight_.depth - k;
    const size_t lines = panel_bytes(weight_.format, rest < depth_ ? rest : depth_) / 64;
    const char* w = reinterpret_cast<const char*>(weight_.data) +
                    (panel + t % kBlockPanels) * block.panel_stride +
                    panel_bytes(weight_.format, k);
    t /= kBlockPanels;
    block.ahead = w + lines * t / shares * 64;
    block.ahead_end = w + lines * (t + 1) / shares * 64;
  }

  const LinearJob& job_;
  const PackedMatrix& weight_;
  const LeafPlan& plan_;
  const BlockFunctions& functions_;
  const RowRange rows_;
  const size_t tiles_, depth_;
  BlockScratch& scratch_;
};

// Multiplies all rows with panels from `first` on, as far as they are whole blocks; returns the
// first panel that is left.
size_t linear_in_blocks(const LinearJob& job, size_t first, size_t last) {
  const LeafPlan plan = plan_leaves(*job.weight);
  const size_t most = group_rows(job.x.stride_bytes);
  const size_t groups = (job.x.rows + most - 1) / most;
  const size_t end = first + (last - first) / kBlockPanels * kBlockPanels;
  BlockScratch scratch;
  for (size_t g = 0; g < groups; ++g) {
    BlockGroup group(job, plan, {job.x.rows * g / groups, job.x.rows * (g + 1) / groups}, scratch);
    for (size_t panel = first; panel < end; panel += kBlockPanels) group.run(panel);
  }
  return end;
}

}  // namespace
}  // namespace rill
