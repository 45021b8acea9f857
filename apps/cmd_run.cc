// SPDX-License-Identifier: Apache-2.0
// rill run: one prompt, one answer.
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <iomanip>
#include <memory>
#include <sstream>

#include "answer_printer.h"
#include "base/process.h"
#include "commands.h"
#include "common_options.h"
#include "engine/generator.h"
#include "generation_options.h"
#include "interrupt.h"
#include "standard_input.h"
#include "text/chat_template.h"
#include "text/unicode.h"

namespace rill::apps {
namespace {

constexpr int kInterrupted = 130;  // as shells report a program that Ctrl-C ended

struct RunOptions {
  CommonOptions common;
  GenerationFlags generation;
  TemplateFlags chat;
  std::string prompt;
  bool has_prompt = false, raw = false, stats = false;
};

std::string read_prompt(const RunOptions& options) {
  std::string prompt = options.prompt;
  if (!options.has_prompt || prompt == "-") {
    if (is_terminal(STDIN_FILENO)) note("Type the prompt and end it with Ctrl-D.\n");
    prompt = read_standard_input();
    // The newline that ends a line of `echo` is not part of the question.
    if (!options.raw && !prompt.empty() && prompt.back() == '\n') prompt.pop_back();
  }
  if (prompt.empty()) fail("the prompt is empty, expected some text; write it behind MODEL");
  require_utf8(prompt, "the prompt");
  return prompt;
}

std::vector<int32_t> prompt_ids(const RunOptions& options, const TextSide& text) {
  const std::string prompt = options.common.ranks.shared([&] { return read_prompt(options); });
  if (options.raw) return text.tokenizer.encode(prompt);
  ChatInput input;
  if (options.chat.has_system) {
    require_utf8(options.chat.system, "--system");
    input.messages.push_back(chat_message("system", options.chat.system));
  }
  input.messages.push_back(chat_message("user", prompt));
  input.add_generation_prompt = true;
  input.enable_thinking = options.chat.think;
  return text.tokenizer.encode(render_chat(input));
}

/// "first token 0.84 s after the start (ready to compute after 0.75 s); peak memory 1.14 GiB: ...".
/// The KV cache counts as far as it was used.
std::string describe_start(const LoadedModel& model, double ready, const GenerateResult& result) {
  const size_t used = result.prompt_tokens + result.decode_steps;
  const size_t cache =
      KvCache::bytes({model.config, model.weights.shard(), model.arithmetic.block_size},
                     model.arithmetic.kv, used, 1);
  const size_t known = model.weights.bytes() + cache, peak = peak_memory();
  std::ostringstream text;
  text << std::fixed << std::setprecision(2) << "first token " << ready + result.prefill_seconds
       << " s after the start of the process (ready to compute after " << ready
       << " s); peak memory " << bytes_text(peak) << ": weights "
       << bytes_text(model.weights.bytes()) << ", KV cache of " << used << " tokens "
       << bytes_text(cache) << ", everything else " << bytes_text(peak - std::min(peak, known))
       << "\n";
  return text.str();
}

int run_run(const RunOptions& options) {
  if (options.raw && (options.chat.has_system || options.chat.has_think))
    throw UsageError("--raw leaves out the chat template, so --system and --think mean nothing");
  const TextSide text = TextSide::load(options.common.model);
  if (!options.raw && !text.template_warning.empty())
    note("rill: warning: " + text.template_warning + "\n");
  const std::vector<int32_t> prompt = prompt_ids(options, text);
  const auto model = LoadedModel::load(options.common.model, options.common.load_options());
  const GenerateOptions generate = options.generation.over(default_sampling(model->generation));
  Session session(*model);
  Generator generator(*model, session, &text);

  AnswerPrinter printer(is_terminal(STDOUT_FILENO));
  const Interrupt interrupt;
  const double ready = process_age();
  const GenerateResult result = generator.generate(prompt, generate, [&](std::string_view piece) {
    printer.piece(piece);
    return !interrupt.requested(model->ranks.world());
  });
  printer.finish();
  note(
      describe_speed(result) + "\n" + describe_run(*model) +
      (generate.sampling.greedy ? "; greedy" : "; seed " + std::to_string(generate.sampling.seed)) +
      "\n");
  options.common.ranks.report();
  if (options.stats) note(describe_start(*model, ready, result) + hint_of_faster_compute(*model));
  if (result.reason == StopReason::CONTEXT_FULL) {
    note("rill: the context of " + std::to_string(model->session.context) +
         " tokens is full, so the answer ends here; " +
         (can_hold_more(*model) ? "give a larger --ctx to go on\n"
                                : "the model has no more positions, so shorten the prompt\n"));
  }
  return result.reason == StopReason::CANCELLED ? kInterrupted : 0;
}

}  // namespace

void add_run_command(Program& program) {
  auto options = std::make_shared<RunOptions>();
  CLI::App* command =
      add_command(program, "run", "answer one prompt, or continue a text with --raw",
                  "rill run models/rill-demo \"Who are you?\" --max-tokens 100",
                  [options] { return run_run(*options); });
  add_common_options(*command, options->common);
  command->add_option_function<std::string>(
      "PROMPT",
      [options](const std::string& text) {
        options->prompt = text;
        options->has_prompt = true;
      },
      "the prompt; without it, or with -, it is read from standard input");
  command->add_flag("--raw", options->raw, "continue the text as it is, without the chat template");
  command->add_flag("--stats", options->stats,
                    "also the time from the start of the process to the first token, and the peak "
                    "of memory");
  add_rank_options(program, *command, options->common);
  add_template_options(*command, options->chat);
  add_generation_options(*command, options->generation);
}

}  // namespace rill::apps
