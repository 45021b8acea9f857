// SPDX-License-Identifier: Apache-2.0
#include "engine/loaded_model.h"

#include <algorithm>

#include "base/error.h"
#include "base/topology.h"

namespace rill {
namespace {

/// The session that `options` asks for and its plan; throws DoesNotFit.
std::pair<SessionSize, MemoryPlan> decide_session(const ModelConfig& config,
                                                  const Arithmetic& arithmetic,
                                                  const Kernels& kernels, int threads,
                                                  const LoadOptions& options) {
  SessionSize size = options.session;
  if (size.chunk == 0) fail("--chunk is 0, expected a number of tokens from 1 on; leave it out");
  if (size.sequences == 0) fail("--batch is 0, expected a number of sequences from 1 on");
  size.context = choose_context(config, size.context, config.max_position_embeddings);
  // No step brings more rows than the contexts hold.
  size.chunk = std::min(size.chunk, size.context * size.sequences);
  size.chunk = std::max(size.chunk, size.sequences);
  const size_t available = available_memory();
  MemoryPlan plan = plan_memory(config, arithmetic, kernels, threads, size, available);
  if (options.session.context == 0 && !plan.fits() && plan.longest_context > 0) {
    size.context = choose_context(config, 0, plan.longest_context);
    size.chunk = std::max(std::min(size.chunk, size.context * size.sequences), size.sequences);
    plan = plan_memory(config, arithmetic, kernels, threads, size, available);
  }
  require_fit(plan);
  return {size, plan};
}

}  // namespace

BlockScope block_scope(const ModelConfig& config, const SessionSize& session) {
  return {config.head_dim, choose_context(config, session.context, config.max_position_embeddings)};
}

size_t choose_context(const ModelConfig& config, size_t wanted, size_t longest) {
  if (wanted > config.max_position_embeddings) {
    fail("a context (--ctx) of ", wanted,
         " tokens was asked for, but this model was made for at most ",
         config.max_position_embeddings,
         " positions (max_position_embeddings in config.json); take that or less");
  }
  if (wanted > 0) return wanted;
  return std::min({kDefaultContext, config.max_position_embeddings, longest});
}

std::unique_ptr<LoadedModel> LoadedModel::load(const std::filesystem::path& folder,
                                               const LoadOptions& options) {
  ModelConfig config = ModelConfig::load(folder);
  GenerationConfig generation = GenerationConfig::load(folder);
  const Checkpoint checkpoint = Checkpoint::open(folder);
  checkpoint.check(config);
  const Arithmetic arithmetic = resolve_arithmetic(options.arithmetic, stored_type(checkpoint),
                                                   block_scope(config, options.session));
  const Kernels& kernels = choose_kernels(options.isa);
  Team team(options.threads);
  const auto [session, plan] = decide_session(config, arithmetic, kernels, team.size(), options);
  Weights weights =
      Weights::pack(config, arithmetic, checkpoint, Runtime{kernels, team}, options.progress);
  return std::unique_ptr<LoadedModel>(
      new LoadedModel{folder, std::move(config), std::move(generation), arithmetic, kernels,
                      std::move(team), session, plan, std::move(weights)});
}

std::unique_ptr<LoadedModel> LoadedModel::random(const ModelConfig& config,
                                                 const LoadOptions& options, uint64_t seed) {
  const Arithmetic arithmetic =
      resolve_arithmetic(options.arithmetic, DType::BF16, block_scope(config, options.session));
  const Kernels& kernels = choose_kernels(options.isa);
  Team team(options.threads);
  const auto [session, plan] = decide_session(config, arithmetic, kernels, team.size(), options);
  Weights weights = Weights::random(config, arithmetic, Runtime{kernels, team}, seed);
  return std::unique_ptr<LoadedModel>(new LoadedModel{
      {}, config, {}, arithmetic, kernels, std::move(team), session, plan, std::move(weights)});
}

}  // namespace rill
