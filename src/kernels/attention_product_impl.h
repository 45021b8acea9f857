// SPDX-License-Identifier: Apache-2.0
// The two products of attention: scores = Q K^T and values = P V, in the register tiles of
// product_impl.h. Rows of Q and P stand at constant distances, so that the compiler addresses all
// of them from one register, and V's tiles are merged into the states before they leave the
// registers. docs/arithmetic.md §9. attention_family_impl.h chooses among them.
#pragma once
#include "kernels/attention_ask_impl.h"

namespace rill {
namespace {

// Scores of a tile, and in their place the probabilities: [parts][rows][kBlockTokens] floats, a
// part for each pool block; a row of probabilities may be shorter.
constexpr size_t kScoreRowBytes = kBlockTokens * sizeof(float);
RILL_INLINE size_t part_floats(const AttentionTile& t) {
  return t.rows * kBlockTokens;
}

constexpr size_t padded(size_t head_dim) {
  return (head_dim + 15) / 16 * 16;
}

}  // namespace

// What the rows of a block's state are multiplied with when it is joined with earlier states: the
// i-th join is state = earlier[i] * f[i] + state * g[i].
struct Joins {
  const SoftmaxState* earlier;
  size_t count;
  alignas(64) float f[kMostJoins][kMostQueries], g[kMostJoins][kMostQueries];
};

// Rows of a tile for one of the products below, and how many of its keys they see, a multiple of
// 16.
struct Stretch {
  size_t row, rows, keys;
};
// Where K of a part is, and where a copy of it is left.
struct ScorePart {
  size_t index;
  const std::byte* k;
  char* copy;
};
// The same for V of all parts; the copies stand one after the other.
struct ValueParts {
  const std::byte* const* v;
  char* copy;
};
struct ValueSink {
  float* o;         // of the tile's first row, [rows][padded(head_dim)]
  bool accumulate;  // go on from what stands there
  const Joins* joins;
};
using ScoreFunction = void (*)(const AttentionTile& t, const Stretch& stretch,
                               const ScorePart& part, float* s);
using ValueFunction = void (*)(const AttentionTile& t, const Stretch& stretch,
                               const ValueParts& parts, const float* p, const ValueSink& sink);
using ScoresTogether = void (*)(const AttentionJob* jobs, size_t count);
using ValuesTogether = void (*)(const AttentionJob* jobs, size_t count, const Joins* const* joins);

namespace {

// What a kind of product does with the copy of K and V as floats: nothing, make it, read it.
enum class Copy { NONE, KEEPS, READS };

// How the products read their operands: a kind of product of product_impl.h and the bytes of an
// element of Q and P.
template <class P, size_t kBytes, Copy kOfBlock = Copy::NONE>
struct FloatKind {
  using Product = P;
  static constexpr Copy kCopy = kOfBlock;
  static constexpr size_t kElementBytes = kBytes, kQueryRowBytes = kQuerySlice * kBytes;
  static constexpr size_t kPiece = 32;  // dimensions after which many rows ask for what comes next
  static constexpr size_t kTurn = 2;  // dimensions, or keys, after which it is the next tile's turn

  // Adds the inputs from k on, of which job.w is the row.
  template <int R, int N, class Ask>
  static RILL_INLINE void step(ProductJob& job, size_t, V (&acc)[R][N], Ask& ahead) {
    ahead.template ask<N * Product::kStepBytes>();
    ahead.advance();
    Product::template step<R, N>(job, job.w, 0, acc, Part{0, N});
    job.x += Product::kStep * kBytes;
  }
};
// bf16x32: runs of 32 dimensions, or of 32 keys, cut by their place in the cache.
struct RunKind {
  struct Product : RunSums {
    static constexpr size_t kStep = 2, kStepBytes = 64;  // a pair
  };
  static constexpr Copy kCopy = Copy::NONE;
  static constexpr size_t kElementBytes = bf16_rows(Operand::BF16X32) ? 2 : 4;
  static constexpr size_t kQueryRowBytes = activation_bytes(Operand::BF16X32, kQuerySlice);
  static constexpr size_t kPiece = 32;

