// SPDX-License-Identifier: Apache-2.0
// The options that all commands share which compute.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "engine/loaded_model.h"
#include "rank_options.h"
#include "rill/options.h"

namespace CLI {
class App;
}

namespace rill::apps {

/// MODEL, and how to compute with it.
struct CommonOptions {
  std::string model;
  std::string shape;  // a published size in place of the model; "": none
  ArithmeticOptions arithmetic;
  std::string isa;  // "": RILL_ISA, else the best
  int threads = 0;  // 0: all cores that this process may use
  NumaPolicy numa = NumaPolicy::AUTO;
  size_t chunk = 0;    // 0: the default of LoadOptions
  size_t context = 0;  // 0: chosen by the engine
  RankOptions ranks;

  /// The same for the engine. A progress bar is drawn on standard error if that is a terminal.
  /// Throws UsageError for an --isa that no build knows.
  LoadOptions load_options() const;

  /// The model or the shape, as it was given. Throws UsageError if neither was.
  const std::string& subject() const;
  /// Of the subject. Throws as loading does.
  ModelConfig config() const;

  /// Throws Error if `output`, which is to be written, is a file that these options read: one of
  /// the model's or that of --constants.
  void require_not_read(const std::string& output) const;
};

/// MODEL: a positional, required.
void add_model_option(CLI::App& command, CommonOptions& options);

/// --shape NAME of a published size, in place of the option or positional `model`, which is there
/// already and need not be given any more. `what` the size is of stands in the help.
void add_shape_option(CLI::App& command, CommonOptions& options, const std::string& model,
                      const std::string& what);

/// --attention (by itself, for a command may always run both).
void add_attention_option(CLI::App& command, CommonOptions& options);

/// --block-size --weights --compute --kv --isa
void add_arithmetic_options(CLI::App& command, CommonOptions& options);

/// --numa
void add_numa_option(CLI::App& command, NumaPolicy& policy);

/// --threads --numa; --chunk (by itself where a command has its own meaning for either).
void add_thread_option(CLI::App& command, CommonOptions& options);
void add_chunk_option(CLI::App& command, CommonOptions& options);
/// --ctx
void add_context_option(CLI::App& command, CommonOptions& options);

/// All of the above.
void add_common_options(CLI::App& command, CommonOptions& options);

/// "1,2,3", with blanks around the commas allowed. Throws UsageError naming `option`.
std::vector<int32_t> parse_ids(const std::string& text, const std::string& option);

/// " on each of 4 ranks (tp 2 x sp 2)"; nothing for one process.
std::string describe_ranks(const Ranks& ranks);

/// The last line of a computing command: "weights bf16, ...; isa avx2, 2 threads".
std::string describe_run(const LoadedModel& model);
/// The same of a run whose arithmetic is told in these words.
std::string describe_run(const LoadedModel& model, const std::string& arithmetic);

/// A line that names a faster arithmetic where the processor has instructions for one that was not
/// asked for; else empty. It is never taken by itself, since the bits of a result must not depend
/// on the machine.
std::string hint_of_faster_compute(const LoadedModel& model);

}  // namespace rill::apps
