// SPDX-License-Identifier: Apache-2.0
#include "engine/rank_plan.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>

#include "engine/bench_table.h"
#include "model/read_ahead.h"
#include "model/row_shares.h"
#include "model/shard.h"
#include "model/step_scratch.h"
#include "model/stripe_tree.h"

namespace rill {
namespace {

double number(size_t value) {
  return static_cast<double>(value);
}

// Bytes of the packed matrix of `outputs` x `depth`.
double matrix_bytes(Format format, size_t outputs, size_t depth) {
  const size_t panels = (outputs + kPanel - 1) / kPanel;
  return number(panels) * number(panel_bytes(format, round_up(depth, kDepthUnit)));
}

// Sums over 1 .. count of min(i, limit): (query, key) pairs of `count` queries that each see one
// more of `limit` keys than the one before.
double staircase(size_t count, size_t limit) {
  const double rising = number(std::min(count, limit));
  return rising * (rising + 1) / 2 + (number(count) - rising) * number(limit);
}

// What ranks keep and see of a sequence's keys.
AttentionCount kept_by(RankOf sp, const StepShare& share, size_t run_length) {
  AttentionCount kept{};
  const size_t end = share.start + share.tokens;
  for (size_t run = 0, first = 0; first < end; ++run, first += run_length) {
    if (keeper_of(run, sp.count) != sp.index) continue;
    kept.keys += number(std::min(run_length, end - first));
    kept.pairs += staircase(end - first, run_length);
    if (share.start > first) kept.pairs -= staircase(share.start - first, run_length);
  }
  return kept;
}

constexpr size_t kLinearWorks = 5;           // QKV, O, gate and up, down, head
constexpr size_t kWorks = kLinearWorks + 1;  // and attention

}  // namespace

std::vector<RankShape> possible_shapes(size_t ranks, RankShape fixed) {
  std::vector<RankShape> shapes;
  for (size_t tp = 1; tp <= kLeaves; ++tp) {
    if (ranks % tp || ranks / tp > kStripes) continue;
    if ((fixed.tp && fixed.tp != tp) || (fixed.sp && fixed.sp != ranks / tp)) continue;
    shapes.push_back({tp, ranks / tp});
  }
  return shapes;
}

std::string RankTask::name() const {
  std::string text = prompt ? "prompt of " + std::to_string(prompt) : "a token";
  if (!prompt && batch > 1) text += " x " + std::to_string(batch);
  if (depth) text += " at " + std::to_string(depth);
  return text;
}

// One forward step of all ranks.
class RankModel::Step {
 public:
  Step(const RankModel& model, RankShape shape, std::vector<StepShare> shares)
      : model_(model), shape_(shape), shares_(std::move(shares)) {
    const MachineConstants& c = model.place_.constants;
    const double part = 1 / number(model.place_.per_node);
    for (const auto kind : kCeilingFields) rank_.*kind = c.node.*kind * c.part_reached.*kind * part;
    linear_ = ceiling_of(model.arithmetic_.linear, c.isa);
    attention_ = attention_ceilings(model.arithmetic_.kv, model.arithmetic_.attention, c.isa);
    for (const Ceiling used : {linear_, attention_.scores, attention_.values, Ceiling::BANDWIDTH})
      if (!(value_of(rank_, used) > 0))
        fail("the constants of ", c.name, " have ", to_string(used),
             " 0 in node or part_reached, and ", c.isa,
             " computes with it; write them anew with `rill bench --comm -o json`");
  }

  // Ranks wait for each other at every exchange, so the slowest one of each operation counts.
  void add_to(Prediction& total) const {
    const bool several = model_.place_.per_node < shape_.ranks();
    const auto pieces = cut_step(shares_, {several, shape_.sp});
    std::array<Piece, kMostPieces> times;
    uint64_t tensor = 0, sequence = 0, messages = 0;
    for (size_t rank = 0; rank < shape_.ranks(); ++rank) {
      const RankOf tp = {rank % shape_.tp, shape_.tp}, sp = {rank / shape_.tp, shape_.sp};
      const auto calls =
          comm_calls({model_.config_, model_.arithmetic_, tp, sp, several}, {shares_});
      for (size_t i = 0; i < pieces.size(); ++i) {
        compute(tp, sp, pieces[i], times[i].computing);
        std::array<double, kCommParts> mine{};
        for (const CommCall& call : calls)
          if (call.piece == i)
            mine[static_cast<size_t>(call.part)] += number(call.times) * seconds(call, tp, sp);
        for (size_t p = 0; p < kCommParts; ++p)
          times[i].talking[p] = std::max(times[i].talking[p], mine[p]);
      }
      const CommTotals t = total_of(calls, true), s = total_of(calls, false);
      tensor = std::max(tensor, t.sent);
      sequence = std::max(sequence, s.sent);
      messages = std::max(messages, t.messages + s.messages);
    }
    for (const Piece& piece : times) {
      for (const double time : piece.computing) total.computing += time;
      for (const double time : piece.talking) total.talking += time;
    }
    if (pieces.size() > 1) total.talking -= hidden(times);
    total.tensor_sent += tensor;
    total.sequence_sent += sequence;
    total.messages += messages;
  }

