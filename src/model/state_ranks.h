// SPDX-License-Identifier: Apache-2.0
// Attention's states on their way: from the tasks that make them, over sequence-parallel ranks, to
// where they are joined.
#pragma once
#include <vector>

#include "base/buffer.h"
#include "base/team.h"
#include "kernels/kernels.h"
#include "model/ranks.h"
#include "model/row_shares.h"

namespace rill {

/// The states of all rows of a step against the subtrees of stripes ("parts") that ranks keep. The
/// rows come in chunks, each of which belongs to one rank (or to all of them): that rank joins its
/// states, and is sent those that others have made. A process by itself makes and joins all.
class StateRanks {
 public:
  /// Rows of one chunk: a sequence's tokens of one owner, times the query heads.
  struct Chunk {
    size_t first_row;  // of the step
    size_t rows;       // (token, head) pairs
    size_t most;       // keys that its last row sees
  };

  /// `stripe_tokens`: keys of a stripe's run. `head_dim`: of attention.
  StateRanks(const Ranks& ranks, size_t stripe_tokens, size_t head_dim);
  /// Floats that states of up to `most_rows` rows of a step and `heads` query heads need, beyond
  /// what a process by itself keeps.
  static size_t rank_floats(RankOf rank, size_t most_rows, size_t heads, size_t head_dim);
  /// Floats of one row's state.
  static size_t row_floats(size_t head_dim);
  size_t ranks() const { return me_.count; }

  /// Steps have at most so many chunks.
  void reserve(size_t chunks);
  /// The parts of this rank: its largest subtrees or, of a process by itself, as many equal ones as
  /// it likes.
  void set_own_parts(const std::vector<Range>& parts);
  const std::vector<Range>& own_parts() const { return parts_[me_.index]; }

  /// Lays out a step's states over `memory`. Allocates nothing.
  void plan(std::span<const Chunk> chunks, const RowShares& shares, float* memory);

  /// Is there a key for any of `most` in a part?
  bool present(Range part, size_t most) const;
  /// Copies the state of some rows of a chunk to its place, or back.
  struct Place {
    size_t chunk, first, rows;
  };
  void put(const Place& place, size_t part, SoftmaxState state);
  void get(const Place& place, size_t rank, size_t part, SoftmaxState state) const;

  /// Begins to send and receive, and ends it; by one thread.
  void start();
  void finish() { ranks_.finish(started_); }

  /// Standard attention first settles each row's maximum over all ranks' keys: put this rank's,
  /// share (by one thread), get.
  void put_maxima(const Place& place, const float* maxima);
  void share_maxima();
  void get_maxima(const Place& place, float* maxima) const;

  const std::vector<std::vector<Range>>& parts() const { return parts_; }

 private:
  float* at(const Place& place, size_t rank, size_t part) const;
  float* maxima_at(const Place& place, size_t rank) const;
  size_t live_parts(size_t rank, size_t most) const;

  Communicator& ranks_;
  const RankOf me_;
  const size_t stripe_tokens_, width_, row_floats_;
  std::vector<std::vector<Range>> parts_;  // [ranks]
  std::vector<Chunk> chunks_;
  std::vector<size_t> offsets_;  // [ranks][chunks + 1]
  RowShares shares_;
  float *memory_ = nullptr, *maxima_ = nullptr;  // maxima: [ranks][all_rows_]
  size_t all_rows_ = 0;                          // (token, head) pairs
  std::vector<size_t> first_;                    // [chunks] of these
  std::vector<size_t> bytes_;                    // [ranks]
  std::vector<Outgoing> out_;
  std::vector<Incoming> in_;
  Communicator::Ticket started_ = 0;
};

}  // namespace rill
