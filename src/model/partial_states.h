// SPDX-License-Identifier: Apache-2.0
// The states of tiles that several threads share, on their way to one.
#pragma once
#include <atomic>
#include <memory>

#include "kernels/kernels.h"

namespace rill {

/// Threads bring the states of a subtree's pieces in any order; whoever brings the second of two
/// neighbours joins them. So nobody waits, and what is joined with what is the tree.
class PartialStates {
 public:
  /// `memory` is borrowed.
  PartialStates(float* memory, size_t head_dim, size_t most_slots)
      : memory_(memory), head_dim_(head_dim), met_(new std::atomic<bool>[most_slots] {}) {}

  /// The pieces of one subtree of the stripes, a power of two, for a tile's rows.
  struct Subtree {
    size_t first_slot, states;  // of its first piece: the slot, and floats before its state
    size_t rows, pieces;
  };

  SoftmaxState state(const Subtree& of, size_t piece) const {
    return state_at(memory_ + of.states + piece * state_floats(head_dim_, of.rows), of.rows);
  }

  /// The state of `piece` is there. True if it was the last one: then that of all is in the first
  /// one's place. `present(i)`: are there keys in the pieces from the i-th on, up to a subtree?
  template <class Present>
  bool bring(const Subtree& of, size_t piece, const Present& present,
             void (*merge)(SoftmaxState, SoftmaxState, size_t, size_t)) {
    for (size_t width = 1; width < of.pieces; width *= 2) {
      const size_t left = piece & ~(2 * width - 1), right = left + width;
      if (piece == left && !present(right)) continue;
      std::atomic<bool>& met = met_[of.first_slot + right];
      if (!met.exchange(true, std::memory_order_acq_rel)) return false;
      met.store(false, std::memory_order_relaxed);  // for the next layer
      merge(state(of, left), state(of, right), of.rows, head_dim_);
      piece = left;
    }
    return true;
  }

 private:
  float* memory_;
  size_t head_dim_;
  // Of each slot: has one of the two subtrees that meet there come, of which it is the right one's
  // first?
  std::unique_ptr<std::atomic<bool>[]> met_;
};

}  // namespace rill
