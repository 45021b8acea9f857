// SPDX-License-Identifier: Apache-2.0
#include "planned_model.h"

#include "base/mapped_file.h"
#include "base/topology.h"
#include "model/checkpoint.h"

namespace rill::apps {

PlannedModel PlannedModel::of(const CommonOptions& options, size_t sequences) {
  ModelConfig config = options.config();
  DType stored = DType::BF16;
  if (options.shape.empty()) {
    const Checkpoint checkpoint = Checkpoint::open(options.model);
    checkpoint.check(config);
    stored = stored_type(checkpoint);
  }
  SessionSize size;
  if (options.chunk != 0) size.chunk = options.chunk;
  size.context = choose_context(config, options.context, config.max_position_embeddings);
  size.sequences = sequences;
  const Arithmetic arithmetic =
      resolve_arithmetic(options.arithmetic, stored, block_scope(config, size));
  const int threads = options.threads > 0 ? options.threads : available_cores();
  return {std::move(config), arithmetic, choose_kernels(options.isa), threads, size};
}

MachineConstants constants_of(const std::string& file) {
  if (file.empty()) return default_constants();
  const std::string text(MappedFile::open(file).text());
  MachineConstants c = constants_from_json(text, file);
  if (c.here.assumed && c.there.assumed) {
    c.name += "; links assumed";
  } else if (c.here.assumed || c.there.assumed) {
    c.name +=
        std::string("; links ") + (c.here.assumed ? "within a node" : "between nodes") + " assumed";
  }
  return c;
}

std::vector<ShapeChoice> choose_shape(const PlannedModel& model, const RankMachine& machine,
                                      const std::vector<RankShape>& shapes) {
  const RankModel times(model.config, model.arithmetic, machine.place, model.size.chunk);
  std::vector<ShapeChoice> choices;
  for (const RankShape& shape : shapes) {
    const RankMemory memory = plan_ranks(model.subject(), model.size, shape,
                                         {machine.node_memory, machine.place.per_node});
    choices.push_back(judge_shape(times, shape, memory.largest.fits()));
  }
  sort_choices(choices);
  return choices;
}

}  // namespace rill::apps
