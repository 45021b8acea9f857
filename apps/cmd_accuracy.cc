// SPDX-License-Identifier: Apache-2.0
// rill accuracy: how many questions of a file a model answers right.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <iomanip>
#include <map>
#include <memory>
#include <sstream>

#include "answer_printer.h"
#include "base/json.h"
#include "base/mapped_file.h"
#include "commands.h"
#include "common_options.h"
#include "engine/generator.h"
#include "progress_bar.h"
#include "standard_input.h"
#include "text/chat_template.h"
#include "text/jsonl.h"

namespace rill::apps {
namespace {

struct AccuracyOptions {
  CommonOptions common;
  std::string questions;
  size_t limit = 0, batch = 8, max_tokens = 256, wrong = 0;
};

struct Question {
  std::vector<int32_t> prompt;
  std::string answer, bucket, kind;
  bool thinking;
};

std::string text_of(const OrderedJson& object, const char* key) {
  const auto found = object.find(key);
  if (found == object.end() || found->is_null()) return "";
  if (found->is_string()) return found->get<std::string>();
  if (found->is_number_integer()) return std::to_string(found->get<int64_t>());
  fail(key, " is ", found->dump(), ", expected text or a whole number; mend the line");
}

Question read_question(const Tokenizer& tokenizer, const OrderedJson& object) {
  if (!object.is_object()) fail("it is not a JSON object; see the model card for the format");
  Question question;
  question.answer = without_thinking(text_of(object, "answer"));
  if (question.answer.empty()) fail("it has no \"answer\", expected the right answer as text");
  question.bucket = text_of(object, "length_bucket");
  question.kind = text_of(object, "kind");
  ChatInput input = chat_input(object);
  question.thinking = input.enable_thinking.value_or(true);
  input.add_generation_prompt = true;
  question.prompt = tokenizer.encode(render_chat(input));
  return question;
}

/// The same of a line; its errors get the number of the line in front.
Question read_line(const Tokenizer& tokenizer, std::string_view line, const std::string& where) {
  parse_json(line, where, {}, "mend the line");  // the limits and the errors of a stranger's file
  try {
    return read_question(tokenizer, OrderedJson::parse(line));
  } catch (const Error& error) {
    throw Error(where + ": " + error.what());
  }
}

std::vector<Question> read_questions(const Tokenizer& tokenizer, const AccuracyOptions& options) {
  const bool piped = options.questions == "-";
  const MappedFile file = piped ? MappedFile() : MappedFile::open(options.questions);
  const std::string input = piped ? read_standard_input() : "";
  const std::string source = piped ? "standard input" : options.questions;
  std::string_view text = piped ? std::string_view(input) : file.text();
  std::vector<Question> questions;
  for (size_t number = 1; !text.empty(); ++number) {
    const std::string_view line = text.substr(0, text.find('\n'));
    text.remove_prefix(std::min(text.size(), line.size() + 1));
    if (line.find_first_not_of(" \t\r") == std::string_view::npos) continue;
    questions.push_back(read_line(tokenizer, line, source + ", line " + std::to_string(number)));
    if (options.limit > 0 && questions.size() == options.limit) break;
  }
  if (questions.empty()) {
    fail(source,
         " holds no questions, expected a JSON object with \"messages\" and "
         "\"answer\" on each line");
  }
  return questions;
}

/// Lengths in the order of numbers ("512" before "1024"), names in that of letters.
struct BucketOrder {
  bool operator()(const std::string& a, const std::string& b) const {
    return a.size() != b.size() ? a.size() < b.size() : a < b;
  }
};

class Scores {
 public:
  void add(const Question& question, bool right) {
    for (Count* count : {&cells_[question.bucket][question.thinking], &all_[question.thinking],
                         &kinds_[question.kind]}) {
      count->asked += 1;
      count->right += right ? 1 : 0;
    }
  }

  std::string table() const {
    std::ostringstream text;
    text << "| length | without thinking | with thinking |\n|---|---|---|\n";
    for (const auto& [bucket, cells] : cells_)
      text << "| " << (bucket.empty() ? "any" : bucket) << row(cells);
    text << "| all" << row(all_);
    for (const auto& [kind, count] : kinds_)
      if (!kind.empty()) text << kind << ": " << cell(count) << "\n";
    return text.str();
  }

