// SPDX-License-Identifier: Apache-2.0
// The micro-kernels: a few rows of activations times a few panels of sixteen outputs, accumulated
// in registers along k in the one order of docs/arithmetic.md §8. Linear layers, scores and P·V all
// run through them. Included after a simd_*.h.
#pragma once
#include "kernels/int_product_impl.h"
#include "kernels/next_page.h"
#include "kernels/product_job.h"
#include "kernels/shared.h"

namespace rill {

namespace {

// ---- One step per kind of product: adds the inputs k .. k + kStep - 1 of the panels in `part` to
// acc. kStepBytes is what a panel stores for them. ----

// sum += w * a, and the odd elements of pairs, in a tile of R rows.
#if defined(RILL_TIGHT_TILES)
constexpr int kTightRows = 3;  // from so many on
#else
constexpr int kTightRows = kMostRows + 1;
RILL_INLINE void add_product(V& sum, V w, V a) {
  sum = fma(w, a, sum);
}
RILL_INLINE V load_odd(const void* pairs) {
  return widen_odd(pairs);
}
#endif
template <int R>
RILL_INLINE void add_product_of(V& sum, V w, V a) {
  if constexpr (R >= kTightRows)
    add_product(sum, w, a);
  else
    sum = fma(w, a, sum);
}

// fp32 activations; weights of any type that widens to sixteen floats per k, which stand at `w`.
// from(): the same in a job.
struct LoadF32 {
  static constexpr size_t kBytes = 64;
  static RILL_INLINE V at(const char* w) { return load(reinterpret_cast<const float*>(w)); }
  static RILL_INLINE V from(const ProductJob&, const char* w) { return at(w); }
};
struct LoadF16 {
  static constexpr size_t kBytes = 32;
  static RILL_INLINE V at(const char* w) { return load_f16(w); }
  static RILL_INLINE V from(const ProductJob&, const char* w) { return at(w); }
};
// Leaves the floats at job.copy, as LoadF32 reads them.
struct KeepF16 : LoadF16 {
  static RILL_INLINE V from(const ProductJob& job, const char* w) {
    const V floats = at(w);
    store(reinterpret_cast<float*>(job.copy + 2 * (w - job.w)), floats);
    return floats;
  }
};
template <class Load>
struct PlainProduct {
  static constexpr int kRows = kFloatRows;
  static constexpr size_t kStep = 1, kStepBytes = Load::kBytes;
  static constexpr int panels(int rows) { return float_panels(rows); }

  template <int R, int P, class Job>
  static RILL_INLINE void step(const Job& job, const char* w, size_t k, V (&acc)[R][P],
                               const Part& part) {
    V b[P];
#pragma GCC unroll 16
    for (int p = 0; p < part.count; ++p)
      b[p] = Load::from(job, w + panel_of(job, part, p) + k * Load::kBytes);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const V a = splat(reinterpret_cast<const float*>(job.row(r))[k]);
#pragma GCC unroll 16
      for (int p = 0; p < part.count; ++p) add_product_of<R>(acc[r][part.first + p], b[p], a);
    }
  }
};

// A pair's even or odd elements of sixteen outputs: from bf16, or floats that stand one after the
// other.
struct LoadPairs {
  static constexpr size_t kBytes = 64;
  template <bool kOdd, int R = 1>
  static RILL_INLINE V at(const char* w) {
    if constexpr (kOdd && R >= kTightRows) return load_odd(w);
    return kOdd ? widen_odd(w) : widen_even(w);
  }
  template <bool kOdd, int R>
  static RILL_INLINE V from(const ProductJob&, const char* w) {
    return at<kOdd, R>(w);
  }
};
struct LoadFloatPairs {
  static constexpr size_t kBytes = 128;
  template <bool kOdd, int>
  static RILL_INLINE V from(const ProductJob&, const char* w) {
    return LoadF32::at(w + kOdd * LoadF32::kBytes);
  }
};
// Leaves the floats at job.copy, as LoadFloatPairs reads them.
struct KeepPairs : LoadPairs {
  template <bool kOdd, int R>
  static RILL_INLINE V from(const ProductJob& job, const char* w) {
    const V floats = at<kOdd, R>(w);
    store(reinterpret_cast<float*>(job.copy + 2 * (w - job.w) + kOdd * LoadF32::kBytes), floats);
    return floats;
  }
};

// bf16 pairs against fp32 activations: k ascending, or each pair's odd element first (the order of
// VDPBF16PS, whose operands are bf16 on both sides).
template <bool kOddFirst, class Load = LoadPairs>
struct PairProduct {
  static constexpr int kRows = kFloatRows;
  static constexpr size_t kStep = 2, kStepBytes = Load::kBytes;
  static constexpr int panels(int rows) { return float_panels(rows); }

