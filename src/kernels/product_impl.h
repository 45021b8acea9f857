// SPDX-License-Identifier: Apache-2.0
// The micro-kernels: a few rows of activations times a few panels of sixteen outputs, accumulated
// in registers along k in the one order of docs/arithmetic.md §8. Linear layers, scores and P·V all
// run through them. Included after a simd_*.h.
#pragma once
#include "kernels/table.h"

#define RILL_INLINE inline __attribute__((always_inline))

namespace rill {
namespace {

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
};
using ProductFunction = void (*)(const ProductJob& job);

// Offsets inside a Q8 row: codes, then a scale and a sum of codes per block of 32.
static inline size_t scales_offset(size_t depth) {
  return depth * sizeof(Code);
}
static inline size_t sums_offset(size_t depth) {
  return scales_offset(depth) + depth / 32 * 4;
}

// ---- One step per kind of product: `run` adds k_begin..k_end to acc. ----

// fp32 activations; weights of any type that widens to sixteen floats per k.
struct LoadF32 {
  static RILL_INLINE V at(const char* w, size_t k) {
    return load(reinterpret_cast<const float*>(w + k * 64));
  }
};
struct LoadF16 {
  static RILL_INLINE V at(const char* w, size_t k) { return load_f16(w + k * 32); }
};
template <class Load>
struct PlainProduct {
  static constexpr int kRows = kFloatRows;
  static constexpr int panels(int rows) { return float_panels(rows); }

  template <int R, int P>
  static RILL_INLINE void run(const ProductJob& job, const char* w, V (&acc)[R][P]) {
    const char* x = job.x;
    for (size_t k = job.k_begin; k < job.k_end; ++k) {
      V b[P];
#pragma GCC unroll 16
      for (int p = 0; p < P; ++p) b[p] = Load::at(w + static_cast<size_t>(p) * job.w_stride, k);
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
        const V a =
            splat(reinterpret_cast<const float*>(x + static_cast<size_t>(r) * job.x_stride)[k]);
#pragma GCC unroll 16
        for (int p = 0; p < P; ++p) acc[r][p] = fma(b[p], a, acc[r][p]);
      }
    }
  }
};

// bf16 pairs against fp32 activations: k ascending, or each pair's odd element first (the order of
// VDPBF16PS, whose operands are bf16 on both sides).
template <bool kOddFirst>
struct PairProduct {
  static constexpr int kRows = kFloatRows;
  static constexpr int panels(int rows) { return float_panels(rows); }

  template <int R, int P, bool kOdd>
  static RILL_INLINE void half(const ProductJob& job, const char* w, size_t k, V (&acc)[R][P]) {
    V b[P];
#pragma GCC unroll 16
    for (int p = 0; p < P; ++p) {
      const char* pairs = w + static_cast<size_t>(p) * job.w_stride + k * 32;
      b[p] = kOdd ? widen_odd(pairs) : widen_even(pairs);
    }
    const char* x = job.x + (k + kOdd) * 4;
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const V a = splat(*reinterpret_cast<const float*>(x + static_cast<size_t>(r) * job.x_stride));
#pragma GCC unroll 16
      for (int p = 0; p < P; ++p) acc[r][p] = fma(b[p], a, acc[r][p]);
    }
  }
  template <int R, int P>
  static RILL_INLINE void run(const ProductJob& job, const char* w, V (&acc)[R][P]) {
    for (size_t k = job.k_begin; k < job.k_end; k += 2) {
      half<R, P, kOddFirst>(job, w, k, acc);
      half<R, P, !kOddFirst>(job, w, k, acc);
    }
  }
};

#if defined(RILL_BF16_DOT)
constexpr bool kBf16Dot = true;
// The same sums with the processor's own dot product of pairs; activations are bf16 too.
struct DotProduct {
  static constexpr int kRows = kFloatRows;
  static constexpr int panels(int rows) { return float_panels(rows); }

