// SPDX-License-Identifier: Apache-2.0
// Generation for one conversation, and for many prompts side by side.
#pragma once
#include <functional>
#include <span>
#include <vector>

#include "engine/answer.h"
#include "engine/session.h"

namespace rill {

/// One conversation. The KV cache keeps its tokens between calls: of the next prompt only what
/// comes after the longest common prefix is computed, which changes no bit.
class Generator {
 public:
  /// Borrows all three; `text` may be null.
  Generator(const LoadedModel& model, Session& session, const TextSide* text);

  /// Continues `prompt`. Throws Error for ids out of range and a prompt longer than the context.
  GenerateResult generate(std::span<const int32_t> prompt, const GenerateOptions& options,
                          const TextCallback& on_text = {});

  /// Tokens that the cache holds.
  size_t cached() const { return ids_.size(); }
  void clear();

 private:
  /// Computes all of `prompt`; false if the callback cancelled between two chunks.
  bool prefill(std::span<const int32_t> prompt, const TextCallback& on_text,
               GenerateResult& result);
  void feed(std::span<const int32_t> ids, size_t logits);

  const LoadedModel& model_;
  Session& session_;
  const TextSide* text_;
  KvSequence sequence_;
  std::vector<int32_t> ids_;   // what sequence_ holds
  std::vector<float> logits_;  // [vocabulary]
};

/// Answers all prompts, as many side by side as the session has sequences, each as Generator would
/// to the bit. `on_done` is called with the number of finished ones. Times are left at 0.
std::vector<GenerateResult> generate_side_by_side(
    const LoadedModel& model, Session& session, const TextSide* text,
    std::span<const std::vector<int32_t>> prompts, const GenerateOptions& options,
    const std::function<void(size_t done, size_t total)>& on_done = {});

}  // namespace rill
