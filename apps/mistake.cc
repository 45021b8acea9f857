// SPDX-License-Identifier: Apache-2.0
#include "mistake.h"

#include <CLI/CLI.hpp>
#include <algorithm>

namespace rill::apps {
namespace {

/// The (sub)command that was being parsed.
const CLI::App& innermost(const CLI::App& app) {
  const CLI::App* current = &app;
  while (!current->get_subcommands().empty()) current = current->get_subcommands().front();
  return *current;
}

/// How many letters to insert, drop, replace or swap with their neighbour to make `a` of `b`.
size_t typing_errors(const std::string& a, const std::string& b) {
  const size_t width = b.size() + 1;
  std::vector<size_t> d((a.size() + 1) * width);
  for (size_t i = 0; i <= a.size(); ++i) {
    for (size_t j = 0; j <= b.size(); ++j) {
      size_t& least = d[i * width + j] = std::max(i, j);
      if (i == 0 || j == 0) continue;
      least = std::min({d[(i - 1) * width + j] + 1, d[i * width + j - 1] + 1,
                        d[(i - 1) * width + j - 1] + (a[i - 1] != b[j - 1])});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
        least = std::min(least, d[(i - 2) * width + j - 2] + 1);
    }
  }
  return d.back();
}

/// " (did you mean --max-tokens?)", or nothing where no name is near.
std::string suggestion(const std::string& word, const std::vector<std::string>& names) {
  std::string nearest;
  size_t errors = word.size() / 3 + 1;
  for (const std::string& name : names) {
    const bool abbreviates = word.size() > 3 && name.rfind(word, 0) == 0;
    const size_t here = abbreviates ? 1 : typing_errors(word, name);
    if (here >= errors) continue;
    errors = here;
    nearest = name;
  }
  return nearest.empty() ? "" : " (did you mean " + nearest + "?)";
}

class Mistake {
 public:
  /// `words`: what stands before "--", in order.
  Mistake(const CLI::App& app, const std::vector<std::string>& words)
      : app_(app), command_(innermost(app)), words_(words) {}

  /// Of --help and --version, which are no errors, a command that there is not, and a value.
  std::string explain(const CLI::ParseError& error) const {
    if (std::string sentence = switched_by_value(); !sentence.empty()) return sentence;
    const bool lacks_command =
        app_.get_subcommands().empty() && app_.get_require_subcommand_min() > 0;
    if (error.get_exit_code() == 0) return lacks_command ? unexpected() : "";
    if (std::string sentence = unexpected(); !sentence.empty()) return sentence;
    if (is<CLI::RequiredError>(error)) return missing(error);
    if (is<CLI::ExcludesError>(error)) return contradiction(error);
    const CLI::Option* option = named_in(error.what());
    if (option == nullptr) return with_help(one_line(error.what()));
    if (option->get_items_expected_max() == 1 && option->count() > 1)
      return with_help(typed(*option) + " is given " + std::to_string(option->count()) +
                       " times, expected once");
    if (is<CLI::ArgumentMismatch>(error))
      return with_help(typed(*option) + " has no value, expected " + expected(*option));
    if ((is<CLI::ConversionError>(error) || is<CLI::ValidationError>(error)) && option->count() > 0)
      return with_help(typed(*option) + " is '" + option->results().front() + "', expected " +
                       expected(*option));
    return with_help(one_line(error.what()));
  }

  /// What CLI11 lets pass.
  std::string overlooked() const {
    std::string sentence = switched_by_value();
    if (sentence.empty()) sentence = empty_value();
    return sentence.empty() ? misread_number() : sentence;
  }

