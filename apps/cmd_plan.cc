// SPDX-License-Identifier: Apache-2.0
// rill plan: what a model needs of memory, of links between ranks and of time, without loading it.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <memory>

#include "base/topology.h"
#include "commands.h"
#include "engine/bench_table.h"
#include "engine/bench_values.h"
#include "planned_model.h"

namespace rill::apps {
namespace {

constexpr size_t kMostRanks = 512;  // 8 x 64

struct PlanOptions {
  CommonOptions common;
  size_t batch = 1;
  std::string tp, sp;  // a number or auto
  size_t ranks = 0, nodes = 0, per_node = 0;
  std::string constants, prompts = "512", depths = "0,4096";
  double gbits = 0, microseconds = 0, node_gib = 0;
  const CLI::App* command = nullptr;

  bool given(const char* option) const { return command->count(option) > 0; }
  size_t node_memory() const {
    const double gib = static_cast<double>(size_t{1} << 30);
    return node_gib > 0 ? static_cast<size_t>(node_gib * gib) : available_memory();
  }
};

/// Throws UsageError for an option that only ranks have, where none are asked for.
bool over_ranks(const PlanOptions& options) {
  for (const char* asking : {"--tp", "--sp", "--ranks", "--nodes", "--ranks-per-node"})
    if (options.given(asking)) return true;
  for (const char* option : {"-p", "-d", "--constants", "--link-gbits", "--link-latency"})
    if (options.given(option))
      throw UsageError(std::string(option) +
                       " is about the time that ranks take, but no ranks are asked for; give "
                       "--ranks too (--ranks 1 for one process), or --tp, --sp, --nodes or "
                       "--ranks-per-node");
  return false;
}

std::string counted(size_t count, const std::string& what) {
  return std::to_string(count) + " " + what + (count == 1 ? "" : "s");
}

/// 0 for auto and for nothing.
size_t number_of(const std::string& text, const std::string& option) {
  const int number = text.empty() ? kAutoRanks : parse_rank_count(text, option);
  return number == kAutoRanks ? 0 : static_cast<size_t>(number);
}

[[noreturn]] void fail_shapeless(size_t ranks, bool fixed) {
  const std::string what = "--tp (1 to 8) times --sp (1 to 64)";
  if (fixed)
    throw UsageError(what + ", as given, is not " + std::to_string(ranks) +
                     " ranks; take others, or auto");
  size_t fewer = std::min(ranks, kMostRanks);
  while (possible_shapes(fewer).empty()) --fewer;
  throw UsageError("there are to be " + std::to_string(ranks) + " ranks, but no " + what +
                   " is that; take for instance " + std::to_string(fewer));
}

size_t ranks_in_all(const PlanOptions& options, RankShape fixed, size_t numa_nodes) {
  if (options.ranks) return options.ranks;
  const bool shares_out = options.tp == "auto" || options.sp == "auto";
  const bool open = shares_out || (!fixed.tp && !fixed.sp);
  if ((options.nodes && options.per_node) || (open && (options.nodes || options.per_node)))
    return std::max<size_t>(1, options.nodes) * (options.per_node ? options.per_node : numa_nodes);
  if (shares_out)
    throw UsageError("--tp auto and --sp auto share out a number of ranks; give --ranks too");
  return std::max<size_t>(1, fixed.tp) * std::max<size_t>(1, fixed.sp);
}

/// The shapes in question: one, or those that make the ranks.
std::vector<RankShape> shapes_in_question(const PlanOptions& options, size_t numa_nodes) {
  const RankShape fixed = {number_of(options.tp, "--tp"), number_of(options.sp, "--sp")};
  const size_t ranks = ranks_in_all(options, fixed, numa_nodes);
  const std::vector<RankShape> shapes = possible_shapes(ranks, fixed);
  if (shapes.empty()) fail_shapeless(ranks, fixed.tp || fixed.sp);
  return shapes;
}

size_t nodes_of(size_t ranks, size_t per_node) {
  return (ranks + per_node - 1) / per_node;
}

size_t ranks_per_node(const PlanOptions& options, size_t numa_nodes, size_t ranks) {
  const std::string all = counted(ranks, "rank");
  if (options.per_node > ranks)
    throw UsageError("--ranks-per-node is " + std::to_string(options.per_node) +
                     ", but there are " + all + " in all; take " + std::to_string(ranks) +
                     " or less, or more --ranks");
  if (options.nodes == 0) return options.per_node ? options.per_node : std::min(ranks, numa_nodes);
  const size_t per_node = options.per_node ? options.per_node : nodes_of(ranks, options.nodes);
  const size_t nodes = nodes_of(ranks, per_node);
  if (nodes != options.nodes)
    throw UsageError("--nodes is " + std::to_string(options.nodes) + ", but " + all + " with " +
                     std::to_string(per_node) + " on a node take " + counted(nodes, "node") +
                     "; make --nodes, --ranks-per-node and the ranks (--ranks, or --tp times "
                     "--sp) agree");
  return per_node;
}

MachineConstants constants_for(const PlanOptions& options) {
  MachineConstants c = constants_of(options.constants);
  if (options.gbits > 0) {
    c.there.gather_bandwidth = c.there.exchange_bandwidth = options.gbits * 1e9 / 8;
    c.name += "; " + fixed(options.gbits, 0) + " Gbit/s between nodes";
  }
  if (options.microseconds > 0) {
    c.there.gather_latency = c.there.exchange_latency = options.microseconds * 1e-6;
    c.name += ", " + fixed(options.microseconds, 0) + " µs";
  }
  return c;
}

/// Those that `positions` of the model suffice for; throws rill::Error if it was a given option
/// that asked for more.
std::vector<RankTask> tasks_of(const PlanOptions& options, size_t positions) {
  std::vector<RankTask> tasks;
  const auto add = [&](const char* option, const RankTask& task, size_t tokens) {
    if (tokens <= positions) return tasks.push_back(task);
    if (options.given(option))
      fail(task.name(), " (", option, ") takes a context of ", tokens,
           " tokens, but this model was made for at most ", positions, " positions; lower ",
           option);
  };
  for (const size_t prompt : as_usage([&] { return parse_list(options.prompts, "-p"); }))
    if (prompt) add("-p", {prompt, 0, 1}, prompt);
  for (const size_t depth : as_usage([&] { return parse_list(options.depths, "-d"); }))
    add("-d", {0, depth, options.batch}, depth + 1);
  return tasks;
}

std::string time_text(double seconds) {
  return seconds < 1 ? fixed(1000 * seconds) + " ms" : fixed(seconds) + " s";
}

/// What a rank sends in each task, and how long the tasks take.
std::string task_table(const RankModel& times, RankShape shape, const std::vector<RankTask>& tasks,
                       size_t layers) {
  std::vector<std::vector<std::string>> cells = {{"", "tokens/s", "time", "computing", "talking",
                                                  "sent by a rank", "tp, layer and token",
                                                  "sp, layer and token", "messages"}};
  for (const RankTask& task : tasks) {
    const Prediction p = times.predict(shape, task);
    const size_t parts = task.tokens() * layers;
    cells.push_back({task.name(), fixed(static_cast<double>(task.tokens()) / p.seconds(), 1),
                     time_text(p.seconds()), time_text(p.computing), time_text(p.talking),
                     bytes_text(p.tensor_sent + p.sequence_sent), bytes_text(p.tensor_sent / parts),
                     bytes_text(p.sequence_sent / parts), std::to_string(p.messages)});
  }
  return markdown_table(cells, 1);
}

std::string choice_table(const std::vector<ShapeChoice>& choices) {
  const std::string first = "prompt of " + std::to_string(kChoicePrompt);
  std::vector<std::vector<std::string>> cells = {
      {"tp x sp", first, "a token after it", std::to_string(kChoiceGenerated) + " tokens, in all",
       "memory"}};
  for (const ShapeChoice& choice : choices)
    cells.push_back({std::to_string(choice.shape.tp) + " x " + std::to_string(choice.shape.sp),
                     time_text(choice.prompt), time_text(choice.token), time_text(choice.seconds()),
                     choice.fits ? "fits" : "does not fit"});
  return "Shapes, the fastest predicted first:\n\n" + markdown_table(cells, 1) + "\n";
}

int plan_ranks(const PlanOptions& options, const PlannedModel& model, const std::string& title) {
  const MachineConstants constants = constants_for(options);
  const std::vector<RankShape> shapes = shapes_in_question(options, constants.numa_nodes);
  const size_t ranks = shapes.front().ranks();
  const size_t per_node = ranks_per_node(options, constants.numa_nodes, ranks);
  const std::vector<RankTask> tasks = tasks_of(options, model.config.max_position_embeddings);
  const size_t node_memory = options.node_memory();
  const RankMachine machine = {{constants, per_node}, node_memory};
  const std::vector<ShapeChoice> choices = choose_shape(model, machine, shapes);
  const RankShape shape = choices.front().shape;
  const RankMemory memory = plan_ranks(model.subject(), model.size, shape, {node_memory, per_node});
  const size_t numa_node = memory.fullest_node / std::min(constants.numa_nodes, per_node);

  std::string text = title + counted(ranks, "rank") + " (tp " + std::to_string(shape.tp) +
                     " x sp " + std::to_string(shape.sp) + "), " + std::to_string(per_node) +
                     " on each of " + counted(nodes_of(ranks, per_node), "node") +
                     "; predicted for " + constants.name + "\n\n";
  if (choices.size() > 1) text += choice_table(choices);
  text += "Memory of the largest rank:\n" + memory.largest.table() + "  of a node   " +
          bytes_text(memory.fullest_node) + ", of each NUMA node that has ranks " +
          bytes_text(numa_node) + "\n\n";
  const RankModel times(model.config, model.arithmetic, machine.place, model.size.chunk);
  print(text + task_table(times, shape, tasks, model.config.num_layers));
  return choices.front().fits ? 0 : 1;
}

int run_plan(const PlanOptions& options) {
  const std::string& subject = options.common.subject();
  const bool ranked = over_ranks(options);
  const PlannedModel model = PlannedModel::of(options.common, options.batch);
  const std::string title = subject + ", " + describe(model.arithmetic) + "\n";
  if (ranked) return plan_ranks(options, model, title);
  const MemoryPlan plan = plan_memory(model.subject(), model.size, options.node_memory());
  print(title + plan.table());
  return plan.fits() ? 0 : 1;
}

/// CLI::Range lets it pass: it is neither too small nor too large.
std::string refuse_nan(const std::string& text) {
  return std::isnan(std::strtod(text.c_str(), nullptr)) ? "not a number" : "";
}

void add_cluster_options(CLI::App& command, PlanOptions& options) {
  const std::string group =
      "Ranks (any of the first five asks for this part, and all but --node-memory need one of "
      "them)";
  const auto text = [&](const char* name, std::string& target, const char* type,
                        const char* description) {
    command.add_option(name, target, description)->type_name(type)->group(group);
  };
  const auto count = [&](const char* name, size_t& target, const char* description) {
    command.add_option(name, target, description)
        ->check(CLI::Range(size_t{1}, kMostRanks))
        ->type_name("N")
        ->group(group);
  };
  const auto positive = [&](const char* name, double& target, const char* type,
                            const char* description) {
    command.add_option(name, target, description)
        ->check(CLI::Range(1e-3, 1e6))
        ->check(CLI::Validator(refuse_nan, ""))
        ->type_name(type)
        ->group(group);
  };
  text("--tp", options.tp, "N", "ranks that cut heads and columns, 1 to 8, or auto");
  text("--sp", options.sp, "N", "groups that cut the context, 1 to 64, or auto");
  count("--ranks", options.ranks,
        "ranks in all (default: --tp times --sp, else --nodes times --ranks-per-node)");
  count("--nodes", options.nodes, "nodes that they run on");
  count("--ranks-per-node", options.per_node,
        "ranks of a node (default: what --nodes needs, else one to a NUMA node)");
  text("-p,--n-prompt", options.prompts, "LIST", "prompt lengths to predict (default 512)");
  text("-d,--n-depth", options.depths, "LIST",
       "contexts after which to predict a token (default 0,4096)");
  text("--constants", options.constants, "FILE",
       "the nodes, as `rill bench --comm -o json` measured them (default: two Xeon Gold 6230R)");
  positive("--link-gbits", options.gbits, "GBIT",
           "Gbit/s between nodes, instead of the constants'");
  positive("--link-latency", options.microseconds, "US", "microseconds between nodes, likewise");
  positive("--node-memory", options.node_gib, "GIB",
           "memory of a node (default: what is free on this machine)");
}

}  // namespace

void add_plan_command(Program& program) {
  auto options = std::make_shared<PlanOptions>();
  CLI::App* command = add_command(
      program, "plan", "tell what a model needs of memory and, on ranks, how long it takes",
      "rill plan models/rill-demo --ctx 4096 --batch 4\n"
      "  rill plan --shape qwen3-8b --ranks 16 --nodes 8 --tp auto --sp auto --link-gbits 100",
      [options] { return run_plan(*options); });
  options->command = command;
  add_common_options(*command, options->common);
  add_shape_option(*command, options->common, "MODEL", "a published size in bf16");
  command->add_option("--batch", options->batch, "sequences side by side (default 1)")
      ->check(CLI::Range(1, 65536))
      ->type_name("N");
  add_cluster_options(*command, *options);
}

}  // namespace rill::apps
