// SPDX-License-Identifier: Apache-2.0
// What ranks send each other in a forward step, known without running it. It is what
// `--profile-comm` counts, to the byte (docs/scaling.md derives the formulas).
#pragma once
#include <cstdint>
#include <span>
#include <vector>

#include "engine/bench_cost.h"
#include "model/ranks.h"
#include "model/row_shares.h"

namespace rill {

/// One rank of a model.
struct CommSubject {
  const ModelConfig& config;
  const Arithmetic& arithmetic;
  RankOf tp = {}, sp = {};
  bool several_machines = false;  // then steps of many rows go in pieces
};

/// A step of some sequences. Whose row of the embedding a token needs depends on the token: without
/// `tokens` (of all sequences, one after the other) every rank's part of the vocabulary is taken to
/// be equally likely.
struct CommStep {
  std::span<const StepShare> sequences;
  std::span<const int32_t> tokens = {};
};

/// The points of a step at which ranks talk, in their order.
enum class CommPart {
  EMBEDDING,
  QKV,
  COLUMNS,
  MAXIMA,
  STATES,
  ROOTS,
  SUMS,
  LOGITS,
  ALL_LOGITS,
  STATUS
};
constexpr size_t kCommParts = 10;
const char* to_string(CommPart part);

/// Calls of one kind to a communicator.
struct CommCall {
  CommPart part;
  size_t piece;                // of the step (StepPieces)
  bool tensor;                 // over the tp group; else over the sp group
  bool gather;                 // all_gather; else exchange
  uint64_t times;              // in the step; the same each time
  uint64_t messages;           // of one call; 0 where this rank only receives
  std::vector<uint64_t> sent;  // bytes of one call to each rank of the group; none to itself

  uint64_t bytes() const;  // of one call
};

/// The pieces in which a step goes through the layers.
std::vector<std::vector<StepShare>> cut_step(std::span<const StepShare> sequences,
                                             const StepPieces& cut);

/// What this rank does in a step.
std::vector<CommCall> comm_calls(const CommSubject& subject, const CommStep& step);

/// Sums as Traffic counts them, over the tp group or the sp group.
struct CommTotals {
  uint64_t calls = 0, messages = 0, sent = 0;
};
CommTotals total_of(const std::vector<CommCall>& calls, bool tensor);

/// The rank (of `ranks` sequence-parallel ones) that keeps the keys of a run of stripe_length keys.
size_t keeper_of(size_t run, size_t ranks);

}  // namespace rill