 private:
  /// What was left over, an unknown option before all else: it makes words of its value. "" if
  /// nothing was.
  std::string unexpected() const {
    std::vector<std::string> rest = app_.remaining(true);
    rest.erase(std::remove(rest.begin(), rest.end(), "--"), rest.end());
    for (const std::string& word : rest)
      if (word.size() > 1 && word[0] == '-' && holds(words_, word)) return unknown_option(word);
    if (rest.empty()) return "";
    if (before_command(rest.front())) return unknown_command(rest.front());
    std::string places, advice;
    for (const CLI::Option* option : command_.get_options()) {
      if (!option->get_positional()) continue;
      const std::string place = option->get_name(true);
      places += (places.empty() ? "at most " : " and ") + place;
      if (place != "MODEL" && place != "FOLDER")
        advice = "; put a text of several words in quotes, or see ";
    }
    return "'" + rest.front() + "' is one argument too many, expected " +
           (places.empty() ? "options alone" : places) + (advice.empty() ? "; see " : advice) +
           invocation(app_) + " --help";
  }

  /// A switch with a value, "--greedy=3". CLI11 takes some for on, some for off. "" if none has
  /// one.
  std::string switched_by_value() const {
    for (const std::string& word : words_) {
      const std::string name = word.substr(0, word.find('='));
      if (name == word || !name.starts_with("--")) continue;
      for (const CLI::Option* option : command_.get_options())
        if (option->get_items_expected_max() == 0 && option->check_name(name))
          return with_help(name + " takes no value, expected it without '" +
                           word.substr(name.size()) + "'");
    }
    return "";
  }

  /// An option whose value is empty, which its command could not tell from one that was not given.
  /// Empty text for the model is text, and a command says itself if it needs more. "" if none is.
  std::string empty_value() const {
    for (const CLI::Option* option : command_.get_options()) {
      const std::string name = option->get_name();
      const bool text = option->get_positional() ? name != "MODEL" : name == "--system";
      if (text || option->get_items_expected_max() == 0) continue;
      const auto& results = option->results();
      if (std::count(results.begin(), results.end(), "") == 0) continue;
      return with_help(typed(*option) + " is empty, expected " + expected(*option));
    }
    return "";
  }

  /// A whole number that CLI11 reads otherwise: to it 010 is eight, 0x10 sixteen, and -1 the
  /// largest of those without a sign. "" if none is.
  std::string misread_number() const {
    for (const CLI::Option* option : command_.get_options()) {
      if (!takes_whole_number(*option)) continue;
      for (const std::string& value : option->results()) {
        const size_t first = value.starts_with('+') ? 1 : 0;
        const bool zeros = first + 1 < value.size() && value[first] == '0';
        if (!zeros && !value.starts_with('-')) continue;
        return with_help(typed(*option) + " is '" + value + "', expected " + expected(*option) +
                         (zeros ? " without a zero in front" : " without a sign"));
      }
    }
    return "";
  }

  template <class Kind>
  static bool is(const CLI::ParseError& error) {
    return dynamic_cast<const Kind*>(&error) != nullptr;
  }

  std::string with_help(const std::string& sentence) const {
    return sentence + "; see " + invocation(app_) + " --help";
  }

  static bool holds(const std::vector<std::string>& words, const std::string& word) {
    return std::find(words.begin(), words.end(), word) != words.end();
  }

  /// Does a leftover stand where only a command may?
  bool before_command(const std::string& word) const {
    return app_.get_require_subcommand_min() > 0 && holds(app_.remaining(false), word);
  }

  std::string unknown_option(const std::string& word) const {
    const std::string name = word.substr(0, word.find('='));
    if (&command_ != &app_ && before_command(word))
      return name + " stands before the command, expected behind it; see " + invocation(app_) +
             " --help";
    std::vector<std::string> names;
    for (const CLI::Option* option : command_.get_options()) {
      for (const std::string& one : option->get_lnames()) names.push_back("--" + one);
      for (const std::string& one : option->get_snames()) names.push_back("-" + one);
    }
    return with_help(invocation(app_) + " has no option " + name + suggestion(name, names));
  }

