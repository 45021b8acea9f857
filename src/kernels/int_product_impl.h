// SPDX-License-Identifier: Apache-2.0
// Products of codes: int8 and int4 weights against activations quantised in blocks of 32, and where
// those stand in a row. A step as in product_impl.h. Included after a simd_*.h.
#pragma once
#include "kernels/product_job.h"

namespace rill {
namespace {

constexpr Format kIntFormats[] = {Format::INT8, Format::INT4};
// What the codes of weights are stored with in addition, so that they are not negative.
constexpr int code_offset(Format format) {
  return format == Format::INT8 ? 128 : 8;
}

// Whether products with int4 weights want activation codes of their own.
template <class A, class B>
constexpr bool kSame = false;
template <class A>
constexpr bool kSame<A, A> = true;
constexpr bool kTwoCodes = !kSame<Code, Code4>;

// Offsets inside a Q8 row: codes, those for int4 weights, then per block of 32 a scale, and where
// its dot product with weights of a format starts: at -code_offset times the sum of the codes.
static constexpr size_t codes_offset(size_t depth, Format format) {
  return kTwoCodes && format == Format::INT4 ? depth * sizeof(Code) : 0;
}
static constexpr size_t scales_offset(size_t depth) {
  return depth * (sizeof(Code) + (kTwoCodes ? sizeof(Code4) : 0));
}
static inline size_t starts_offset(size_t depth, Format format) {
  return scales_offset(depth) + depth / 32 * (format == Format::INT8 ? 4 : 8);
}
static constexpr size_t q8_bytes(size_t depth) {
  return scales_offset(depth) + depth / 32 * 12;
}

// What activations and the sums of a block are, by the format of the weights.
template <Format kFormat>
struct IntSums {
  using X = Code;
  using Sum = I;
  static RILL_INLINE Sum start(int32_t start) { return int_splat(start); }
  static RILL_INLINE I whole(const Sum& sum, int32_t) { return sum; }
};
template <>
struct IntSums<Format::INT4> {
  using X = Code4;
  using Sum = I4;
  static RILL_INLINE Sum start(int32_t start) { return start_u4(start); }
  static RILL_INLINE I whole(const Sum& sum, int32_t start) { return whole_u4(sum, start); }
};

// A block's sums of integers take the registers of the accumulators, if these are more than so
// many: then they wait in memory, and each is read and written once a block.
template <int R, int P>
RILL_INLINE void make_room(V (&acc)[R][P]) {
  if constexpr (R * P > kBesideSums) asm("" : "+m"(acc));
}

// int8 and int4 weights against int8 activations: an exact int32 dot product per block of 32, then
// one fma.
template <Format kFormat>
struct IntProduct {
  using X = typename IntSums<kFormat>::X;
  using Sum = typename IntSums<kFormat>::Sum;
  static constexpr int kRows = kIntRows;
  static constexpr size_t kStep = 32, kStepBytes = panel_bytes(kFormat, 32);
  static constexpr int panels(int rows) { return int_panels(rows); }

  // Four k, or a part of them: weights at `q`, activations at `x`. kPart: of the stored bytes.
  template <int kPart, int R, int P>
  static RILL_INLINE void group(const ProductJob& job, const char* q, const X* x, Sum (&sum)[R][P],
                                const Part& part) {
    W4 w[P];
#pragma GCC unroll 16
    for (int p = 0; p < part.count; ++p) {
      const char* from = q + panel_of(job, part, p);
      if constexpr (kFormat == Format::INT8)
        w[p] = load_u8<kPart>(from);
      else
        w[p] = load_u4<kPart>(from);
    }
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const auto* row =
          reinterpret_cast<const X*>(reinterpret_cast<const char*>(x) + row_of(job, r));
#pragma GCC unroll 16
      for (int p = 0; p < part.count; ++p) sum[r][p] = dot4<kPart>(sum[r][p], w[p], row);
    }
  }
  // `each(i)`: done before the i-th eighth (int8) or quarter (int4) of the block.
  template <int R, int P, class Each>
  static RILL_INLINE void codes(const ProductJob& job, const char* q, const X* x, Sum (&sum)[R][P],
                                const Part& part, const Each& each) {
#pragma GCC unroll 8
    for (size_t i = 0; i < (kFormat == Format::INT8 ? 8 : 4); ++i) {
      each(i);
      group<0, R, P>(job, q + i * 64, x + i * 4, sum, part);
      if constexpr (kFormat == Format::INT4)
        group<1, R, P>(job, q + i * 64, x + 16 + i * 4, sum, part);
      else if constexpr (kCodeParts > 1)
        group<1, R, P>(job, q + i * 64, x + i * 4, sum, part);
    }
  }
  template <int R, int P>
  static RILL_INLINE void step(const ProductJob& job, const char* w, size_t k, V (&acc)[R][P],
                               const Part& part) {
    step_at<R, P>(job, w + k / 32 * kStepBytes, k, acc, part, [](size_t) {});
  }
  // The same for panels whose blocks for k begin at `block`.
  template <int R, int P, class Each>
  static RILL_INLINE void step_at(const ProductJob& job, const char* block, size_t k,
                                  V (&acc)[R][P], const Part& part, const Each& each) {
    const char* scales = job.x + scales_offset(job.x_depth) + k / 32 * 4;
    const char* starts = job.x + starts_offset(job.x_depth, kFormat) + k / 32 * 4;
    const char* x = job.x + codes_offset(job.x_depth, kFormat);
    const auto start = [&](int r) RILL_INLINE_LAMBDA {
      return *reinterpret_cast<const int32_t*>(starts + row_of(job, r));
    };
    make_room(acc);
    Sum sum[R][P];
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
      for (int p = 0; p < part.count; ++p) sum[r][p] = IntSums<kFormat>::start(start(r));
    codes<R, P>(job, block + 32, reinterpret_cast<const X*>(x) + k, sum, part, each);
#pragma GCC unroll 16
    for (int p = 0; p < part.count; ++p) {
      const V scale_w = load_f16(block + panel_of(job, part, p));
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
        const V scale_x = splat(*reinterpret_cast<const float*>(scales + row_of(job, r)));
        V& to = acc[r][part.first + p];
        to = fma(mul(scale_w, scale_x), to_float(IntSums<kFormat>::whole(sum[r][p], start(r))), to);
      }
    }
  }
};

}  // namespace
}  // namespace rill
