// SPDX-License-Identifier: Apache-2.0
// rill chat: a conversation.
#include <unistd.h>

#include <memory>

#include "answer_printer.h"
#include "base/json.h"
#include "base/output_file.h"
#include "commands.h"
#include "common_options.h"
#include "engine/generator.h"
#include "generation_options.h"
#include "interrupt.h"
#include "line_editor.h"
#include "text/chat_template.h"
#include "text/unicode.h"

namespace rill::apps {
namespace {

constexpr const char* kHelp =
    "  /help            this list\n"
    "  /clear           forget the conversation\n"
    "  /system TEXT     set the system message (without TEXT: show it)\n"
    "  /think on|off    let the model think before it answers\n"
    "  /save FILE       write the conversation as JSON (for `rill template --jsonl`)\n"
    "  /exit            leave (also Ctrl-D)\n"
    "Ctrl-C stops an answer.\n";

struct ChatOptions {
  CommonOptions common;
  GenerationFlags generation;
  TemplateFlags chat;
};

class Chat {
 public:
  explicit Chat(const ChatOptions& options)
      : text_(TextSide::load(options.common.model)),
        system_(options.chat.system),
        think_(options.chat.think),
        common_(options.common),
        ranks_(options.common.ranks),
        model_(LoadedModel::load(options.common.model, options.common.load_options())),
        generate_(options.generation.over(default_sampling(model_->generation))),
        session_(*model_),
        generator_(*model_, session_, &text_) {
    require_utf8(system_, "--system");
  }

  int run() {
    LineEditor editor("> ");
    if (!text_.template_warning.empty()) note("rill: warning: " + text_.template_warning + "\n");
    if (editor.terminal() || several()) {
      note(describe_run(*model_) + "; " + std::to_string(model_->session.context) +
           " tokens of context. /help lists what you can type.\n");
    }
    if (editor.terminal()) note(hint_of_faster_compute(*model_));
    if (several() && !editor.terminal())
      note("The launcher shows no prompt: type a line; Ctrl-C ends the job.\n");
    bool more = true;
    while (more) {
      const LineEditor::Input input = next(editor);
      if (input.event == LineEditor::Event::END) break;
      more = take(input);
    }
    ranks_.report();
    return failed_ && !editor.terminal() ? 1 : 0;
  }

 private:
  bool several() const { return model_->ranks.world().size() > 1; }

  /// What the first rank reads, for all ranks.
  LineEditor::Input next(LineEditor& editor) const {
    using Event = LineEditor::Event;
    const std::string word = ranks_.shared([&] {
      // In a pipe nobody is there to react; behind a launcher's there may be a person.
      if (failed_ && !editor.terminal() && !several()) return std::string("E");
      const LineEditor::Input input = editor.read();
      if (input.event == Event::LINE) return "L" + input.line;
      return std::string(input.event == Event::END ? "E" : "I");
    });
    if (word[0] == 'L') return {Event::LINE, word.substr(1)};
    return {word[0] == 'E' ? Event::END : Event::INTERRUPTED, ""};
  }

  /// Answers a line or carries it out; false to leave.
  bool take(const LineEditor::Input& input) {
    if (input.event == LineEditor::Event::INTERRUPTED) {
      note("(Ctrl-D or /exit leaves)\n");
      return true;
    }
    if (input.line.find_first_not_of(" \t") == std::string::npos) return true;
    try {
      if (input.line.front() == '/') return command(input.line);
      answer(input.line);
    } catch (const DoesNotFit&) {
      throw;
    } catch (const OutputLost&) {
      throw;
    } catch (const Error& error) {  // the conversation goes on
      note(std::string("rill: ") + error.what() + "\n");
      failed_ = true;
    }
    return true;
  }