  // All of a job's k. The first of them is the k_begin-th of its run.
  template <int R, int N, class Ask>
  static RILL_INLINE void run_rows(ProductJob job, size_t row_bytes, Ask& ahead, V (&acc)[R][N]) {
    size_t left_of_run = 32 - job.k_begin;
    for (size_t k = 0; k < job.k_end;) {
      const size_t count = least(left_of_run, job.k_end - k);
      Product::add_run<R, N>(job, job.w, row_bytes, k, count / 2, acc, [&]() RILL_INLINE_LAMBDA {
        ahead.template ask<N * Product::kStepBytes>();
        ahead.advance();
      });
      job.w += count / 2 * row_bytes;
      k += count;
      left_of_run = 32;
    }
  }
};
// Codes of queries and keys. Those of a query, their scales and their sums stand apart.
struct CodeScores {
  using Product = IntProduct<Format::INT8>;
  static constexpr Copy kCopy = Copy::NONE;
  static constexpr size_t kElementBytes = sizeof(Code);
  static constexpr size_t kQueryRowBytes = activation_bytes(Operand::Q8, kQuerySlice);
  static constexpr size_t kPiece = kQuerySlice;  // a row's scales stand behind all its codes
  static constexpr size_t kTurn = kQuerySlice;

  template <int R, int N, class Ask>
  static RILL_INLINE void step(ProductJob& job, size_t k, V (&acc)[R][N], Ask& ahead) {
    Product::step_at<R, N>(job, job.w, k, acc, Part{0, N}, [&](size_t i) RILL_INLINE_LAMBDA {
      ahead.template ask<N * Product::kStepBytes, 8>(i);
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
  static constexpr Copy kCopy = Copy::NONE;
  static constexpr size_t kElementBytes = 0, kTurn = kBlockTokens;  // a row's scales stand behind

  template <int kPart, int R, int N>
  static RILL_INLINE void group(const ProductJob& job, size_t k, size_t g, int pass,
                                I (&sum)[R][N]) {
    W4 v[N];
#pragma GCC unroll 16
    for (int p = 0; p < N; ++p)
      v[p] = load_s8<kPart>(job.w + static_cast<size_t>(p) * Product::kStepBytes + g * 64);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
      for (int p = 0; p < N; ++p)
        sum[r][p] = dot4_weights<kPart>(sum[r][p], v[p], job.x + row_of(job, r), k + g * 4, pass);
  }
  template <int R, int N, class Ask>
  static RILL_INLINE void step(ProductJob& job, size_t k, V (&acc)[R][N], Ask& ahead) {
    make_room(acc);
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
        if (pass == 0) ahead.template ask<N * Product::kStepBytes, 8>(g);
        group<0>(job, k, g, pass, sum);
        if constexpr (kCodeParts > 1) group<1>(job, k, g, pass, sum);
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
template <class Kind, int R, int P, class Ask>
RILL_INLINE void run_rows(ProductJob& job, size_t row_bytes, Ask& ahead, V (&acc)[R][P]) {
  using Product = typename Kind::Product;
  job.w_stride = Product::kStepBytes;
  if constexpr (requires { Kind::template run_rows<R, P, Ask>; }) {
    Kind::template run_rows<R, P>(job, row_bytes, ahead, acc);
    job.w += job.k_end / Product::kStep * row_bytes;
  } else {
    for (size_t k = 0; k < job.k_end; k += Product::kStep) {
      Kind::template step<R, P>(job, k, acc, ahead);
      job.w += row_bytes;
      if constexpr (Kind::kCopy == Copy::KEEPS) job.copy += 2 * row_bytes;
    }
  }
}

// Whether a product is bound by reading and asks for what it reads. A tall tile's is not, be it of
// few rows: others have read the same before it.
template <class Kind, int R>
constexpr bool asks_ahead() {
  return Kind::kCopy != Copy::READS && R <= kFewRows;
}

// s[part][row + r][key] = q · k for the stretch's R rows and the keys of a part that they see.
template <class Kind, int R>
void score_rows(const AttentionTile& t, const Stretch& stretch, const ScorePart& part, float* s) {
  using Product = typename Kind::Product;
  constexpr size_t kRowBytes = kBlockTokens / kPanel * Product::kStepBytes;
  const size_t first = t.first / kPanel * Product::kStepBytes;
  const size_t keys = least(kBlockTokens, stretch.keys - part.index * kBlockTokens);
  const char* from = reinterpret_cast<const char*>(part.k) + first;
  const char* next = after_k(t, part.index);
  float* const out = s + part.index * part_floats(t) + stretch.row * kBlockTokens;
  const size_t steps = (t.head_dim + Product::kStep - 1) / Product::kStep;
  constexpr size_t kPanels = static_cast<size_t>(Product::panels(R));
  const size_t tiles = (keys / kPanel + kPanels - 1) / kPanels;
  const size_t pieces = (t.head_dim + Kind::kPiece - 1) / Kind::kPiece;
  AskEvenly evenly = asks_ahead<Kind, R>()
                         ? AskEvenly()
                         : AskEvenly(t, part.index, stretch.row, R, tiles * pieces);
  each_tile<Product::panels(R)>(keys / kPanel, [&]<int P>(size_t panel) RILL_INLINE_LAMBDA {
    V acc[R][P];
    clear(acc);
    const size_t column = panel * Product::kStepBytes;
    ProductJob job{};
    job.w = from + column;
    if constexpr (Kind::kCopy == Copy::KEEPS) job.copy = part.copy + 2 * (first + column);
    job.x_stride = Kind::kQueryRowBytes;
    job.x_depth = kQuerySlice;
    AskAhead ahead(job.w, next + column, steps, kRowBytes);
    const char* q = reinterpret_cast<const char*>(t.q) + stretch.row * Kind::kQueryRowBytes;
    for (size_t d = 0; d < t.head_dim; d += kQuerySlice, q += t.q_slice_bytes) {
      const size_t dims = least(kQuerySlice, t.head_dim - d);
      if constexpr (asks_ahead<Kind, R>()) {
        job.x = q;
        job.k_end = dims;
        run_rows<Kind>(job, kRowBytes, ahead, acc);
      } else {
        AskNothing nothing;  // between pieces: the loop over rows has no room for it
        for (size_t k = 0; k < dims; k += Kind::kPiece) {
          job.x = q + k * Kind::kElementBytes;
          job.k_end = least(Kind::kPiece, dims - k);
          evenly.ask();
          run_rows<Kind>(job, kRowBytes, nothing, acc);
        }
      }
    }
    store_tile(acc, out + panel * kPanel, kBlockTokens);
  });
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

// R rows of sums of p * v, from dimension `offset` on, joined with the earlier states and stored.
// -0, which flushing may have left, turns into +0 first. For a running sum it is the contract's at
// the end of a stripe, and in between it cannot be seen: a zero's sign only survives where every
// later product is zero.
template <int R, int P>
RILL_INLINE void finish_values(const ValueSink& sink, size_t row, size_t offset, size_t width,
                               V (&acc)[R][P]) {
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
    for (int i = 0; i < P; ++i) acc[r][i] = add(acc[r][i], zero());
  if (sink.joins) join_tile(*sink.joins, row, offset, width, acc);
  store_tile(acc, sink.o + row * width + offset, width);
}

// o[row + r][dimension] = sum of p * v over the keys that the stretch's R rows see, joined with the
// earlier states.
template <class Kind, int R>
void value_rows(const AttentionTile& t, const Stretch& stretch, const ValueParts& parts,
                const float* p, const ValueSink& sink) {
  using Product = typename Kind::Product;
  const size_t row = stretch.row;
  const size_t width = padded(t.head_dim), row_bytes = width / kPanel * Product::kStepBytes;
  const size_t first = t.first / Product::kStep * row_bytes;
  const size_t part_bytes = kBlockTokens / Product::kStep * row_bytes;
  each_tile<value_panels<Product>(R)>(width / kPanel, [&]<int P>(size_t panel) RILL_INLINE_LAMBDA {
    V acc[R][P];
    if (sink.accumulate)
      load_tile(acc, sink.o + row * width + panel * kPanel, width);
    else
      clear(acc);
    const size_t column = panel * Product::kStepBytes;
    const char* x = reinterpret_cast<const char*>(p) + row * kScoreRowBytes;
    for (size_t part = 0; part * kBlockTokens < stretch.keys; ++part) {
      ProductJob job{};
      job.x = x + part * part_floats(t) * sizeof(float);
      job.x_stride = kScoreRowBytes;
      job.k_begin = t.first % 32;  // of a run
      job.k_end = least(kBlockTokens, stretch.keys - part * kBlockTokens);
      job.k_end += t.first % Product::kStep;
      job.w = reinterpret_cast<const char*>(parts.v[part]) + first + column;
      if constexpr (Kind::kCopy == Copy::KEEPS)
        job.copy = parts.copy + 2 * (part * part_bytes + first + column);
      const char* next = after_v(t, part);
      const size_t steps = (job.k_end + Product::kStep - 1) / Product::kStep;
      AskAhead ahead(job.w, next + column, steps, row_bytes);
      AskNothing nothing;
      if constexpr (asks_ahead<Kind, R>())
        run_rows<Kind>(job, row_bytes, ahead, acc);
      else
        run_rows<Kind>(job, row_bytes, nothing, acc);
    }
    finish_values(sink, row, panel * kPanel, width, acc);
  });
}

// ---- Several tiles of the same few rows, in turn (AttentionJob) ----

// As score_rows, of all rows and keys.
template <class Kind, int R>
void scores_together(const AttentionJob* jobs, size_t count) {
  using Product = typename Kind::Product;
  constexpr size_t kRowBytes = kBlockTokens / kPanel * Product::kStepBytes;
  constexpr size_t kTurnRows = Kind::kTurn / Product::kStep;
  const AttentionTile& shape = jobs->tile;
  const size_t steps = (shape.head_dim + Product::kStep - 1) / Product::kStep;
  for (size_t part = 0; part * kBlockTokens < shape.keys; ++part)
    each_tile<Product::panels(R)>(
        kBlockTokens / kPanel, [&]<int P>(size_t panel) RILL_INLINE_LAMBDA {
          const size_t column = panel * Product::kStepBytes;
          Stream keys[kMostTogether];
          float* out[kMostTogether];
          for (size_t i = 0; i < count; ++i) {
            const AttentionTile& t = jobs[i].tile;
            keys[i] = {reinterpret_cast<const char*>(t.k[part]) + column, after_k(t, part) + column,
                       kRowBytes, steps, kTurnRows};
            out[i] = reinterpret_cast<float*>(t.scratch) + part * part_floats(t) + panel * kPanel;
          }
          const char* q = reinterpret_cast<const char*>(shape.q);
          size_t row = 0;
          for (size_t d = 0; d < shape.head_dim; d += kQuerySlice, q += shape.q_slice_bytes) {
            const size_t dims = least(kQuerySlice, shape.head_dim - d);
            for (size_t k = 0; k < dims; k += Kind::kTurn, row += kTurnRows) {
              for (size_t i = 0; i < count; ++i) {
                V acc[R][P];
                if (row == 0)
                  clear(acc);
                else
                  load_tile(acc, out[i], kBlockTokens);
                ProductJob job{};
                job.w = keys[i].at(row);
                job.x = q + k * Kind::kElementBytes;
                job.x_stride = Kind::kQueryRowBytes;
                job.x_depth = kQuerySlice;
                job.k_end = least(Kind::kTurn, dims - k);
                keys[i].ask_next_page(row);
                AskOn ahead = keys[i].ahead(row);
                run_rows<Kind>(job, kRowBytes, ahead, acc);
                store_tile(acc, out[i], kBlockTokens);
              }
            }
          }
        });
}

// As value_rows, from probabilities in each tile's scratch.
template <class Kind, int R>
void values_together(const AttentionJob* jobs, size_t count, const Joins* const* joins) {
  using Product = typename Kind::Product;
  const AttentionTile& shape = jobs->tile;
  const size_t width = padded(shape.head_dim), row_bytes = width / kPanel * Product::kStepBytes;
  constexpr size_t kRows = kBlockTokens / Product::kStep, kTurnRows = Kind::kTurn / Product::kStep;
  each_tile<value_panels<Product>(R)>(width / kPanel, [&]<int P>(size_t panel) RILL_INLINE_LAMBDA {
    const size_t column = panel * Product::kStepBytes;
    alignas(64) float sums[kMostTogether][R * P * kPanel];
    for (size_t part = 0; part * kBlockTokens < shape.keys; ++part) {
      Stream values[kMostTogether];
      const char* p[kMostTogether];
      for (size_t i = 0; i < count; ++i) {
        const AttentionTile& t = jobs[i].tile;
        values[i] = {reinterpret_cast<const char*>(t.v[part]) + column, after_v(t, part) + column,
                     row_bytes, kRows, kTurnRows};
        p[i] = reinterpret_cast<const char*>(t.scratch) + part * part_floats(t) * sizeof(float);
      }
      for (size_t row = 0; row < kRows; row += kTurnRows) {
        for (size_t i = 0; i < count; ++i) {
          V acc[R][P];
          if (part + row == 0)
            clear(acc);
          else
            load_tile(acc, sums[i], P * kPanel);
          ProductJob job{};
          job.w = values[i].at(row);
          job.x = p[i] + row * Product::kStep * Kind::kElementBytes;
          job.x_stride = kScoreRowBytes;
          job.k_end = Kind::kTurn;
          values[i].ask_next_page(row);
          AskOn ahead = values[i].ahead(row);
          run_rows<Kind>(job, row_bytes, ahead, acc);
          store_tile(acc, sums[i], P * kPanel);
        }
      }
    }
    for (size_t i = 0; i < count; ++i) {
      V acc[R][P];
      load_tile(acc, sums[i], P * kPanel);
      finish_values({jobs[i].out.o, false, joins[i]}, 0, panel * kPanel, width, acc);
    }
  });
}

}  // namespace
}  // namespace rill
