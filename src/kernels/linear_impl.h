// SPDX-License-Identifier: Apache-2.0
// Linear layers on packed panels: leaves, epilogues, and the walk over panels and rows.
// Included after pointwise_impl.h.
#pragma once
#include "kernels/pointwise_impl.h"

namespace rill {
namespace {

constexpr size_t kGroupPanels = 8;  // panels side by side at the most
constexpr size_t kGroupColumns = kGroupPanels * kPanel;

// Partial sums of a tile while its leaves are added: out, and one entry per level of the tree.
struct LeafTree {
  alignas(64) float level[3][kMostRows * kGroupColumns];
  bool full[3];
};

inline void copy_tile(const float* from, float* to, size_t count) {
  for (size_t i = 0; i < count; i += 16) store(to + i, load(from + i));
}

// The sum over k of `rows` rows and job.panels panels into job.out, [rows][job.out_stride]:
// one chain, or ((0+1)+(2+3)) + ((4+5)+(6+7)) over leaves, an empty leaf being the identity.
void sum_leaves(ProductFunction function, const PackedMatrix& weight, ProductJob& job, size_t rows,
                LeafTree& tree) {
  if (weight.leaves == 1) {
    job.k_begin = 0;
    job.k_end = weight.depth;
    function(job);
    return;
  }
  const size_t count = rows * job.out_stride;
  tree.full[0] = tree.full[1] = tree.full[2] = false;
  bool live = false;
  for (size_t leaf = 0; leaf < kLeaves; ++leaf) {
    job.k_begin = weight.leaf[leaf];
    job.k_end = weight.leaf[leaf + 1];
    live = job.k_begin < job.k_end;
    if (live) function(job);
    // As in a binary counter: a leaf with an odd index closes the levels below it.
    size_t level = 0;
    for (; leaf >> level & 1; ++level) {
      if (!tree.full[level]) continue;
      const float* earlier = tree.level[level];
      if (!live)
        copy_tile(earlier, job.out, count);
      else
        for (size_t i = 0; i < count; i += 16)
          store(job.out + i, add(load(earlier + i), load(job.out + i)));
      live = true;
      tree.full[level] = false;
    }
    if (leaf + 1 < kLeaves) {
      if (live) copy_tile(job.out, tree.level[level], count);
      tree.full[level] = live;
    }
  }
}

// Writes a tile of sums, as `product` left it, to its place in y.
void finish_tile(const LinearJob& job, const ProductJob& product, size_t row, size_t rows,
                 size_t first) {
  const bool silu = job.epilogue == Epilogue::SILU_MUL;
  const size_t outputs = silu ? job.weight->outputs / 2 : job.weight->outputs;
  for (size_t p = 0; p < product.panels; p += silu ? 2 : 1) {
    const size_t column = (silu ? (first + p) / 2 : first + p) * kPanel;
    if (column >= outputs) continue;
    const size_t n = outputs - column < kPanel ? outputs - column : kPanel;
    const V bias = job.bias ? load_part(job.bias + column, n) : zero();
    for (size_t r = 0; r < rows; ++r) {
      const float* sum = product.out + r * product.out_stride + p * kPanel;
      float* y = job.y + (row + r) * job.y_stride + column;
      V value = load(sum);
      if (silu) value = silu_mul(value, load(sum + kPanel));
      if (job.bias) value = add(value, bias);
      if (job.epilogue == Epilogue::ADD) value = add(load_part(y, n), value);
      store_part(y, value, n);
    }
  }
}

void linear(const LinearJob& job, size_t first, size_t last) {
  const PackedMatrix& weight = *job.weight;
  const ProductFamily& products = family(weight.format, job.x.operand);
  const size_t most = static_cast<size_t>(products.rows);
  const size_t tiles = (job.x.rows + most - 1) / most;
  if (tiles == 0 || first >= last) return;
  // Few rows take many panels at once (that keeps the additions' latency hidden and several streams
  // of weights open); many rows share two panels that stay in the cache while the rows pass by.
  const size_t group = tiles == 1 && job.x.rows <= most / 2 ? kGroupPanels : 2;
  LeafTree tree;
  alignas(64) float sums[kMostRows * kGroupColumns];
  ProductJob product{};
  product.x_stride = job.x.stride_bytes;
  product.x_depth = job.x.depth;
  product.w_stride = panel_bytes(weight.format, weight.depth);
  product.out = sums;
  product.out_stride = group * kPanel;
  for (size_t panel = first; panel < last; panel += group) {
    product.w = reinterpret_cast<const char*>(weight.data) + panel * product.w_stride;
    product.panels = last - panel < group ? last - panel : group;
    for (size_t t = 0; t < tiles; ++t) {
      const size_t row = job.x.rows * t / tiles, end = job.x.rows * (t + 1) / tiles;
      product.x = reinterpret_cast<const char*>(job.x.data) + row * job.x.stride_bytes;
      sum_leaves(products.function[end - row], weight, product, end - row, tree);
      finish_tile(job, product, row, end - row, panel);
    }
  }
}

}  // namespace
}  // namespace rill