  void answer(const std::string& line) {
    require_utf8(line, "the message");
    ChatInput input = conversation();
    input.messages.push_back(chat_message("user", line));
    input.add_generation_prompt = true;
    const std::vector<int32_t> prompt = text_.tokenizer.encode(render_chat(input));
    session_.require_room(prompt.size() + 1,  // the answer's first
                          "with this message the conversation has " +
                              std::to_string(prompt.size()) + " tokens and needs one for an answer",
                          turns_.empty() ? "shorten it" : "/clear starts anew",
                          "start rill chat with a larger --ctx");
    AnswerPrinter printer(is_terminal(STDOUT_FILENO));
    const Interrupt interrupt;
    const GenerateResult result =
        generator_.generate(prompt, generate_, [&](std::string_view piece) {
          printer.piece(piece);
          return !interrupt.requested(model_->ranks.world());
        });
    printer.finish();
    note(describe_speed(result) + "; " + describe_run(*model_) + "\n");
    if (result.reason == StopReason::CONTEXT_FULL) {
      note("rill: the context of " + std::to_string(session_.size().context) +
           " tokens is full, so the answer ends here; /clear starts anew" +
           (can_hold_more(*model_) ? ", or start rill chat with a larger --ctx\n" : "\n"));
    }
    turns_.push_back(chat_message("user", line));
    turns_.push_back(chat_message("assistant", result.text));
  }

  /// Carries out a line that starts with '/'; false to leave.
  bool command(const std::string& line) {
    const size_t blank = line.find_first_of(" \t");
    const std::string name = line.substr(0, blank);
    size_t start = blank == std::string::npos ? line.size() : line.find_first_not_of(" \t", blank);
    const std::string argument = start >= line.size() ? "" : line.substr(start);
    if (name == "/exit" || name == "/quit") return false;
    if (name == "/help") {
      note(kHelp);
    } else if (name == "/clear") {
      turns_.clear();
      generator_.clear();
      note("The conversation is forgotten.\n");
    } else if (name == "/system") {
      set_system(argument);
    } else if (name == "/think") {
      if (!argument.empty()) think_ = parse_switch(argument, "/think");
      note(std::string("Thinking is ") + (think_ ? "on" : "off") + ".\n");
    } else if (name == "/save") {
      save(argument);
    } else {
      fail("there is no command ", quote(name), "; /help lists what there is");
    }
    return true;
  }

  void set_system(const std::string& text) {
    require_utf8(text, "/system");
    if (!text.empty()) system_ = text;
    note(system_.empty() ? "There is no system message.\n" : "System message: " + system_ + "\n");
  }

  void save(const std::string& name) {
    if (name.empty()) fail("/save needs the name of a file; type it behind /save");
    if (model_->ranks.world().rank() > 0) return;
    const ChatInput input = conversation();
    OrderedJson object;
    object["messages"] = input.messages;
    object["enable_thinking"] = think_;
    common_.require_not_read(name);
    OutputFile file(name);
    file.write(object.dump() + "\n");
    file.commit();
    note("Wrote " + name + ".\n");
  }

  ChatInput conversation() const {
    ChatInput input;
    if (!system_.empty()) input.messages.push_back(chat_message("system", system_));
    for (const OrderedJson& turn : turns_) input.messages.push_back(turn);
    input.enable_thinking = think_;
    return input;
  }

  TextSide text_;
  std::string system_;
  bool think_;
  const CommonOptions& common_;
  const RankOptions& ranks_;
  std::unique_ptr<LoadedModel> model_;
  GenerateOptions generate_;
  Session session_;
  Generator generator_;
  std::vector<OrderedJson> turns_;
  bool failed_ = false;
};

}  // namespace

void add_chat_command(Program& program) {
  auto options = std::make_shared<ChatOptions>();
  CLI::App* command = add_command(
      program, "chat", "talk with a model, several turns; /help there lists commands",
      "rill chat models/rill-demo --think off", [options] { return Chat(*options).run(); });
  add_common_options(*command, options->common);
  add_rank_options(program, *command, options->common);
  add_template_options(*command, options->chat);
  add_generation_options(*command, options->generation);
}

}  // namespace rill::apps
