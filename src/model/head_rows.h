// SPDX-License-Identifier: Apache-2.0
// What happens to queries, keys and values between their product and attention.
#pragma once
#include "model/attention.h"
#include "model/model.h"
#include "model/rope.h"
#include "model/sequence_ranks.h"
#include "model/step_rows.h"
#include "model/step_scratch.h"

namespace rill {

/// The heads of this rank's rows, in scratch.qkv; and, over sequence-parallel ranks, those of the
/// others' rows as far as this rank needs them.
class HeadRows {
 public:
  HeadRows(const Model& model, const StepRows& rows, const StepScratch& scratch,
           SequenceRanks& sequence, Attention& attention);

  /// The angles of RoPE for a row of this rank; before anything else.
  void turn(size_t row);
  /// The fewest panels of the QKV product that end where a head ends.
  size_t panels() const;
  /// Some of this rank's rows, but no token without the one whose values stand in the same words of
  /// the cache: one thread stores both.
  Range whole_pairs(Range rows) const;
  /// Norms and rotates queries and keys, and stores keys and values as the cache holds them.
  /// `heads` of the product: q, then k, then v; of whole pairs of rows.
  void finish(size_t layer, Range heads, Range rows);
  /// By all threads, a barrier after the last finish: hands over what other ranks need, and takes,
  /// for all threads, what they have for this one: the queries of rows that they compute, and the
  /// keys and values that are kept here.
  void start_others(Worker& worker);
  void take_others(Worker& worker, size_t layer);

 private:
  void query(size_t layer, size_t head, size_t row, float* q);
  void key(size_t layer, size_t head, size_t row, float* k);
  void keep_k(size_t layer, size_t head, const StepRow& row, const float* k);
  void keep_v(size_t layer, size_t head, const StepRow& row, const float* v);
  void take_other_rows(Worker& worker, size_t layer);
  void take_other_heads(Worker& worker, size_t layer);
  float* cosine(size_t row) { return scratch_.cosine + row * (model_.config.head_dim / 2); }
  float* sine(size_t row) { return scratch_.sine + row * (model_.config.head_dim / 2); }

  const Model model_;
  const StepRows& rows_;
  const StepScratch& scratch_;
  SequenceRanks& sequence_;
  Attention& attention_;
  const Rope rope_;
  const Widths widths_;
  const size_t q_heads_, kv_heads_, dim_;
  const float query_scale_;
};

}  // namespace rill