  std::string unknown_command(const std::string& word) const {
    std::vector<std::string> names;
    for (const CLI::App* command : app_.get_subcommands({})) names.push_back(command->get_name());
    return "there is no command '" + word + "'" + suggestion(word, names) + "; see " +
           app_.get_name() + " --help";
  }

  std::string missing(const CLI::ParseError& error) const {
    for (const CLI::Option* option : command_.get_options())
      if (option->get_required() && option->count() == 0)
        return with_help(option->get_name() + " is missing, expected " + expected(*option));
    return with_help(command_.get_require_subcommand_min() > 0 ? "no command was given"
                                                               : one_line(error.what()));
  }

  std::string contradiction(const CLI::ParseError& error) const {
    if (std::string empty = empty_value(); !empty.empty()) return empty;
    for (const CLI::Option* option : command_.get_options())
      for (const CLI::Option* other : option->get_excludes())
        if (option->count() > 0 && other->count() > 0)
          return with_help(typed(*option) + " and " + typed(*other) +
                           " exclude each other, expected one of them");
    return with_help(one_line(error.what()));
  }

  /// The option that a sentence of CLI11's speaks of: it stands before any value.
  const CLI::Option* named_in(const std::string& sentence) const {
    const std::string text = " " + sentence + " ";
    const CLI::Option* found = nullptr;
    size_t first = std::string::npos;
    for (const CLI::Option* option : command_.get_options()) {
      for (const char* end : {":", " "}) {
        const size_t at = text.find(" " + option->get_name() + end);
        if (at >= first) continue;
        first = at;
        found = option;
      }
    }
    return found;
  }

  /// The option's name as it was typed.
  std::string typed(const CLI::Option& option) const {
    for (const std::string& word : words_) {
      const std::string name = word.substr(0, word.find('='));
      if (name.rfind('-', 0) == 0 && option.check_name(name)) return name;
    }
    return option.get_name();
  }

  /// "N:INT in [1 - 1024]" without the limits and the name: "INT".
  static std::string kind_of(const CLI::Option& option) {
    const std::string type = option.get_type_name();
    return type.substr(0, type.find(" in [")).substr(type.find(':') + 1);
  }
  static bool takes_whole_number(const CLI::Option& option) {
    const std::string kind = kind_of(option);
    return kind == "INT" || kind == "UINT" || kind == "N";
  }

  /// What an option takes, of its type ("FLOAT", "N:INT in [1 - 1024]") or else its description.
  static std::string expected(const CLI::Option& option) {
    const std::string type = option.get_type_name();
    const size_t limits = type.find(" in [");
    const std::string kind = kind_of(option);
    const bool whole = takes_whole_number(option);
    if (!whole && kind != "FLOAT") return "a value (" + option.get_description() + ")";
    const std::string text = whole ? "a whole number" : "a number";
    if (limits == std::string::npos) return text;
    const size_t to = type.find(" - ", limits), end = type.rfind(']');
    return text + " from " + type.substr(limits + 5, to - limits - 5) + " to " +
           type.substr(to + 3, end - to - 3);
  }

  const CLI::App& app_;
  const CLI::App& command_;
  const std::vector<std::string>& words_;
};

}  // namespace

std::string one_line(std::string text) {
  for (char& c : text)
    if (c == '\n' || c == '\r') c = ' ';
  while (!text.empty() && text.back() == ' ') text.pop_back();
  return text;
}

std::string invocation(const CLI::App& app) {
  std::string words = app.get_name();
  const CLI::App* current = &app;
  while (!current->get_subcommands().empty()) {
    current = current->get_subcommands().front();
    words += " " + current->get_name();
  }
  return words;
}

std::string explain_mistake(const CLI::App& app, const std::vector<std::string>& words,
                            const CLI::ParseError& error) {
  return Mistake(app, words).explain(error);
}

std::string overlooked_mistake(const CLI::App& app, const std::vector<std::string>& words) {
  return Mistake(app, words).overlooked();
}

}  // namespace rill::apps
