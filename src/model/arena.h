// SPDX-License-Identifier: Apache-2.0
// Cuts one allocation into arrays. The same function lays out twice: over nothing, to learn the
// size, then over the memory, so that a plan cannot differ from what is allocated.
#pragma once
#include <cstddef>

namespace rill {

class Arena {
 public:
  /// Null: only counts.
  explicit Arena(std::byte* base = nullptr) : base_(base) {}

  /// The next `count` elements, aligned to a cache line; null when only counting.
  template <class T>
  T* take(size_t count) {
    std::byte* place = base_ ? base_ + used_ : nullptr;
    used_ += (count * sizeof(T) + 63) / 64 * 64;
    return reinterpret_cast<T*>(place);
  }
  size_t used() const { return used_; }

 private:
  std::byte* base_;
  size_t used_ = 0;
};

/// `n` rounded up to a multiple of `unit`.
constexpr size_t round_up(size_t n, size_t unit) {
  return (n + unit - 1) / unit * unit;
}

/// Floats from one row of an activation matrix to the next: whole panels, and never a multiple of
/// 4 KiB, where the rows of a tile would fall on one set of the L1 cache.
constexpr size_t row_stride(size_t columns) {
  const size_t stride = round_up(columns, 16);
  return stride % 1024 == 0 ? stride + 16 : stride;
}

}  // namespace rill
