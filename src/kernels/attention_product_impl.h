// SPDX-License-Identifier: Apache-2.0
// The two products of attention: scores = Q K^T and values = P V, in the register tiles of
// product_impl.h. Rows of Q and P stand at constant distances, so that the compiler addresses all
// of them from one register, and V's tiles are merged into the states before they leave the
// registers. docs/arithmetic.md §9. Included after pointwise_impl.h.
#pragma once
#include "kernels/pointwise_impl.h"

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
constexpr size_t least(size_t a, size_t b) {
  return a < b ? a : b;
}

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

constexpr int kFewRows = static_cast<int>(kFewQueries);  // are bound by reading

// What is read after the K and the V of a part.
RILL_INLINE const char* after_k(const AttentionTile& t, size_t part) {
  const bool last = (part + 1) * kBlockTokens >= t.keys;
  return reinterpret_cast<const char*>(last ? t.v[0] : t.k[part + 1]);
}
RILL_INLINE const char* after_v(const AttentionTile& t, size_t part) {
  const bool last = (part + 1) * kBlockTokens >= t.keys;
  return reinterpret_cast<const char*>(last ? t.next_k : t.v[part + 1]);
}

// Asks for the kBytes from `at` on, to come as near as the L1 (3) or the L2 cache (2); or for the
// i-th of kPieces pieces of them.
template <size_t kBytes, int kCache>
RILL_INLINE void ask_for(const char* at) {
#pragma GCC unroll 16
  for (size_t i = 0; i < kBytes; i += 64) __builtin_prefetch(at + i, 0, kCache);
}
template <size_t kBytes, size_t kPieces, int kCache>
RILL_INLINE void ask_for_piece(const char* at, size_t i) {
  constexpr size_t kLines = (kBytes + 63) / 64, kMost = (kLines + kPieces - 1) / kPieces;
#pragma GCC unroll 16
  for (size_t line = 0; line < kMost; ++line)
    if (i * kMost + line < kLines) __builtin_prefetch(at + (i * kMost + line) * 64, 0, kCache);
}

// For a few rows: asks for memory a short distance before it is read, where rows lie one after the
// other and what comes after them lies elsewhere: from K on to V and from there to the next block.
// The processor's own prefetching would lose its stride at every jump.
class AskAhead {
 public:
  // The columns at `w` of `rows` rows of row_bytes each; after them those at `next`.
  AskAhead(const char* w, const char* next, size_t rows, size_t row_bytes)
      : next_(next), row_bytes_(row_bytes), left_(rows) {
    const size_t ahead = least(rows, kDistance / row_bytes);
    left_ -= ahead;
    at_ = left_ ? w + ahead * row_bytes : next;
  }
  // For the next row; kBytes are its columns.
  template <size_t kBytes>
  RILL_INLINE void ask() {
    ask_for<kBytes, 2>(at_);
    advance();
  }
  // The same in pieces, of which this is the i-th, and then advance().
  template <size_t kBytes, size_t kPieces>
  RILL_INLINE void ask(size_t i) {
    ask_for_piece<kBytes, kPieces, 3>(at_, i);
  }
  RILL_INLINE void advance() { at_ = --left_ == 0 ? next_ : at_ + row_bytes_; }

 private:
  static constexpr size_t kDistance = 8192;  // 4 to 16 KiB serve alike
  const char *at_, *next_;
  size_t row_bytes_, left_;
};

// For some rows of one of several streams: what lies a fixed distance on.
struct AskOn {
  const char* at;
  size_t row_bytes;

  template <size_t kBytes>
  RILL_INLINE void ask() {
    ask_for<kBytes, 2>(at);
    advance();
  }
  template <size_t kBytes, size_t kPieces>
  RILL_INLINE void ask(size_t i) {
    ask_for_piece<kBytes, kPieces, 2>(at, i);
  }
  RILL_INLINE void advance() { at += row_bytes; }
};
// One of several streams of columns: rows of w, and after them those at `next`.
struct Stream {
  const char *w, *next;
  size_t row_bytes, rows;

