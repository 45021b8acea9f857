// SPDX-License-Identifier: Apache-2.0
#include "model/transformer.h"

#include <algorithm>
#include <cassert>
#include <chrono>

#include "base/error.h"
#include "model/forward_pass.h"

namespace rill {
namespace {

// Counts tokens in, and out again unless the step succeeds.
class Growth {
 public:
  explicit Growth(std::span<const SequenceStep> steps) : steps_(steps) {}
  Growth(const Growth&) = delete;
  Growth& operator=(const Growth&) = delete;
  ~Growth() {
    while (done_-- > 0) {
      KvSequence& sequence = *steps_[done_].sequence;
      sequence.truncate(sequence.length() - steps_[done_].tokens.size());
    }
  }
  // Of the next sequence. Returns its former length.
  size_t extend() {
    KvSequence& sequence = *steps_[done_].sequence;
    const size_t length = sequence.length();
    sequence.extend(steps_[done_].tokens.size());
    ++done_;
    return length;
  }
  void keep() { done_ = 0; }

 private:
  std::span<const SequenceStep> steps_;
  size_t done_ = 0;
};

}  // namespace

Transformer::Transformer(const ModelConfig& config, const Arithmetic& arithmetic,
                         const Weights& weights, Runtime runtime, size_t most_rows,
                         size_t most_context)
    : config_(config),
      arithmetic_(arithmetic),
      weights_(weights),
      runtime_(runtime),
      most_rows_(most_rows),
      most_context_(most_context),
      pass_(std::make_unique<ForwardPass>(
          Model{config_, arithmetic_, weights_, runtime_},
          ScratchSize{config_, arithmetic_, weights_.shard(), runtime.kernels, runtime.team.size(),
                      most_rows},
          most_context)) {}

Transformer::~Transformer() = default;

size_t Transformer::scratch_bytes(const ScratchSize& size, size_t most_context) {
  const RankOf tp = size.shard.tp, sp = size.shard.sp;
  const bool ranks = tp.count * sp.count > 1;
  return std::max(ForwardPass::scratch_bytes(size, {false, sp.count}, most_context),
                  ForwardPass::scratch_bytes(size, {ranks, sp.count}, most_context));
}

void Transformer::forward(std::span<const SequenceStep> steps, float* logits, float* hidden) {
  const Profile::Step measured(profile_);
  size_t rows = 0;
  for (const SequenceStep& step : steps) {
    assert(step.sequence && !step.tokens.empty() && step.logits <= step.tokens.size());
    assert(step.sequence->cache().format() == arithmetic_.kv);
    for (const int32_t id : step.tokens)
      if (id < 0 || static_cast<size_t>(id) >= config_.vocab_size)
        fail("token id ", id, " is outside the vocabulary; use ids from 0 to ",
             config_.vocab_size - 1);
    if (step.sequence->length() + step.tokens.size() > most_context_)
      fail("the context would be ", step.sequence->length() + step.tokens.size(),
           " tokens long where ", most_context_, " are allowed; raise --ctx or shorten the text");
    rows += step.tokens.size();
  }
  if (rows > most_rows_)
    fail("a step brings ", rows, " tokens where ", most_rows_, " are allowed; raise --chunk");
  if (rows == 0) return;

  Growth growth(steps);
  pass_->begin(rows);
  for (const SequenceStep& step : steps)
    pass_->add({step.sequence, growth.extend(), step.tokens, step.logits});
  const auto start = std::chrono::steady_clock::now();
  size_t bad = pass_->run({logits, hidden, middle_, rows}, profile_);
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
  runtime_.ranks.world().count_step(took.count());
  if (bad == rows) {
    growth.keep();
    return;
  }
  size_t sequence = 0;
  for (; bad >= steps[sequence].tokens.size(); ++sequence) bad -= steps[sequence].tokens.size();
  fail("the logits of sequence ", sequence, " are not finite at position ",
       steps[sequence].sequence->length() - steps[sequence].tokens.size() + bad,
       "; check the checkpoint with `rill verify`, or take --compute f32 and --kv f32");
}

}  // namespace rill
