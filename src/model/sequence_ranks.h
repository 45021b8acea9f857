// SPDX-License-Identifier: Apache-2.0
// What sequence-parallel ranks tell each other in a forward step besides attention's states
// (docs/arithmetic.md, section 11). A process by itself uses the form in which nothing travels.
#pragma once
#include <memory>
#include <span>
#include <vector>

#include "base/team.h"
#include "model/config.h"
#include "model/ranks.h"
#include "model/row_shares.h"

namespace rill {

/// Columns of a product y [rows][stride], of which each rank has computed some.
struct SharedColumns {
  float* y;
  size_t stride, rows, width;
  size_t unit;  // columns that stay together
};

/// Every rank computes some of a step's rows, or some columns of all of them (RowShares), keeps the
/// K and V of some of its keys, and needs the queries of all rows. Only the team's first thread
/// talks.
class SequenceRanks {
 public:
  virtual ~SequenceRanks() = default;
  /// For steps of up to `most_rows` rows. Throws rill::Error if there is no memory.
  static std::unique_ptr<SequenceRanks> make(const ModelConfig& config, const Ranks& ranks,
                                             size_t most_rows);
  /// Bytes that make() allocates.
  static size_t scratch_bytes(const ModelConfig& config, const Shard& shard, size_t most_rows);

  /// Deals the rows of a step; keepers[row] is the rank that keeps the row's K and V. Allocates
  /// nothing.
  void plan(std::span<const uint32_t> keepers);
  const RowShares& shares() const { return shares_; }

  /// In a parallel region, by all threads, a barrier after the writing of `qkv`: begins to hand the
  /// queries of this rank's rows ([own rows][stride], q, k, v) to all, their K and V to the ranks
  /// that keep them; nothing where columns are cut. After the second one those of other ranks' rows
  /// are here, for all threads.
  virtual void start_qkv(Worker& worker, const float* qkv, size_t stride) = 0;
  virtual void finish_qkv(Worker& worker) = 0;
  /// Rows that others computed, in order, and the n-th of them.
  size_t others() const { return shares_.rows - length(shares_.own()); }
  size_t other(size_t n) const { return n < shares_.own().begin ? n : n + length(shares_.own()); }
  /// Of a row that another rank computed: its queries; its keys, then its values, if kept here.
  virtual const float* queries(size_t row) const = 0;
  virtual const float* keys_values(size_t row) const = 0;
  bool keeps(size_t row) const { return keepers_[row] == shares_.me.index; }

  /// By all threads: the rows that others computed of an array [rows][width]; counts[rank] of each
  /// rank, in order. This rank's own are there.
  void share_rows(Worker& worker, float* all, size_t width, std::span<const size_t> counts);
  /// By all threads, if columns are cut: the others' columns of the product of a layer, or of the
  /// logits, which go row by row. A barrier must stand before they are read.
  virtual void share_columns(Worker& worker, const SharedColumns& columns) = 0;
  virtual void share_logits(Worker& worker, const SharedColumns& logits) = 0;
  /// The ranks' least value; by one thread.
  virtual size_t least(size_t value) = 0;

 protected:
  SequenceRanks(const Ranks& ranks, size_t most_rows);
  // After the rows are dealt, where columns are not cut.
  virtual void lay_out() {}

  Communicator& ranks_;
  RowShares shares_;
  std::vector<uint32_t> keepers_;  // [rows]

 private:
  std::vector<size_t> row_bytes_;  // [ranks]
};

}  // namespace rill