  // One half of the pair for k, which stands at `pairs` for panel 0; kTight: the other one follows.
  template <int R, int P, bool kOdd, bool kTight = true, class Job>
  static RILL_INLINE void half(const Job& job, const char* pairs, size_t k, V (&acc)[R][P],
                               const Part& part) {
    V b[P];
#pragma GCC unroll 16
    for (int p = 0; p < part.count; ++p)
      b[p] = Load::template from < kOdd, kTight ? R : 1 > (job, pairs + panel_of(job, part, p));
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const V a = splat(reinterpret_cast<const float*>(job.row(r))[k + kOdd]);
#pragma GCC unroll 16
      for (int p = 0; p < part.count; ++p)
        add_product_of<kTight ? R : 1>(acc[r][part.first + p], b[p], a);
    }
  }
  template <int R, int P, class Job>
  static RILL_INLINE void step(const Job& job, const char* w, size_t k, V (&acc)[R][P],
                               const Part& part) {
    const char* pairs = w + k / 2 * kStepBytes;
    half<R, P, kOddFirst>(job, pairs, k, acc, part);
    half<R, P, !kOddFirst>(job, pairs, k, acc, part);
  }
};

// Register tiles and [rows][stride] floats, sixteen columns a panel.
template <int R, int P>
RILL_INLINE void clear(V (&acc)[R][P]) {
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
    for (int p = 0; p < P; ++p) acc[r][p] = zero();
}
template <int R, int P>
RILL_INLINE void store_tile(const V (&acc)[R][P], float* out, size_t stride) {
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
    for (int p = 0; p < P; ++p)
      store(out + static_cast<size_t>(r) * stride + static_cast<size_t>(p) * kPanel, acc[r][p]);
}
template <int R, int P>
RILL_INLINE void load_tile(V (&acc)[R][P], const float* from, size_t stride) {
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
    for (int p = 0; p < P; ++p)
      acc[r][p] = load(from + static_cast<size_t>(r) * stride + static_cast<size_t>(p) * kPanel);
}

// bf16x32: a run of up to 32 inputs is summed from +0, its even and its odd elements apart, and
// acc = acc + (even + odd). To the bit this is AMX's TDPBF16PS.
struct RunSums {
  static constexpr int kRows = kFloatRows;
  static constexpr int panels(int rows) {
    return kRegisters >= 32 ? float_panels(rows) : rows == 1 && float_panels(1) > 1 ? 2 : 1;
  }
  // Whether the registers hold three sums per output. If not, a run is gone through twice.
  template <int R, int P>
  static constexpr bool kAtOnce = R* P * 3 <= (kRegisters >= 32 ? 24 : 6);

