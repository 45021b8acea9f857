// SPDX-License-Identifier: Apache-2.0
#include "engine/loaded_model.h"

#include <algorithm>

#include "base/error.h"
#include "base/topology.h"
#include "engine/handshake.h"
#include "engine/rank_team.h"

namespace rill {
namespace {

/// This rank's part of what its machine's memory leaves to all ranks there, none of which has
/// allocated anything large when it is looked at.
size_t memory_share(Communicator& world) {
  world.barrier();
  const size_t share = available_memory() / static_cast<size_t>(world.ranks_here());
  world.barrier();
  return share;
}

Team team_for(const LoadOptions& options) {
  return make_team(options.ranks->world(), options.threads, options.numa);
}

/// The sizes that all ranks must have in common.
std::string describe(const SessionSize& size) {
  return ", chunk " + std::to_string(size.chunk) + ", context " + std::to_string(size.context) +
         ", " + std::to_string(size.sequences) + " sequences";
}

PlanSubject subject_of(const ModelConfig& config, const Arithmetic& arithmetic,
                       const Kernels& kernels, const Team& team, const LoadOptions& options) {
  return {config,
          arithmetic,
          kernels,
          team.size(),
          options.ranks->tp_place(),
          options.ranks->sp_place()};
}

/// The session that `options` asks for and its plan, the same context on all ranks; throws
/// DoesNotFit.
std::pair<SessionSize, MemoryPlan> decide_session(const PlanSubject& subject,
                                                  const LoadOptions& options) {
  const ModelConfig& config = subject.config;
  SessionSize size = options.session;
  if (size.chunk == 0) fail("--chunk is 0, expected a number of tokens from 1 on; leave it out");
  if (size.sequences == 0) fail("--batch is 0, expected a number of sequences from 1 on");
  size.context = choose_context(config, size.context, config.max_position_embeddings);
  // No step brings more rows than the contexts hold.
  size.chunk = std::min(size.chunk, size.context * size.sequences);
  size.chunk = std::max(size.chunk, size.sequences);
  const size_t available = memory_share(options.ranks->world());
  MemoryPlan plan = plan_memory(subject, size, available);
  const bool shorter = options.session.context == 0 && !plan.fits() && plan.longest_context > 0;
  const size_t wanted = shorter ? choose_context(config, 0, plan.longest_context) : size.context;
  const size_t context = options.ranks->world().least(wanted);
  if (context < size.context) {
    size.context = context;
    size.chunk = std::max(std::min(size.chunk, size.context * size.sequences), size.sequences);
    plan = plan_memory(subject, size, available);
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
  shake_hands(options.ranks->world(), checkpoint, describe(arithmetic) + describe(options.session));
  const Kernels& kernels = choose_kernels(options.isa);
  Team team = team_for(options);
  const auto [session, plan] =
      decide_session(subject_of(config, arithmetic, kernels, team, options), options);
  Weights weights = Weights::pack(config, arithmetic, checkpoint,
                                  Runtime{kernels, team, *options.ranks}, options.progress);
  return std::unique_ptr<LoadedModel>(
      new LoadedModel{folder, std::move(config), std::move(generation), arithmetic, kernels,
                      std::move(team), *options.ranks, session, plan, std::move(weights)});
}

std::unique_ptr<LoadedModel> LoadedModel::random(const ModelConfig& config,
                                                 const LoadOptions& options, uint64_t seed) {
  const Arithmetic arithmetic =
      resolve_arithmetic(options.arithmetic, DType::BF16, block_scope(config, options.session));
  const Kernels& kernels = choose_kernels(options.isa);
  Team team = team_for(options);
  const auto [session, plan] =
      decide_session(subject_of(config, arithmetic, kernels, team, options), options);
  Weights weights =
      Weights::random(config, arithmetic, Runtime{kernels, team, *options.ranks}, seed);
  return std::unique_ptr<LoadedModel>(new LoadedModel{{},
                                                      config,
                                                      {},
                                                      arithmetic,
                                                      kernels,
                                                      std::move(team),
                                                      *options.ranks,
                                                      session,
                                                      plan,
                                                      std::move(weights)});
}

}  // namespace rill
