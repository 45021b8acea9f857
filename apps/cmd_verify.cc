// SPDX-License-Identifier: Apache-2.0
// rill verify: the promise of equal bits, on the user's model and machine.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <memory>
#include <optional>

#include "base/topology.h"
#include "commands.h"
#include "common_options.h"
#include "engine/text_side.h"
#include "verify_bits.h"
#include "verify_reference.h"

namespace rill::apps {
namespace {

struct VerifyOptions {
  CommonOptions common;
  std::string ids, prompt, reference;
  std::optional<size_t> length;
  bool quick = false;
};

// 70 tokens at least with any tokenizer that people use, so that there is more than one block.
constexpr const char* kPrompt =
    "The brook rose in the hills above the town, no wider than a hand, and ran down between the "
    "stones past the mill, the school and the market, where children raced paper boats under the "
    "bridge. By the time it met the river it had turned seven wheels, watered forty gardens and "
    "carried away the dust of a hundred dry summers. Nobody had ever counted its drops; the miller "
    "said that it never needed to be told which way was down. Why did the miller say so?";

/// Ids without a tokenizer: any will do, as long as they are always the same.
std::vector<int32_t> some_ids(size_t vocabulary) {
  std::vector<int32_t> ids;
  uint64_t state = 1;
  for (size_t i = 0; i < 80; ++i) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    ids.push_back(static_cast<int32_t>((state >> 33) % vocabulary));
  }
  return ids;
}

std::vector<int32_t> prompt_of(const VerifyOptions& options) {
  if (!options.ids.empty()) return as_usage([&] { return parse_ids(options.ids, "--ids"); });
  if (!options.prompt.empty())
    return TextSide::load(options.common.model).tokenizer.encode(options.prompt);
  const auto text = TextSide::load_if_present(options.common.model);
  if (text) return text->tokenizer.encode(kPrompt);
  return some_ids(ModelConfig::load(options.common.model).vocab_size);
}

int run_verify(const VerifyOptions& options) {
  options.common.ranks.ranks();  // a wrong shape is told before the work
  if (!options.reference.empty()) {
    if (!options.ids.empty() || !options.prompt.empty() || options.length || options.quick)
      throw UsageError(
          "--reference brings its own prompt and answer, so --ids, --prompt, --gen-len and --quick "
          "are too much; leave them out");
    return verify_reference(options.common, options.reference);
  }
  return verify_bits(options.common, prompt_of(options), options.length.value_or(8), options.quick);
}

}  // namespace

void add_verify_command(Program& program) {
  auto options = std::make_shared<VerifyOptions>();
  CLI::App* command = add_command(
      program, "verify",
      "check that threads, chunks, batches and instruction sets give the same bits, with both "
      "attentions and against a plain double-precision pass; or, with --reference, compare with "
      "files of known results",
      "rill verify models/rill-demo\n  rill verify FOLDER --reference FOLDER",
      [options] { return run_verify(*options); });
  add_model_option(*command, options->common);
  add_arithmetic_options(*command, options->common);
  add_thread_option(*command, options->common);
  add_chunk_option(*command, options->common);
  add_rank_options(program, *command, options->common);
  auto* ids =
      command->add_option("--ids", options->ids, "the prompt as token ids")->type_name("IDS");
  command->add_option("--prompt", options->prompt, "the prompt as text")->excludes(ids);
  command->add_option("--gen-len", options->length, "tokens to generate (default 8)")
      ->check(CLI::Range(1, 4096))
      ->type_name("N");
  command->add_flag("--quick", options->quick,
                    "leave out the scalar instruction set, which is slow");
  command
      ->add_option("--reference", options->reference,
                   "folder with reference.json and reference.safetensors")
      ->type_name("FOLDER");
}

}  // namespace rill::apps
