// SPDX-License-Identifier: Apache-2.0
// The ranks that run one model: tp of them side by side cut its heads and columns (tensor
// parallel), sp such groups cut its context (sequence parallel).
#pragma once
#include <memory>
#include <string>

#include "comm/communicator.h"

namespace rill {

/// Rank `index` of `count`.
struct RankOf {
  size_t index = 0, count = 1;
};

/// The shapes that make up so many ranks, "--tp 1 --sp 6, --tp 2 --sp 3"; "" if none does.
std::string shapes_of(int ranks);

class Ranks {
 public:
  /// Of tp x sp ranks, sp = world.size() / tp; the ranks of one tp group are neighbours. Called by
  /// all ranks of `world`, which outlives this. Throws rill::Error if the numbers do not fit.
  Ranks(Communicator& world, int tp, int sp);
  /// A process by itself.
  static const Ranks& single();

  Communicator& world() const { return *world_; }
  Communicator& tp() const { return *tp_; }
  Communicator& sp() const { return *sp_; }
  RankOf tp_place() const { return place(*tp_); }
  RankOf sp_place() const { return place(*sp_); }
  /// Moves what was started, of either group.
  void progress() const {
    tp_->progress();
    sp_->progress();
  }
  bool started() const { return tp_->started() || sp_->started(); }
  /// Do messages leave the machine?
  bool on_several_machines() const { return world_->ranks_here() < world_->size(); }

 private:
  static RankOf place(const Communicator& ranks) {
    return {static_cast<size_t>(ranks.rank()), static_cast<size_t>(ranks.size())};
  }
  Communicator* world_;
  std::unique_ptr<Communicator> tp_, sp_;
};

}  // namespace rill
