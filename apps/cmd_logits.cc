// SPDX-License-Identifier: Apache-2.0
// rill logits: what the model computes for given token ids, into a safetensors file.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <map>
#include <memory>
#include <optional>

#include "base/mapped_file.h"
#include "base/output_file.h"
#include "commands.h"
#include "common_options.h"
#include "engine/session.h"
#include "model/safetensors.h"

namespace rill::apps {
namespace {

struct LogitsOptions {
  CommonOptions common;
  std::string ids, ids_file, out;
  bool hidden = false;
};

std::vector<int32_t> read_ids(const LogitsOptions& options) {
  if (!options.ids.empty()) return as_usage([&] { return parse_ids(options.ids, "--ids"); });
  if (options.ids_file.empty())
    throw UsageError("no token ids were given; add --ids 1,2,3 or --ids-file FILE");
  const MappedFile file = MappedFile::open(options.ids_file);
  return parse_ids(std::string(file.text()), options.ids_file);
}

std::vector<TensorSpec> tensors(const ModelConfig& config, size_t tokens, bool hidden) {
  std::vector<TensorSpec> specs = {{"logits", DType::F32, {tokens, config.vocab_size}}};
  if (hidden) {
    specs.push_back({"hidden", DType::F32, {config.num_layers + 1, tokens, config.hidden_size}});
  }
  return specs;
}

int run_logits(const LogitsOptions& options) {
  const std::vector<int32_t> ids = read_ids(options);
  const bool writes = options.common.ranks.ranks().world().rank() == 0;
  if (writes) {  // what cannot be written is told before the work
    options.common.require_not_read(options.out);
    if (!options.ids_file.empty()) require_not_input(options.out, options.ids_file, "--ids-file");
    const OutputFile probe(options.out);
  }
  LoadOptions load = options.common.load_options();
  if (load.session.context == 0) {
    check_positions(ModelConfig::load(options.common.model), ids.size(),
                    "there are " + std::to_string(ids.size()) + " ids", "give fewer");
    load.session.context = ids.size();
  }
  load.session.chunk = std::min(load.session.chunk, ids.size());
  load.session.logits = load.session.chunk;
  const auto model = LoadedModel::load(options.common.model, load);
  Session session(*model);
  check_ids(ids, model->config.vocab_size, options.ids.empty() ? "the file's ids" : "--ids");

  const size_t width = model->config.hidden_size, layers = model->config.num_layers + 1;
  std::vector<float> hidden(options.hidden ? layers * ids.size() * width : 0);
  std::optional<SafetensorsWriter> writer;
  if (writes)
    writer.emplace(options.out, tensors(model->config, ids.size(), options.hidden),
                   std::map<std::string, std::string>{{"arithmetic", describe(model->arithmetic)}});
  session.run(ids, 0, options.hidden, [&](const Session::Part& part) {
    if (writer) writer->write(std::as_bytes(part.logits));
    for (size_t layer = 0; options.hidden && layer < layers; ++layer) {
      std::copy_n(part.hidden.data() + layer * part.count * width, part.count * width,
                  hidden.data() + (layer * ids.size() + part.first) * width);
    }
  });
  if (writer && options.hidden) writer->write(std::as_bytes(std::span(hidden)));
  if (writer) writer->commit();
  note("wrote " + options.out + ": logits of " + std::to_string(ids.size()) + " tokens; " +
       describe_run(*model) + "\n");
  options.common.ranks.report();
  return 0;
}

}  // namespace

void add_logits_command(Program& program) {
  auto options = std::make_shared<LogitsOptions>();
  CLI::App* command =
      add_command(program, "logits", "compute the logits of token ids (needs no tokenizer)",
                  "rill logits models/rill-demo --ids 1,2,3 --hidden --out logits.safetensors",
                  [options] { return run_logits(*options); });
  add_common_options(*command, options->common);
  add_rank_options(program, *command, options->common);
  auto* ids =
      command->add_option("--ids", options->ids, "token ids with commas between")->type_name("IDS");
  command->add_option("--ids-file", options->ids_file, "a file of token ids with commas between")
      ->type_name("FILE")
      ->excludes(ids);
  command->add_flag("--hidden", options->hidden,
                    "also write the residual stream, [layers + 1, tokens, hidden]");
  command->add_option("--out", options->out, "the safetensors file to write")
      ->type_name("FILE")
      ->required();
}

}  // namespace rill::apps
