// SPDX-License-Identifier: Apache-2.0
// Attention's states on their way: from the tasks that make them, over sequence-parallel ranks, to
// where they are joined.
#pragma once
#include <vector>

#include "kernels/kernels.h"
#include "model/ranks.h"
#include "model/row_shares.h"
#include "model/state_transport.h"

namespace rill {

/// The states of all rows of a step against the subtrees of stripes ("parts") that ranks keep. The
/// rows come in chunks, each of which belongs to one rank (or to all of them): that rank joins its
/// states, and is sent those that others have made. A process by itself has none to share.
class StateRanks {
 public:
  /// Rows of one chunk: a sequence's tokens of one owner, times the query heads.
  struct Chunk {
    size_t first_row;  // of the step
    size_t rows;       // (token, head) pairs
    size_t most;       // keys that its last row sees
  };

  struct Sizes {
    size_t stripe_tokens;    // keys of a stripe's run
    size_t head_dim, heads;  // of attention
    size_t most_rows;        // of a step
  };
  /// Throws rill::Error if there is no memory.
  StateRanks(const Ranks& ranks, const Sizes& sizes);
  /// Bytes that ranks allocate.
  static size_t rank_bytes(RankOf rank, const Sizes& sizes);
  /// Floats of one row's state.
  static size_t row_floats(size_t head_dim);
  size_t ranks() const { return me_.count; }

  /// Steps have at most so many chunks.
  void reserve(size_t chunks);
  /// The parts of this rank: its largest subtrees.
  const std::vector<Range>& own_parts() const { return parts_[me_.index]; }

  /// Lays out a step's states. Allocates nothing.
  void plan(std::span<const Chunk> chunks, const RowShares& shares);

  /// Is there a key for any of `most` in a part?
  bool present(Range part, size_t most) const;
  /// Copies the state of some rows of a chunk to its place, or back.
  struct Place {
    size_t chunk, first, rows;
  };
  void put(const Place& place, size_t part, SoftmaxState state);
  void get(const Place& place, size_t rank, size_t part, SoftmaxState state) const;

  /// Begins to hand over what others join, and waits for what this rank joins; by one thread.
  void start() { transport_->start(); }
  void finish() { transport_->finish(); }

  /// Standard attention first settles each row's maximum over all ranks' keys: put this rank's,
  /// share (by one thread), get.
  void put_maxima(const Place& place, const float* maxima);
  void share_maxima() { transport_->share_maxima(); }
  void get_maxima(const Place& place, float* maxima) const;

  const std::vector<std::vector<Range>>& parts() const { return parts_; }

 private:
  size_t floats_to(const Place& place, size_t rank, size_t part) const;
  size_t rows_to(const Place& place) const { return first_[place.chunk] + place.first; }
  size_t live_parts(size_t rank, size_t most) const;
  Range chunks_of(Range rows) const;

  const RankOf me_;
  const size_t stripe_tokens_, width_, row_floats_;
  std::vector<std::vector<Range>> parts_;  // [ranks]
  std::vector<Chunk> chunks_;
  std::vector<size_t> offsets_;  // [ranks][chunks + 1] of all that the rank makes
  std::vector<size_t> first_;    // [chunks] (token, head) pairs before
  StateTransport::Step step_;
  const std::unique_ptr<StateTransport> transport_;
};

}  // namespace rill
