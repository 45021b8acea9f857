// SPDX-License-Identifier: Apache-2.0
// Linear layers of many rows with fp32 activations. A piece of a few panels, small enough to stay
// in the L1 cache, is widened to fp32 once for many tiles of rows, so that their loops hold nothing
// but multiplications. Between pieces the accumulators go through memory, which changes no bit.
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
constexpr size_t kMostPiece = (size_t{32} << 10) / (kBlockRow * sizeof(float));  // of k

// Where a tile's sums are: [rows][kBlockRow] each.
struct BlockJob {
  const float* x;   // row 0, first k of the piece
  size_t x_stride;  // floats from row to row
  const float* w;   // [count][kBlockRow]
  size_t count;     // even
  float* out;
  bool accumulate;  // go on from what `out` holds, else from +0
  size_t addends;   // as in ProductJob
  const float* addend[3];
};
using BlockFunction = void (*)(const BlockJob& job);

template <int R>
RILL_INLINE void block_step(const float* const (&x)[R], size_t k, const float* w,
                            V (&acc)[R][kBlockPanels]) {
  V b[kBlockPanels];
#pragma GCC unroll 16
  for (int p = 0; p < kBlockPanels; ++p) b[p] = load(w + static_cast<size_t>(p) * kPanel);
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
    const V a = splat(x[r][k]);
#pragma GCC unroll 16
    for (int p = 0; p < kBlockPanels; ++p) acc[r][p] = fma(b[p], a, acc[r][p]);
  }
}

template <bool kOddFirst, int R>
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
  const float* w = job.w;
  for (size_t k = 0; k < job.count; k += 2, w += 2 * kBlockRow) {
    block_step<R>(x, k + kOddFirst, w + kOddFirst * kBlockRow, acc);
    block_step<R>(x, k + !kOddFirst, w + !kOddFirst * kBlockRow, acc);
  }
  for (size_t i = 0; i < job.addends; ++i)
    each([&](V& sum, size_t at) RILL_INLINE_LAMBDA { sum = add(load(job.addend[i] + at), sum); });
  each([&](V& sum, size_t at) RILL_INLINE_LAMBDA { store(job.out + at, sum); });
}

// By number of rows, 1 to kBlockRows.
struct BlockFunctions {
  BlockFunction rows[kBlockRows + 1];
};
template <bool kOddFirst, int R = kBlockRows>
constexpr void fill_blocks(BlockFunctions& functions) {
  if constexpr (R > 0) {
    functions.rows[R] = block_tile<kOddFirst, R>;
    fill_blocks<kOddFirst, R - 1>(functions);
  }
}
template <bool kOddFirst>
constexpr BlockFunctions block_functions() {
  BlockFunctions functions{};
  fill_blocks<kOddFirst>(functions);
  return functions;
}
constexpr BlockFunctions kBlockAscending = block_functions<false>();
constexpr BlockFunctions kBlockOddFirst = block_functions<true>();

// The widened piece, and the sums of tiles before their epilogue with the left sides of the tree of
// leaves.
struct BlockScratch {
  alignas(64) float piece[kMostPiece * kBlockRow];
  alignas(64) float final[kBlockTiles][kBlockRows * kBlockRow];
  alignas(64) float level[kFinal][kBlockTiles][kBlockRows * kBlockRow];

  float* sums(size_t out, size_t tile) { return out == kFinal ? final[tile] : level[out][tile]; }
};

// k in [begin, begin + count) of kBlockPanels panels from `panel` on, as [count][kBlockRow].
void widen_piece(const PackedMatrix& weight, size_t panel, size_t begin, size_t count, float* out) {
  const size_t stride = panel_bytes(weight.format, weight.depth);
  const char* w = reinterpret_cast<const char*>(weight.data) + panel * stride +
                  panel_bytes(weight.format, begin);
  for (size_t p = 0; p < kBlockPanels; ++p, w += stride, out += kPanel) {
    if (weight.format == Format::BF16) {
      for (size_t k = 0; k < count; k += 2) {
        store(out + k * kBlockRow, widen_even(w + k * 32));
        store(out + (k + 1) * kBlockRow, widen_odd(w + k * 32));
      }
    } else if (weight.format == Format::F16) {
      for (size_t k = 0; k < count; ++k) store(out + k * kBlockRow, load_f16(w + k * 32));
    } else {
      for (size_t k = 0; k < count; ++k)
        store(out + k * kBlockRow, load(reinterpret_cast<const float*>(w + k * 64)));
    }
  }
}

// How much of k is widened at once: it fills two thirds of the L1 cache, the rows take the rest.
size_t piece_depth() {
  const size_t floats = level1_bytes() / 3 * 2 / sizeof(float);
  const size_t k = floats / kBlockRow / kDepthUnit * kDepthUnit;
  return k < kDepthUnit ? kDepthUnit : k > kMostPiece ? kMostPiece : k;
}

// Rows of a group: their activations stay in half of the L2 cache while all panels pass.
size_t group_rows(size_t row_bytes) {
  const size_t most = static_cast<size_t>(kBlockRows) * kBlockTiles;
  const size_t fit = level2_bytes() / 2 / row_bytes;
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
        functions_(weight_.format == Format::BF16 && job.x.operand == Operand::BF16
                       ? kBlockOddFirst
                       : kBlockAscending),
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
    block.w = scratch_.piece;
    for (size_t k = step.k_begin; k < step.k_end; k += block.count) {
      const size_t rest = step.k_end - k;
      block.count = rest < depth_ ? rest : depth_;
      block.accumulate = k != step.k_begin;
      block.addends = block.count == rest ? step.addends : 0;
      widen_piece(weight_, panel, k, block.count, scratch_.piece);
      for (size_t t = 0; t < tiles_; ++t) {
        const RowRange rows = tile(t);
        block.x =
            reinterpret_cast<const float*>(job_.x.data + rows.begin * job_.x.stride_bytes) + k;
        block.out = scratch_.sums(step.out, t);
        for (size_t i = 0; i < block.addends; ++i)
          block.addend[i] = scratch_.level[step.addend[i]][t];
        expect_piece(panel, k + block.count, t);
        if (k + block.count == weight_.depth)
          for (size_t p = 0; p < kBlockPanels; p += job_.epilogue == Epilogue::SILU_MUL ? 2 : 1)
            expect_panel(job_, rows, panel + p);
        functions_.rows[rows.end - rows.begin](block);
      }
    }
  }

  // Asks for the part of tile `t` of what is widened next: the k that follow, or the next panels.
  RILL_INLINE void expect_piece(size_t panel, size_t k, size_t t) const {
    const size_t stride = panel_bytes(weight_.format, weight_.depth);
    if (k == weight_.depth) {
      panel += kBlockPanels;
      k = 0;
    }
    const size_t rest = weight_.depth - k;
    const size_t bytes = panel_bytes(weight_.format, rest < depth_ ? rest : depth_);
    const char* w = reinterpret_cast<const char*>(weight_.data) + panel * stride +
                    panel_bytes(weight_.format, k);
    for (size_t p = 0; p < kBlockPanels; ++p, w += stride)
      for (size_t at = bytes * t / tiles_ / 64 * 64; at < bytes * (t + 1) / tiles_; at += 64)
        __builtin_prefetch(w + at, 0, 2);
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
