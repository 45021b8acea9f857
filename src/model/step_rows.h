// SPDX-License-Identifier: Apache-2.0
// The rows (tokens) of a forward step.
#pragma once
#include <span>
#include <vector>

#include "model/attention.h"
#include "model/kv_cache.h"
#include "model/row_shares.h"
#include "model/stripe_tree.h"

namespace rill {

/// A row's token stands at `position` of `sequence`.
struct StepRow {
  size_t position;
  KvSequence* sequence;
};

/// What a sequence brings to a step.
struct StepTokens {
  KvSequence* sequence;
  size_t position;  // of the first token
  std::span<const int32_t> tokens;
  size_t logits;  // of the last tokens that many rows of logits are wanted
};

/// All rows of a step, in order, and which of them this rank computes. Allocates only when made.
class StepRows {
 public:
  /// For up to `most_rows` rows; `block_size` of attention.
  StepRows(size_t most_rows, RankOf sp, size_t block_size);

  void clear();
  void add(const StepTokens& step);
  /// After the last one: which rank computes what.
  void share_out(const RowShares& shares);

  // Of the whole step.
  std::span<const StepRow> all() const { return all_; }
  std::span<const AttentionQueries> queries() const { return queries_; }  // of each sequence
  std::span<const uint32_t> keepers() const { return keepers_; }  // the rank that keeps K and V
  std::span<const size_t> wanted() const { return wanted_; }      // rows whose logits are
  std::span<const size_t> counts() const { return counts_; }      // rows of each rank
  std::span<const size_t> wanted_counts() const { return wanted_counts_; }

  // Of this rank: from row first() and wanted row first_wanted() on.
  std::span<const StepRow> own() const { return own_; }
  std::span<const int32_t> own_tokens() const { return own_tokens_; }
  std::span<const size_t> own_wanted() const { return own_wanted_; }
  size_t size() const { return own_.size(); }
  size_t first() const { return first_; }
  size_t first_wanted() const { return first_wanted_; }

 private:
  const size_t run_;              // keys of a stripe's run
  uint32_t keeper_of_[kStripes];  // the rank that keeps a stripe, in tree order
  std::vector<StepRow> all_;
  std::vector<int32_t> tokens_;
  std::vector<uint32_t> keepers_;
  std::vector<size_t> wanted_, counts_, wanted_counts_;
  std::vector<AttentionQueries> queries_;
  std::span<const StepRow> own_;
  std::span<const int32_t> own_tokens_;
  std::span<const size_t> own_wanted_;
  size_t first_ = 0, first_wanted_ = 0;
};

}  // namespace rill
