// SPDX-License-Identifier: Apache-2.0
// The tree in which the states of the 64 stripes of keys are joined (docs/arithmetic.md, section
// 9).
#pragma once
#include <bit>
#include <cassert>
#include <cstddef>

#include "kernels/kernels.h"

namespace rill {

constexpr size_t kStripes = 64;
/// States of a tile that are live at once when stripes are visited in tree order: one a level.
constexpr size_t kLiveStates = 7;

/// The i-th stripe in tree order: its six bits reversed. Stripes i and i ^ 1 of that order are
/// joined first (s and s + 32), and 2^n of them from a multiple of 2^n on are a subtree.
constexpr size_t stripe_at(size_t i) {
  size_t stripe = 0;
  for (int bit = 0; bit < 6; ++bit) stripe |= (i >> bit & 1) << (5 - bit);
  return stripe;
}

/// Joins states as they come in tree order: a binary counter whose digits are subtrees.
class StripeTree {
 public:
  /// `memory` holds kLiveStates states of `floats` each.
  StripeTree(float* memory, size_t floats) : memory_(memory), floats_(floats) {}

  /// Where the next stripe's state is written, if the stripe is not empty.
  SoftmaxState next() {
    if (current_ < 0) {
      assert(free_ != 0);
      current_ = std::countr_zero(free_);
      free_ &= free_ - 1;
    }
    return state(current_);
  }

  /// The next stripe is done; it is empty unless next() was called. join(a, b): a = a joined with
  /// b, a the earlier. An empty state is the identity.
  template <class Join>
  void push(const Join& join) {
    int right = current_;
    current_ = kEmpty;
    size_t level = 0;
    for (; count_ >> level & 1; ++level) {
      const int left = pending_[level];
      if (left == kEmpty) continue;
      if (right != kEmpty) {
        join(state(left), state(right));
        free_ |= 1u << right;
      }
      right = left;
    }
    pending_[level] = root_ = right;
    ++count_;
  }

  /// After 2^n stripes: whether any was not empty, and the state of all.
  bool present() const { return root_ != kEmpty; }
  SoftmaxState root() const { return state(root_); }

 private:
  static constexpr int kEmpty = -1;
  SoftmaxState state(int slot) const {
    return state_at(memory_ + static_cast<size_t>(slot) * floats_);
  }

  float* memory_;
  size_t floats_;
  unsigned free_ = (1u << kLiveStates) - 1;
  int current_ = kEmpty, root_ = kEmpty;
  int pending_[kLiveStates] = {};
  size_t count_ = 0;
};

}  // namespace rill
