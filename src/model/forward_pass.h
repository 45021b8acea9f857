// SPDX-License-Identifier: Apache-2.0
// One forward step through all layers, on every thread of a team and over all ranks.
#pragma once
#include <atomic>
#include <memory>

#include "base/buffer.h"
#include "model/arena.h"
#include "model/attention.h"
#include "model/head_rows.h"
#include "model/linear_layers.h"
#include "model/model.h"
#include "model/profile.h"
#include "model/sequence_ranks.h"
#include "model/step_rows.h"
#include "model/step_scratch.h"
#include "model/tensor_ranks.h"

namespace rill {

/// What attention is like on a rank.
AttentionShape attention_shape(const ModelConfig& config, const Arithmetic& arithmetic,
                               const Shard& shard);

/// Where the residual stream is wanted, if it is: after each layer, and between its halves.
struct Residuals {
  float *hidden = nullptr, *middle = nullptr;
};

/// Threads meet at barriers; between them each writes what no other reads.
class ForwardPass {
 public:
  /// Allocates all scratch.
  ForwardPass(const Model& model, const ScratchSize& size, size_t most_context);

  /// The rows of the step to come: clear, then add sequence by sequence.
  StepRows& rows() { return rows_; }
  /// Returns the first row whose logits are not finite, or the number of rows.
  size_t run(float* logits, const Residuals& residuals, Profile* profile);

 private:
  void embed(Worker& worker);
  void attention(Worker& worker, size_t layer);
  void query_key_value(Worker& worker, size_t layer);
  void feed_forward(Worker& worker, size_t layer);
  void head(Worker& worker);
  void own_logits(Worker& worker);

  Activations normed(Worker& worker, const float* weight);
  void report(size_t row);
  void keep(Worker& worker, float* arrays, size_t index);
  float* x(size_t row) { return scratch_.x + row * row_stride(widths_.hidden); }

  const Model model_;
  const Shard shard_;
  const Widths widths_;
  Buffer memory_;
  Arena arena_;
  const StepScratch scratch_;
  StepRows rows_;
  SequenceRanks sequence_;
  std::unique_ptr<TensorRanks> tensor_;
  Attention attention_;
  HeadRows heads_;
  LinearLayers linear_;
  float* logits_ = nullptr;
  Residuals residuals_;
  std::atomic<size_t> bad_{0};
};

}  // namespace rill
