// SPDX-License-Identifier: Apache-2.0
// From logits to the next token: docs/arithmetic.md, section 12.
#pragma once
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "rill/generate.h"

namespace rill {

/// A number in [0, 1) that depends on the seed and the position alone: Philox4x32-10 (Salmon et
/// al., "Parallel random numbers: as easy as 1, 2, 3", SC'11).
double uniform_at(uint64_t seed, uint64_t position);

/// Throws Error naming the value that is out of range.
void check_sampling(const SamplingOptions& options);

/// Picks tokens for one sequence, all in double precision with fixed operations: the same choice
/// on every machine.
class Sampler {
 public:
  /// Ids from `candidates` on and those in `unused` are never taken: the tokenizer does not have
  /// them. At least one id is left. Throws Error for options out of range.
  Sampler(const SamplingOptions& options, size_t candidates, std::span<const int32_t> unused = {});

  /// Forgets what was seen and starts with a prompt (for the repetition penalty).
  void start(std::span<const int32_t> prompt);
  /// Counts a generated token in, for both penalties.
  void accept(int32_t id);

  /// The token at `position` (the number of tokens before it) given its finite logits [vocabulary].
  int32_t sample(std::span<const float> logits, uint64_t position);

 private:
  struct Candidate {
    double logit;
    int32_t id;
  };
  double penalised(float logit, int32_t id) const;
  int32_t greedy(std::span<const float> logits) const;
  /// Sorts and keeps what top-k, top-p and min-p leave.
  void select(std::span<const float> logits);

  SamplingOptions options_;
  size_t candidates_;
  std::vector<uint8_t> seen_;  // [candidates] bits: in prompt or text, generated, unused
  std::vector<Candidate> kept_;
  std::vector<double> weight_;  // of kept_
};

}  // namespace rill
