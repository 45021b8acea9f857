// SPDX-License-Identifier: Apache-2.0
// The tree in which the states of the 64 stripes of keys are joined (docs/arithmetic.md, section
// 9).
#pragma once
#include <bit>
#include <cassert>
#include <cstddef>

#include "base/range.h"
#include "kernels/kernels.h"

namespace rill {

constexpr size_t kStripes = 64;
/// States of a tile that are live at once when stripes are visited in tree order: one a level.
constexpr size_t kLiveStates = 7;

/// The i-th stripe in tree order: its six bits reversed. Stripes i and i ^ 1 of that order are
/// joined first (s and s + 32), and 2^n of them from a multiple of 2^n on are a subtree.
constexpr size_t stripe_at(size_t i) {
  // The bits of a byte in reverse (S. E. Anderson, Bit Twiddling Hacks): one multiplication spreads
  // copies of it, the mask takes one bit of each, another multiplication brings them together.
  return ((i * 0x80200802u & 0x0884422110u) * 0x0101010101u >> 32 & 0xff) >> 2;
}

/// Keys of a stripe's run, and where the stripe of a run stands in tree order.
constexpr size_t stripe_length(size_t block_size) {
  return block_size > kBlockTokens ? block_size : kBlockTokens;
}
constexpr size_t tree_place(size_t run) {
  return stripe_at(run % kStripes);
}

/// The keys [0, most) of a subtree of stripes: its stripes' numbers agree in their low bits, so
/// that its runs of `step` keys lie equally far apart.
class SubtreeKeys {
 public:
  /// `stripes`: 2^n from a multiple of 2^n on, counted in tree order.
  SubtreeKeys(Range stripes, size_t step, size_t most)
      : first_(stripe_at(stripes.begin)),
        stride_(kStripes / (stripes.end - stripes.begin)),
        step_(step),
        most_(most) {}

  /// The number of the first run, and of runs from one to the next.
  size_t first() const { return first_; }
  size_t stride() const { return stride_; }
  /// How many keys of the subtree come before `key`, which is one of them.
  size_t before(size_t key) const { return (key / step_ - first_) / stride_ * step_ + key % step_; }
  size_t count() const {
    const size_t runs = (most_ + step_ - 1) / step_;
    if (first_ >= runs) return 0;
    const size_t last = runs - 1 - (runs - 1 - first_) % stride_;
    const size_t end = (last + 1) * step_;
    return before(last * step_) + step_ - (end > most_ ? end - most_ : 0);
  }

 private:
  size_t first_, stride_, step_, most_;
};

/// What a stripe's state is joined with: first with earlier[0], the result with earlier[1], and so
/// on. The last result goes to `target`, which is the last of them if there is any.
struct JoinChain {
  SoftmaxState earlier[kLiveStates];
  size_t count;
  SoftmaxState target;
};

/// Joins the states of stripes as they come in tree order: a binary counter whose digits are
/// subtrees. All joins that a stripe sets off are named at once, so that they can be made while its
/// last block is still in registers. A stripe without keys is the identity.
class StripeTree {
 public:
  /// `memory` holds kLiveStates states of up to `rows` rows.
  StripeTree(float* memory, size_t head_dim, size_t rows)
      : memory_(memory), floats_(state_floats(head_dim, rows)), rows_(rows) {}

  /// A place for the state of the next stripe while it is summed.
  SoftmaxState own() {
    if (own_ == kEmpty) own_ = take();
    return state(own_);
  }

  /// Closes the next stripe and those after it, which are empty, until `count` are closed. If own()
  /// was called, the chain begins with it: what is joined with it is the stripe's last block.
  /// `level`: it is the state of a whole subtree of 2^level stripes.
  JoinChain close(size_t count, size_t level = 0) {
    JoinChain chain{};
    if (own_ != kEmpty) chain.earlier[chain.count++] = state(own_);
    root_ = carry(own_ == kEmpty ? kHomeless : own_, level, chain);
    own_ = kEmpty;
    while (count_ < count)
      if (const int joined = carry(kEmpty, 0, chain); joined != kEmpty) root_ = joined;
    chain.target = state(root_);
    return chain;
  }

  /// Whether any stripe had keys, and, after 2^n stripes, the state of all.
  bool present() const { return root_ != kEmpty; }
  SoftmaxState root() const { return state(root_); }

 private:
  static constexpr int kEmpty = -1;
  static constexpr int kHomeless = -2;  // a state that is nowhere yet
  SoftmaxState state(int slot) const {
    return state_at(memory_ + static_cast<size_t>(slot) * floats_, rows_);
  }
  int take() {
    assert(free_ != 0);
    const int slot = std::countr_zero(free_);
    free_ &= free_ - 1;
    return slot;
  }
  // Counts 2^level stripes more, whose state is in slot `right`. Returns where the sum is.
  int carry(int right, size_t level, JoinChain& chain) {
    const size_t stripes = size_t{1} << level;
    for (; count_ >> level & 1; ++level) {
      const int left = pending_[level];
      if (left == kEmpty) continue;
      if (right != kEmpty) chain.earlier[chain.count++] = state(left);
      if (right >= 0) free_ |= 1u << right;
      right = left;
    }
    if (right == kHomeless) right = take();
    pending_[level] = right;
    count_ += stripes;
    return right;
  }

  float* memory_;
  size_t floats_, rows_;
  unsigned free_ = (1u << kLiveStates) - 1;
  int own_ = kEmpty, root_ = kEmpty;
  int pending_[kLiveStates] = {};
  size_t count_ = 0;
};

}  // namespace rill
