// SPDX-License-Identifier: Apache-2.0
#include "program.h"

#include <fcntl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
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
#include "mistake.h"
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
    return overlooked_mistake(program.app, words);
  } catch (const CLI::ParseError& error) {
    if (std::string why = explain_mistake(program.app, words, error); !why.empty()) return why;
    // --help, --version
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
