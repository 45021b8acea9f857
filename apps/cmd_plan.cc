// SPDX-License-Identifier: Apache-2.0
// rill plan: what a model needs of memory, without loading it.
#include <memory>

#include "base/topology.h"
#include "commands.h"
#include "common_options.h"
#include "engine/memory_plan.h"
#include "model/checkpoint.h"

namespace rill::apps {
namespace {

struct PlanOptions {
  CommonOptions common;
  size_t batch = 1;
};

int run_plan(const PlanOptions& options) {
  const LoadOptions load = options.common.load_options();
  const ModelConfig config = ModelConfig::load(options.common.model);
  const Checkpoint checkpoint = Checkpoint::open(options.common.model);
  checkpoint.check(config);
  const Arithmetic arithmetic = resolve_arithmetic(load.arithmetic, stored_type(checkpoint),
                                                   block_scope(config, load.session));
  const Kernels& kernels = choose_kernels(load.isa);
  const int threads = load.threads > 0 ? load.threads : available_cores();
  SessionSize size = load.session;
  size.sequences = options.batch;
  size.context = choose_context(config, size.context, config.max_position_embeddings);
  const MemoryPlan plan =
      plan_memory({config, arithmetic, kernels, threads}, size, available_memory());
  print(options.common.model + ", " + describe(arithmetic) + "\n" + plan.table());
  return plan.fits() ? 0 : 1;
}

}  // namespace

void add_plan_command(Program& program) {
  auto options = std::make_shared<PlanOptions>();
  CLI::App* command = add_command(
      program, "plan", "tell what a model needs of memory, and the longest context that fits",
      "rill plan models/rill-demo --ctx 4096 --batch 4", [options] { return run_plan(*options); });
  add_common_options(*command, options->common);
  command->add_option("--batch", options->batch, "sequences side by side (default 1)")
      ->check(CLI::Range(1, 65536))
      ->type_name("N");
}

}  // namespace rill::apps
