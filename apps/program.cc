// SPDX-License-Identifier: Apache-2.0
#include "program.h"

#include <fcntl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <new>
#include <thread>

#include "comm/launcher.h"
#include "engine/memory_plan.h"
#include "rank_agreement.h"
#include "rill/rill.h"

namespace rill::apps {
namespace {

bool write_all(int descriptor, std::string_view text) {
  while (!text.empty()) {
    const ssize_t written = ::write(descriptor, text.data(), text.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return false;
    text.remove_prefix(static_cast<size_t>(written));
  }
  return true;
}

/// One line: a message may quote several lines of a library's.
std::string one_line(std::string text) {
  for (char& c : text)
    if (c == '\n' || c == '\r') c = ' ';
  while (!text.empty() && text.back() == ' ') text.pop_back();
  return text;
}

/// Standard error of a rank whose output goes nowhere, for the reason of its end; open to the last.
class LastWord {
 public:
  explicit LastWord(const Communicator& world) {
    if (world.rank() == 0) return;
    descriptor_ = ::dup(STDERR_FILENO);
    const int nowhere = ::open("/dev/null", O_WRONLY);
    for (const int output : {STDOUT_FILENO, STDERR_FILENO}) (void)::dup2(nowhere, output);
    ::close(nowhere);
  }
  LastWord(const LastWord&) = delete;
  LastWord& operator=(const LastWord&) = delete;
  int descriptor() const { return descriptor_; }
  void say(const std::string& text) const { (void)write_all(descriptor_, text); }

 private:
  int descriptor_ = STDERR_FILENO;
};

/// What the first rank says when it is ended from outside. A signal handler reaches nothing but
/// what is static.
constexpr std::string_view kTerminated =
    "rill: rank 0: the launcher ended this job (SIGTERM): it was interrupted, or another rank was "
    "lost; see what the launcher says\n";
constexpr std::string_view kInterrupted = "rill: rank 0: this job was interrupted (SIGINT)\n";

void sleep_ms(long milliseconds) {
  const timespec time = {0, milliseconds * 1'000'000};
  ::nanosleep(&time, nullptr);
}

/// Leaves a process that holds standard output and error open until the launcher has taken this
/// one's exit status. MPICH's (4.0), once it has sent a signal on, takes one only while an output
/// of the job is open: where it finds all ranks ended in a single look, as on a busy machine, it
/// would report success. Only what a signal handler may call.
void hold_outputs_until_status_is_taken() {
  const pid_t rank = ::getpid();
  const pid_t launcher = ::getppid();
  if (::syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0) != 0) return;  // fork() may wait for a lock
  ::setsid();  // the launcher kills the ranks' process groups
  ::syscall(SYS_close_range, STDERR_FILENO + 1, ~0U, 0);  // ends of connections are awaited
  for (int tries = 0; tries < 50 && ::kill(rank, 0) == 0 && ::kill(launcher, 0) == 0; ++tries) {
    sleep_ms(100);
    ::close(STDOUT_FILENO);  // which makes it look
  }
  ::_exit(0);
}

/// A launcher that sees a rank go leaves soon, and what it has not read by then is lost: all ranks
/// give it time for the first one's word. The first leaves before the others, whose end would have
/// MPICH's launcher forget its exit status.
template <bool kFirst>
[[noreturn]] void leave(int signal) {
  if (kFirst) (void)write_all(STDERR_FILENO, signal == SIGINT ? kInterrupted : kTerminated);
  sleep_ms(kFirst ? 300 : 600);
  if (kFirst) hold_outputs_until_status_is_taken();
  ::_exit(128 + signal);
}

void tell_of_end(const Communicator& world) {
  if (world.size() == 1) return;
  for (const int signal : {SIGTERM, SIGINT})
    std::signal(signal, world.rank() == 0 ? leave<true> : leave<false>);
}

/// A mistake on the command line is every rank's, and each of them ends by itself. One that is not
/// (an --isa that this machine lacks) leaves its rank alone at the end: then it says so and goes.
void end_alone(const std::string& last_words, const LastWord& last_word) {
  std::thread([last_words, descriptor = last_word.descriptor()] {
    std::this_thread::sleep_for(std::chrono::seconds(3));
    (void)write_all(descriptor, last_words);
    std::_Exit(2);
  }).detach();
}

/// Tells why this program ends, and returns its exit status. One of several ranks ends them all
/// with an error (1), or with a mistake on the command line (2) that only it has made.
int report(Program& program, const LastWord& last_word, const std::string& sentence, int status,
           const std::string& table = "") {
  Communicator& world = program.world;
  const bool several = world.size() > 1;
  const std::string name = program.app.get_name() + ": ";
  const std::string rank = several ? "rank " + std::to_string(world.rank()) + ": " : "";
  if (several && status == 2) {
    end_alone(world.rank() > 0 ? name + rank + one_line(sentence) + "\n" : "", last_word);
    if (world.rank() == 0) last_word.say(name + one_line(sentence) + "\n");
    return status;
  }
  // What ails all ranks is told by the first, which has ended the others by the time they would.
  const auto turn = std::chrono::milliseconds(100 * std::min(world.rank(), 20));
  std::this_thread::sleep_for(turn);
  last_word.say(name + rank + one_line(sentence) + "\n" + table);
  if (several) {
    // Launchers forget what they have not read of a rank when the job ends.
    std::this_thread::sleep_for(std::chrono::milliseconds(200));
    world.end_job(status);
  }
  return status;
}

/// The (sub)command that was being parsed, as it is started.
std::string invocation(const CLI::App& app) {
  std::string words = app.get_name();
  const CLI::App* current = &app;
  while (!current->get_subcommands().empty()) {
    current = current->get_subcommands().front();
    words += " " + current->get_name();
  }
  return words;
}

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

/// A command line that was not understood, in words of ours: what CLI11 says is short of what was
/// expected, and it names an option's first spelling.
class Mistake {
 public:
  /// `words`: what stands before "--", in order.
  Mistake(const CLI::App& app, const std::vector<std::string>& words)
      : app_(app), command_(innermost(app)), words_(words) {}

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
      places += (places.empty() ? "at most " : " and ") + option->get_name();
      if (option->get_name() != "MODEL")
        advice = "; put a text of several words in quotes, or see ";
    }
    return "'" + rest.front() + "' is one argument too many, expected " +
           (places.empty() ? "options alone" : places) + (advice.empty() ? "; see " : advice) +
           invocation(app_) + " --help";
  }

