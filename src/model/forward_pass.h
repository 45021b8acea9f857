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

/// Where results of a step or of a piece go. The residual stream may be wanted after each layer
/// and between its halves, [layers][step_rows][hidden]; else null.
struct StepOutput {
  float* logits;
  float *hidden, *middle;
  size_t step_rows;
};

/// Some rows of a step. What its phases begin to send the next one waits for; between them other
/// pieces compute. Threads meet at barriers; between them each writes what no other reads.
class StepPiece {
 public:
  /// Allocates all scratch.
  StepPiece(const Model& model, const ScratchSize& size, size_t most_context);

  /// To be filled before plan().
  StepRows& rows() { return rows_; }
  void plan(const StepOutput& output);

  /// By all threads: the embedding, then phases() phases, one after the other. True where another
  /// piece should go on first: what the next phase waits for is on its way, or there is none.
  void embed(Worker& worker);
  bool run(Worker& worker, size_t phase);
  size_t phases() const { return kPhases * model_.weights.layers().size() + 1; }

  /// The first row whose logits are not finite, or the number of rows.
  size_t bad() const { return bad_.load(); }
  /// The least value of all ranks; by one thread.
  size_t least(size_t value) { return sequence_->least(tensor_->least(value)); }

 private:
  static constexpr size_t kPhases = 4;  // of a layer
  void query_key_value(Worker& worker, size_t layer);
  void attend(Worker& worker, size_t layer);
  void project_attended(Worker& worker, size_t layer);
  void feed_forward(Worker& worker, size_t layer);
  void end_layer(Worker& worker, size_t layer);
  void head(Worker& worker);
  void own_logits(Worker& worker);
  Activations normed(Worker& worker, const float* weight);
  void report(size_t row);
  void keep(Worker& worker, float* arrays, size_t index);
  float* x(size_t row) { return scratch_.x + row * row_stride(widths_.hidden); }
  const LayerWeights& weights(size_t layer) const { return model_.weights.layers()[layer]; }
  Attention::Output attended() const { return {scratch_.attended, row_stride(widths_.q)}; }

  const Model model_;
  const Shard shard_;
  const Widths widths_;
  Buffer memory_;
  Arena arena_;
  const StepScratch scratch_;
  StepRows rows_;
  std::unique_ptr<SequenceRanks> sequence_;
  std::unique_ptr<TensorRanks> tensor_;
  Attention attention_;
  HeadRows heads_;
  LinearLayers linear_;
  StepOutput output_{};
  std::atomic<size_t> bad_{0};
};

/// The pieces of a step side by side.
class ForwardPass {
 public:
  ForwardPass(const Model& model, const ScratchSize& size, size_t most_context);
  /// Bytes that the constructor allocates.
  static size_t scratch_bytes(const ScratchSize& size, const StepPieces& pieces,
                              size_t most_context);

  /// The rows of the step to come: first their number, then sequence by sequence.
  void begin(size_t rows);
  void add(const StepTokens& step);
  /// Returns the first row whose logits are not finite, or the number of rows.
  size_t run(const StepOutput& output, Profile* profile);

 private:
  void plan(const StepOutput& output);
  void step(Worker& worker);

  const Model model_;
  const StepPieces cut_;
  std::vector<std::unique_ptr<StepPiece>> pieces_;
  size_t count_ = 1;       // pieces of this step
  size_t first_rows_ = 0;  // of the first piece
};

}  // namespace rill
