// SPDX-License-Identifier: Apache-2.0
// What a forward pass has to do at least, and how long this machine needs for it at least.
// docs/benchmarking.md derives the formulas.
#pragma once
#include <cstddef>
#include <string>
#include <vector>

#include "kernels/ceilings.h"
#include "model/arithmetic.h"
#include "model/config.h"
#include "model/profile.h"

namespace rill {

/// What can bind an operation.
enum class Ceiling { BANDWIDTH, FMA, VDPBF16PS, VNNI, MADDUBS, AMX_BF16, AMX_INT8 };
constexpr size_t kCeilingKinds = 7;
/// Those of instructions.
constexpr Ceiling kPeaks[] = {Ceiling::FMA,     Ceiling::VDPBF16PS, Ceiling::VNNI,
                              Ceiling::MADDUBS, Ceiling::AMX_BF16,  Ceiling::AMX_INT8};

/// "bandwidth", "fma", "vdpbf16ps", "vnni", "maddubs", "amx_bf16" or "amx_int8".
const char* to_string(Ceiling ceiling);
/// The measured value, in bytes/s or op/s.
double value_of(const Ceilings& measured, Ceiling ceiling);

/// Of each kind the median of `measured`.
Ceilings median_of(const std::vector<Ceilings>& measured);

/// The instruction whose peak bounds products of `operand` on instruction set `isa`.
Ceiling ceiling_of(Operand operand, const std::string& isa);

/// Useful work of one kind, summed over the steps of a test.
struct Work {
  double flops = 0;  // a multiplication and an addition are two
  double bytes = 0;  // read from memory at least once

  Work& operator+=(const Work& other) {
    flops += other.flops;
    bytes += other.bytes;
    return *this;
  }
  Work operator*(double times) const { return {times * flops, times * bytes}; }
};

/// Ideal time of a test: every operation at its ceiling, one after the other.
struct IdealTime {
  double seconds = 0;
  Ceiling binding = Ceiling::BANDWIDTH;  // the one with the largest share of `seconds`
};

/// max(flops / peak of `ceiling`, bytes / bandwidth). VDPBF16PS gives way to FMA where that is the
/// faster of the two: a share of the slower one's peak would flatter.
IdealTime ideal_time(const Work& work, Ceiling ceiling, const Ceilings& measured);

/// One sequence's part of a step: `tokens` new ones after `start` that are in its cache. It may
/// stand for several sequences, so that what a batch does is counted without a walk over it.
struct StepShare {
  size_t start, tokens;
  size_t logits;     // rows of logits wanted, of the last tokens
  size_t alike = 1;  // sequences of which all this is true, one after the other
};
/// The rows of all of them.
inline size_t rows_of(const StepShare& share) {
  return share.tokens * share.alike;
}

/// The two products of attention: with int8 keys they have unlike ceilings.
struct AttentionCeilings {
  Ceiling scores, values;
};
AttentionCeilings attention_ceilings(Format kv, Operand operand, const std::string& isa);

struct AttentionWork {
  Work scores, values;

  AttentionWork& operator+=(const AttentionWork& other) {
    scores += other.scores;
    values += other.values;
    return *this;
  }
  AttentionWork operator*(double times) const { return {scores * times, values * times}; }
  Work total() const { return {scores.flops + values.flops, scores.bytes + values.bytes}; }
  /// `binding`: of the product that takes longer.
  IdealTime ideal(const AttentionCeilings& ceilings, const Ceilings& measured) const;
};

/// Pairs of queries and keys, keys that are read.
struct AttentionCount {
  double pairs, keys;
};
/// The heads of one layer, and their size.
struct HeadCounts {
  size_t heads, kv_heads, head_dim;
};
/// Useful work of attention, one layer.
AttentionWork attention_work(const HeadCounts& layer, Format kv, const AttentionCount& count);
/// For `tokens` queries after `start` keys: all of them are read once, and each query sees those
/// before it and itself.
AttentionWork attention_work(const ModelConfig& config, Format kv, size_t start, size_t tokens);

/// Adds up the useful work of the steps of one test.
class CostModel {
 public:
  CostModel(const ModelConfig& config, const Arithmetic& arithmetic, const std::string& isa);

  /// Counts one forward step: add_share for each of its sequences, then end_step.
  void add_share(const StepShare& share);
  void end_step();

  /// Of all operations, or of one; what has no work worth counting (norms, RoPE) has none.
  Work total() const;
  Work total(Operation operation) const;
  /// Sum over steps and operations (or one of them) of max(flops / peak, bytes / bandwidth).
  IdealTime ideal(const Ceilings& measured) const;
  IdealTime ideal(const Ceilings& measured, Operation operation) const;

 private:
  struct Linear {
    Operation operation;
    double flops, bytes;  // a row, a step
  };
  /// Steps of a test are few kinds of work: each is kept with its sums, since max() does not
  /// distribute over sums of unlike steps.
  struct Part {
    Operation operation;
    Ceiling ceiling;
    Work work;
  };
  template <class Use>
  void for_parts(const Operation* only, const Use& use) const {
    for (const Part& part : parts_)
      if (!only || part.operation == *only) use(part);
  }
  Work sum(const Operation* only) const;
  IdealTime ideal_of(const Ceilings& measured, const Operation* only) const;

  ModelConfig config_;
  Format kv_;
  Ceiling linear_ceiling_;
  AttentionCeilings attention_ceilings_;
  std::vector<Linear> linear_;  // of all layers, and the head
  AttentionWork attention_;     // of the step under way
  size_t rows_ = 0, logits_ = 0;
  std::vector<Part> parts_;
};

}  // namespace rill
