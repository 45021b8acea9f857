// SPDX-License-Identifier: Apache-2.0
#include "rank_options.h"

#include <CLI/CLI.hpp>
#include <charconv>
#include <span>
#include <string>

#include "base/topology.h"
#include "comm/launcher.h"
#include "comm_profile.h"
#include "common_options.h"
#include "planned_model.h"

namespace rill::apps {

const Ranks& RankOptions::ranks() const {
  if (!world_) return Ranks::single();
  if (!ranks_) {
    const int size = world_->size();
    // What was not said follows from what was; heads and columns are cut first.
    auto [tp, sp] = chosen();
    if (tp == 0 && sp == 0) tp = size;
    if (tp == 0) tp = std::max(1, size / sp);
    if (sp == 0) sp = std::max(1, size / tp);
    if (!has_mpi() && (tp > 1 || sp > 1))
      throw UsageError("--tp " + std::to_string(tp) + " --sp " + std::to_string(sp) +
                       " asks for ranks, but this program was built without MPI; build it with "
                       "-DRILL_MPI=ON, or leave --tp and --sp out");
    ranks_ = as_usage([&] { return std::make_shared<Ranks>(*world_, tp, sp); });
  }
  return *ranks_;
}

// On all ranks the same: what the first one decides.
TpSp RankOptions::chosen() const {
  TpSp shape{tp_, sp_};
  if (tp_ != kAutoRanks && sp_ != kAutoRanks) {
    if (!constants_.empty())
      throw UsageError(
          "--constants is what --tp auto and --sp auto go by, but neither is auto; "
          "add --tp auto, or leave --constants out");
    return shape;
  }
  if (world_->rank() == 0) shape = choose_();
  world_->broadcast(std::as_writable_bytes(std::span(&shape, 1)), 0);
  return shape;
}

void RankOptions::report() const {
  if (profile_) note(comm_profile(ranks()));
}

std::string RankOptions::shared(const std::function<std::string()>& read) const {
  Communicator& world = ranks().world();
  std::string text = world.rank() == 0 ? read() : "";
  uint64_t size = text.size();
  world.broadcast(std::as_writable_bytes(std::span(&size, 1)), 0);
  text.resize(size);
  world.broadcast(std::as_writable_bytes(std::span(text)), 0);
  return text;
}

namespace {

const std::string kGroup = "Ranks (under mpirun or srun; never part of the result)";

void add_number(CLI::App& command, const std::string& name, int& target,
                const std::string& description) {
  command
      .add_option_function<std::string>(
          name, [&target, name](const std::string& text) { target = parse_rank_count(text, name); },
          description)
      ->type_name("N")
      ->group(kGroup);
}

}  // namespace

int parse_rank_count(const std::string& text, const std::string& option) {
  if (text == "auto") return kAutoRanks;
  const int most = option == "--tp" ? 8 : 64;
  int value = 0;
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, value);
  if (error != std::errc() || stop != end || value < 1 || value > most)
    throw UsageError(option + " is '" + text + "'; use 1 to " + std::to_string(most) + ", or auto");
  return value;
}

void add_rank_options(Program& program, CLI::App& command, RankOptions& options) {
  options.world_ = &program.world;
  options.choose_ = []() -> TpSp {
    throw UsageError("this program knows no --tp auto and --sp auto; give numbers");
  };
  program.ranked.insert(&command);
  add_number(command, "--tp", options.tp_,
             "ranks that cut heads and columns of the model, 1 to 8 (tensor parallel)");
  add_number(command, "--sp", options.sp_,
             "such groups that cut the context, 1 to 64 (sequence parallel)");
  command
      .add_flag("--profile-comm", options.profile_,
                "also the bytes that each rank sent, and the time that it took")
      ->group(kGroup);
}

void add_rank_options(Program& program, CLI::App& command, CommonOptions& common) {
  RankOptions& options = common.ranks;
  add_rank_options(program, command, options);
  for (const char* name : {"--tp", "--sp"}) {
    CLI::Option* number = command.get_option(name);
    number->description(number->get_description() + ", or auto");
  }
  command
      .add_option(
          "--constants", options.constants_,
          "what --tp auto and --sp auto go by: a file of `rill bench --comm -o json` (default: a "
          "node of two Xeon Gold 6230R)")
      ->type_name("FILE")
      ->group(kGroup);
  options.choose_ = [&program, &common]() -> TpSp {
    const RankOptions& ranks = common.ranks;
    const int tp = std::max(0, ranks.tp_), sp = std::max(0, ranks.sp_);
    const auto shapes = possible_shapes(static_cast<size_t>(program.world.size()),
                                        {static_cast<size_t>(tp), static_cast<size_t>(sp)});
    if (shapes.empty()) return {tp, sp};  // which Ranks refuses, with those that there are
    const PlannedModel model = PlannedModel::of(common, 1);
    const MachineConstants constants = constants_of(ranks.constants_);
    const RankMachine machine = {{constants, static_cast<size_t>(program.world.ranks_here())},
                                 available_memory()};
    const std::vector<ShapeChoice> choices = choose_shape(model, machine, shapes);
    const RankShape best = choices.front().shape;
    note(program.app.get_name() + ": takes --tp " + std::to_string(best.tp) + " --sp " +
         std::to_string(best.sp) + ", of " + std::to_string(choices.size()) +
         (choices.size() == 1 ? " shape" : " shapes") +
         " the fastest predicted: " + describe(choices) + " (" + constants.name + ")\n");
    return {static_cast<int>(best.tp), static_cast<int>(best.sp)};
  };
}

void add_strategy_option(CLI::App& command, RankOptions& options) {
  command
      .add_option_function<std::string>(
          "--parallel-strategy",
          [&options](const std::string& text) {
            const bool headwise = text == "headwise";
            if (!headwise && text != "sequence")
              throw UsageError("--parallel-strategy is '" + text + "'; use headwise or sequence");
            const int ranks = options.world_->size(), most = headwise ? 8 : 64;
            if (ranks > most)
              throw UsageError("--parallel-strategy " + text + " takes 1 to " +
                               std::to_string(most) + " ranks, but " + std::to_string(ranks) +
                               " run; start fewer, or take " + shapes_of(ranks));
            options.tp_ = headwise ? ranks : 1;
            options.sp_ = headwise ? 1 : ranks;
          },
          "headwise: all ranks cut heads and columns (as --tp; the default); sequence: all cut the "
          "context (as --sp)")
      ->excludes("--tp")
      ->excludes("--sp")
      ->group(kGroup);
}

}  // namespace rill::apps
