// SPDX-License-Identifier: Apache-2.0
// The table of kernels: one contract per operation, one table per instruction set. Which table is
// used never changes a bit of a result (docs/arithmetic.md gives the order of every operation).
//
// Functions in here have internal linkage: this header is compiled for every instruction set, and a
// weak symbol could be taken from the wrong one.
//
// Sizes are in elements unless a name says bytes. All pointers are aligned to 4 bytes at least;
// packed data and scratch to 64. Kernels allocate nothing and do not throw.
#pragma once
#include <cstddef>  // std::byte alone
#include <cstdint>

namespace rill {

/// Outputs side by side in a packed panel: one zmm, two ymm, sixteen scalars.
constexpr size_t kPanel = 16;
/// k is padded with zeros to a multiple of this.
constexpr size_t kDepthUnit = 32;
/// Tokens in a block of the KV cache, and the most in a block of attention.
constexpr size_t kBlockTokens = 64, kMostBlockTokens = 1024;
/// The most rows of a register tile.
constexpr size_t kMostRows = 12;
/// The most query rows of one attention tile: they meet a block of K and V together, in register
/// tiles of kMostRows or fewer.
constexpr size_t kMostQueries = 96;
/// Query rows of attention are kept in slices of so many dimensions, so that rows of every head
/// size stand equally far apart.
constexpr size_t kQuerySlice = 128;
/// The most states that one attention block is joined with at once: its stripe's, and one for each
/// level of the tree over 64 stripes.
constexpr size_t kMostJoins = 7;
/// Leaves of a projection that ranks may cut along k.
constexpr size_t kLeaves = 8;

/// Storage of a packed matrix; the same bytes for every instruction set. n are outputs, k inputs.
///   F32   [n/16][k][16]            float
///   F16   [n/16][k][16]            half
///   BF16  [n/16][k/2][16][2]       bfloat16: one load holds k and k+1 of sixteen outputs
///   INT8  [n/16][k/32]{half scale[16]; uint8 q[8][16][4]}   value = scale * (q - 128)
///   INT4  [n/16][k/32]{half scale[16]; uint8 q[4][16][4]}   value = scale * (nibble - 8); the low
///         nibbles of group c are k = 4c .. 4c+3, the high ones k = 16 + 4c ..
enum class Format : uint8_t { F32, F16, BF16, INT8, INT4 };

/// Bytes of `k` inputs (a multiple of kDepthUnit; of 2 for BF16) of one panel.
static constexpr size_t panel_bytes(Format format, size_t k) {
  switch (format) {
    case Format::F32:
      return k * kPanel * 4;
    case Format::F16:
    case Format::BF16:
      return k * kPanel * 2;
    case Format::INT8:
      return k / 32 * (2 * kPanel + 32 * kPanel);
    case Format::INT4:
      return k / 32 * (2 * kPanel + 16 * kPanel);
  }
  return 0;
}

/// Bytes of K (or V) of one head in a block of the KV cache: see AttentionTile.
static constexpr size_t k_block_bytes(Format format, size_t head_dim) {
  const size_t unit = format == Format::INT8 ? kDepthUnit : 1;
  return kBlockTokens / kPanel * panel_bytes(format, (head_dim + unit - 1) / unit * unit);
}
static constexpr size_t v_block_bytes(Format format, size_t head_dim) {
  const size_t width = (head_dim + kPanel - 1) / kPanel * kPanel;
  if (format == Format::INT8) return kBlockTokens * (width + sizeof(float));
  return width / kPanel * panel_bytes(format, kBlockTokens);
}

/// What the activations of a product are: fp32 as they are, rounded to bf16, or quantised in
/// blocks of 32 to int8. BF16 and BF16X32 are the same values, summed in different orders.
enum class Operand : uint8_t { F32, BF16, BF16X32, Q8 };

/// A packed weight matrix, borrowed. Output i is sum over k of weight[i][k] * x[k].
struct PackedMatrix {
  Format format;
  size_t outputs;              // n, not padded
  size_t depth;                // k, padded to kDepthUnit
  const std::byte* data;       // [ceil(n/16)] panels of panel_bytes(format, depth)
  size_t leaves;               // 1, or kLeaves: the sum is a tree of leaves
  uint32_t leaf[kLeaves + 1];  // leaf i is k in [leaf[i], leaf[i+1]); multiples of kDepthUnit
};

/// Rows of activations converted for products, borrowed. The layout inside a row is the kernel
/// table's own affair: only the table that wrote it may read it.
struct Activations {
  Operand operand;
  size_t rows;
  size_t depth;     // k, padded with zeros to kDepthUnit
  std::byte* data;  // [rows][stride_bytes]
  size_t stride_bytes;
};

enum class Epilogue : uint8_t {
  STORE,     // y = acc (+ bias)
  ADD,       // y = y + (acc + bias): y holds the residual
  SILU_MUL,  // panels are gate, up, gate, up, ...: y = silu(gate) * up, [rows][outputs / 2]
};

/// y = W x for all rows of `x`.
struct LinearJob {
  const PackedMatrix* weight;
  const float* bias;  // [outputs] or null; not with SILU_MUL
  Activations x;
  float* y;  // [x.rows][y_stride]
  size_t y_stride;
  Epilogue epilogue;
};

/// The state of an online softmax over some keys, for the rows of one tile, borrowed.
///   m   the largest score (base-2 logits), -infinity when no key was seen
///   l   sum of exp2(s - m), kept in sixteen lanes (lane = key mod 16)
///   o   sum of exp2(s - m) * v
struct SoftmaxState {
  float* m;  // [rows], room for a multiple of 16
  float* l;  // [rows][16]
  float* o;  // [rows][o_stride], o_stride = head_dim rounded up to 16
};

/// Floats of the SoftmaxState of up to `rows` rows: m is followed by l and o (each aligned to 64
/// bytes).
static constexpr size_t state_floats(size_t head_dim, size_t rows) {
  return (rows + 15) / 16 * 16 + rows * (16 + (head_dim + 15) / 16 * 16);
}
[[maybe_unused]] static inline SoftmaxState state_at(float* base, size_t rows) {
  float* const l = base + (rows + 15) / 16 * 16;
  return {base, l, l + rows * 16};
}

/// A tile of query rows against the keys of one attention block (or, for standard attention, of
/// any run of keys). K and V are read as the KV cache stores them, per pool block of 64 tokens,
/// with W = head_dim rounded up to 16:
///   F32, F16  K [head_dim][64]         V [64][W]
///   BF16      K [head_dim / 2][64][2]  V [64 / 2][W][2]: pairs, as in a weight's panels
///   INT8      K [head_dim / 32][64 / 16] blocks as in a weight's panels
///             V int8 [64 / 32][W / 16][8][16][4]: as in a weight's panels, but signed;
///             then float scale[64]: value = scale * q
/// so that a few rows of queries read both from the first byte to the last.
struct AttentionTile {
  Format kv;        // F32, F16, BF16 or INT8
  Operand operand;  // F32, BF16 or BF16X32: what the probabilities are
  size_t head_dim;
  size_t rows;  // 1 to kMostQueries
  // Of each slice of dimensions [rows][activation_bytes(o, kQuerySlice)], as convert writes it; o
  // is query_operand(kv, operand).
  const std::byte* q;
  size_t q_slice_bytes;  // from slice to slice
  // Pool blocks of this head, from the one that holds `first`, and what is read next, to be asked
  // for ahead.
  const std::byte* const* k;
  const std::byte* const* v;
  const std::byte *next_k, *next_v;
  size_t first;  // offset of the first key in k[0], a multiple of 16; 0 if there are more
  size_t keys;   // a multiple of 16; keys past a row's visible ones weigh +0 or are skipped
  const int32_t* visible;  // [rows] keys from `first` on that the row sees, <= 0 none; null: all
  std::byte* scratch;      // attention_scratch_bytes(keys, rows), for attend() widened_bytes() more
};

/// A tile's state of its keys from nothing, merged into earlier[0], that into earlier[1], and so on
/// (each the earlier one); at most kMostJoins. The result is written to `out`, which may be one of
/// them.
struct AttentionJob {
  AttentionTile tile;
  const SoftmaxState* earlier;
  size_t earlier_count;
  SoftmaxState out;
};
/// Decoding is bound by reading, and memory is read faster in several streams than in one: tiles of
/// up to kFewQueries rows may be met kMostTogether at a time.
constexpr size_t kFewQueries = 4, kMostTogether = 4;

/// What queries are multiplied as: int8 keys want codes too.
static constexpr Operand query_operand(Format kv, Operand operand) {
  return kv == Format::INT8 ? Operand::Q8 : operand;
}

/// Up to sixteen rows of a row-major matrix in a checkpoint.
struct PackSource {
  Format dtype;                  // F32, F16 or BF16
  bool through_f16;              // round to F16 first (--weights f16 under bf16 compute)
  size_t columns;                // k, not padded
  const std::byte* row[kPanel];  // null: a row of zeros
};

/// The angles of a position's rotation: position * inverse[i], in double.
struct RopeAngles {
  const double* inverse;  // [count] frequencies
  size_t count;           // head_dim / 2
  double factor;          // what cosines and sines are multiplied with
};

/// One instruction set.
struct Kernels {
  const char* name;     // "scalar", "avx2", "avx512", "avx512vnni", "avx512bf16", "amx"
  bool (*supported)();  // can this processor run it?
  size_t tile_rows;     // rows of the widest register tile: a good granule for prefill