  // The run of `pairs` pairs from k on. Panel 0's first pair is at `w`, the next row_bytes further.
  // each(): done before each pair, once.
  template <int R, int P, class Each>
  static RILL_INLINE void add_run(const ProductJob& job, const char* w, size_t row_bytes, size_t k,
                                  size_t pairs, V (&acc)[R][P], const Each& each) {
    V even[R][P], odd[R][P];
    clear(even);
    if constexpr (kAtOnce<R, P>) clear(odd);
    for (size_t i = 0; i < pairs; ++i) {
      each();
      if constexpr (kAtOnce<R, P>) half<R, P, true>(job, w + i * row_bytes, k + 2 * i, odd);
      half<R, P, false>(job, w + i * row_bytes, k + 2 * i, even);
    }
    if constexpr (!kAtOnce<R, P>) {
      clear(odd);
      for (size_t i = 0; i < pairs; ++i) half<R, P, true>(job, w + i * row_bytes, k + 2 * i, odd);
    }
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
      for (int p = 0; p < P; ++p) acc[r][p] = add(acc[r][p], add(even[r][p], odd[r][p]));
  }

 private:
  template <int R, int P, bool kOdd>
  static RILL_INLINE void half(const ProductJob& job, const char* pairs, size_t k, V (&acc)[R][P]) {
#if defined(RILL_AMX)
    V b[P];
#pragma GCC unroll 16
    for (int p = 0; p < P; ++p) {
      const Pair pair = load_pair(pairs + panel_of(job, Part{0, P}, p));
      b[p] = kOdd ? odd_half(pair) : even_half(pair);
    }
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const Pair pair = splat_pair(job.x + row_of(job, r) + k * 2);
      const V a = kOdd ? odd_half(pair) : even_half(pair);
#pragma GCC unroll 16
      for (int p = 0; p < P; ++p) acc[r][p] = fma(b[p], a, acc[r][p]);
    }
#else
    PairProduct<false>::half<R, P, kOdd, false>(job, pairs, k, acc, Part{0, P});
#endif
  }
};
struct RunProduct : RunSums {
  static constexpr size_t kStep = 32, kStepBytes = 1024;

  template <int R, int P>
  static RILL_INLINE void step(const ProductJob& job, const char* w, size_t k, V (&acc)[R][P],
                               const Part& part) {
    if (part.count == P) {
      add_run<R, P>(job, w + k * 32, 64, k, 16, acc, [] {});
      return;
    }
    V one[R][1];
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) one[r][0] = acc[r][part.first];
    add_run<R, 1>(job, w + panel_of(job, part, 0) + k * 32, 64, k, 16, one, [] {});
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) acc[r][part.first] = one[r][0];
  }
};

#if defined(RILL_BF16_DOT)
constexpr bool kBf16Dot = true;
// The same sums with the processor's own dot product of pairs; activations are bf16 too.
struct DotProduct {
  static constexpr int kRows = kFloatRows;
  static constexpr size_t kStep = 2, kStepBytes = 64;
  static constexpr int panels(int rows) { return float_panels(rows); }

  template <int R, int P>
  static RILL_INLINE void step(const ProductJob& job, const char* w, size_t k, V (&acc)[R][P],
                               const Part& part) {
    Pair b[P];
#pragma GCC unroll 16
    for (int p = 0; p < part.count; ++p) b[p] = load_pair(w + panel_of(job, part, p) + k * 32);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const Pair a = splat_pair(job.x + row_of(job, r) + k * 2);
#pragma GCC unroll 16
      for (int p = 0; p < part.count; ++p)
        acc[r][part.first + p] = dot_bf16(acc[r][part.first + p], b[p], a);
    }
  }
};
using Bf16Product = DotProduct;
#else
constexpr bool kBf16Dot = false;  // activations under bf16 compute are fp32 that were rounded
using Bf16Product = PairProduct<true>;
#endif
#if defined(RILL_AMX)
constexpr bool kBf16Runs = true;  // activations under bf16x32 are bf16 too, as the tiles want them
#else
constexpr bool kBf16Runs = false;
#endif
constexpr bool bf16_rows(Operand operand) {
  return (operand == Operand::BF16 && kBf16Dot) || (operand == Operand::BF16X32 && kBf16Runs);
}
// Whether activations are rounded to bf16, and stay fp32.
constexpr bool rounds_to_bf16(Operand operand) {
  return (operand == Operand::BF16 || operand == Operand::BF16X32) && !bf16_rows(operand);
}

