// SPDX-License-Identifier: Apache-2.0
// A model that is planned for and not loaded: rill plan, and --tp auto.
#pragma once
#include <string>
#include <vector>

#include "common_options.h"
#include "engine/rank_plan.h"

namespace rill::apps {

struct PlannedModel {
  ModelConfig config;
  Arithmetic arithmetic;
  const Kernels& kernels;
  int threads;
  SessionSize size;

  /// Of the options' subject. Throws as loading does.
  static PlannedModel of(const CommonOptions& options, size_t sequences);
  PlanSubject subject() const { return {config, arithmetic, kernels, threads}; }
};

/// The constants in a file, whose name says which were not measured; default_constants() if `file`
/// is empty.
MachineConstants constants_of(const std::string& file);

/// Ranks on nodes with so much memory each.
struct RankMachine {
  RankPlace place;
  size_t node_memory;
};
/// The best of `shapes` first.
std::vector<ShapeChoice> choose_shape(const PlannedModel& model, const RankMachine& machine,
                                      const std::vector<RankShape>& shapes);

}  // namespace rill::apps
