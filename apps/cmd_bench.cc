// SPDX-License-Identifier: Apache-2.0
// rill bench: tokens per second in llama-bench's habits, beside what this machine could do at most.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <memory>
#include <set>

#include "commands.h"
#include "common_options.h"
#include "engine/bench_comm.h"
#include "engine/bench_plot.h"
#include "engine/bench_report.h"
#include "engine/bench_run.h"
#include "engine/bench_values.h"
#include "engine/rank_team.h"
#include "gnuplot.h"
#include "model/config.h"

namespace rill::apps {
namespace {

struct BenchOptions {
  CommonOptions common;
  std::string prompts = "512", generated = "128", depths = "0", batches = "1", threads;
  std::vector<std::string> pairs;
  size_t repetitions = 5;
  bool no_warmup = false, profile = false, fill = false, comm = false;
  std::string roofline;
  const CLI::App* command = nullptr;
  ReportFormat format = ReportFormat::MD;
};

constexpr uint64_t kSeed = 42;

BenchPlan plan_of(const BenchOptions& options) {
  return as_usage([&] {
    BenchPlan plan{parse_list(options.prompts, "-p"),
                   parse_list(options.generated, "-n"),
                   parse_list(options.depths, "-d"),
                   parse_list(options.batches, "-b"),
                   {}};
    for (const std::string& pair : options.pairs) plan.pairs.push_back(parse_pair(pair, "-pg"));
    for (size_t batch : plan.batches)
      if (batch == 0 || batch > 4096) fail("-b is \"", options.batches, "\"; use 1 to 4096");
    if (plan.tests().empty()) fail("-p and -n are 0 and there is no -pg: nothing is left to run");
    return plan;
  });
}

std::vector<int> threads_of(const BenchOptions& options) {
  if (options.threads.empty()) return {0};
  return as_usage([&] {
    std::vector<int> counts;
    for (size_t count : parse_list(options.threads, "--threads")) {
      if (count < 1 || count > 1024) fail("--threads is \"", options.threads, "\"; use 1 to 1024");
      counts.push_back(static_cast<int>(count));
    }
    return counts;
  });
}

/// The runs of one thread count: loads the model with these threads, so that each finds its share
/// of the weights in the memory nearest to it.
class ThreadRun {
 public:
  ThreadRun(const BenchOptions& options, const std::vector<BenchTest>& tests, int threads)
      : options_(options), tests_(tests), threads_(threads) {}

  std::vector<nlohmann::ordered_json> rows() {
    load();
    BenchSubject subject{options_.common.subject(),
                         model_type(model_->config, model_->arithmetic),
                         model_->weights.bytes(),
                         model_->config.parameter_count(),
                         model_->arithmetic,
                         model_->kernels.name,
                         model_->team.size(),
                         options_.common.load_options().session.chunk,
                         model_->ranks.tp().size(),
                         model_->ranks.sp().size(),
                         model_->team.placement().describe()};
    BenchRunner runner(*model_, model_->arithmetic, model_->runtime(), model_->session,
                       options_.fill ? Fill::RANDOM : Fill::COMPUTED);
    show_status("measuring the ceilings");
    CeilingProbe probe(model_->team, model_->weights.bytes_per_token());
    const bool profile = options_.profile || !options_.roofline.empty();
    const BenchRun how{options_.repetitions, !options_.no_warmup, profile, &probe};
    std::vector<nlohmann::ordered_json> rows;
    for (const BenchTest& test : tests_) {
      show_status(test.name());
      rows.push_back(bench_row(subject, runner.run(test, how)));
    }
    show_status("");
    return rows;
  }

 private:
  void load() {
    LoadOptions load = options_.common.load_options();
    load.threads = threads_;
    load.session.context = 0;
    for (const BenchTest& test : tests_) {
      load.session.context = std::max(load.session.context, test.context());
      load.session.sequences = std::max(load.session.sequences, test.batch);
    }
    const ModelConfig config = options_.common.config();
    if (load.session.context > config.max_position_embeddings)
      fail("the longest test (depth, prompt and generated tokens together) has ",
           load.session.context, " tokens, but this model was made for at most ",
           config.max_position_embeddings, " positions; lower -d, -p, -n or -pg");
    try {
      model_ = options_.common.shape.empty() ? LoadedModel::load(options_.common.model, load)
                                             : LoadedModel::random(config, load, kSeed);
    } catch (const DoesNotFit& error) {
      throw DoesNotFit("the largest test (" + std::to_string(load.session.context) + " tokens, " +
                           std::to_string(load.session.sequences) +
                           " at a time) does not fit in memory; lower -d, -p, -n or -b, or take "
                           "--weights int8 or a smaller model",
                       error.table());
    }
  }