// Up to this many rows are bound by memory. Then a panel is read some cache lines on before the
// next panel's turn, which streams a tenth to a fifth faster than going from panel to panel line by
// line; but where what lies ahead is asked for, line by line is 1 to 3 % faster. More rows take all
// panels in turn, so that an activation is loaded once for all of them; so do the blocks of int8,
// which are longer than that.
constexpr int kStreamedRows = 4;
template <class Product>
constexpr size_t kStreamedSteps = 256 / Product::kStepBytes;
template <>
constexpr size_t kStreamedSteps<RunProduct> = 1;  // a run, 8 % faster than in turn
template <>
constexpr size_t kStreamedSteps<IntProduct<Format::INT4>> =
    kRegisters >= 32;  // a block, 3 % faster

// Whether a product of R rows asks for weights ahead of their use: of a few it is only asked for
// where the processor is the better for it.
template <int R>
RILL_INLINE bool asks_ahead(const ProductJob& job) {
  return R > kUnaidedRows || job.ahead;
}

// Whether it also asks for the beginning of each panel's next page, and for all only to come as
// near as the L2 cache: lines on their way to the L1 cache hold the few buffers that all loads go
// through. For few rows that streams 3 to 7 % faster; eight rows lose what the instructions cost,
// and so may any with narrower registers, which take more of them.
template <int R>
constexpr bool kAsksForPages = kRegisters >= 32 && R <= kStreamedRows;

// Asks for what step `k` of `part` reads, job.ahead bytes further on.
template <class Product, int R>
RILL_INLINE void prefetch(const ProductJob& job, const char* w, size_t k, const Part& part) {
#pragma GCC unroll 16
  for (int p = 0; p < part.count; ++p)
#pragma GCC unroll 16
    for (size_t line = 0; line < Product::kStepBytes; line += 64)
      __builtin_prefetch(
          w + panel_of(job, part, p) + k / Product::kStep * Product::kStepBytes + line + job.ahead,
          0, kAsksForPages<R> ? 2 : 3);
}
// Before step `k`, every 256 bytes or more of each panel.
template <class Product, int R>
RILL_INLINE void prefetch_next_page(const ProductJob& job, const char* w, size_t k,
                                    const Part& part) {
  if constexpr (kAsksForPages<R>)
#pragma GCC unroll 16
    for (int p = 0; p < part.count; ++p)
      NextPage::ask(w + panel_of(job, part, p) + k / Product::kStep * Product::kStepBytes);
}

// Adds the inputs from k on to acc, kSteps of each panel in turn, as long as they last; returns
// where it ends.
template <class Product, size_t kSteps, int R, int P>
RILL_INLINE size_t run_turns(const ProductJob& job, const char* w, size_t k, V (&acc)[R][P]) {
  for (; k + kSteps * Product::kStep <= job.k_end; k += kSteps * Product::kStep) {
#pragma GCC unroll 16
    for (int p = 0; p < P; ++p) {
      if (asks_ahead<R>(job)) prefetch_next_page<Product, R>(job, w, k, Part{p, 1});
#pragma GCC unroll 16
      for (size_t i = 0; i < kSteps; ++i) {
        if (asks_ahead<R>(job)) prefetch<Product, R>(job, w, k + i * Product::kStep, Part{p, 1});
        Product::template step<R, P>(job, w, k + i * Product::kStep, acc, Part{p, 1});
      }
    }
  }
  return k;
}

