// SPDX-License-Identifier: Apache-2.0
// The two products of attention: scores = Q K^T and values = P V, in the register tiles of
// product_impl.h. Rows of Q and P stand at constant distances, so that the compiler addresses all
// of them from one register, and V's tiles are merged into the states before they leave the
// registers. docs/arithmetic.md §9. Included after pointwise_impl.h.
#pragma once
#include "kernels/pointwise_impl.h"

namespace rill {
namespace {

// Scores of a tile, and in their place the probabilities: [pool blocks][kMostRows][kBlockTokens]
// floats; a row of probabilities may be shorter.
constexpr size_t kPartFloats = kMostRows * kBlockTokens;
constexpr size_t kScoreRowBytes = kBlockTokens * sizeof(float);

constexpr size_t padded(size_t head_dim) {
  return (head_dim + 15) / 16 * 16;
}
constexpr size_t least(size_t a, size_t b) {
  return a < b ? a : b;
}

// What the rows of a block's state are multiplied with when it is joined with earlier states: the
// i-th join is state = earlier[i] * f[i] + state * g[i].
struct Joins {
  const SoftmaxState* earlier;
  size_t count;
  alignas(64) float f[kMostJoins][16], g[kMostJoins][16];
};

// One of the products below for a tile's rows from `row` on.
struct ValueSink {
  float* o;         // of the tile's first row, [rows][padded(head_dim)]
  bool accumulate;  // go on from what stands there
  const Joins* joins;
};
using ScoreFunction = void (*)(const AttentionTile& t, size_t row, float* s);
using ValueFunction = void (*)(const AttentionTile& t, size_t row, const float* p,
                               const ValueSink& sink);

// Asks for memory (to come as near as the L2 cache) a fixed distance before it is read, where rows
// lie one after the other and what comes after them lies elsewhere. The processor's own prefetching
// would lose its stride at every jump.
//
// A few rows are bound by reading: the distance is short, and leads from K on to V and from there
// to the next block. Many rows, and more tiles of them, use a block for long: all of the next block
// is asked for meanwhile.
class Ahead {
 public:
  template <int kRows>
  static constexpr bool kFew = kRows <= 4;

  // The columns at `w` of `rows` rows of row_bytes each; after them those at `next`.
  Ahead(const char* w, const char* next, size_t rows, size_t row_bytes, bool few)
      : next_(next), row_bytes_(row_bytes), left_(rows) {
    const size_t ahead = few ? least(rows, kDistance / row_bytes) : rows;
    left_ -= ahead;
    at_ = left_ ? w + ahead * row_bytes : next;
  }
  // For the next row; kBytes are its columns.
  template <size_t kBytes>
  RILL_INLINE void ask() {
#pragma GCC unroll 16
    for (size_t i = 0; i < kBytes; i += 64) __builtin_prefetch(at_ + i, 0, 2);
    advance();
  }
  // The same in pieces, of which this is the i-th, and then advance().
  template <size_t kBytes, size_t kPieces>
  RILL_INLINE void ask(size_t i) {
    constexpr size_t kLines = (kBytes + 63) / 64, kMost = (kLines + kPieces - 1) / kPieces;
#pragma GCC unroll 16
    for (size_t line = 0; line < kMost; ++line)
      if (i * kMost + line < kLines) __builtin_prefetch(at_ + (i * kMost + line) * 64, 0, 3);
  }
  RILL_INLINE void advance() {
    at_ = --left_ == 0 ? next_ : at_ + row_bytes_;
  }

 private:
  static constexpr size_t kDistance = 8192;  // 4 to 16 KiB serve alike
  const char *at_, *next_;
  size_t row_bytes_, left_;
};

// How the products read their operands: a kind of product of product_impl.h and the bytes of an
// element of Q and P.
template <class P, size_t kBytes>
struct FloatKind {
  using Product = P;
  static constexpr size_t kQueryRowBytes = kQuerySlice * kBytes;

  // Adds the inputs from k on, of which job.w is the row.
  template <int R, int N>
  static RILL_INLINE void step(ProductJob& job, size_t, V (&acc)[R][N], Ahead& ahead) {
    ahead.ask<N * Product::kStepBytes>();
    Product::template step<R, N>(job, job.w, 0, acc, Part{0, N});
    job.x += Product::kStep * kBytes;
  }
};
// bf16x32: runs of 32 dimensions, or of 32 keys, cut by their place in the cache.
struct RunKind {
  struct Product : RunSums {
    static constexpr size_t kStep = 2, kStepBytes = 64;  // a pair
  };
  static constexpr size_t kQueryRowBytes = activation_bytes(Operand::BF16X32, kQuerySlice);

