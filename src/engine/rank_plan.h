// SPDX-License-Identifier: Apache-2.0
// How long a model takes on ranks, predicted from a machine's constants: which shape tp x sp to
// choose, before the queue is asked for nodes. docs/scaling.md has the formulas.
#pragma once
#include <span>
#include <string>
#include <vector>

#include "engine/comm_model.h"
#include "engine/machine_constants.h"
#include "engine/memory_plan.h"

namespace rill {

struct RankShape {
  size_t tp = 1, sp = 1;
  size_t ranks() const { return tp * sp; }
};

/// Every tp x sp of `ranks`, tp first; where `fixed` has a number (0: any), those that have it.
std::vector<RankShape> possible_shapes(size_t ranks, RankShape fixed = {0, 0});

/// A prompt after `depth` tokens; or, where `prompt` is 0, a token for each of `batch` sequences.
struct RankTask {
  size_t prompt = 0, depth = 0, batch = 1;
  std::string name() const;  // "prompt of 512", "a token x 4 at 4096"
  size_t tokens() const { return prompt ? prompt : batch; }
};

/// Of one task. Sent and messages are of the rank that sends most.
struct Prediction {
  double computing = 0, talking = 0;            // seconds; talking that no computing hides
  uint64_t tensor_sent = 0, sequence_sent = 0;  // bytes, over tp and over sp groups
  uint64_t messages = 0;
  double seconds() const { return computing + talking; }
};

/// Where ranks run: `per_node` neighbours on each node.
struct RankPlace {
  const MachineConstants& constants;
  size_t per_node;
};

class RankModel {
 public:
  RankModel(const ModelConfig& config, const Arithmetic& arithmetic, const RankPlace& place,
            size_t chunk)
      : config_(config), arithmetic_(arithmetic), place_(place), chunk_(chunk) {}

  Prediction predict(RankShape shape, const RankTask& task) const;

 private:
  class Step;
  const ModelConfig& config_;
  const Arithmetic arithmetic_;
  const RankPlace place_;
  const size_t chunk_;
};

/// What each node has, for equal parts of its `per_node` neighbours.
struct NodeMemory {
  size_t bytes, per_node;
};
/// Memory of all ranks of a shape.
struct RankMemory {
  MemoryPlan largest;       // of the rank that needs most; the longest context is of all ranks
  size_t fullest_node = 0;  // bytes of the node whose ranks need most
};
/// `subject` of a whole model.
RankMemory plan_ranks(PlanSubject subject, const SessionSize& size, RankShape shape,
                      const NodeMemory& nodes);

/// What shapes are compared by: a prompt of 512 tokens, then 128 generated ones.
constexpr size_t kChoicePrompt = 512, kChoiceGenerated = 128;
struct ShapeChoice {
  RankShape shape;
  double prompt = 0, token = 0;  // seconds of the prompt, and of one token after it
  bool fits = true;              // in memory
  double seconds() const { return prompt + kChoiceGenerated * token; }
};
ShapeChoice judge_shape(const RankModel& model, RankShape shape, bool fits);
/// The best first: those that fit, then the fastest.
void sort_choices(std::vector<ShapeChoice>& choices);
/// The best few: "tp 2 x sp 1 1.20 s for 512 tokens in and 128 out (...); then tp 1 x sp 2 1.31 s".
std::string describe(std::span<const ShapeChoice> choices);

}  // namespace rill
