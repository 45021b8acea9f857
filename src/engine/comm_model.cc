// SPDX-License-Identifier: Apache-2.0
#include "engine/comm_model.h"

#include <algorithm>
#include <numeric>

#include "model/arena.h"
#include "model/read_ahead.h"
#include "model/row_shares.h"
#include "model/shard.h"
#include "model/state_ranks.h"
#include "model/step_scratch.h"
#include "model/stripe_tree.h"
#include "model/tensor_ranks.h"

namespace rill {
namespace {

constexpr size_t kFloat = sizeof(float);

// These tokens of a share's sequences, of `alike` of them.
StepShare part_of(const StepShare& share, Range tokens, size_t alike) {
  const size_t wanted = share.tokens - share.logits;  // the first token of which logits are
  return {share.start + tokens.begin, length(tokens),
          tokens.end - std::clamp(wanted, tokens.begin, tokens.end), alike};
}

// What of a step lies in some of its rows. Of alike sequences that is up to three parts: the end of
// one, whole ones, the beginning of one.
std::vector<StepShare> shares_in(std::span<const StepShare> sequences, Range rows) {
  std::vector<StepShare> parts;
  size_t first = 0;  // row of the step
  for (const StepShare& share : sequences) {
    const size_t end = std::min(first + rows_of(share), rows.end);
    for (size_t row = std::max(first, rows.begin); row < end; row += rows_of(parts.back())) {
      const size_t token = (row - first) % share.tokens;
      const size_t last = std::min(share.tokens, token + end - row);
      const size_t alike = token == 0 && last == share.tokens ? (end - row) / share.tokens : 1;
      parts.push_back(part_of(share, {token, last}, alike));
    }
    first += rows_of(share);
  }
  return parts;
}

// One rank's step. Every method is what a method of TensorRanks, SequenceRanks or StateRanks sends.
class StepVolume {
 public:
  StepVolume(const CommSubject& subject, const CommStep& step)
      : config_(subject.config),
        arithmetic_(subject.arithmetic),
        tp_(subject.tp),
        sp_(subject.sp),
        shard_(config_, tp_, sp_),
        widths_(config_, shard_),
        step_(step),
        shares_{0, sp_} {
    for (const StepShare& share : step.sequences) shares_.rows += rows_of(share);
  }

  // Of a piece: all but the status.
  std::vector<CommCall> calls() {
    if (tp_.count > 1) embedding();
    if (sp_.count > 1) {
      if (!shares_.everyone()) qkv();
      if (shares_.cuts_columns()) columns();
      if (arithmetic_.attention_type == AttentionType::STANDARD) maxima();
      states();
    }
    if (tp_.count > 1) {
      roots(LeafCut::of_o(config_));
      roots(LeafCut::of_down(config_));
    }
    logits();
    return std::move(calls_);
  }
  std::vector<CommCall> status() {
    if (tp_.count > 1) gather(CommPart::STATUS, true, 1, sizeof(uint64_t));
    gather(CommPart::STATUS, false, 1, sizeof(uint64_t));
    return std::move(calls_);
  }

 private:
  size_t layers() const { return config_.num_layers; }
  size_t own_rows() const { return length(shares_.own()); }

  // Calls in which everyone of the group gets `bytes` of this rank.
  void gather(CommPart part, bool tensor, uint64_t times, uint64_t bytes) {
    const RankOf me = tensor ? tp_ : sp_;
    CommCall call{part, 0, tensor, true, times, me.count - 1, {}};
    call.sent.assign(me.count, bytes);
    call.sent[me.index] = 0;
    calls_.push_back(std::move(call));
  }
  // Calls in which each other rank gets `per_rank` messages.
  CommCall& exchange(CommPart part, bool tensor, uint64_t times, uint64_t per_rank) {
    const RankOf me = tensor ? tp_ : sp_;
    calls_.push_back({part, 0, tensor, false, times, per_rank * (me.count - 1), {}});
    calls_.back().sent.assign(me.count, 0);
    return calls_.back();
  }

  void embedding() {
    const Range here = shard_.vocabulary;
    size_t mine = own_rows() * length(here) / config_.vocab_size;
    if (!step_.tokens.empty()) {
      const auto own = step_.tokens.subspan(shares_.own().begin, own_rows());
      mine = static_cast<size_t>(std::count_if(own.begin(), own.end(), [&](int32_t token) {
        return in_range(here, static_cast<size_t>(token));
      }));
    }
    gather(CommPart::EMBEDDING, true, 1, mine * config_.hidden_size * kFloat);
  }

  // Queries to all, keys and values to who keeps them.
  void qkv() {
    CommCall& call = exchange(CommPart::QKV, false, layers(), 2);
    const size_t run = stripe_length(arithmetic_.block_size);
    std::vector<size_t> kept(sp_.count);
    for (const StepShare& share : shares_in(step_.sequences, shares_.own()))
      for (size_t i = 0; i < share.tokens; ++i)
        kept[keeper_of((share.start + i) / run, sp_.count)] += share.alike;
    for (size_t rank = 0; rank < sp_.count; ++rank)
      if (rank != sp_.index)
        call.sent[rank] = (own_rows() * widths_.q + kept[rank] * 2 * widths_.kv) * kFloat;
  }

  // Of every product in a layer this rank's columns, to all.
  void columns() {
    const auto product = [&](size_t width, size_t unit, size_t times) {
      gather(CommPart::COLUMNS, false, times * layers(),
             own_rows() * length(shares_.own_columns(width, unit)) * kFloat);
    };
    product(widths_.qkv(), std::lcm(config_.head_dim, kPanel), 1);
    product(widths_.hidden, kDealtPanels * kPanel,
            LeafCut::of_o(config_).subtrees(shard_.leaves).size());
    product(widths_.intermediate, kDealtPanels * kPanel / 2, 1);
    product(widths_.hidden, kDealtPanels * kPanel,
            LeafCut::of_down(config_).subtrees(shard_.leaves).size());
  }