  // All of a job's k. The first of them is the k_begin-th of its run.
  template <int R, int N>
  static RILL_INLINE void run_rows(ProductJob job, size_t row_bytes, Ahead& ahead, V (&acc)[R][N]) {
    size_t left_of_run = 32 - job.k_begin;
    for (size_t k = 0; k < job.k_end;) {
      const size_t count = least(left_of_run, job.k_end - k);
      Product::add_run<R, N>(job, job.w, row_bytes, k, count / 2, acc,
                             [&]() RILL_INLINE_LAMBDA { ahead.ask<N * Product::kStepBytes>(); });
      job.w += count / 2 * row_bytes;
      k += count;
      left_of_run = 32;
    }
  }
};
// Codes of queries and keys. Those of a query, their scales and their sums stand apart.
struct CodeScores {
  using Product = IntProduct<Format::INT8>;
  static constexpr size_t kQueryRowBytes = activation_bytes(Operand::Q8, kQuerySlice);

  template <int R, int N>
  static RILL_INLINE void step(ProductJob& job, size_t k, V (&acc)[R][N], Ahead& ahead) {
    Product::step_at<R, N>(job, job.w, k, acc, Part{0, N}, [&](size_t i) RILL_INLINE_LAMBDA {
      ahead.ask<N * Product::kStepBytes, 8>(i);
    });
    ahead.advance();
  }
};

// Probabilities times the scales of values, as codes of 15 bits for each 32 keys: an exact sum of
// products with the codes of values, then one fma. A row of 64 codes, and where its two scales are:
constexpr size_t kWeightScales = 192;
struct CodeValueProduct {
  static constexpr int kRows = kIntRows;
  static constexpr size_t kStep = 32, kStepBytes = 32 * kPanel;
  static constexpr int panels(int rows) { return int_panels(rows); }
};
struct CodeValues {
  using Product = CodeValueProduct;

