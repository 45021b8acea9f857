// SPDX-License-Identifier: Apache-2.0
// One text that is being generated: its next token, its words as they come, and its end.
#pragma once
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "engine/loaded_model.h"
#include "engine/sampler.h"
#include "engine/text_side.h"
#include "rill/generate.h"

namespace rill {

class Answer {
 public:
  /// `text` may be null: the result then has tokens alone. Throws Error for options out of range,
  /// and for stop strings without a tokenizer.
  Answer(const LoadedModel& model, const TextSide* text, const GenerateOptions& options,
         std::span<const int32_t> prompt);

  /// Chooses the token at `position` from its logits [vocabulary]. Nothing if the text has ended;
  /// else the token, which is to be fed to the model next unless ended() is true by now.
  std::optional<int32_t> next(std::span<const float> logits, uint64_t position);
  bool ended() const { return ended_; }
  void end(StopReason reason);

  /// The text that is settled since the last call: whole characters that no stop string may cut.
  std::string take_text();

  /// With the text whole; to be asked for after the end.
  GenerateResult& result() { return result_; }

 private:
  void append(const std::string& piece);

  GenerateOptions options_;
  std::vector<int32_t> end_ids_;
  Sampler sampler_;
  std::optional<StreamDecoder> decoder_;
  std::string held_;   // may be the start of a stop string
  std::string ready_;  // for take_text
  bool ended_ = false;
  GenerateResult result_;
};

/// The ids that end a text: generation_config.json's, else config.json's.
std::vector<int32_t> end_of_text_ids(const LoadedModel& model);

/// What generation_config.json asks for; greedy when it does not sample.
SamplingOptions default_sampling(const GenerationConfig& generation);

}  // namespace rill