  std::string explain(const CLI::ParseError& error) const {
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

  /// A whole number that CLI11 has not read as ten's digits: 010 is eight to it, 0x10 sixteen. ""
  /// if none is.
  std::string other_base() const {
    for (const CLI::Option* option : command_.get_options()) {
      if (!takes_whole_number(*option)) continue;
      for (const std::string& value : option->results()) {
        const size_t first = value.find_first_not_of("+-");
        if (first != std::string::npos && value[first] == '0' && first + 1 < value.size())
          return with_help(typed(*option) + " is '" + value + "', expected " + expected(*option) +
                           " that does not begin with 0");
      }
    }
    return "";
  }

 private:
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

int run_guarded(Program& program, const LastWord& last_word, const std::function<int()>& body) {
  const auto end = [&](const std::string& sentence, int status, const std::string& table = "") {
    return report(program, last_word, sentence, status, table);
  };
  try {
    const int status = body();
    std::cout.flush();
    if (!std::cout) fail("cannot write to standard output; see that its disk has room");
    return status;
  } catch (const UsageError& error) {
    return end(error.what(), 2);
  } catch (const DoesNotFit& error) {
    return end(error.what(), 1, error.table());
  } catch (const Error& error) {
    return end(error.what(), 1);
  } catch (const std::bad_alloc&) {
    return end("no memory is left; take a smaller --ctx or --chunk, or --weights int8", 1);
  } catch (const std::exception& error) {
    return end(std::string("something went wrong inside: ") + error.what(), 1);
  }
}

/// What several ranks are started for must run on several ranks.
void check_ranks(const Program& program) {
  if (program.world.size() == 1 || program.ranked.count(program.chosen)) return;
  throw UsageError(invocation(program.app) + " runs in one process, but a launcher started " +
                   std::to_string(program.world.size()) + " ranks of it; start it without mpirun");
}

/// The command line after the program's name with Program::spellings put in.
std::vector<std::string> words_of(int argc, char** argv, const Program& program) {
  std::vector<std::string> words;
  bool options = true;
  for (int i = 1; i < argc; ++i) {
    const auto spelling = program.spellings.find({argv[1], argv[i]});
    options = options && std::strcmp(argv[i], "--") != 0;
    words.push_back(options && spelling != program.spellings.end() ? spelling->second : argv[i]);
  }
  return words;
}

/// Understands the command line; returns why not, "" if all is well.
std::string parse(Program& program, int argc, char** argv) {
  std::vector<std::string> words = words_of(argc, argv, program);
  std::vector<std::string> last_first(words.rbegin(), words.rend());  // as CLI11 takes them
  words.erase(std::find(words.begin(), words.end(), "--"), words.end());
  try {
    program.app.parse(std::move(last_first));
    check_ranks(program);
    const Mistake mistake(program.app, words);
    std::string sentence = mistake.switched_by_value();
    if (sentence.empty()) sentence = mistake.empty_value();
    return sentence.empty() ? mistake.other_base() : sentence;
  } catch (const CLI::ParseError& error) {
    const Mistake mistake(program.app, words);
    if (std::string switched = mistake.switched_by_value(); !switched.empty()) return switched;
    if (error.get_exit_code() != 0) return mistake.explain(error);
    // --help, --version: of a command that there is not, nothing is to be told.
    const bool lacks_command =
        program.app.get_subcommands().empty() && program.app.get_require_subcommand_min() > 0;
    if (std::string unknown = mistake.unexpected(); lacks_command && !unknown.empty())
      return unknown;
    std::ostringstream text;
    program.app.exit(error, text, text);
    program.action = [shown = text.str()] {
      print(shown);
      return 0;
    };
  } catch (const Error& error) {  // an option's text that its parser refuses
    return error.what();
  }
  return "";
}

}  // namespace

CLI::App* add_command(Program& program, const std::string& name, const std::string& description,
                      const std::string& example, std::function<int()> run) {
  CLI::App* command = program.app.add_subcommand(name, description);
  command->footer("Example:\n  " + example);
  command->callback([&program, command, run = std::move(run)] {
    program.action = run;
    program.chosen = command;
  });
  return command;
}

int run_program(int argc, char** argv, const std::string& description,
                const std::function<void(Program&)>& define) {
  std::signal(SIGPIPE, SIG_IGN);  // a closed pipe becomes an error of write()
  std::signal(SIGXFSZ, SIG_IGN);  // and so does a file beyond the limit of `ulimit -f`
  const std::string path = argc > 0 ? argv[0] : "rill";
  const std::string name = path.substr(path.rfind('/') + 1);
  std::unique_ptr<Communicator> world;  // outlives what the options keep of it
  try {
    world = join_ranks();
  } catch (const Error& error) {
    // Once the first has said it, mpirun ends the others.
    std::this_thread::sleep_for(std::chrono::milliseconds(100 * std::min(launched_rank(), 20)));
    note(name + ": " + error.what() + "\n");
    return 1;
  }
  const LastWord last_word(*world);
  tell_of_end(*world);
  CLI::App app(description, name);
  app.set_version_flag("--version", std::string(version()));
  app.failure_message(CLI::FailureMessage::simple);
  Program program{app, {}, *world};
  define(program);
  return run_guarded(program, last_word, [&] {
    require_same_program(*world);
    require_same_options(program, parse(program, argc, argv));
    return program.action ? program.action() : 0;
  });
}

void print(std::string_view text) {
  if (!write_all(STDOUT_FILENO, text)) {
    throw OutputLost(std::string("cannot write to standard output (") + std::strerror(errno) +
                     "); see that its disk has room or that its reader still runs");
  }
}

void note(std::string_view text) {
  (void)write_all(STDERR_FILENO, text);
}

bool is_terminal(int descriptor) {
  if (under_launcher()) return false;  // Open MPI hands its ranks a terminal that nobody looks at
  const char* kind = std::getenv("TERM");
  return ::isatty(descriptor) != 0 && kind != nullptr && std::strcmp(kind, "dumb") != 0;
}

void show_status(const std::string& what) {
  if (is_terminal(2)) note("\r\033[K" + (what.empty() ? what : what + " ..."));
}

}  // namespace rill::apps