 private:
  struct Count {
    size_t right = 0, asked = 0;
  };
  using Cells = std::map<bool, Count>;

  static std::string cell(const Count& count) {
    std::ostringstream text;
    text << std::fixed << std::setprecision(1)
         << 100.0 * static_cast<double>(count.right) / static_cast<double>(count.asked) << " % ("
         << count.right << "/" << count.asked << ")";
    return text.str();
  }
  static std::string row(const Cells& cells) {
    std::string text;
    for (const bool thinking : {false, true}) {
      const auto found = cells.find(thinking);
      text += " | " + (found == cells.end() ? "-" : cell(found->second));
    }
    return text + " |\n";
  }

  std::map<std::string, Cells, BucketOrder> cells_;
  Cells all_;
  std::map<std::string, Count> kinds_;
};

int run_accuracy(const AccuracyOptions& options) {
  const TextSide text = TextSide::load(options.common.model);
  const std::vector<Question> questions = read_questions(text.tokenizer, options);
  size_t longest = 0;
  std::vector<std::vector<int32_t>> prompts;
  for (const Question& question : questions) {
    prompts.push_back(question.prompt);
    longest = std::max(longest, question.prompt.size());
  }
  LoadOptions load = options.common.load_options();
  if (load.session.context == 0) {
    const ModelConfig config = ModelConfig::load(options.common.model);
    check_positions(config, longest,
                    "the longest question has " + std::to_string(longest) + " tokens",
                    "leave it out");
    load.session.context = std::min(longest + options.max_tokens, config.max_position_embeddings);
  }
  load.session.sequences = std::min(options.batch, questions.size());
  const auto model = LoadedModel::load(options.common.model, load);
  Session session(*model);
  GenerateOptions generate;
  generate.sampling.greedy = true;
  generate.max_tokens = options.max_tokens;
  const auto start = std::chrono::steady_clock::now();
  const std::vector<GenerateResult> results =
      generate_side_by_side(*model, session, &text, prompts, generate, progress_bar("answering"));
  const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;

  Scores scores;
  size_t shown = 0;
  for (size_t i = 0; i < questions.size(); ++i) {
    const std::string given = without_thinking(results[i].text);
    const bool right = given == questions[i].answer;
    scores.add(questions[i], right);
    if (right || shown++ >= options.wrong) continue;
    print("question " + std::to_string(i + 1) + ": expected " + quote(questions[i].answer) +
          ", got " + quote(given) + "\n");
  }
  print(scores.table());
  std::ostringstream last;
  last << questions.size() << " questions, " << load.session.sequences << " side by side, in "
       << std::fixed << std::setprecision(1) << elapsed.count() << " s; " << describe_run(*model)
       << "\n";
  note(last.str());
  return 0;
}

}  // namespace

void add_accuracy_command(Program& program) {
  auto options = std::make_shared<AccuracyOptions>();
  CLI::App* command =
      add_command(program, "accuracy", "count the questions of a file that a model answers right",
                  "rill accuracy models/rill-demo --questions questions.jsonl",
                  [options] { return run_accuracy(*options); });
  add_common_options(*command, options->common);
  command
      ->add_option(
          "--questions", options->questions,
          "JSON lines {\"messages\", \"answer\", \"enable_thinking\", \"kind\", "
          "\"length_bucket\"}, or - for standard input; an answer is right if it equals the text "
          "behind </think>")
      ->type_name("FILE")
      ->required();
  command->add_option("--limit", options->limit, "only the first N questions")
      ->check(CLI::Range(1, 1 << 30))
      ->type_name("N");
  command->add_option("--batch", options->batch, "questions side by side (default 8)")
      ->check(CLI::Range(1, 4096))
      ->type_name("N");
  command->add_option("--max-tokens", options->max_tokens, "most tokens of an answer (default 256)")
      ->check(CLI::Range(1, 1 << 20))
      ->type_name("N");
  command->add_option("--show-wrong", options->wrong, "print the first N wrong answers")
      ->check(CLI::Range(0, 1 << 30))
      ->type_name("N");
}

}  // namespace rill::apps
