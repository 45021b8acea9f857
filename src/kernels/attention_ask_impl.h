// SPDX-License-Identifier: Apache-2.0
// How attention asks for keys and values before it reads them: evenly where many rows use a block
// for long, a distance ahead where few rows are bound by reading, in one stream or in several.
#pragma once
#include "kernels/pointwise_impl.h"

namespace rill {
namespace {

constexpr size_t least(size_t a, size_t b) {
  return a < b ? a : b;
}

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

// Asks for columns of rows that lie one after the other.
template <int kPieceCache>
struct AskRow {
  const char* at;

  // For the columns of this row, kBytes; advance() comes after it.
  template <size_t kBytes>
  RILL_INLINE void ask() {
    ask_for<kBytes, 2>(at);
  }
  // The same in pieces, of which this is the i-th.
  template <size_t kBytes, size_t kPieces>
  RILL_INLINE void ask(size_t i) {
    ask_for_piece<kBytes, kPieces, kPieceCache>(at, i);
  }
};

// For a few rows: asks for memory a short distance before it is read, where rows lie one after the
// other and what comes after them lies elsewhere: from K on to V and from there to the next block.
// The processor's own prefetching would lose its stride at every jump.
class AskAhead : public AskRow<3> {
 public:
  // The columns at `w` of `rows` rows of row_bytes each; after them those at `next`.
  AskAhead(const char* w, const char* next, size_t rows, size_t row_bytes)
      : AskRow{nullptr}, next_(next), row_bytes_(row_bytes), left_(rows) {
    const size_t ahead = least(rows, kDistance / row_bytes);
    left_ -= ahead;
    at = left_ ? w + ahead * row_bytes : next;
  }
  RILL_INLINE void advance() { at = --left_ == 0 ? next_ : at + row_bytes_; }

 private:
  static constexpr size_t kDistance = 8192;  // 4 to 16 KiB serve alike
  const char* next_;
  size_t row_bytes_, left_;
};

// For some rows of one of several streams: what lies a fixed distance on.
struct AskOn : AskRow<2> {
  size_t row_bytes;

  RILL_INLINE void advance() { at += row_bytes; }
};
// One of several streams of columns: rows of w, and after them those at `next`. `turn`: rows that
// are read in one turn, and asked for in one.
class Stream {
 public:
  Stream() {}
  Stream(const char* w, const char* next, size_t row_bytes, size_t rows, size_t turn)
      : w_(w),
        end_(w + rows * row_bytes),
        next_(next),
        row_bytes_(row_bytes),
        ahead_((kDistance / row_bytes < turn ? turn : kDistance / row_bytes) * row_bytes) {}
  const char* at(size_t row) const { return w_ + row * row_bytes_; }

  // What is asked for while the rows from `row` on are read.
  RILL_INLINE AskOn ahead(size_t row) const { return {{later(at(row) + ahead_)}, row_bytes_}; }
  RILL_INLINE void ask_next_page(size_t row) const {
    __builtin_prefetch(later(NextPage::begin(at(row))) + NextPage::line(at(row)), 0, 2);
  }

 private:
  static constexpr size_t kDistance = 2048;
  // What would be at `place` if rows went on after the last.
  RILL_INLINE const char* later(const char* place) const {
    return place < end_ ? place : next_ + (place - end_);
  }

  const char *w_, *end_, *next_;
  size_t row_bytes_, ahead_;
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

}  // namespace
}  // namespace rill