  static constexpr size_t kDistance = 1024;
  // What is asked for while the rows from `row` on are read. Rows that are read in one turn are
  // asked for in one: they lie one after the other.
  RILL_INLINE AskOn ahead(size_t row, size_t turn) const {
    const size_t on = row + (kDistance / row_bytes < turn ? turn : kDistance / row_bytes);
    return {on < rows ? w + on * row_bytes : next + (on - rows) * row_bytes, row_bytes};
  }
};

// For many rows, which use a block for long: while they meet the keys of a part, its values and the
// keys of the next part are asked for, evenly over all rows, so that the caches beyond keep up.
class AskEvenly {
 public:
  AskEvenly() : at_(nullptr), end_(nullptr), then_(nullptr), then_end_(nullptr), step_(0) {}
  // The share of some rows, in so many calls of ask().
  AskEvenly(const AttentionTile& t, size_t part, size_t row, size_t rows, size_t calls) {
    const size_t values = v_block_bytes(t.kv, t.head_dim) / 64;
    const size_t lines = values + k_block_bytes(t.kv, t.head_dim) / 64;
    const size_t first = lines * row / t.rows, last = lines * (row + rows) / t.rows;
    const char* const v = reinterpret_cast<const char*>(t.v[part]);
    const bool last_part = (part + 1) * kBlockTokens >= t.keys;
    const char* const k = reinterpret_cast<const char*>(last_part ? t.next_k : t.k[part + 1]);
    at_ = v + least(first, values) * 64;
    end_ = v + least(last, values) * 64;
    then_ = k + (first - least(first, values)) * 64;
    then_end_ = k + (last - least(last, values)) * 64;
    step_ = (last - first + calls - 1) / calls;
  }
  RILL_INLINE void ask() {
    for (size_t i = 0; i < step_; ++i) {
      if (at_ == end_) {
        if (then_ == then_end_) return;
        at_ = then_;
        end_ = then_ = then_end_;
      }
      __builtin_prefetch(at_, 0, 2);
      at_ += 64;
    }
  }

 private:
  const char *at_, *end_, *then_, *then_end_;  // V's, then K's
  size_t step_;
};
// There is nothing to ask for, or it is asked for elsewhere.
struct AskNothing {
  template <size_t>
  RILL_INLINE void ask() {}
  // Without a barrier GCC 12 loads all pieces first and runs out of registers.
  template <size_t, size_t>
  RILL_INLINE void ask(size_t) {
    asm volatile("" : : : "memory");
  }
  RILL_INLINE void advance() {}
};

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

  template <int R, int N, class Ask>
  static RILL_INLINE void step(ProductJob& job, size_t k, V (&acc)[R][N], Ask& ahead) {
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
                       kRowBytes, steps};
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
                job.w = keys[i].w + row * kRowBytes;
                job.x = q + k * Kind::kElementBytes;
                job.x_stride = Kind::kQueryRowBytes;
                job.x_depth = kQuerySlice;
                job.k_end = least(Kind::kTurn, dims - k);
                AskOn ahead = keys[i].ahead(row, kTurnRows);
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
                     row_bytes, kRows};
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
          job.w = values[i].w + row * row_bytes;
          job.x = p[i] + row * Product::kStep * Kind::kElementBytes;
          job.x_stride = kScoreRowBytes;
          job.k_end = Kind::kTurn;
          AskOn ahead = values[i].ahead(row, kTurnRows);
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

