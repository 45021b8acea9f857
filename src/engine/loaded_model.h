// SPDX-License-Identifier: Apache-2.0
// A checkpoint that is ready to compute: configuration, arithmetic, threads, packed weights.
#pragma once
#include <filesystem>
#include <memory>
#include <string>

#include "base/numa.h"
#include "base/team.h"
#include "engine/memory_plan.h"
#include "model/arithmetic.h"
#include "model/config.h"
#include "model/runtime.h"
#include "model/weights.h"
#include "rill/options.h"

namespace rill {

struct LoadOptions {
  ArithmeticOptions arithmetic;
  int threads = 0;  // 0: all cores that this process may use
  NumaPolicy numa = NumaPolicy::AUTO;
  std::string isa;  // "": RILL_ISA, else the best that this processor runs
  /// What sessions will be like: checked against memory before anything large is allocated.
  /// context 0: 4096 tokens, less if the model or the memory ends earlier.
  SessionSize session;
  Progress progress;  // of packing
  /// That share the model: all of them load it, with the same options. Outlives the model.
  const Ranks* ranks = &Ranks::single();
};

/// Tokens of context where neither the user nor memory says otherwise.
constexpr size_t kDefaultContext = 4096;

/// Owns what a Session borrows; stays where it is.
struct LoadedModel {
  /// Loads a Hugging Face folder. Throws Error; DoesNotFit before anything large is allocated.
  static std::unique_ptr<LoadedModel> load(const std::filesystem::path& folder,
                                           const LoadOptions& options);
  /// Random weights of a configuration: for measuring without a download.
  static std::unique_ptr<LoadedModel> random(const ModelConfig& config, const LoadOptions& options,
                                             uint64_t seed);

  Runtime runtime() { return {kernels, team, ranks}; }

  std::filesystem::path folder;  // empty for random weights
  ModelConfig config;
  GenerationConfig generation;
  Arithmetic arithmetic;
  const Kernels& kernels;
  Team team;
  const Ranks& ranks;
  SessionSize session;  // with the context decided
  MemoryPlan plan;
  Weights weights;
};

/// What --block-size auto goes by for a model in a session; throws as choose_context does.
BlockScope block_scope(const ModelConfig& config, const SessionSize& session);

/// Throws Error naming --ctx if `context` is beyond the model's max_position_embeddings; else the
/// context for `wanted` (0: the default, less where memory ends earlier).
size_t choose_context(const ModelConfig& config, size_t wanted, size_t longest);

}  // namespace rill
