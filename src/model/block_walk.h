// SPDX-License-Identifier: Apache-2.0
// The order in which a task of attention visits the blocks of keys.
#pragma once
#include <algorithm>

#include "model/stripe_tree.h"

namespace rill {

/// The attention blocks of a subtree of stripes that hold the keys [0, most). The subtree is cut
/// into up to `lanes` subtrees, which are visited side by side, each in tree order: the stripes at
/// the same place of all lanes are neighbours, so their keys lie one after the other in memory.
/// Which lane is visited when changes no bit, as each has a state of its own.
class BlockWalk {
 public:
  /// `stripes`: 2^n from a multiple of 2^n on, counted in tree order. `lanes`: a power of two.
  /// `step`: keys of a stripe's run, `block`: of a block.
  BlockWalk(Range stripes, size_t lanes, size_t step, size_t block, size_t most)
      : stripes_(stripes),
        lanes_(std::min(lanes, stripes.end - stripes.begin)),
        length_((stripes.end - stripes.begin) / lanes_),
        step_(step),
        block_(block),
        most_(most) {
    if (start() >= most_) next_place();
  }

  size_t lanes() const { return lanes_; }
  /// The stripes of a lane. Lanes are numbered by their keys: bit by bit the reverse of the tree.
  Range lane(size_t i) const {
    const size_t begin = stripes_.begin + place_in_tree(i) * length_;
    return {begin, begin + length_};
  }
  /// Where the i-th lane stands among the lanes in tree order.
  size_t place_in_tree(size_t i) const { return stripe_at(i) / (kStripes / lanes_); }

  bool done() const { return place_ == length_; }
  size_t lane_index() const { return lane_; }
  size_t stripe() const { return lane(lane_).begin + place_; }  // in tree order
  size_t key() const { return start() + offset_; }
  /// The stripe's block after this one; it need not have keys.
  size_t next_of_stripe() const {
    const size_t end = key() + block_;
    return end % step_ ? end : end + (kStripes - 1) * step_;
  }
  void advance() {
    offset_ += block_;
    if (offset_ < step_ && key() < most_) return;
    offset_ = 0;
    if (++lane_ < lanes_ && start() < most_) return;  // the later lanes' keys are farther on
    lane_ = 0;
    ++round_;
    if (start() >= most_) next_place();
  }

 private:
  // The first key of the run at hand.
  size_t start() const { return (stripe_at(stripe()) + round_ * kStripes) * step_; }
  void next_place() {
    round_ = 0;
    do ++place_;
    while (!done() && start() >= most_);
  }

  Range stripes_;
  size_t lanes_, length_, step_, block_, most_;
  size_t place_ = 0, round_ = 0, lane_ = 0, offset_ = 0;
};

}  // namespace rill
