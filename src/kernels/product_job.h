// SPDX-License-Identifier: Apache-2.0
// What the products of product_impl.h are asked for. Included after a simd_*.h.
#pragma once
#include "kernels/inline.h"
#include "kernels/table.h"

namespace rill {

// Rows [0, rows) of x times panels [0, panels) of w, over k in [k_begin, k_end).
struct ProductJob {
  const char* x;    // row 0, k = 0, as `convert` writes it
  size_t x_stride;  // bytes from row to row
  size_t x_depth;   // of a row: where Q8 keeps scales and sums
  const char* w;    // panel 0, k = 0
  size_t w_stride;  // bytes from panel to panel
  size_t panels;
  size_t k_begin, k_end;
  float* out;  // [rows][out_stride], sixteen columns a panel
  size_t out_stride;
  bool accumulate;  // go on from what `out` holds, else from +0
  size_t ahead;     // bytes of w to ask for before they are needed, 0: as the processor does
  char* copy;       // where loads that keep what they widen put what is read at `w`
  // Sums to add to the result, one after the other, laid out like `out`: earlier leaves.
  size_t addends;
  const float* addend[3];

  RILL_INLINE const char* row(int r) const { return x + static_cast<size_t>(r) * x_stride; }
};
using ProductFunction = void (*)(const ProductJob& job);

// The functions of one product by number of rows, 1 to Product::kRows.
struct ProductFamily {
  int rows;  // the most
  ProductFunction function[kMostRows + 1];
  size_t panels[kMostRows + 1];  // side by side in the tile
};

namespace {

// A job whose rows' addresses stay in registers, where there are enough of these: else they are
// added up in every step.
template <int R>
struct PointedJob {
  const ProductJob& job;
  const char* rows[R];

  explicit RILL_INLINE PointedJob(const ProductJob& pointed) : job(pointed) {
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      rows[r] = job.row(r);
      asm("" : "+r"(rows[r]));  // so that no row is taken from another
    }
  }
  RILL_INLINE const char* row(int r) const {
    return rows[r];
  }
  RILL_INLINE operator const ProductJob&() const {
    return job;
  }
};

// Panels [first, first + count) of a tile; constants, once everything is inlined.
struct Part {
  int first, count;
};
RILL_INLINE size_t panel_of(const ProductJob& job, const Part& part, int p) {
  return static_cast<size_t>(part.first + p) * job.w_stride;
}
RILL_INLINE size_t row_of(const ProductJob& job, int r) {
  return static_cast<size_t>(r) * job.x_stride;
}

}  // namespace
}  // namespace rill