  template <int R, int P>
  static RILL_INLINE void run(const ProductJob& job, const char* w, V (&acc)[R][P]) {
    for (size_t k = job.k_begin; k < job.k_end; k += 2) {
      Pair b[P];
#pragma GCC unroll 16
      for (int p = 0; p < P; ++p)
        b[p] = load_pair(w + static_cast<size_t>(p) * job.w_stride + k * 32);
      const char* x = job.x + k * 2;
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
        const Pair a = splat_pair(x + static_cast<size_t>(r) * job.x_stride);
#pragma GCC unroll 16
        for (int p = 0; p < P; ++p) acc[r][p] = dot_bf16(acc[r][p], b[p], a);
      }
    }
  }
};
using Bf16Product = DotProduct;
#else
constexpr bool kBf16Dot = false;  // activations under bf16 compute are fp32 that were rounded
using Bf16Product = PairProduct<true>;
#endif

// int8 and int4 weights against int8 activations: an exact int32 dot product per block of 32, then
// one fma. The weights are stored with an offset, so the dot product starts at -offset * sum(x).
template <Format kFormat>
struct IntProduct {
  static constexpr int kRows = kIntRows;
  static constexpr int panels(int rows) { return int_panels(rows); }
  static constexpr size_t kBlockBytes = panel_bytes(kFormat, 32);
  static constexpr int kOffset = kFormat == Format::INT8 ? 128 : 8;

  template <int R, int P>
  static RILL_INLINE void group(const W4 (&w)[P], const char* x, size_t stride, I (&sum)[R][P]) {
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
      for (int p = 0; p < P; ++p)
        sum[r][p] = dot4(sum[r][p], w[p],
                         reinterpret_cast<const Code*>(x + static_cast<size_t>(r) * stride));
  }
  template <int R, int P>
  static RILL_INLINE void block(const ProductJob& job, const char* w, size_t b, I (&sum)[R][P]) {
    const char* x = job.x + b * 32 * sizeof(Code);
    const char* q = w + b * kBlockBytes + 32;
    if constexpr (kFormat == Format::INT8) {
#pragma GCC unroll 8
      for (size_t g = 0; g < 8; ++g) {
        W4 w4[P];
#pragma GCC unroll 16
        for (int p = 0; p < P; ++p)
          w4[p] = load_u8(q + static_cast<size_t>(p) * job.w_stride + g * 64);
        group<R, P>(w4, x + g * 4 * sizeof(Code), job.x_stride, sum);
      }
    } else {
#pragma GCC unroll 4
      for (size_t c = 0; c < 4; ++c) {
        W4 low[P], high[P];
#pragma GCC unroll 16
        for (int p = 0; p < P; ++p)
          load_u4(q + static_cast<size_t>(p) * job.w_stride + c * 64, low[p], high[p]);
        group<R, P>(low, x + c * 4 * sizeof(Code), job.x_stride, sum);
        group<R, P>(high, x + (16 + c * 4) * sizeof(Code), job.x_stride, sum);
      }
    }
  }
  template <int R, int P>
  static RILL_INLINE void run(const ProductJob& job, const char* w, V (&acc)[R][P]) {
    const char* scales = job.x + scales_offset(job.x_depth);
    const char* sums = job.x + sums_offset(job.x_depth);
    for (size_t b = job.k_begin / 32; b < job.k_end / 32; ++b) {
      I sum[R][P];
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
        const int32_t codes =
            reinterpret_cast<const int32_t*>(sums + static_cast<size_t>(r) * job.x_stride)[b];
#pragma GCC unroll 16
        for (int p = 0; p < P; ++p) sum[r][p] = int_splat(-kOffset * codes);
      }
      block<R, P>(job, w, b, sum);
#pragma GCC unroll 16
      for (int p = 0; p < P; ++p) {
        const V scale_w = load_f16(w + static_cast<size_t>(p) * job.w_stride + b * kBlockBytes);
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) {
          const V scale_x = splat(
              reinterpret_cast<const float*>(scales + static_cast<size_t>(r) * job.x_stride)[b]);
          acc[r][p] = fma(mul(scale_w, scale_x), to_float(sum[r][p]), acc[r][p]);
        }
      }
    }
  }
};

