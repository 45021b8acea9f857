// SPDX-License-Identifier: Apache-2.0
// rill bench-attention: attention by itself, standard and streaming, against this machine's limits.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <charconv>
#include <map>
#include <memory>
#include <optional>
#include <tuple>

#include "commands.h"
#include "common_options.h"
#include "engine/bench_attention.h"
#include "engine/bench_plot.h"
#include "engine/bench_report.h"
#include "engine/bench_values.h"
#include "engine/loaded_model.h"
#include "engine/rank_team.h"
#include "gnuplot.h"
#include "model/arithmetic.h"

namespace rill::apps {
namespace {

struct AttentionOptions {
  std::string tokens = "1024,2048,4096", queries = "all", blocks = "64", threads, isas, ranks;
  std::string types = "standard,streaming";
  AttentionLayer layer = {.kv_heads = 0};  // 0: the usual for the heads
  ArithmeticOptions arithmetic;
  NumaPolicy numa = NumaPolicy::AUTO;
  size_t repetitions = 3;
  ReportFormat format = ReportFormat::MD;
  std::string plot;
  Communicator* world = nullptr;
};

/// An instruction set on some threads of the first ranks: a column of the tables.
struct Method {
  const Kernels* kernels;
  int threads, ranks;
};

/// "a,b" in parts, of which none is empty.
std::vector<std::string> split(const std::string& text, const std::string& option) {
  std::vector<std::string> parts;
  for (size_t begin = 0, end = 0; end != std::string::npos; begin = end + 1) {
    end = text.find(',', begin);
    parts.push_back(text.substr(begin, end == std::string::npos ? end : end - begin));
    if (parts.back().empty())
      fail(option, " is \"", text, "\"; give words joined by commas, none of them empty");
  }
  return parts;
}

/// How many of `tokens` are queries.
size_t query_count(const std::string& text, size_t tokens) {
  if (text == "all") return tokens;
  size_t count = 0;
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, count);
  if (error != std::errc() || stop != end || count < 1)
    fail("--queries holds \"", text, "\"; give all, or numbers from 1 on, joined by commas");
  if (count > tokens)
    fail("--queries ", text, " is more than --tokens ", tokens,
         "; the queries are the last of the tokens");
  return count;
}

std::vector<size_t> numbers(const std::string& text, const std::string& option, size_t most) {
  const std::vector<size_t> values = parse_list(text, option);
  for (size_t value : values)
    if (value < 1 || value > most) fail(option, " is \"", text, "\"; use 1 to ", most);
  return values;
}

/// Of ranks: 1 and all that were started, or those asked for.
std::vector<size_t> ranks_of(const AttentionOptions& options) {
  const auto all = static_cast<size_t>(options.world->size());
  if (all > kStripes)
    fail("attention by itself is cut over 1 to ", kStripes, " ranks, but ", all,
         " run; start at most that many");
  if (!options.ranks.empty()) {
    const std::vector<size_t> asked = numbers(options.ranks, "--ranks", kStripes);
    const size_t most = *std::max_element(asked.begin(), asked.end());
    if (most > all)
      fail("--ranks is \"", options.ranks, "\", but ", all, all == 1 ? " rank runs" : " ranks run",
           "; start ", most, " with mpirun -n ", most, ", or lower --ranks");
    return asked;
  }
  return all > 1 ? std::vector<size_t>{1, all} : std::vector<size_t>{1};
}

std::vector<Method> methods_of(const AttentionOptions& options) {
  std::vector<size_t> threads = {1};
  const auto all = static_cast<size_t>(Team(threads_of_rank(*options.world, 0)).size());
  if (!options.threads.empty())
    threads = numbers(options.threads, "--threads", 1024);
  else if (all > 1)
    threads.push_back(all);
  std::vector<const Kernels*> isas;
  if (options.isas.empty())
    isas = {&choose_kernels("scalar"), &choose_kernels("")};
  else
    for (const std::string& name : split(options.isas, "--isa"))
      isas.push_back(&choose_kernels(name == "auto" ? "" : name));
  std::vector<Method> methods;
  // Without a wish: serial, and then SIMD, also on all threads and on all ranks.
  const bool serial = options.isas.empty() && options.threads.empty() && options.ranks.empty();
  for (const Kernels* kernels : isas)
    for (const size_t ranks : ranks_of(options))
      for (const size_t count : threads)
        if (!serial || kernels != isas.front() || count * ranks == 1)
          methods.push_back({kernels, static_cast<int>(count), static_cast<int>(ranks)});
  return methods;
}

std::vector<AttentionCase> cases_of(const AttentionOptions& options) {
  const std::vector<size_t> lengths = numbers(options.tokens, "--tokens", size_t{1} << 24);
  const std::vector<size_t> blocks = parse_list(options.blocks, "--block-size");
  for (size_t block : blocks)
    if (block < 16 || block > 1024 || (block & (block - 1)) != 0)
      fail("--block-size is \"", options.blocks, "\"; use powers of two from 16 to 1024");
  std::vector<AttentionCase> cases;
  for (const std::string& queries : split(options.queries, "--queries"))
    for (const std::string& type : split(options.types, "--attention"))
      for (size_t block : blocks)
        for (size_t tokens : lengths)
          cases.push_back({tokens, query_count(queries, tokens),
                           parse_attention_type(type, "--attention"), block});
  return cases;
}

AttentionLayer layer_of(const AttentionOptions& options) {
  // As in a model of bf16 weights, unless told otherwise.
  const Arithmetic arithmetic = resolve_arithmetic(options.arithmetic, DType::BF16);
  AttentionLayer layer = options.layer;
  constexpr size_t kUsualKvHeads = 8;
  if (layer.kv_heads == 0)
    layer.kv_heads = layer.heads % kUsualKvHeads ? layer.heads : kUsualKvHeads;
  layer.operand = arithmetic.attention;
  layer.kv = arithmetic.kv;
  return layer;
}

void check_heads(const AttentionOptions& options) {
  const AttentionLayer layer = layer_of(options);
  if (layer.heads % layer.kv_heads != 0)
    throw UsageError("--heads is " + std::to_string(layer.heads) +
                     ", expected a multiple of --kv-heads, which is " +
                     std::to_string(layer.kv_heads) + "; change one of them");
  if (layer.head_dim % 2 != 0)
    throw UsageError("--head-dim is " + std::to_string(layer.head_dim) +
                     "; use an even number from 2 to 1024");
}

/// Measures cases by methods, each on the first ranks of the job while the others wait.
class AttentionRuns {
 public:
  AttentionRuns(const AttentionOptions& options, const std::vector<AttentionCase>& cases,
                const std::vector<Method>& methods)
      : options_(options), layer_(layer_of(options)) {
    for (const AttentionCase& one : cases) most_tokens_ = std::max(most_tokens_, one.tokens);
    Communicator& world = *options.world;
    for (const Method& method : methods) {
      auto& team = teams_[method.threads];
      if (!team) team = std::make_unique<Team>(make_team(world, method.threads, options.numa));
      Group& group = groups_[method.ranks];
      if (group.members) continue;
      group.members = world.split(world.rank() < method.ranks ? 0 : 1);
      if (world.rank() < method.ranks)
        group.ranks = std::make_unique<Ranks>(*group.members, 1, method.ranks);
    }
  }