  template <int R, int N>
  static RILL_INLINE void step(ProductJob& job, size_t k, V (&acc)[R][N], Ahead& ahead) {
    I sum[R][N];
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
      for (int p = 0; p < N; ++p) sum[r][p] = int_splat(0);
#pragma GCC unroll 2
    for (int pass = 0; pass < kWeightPasses; ++pass) {
      if (pass > 0)
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
          for (int p = 0; p < N; ++p) sum[r][p] = times_256(sum[r][p]);
#pragma GCC unroll 8
      for (size_t g = 0; g < 8; ++g) {
        if (pass == 0) ahead.ask<N * Product::kStepBytes, 8>(g);
        W4 v[N];
#pragma GCC unroll 16
        for (int p = 0; p < N; ++p)
          v[p] = load_s8(job.w + static_cast<size_t>(p) * Product::kStepBytes + g * 64);
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
          for (int p = 0; p < N; ++p)
            sum[r][p] = dot4_weights(sum[r][p], v[p], job.x + row_of(job, r), k + g * 4, pass);
      }
    }
    ahead.advance();
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const char* scales = job.x + row_of(job, r) + kWeightScales;
      const V scale = splat(reinterpret_cast<const float*>(scales)[k / 32]);
#pragma GCC unroll 16
      for (int p = 0; p < N; ++p) acc[r][p] = fma(scale, to_float(sum[r][p]), acc[r][p]);
    }
  }
};

// Calls f<P>(panel) for tiles of P panels or as many as are left of `panels`.
template <int P, class F>
RILL_INLINE void each_tile(size_t panels, const F& f) {
  size_t panel = 0;
  for (; panel + P <= panels; panel += P) f.template operator()<P>(panel);
  if constexpr (P > 4)
    for (; panel + 4 <= panels; panel += 4) f.template operator()<4>(panel);
  if constexpr (P > 2)
    for (; panel + 2 <= panels; panel += 2) f.template operator()<2>(panel);
  if constexpr (P > 1)
    for (; panel < panels; ++panel) f.template operator()<1>(panel);
}

// Few rows read V once, in the order in which it lies, if the registers hold a whole row of it.
template <class Product>
constexpr int value_panels(int rows) {
  return kRegisters >= 32 && rows <= 2 ? 8 : Product::panels(rows);
}

// Adds all of a job's k to acc. The rows of w, one for each step, are row_bytes apart.
template <class Kind, int R, int P>
RILL_INLINE void run_rows(ProductJob job, size_t row_bytes, Ahead& ahead, V (&acc)[R][P]) {
  using Product = typename Kind::Product;
  job.w_stride = Product::kStepBytes;
  if constexpr (requires { Kind::template run_rows<R, P>; }) {
    Kind::template run_rows<R, P>(job, row_bytes, ahead, acc);
  } else {
    for (size_t k = 0; k < job.k_end; k += Product::kStep) {
      Kind::template step<R, P>(job, k, acc, ahead);
      job.w += row_bytes;
    }
  }
}

// s[part][row + r][key] = q · k for R rows and all keys of the tile.
template <class Kind, int R>
void score_rows(const AttentionTile& t, size_t row, float* s) {
  using Product = typename Kind::Product;
  constexpr size_t kRowBytes = kBlockTokens / kPanel * Product::kStepBytes;
  const size_t first = t.first / kPanel * Product::kStepBytes;
  for (size_t part = 0; part * kBlockTokens < t.keys; ++part) {
    const size_t keys = least(kBlockTokens, t.keys - part * kBlockTokens);
    const bool last = part * kBlockTokens + keys == t.keys;
    const char* k = reinterpret_cast<const char*>(t.k[part]) + first;
    const char* next =
        reinterpret_cast<const char*>(last && Ahead::kFew<R> ? t.v[0] : t.k[part + 1]);
    float* const out = s + part * kPartFloats + row * kBlockTokens;
    each_tile<Product::panels(R)>(keys / kPanel, [&]<int P>(size_t panel) RILL_INLINE_LAMBDA {
      V acc[R][P];
      clear(acc);
      const size_t column = panel * Product::kStepBytes;
      ProductJob job{};
      job.w = k + column;
      job.x_stride = Kind::kQueryRowBytes;
      job.x_depth = kQuerySlice;
      const size_t steps = (t.head_dim + Product::kStep - 1) / Product::kStep;
      Ahead ahead(job.w, next + column, steps, kRowBytes, Ahead::kFew<R>);
      const char* q = reinterpret_cast<const char*>(t.q) + row * Kind::kQueryRowBytes;
      for (size_t d = 0; d < t.head_dim; d += kQuerySlice, q += t.q_slice_bytes) {
        job.x = q;
        job.k_end = least(kQuerySlice, t.head_dim - d);
        run_rows<Kind>(job, kRowBytes, ahead, acc);
        job.w += kQuerySlice / Product::kStep * kRowBytes;
      }
      store_tile(acc, out + panel * kPanel, kBlockTokens);
    });
  }
}

// The tile's R rows after joins[i] of them: what the contract calls merge(earlier, block).
template <int R, int P>
RILL_INLINE void join_tile(const Joins& joins, size_t row, size_t offset, size_t width,
                           V (&acc)[R][P]) {
  for (size_t i = 0; i < joins.count; ++i) {
    const float* o = joins.earlier[i].o + row * width + offset;
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const V f = splat(joins.f[i][row + static_cast<size_t>(r)]);
      const V g = splat(joins.g[i][row + static_cast<size_t>(r)]);
#pragma GCC unroll 16
      for (int p = 0; p < P; ++p)
        acc[r][p] = fma(load(o + static_cast<size_t>(r) * width + static_cast<size_t>(p) * kPanel),
                        f, mul(acc[r][p], g));
    }
  }
}

