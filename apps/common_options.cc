// SPDX-License-Identifier: Apache-2.0
#include "common_options.h"

#include <CLI/CLI.hpp>
#include <charconv>

#include "base/json.h"
#include "base/output_file.h"
#include "kernels/kernels.h"
#include "model/folder.h"
#include "program.h"
#include "progress_bar.h"

namespace rill::apps {
namespace {

constexpr const char* kArithmeticGroup = "Arithmetic (part of the result)";

/// An option whose text `parse` turns into `target`; its errors are usage errors.
template <class T, class Parse>
CLI::Option* add_parsed(CLI::App& command, const std::string& name, T& target, Parse parse,
                        const std::string& description) {
  return command.add_option_function<std::string>(
      name, [&target, name, parse](const std::string& text) { target = parse(text, name); },
      description);
}

size_t parse_block_size(const std::string& text, const std::string& option) {
  if (text == "auto") return kAutoBlockSize;
  size_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  const bool whole = error == std::errc() && end == text.data() + text.size();
  if (!whole || value < 16 || value > 1024 || (value & (value - 1)) != 0) {
    throw UsageError(option + " is '" + text + "'; use a power of two from 16 to 1024, or auto");
  }
  return value;
}

std::string parse_isa(const std::string& text, const std::string& option) {
  std::string names = "auto";
  if (text == "auto") return "";
  for (const Kernels* kernels : all_kernels()) {
    if (text == kernels->name) return text;
    names += std::string(", ") + kernels->name;
  }
  throw UsageError(option + " is '" + text + "'; use one of " + names);
}

}  // namespace

LoadOptions CommonOptions::load_options() const {
  LoadOptions load;
  load.arithmetic = arithmetic;
  load.threads = threads;
  load.numa = numa;
  load.isa = isa;
  if (chunk != 0) load.session.chunk = chunk;
  load.session.context = context;
  load.progress = progress_bar("packing the weights");
  load.ranks = &ranks.ranks();
  return load;
}

const std::string& CommonOptions::subject() const {
  if (model.empty() && shape.empty())
    throw UsageError("give either a MODEL folder or --shape NAME (for instance qwen3-0.6b)");
  return shape.empty() ? model : shape;
}

ModelConfig CommonOptions::config() const {
  return shape.empty() ? ModelConfig::load(model) : published_model(shape).config();
}

void CommonOptions::require_not_read(const std::string& output) const {
  if (!model.empty()) require_not_of_model(output, model);
  if (!ranks.constants().empty()) require_not_input(output, ranks.constants(), "--constants");
}

void add_model_option(CLI::App& command, CommonOptions& options) {
  command
      .add_option("MODEL", options.model,
                  "folder of a Qwen3 checkpoint as published on Hugging Face")
      ->required();
}

void add_shape_option(CLI::App& command, CommonOptions& options, const std::string& model,
                      const std::string& what) {
  std::string names;
  for (const PublishedModel& one : published_models())
    names += (names.empty() ? "" : ", ") + std::string(one.name);
  CLI::Option* folder = command.get_option(model)->required(false);
  command
      .add_option_function<std::string>(
          "--shape",
          [&options](const std::string& name) {
            if (!name.empty()) published_model(name);  // which refuses one that there is not
            options.shape = name;
          },
          "instead of " + model + ", " + what + ": " + names)
      ->type_name("NAME")
      ->excludes(folder);
}

void add_attention_option(CLI::App& command, CommonOptions& options) {
  add_parsed(command, "--attention", options.arithmetic.attention, parse_attention_type,
             "standard or streaming (default streaming)")
      ->group(kArithmeticGroup);
}

void add_arithmetic_options(CLI::App& command, CommonOptions& options) {
  ArithmeticOptions& arithmetic = options.arithmetic;
  const std::string group = kArithmeticGroup;
  add_parsed(
      command, "--block-size", arithmetic.block_size, parse_block_size,
      "keys per attention block: 16, 32, ... 1024, or auto: by caches, head size and context "
      "(default 64)")
      ->group(group);
  add_parsed(command, "--weights", arithmetic.weights, parse_weight_type,
             "auto, bf16, f16, f32, int8 or int4 (default auto: as stored)")
      ->group(group);
  add_parsed(command, "--compute", arithmetic.compute, parse_compute_type,
             "auto, f32, bf16 or bf16x32 (default auto: bf16 for bf16, int8 and int4 weights)")
      ->group(group);
  add_parsed(command, "--kv", arithmetic.kv, parse_kv_type,
             "type of the KV cache: auto, int8, f16, bf16 or f32 (default auto: as --compute)")
      ->group(group);
  add_parsed(command, "--isa", options.isa, parse_isa,
             "instruction set: auto, scalar, avx2, avx512, avx512vnni, avx512bf16, amx (default: "
             "$RILL_ISA, else the best of this machine); never changes a result")
      ->group(kMachineGroup);
}

void add_numa_option(CLI::App& command, NumaPolicy& policy) {
  add_parsed(command, "--numa", policy, parse_numa_policy,
             "on a machine of several memories: auto (threads, weights and KV by node; the "
             "default), off (nothing placed) or interleave (weights and KV over the nodes in turn)")
      ->type_name("auto|off|interleave")
      ->group(kMachineGroup);
}

void add_thread_option(CLI::App& command, CommonOptions& options) {
  add_numa_option(command, options.numa);
  command
      .add_option("-t,--threads", options.threads,
                  "threads (default: $OMP_NUM_THREADS, else the cores left to this process)")
      ->check(CLI::Range(1, 1024))
      ->type_name("N")
      ->group(kMachineGroup);
}

void add_chunk_option(CLI::App& command, CommonOptions& options) {
  command
      .add_option("--chunk", options.chunk, "most tokens of the prompt in one step (default 512)")
      ->check(CLI::Range(size_t{1}, size_t{1} << 20))
      ->type_name("N")
      ->group(kMachineGroup);
}

void add_context_option(CLI::App& command, CommonOptions& options) {
  command
      .add_option("--ctx", options.context,
                  "tokens that the KV cache holds (default 4096, or what the model or memory "
                  "allow; logits and accuracy: what their input needs)")
      ->check(CLI::Range(size_t{1}, size_t{1} << 30))
      ->type_name("N");
}

void add_common_options(CLI::App& command, CommonOptions& options) {
  add_model_option(command, options);
  add_attention_option(command, options);
  add_arithmetic_options(command, options);
  add_thread_option(command, options);
  add_chunk_option(command, options);
  add_context_option(command, options);
}

std::vector<int32_t> parse_ids(const std::string& text, const std::string& option) {
  std::vector<int32_t> ids;
  const char* at = text.data();
  const char* const end = at + text.size();
  auto skip_blanks = [&] {
    while (at != end && (*at == ' ' || *at == '\t' || *at == '\n' || *at == '\r')) ++at;
  };
  for (bool more = true; more;) {
    skip_blanks();
    int32_t id = 0;
    const auto [stop, error] = std::from_chars(at, end, id);
    if (error != std::errc() || id < 0)
      fail(option, at == end ? " ends" : " holds " + quote({at, std::min(end, at + 20)}),
           " at byte ", at - text.data(),
           ", expected token ids from 0 to 2147483647 with commas between");
    ids.push_back(id);
    at = stop;
    skip_blanks();
    more = at != end && *at == ',';
    if (more) ++at;
  }
  if (at != end)
    fail(option, " holds ", quote({at, std::min(end, at + 20)}), " at byte ", at - text.data(),
         ", expected a comma or the end");
  return ids;
}

std::string describe_ranks(const Ranks& ranks) {
  if (ranks.world().size() == 1) return "";
  return " on each of " + std::to_string(ranks.world().size()) + " ranks (tp " +
         std::to_string(ranks.tp().size()) + " x sp " + std::to_string(ranks.sp().size()) + ")";
}

std::string hint_of_faster_compute(const LoadedModel& model) {
  const bool tiles = std::string_view(model.kernels.name) == "amx";
  if (!tiles || model.arithmetic.linear != Operand::BF16) return "";
  return "This processor has AMX, which computes in the order of --compute bf16x32: prompts are "
         "read faster; results are the same on every machine, but not those of bf16.\n";
}

std::string describe_run(const LoadedModel& model) {
  return describe_run(model, describe(model.arithmetic));
}

std::string describe_run(const LoadedModel& model, const std::string& arithmetic) {
  const Placement& placement = model.team.placement();
  const bool usual = placement.policy == NumaPolicy::AUTO && placement.nodes.size() < 2;
  return arithmetic + "; isa " + model.kernels.name + ", " + std::to_string(model.team.size()) +
         (model.team.size() == 1 ? " thread" : " threads") + describe_ranks(model.ranks) +
         (usual ? "" : "; " + placement.describe());
}

}  // namespace rill::apps