  /// Nothing on ranks that do not take part.
  std::optional<AttentionResult> run(const AttentionCase& one, const Method& method) {
    options_.world->barrier();  // who has nothing to do must not prepare the next case meanwhile
    const Group& group = groups_[method.ranks];
    if (!group.ranks) return {};
    show_status(std::string(to_string(one.type)) + ", " + std::to_string(one.tokens) + " tokens, " +
                method.kernels->name + ", " + std::to_string(method.threads) + " threads, " +
                std::to_string(method.ranks) + " ranks");
    Team& team = *teams_[method.threads];
    const Runtime runtime{*method.kernels, team, *group.ranks};
    // A process by itself has all keys, however they are dealt.
    const size_t deal = method.ranks == 1 ? kBlockTokens : stripe_length(one.block_size);
    auto& bench = benches_[{method.ranks, deal}];
    if (!bench) bench = std::make_unique<AttentionBench>(layer_, most_tokens_, runtime, deal);
    auto& probe = probes_[{method.threads, method.ranks, one.tokens}];
    const size_t ranks = static_cast<size_t>(method.ranks);
    if (!probe) probe = std::make_unique<CeilingProbe>(team, bench->kv_bytes(one.tokens) / ranks);
    return bench->run(one, runtime, options_.repetitions, *probe);
  }

