// SPDX-License-Identifier: Apache-2.0
// benchmark_qwen3: prefill and decode by method and attention, as the first description of the
// system measured them. `rill bench` is the program for everything else.
#include "benchmark_qwen3.h"

#include <CLI/CLI.hpp>
#include <algorithm>

#include "comm/launcher.h"
#include "engine/bench_values.h"
#include "model/config.h"
#include "program.h"

namespace rill::apps {
namespace {

constexpr char kDefaultShape[] = "qwen3-0.6b";

/// The texts of the options that need a second look once all are known.
struct RawOptions {
  QwenBenchmark asked;
  std::string phase, attention, prompt_lengths = "4,8,16", verify;
};

/// The instruction set behind a method's name; "" for auto.
std::string isa_of(const std::string& method) {
  const std::string ranks = "mpi";
  if (method == "auto") return "";
  if (method == "baseline" || method == ranks) return "scalar";
  const std::string name =
      method.rfind(ranks + "+", 0) == 0 ? method.substr(ranks.size() + 1) : method;
  for (const Kernels* kernels : all_kernels())
    if (name == kernels->name) return name;
  throw UsageError("--method is '" + method +
                   "'; use auto, baseline, avx2, avx512, avx512vnni, avx512bf16 or amx, and under "
                   "mpirun mpi, mpi+avx2, ...");
}

/// A method that names MPI needs a launcher.
void require_launcher(const std::string& method) {
  if (method.rfind("mpi", 0) == 0 && !under_launcher())
    throw UsageError("--method " + method +
                     " runs on ranks, but no launcher started any; start "
                     "it with mpirun -n N or srun");
}

std::string label_of(const Kernels& kernels) {
  std::string label = kernels.name;
  const std::string ranks = under_launcher() ? "MPI" : "";
  if (label == "scalar") return ranks.empty() ? "Baseline" : ranks;
  std::transform(label.begin(), label.end(), label.begin(),
                 [](unsigned char c) { return static_cast<char>(std::toupper(c)); });
  return ranks + (ranks.empty() ? "" : "+") + label;
}

/// The methods of the tables: the one asked for, or baseline, AVX2 and this machine's best.
std::vector<Method> methods_of(const QwenBenchmark& asked) {
  const Kernels& best = choose_kernels(asked.method.empty() ? "" : isa_of(asked.method));
  if (!asked.method.empty() || !asked.verify.empty()) return {{label_of(best), &best}};
  std::vector<Method> methods;
  for (const char* name : {"scalar", "avx2"}) {
    for (const Kernels* kernels : all_kernels()) {
      if (std::string(name) != kernels->name) continue;
      if (kernels->supported()) {
        methods.push_back({label_of(*kernels), kernels});
      } else {
        note(std::string(name) + ": SKIPPED, this processor does not run it\n");
      }
    }
  }
  const auto same = [&](const Method& method) { return method.kernels == &best; };
  if (std::none_of(methods.begin(), methods.end(), same))
    methods.push_back({label_of(best), &best});
  return methods;
}

QwenBenchmark understand(RawOptions raw) {
  QwenBenchmark& asked = raw.asked;
  if (!asked.method.empty()) {
    isa_of(asked.method);
    require_launcher(asked.method);
  }
  if (asked.common.model.empty() && asked.common.shape.empty()) asked.common.shape = kDefaultShape;
  if (!raw.phase.empty()) {
    if (raw.phase != "prefill" && raw.phase != "decode")
      throw UsageError("--phase is '" + raw.phase + "'; use prefill or decode");
    asked.prefill = raw.phase == "prefill";
    asked.decode = !asked.prefill;
  }
  const AttentionType first = as_usage([&] {
    return raw.attention.empty() ? AttentionType::STANDARD
                                 : parse_attention_type(raw.attention, "--attention");
  });
  const AttentionType other =
      first == AttentionType::STANDARD ? AttentionType::STREAMING : AttentionType::STANDARD;
  asked.common.arithmetic.attention = first;
  asked.attentions = {first};
  const bool tables = asked.method.empty() && raw.attention.empty();
  if (tables || !raw.verify.empty()) asked.attentions.push_back(other);
  asked.prompt_lengths = as_usage([&] { return parse_list(raw.prompt_lengths, "--prompt-len"); });
  if (std::count(asked.prompt_lengths.begin(), asked.prompt_lengths.end(), size_t{0}))
    throw UsageError("--prompt-len is '" + raw.prompt_lengths + "'; use lengths from 1 on");
  if (!raw.verify.empty())
    asked.verify = as_usage([&] { return parse_ids(raw.verify, "--verify"); });
  return asked;
}

int run(const RawOptions& raw) {
  const QwenBenchmark asked = understand(raw);
  const std::vector<Method> methods = methods_of(asked);
  const std::unique_ptr<LoadedModel> model = load_for(asked);
  const int status = asked.verify.empty() ? print_tables(asked, *model, methods)
                                          : verify_attentions(asked, *model, methods.front());
  asked.common.ranks.report();
  return status;
}

CLI::Option* add_size(CLI::App& app, const char* name, size_t& target, size_t least, size_t most,
                      const char* description) {
  return app.add_option(name, target, description)->check(CLI::Range(least, most))->type_name("N");
}

void add_model_options(CLI::App& app, RawOptions& raw) {
  CommonOptions& common = raw.asked.common;
  app.add_option("--model", common.model, "folder of a Qwen3 checkpoint")->type_name("FOLDER");
  add_shape_option(
      app, common, "--model",
      std::string("random weights of a published size (default ") + kDefaultShape + ")");
  const auto parsed = [&](const char* name, auto& target, auto parse, const char* description) {
    app.add_option_function<std::string>(
        name, [&target, parse, name](const std::string& text) { target = parse(text, name); },
        description);
  };
  parsed("--weights", common.arithmetic.weights, parse_weight_type,
         "auto, bf16, f16, f32, int8 or int4 (default auto: as stored)");
  parsed("--compute", common.arithmetic.compute, parse_compute_type,
         "auto, f32, bf16 or bf16x32 (default auto)");
  parsed("--kv", common.arithmetic.kv, parse_kv_type,
         "auto, int8, f16, bf16 or f32 (default auto)");
  app.add_option(
      "--method,--isa", raw.asked.method,
      "auto, baseline (scalar), avx2, avx512, avx512vnni, avx512bf16 or amx; under mpirun "
      "also mpi (scalar), mpi+avx2, ... (default: tables of baseline, avx2 and this "
      "machine's best)");
  app.add_option("--attention", raw.attention,
                 "standard or streaming (default standard; the tables show both)");
  add_thread_option(app, common);
}

void add_measuring_options(CLI::App& app, RawOptions& raw) {
  QwenBenchmark& asked = raw.asked;
  CLI::Option* verify = app.add_option(
      "--verify", raw.verify,
      "generate --gen-len tokens after these ids with both attentions and compare them");
  verify->type_name("IDS");
  app.add_option("--phase", raw.phase, "prefill or decode (default both)")->excludes(verify);
  app.add_option("--prompt-len", raw.prompt_lengths,
                 "lengths of prefill: 128, or a list 4,8,16 or 4-64*2 (default 4,8,16); decode "
                 "follows the longest")
      ->excludes(verify)
      ->type_name("LIST");
  add_size(app, "--gen-len", asked.generated, 1, 1000000, "decode steps (default 2)");
  add_size(app, "--iters", asked.iterations, 1, 10000, "runs that are averaged (default 2)")
      ->excludes(verify);
  add_size(app, "--warmup", asked.warm_ups, 0, 10000, "runs before, not counted (default 1)")
      ->excludes(verify);
  add_size(app, "--batch-size", asked.batch, 1, 4096, "sequences side by side (default 1)");
  add_size(app, "--q-block-size,--chunk", asked.common.chunk, 1, size_t{1} << 20,
           "query rows of one step: a longer prompt is computed in steps of so many tokens, which "
           "changes no result (default 512)");
  app.add_option_function<size_t>(
         "--kv-block-size,--block-size",
         [&asked](size_t value) {
           if (value < 16 || value > 1024 || (value & (value - 1)) != 0)
             throw UsageError("--kv-block-size is " + std::to_string(value) +
                              "; use a power of two from 16 to 1024");
           asked.common.arithmetic.block_size = value;
         },
         "keys per block of streaming attention: 16, 32, ... 1024 (default 64)")
      ->type_name("N");
}

}  // namespace
}  // namespace rill::apps

int main(int argc, char** argv) {
  using namespace rill::apps;
  return run_program(
      argc, argv,
      "Prefill and decode times of a Qwen3 model by method and attention; see also rill bench",
      [](Program& program) {
        auto raw = std::make_shared<RawOptions>();
        add_model_options(program.app, *raw);
        add_measuring_options(program.app, *raw);
        add_rank_options(program, program.app, raw->asked.common.ranks);
        add_strategy_option(program.app, raw->asked.common.ranks);
        program.chosen = &program.app;
        program.app.footer(
            "Examples:\n  benchmark_qwen3 --shape qwen3-0.6b\n  benchmark_qwen3 --model FOLDER "
            "--verify 151644,872 --gen-len 3\n  mpirun -n 4 benchmark_qwen3 --method mpi+avx2 "
            "--parallel-strategy sequence");
        program.action = [raw] { return run(*raw); };
      });
}