  void maxima() {
    gather(CommPart::MAXIMA, false, layers(), shares_.rows * length(shard_.heads) * kFloat);
  }

  // Of this rank's subtrees of stripes the states of others' rows.
  void states() {
    CommCall& call = exchange(CommPart::STATES, false, layers(), 1);
    const std::vector<Range> parts = subtrees_of(shard_.stripes);
    const size_t run = stripe_length(arithmetic_.block_size);
    const size_t row_bytes = StateRanks::row_floats(config_.head_dim) * kFloat;
    const auto live = [&](size_t most) {
      return static_cast<size_t>(std::count_if(
          parts.begin(), parts.end(), [&](Range p) { return stripe_at(p.begin) * run < most; }));
    };
    for (size_t rank = 0; rank < sp_.count; ++rank) {
      if (rank == sp_.index) continue;
      for (const StepShare& share : shares_in(step_.sequences, shares_.of(rank)))
        call.sent[rank] +=
            live(share.start + share.tokens) * rows_of(share) * length(shard_.heads) * row_bytes;
    }
  }

  // The roots of a projection: to all, or in two steps by rows.
  void roots(const LeafCut& cut) {
    const size_t rows = own_rows(), width = config_.hidden_size;
    const size_t count = cut.subtrees(shard_.leaves).size();
    if (!TensorRanks::sums_by_rows(tp_.count, rows, width)) {
      CommCall& call = exchange(CommPart::ROOTS, true, layers(), 1);
      for (size_t rank = 0; rank < tp_.count; ++rank)
        if (rank != tp_.index) call.sent[rank] = count * rows * width * kFloat;
      return;
    }
    CommCall& call = exchange(CommPart::ROOTS, true, layers(), count);
    for (size_t rank = 0; rank < tp_.count; ++rank)
      if (rank != tp_.index)
        call.sent[rank] = count * length(share_of(rows, {rank, tp_.count})) * width * kFloat;
    gather(CommPart::SUMS, true, layers(),
           length(share_of(rows, tp_)) * row_stride(width) * kFloat);
  }

  void logits() {
    const auto wanted = [](std::span<const StepShare> shares) {
      size_t rows = 0;
      for (const StepShare& share : shares) rows += share.logits * share.alike;
      return rows;
    };
    const size_t own = wanted(shares_in(step_.sequences, shares_.own()));
    const size_t all = wanted(step_.sequences);
    if (own > 0 && shares_.cuts_columns())
      gather(
          CommPart::ALL_LOGITS, false, own,
          length(shares_.own_columns(length(shard_.vocabulary), kDealtPanels * kPanel)) * kFloat);
    if (tp_.count > 1 && own > 0)
      gather(CommPart::LOGITS, true, own, length(shard_.vocabulary) * kFloat);
    if (all > 0 && shares_.rows > own_rows())
      gather(CommPart::ALL_LOGITS, false, 1, own * config_.vocab_size * kFloat);
  }

  const ModelConfig& config_;
  const Arithmetic& arithmetic_;
  const RankOf tp_, sp_;
  const Shard shard_;
  const Widths widths_;
  const CommStep& step_;
  RowShares shares_;
  std::vector<CommCall> calls_;
};

}  // namespace

const char* to_string(CommPart part) {
  constexpr const char* kNames[kCommParts] = {"embedding",  "q k v", "columns", "maxima",
                                              "states",     "roots", "sums",    "logits",
                                              "all logits", "status"};
  return kNames[static_cast<size_t>(part)];
}

uint64_t CommCall::bytes() const {
  return std::accumulate(sent.begin(), sent.end(), uint64_t{0});
}

std::vector<std::vector<StepShare>> cut_step(std::span<const StepShare> sequences,
                                             const StepPieces& cut) {
  size_t rows = 0;
  for (const StepShare& share : sequences) rows += rows_of(share);
  const size_t first = cut.first(rows);
  std::vector<std::vector<StepShare>> pieces = {shares_in(sequences, {0, first})};
  if (first < rows) pieces.push_back(shares_in(sequences, {first, rows}));
  return pieces;
}

std::vector<CommCall> comm_calls(const CommSubject& subject, const CommStep& step) {
  const StepPieces cut{subject.several_machines, subject.sp.count};
  const auto pieces = cut_step(step.sequences, cut);
  std::vector<CommCall> all;
  size_t rows = 0;
  for (size_t i = 0; i < pieces.size(); ++i) {
    size_t count = 0;
    for (const StepShare& share : pieces[i]) count += rows_of(share);
    CommStep piece{pieces[i]};
    if (!step.tokens.empty()) piece.tokens = step.tokens.subspan(rows, count);
    rows += count;
    for (CommCall& call : StepVolume(subject, piece).calls()) {
      call.piece = i;
      all.push_back(std::move(call));
    }
  }
  for (CommCall& call : StepVolume(subject, step).status()) all.push_back(std::move(call));
  return all;
}

CommTotals total_of(const std::vector<CommCall>& calls, bool tensor) {
  CommTotals totals;
  for (const CommCall& call : calls) {
    if (call.tensor != tensor) continue;
    totals.calls += call.times;
    totals.messages += call.times * call.messages;
    totals.sent += call.times * call.bytes();
  }
  return totals;
}

size_t keeper_of(size_t run, size_t ranks) {
  const size_t place = tree_place(run);
  size_t rank = place * ranks / kStripes;  // its share begins at or before this stripe
  while (!in_range(share_of(kStripes, {rank, ranks}), place)) ++rank;
  return rank;
}

}  // namespace rill
