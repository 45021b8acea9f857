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

namespace rill {

/// What can bind an operation.
enum class Ceiling { BANDWIDTH, FMA, VDPBF16PS, VNNI, MADDUBS };
constexpr size_t kCeilingKinds = 5;

/// "bandwidth", "fma", "vdpbf16ps", "vnni" or "maddubs".
const char* to_string(Ceiling ceiling);
/// The measured value, in bytes/s or op/s.
double value_of(const Ceilings& measured, Ceiling ceiling);

/// The instruction whose peak bounds products of `operand` on instruction set `isa`.
Ceiling ceiling_of(Operand operand, const std::string& isa);

/// Useful work of one kind, summed over the steps of a test.
struct Work {
  double flops = 0;  // a multiplication and an addition are two
  double bytes = 0;  // read from memory at least once
};

/// Ideal time of a test: every operation at its ceiling, one after the other.
struct IdealTime {
  double seconds = 0;
  Ceiling binding = Ceiling::BANDWIDTH;  // the one with the largest share of `seconds`
};

/// One sequence's part of a step: `tokens` new ones after `start` that are in its cache.
struct StepShare {
  size_t start, tokens;
  size_t logits;  // rows of logits wanted
};

/// Adds up the useful work of the steps of one test.
class CostModel {
 public:
  CostModel(const ModelConfig& config, const Arithmetic& arithmetic, const std::string& isa);

  /// Counts one forward step: add_share for each of its sequences, then end_step.
  void add_share(const StepShare& share);
  void end_step();

  Work total() const;
  /// Sum over steps and operations of max(flops / peak, bytes / bandwidth).
  IdealTime ideal(const Ceilings& measured) const;

 private:
  /// Steps of a test are few kinds of work: each is kept with its sums, since max() does not
  /// distribute over sums of unlike steps.
  struct Operation {
    Ceiling ceiling;
    double flops, bytes;
  };

  Ceiling linear_ceiling_, attention_ceiling_;
  double layer_flops_, layer_bytes_;          // linear layers: FLOPs a token, bytes a step
  double head_flops_, head_bytes_;            // head: FLOPs a row of logits, bytes a step
  double attention_flops_, attention_bytes_;  // a visible key of one query, a key in the cache
  size_t rows_ = 0, logits_ = 0;              // of the step under way
  double visible_ = 0, keys_ = 0;
  std::vector<Operation> operations_;
};

}  // namespace rill
