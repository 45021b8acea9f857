// SPDX-License-Identifier: Apache-2.0
// rill tokenize, detokenize, template: the text side by itself.
#include <CLI/CLI.hpp>
#include <iostream>
#include <memory>

#include "commands.h"
#include "common_options.h"
#include "engine/text_side.h"
#include "generation_options.h"
#include "model/folder.h"
#include "standard_input.h"
#include "text/chat_template.h"
#include "text/jsonl.h"
#include "text/unicode.h"

namespace rill::apps {
namespace {

struct TextOptions {
  CommonOptions common;  // MODEL alone
  TemplateFlags chat;
  std::string text;
  bool has_text = false, jsonl = false;
};

/// The argument, or standard input if there is none or it is "-".
std::string input_text(const TextOptions& options) {
  return options.has_text && options.text != "-" ? options.text : read_standard_input();
}

/// Hands on every line of standard input that is not blank and prints what comes back. Lines go out
/// as they come in, so that a program may talk to this one through pipes.
int each_line(const TextOptions& options,
              const std::function<std::string(const std::string&, size_t)>& convert) {
  if (options.has_text)
    throw UsageError("--jsonl reads standard input, so the text on the command line is too much");
  std::string line, out;
  for (size_t number = 1; std::getline(std::cin, line); ++number) {
    if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
    try {
      out += convert(line, number);
    } catch (...) {
      print(out);
      throw;
    }
    out += "\n";
    if (out.size() >= 1 << 16 || std::cin.rdbuf()->in_avail() <= 0) {
      print(out);
      out.clear();
    }
  }
  print(out);
  if (std::cin.bad()) fail("cannot read standard input; see where it comes from");
  return 0;
}

int run_tokenize(const TextOptions& options) {
  const TextSide text = TextSide::load(options.common.model);
  if (options.jsonl) {
    return each_line(options, [&](const std::string& line, size_t number) {
      return tokenize_line(text.tokenizer, line, number);
    });
  }
  std::string out;
  for (const int32_t id : text.tokenizer.encode(input_text(options)))
    out += (out.empty() ? "" : ",") + std::to_string(id);
  print(out + "\n");
  return 0;
}

int run_detokenize(const TextOptions& options) {
  const TextSide text = TextSide::load(options.common.model);
  if (options.jsonl) {
    return each_line(options, [&](const std::string& line, size_t number) {
      return detokenize_line(text.tokenizer, line, number);
    });
  }
  const bool typed = options.has_text && options.text != "-";
  const std::vector<int32_t> ids =
      typed ? as_usage([&] { return parse_ids(options.text, "the list of ids"); })
            : parse_ids(read_standard_input(), "standard input");
  print(text.tokenizer.decode(ids) + "\n");
  return 0;
}

int run_template(const TextOptions& options) {
  require_folder(options.common.model);
  const FolderTemplate folder = inspect_chat_template(options.common.model);
  if (!folder.warning.empty()) note("rill: warning: " + folder.warning + "\n");
  if (options.jsonl) {
    if (options.chat.has_system || options.chat.has_think)
      throw UsageError("--jsonl takes messages and thinking from each line, not from options");
    return each_line(options, [](const std::string& line, size_t number) {
      return template_line(line, number);
    });
  }
  ChatInput input;
  if (options.chat.has_system)
    input.messages.push_back(chat_message("system", options.chat.system));
  input.messages.push_back(chat_message("user", input_text(options)));
  input.add_generation_prompt = true;
  input.enable_thinking = options.chat.think;
  print(render_chat(input));
  return 0;
}

/// What sets the three commands apart.
struct TextCommand {
  const char *name, *description, *example, *argument, *jsonl;
  int (*run)(const TextOptions&);
};

CLI::App* add_text_command(Program& program, const TextCommand& text,
                           const std::shared_ptr<TextOptions>& options) {
  CLI::App* command = add_command(program, text.name, text.description, text.example,
                                  [options, run = text.run] { return run(*options); });
  add_model_option(*command, options->common);
  command->add_option_function<std::string>(
      text.argument,
      [options](const std::string& argument) {
        options->text = argument;
        options->has_text = true;
      },
      "what to convert; without it, or with -, it is read from standard input");
  command->add_flag("--jsonl", options->jsonl,
                    std::string("read and write one JSON object a line: ") + text.jsonl);
  return command;
}

}  // namespace

void add_text_commands(Program& program) {
  add_text_command(
      program,
      {"tokenize", "token ids of a text", "rill tokenize models/rill-demo \"Hello there\"", "TEXT",
       R"({"text"} to {"ids", "decoded"})", run_tokenize},
      std::make_shared<TextOptions>());
  add_text_command(program,
                   {"detokenize", "the text of token ids", "rill detokenize models/rill-demo 1,2,3",
                    "IDS", R"({"ids"} to {"text"})", run_detokenize},
                   std::make_shared<TextOptions>());
  auto options = std::make_shared<TextOptions>();
  CLI::App* command = add_text_command(
      program,
      {"template", "the prompt that the chat template makes of a message",
       "rill template models/rill-demo \"Who are you?\" --think off", "MESSAGE",
       R"({"messages", "tools", "add_generation_prompt", "enable_thinking"} to {"text"})",
       run_template},
      options);
  add_template_options(*command, options->chat);
}

}  // namespace rill::apps
