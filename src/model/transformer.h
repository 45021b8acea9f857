// SPDX-License-Identifier: Apache-2.0
// The forward pass of Qwen3.
#pragma once
#include <memory>
#include <span>
#include <vector>

#include "model/arithmetic.h"
#include "model/config.h"
#include "model/kv_cache.h"
#include "model/profile.h"
#include "model/runtime.h"
#include "model/step_scratch.h"
#include "model/weights.h"

namespace rill {

class ForwardPass;

/// One sequence's share of a forward step: `tokens` are appended to `sequence`.
struct SequenceStep {
  KvSequence* sequence;
  std::span<const int32_t> tokens;  // at least one
  size_t logits;                    // rows of logits wanted: of the last `logits` tokens
};

class Transformer {
 public:
  /// `most_rows`: the most tokens that one step may bring, over all its sequences (the chunk size);
  /// scratch is allocated here, once. `most_context`: positions a sequence may reach.
  Transformer(const ModelConfig& config, const Arithmetic& arithmetic, const Weights& weights,
              Runtime runtime, size_t most_rows, size_t most_context);
  ~Transformer();

  /// Scratch that the constructor allocates: for `rill plan`, and for the test
  /// that streaming scratch does not grow with the context.
  static size_t scratch_bytes(const ScratchSize& size, size_t most_context);

  /// One step for several sequences side by side. `logits` receives the wanted rows,
  /// [sum of steps[i].logits][vocab], in order. `hidden`, if not null, receives the residual stream
  /// [layers + 1][rows][hidden] (rows: all tokens of the step in order; the embedding, then after
  /// each layer). Throws rill::Error for an id out of range, a full cache, a context beyond
  /// most_context, more than most_rows tokens, or a logit that is not finite (naming the sequence);
  /// the sequences then keep their former length. Allocates nothing.
  void forward(std::span<const SequenceStep> steps, float* logits, float* hidden = nullptr);

  /// From now on steps are measured into `profile` (null, as at first: no longer), which must have
  /// a clock for each thread. Costs two readings of the clock per operation and thread.
  void set_profile(Profile* profile) { profile_ = profile; }

  /// From now on steps also write the residual stream between the halves of each layer,
  /// [layers][rows][hidden], to find where two runs part (null, as at first: no longer).
  void set_middle(float* middle) { middle_ = middle; }

  const ModelConfig& config() const { return config_; }
  const Arithmetic& arithmetic() const { return arithmetic_; }
  size_t most_rows() const { return most_rows_; }
  size_t most_context() const { return most_context_; }

 private:
  const ModelConfig& config_;
  const Arithmetic arithmetic_;
  const Weights& weights_;
  const Runtime runtime_;
  const size_t most_rows_, most_context_;
  std::unique_ptr<ForwardPass> pass_;
  Profile* profile_ = nullptr;
  float* middle_ = nullptr;
};

}  // namespace rill
