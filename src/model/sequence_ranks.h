// SPDX-License-Identifier: Apache-2.0
// What sequence-parallel ranks tell each other in a forward step besides attention's states
// (docs/arithmetic.md, section 11).
#pragma once
#include <memory>
#include <span>
#include <vector>

#include "base/buffer.h"
#include "base/team.h"
#include "model/ranks.h"
#include "model/row_shares.h"
#include "model/step_scratch.h"

namespace rill {

/// Columns of a product y [rows][stride], of which each rank has computed some.
struct SharedColumns {
  float* y;
  size_t stride, rows, width;
  size_t unit;  // columns that stay together
};

/// Every rank computes some of a step's rows, or some columns of all of them (RowShares), keeps the
/// K and V of some of its keys, and needs the queries of all rows. Of a process by itself nothing
/// travels. Only the team's first thread talks.
class SequenceRanks {
 public:
  /// For steps of up to `most_rows` rows. Throws rill::Error if there is no memory.
  SequenceRanks(const Ranks& ranks, const Widths& widths, size_t most_rows);
  static size_t scratch_bytes(RankOf sp, const Widths& widths, size_t most_rows);

  /// Deals the rows of a step; keepers[row] is the rank that keeps the row's K and V. Allocates
  /// nothing.
  void plan(std::span<const uint32_t> keepers);
  const RowShares& shares() const { return shares_; }

  /// In a parallel region, by all threads, a barrier after the writing of `qkv`: begins to hand the
  /// queries of this rank's rows ([own rows][stride], q, k, v) to all, their K and V to the ranks
  /// that keep them; nothing where columns are cut. After the second one those of other ranks' rows
  /// are here, for all threads.
  void start_qkv(Worker& worker, const float* qkv, size_t stride);
  void finish_qkv(Worker& worker);
  /// Rows that others computed, in order, and the n-th of them.
  size_t others() const { return shares_.rows - length(shares_.own()); }
  size_t other(size_t n) const { return n < shares_.own().begin ? n : n + length(shares_.own()); }
  /// Of a row that another rank computed: its queries; its keys, then its values, if kept here.
  const float* queries(size_t row) const { return queries_ + row * widths_.q; }
  const float* keys_values(size_t row) const { return received_ + places_[row] * 2 * widths_.kv; }
  bool keeps(size_t row) const { return keepers_[row] == shares_.me.index; }

  /// By all threads: the rows that others computed of an array [rows][width]; counts[rank] of each
  /// rank, in order. This rank's own are there.
  void share_rows(Worker& worker, float* all, size_t width, std::span<const size_t> counts);
  /// By all threads, if columns are cut: the others' columns of the product of a layer, or of the
  /// logits, which go row by row. A barrier must stand before they are read.
  void share_columns(Worker& worker, const SharedColumns& columns);
  void share_logits(Worker& worker, const SharedColumns& logits);
  /// The ranks' least value; by one thread.
  size_t least(size_t value);

 private:
  Communicator& ranks_;
  const Widths widths_;
  Buffer memory_;
  float *queries_, *sent_, *received_, *columns_;
  RowShares shares_;
  std::vector<uint32_t> keepers_;
  std::vector<size_t> places_;  // [rows] where K and V stand, in sent_ or in received_
  std::vector<size_t> out_rows_, in_rows_, bytes_;  // [ranks] rows of K and V for, and from, each
  std::vector<Outgoing> out_;
  std::vector<Incoming> in_;
  Communicator::Ticket started_ = 0;
};

}  // namespace rill
