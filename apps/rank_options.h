// SPDX-License-Identifier: Apache-2.0
// --tp and --sp: how the ranks that mpirun or srun started share a model.
#pragma once
#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "model/ranks.h"
#include "program.h"

namespace rill::apps {

struct CommonOptions;

/// tp and sp; 0 where nothing was said, kAutoRanks where the model of communication shall choose.
using TpSp = std::pair<int, int>;
constexpr int kAutoRanks = -1;

/// "auto" or a number from 1 on, of --tp up to 8, of --sp up to 64; throws UsageError for others.
int parse_rank_count(const std::string& text, const std::string& option);

class RankOptions {
 public:
  /// The ranks of the job in the shape that was asked for; of a command without these options, this
  /// process alone. The first call is made by all ranks. Throws UsageError for a shape that the
  /// ranks do not make.
  const Ranks& ranks() const;

  /// The file of --constants, or "".
  const std::string& constants() const { return constants_; }

  /// With --profile-comm: tells what the ranks have told each other. Called by all ranks.
  void report() const;

  /// Text that only the first rank can read, for all ranks.
  std::string shared(const std::function<std::string()>& read) const;

 private:
  friend void add_rank_options(Program& program, CLI::App& command, RankOptions& options);
  friend void add_rank_options(Program& program, CLI::App& command, CommonOptions& options);
  TpSp chosen() const;
  friend void add_strategy_option(CLI::App& command, RankOptions& options);
  Communicator* world_ = nullptr;
  int tp_ = 0, sp_ = 0;  // 0: what the other one leaves
  std::string constants_;
  std::function<TpSp()> choose_;  // by the first rank
  bool profile_ = false;
  mutable std::shared_ptr<Ranks> ranks_;
};

void add_rank_options(Program& program, CLI::App& command, RankOptions& options);
/// With --tp auto and --sp auto, by what the subject of `options` needs; they outlive the program's
/// run.
void add_rank_options(Program& program, CLI::App& command, CommonOptions& options);
/// --parallel-strategy headwise|sequence, in place of --tp and --sp: all ranks one way. After
/// add_rank_options.
void add_strategy_option(CLI::App& command, RankOptions& options);

}  // namespace rill::apps