 private:
  struct Piece {
    std::array<double, kWorks> computing{};
    std::array<double, kCommParts> talking{};
  };

  // Talking that computing hides. Pieces take turns, each until something that it waits for is on
  // its way (ForwardPass::step); what travels goes one after the other.
  double hidden(const std::array<Piece, kMostPieces>& pieces) const {
    constexpr size_t kPhases = 4;
    const auto computing = [&](size_t piece, size_t phase) {
      const auto& c = pieces[piece].computing;
      const double times[kPhases] = {c[0], c[kLinearWorks], c[1], c[2] + c[3]};
      return times[phase] / number(model_.config_.num_layers);
    };
    const auto talking = [&](size_t piece, size_t phase) {
      const auto of = [&](CommPart part) {
        return pieces[piece].talking[static_cast<size_t>(part)];
      };
      const double roots = of(CommPart::ROOTS) / 2;  // of o_proj and of down_proj
      const double times[kPhases] = {of(CommPart::QKV), of(CommPart::STATES), roots, roots};
      return times[phase] / number(model_.config_.num_layers);
    };
    double now = 0, link = 0, waited = 0, talked = 0;
    std::array<size_t, kMostPieces> done{};
    std::array<double, kMostPieces> ready{};
    const size_t phases = kPhases * model_.config_.num_layers;
    for (size_t i = 0; done.back() < phases; i = (i + 1) % kMostPieces) {
      waited += std::max(0.0, ready[i] - now);
      now = std::max(now, ready[i]);
      double talk = 0;
      while (talk == 0 && done[i] < phases) {
        const size_t phase = done[i]++ % kPhases;
        now += computing(i, phase);
        talk = talking(i, phase);
      }
      link = std::max(link, now) + talk;
      ready[i] = link;
      talked += talk;
    }
    return talked - waited - std::max(0.0, link - now);
  }

  void compute(RankOf tp, RankOf sp, const std::vector<StepShare>& shares,
               std::array<double, kWorks>& slowest) const {
    const ModelConfig& config = model_.config_;
    const Arithmetic& arithmetic = model_.arithmetic_;
    const Shard shard(config, tp, sp);
    const Widths widths(config, shard);
    RowShares rows{0, sp};
    size_t logits = 0;
    for (const StepShare& share : shares) {
      rows.rows += rows_of(share);
      logits += share.logits * share.alike;
    }
    const size_t own = length(rows.own());
    const auto linear = [&](Format format, size_t times, size_t count, size_t all_outputs,
                            size_t depth) {
      const size_t outputs = length(rows.own_columns(all_outputs, kDealtPanels * kPanel));
      return Work{number(times) * 2 * number(count) * number(outputs) * number(depth),
                  count ? number(times) * matrix_bytes(format, outputs, depth) : 0};
    };
    const size_t layers = config.num_layers;
    const Format format = arithmetic.weights;
    const Work work[kLinearWorks] = {
        linear(format, layers, own, widths.qkv(), widths.hidden),
        linear(format, layers, own, widths.hidden, widths.q),
        linear(format, 2 * layers, own, widths.intermediate, widths.hidden),
        linear(format, layers, own, widths.hidden, widths.intermediate),
        // The last row's owner has the head to do.
        linear(arithmetic.table, 1, logits, length(shard.vocabulary), widths.hidden)};
    for (size_t i = 0; i < kLinearWorks; ++i)
      slowest[i] = std::max(slowest[i], ideal_time(work[i], linear_, rank_).seconds);
    double& longest = slowest[kLinearWorks];
    longest = std::max(longest, attention(shard, shares).ideal(attention_, rank_).seconds);
  }

  // All queries against the keys that this rank keeps.
  AttentionWork attention(const Shard& shard, const std::vector<StepShare>& shares) const {
    const ModelConfig& config = model_.config_;
    const Arithmetic& arithmetic = model_.arithmetic_;
    const bool twice = arithmetic.attention_type == AttentionType::STANDARD && shape_.sp > 1;
    const HeadCounts heads = {length(shard.heads), length(shard.kv_heads), config.head_dim};
    AttentionWork work;
    for (const StepShare& share : shares) {
      const AttentionCount kept = kept_by(shard.sp, share, stripe_length(arithmetic.block_size));
      work += attention_work(heads, arithmetic.kv, kept) * number(config.num_layers * share.alike);
    }
    if (twice) work.scores.flops *= 2;  // over ranks standard attention computes them again
    return work;
  }

