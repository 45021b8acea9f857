// SPDX-License-Identifier: Apache-2.0
// Linear layers on AMX's tiles: the walk of 32 rows at a time over pairs of panels, whatever the
// product of a run of 32 inputs is (tile_product_impl.h). A few rows, bound by memory, are left to
// linear_impl.h. Included after that.
#pragma once
#include "kernels/linear_impl.h"
#include "kernels/tile_product_impl.h"

namespace rill {
namespace {

// Up to which registers do as well.
constexpr size_t few_rows(Operand operand) {
  return operand == Operand::Q8 ? 7 : 4;
}
constexpr size_t kMostTallTiles = 8;  // of a block of rows
// The activations of a block stay in the second-level cache for all panels.
constexpr size_t kRowBlockBytes = size_t{1280} << 10;

// Sums of a block of rows, [rows][kPairWidth]: what is being added up, and the left sides of the
// tree of leaves.
struct BlockSums {
  alignas(64) float final[kMostTallTiles * kTallRows * kPairWidth];
  alignas(64) float level[kFinal][kMostTallTiles * kTallRows * kPairWidth];

  float* of(size_t out) { return out == kFinal ? final : level[out]; }
};

// A block of rows of a job, and the pair of panels from `panel` on (or one panel).
template <class Product>
class PairOnTiles {
 public:
  PairOnTiles(const LinearJob& job, const LeafPlan& plan, Product& product, BlockSums& sums)
      : job_(job),
        plan_(plan),
        product_(product),
        sums_(sums),
        panel_bytes_(panel_bytes(job.weight->format, job.weight->depth)) {}

  void run(RowRange rows, size_t panel, size_t last) {
    const char* w = reinterpret_cast<const char*>(job_.weight->data) + panel * panel_bytes_;
    panel_ = panel;
    pair_ = {last - panel < 2 ? size_t{1} : size_t{2}, w, w, nullptr, nullptr};
    if (pair_.panels == 2) pair_.right += panel_bytes_;
    if (panel + 3 < last)
      pair_.next_left = w + 2 * panel_bytes_, pair_.next_right = w + 3 * panel_bytes_;
    for (size_t s = 0; s < plan_.steps; ++s) {
      const LeafStep& step = plan_.step[s];
      for (size_t k = step.k_begin; k < step.k_end; k += Product::kDepthBlock) {
        const size_t left = step.k_end - k;
        const bool closes = left <= Product::kDepthBlock;
        run_rows(rows, step, {k, closes ? left : Product::kDepthBlock}, closes);
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
    product_.begin(pair_, depth.k, depth.count);
    for (size_t i = 0; i < count; ++i) {
      const size_t begin = rows.begin + i * kTallRows;
      const RowRange tile_rows = {begin,
                                  begin + kTallRows < rows.end ? begin + kTallRows : rows.end};
      const bool final = closes && step.out == kFinal;
      if (final)
        for (size_t p = 0; p < pair_.panels; ++p) expect_panel(job_, tile_rows, panel_ + p);
      TallTile t{};
      t.x = reinterpret_cast<const char*>(job_.x.data) + begin * job_.x.stride_bytes;
      t.x_stride = job_.x.stride_bytes;
      t.x_depth = job_.x.depth;
      t.rows = tile_rows.end - begin;
      t.k = depth.k;
      t.depth = depth.count;
      t.sums = sums_.of(step.out) + i * kTallRows * kPairWidth;
      t.go_on = depth.k > step.k_begin;
      t.ahead_first = 2 * Product::kRunLines * i / count;
      t.ahead_lines = 2 * Product::kRunLines * (i + 1) / count - t.ahead_first;
      product_.multiply(pair_, t);
      if (!closes) continue;
      add_left_sides(step, i, t.rows);
      if (final) finish(tile_rows, t.sums);
    }
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
    for (size_t p = 0; p < pair_.panels; ++p)
      finish_panel(job_, rows, panel_ + p, sums + p * kPanel, nullptr, kPairWidth);
  }

  const LinearJob& job_;
  const LeafPlan& plan_;
  Product& product_;
  BlockSums& sums_;
  const size_t panel_bytes_;
  size_t panel_ = 0;
  PanelPair pair_{};
};

// Rows whose activations stay in the second-level cache.
size_t block_rows(size_t stride_bytes) {
  const size_t tiles = kRowBlockBytes / stride_bytes / kTallRows;
  return kTallRows * (tiles < 1 ? 1 : tiles > kMostTallTiles ? kMostTallTiles : tiles);
}

template <class Product>
void multiply_on_tiles(const LinearJob& job, size_t first, size_t last) {
  const LeafPlan plan = plan_leaves(*job.weight);
  BlockSums sums;
  Product product;
  PairOnTiles<Product> pair(job, plan, product, sums);
  const size_t step = block_rows(job.x.stride_bytes);
  for (size_t row = 0; row < job.x.rows; row += step) {
    const RowRange rows = {row, row + step < job.x.rows ? row + step : job.x.rows};
    for (size_t panel = first; panel < last; panel += 2) pair.run(rows, panel, last);
  }
}

void linear_on_tiles(const LinearJob& job, size_t first, size_t last) {
  const Format format = job.weight->format;
  if (job.x.rows <= few_rows(job.x.operand))
    linear(job, first, last);
  else if (job.x.operand == Operand::BF16X32)
    multiply_on_tiles<Bf16OnTiles>(job, first, last);
  else if (job.x.operand == Operand::Q8)
    (format == Format::INT8 ? multiply_on_tiles<IntOnTiles<Format::INT8>>
                            : multiply_on_tiles<IntOnTiles<Format::INT4>>)(job, first, last);
  else
    linear(job, first, last);
}

}  // namespace
}  // namespace rill