  /// Bytes of one converted row: for Activations::stride_bytes. A multiple of 64, and never a
  /// multiple of 4096 (rows of a tile would fall on one set of the L1 cache).
  size_t (*activation_bytes)(Operand operand, size_t depth);

  /// Converts `count` values of one row to `operand`, padded with zeros to `depth`.
  void (*convert)(Operand operand, const float* x, size_t count, size_t depth, std::byte* out);

  /// Whether a row is converted to as many values of fp32, so that `out` may be where x is: if
  /// count is depth. F32 leaves them as they are.
  bool (*converts_in_place)(Operand operand);

  /// y = W x on the panels [first, last) of the weight (with SILU_MUL both even).
  void (*linear)(const LinearJob& job, size_t first, size_t last);

  /// y[i] = (x[i] * r) * weight[i], r = 1 / sqrt(sum of squares / n + eps). In place is fine.
  void (*rms_norm)(const float* x, const float* weight, size_t n, float eps, float* y);

  /// The cosines and sines of a position (up to 2^31), [angles.count], each rounded once to fp32.
  void (*rotations)(const RopeAngles& angles, double position, float* cosine, float* sine);

  /// Rotates the halves of one head in place: (a, b) -> (a cos - b sin, b cos + a sin), then
  /// multiplies by `scale` (1 leaves the bits). cosine, sine [head_dim / 2].
  void (*rope)(float* x, const float* cosine, const float* sine, size_t head_dim, float scale);