  const BenchOptions& options_;
  const std::vector<BenchTest>& tests_;
  int threads_;
  std::unique_ptr<LoadedModel> model_;
};

// --comm: no model, only how fast ranks talk and what their nodes can do.
int run_comm(const BenchOptions& options, Communicator& world) {
  const std::set<std::string> used = {"--comm", "--threads", "--numa", "--isa", "--output"};
  for (const CLI::Option* option : options.command->get_options())
    if (option->count() > 0 && !used.count(option->get_name()))
      throw UsageError("--comm measures the ranks and no model, so " +
                       option->get_name(true, true) + " means nothing; leave one of them out");
  if (threads_of(options).size() > 1)
    throw UsageError("--threads is \"" + options.threads +
                     "\", expected one number with --comm, which measures once");
  if (options.format != ReportFormat::MD && options.format != ReportFormat::JSON)
    throw UsageError("--comm prints a table (md) or the constants for rill plan (json)");
  show_status("measuring the ranks");
  Team team = make_team(world, threads_of(options).front(), options.common.numa);
  const CommBench bench = measure_comm(world, team, choose_kernels(options.common.isa).name);
  show_status("");
  print(options.format == ReportFormat::JSON ? to_json(bench.constants).dump(2) + "\n"
                                             : bench.table());
  return 0;
}

int run_bench(const BenchOptions& options, Communicator& world) {
  if (options.comm) return run_comm(options, world);
  options.common.subject();  // there must be one
  const std::vector<BenchTest> tests = plan_of(options).tests();
  if (!options.roofline.empty()) {
    options.common.require_not_read(options.roofline);
    require_plot(options.roofline, "--roofline");
  }
  std::vector<nlohmann::ordered_json> rows;
  for (int threads : threads_of(options))
    for (auto& row : ThreadRun(options, tests, threads).rows()) rows.push_back(std::move(row));
  print(format_report(rows, options.format));
  if (!options.roofline.empty() && options.common.ranks.ranks().world().rank() == 0)
    run_gnuplot(roofline_script(rows, options.roofline));
  check_ceilings(rows);
  options.common.ranks.report();
  return 0;
}

void add_test_options(CLI::App& command, BenchOptions& options) {
  const std::string group = "Tests (lists: 128,512 or 64-512*2 or 0-4096+1024)";
  const auto list = [&](const char* name, std::string& target, const char* description) {
    command.add_option(name, target, description)->type_name("LIST")->group(group);
  };
  list("-p,--n-prompt", options.prompts, "prompt lengths, 0 for none (default 512)");
  list("-n,--n-gen", options.generated, "numbers of generated tokens, 0 for none (default 128)");
  command
      .add_option("--pg", options.pairs,
                  "also (or -pg) a prompt and a generation together; repeatable")
      ->type_name("P,N")
      ->allow_extra_args(false)
      ->group(group);
  list("-d,--n-depth", options.depths, "tokens in the KV cache before a test (default 0)");
  list("-b,--batch", options.batches, "sequences side by side (default 1)");
  list("-t,--threads", options.threads,
       "threads (default: $OMP_NUM_THREADS, else the cores left to this process)");
  command
      .add_option("-r,--repetitions", options.repetitions, "times that each test runs (default 5)")
      ->check(CLI::Range(size_t{1}, size_t{10000}))
      ->type_name("N")
      ->group(group);
  command.add_flag("--no-warmup", options.no_warmup, "no untimed run before each test")
      ->group(group);
  command
      .add_flag("--fill", options.fill, "random K and V for the tokens of -d, not computed ones")
      ->group(group);
}

}  // namespace

void add_bench_command(Program& program) {
  auto options = std::make_shared<BenchOptions>();
  CLI::App* command =
      add_command(program, "bench", "measure tokens per second against this machine's own limits",
                  "rill bench --shape qwen3-0.6b -p 512 -n 128 -d 0,4096",
                  [options, &program] { return run_bench(*options, program.world); });
  options->command = command;
  program.spellings[{"bench", "-pg"}] = "--pg";
  add_model_option(*command, options->common);
  add_shape_option(*command, options->common, "MODEL", "random weights of a published size");
  add_test_options(*command, *options);
  command
      ->add_option_function<std::string>(
          "-o,--output",
          [options](const std::string& text) {
            options->format = parse_report_format(text, "--output");
          },
          "md, csv, json or jsonl (default md)")
      ->type_name("FORMAT");
  command->add_flag("--profile", options->profile,
                    "also the time, work and percentage of each operation");
  command->add_flag("--comm", options->comm,
                    "instead of tests: latency and bandwidth between the ranks of this job; with "
                    "-o json the constants for rill plan --constants");
  command
      ->add_option("--roofline", options->roofline,
                   "draw each operation's speed under the ceilings (an SVG, with gnuplot)")
      ->type_name("FILE.svg");
  add_attention_option(*command, options->common);
  add_arithmetic_options(*command, options->common);
  add_numa_option(*command, options->common.numa);
  add_chunk_option(*command, options->common);
  add_rank_options(program, *command, options->common);
}

}  // namespace rill::apps