// Adds k_begin .. k_end of P panels from `w` on to acc, k ascending for each panel.
template <class Product, int R, int P>
RILL_INLINE void run_steps(const ProductJob& job, const char* w, V (&acc)[R][P]) {
  size_t k = job.k_begin;
  constexpr size_t kSteps = kStreamedSteps<Product>;
  if constexpr (R <= kStreamedRows && P > 1 && kSteps > 0) {
    if constexpr (R <= kUnaidedRows && Product::kStepBytes == 64)
      if (job.ahead) k = run_turns<Product, 1>(job, w, k, acc);
    k = run_turns<Product, kSteps>(job, w, k, acc);
  }
  if constexpr (kRegisters < 32) {
    const PointedJob<R> pointed(job);
    if (!job.ahead)
      for (; k < job.k_end; k += Product::kStep)
        Product::template step<R, P>(pointed, w, k, acc, Part{0, P});
    for (; k < job.k_end; k += Product::kStep) {
      prefetch<Product, R>(job, w, k, Part{0, P});
      Product::template step<R, P>(pointed, w, k, acc, Part{0, P});
    }
    return;
  }
  for (; k < job.k_end; k += Product::kStep) {
    if (job.ahead) {
      prefetch_next_page<Product, R>(job, w, k, Part{0, P});
      prefetch<Product, R>(job, w, k, Part{0, P});
    }
    Product::template step<R, P>(job, w, k, acc, Part{0, P});
  }
}

// ---- Tiles of R rows and P panels, and the functions for R rows and any number of panels. ----

template <class Product, int R, int P>
RILL_INLINE void tile(const ProductJob& job, size_t panel) {
  V acc[R][P];
  float* out = job.out + panel * kPanel;
  if (job.accumulate)
    load_tile(acc, out, job.out_stride);
  else
    clear(acc);
  run_steps<Product, R, P>(job, job.w + panel * job.w_stride, acc);
  for (size_t i = 0; i < job.addends; ++i) {
    const float* addend = job.addend[i] + panel * kPanel;
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
      for (int p = 0; p < P; ++p)
        acc[r][p] = add(load(addend + static_cast<size_t>(r) * job.out_stride +
                             static_cast<size_t>(p) * kPanel),
                        acc[r][p]);
  }
  store_tile(acc, out, job.out_stride);
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

template <class Product, int R = Product::kRows>
constexpr void fill_family(ProductFamily& family) {
  if constexpr (R > 0) {
    family.function[R] = product<Product, R>;
    family.panels[R] = Product::panels(R);
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

}  // namespace

RILL_FLOATS(ProductFamily, kF32, family_of<PlainProduct<LoadF32>>())
RILL_FLOATS(ProductFamily, kF16, family_of<PlainProduct<LoadF16>>())
RILL_FLOATS(ProductFamily, kAscending, family_of<PairProduct<false>>())
RILL_ODD_FIRST(ProductFamily, kOddFirst, family_of<Bf16Product>())
RILL_RUNS(ProductFamily, kRuns, family_of<RunProduct>())
RILL_CODES(ProductFamily, kInt8, family_of<IntProduct<Format::INT8>>())
RILL_CODES(ProductFamily, kInt4, family_of<IntProduct<Format::INT4>>())

namespace {

// The functions for weights of `format` against activations of `operand`.
inline const ProductFamily& family(Format format, Operand operand) {
  switch (format) {
    case Format::F32:
      return kF32;
    case Format::F16:
      return kF16;
    case Format::BF16:
      return operand == Operand::BF16      ? kOddFirst
             : operand == Operand::BF16X32 ? kRuns
                                           : kAscending;
    case Format::INT8:
      return kInt8;
    case Format::INT4:
      return kInt4;
  }
  return kF32;
}

// Any number of rows: cut into tiles of nearly equal height, so that none is left with a row or
// two. The job is changed in place and restored: a copy would read whole lines that were written in
// parts just now, which waits for all stores before.
inline void run_product(const ProductFamily& products, ProductJob& job, size_t rows) {
  const size_t tiles =
      (rows + static_cast<size_t>(products.rows) - 1) / static_cast<size_t>(products.rows);
  const char* const x = job.x;
  float* const out = job.out;
  for (size_t t = 0; t < tiles; ++t) {
    const size_t begin = rows * t / tiles, end = rows * (t + 1) / tiles;
    job.x = x + begin * job.x_stride;
    job.out = out + begin * job.out_stride;
    products.function[end - begin](job);
  }
  job.x = x;
  job.out = out;
}

}  // namespace
}  // namespace rill
