// SPDX-License-Identifier: Apache-2.0
// rill info: what a checkpoint is.
#include <CLI/CLI.hpp>
#include <iomanip>
#include <map>
#include <memory>
#include <sstream>

#include "base/numa.h"
#include "commands.h"
#include "common_options.h"
#include "engine/memory_plan.h"
#include "engine/rank_team.h"
#include "model/checkpoint.h"
#include "model/config.h"

namespace rill::apps {
namespace {

struct InfoOptions {
  CommonOptions common;
  bool tensors = false;
};

std::string ids_text(const std::vector<int32_t>& ids) {
  std::string text;
  for (const int32_t id : ids) text += (text.empty() ? "" : ", ") + std::to_string(id);
  return text.empty() ? "none" : text;
}

void describe_config(std::ostream& out, const ModelConfig& config) {
  auto line = [&](const char* name) -> std::ostream& {
    return out << "  " << std::left << std::setw(24) << name;
  };
  line("architecture") << config.architecture << "\n";
  line("parameters") << config.parameter_count() << " (" << std::fixed << std::setprecision(2)
                     << static_cast<double>(config.parameter_count()) / 1e6 << " M)\n";
  line("layers") << config.num_layers << "\n";
  line("hidden size") << config.hidden_size << "\n";
  line("intermediate size") << config.intermediate_size << "\n";
  line("heads") << config.num_heads << " query, " << config.num_kv_heads << " KV, of "
                << config.head_dim << " each\n";
  line("vocabulary") << config.vocab_size << "\n";
  line("positions") << config.max_position_embeddings << ", rope theta " << std::defaultfloat
                    << config.rope_theta;
  if (config.yarn) {
    out << ", YaRN x" << config.yarn->factor << " from "
        << config.yarn->original_max_position_embeddings;
  }
  out << "\n";
  line("embedding and head") << (config.tie_word_embeddings ? "tied" : "separate") << "\n";
  line("attention bias") << (config.attention_bias ? "yes" : "no") << "\n";
  line("end of text") << ids_text(config.eos_token_ids) << "\n";
}

void describe_tensors(std::ostream& out, const Checkpoint& checkpoint, bool all) {
  std::map<DType, std::pair<size_t, size_t>> types;  // count, bytes
  size_t width = 0;
  for (const TensorInfo& tensor : checkpoint.tensors()) {
    auto& [count, bytes] = types[tensor.dtype];
    ++count;
    bytes += tensor.bytes.size();
    width = std::max(width, tensor.name.size());
  }
  for (const auto& [dtype, of_type] : types) {
    out << "  " << std::left << std::setw(24) << "tensors" << of_type.first << " of type "
        << dtype_name(dtype) << ", " << bytes_text(of_type.second) << "\n";
  }
  for (const TensorInfo& tensor : checkpoint.tensors()) {
    if (!all) break;
    out << "  " << std::left << std::setw(static_cast<int>(width)) << tensor.name << "  "
        << std::setw(5) << dtype_name(tensor.dtype) << " " << shape_text(tensor.shape) << "\n";
  }
}

/// Where one process of all cores would be placed here.
void describe_machine(std::ostream& out, const CommonOptions& options) {
  const Team team = make_team(Ranks::single().world(), options.threads, options.numa);
  out << "  " << std::left << std::setw(24) << "this machine" << read_machine().describe() << "\n"
      << "  " << std::setw(24) << "placement" << team.size() << " threads; "
      << team.placement().describe() << "\n";
}

int run_info(const InfoOptions& options) {
  const ModelConfig config = ModelConfig::load(options.common.model);
  const Checkpoint checkpoint = Checkpoint::open(options.common.model);
  std::ostringstream text;
  text << options.common.model << "\n";
  describe_config(text, config);
  describe_tensors(text, checkpoint, options.tensors);
  describe_machine(text, options.common);
  print(text.str());
  checkpoint.check(config);  // after printing: what is there helps to understand what is wrong
  return 0;
}

}  // namespace

void add_info_command(Program& program) {
  auto options = std::make_shared<InfoOptions>();
  CLI::App* command =
      add_command(program, "info", "tell what a checkpoint is",
                  "rill info models/rill-demo --tensors", [options] { return run_info(*options); });
  add_model_option(*command, options->common);
  add_thread_option(*command, options->common);
  command->add_flag("--tensors", options->tensors, "list every tensor with its type and shape");
}

}  // namespace rill::apps