// ---- Tiles of R rows and P panels, and the functions for R rows and any number of panels. ----

template <class Product, int R, int P>
RILL_INLINE void tile(const ProductJob& job, size_t panel) {
  V acc[R][P];
  float* out = job.out + panel * kPanel;
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
    for (int p = 0; p < P; ++p)
      acc[r][p] = job.accumulate ? load(out + static_cast<size_t>(r) * job.out_stride +
                                        static_cast<size_t>(p) * kPanel)
                                 : zero();
  Product::template run<R, P>(job, job.w + panel * job.w_stride, acc);
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
    for (int p = 0; p < P; ++p)
      store(out + static_cast<size_t>(r) * job.out_stride + static_cast<size_t>(p) * kPanel,
            acc[r][p]);
}

template <class Product, int R>
void product(const ProductJob& job) {
  constexpr int P = Product::panels(R);
  size_t panel = 0;
  for (; panel + P <= job.panels; panel += P) tile<Product, R, P>(job, panel);
  if constexpr (P > 4)
    for (; panel + 4 <= job.panels; panel += 4) tile<Product, R, 4>(job, panel);
  if constexpr (P > 2)
    for (; panel + 2 <= job.panels; panel += 2) tile<Product, R, 2>(job, panel);
  if constexpr (P > 1)
    for (; panel < job.panels; ++panel) tile<Product, R, 1>(job, panel);
}

// The functions of one product by number of rows, 1 to Product::kRows.
struct ProductFamily {
  int rows;  // the most
  ProductFunction function[kMostRows + 1];
};

template <class Product, int R = Product::kRows>
constexpr void fill_family(ProductFamily& family) {
  if constexpr (R > 0) {
    family.function[R] = product<Product, R>;
    fill_family<Product, R - 1>(family);
  }
}
template <class Product>
constexpr ProductFamily family_of() {
  ProductFamily family{};
  family.rows = Product::kRows;
  fill_family<Product>(family);
  return family;
}

constexpr ProductFamily kF32 = family_of<PlainProduct<LoadF32>>();
constexpr ProductFamily kF16 = family_of<PlainProduct<LoadF16>>();
constexpr ProductFamily kAscending = family_of<PairProduct<false>>();
constexpr ProductFamily kOddFirst = family_of<Bf16Product>();
constexpr ProductFamily kInt8 = family_of<IntProduct<Format::INT8>>();
constexpr ProductFamily kInt4 = family_of<IntProduct<Format::INT4>>();

// The functions for weights of `format` against activations of `operand`.
inline const ProductFamily& family(Format format, Operand operand) {
  switch (format) {
    case Format::F32:
      return kF32;
    case Format::F16:
      return kF16;
    case Format::BF16:
      return operand == Operand::BF16 ? kOddFirst : kAscending;
    case Format::INT8:
      return kInt8;
    case Format::INT4:
      return kInt4;
  }
  return kF32;
}

// Any number of rows: cut into tiles of nearly equal height, so that none is left with a row or
// two.
inline void run_product(const ProductFamily& products, ProductJob job, size_t rows) {
  const size_t tiles =
      (rows + static_cast<size_t>(products.rows) - 1) / static_cast<size_t>(products.rows);
  const char* x = job.x;
  float* out = job.out;
  for (size_t t = 0; t < tiles; ++t) {
    const size_t begin = rows * t / tiles, end = rows * (t + 1) / tiles;
    job.x = x + begin * job.x_stride;
    job.out = out + begin * job.out_stride;
    products.function[end - begin](job);
  }
}

}  // namespace
}  // namespace rill
