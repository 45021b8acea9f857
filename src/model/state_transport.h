// SPDX-License-Identifier: Apache-2.0
// How attention's states get from the rank that makes them to the one that joins them.
#pragma once
#include <memory>
#include <vector>

#include "model/ranks.h"
#include "model/shard.h"

namespace rill {

/// The states that a rank makes in a step, and the maxima of its rows, lie one after the other as
/// StateRanks has laid them out. Only one thread talks; barriers separate that from the writing and
/// the reading.
class StateTransport {
 public:
  /// The most floats, of each rank: those it makes, and of these those that another one joins.
  struct Sizes {
    std::vector<size_t> made, joined;
    size_t maxima;  // of any rank
  };
  virtual ~StateTransport() = default;
  /// Null for a process by itself. Throws rill::Error if there is no memory.
  static std::unique_ptr<StateTransport> make(const Ranks& ranks, const Sizes& sizes);
  /// Bytes that make() allocates on rank `me`.
  static size_t bytes(const Sizes& sizes, size_t me);

  /// Of a step, in floats: what of this rank's states each rank joins, and what of each rank's this
  /// one joins.
  struct Step {
    std::vector<Range> sent, joined;  // [ranks]
    size_t maxima;
  };
  /// Allocates nothing.
  virtual void plan(const Step& step) = 0;
  /// Where this rank puts what it makes; where it finds, once that is finished, what `rank` has
  /// made of what it joins.
  virtual float* own(size_t place) const = 0;
  virtual const float* of(size_t rank, size_t place) const = 0;
  virtual void start() = 0;
  virtual void finish() = 0;

  /// Where this rank puts its maxima, and finds those of any, once they are shared.
  virtual float* own_maxima() const = 0;
  virtual const float* maxima(size_t rank) const = 0;
  virtual void share_maxima() = 0;
};

}  // namespace rill