  /// Writes one token's K (or V) of one head, [head_dim] (even), into slot `slot` (0 to 63) of a
  /// block of the KV cache, laid out as AttentionTile says. The slots 2i and 2i+1 of a head share
  /// words of V: one thread at a time.
  void (*store_k)(Format format, const float* k, size_t head_dim, size_t slot, std::byte* block);
  void (*store_v)(Format format, const float* v, size_t head_dim, size_t slot, std::byte* block);

  /// Streaming attention: one job, or up to kMostTogether of the same few queries, each of whole
  /// pool blocks (`first` is 0) that all rows see. Those have states and scratch of their own, and
  /// what is read next is each one's own.
  void (*attend)(const AttentionJob* jobs, size_t count);

  /// a = merge(a, b), a earlier.
  void (*merge)(SoftmaxState a, SoftmaxState b, size_t rows, size_t head_dim);

  /// Standard attention, step 1: the scores of tile.keys keys in the kernels' own order,
  /// attention_scratch_bytes(keys, rows), and m[row] = max(m[row], scores).
  void (*scores)(const AttentionTile& tile, float* scores, float* m);

  /// Standard attention, step 2: adds the keys of `tile` with the given maximum state.m to the
  /// chains state.l and state.o (which start at +0). `scores` is overwritten.
  void (*accumulate)(const AttentionTile& tile, float* scores, SoftmaxState state);

  /// Standard attention: a.l += b.l, a.o += b.o.
  void (*add)(SoftmaxState a, SoftmaxState b, size_t rows, size_t head_dim);

  /// out[row] = o / l for one row of a state; l lanes join by the tree 8-4-2-1.
  void (*finish)(SoftmaxState state, size_t row, size_t head_dim, float* out);

  /// Packs up to sixteen rows of weights into one panel of `format`, zeros beyond. False if a value
  /// does not fit: not finite, or too large for F16 or for the half-precision scales of INT8, INT4.
  bool (*pack)(const PackSource& source, Format format, size_t depth, std::byte* panel);
};

/// Bytes of one core's L2 cache, by which blocks are cut (base/topology.h, or a guess where that
/// does not know).
size_t level2_bytes();

/// Bytes of the scores of `rows` rows with `keys` keys.
static constexpr size_t attention_scratch_bytes(size_t keys, size_t rows) {
  return (keys + kBlockTokens - 1) / kBlockTokens * kBlockTokens * rows * 4;
}
/// Bytes in which attend() keeps K, and then V, of a block as fp32 for all register tiles of a
/// tile; 0 where it does not.
static constexpr size_t widened_bytes(Format kv, Operand operand, size_t head_dim, size_t keys) {
  constexpr size_t kMost = size_t{1} << 20;
  const size_t bytes = attention_scratch_bytes(keys, (head_dim + 15) / 16 * 16);
  const bool narrow = (kv == Format::BF16 && operand != Operand::BF16X32) || kv == Format::F16;
  return narrow && keys <= kMostBlockTokens && bytes <= kMost ? bytes : 0;
}

}  // namespace rill
