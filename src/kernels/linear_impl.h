// SPDX-License-Identifier: Apache-2.0
// Linear layers on packed panels: leaves, epilogues, and the walk over panels and rows.
// Included after pointwise_impl.h.
#pragma once
#include "kernels/pointwise_impl.h"
#include "kernels/reading.h"

namespace rill {
namespace {

constexpr size_t kMostStreams = 4;     // of weights that a thread reads side by side
constexpr size_t kUnaidedStreams = 2;  // of them, for kUnaidedRows or fewer
constexpr size_t kTileFloats = kMostRows * 2 * kMostStreams * kPanel;  // twice: gate and up
constexpr size_t kBytesAhead = 8192;  // asked for ahead of use, over all streams of a thread

// The sum over leaves ((0+1)+(2+3)) + ((4+5)+(6+7)), an empty leaf being the identity, as the steps
// of one tile: each sums a leaf, adds the sums that `addend` names, and keeps the result as `out`.
struct LeafStep {
  size_t k_begin, k_end;
  size_t addends, addend[3];  // levels of the tree whose left sides wait there
  size_t out;                 // a level, or kFinal
};
constexpr size_t kFinal = 3;
struct LeafPlan {
  LeafStep step[kLeaves];
  size_t steps;
};

LeafPlan plan_leaves(const PackedMatrix& weight) {
  LeafPlan plan{};
  if (weight.leaves == 1) {
    plan.step[plan.steps++] = {0, weight.depth, 0, {}, kFinal};
    return plan;
  }
  const auto live = [&](size_t first, size_t last) {
    return weight.leaf[first] < weight.leaf[last];
  };
  for (size_t leaf = 0; leaf < kLeaves; ++leaf) {
    if (!live(leaf, leaf + 1)) continue;
    LeafStep step{weight.leaf[leaf], weight.leaf[leaf + 1], 0, {}, kFinal};
    for (size_t level = 0; level < kFinal && step.out == kFinal; ++level) {
      // The leaf is the last live one of its subtree of `half` leaves: it closes a right side, and
      // a left side waits for the right one if that has a live leaf.
      const size_t half = size_t{1} << level, first = leaf / (2 * half) * (2 * half);
      const bool right = leaf & half;
      if (right && live(first, first + half)) step.addend[step.addends++] = level;
      if (!right && live(first + half, first + 2 * half)) step.out = level;
    }
    plan.step[plan.steps++] = step;
  }
  return plan;
}

// The results of a tile before their epilogue, and the left sides of the tree of leaves.
struct TileSums {
  alignas(64) float final[kTileFloats];
  alignas(64) float level[kFinal][kTileFloats];
};

// The job is changed in place: a copy would read whole lines that were written in parts just now,
// which waits for all stores before.
void sum_leaves(ProductFunction function, const LeafPlan& plan, ProductJob& job, TileSums& sums,
                size_t column) {
  for (size_t s = 0; s < plan.steps; ++s) {
    const LeafStep& step = plan.step[s];
    job.k_begin = step.k_begin;
    job.k_end = step.k_end;
    job.addends = step.addends;
    for (size_t i = 0; i < step.addends; ++i) job.addend[i] = sums.level[step.addend[i]] + column;
    job.out = (step.out == kFinal ? sums.final : sums.level[step.out]) + column;
    function(job);
  }
}

// From so many rows on it pays to widen panels to fp32 beforehand, if that is what is multiplied
// and there are registers for the larger tile.
constexpr size_t kLeastBlockRows = 32;
constexpr bool goes_in_blocks(const Activations& x) {
  const bool f32 = x.operand == Operand::F32 || (x.operand == Operand::BF16 && !kBf16Dot);
  return f32 && kRegisters >= 32 && x.rows >= kLeastBlockRows;
}

// The rows of a tile.
struct RowRange {
  size_t begin, end;
};

// Sixteen outputs of a tile to their place in y; `sum` is [rows][stride], gates where `up` stands.
void finish_panel(const LinearJob& job, RowRange rows, size_t panel, const float* sum,
                  const float* up, size_t stride) {
  const size_t outputs = up ? job.weight->outputs / 2 : job.weight->outputs;
  const size_t column = (up ? panel / 2 : panel) * kPanel;
  if (column >= outputs) return;
  const size_t n = outputs - column < kPanel ? outputs - column : kPanel;
  const V bias = job.bias ? load_part(job.bias + column, n) : zero();
  for (size_t row = rows.begin; row < rows.end; ++row) {
    float* y = job.y + row * job.y_stride + column;
    const size_t offset = (row - rows.begin) * stride;
    V value = load(sum + offset);
    if (up) value = silu_mul(value, load(up + offset));
    if (job.bias) value = add(value, bias);
    if (job.epilogue == Epilogue::ADD) value = add(load_part(y, n), value);
    store_part(y, value, n);
  }
}

// Asks for where a panel's results go: they are a line of every row, and far apart. Inline, as are
// all functions that only prefetch: GCC 12 takes a call of one for a call without effect.
RILL_INLINE void expect_panel(const LinearJob& job, RowRange rows, size_t panel) {
  const size_t column = (job.epilogue == Epilogue::SILU_MUL ? panel / 2 : panel) * kPanel;
  for (size_t row = rows.begin; row < rows.end; ++row)
    __builtin_prefetch(job.y + row * job.y_stride + column, 1);
}

// How a thread reads its panels: `streams` runs of `run` panels side by side, each contiguous in
// memory from its first byte to its last. Memory is read fastest so: short runs leave the
// processor's prefetching at a loss at every end (measured: half the bandwidth with eight runs of
// one panel).
struct Walk {
  size_t first, streams, run;
};

bool is_unaided(size_t rows) {
  return rows <= static_cast<size_t>(kUnaidedRows) && reads_best_unaided();
}

// Multiplies all rows with the panels of a walk; a pair of panels at a time where they are gate
// and up.
void walk_panels(const LinearJob& job, const ProductFamily& products, const LeafPlan& plan,
                 const Walk& walk, TileSums& sums) {
  const PackedMatrix& weight = *job.weight;
  const size_t panel_size = panel_bytes(weight.format, weight.depth);
  const size_t most = static_cast<size_t>(products.rows);
  const size_t tiles = (job.x.rows + most - 1) / most;
  const size_t unit = job.epilogue == Epilogue::SILU_MUL ? 2 : 1;
  const size_t width = walk.streams * kPanel;  // of the panels that one product makes
  ProductJob product{};
  product.x_stride = job.x.stride_bytes;
  product.x_depth = job.x.depth;
  product.w_stride = walk.run * panel_size;
  product.panels = walk.streams;
  product.out_stride = unit * width;
  for (size_t i = 0; i < walk.run; i += unit) {
    const size_t panel = walk.first + i;
    for (size_t t = 0; t < tiles; ++t) {
      const RowRange rows{job.x.rows * t / tiles, job.x.rows * (t + 1) / tiles};
      product.x = reinterpret_cast<const char*>(job.x.data) + rows.begin * job.x.stride_bytes;
      product.ahead = t == 0 && !is_unaided(job.x.rows) ? kBytesAhead / walk.streams : 0;
      for (size_t s = 0; s < walk.streams; ++s) expect_panel(job, rows, panel + s * walk.run);
      for (size_t u = 0; u < unit; ++u) {
        product.w = reinterpret_cast<const char*>(weight.data) + (panel + u) * panel_size;
        sum_leaves(products.function[rows.end - rows.begin], plan, product, sums, u * width);
      }
      for (size_t s = 0; s < walk.streams; ++s) {
        const float* sum = sums.final + s * kPanel;
        finish_panel(job, rows, panel + s * walk.run, sum, unit == 2 ? sum + width : nullptr,
                     product.out_stride);
      }
    }
  }
}

// Of many rows: linear_blocks_impl.h.
size_t linear_in_blocks(const LinearJob& job, size_t first, size_t last);

void linear(const LinearJob& job, size_t first, size_t last) {
  if (job.x.rows == 0) return;
  if (goes_in_blocks(job.x)) first = linear_in_blocks(job, first, last);
  if (first >= last) return;
  const ProductFamily& products = family(job.weight->format, job.x.operand);
  const LeafPlan plan = plan_leaves(*job.weight);
  const size_t most = static_cast<size_t>(products.rows), tiles = (job.x.rows + most - 1) / most;
  const size_t unit = job.epilogue == Epilogue::SILU_MUL ? 2 : 1;
  TileSums sums;
  size_t streams = products.panels[(job.x.rows + tiles - 1) / tiles];
  const bool unaided = is_unaided(job.x.rows);
  const size_t most_streams = unaided ? kUnaidedStreams : kMostStreams;
  if (streams > most_streams) streams = most_streams;
  while (first < last) {  // what does not fill the streams is left for fewer of them
    while (streams * unit > last - first) streams /= 2;
    const size_t run = (last - first) / (streams * unit) * unit;
    walk_panels(job, products, plan, {first, streams, run}, sums);
    first += streams * run;
  }
}

}  // namespace
}  // namespace rill
