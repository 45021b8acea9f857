// SPDX-License-Identifier: Apache-2.0
#include "rank_options.h"

#include <span>

#include "comm_profile.h"

namespace rill::apps {

const Ranks& RankOptions::ranks() const {
  if (!world_) return Ranks::single();
  if (!ranks_) {
    const int size = world_->size();
    // What was not said follows from what was; heads and columns are cut first.
    int tp = tp_, sp = sp_;
    if (tp == 0 && sp == 0) tp = size;
    if (tp == 0) tp = std::max(1, size / sp);
    if (sp == 0) sp = std::max(1, size / tp);
    ranks_ = as_usage([&] { return std::make_shared<Ranks>(*world_, tp, sp); });
  }
  return *ranks_;
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

void add_rank_options(Program& program, CLI::App& command, RankOptions& options) {
  options.world_ = &program.world;
  program.ranked.insert(&command);
  const std::string group = "Ranks (under mpirun or srun; never part of the result)";
  command
      .add_option("--tp", options.tp_,
                  "ranks that cut heads and columns of the model, 1 to 8 (tensor parallel)")
      ->check(CLI::Range(1, 8))
      ->type_name("N")
      ->group(group);
  command
      .add_option("--sp", options.sp_,
                  "such groups that cut the context, 1 to 64 (sequence parallel)")
      ->check(CLI::Range(1, 64))
      ->type_name("N")
      ->group(group);
  command
      .add_flag("--profile-comm", options.profile_,
                "also the bytes that each rank sent, and the time that it took")
      ->group(group);
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
      ->group("Ranks (under mpirun or srun; never part of the result)");
}

}  // namespace rill::apps