// The functions of one kind of scores and one of values by number of rows. In a tile of several
// times score_rows `tall` takes most rows, or all: it reads floats. If K and V are not floats,
// `first` takes some rows beforehand and leaves them as floats.
struct AttentionFamily {
  int score_rows, value_rows;  // the most
  ScoreFunction score[kMostRows + 1];
  ValueFunction value[kMostRows + 1];
  // Of several tiles at a time; null where one at a time is as fast.
  ScoresTogether scores_together[kFewQueries + 1];
  ValuesTogether values_together[kFewQueries + 1];
  const AttentionFamily *first, *tall;
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
// Sums go through the first-level cache at every turn. Where registers are few that costs more than
// several streams gain (a Granite Rapids with AVX2 is a fifth slower), and runs take turns too long
// to gain anything.
template <class Kind>
constexpr bool meets_together() {
  if constexpr (requires { Kind::kTurn; })
    return kRegisters >= 32 && Kind::kCopy == Copy::NONE;
  else
    return false;
}
template <class Scores, class Values, int R>
constexpr void fill_together(AttentionFamily& family) {
  if constexpr (R > 0) {
    if constexpr (R <= Scores::Product::kRows && R <= Values::Product::kRows) {
      family.scores_together[R] = scores_together<Scores, R>;
      family.values_together[R] = values_together<Values, R>;
    }
    fill_together<Scores, Values, R - 1>(family);
  }
}
template <class Scores, class Values = Scores>
constexpr AttentionFamily attention_family_of(const AttentionFamily* first = nullptr,
                                              const AttentionFamily* tall = nullptr) {
  AttentionFamily family{};
  family.score_rows = Scores::Product::kRows;
  family.value_rows = Values::Product::kRows;
  family.first = first;
  family.tall = tall;
  fill_scores<Scores>(family);
  fill_values<Values>(family);
  if constexpr (meets_together<Scores>()) fill_together<Scores, Values, kFewRows>(family);
  return family;
}

// A product whose weights are floats already, in tiles that load least for each multiplication: of
// 24, 6 x 4 loads 10 times and 12 x 2 14 times, which a Xeon's loads just do not keep up with.
template <class P>
struct Tall : P {
  static constexpr int kRows = kRegisters >= 32 ? 6 : P::kRows;
};

template <class P, Copy kCopy = Copy::NONE>
using Fp32Kind = FloatKind<P, sizeof(float), kCopy>;
constexpr AttentionFamily kTallF32 =
    attention_family_of<Fp32Kind<Tall<PlainProduct<LoadF32>>, Copy::READS>>();
constexpr AttentionFamily kAttendF32 =
    attention_family_of<Fp32Kind<PlainProduct<LoadF32>>>(nullptr, &kTallF32);
constexpr AttentionFamily kFirstF16 =
    attention_family_of<Fp32Kind<PlainProduct<KeepF16>, Copy::KEEPS>>();
constexpr AttentionFamily kAttendF16 =
    attention_family_of<Fp32Kind<PlainProduct<LoadF16>>>(&kFirstF16, &kTallF32);

template <bool kOddFirst>
constexpr AttentionFamily kTallPairs =
    attention_family_of<Fp32Kind<Tall<PairProduct<kOddFirst, LoadFloatPairs>>, Copy::READS>>();
template <bool kOddFirst>
constexpr AttentionFamily kFirstPairs =
    attention_family_of<Fp32Kind<PairProduct<kOddFirst, KeepPairs>, Copy::KEEPS>>();
template <bool kOddFirst>
constexpr AttentionFamily kAttendPairs = attention_family_of<Fp32Kind<PairProduct<kOddFirst>>>(
    &kFirstPairs<kOddFirst>, &kTallPairs<kOddFirst>);

#if defined(RILL_BF16_DOT)
constexpr AttentionFamily kAttendOddFirst =
    attention_family_of<FloatKind<Bf16Product, sizeof(uint16_t)>>();
#else
constexpr const AttentionFamily& kAttendOddFirst = kAttendPairs<true>;
#endif
constexpr AttentionFamily kAttendRuns = attention_family_of<RunKind>();
constexpr AttentionFamily kAttendInt8 = attention_family_of<CodeScores, CodeValues>();

inline const AttentionFamily& attention_family(const AttentionTile& t) {
  if (t.kv == Format::F32) return kAttendF32;
  if (t.kv == Format::F16) return kAttendF16;
  if (t.kv == Format::INT8) return kAttendInt8;
  return t.operand == Operand::BF16      ? kAttendOddFirst
         : t.operand == Operand::BF16X32 ? kAttendRuns
                                         : kAttendPairs<false>;
}

// How many of the tile's keys are seen by any of some rows, rounded up to 16.
RILL_INLINE size_t keys_seen(const AttentionTile& t, size_t row, size_t rows) {
  if (!t.visible) return t.keys;
  int32_t most = 0;
  for (size_t r = row; r < row + rows; ++r) most = most > t.visible[r] ? most : t.visible[r];
  return least(t.keys, (static_cast<size_t>(most) + 15) / 16 * 16);
}

// Calls f(stretch) for stretches of the first `rows` rows, of nearly equal height of at most
// `most`, a register tile's.
template <class F>
RILL_INLINE void each_stretch(const AttentionTile& t, size_t rows, int most, const F& f) {
  const size_t count = (rows + static_cast<size_t>(most) - 1) / static_cast<size_t>(most);
  for (size_t i = 0; i < count; ++i) {
    const size_t first = rows * i / count, last = rows * (i + 1) / count;
    f(Stretch{first, last - first, keys_seen(t, first, last - first)});
  }
}

// How a tile's rows meet its keys: `first_rows` of them at the end, which see most, before the
// others.
struct TilePlan {
  explicit TilePlan(const AttentionTile& t)
      : first(&attention_family(t)), others(first), first_rows(0), copy(nullptr) {
    const auto most = static_cast<size_t>(first->score_rows);
    const bool widens = first->first;
    const bool fits = t.scratch && widened_bytes(t.kv, t.operand, t.head_dim, t.keys) > 0;
    if (!first->tall || t.rows <= most || (widens && !fits)) return;
    others = first->tall;
    if (!widens) return;
    first_rows = most;
    first = first->first;
    // After the scores.
    copy = reinterpret_cast<char*>(t.scratch) + attention_scratch_bytes(t.keys, t.rows);
  }
  size_t rest(const AttentionTile& t) const { return t.rows - first_rows; }
  // They meet all keys, so that the copy is whole.
  Stretch first_stretch(const AttentionTile& t) const { return {rest(t), first_rows, t.keys}; }