 private:
  struct Group {
    std::unique_ptr<Communicator> members;
    std::unique_ptr<Ranks> ranks;  // of a rank that is one of them
  };
  const AttentionOptions& options_;
  const AttentionLayer layer_;
  size_t most_tokens_ = 0;
  std::map<int, std::unique_ptr<Team>> teams_;
  std::map<int, Group> groups_;
  std::map<std::pair<int, size_t>, std::unique_ptr<AttentionBench>> benches_;
  std::map<std::tuple<int, int, size_t>, std::unique_ptr<CeilingProbe>> probes_;
};

int run_bench_attention(const AttentionOptions& options) {
  check_heads(options);
  const auto cases = as_usage([&] { return cases_of(options); });
  const auto methods = as_usage([&] { return methods_of(options); });
  const bool tells = options.world->rank() == 0;
  if (tells && !options.plot.empty()) require_plot(options.plot, "--plot");
  AttentionRuns runs(options, cases, methods);
  std::vector<AttentionResult> results;  // a case's methods stand together
  for (const AttentionCase& one : cases)
    for (const Method& method : methods)
      if (auto result = runs.run(one, method)) results.push_back(std::move(*result));
  show_status("");
  if (!tells) return 0;
  const auto rows = attention_rows(layer_of(options), results);
  print(format_attention(rows, options.format));
  if (!options.plot.empty()) run_gnuplot(attention_script(rows, options.plot));
  check_ceilings(rows);
  return 0;
}

void add_case_options(CLI::App& command, AttentionOptions& options) {
  const std::string group =
      "Cases (lists: 1024,4096 or 1024..65536, which doubles, or 1024-65536*4)";
  const auto list = [&](const char* name, std::string& target, const char* description) {
    command.add_option(name, target, description)->type_name("LIST")->group(group);
  };
  list("--tokens", options.tokens, "tokens in the KV cache (default 1024,2048,4096)");
  list("--queries", options.queries,
       "how many of the last tokens are queries: all (prefill; the default), 1 (decode), ...");
  list("--attention", options.types, "standard, streaming (default both)");
  list("--block-size", options.blocks, "keys per attention block: 16, 32, ... 1024 (default 64)");
  list("--isa", options.isas, "scalar, avx2, ..., auto (default scalar and the best)");
  list("-t,--threads", options.threads,
       "threads (default 1, and all cores for the best instruction set)");
  list("--ranks", options.ranks,
       "under mpirun or srun: on how many of the ranks, which share the keys (default 1, and all)");
  struct Limits {
    size_t least, most;
  };
  const auto size = [&](const char* name, size_t& target, Limits limits, const char* description) {
    command.add_option(name, target, description)
        ->check(CLI::Range(limits.least, limits.most))
        ->type_name("N")
        ->group(group);
  };
  size("--heads", options.layer.heads, {1, 1024}, "query heads (default 16)");
  size("--kv-heads", options.layer.kv_heads, {1, 1024},
       "heads of keys and values (default 8, or as --heads)");
  size("--head-dim", options.layer.head_dim, {2, 1024}, "values of a head, even (default 128)");
  size("--chunk", options.layer.chunk, {1, size_t{1} << 20}, "queries of one step (default 512)");
  size("-r,--repetitions", options.repetitions, {1, 10000},
       "times that each case runs, fewer if it takes long (default 3)");
}

}  // namespace

void add_bench_attention_command(Program& program) {
  auto options = std::make_shared<AttentionOptions>();
  CLI::App* command = add_command(
      program, "bench-attention",
      "measure attention by itself: serial, SIMD, on threads and on ranks",
      "rill bench-attention --tokens 1024..65536 --queries 1 --heads 1 --block-size 64,128,256\n"
      "  mpirun -n 4 rill bench-attention --tokens 65536 --queries 1 --heads 1 --ranks 1,2,4",
      [options] { return run_bench_attention(*options); });
  options->world = &program.world;
  program.ranked.insert(command);
  add_case_options(*command, *options);
  const auto parsed = [&](const char* name, auto& target, auto parse, const char* description) {
    command->add_option_function<std::string>(
        name, [&target, parse, name](const std::string& text) { target = parse(text, name); },
        description);
  };
  parsed("--compute", options->arithmetic.compute, parse_compute_type,
         "auto, f32, bf16 or bf16x32 (default auto: bf16)");
  parsed("--kv", options->arithmetic.kv, parse_kv_type,
         "type of the KV cache: auto, int8, f16, bf16 or f32 (default auto: as --compute)");
  add_numa_option(*command, options->numa);
  command
      ->add_option_function<std::string>(
          "-o,--output",
          [options](const std::string& text) {
            options->format = parse_report_format(text, "--output");
          },
          "md, csv, json or jsonl (default md)")
      ->type_name("FORMAT");
  command->add_option("--plot", options->plot, "draw GFLOP/s over tokens (an SVG, with gnuplot)")
      ->type_name("FILE.svg");
}

}  // namespace rill::apps