// o[row + r][dimension] = sum of p * v over the tile's keys, joined with the earlier states.
template <class Kind, int R>
void value_rows(const AttentionTile& t, size_t row, const float* p, const ValueSink& sink) {
  using Product = typename Kind::Product;
  const size_t width = padded(t.head_dim), row_bytes = width / kPanel * Product::kStepBytes;
  const size_t first = t.first / Product::kStep * row_bytes;
  each_tile<value_panels<Product>(R)>(width / kPanel, [&]<int P>(size_t panel) RILL_INLINE_LAMBDA {
    V acc[R][P];
    float* const out = sink.o + row * width + panel * kPanel;
    if (sink.accumulate)
      load_tile(acc, out, width);
    else
      clear(acc);
    const size_t column = panel * Product::kStepBytes;
    const char* x = reinterpret_cast<const char*>(p) + row * kScoreRowBytes;
    for (size_t part = 0; part * kBlockTokens < t.keys; ++part) {
      ProductJob job{};
      job.x = x + part * kPartFloats * sizeof(float);
      job.x_stride = kScoreRowBytes;
      job.k_begin = t.first % 32;  // of a run
      job.k_end = least(kBlockTokens, t.keys - part * kBlockTokens);
      const bool last = part * kBlockTokens + job.k_end == t.keys;
      job.k_end += t.first % Product::kStep;
      job.w = reinterpret_cast<const char*>(t.v[part]) + first + column;
      const char* next =
          reinterpret_cast<const char*>(last && Ahead::kFew<R> ? t.k[part + 1] : t.v[part + 1]);
      const size_t steps = (job.k_end + Product::kStep - 1) / Product::kStep;
      Ahead ahead(job.w, next + column, steps, row_bytes, Ahead::kFew<R>);
      run_rows<Kind>(job, row_bytes, ahead, acc);
    }
    // -0, which flushing may have left, turns into +0. For a running sum it is the contract's at
    // the end of a stripe, and in between it cannot be seen: a zero's sign only survives where
    // every later product is zero.
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
      for (int i = 0; i < P; ++i) acc[r][i] = add(acc[r][i], zero());
    if (sink.joins) join_tile(*sink.joins, row, panel * kPanel, width, acc);
    store_tile(acc, out, width);
  });
}

// The functions of one kind of scores and one of values by number of rows.
struct AttentionFamily {
  int score_rows, value_rows;  // the most
  ScoreFunction score[kMostRows + 1];
  ValueFunction value[kMostRows + 1];
};
template <class Kind, int R = Kind::Product::kRows>
constexpr void fill_scores(AttentionFamily& family) {
  if constexpr (R > 0) {
    family.score[R] = score_rows<Kind, R>;
    fill_scores<Kind, R - 1>(family);
  }
}
template <class Kind, int R = Kind::Product::kRows>
constexpr void fill_values(AttentionFamily& family) {
  if constexpr (R > 0) {
    family.value[R] = value_rows<Kind, R>;
    fill_values<Kind, R - 1>(family);
  }
}
template <class Scores, class Values = Scores>
constexpr AttentionFamily attention_family_of() {
  AttentionFamily family{};
  family.score_rows = Scores::Product::kRows;
  family.value_rows = Values::Product::kRows;
  fill_scores<Scores>(family);
  fill_values<Values>(family);
  return family;
}

constexpr size_t kBf16Bytes = kBf16Dot ? 2 : 4;  // of a bf16 operand
constexpr AttentionFamily kAttendF32 = attention_family_of<FloatKind<PlainProduct<LoadF32>, 4>>();
constexpr AttentionFamily kAttendF16 = attention_family_of<FloatKind<PlainProduct<LoadF16>, 4>>();
constexpr AttentionFamily kAttendAscending =
    attention_family_of<FloatKind<PairProduct<false>, 4>>();
constexpr AttentionFamily kAttendOddFirst =
    attention_family_of<FloatKind<Bf16Product, kBf16Bytes>>();
constexpr AttentionFamily kAttendRuns = attention_family_of<RunKind>();
constexpr AttentionFamily kAttendInt8 = attention_family_of<CodeScores, CodeValues>();

inline const AttentionFamily& attention_family(const AttentionTile& t) {
  if (t.kv == Format::F32) return kAttendF32;
  if (t.kv == Format::F16) return kAttendF16;
  if (t.kv == Format::INT8) return kAttendInt8;
  return t.operand == Operand::BF16      ? kAttendOddFirst
         : t.operand == Operand::BF16X32 ? kAttendRuns
                                         : kAttendAscending;
}

// Calls f(row, R) for stretches of nearly equal height of at most `rows`: the register tiles'.
template <class F>
RILL_INLINE void each_stretch(const AttentionTile& t, int rows, const F& f) {
  const size_t most = static_cast<size_t>(rows), count = (t.rows + most - 1) / most;
  for (size_t i = 0; i < count; ++i) {
    const size_t begin = t.rows * i / count;
    f(begin, t.rows * (i + 1) / count - begin);
  }
}

}  // namespace
}  // namespace rill