  const AttentionFamily *first, *others;
  size_t first_rows;
  char* copy;  // of K, and then of V; null where they are floats
};

void scores_by_stretches(const AttentionTile& t, float* s) {
  const TilePlan plan(t);
  for (size_t part = 0; part * kBlockTokens < t.keys; ++part) {
    const std::byte* k = t.k[part];
    if (plan.first_rows > 0)
      plan.first->score[plan.first_rows](t, plan.first_stretch(t), {part, k, plan.copy}, s);
    // Each part's copy is in the same place, which stays in a near cache.
    if (plan.copy) k = reinterpret_cast<const std::byte*>(plan.copy);
    each_stretch(t, plan.rest(t), plan.others->score_rows,
                 [&](const Stretch& stretch) RILL_INLINE_LAMBDA {
                   if (stretch.keys > part * kBlockTokens)
                     plan.others->score[stretch.rows](t, stretch, {part, k, nullptr}, s);
                 });
  }
}

void values_by_stretches(const AttentionTile& t, const float* p, const ValueSink& sink) {
  const TilePlan plan(t);
  const std::byte* const* v = t.v;
  const std::byte* copied[kMostBlockTokens / kBlockTokens];
  if (plan.first_rows > 0)
    plan.first->value[plan.first_rows](t, plan.first_stretch(t), {v, plan.copy}, p, sink);
  if (plan.copy) {
    const size_t part_bytes = attention_scratch_bytes(kBlockTokens, padded(t.head_dim));
    for (size_t part = 0; part * kBlockTokens < t.keys; ++part)
      copied[part] = reinterpret_cast<const std::byte*>(plan.copy) + part * part_bytes;
    v = copied;
  }
  each_stretch(t, plan.rest(t), plan.others->value_rows,
               [&](const Stretch& stretch) RILL_INLINE_LAMBDA {
                 plan.others->value[stretch.rows](t, stretch, {v, nullptr}, p, sink);
               });
}

}  // namespace
}  // namespace rill