  // Of one call. Its bytes leave through what this rank has of its node's links.
  double seconds(const CommCall& call, RankOf tp, RankOf sp) const {
    const RankOf me = call.tensor ? tp : sp;
    if (me.count == 1) return 0;
    const size_t per_node = std::min(model_.place_.per_node, shape_.ranks());
    const auto node_of = [&](size_t member) {
      const size_t rank =
          call.tensor ? sp.index * shape_.tp + member : member * shape_.tp + tp.index;
      return rank / model_.place_.per_node;
    };
    size_t here = 0, nodes = 1;
    double bytes_here = 0, bytes_there = 0;
    for (size_t member = 0; member < me.count; ++member) {
      if (member > 0 && node_of(member) != node_of(member - 1)) ++nodes;
      const bool near = node_of(member) == node_of(me.index);
      here += near ? 1 : 0;
      (near ? bytes_here : bytes_there) += number(call.sent[member]);
    }
    const MachineConstants& c = model_.place_.constants;
    const LinkConstants &near = c.here, &far = c.there;
    const double share = number(per_node);
    // In memory that all of them share: they meet, and read.
    if (nodes == 1) return near.gather_latency + bytes_here * share / c.node.bandwidth;
    if (call.gather) {  // in rounds that double what everyone has
      return number(std::bit_width(here - 1)) * near.gather_latency +
             number(std::bit_width(nodes - 1)) * far.gather_latency +
             bytes_here * share / near.gather_bandwidth +
             bytes_there * share / far.gather_bandwidth;
    }
    // A rank without subtrees sends nothing, but waits for what it receives.
    const size_t further = std::max<uint64_t>(call.messages, 1) - 1;
    return far.exchange_latency + number(further) * far.message +
           bytes_here * share / near.exchange_bandwidth +
           bytes_there * share / far.exchange_bandwidth;
  }

  const RankModel& model_;
  const RankShape shape_;
  const std::vector<StepShare> shares_;
  Ceilings rank_;
  Ceiling linear_;
  AttentionCeilings attention_;
};

Prediction RankModel::predict(RankShape shape, const RankTask& task) const {
  Prediction total;
  if (task.prompt == 0) {
    Step(*this, shape, {{task.depth, 1, 1, task.batch}}).add_to(total);
    return total;
  }
  for (size_t done = 0; done < task.prompt;) {
    const size_t tokens = std::min(chunk_, task.prompt - done);
    const size_t logits = done + tokens == task.prompt ? 1 : 0;
    Step(*this, shape, {{task.depth + done, tokens, logits}}).add_to(total);
    done += tokens;
  }
  return total;
}

RankMemory plan_ranks(PlanSubject subject, const SessionSize& size, RankShape shape,
                      const NodeMemory& nodes) {
  RankMemory memory;
  const size_t available = nodes.bytes / std::min(nodes.per_node, shape.ranks());
  size_t node = 0, longest = SIZE_MAX;
  for (size_t rank = 0; rank < shape.ranks(); ++rank) {
    subject.tp = {rank % shape.tp, shape.tp};
    subject.sp = {rank / shape.tp, shape.sp};
    const MemoryPlan plan = plan_memory(subject, size, available);
    longest = std::min(longest, plan.longest_context);
    if (plan.total() > memory.largest.total()) memory.largest = plan;
    node = (rank % nodes.per_node ? node : 0) + plan.total();
    memory.fullest_node = std::max(memory.fullest_node, node);
  }
  memory.largest.longest_context = longest;
  return memory;
}

ShapeChoice judge_shape(const RankModel& model, RankShape shape, bool fits) {
  // The token in the middle stands for all.
  return {shape, model.predict(shape, {kChoicePrompt, 0, 1}).seconds(),
          model.predict(shape, {0, kChoicePrompt + kChoiceGenerated / 2, 1}).seconds(), fits};
}

void sort_choices(std::vector<ShapeChoice>& choices) {
  std::stable_sort(choices.begin(), choices.end(), [](const ShapeChoice& a, const ShapeChoice& b) {
    return a.fits != b.fits ? a.fits : a.seconds() < b.seconds();
  });
}

std::string describe(std::span<const ShapeChoice> choices) {
  constexpr size_t kMost = 3;
  std::string text;
  for (size_t i = 0; i < std::min(kMost, choices.size()); ++i) {
    const ShapeChoice& choice = choices[i];
    text += (i == 0   ? ""
             : i == 1 ? "; then "
                      : ", ") +
            std::string("tp ") + std::to_string(choice.shape.tp) + " x sp " +
            std::to_string(choice.shape.sp) + " " +
            (choice.fits ? "" : "(memory does not suffice) ") + fixed(choice.seconds()) + " s";
    if (i == 0)
      text += " for " + std::to_string(kChoicePrompt) + " tokens in and " +
              std::to_string(kChoiceGenerated) + " out (" + fixed(1000 * choice.prompt, 0) +
              " ms and " + fixed(1000 * choice.token) + " ms each)";
  }
  return text;
}

}  // namespace rill
