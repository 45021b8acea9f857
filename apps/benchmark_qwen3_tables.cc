// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "benchmark_qwen3.h"
#include "engine/bench_report.h"
#include "engine/bench_run.h"
#include "program.h"

namespace rill::apps {
namespace {

constexpr uint64_t kSeed = 42;

using Table = std::vector<std::vector<std::string>>;

/// Milliseconds of one method with one attention.
struct Times {
  std::vector<double> prefill;  // [prompt lengths]
  std::vector<double> steps;    // [generated]

  double step_mean() const { return statistics(steps).mean; }
};

const char* title(AttentionType attention) {
  return attention == AttentionType::STANDARD ? "Standard" : "Streaming";
}

/// "1.03x (Streaming)": the second over the first, and which one won.
std::string speedup(double first, double second, const std::vector<AttentionType>& attentions) {
  return fixed(first / second) + "x (" + title(attentions[second < first ? 1 : 0]) + ")";
}

std::string length_text(const QwenBenchmark& asked, size_t length) {
  return std::to_string(length) + (asked.batch > 1 ? " x " + std::to_string(asked.batch) : "");
}

Times measure(const QwenBenchmark& asked, LoadedModel& model, const Method& method,
              AttentionType attention) {
  Arithmetic arithmetic = model.arithmetic;
  arithmetic.attention_type = attention;
  BenchRunner runner(model, arithmetic, Runtime{*method.kernels, model.team, model.ranks},
                     model.session);
  Times times;
  const std::string name = method.label + ", " + title(attention) + ", ";
  for (size_t length : asked.prompt_lengths) {
    if (!asked.prefill) break;
    show_status(name + "prefill of " + std::to_string(length));
    const BenchTest test{length, 0, 0, asked.batch};
    runner.run(test, {asked.warm_ups, false});
    const BenchResult result = runner.run(test, {asked.iterations, false});
    times.prefill.push_back(1000 * statistics(result.seconds).mean);
  }
  if (!asked.decode) return times;
  show_status(name + "decode");
  const size_t longest =
      *std::max_element(asked.prompt_lengths.begin(), asked.prompt_lengths.end());
  const BenchTest test{0, asked.generated, longest, asked.batch};
  times.steps.assign(asked.generated, 0);
  for (size_t i = 0; i < asked.warm_ups + asked.iterations; ++i) {
    const std::vector<double> seconds = runner.steps(test);
    for (size_t step = 0; step < seconds.size() && i >= asked.warm_ups; ++step)
      times.steps[step] += 1000 * seconds[step] / static_cast<double>(asked.iterations);
  }
  return times;
}

/// One method: its attentions side by side.
std::string attention_table(const QwenBenchmark& asked, const Method& method,
                            const std::vector<Times>& times) {
  const bool both = asked.attentions.size() == 2;
  Table table = {{"Tokens"}};
  for (AttentionType attention : asked.attentions)
    table[0].push_back(std::string(title(attention)) + " (ms)");
  if (both) table[0].push_back("Speedup");
  for (size_t i = 0; i < asked.prompt_lengths.size(); ++i) {
    std::vector<std::string> line = {length_text(asked, asked.prompt_lengths[i])};
    for (const Times& column : times) line.push_back(fixed(column.prefill[i]));
    if (both) line.push_back(speedup(times[0].prefill[i], times[1].prefill[i], asked.attentions));
    table.push_back(line);
  }
  return "\n### Prefill, " + method.label + "\n\n" + markdown_table(table, 0);
}

/// One attention: the methods side by side, with speed-ups over the first.
std::string method_table(const QwenBenchmark& asked, const std::vector<Method>& methods,
                         const std::vector<std::vector<Times>>& times, size_t attention) {
  Table table = {{"Tokens"}};
  for (const Method& method : methods) {
    table[0].push_back(method.label + " (ms/token)");
    if (&method != &methods.front()) table[0].push_back("Speedup");
  }
  for (size_t i = 0; i < asked.prompt_lengths.size(); ++i) {
    const auto tokens = static_cast<double>(asked.prompt_lengths[i] * asked.batch);
    std::vector<std::string> line = {length_text(asked, asked.prompt_lengths[i])};
    const double first = times[0][attention].prefill[i];
    for (size_t m = 0; m < methods.size(); ++m) {
      const double time = times[m][attention].prefill[i];
      line.push_back(fixed(time / tokens));
      if (m > 0) line.push_back(fixed(first / time) + "x");
    }
    table.push_back(line);
  }
  return std::string("\n### Prefill, ") + title(asked.attentions[attention]) +
         " attention, by method\n\n" + markdown_table(table, 0);
}

std::string decode_table(const QwenBenchmark& asked, const std::vector<Method>& methods,
                         const std::vector<std::vector<Times>>& times) {
  std::string text =
      "\n### Decode, after " +
      std::to_string(*std::max_element(asked.prompt_lengths.begin(), asked.prompt_lengths.end())) +
      " tokens\n\n";
  const bool both = asked.attentions.size() == 2;
  Table table = {{"Method"}};
  for (AttentionType attention : asked.attentions)
    table[0].push_back(std::string(title(attention)) + " (ms/step)");
  if (both) table[0].push_back("Speedup");
  if (methods.size() > 1) table[0].push_back("Over " + methods.front().label);
  for (size_t m = 0; m < methods.size(); ++m) {
    std::vector<std::string> line = {methods[m].label};
    for (size_t a = 0; a < asked.attentions.size(); ++a) {
      text += "- " + methods[m].label + ", " + title(asked.attentions[a]) + ":";
      for (size_t step = 0; step < times[m][a].steps.size(); ++step)
        text += (step ? " → Step " : " Step ") + std::to_string(step + 1) + ": " +
                fixed(times[m][a].steps[step]) + " ms";
      text += "\n";
      line.push_back(fixed(times[m][a].step_mean()));
    }
    if (both)
      line.push_back(speedup(times[m][0].step_mean(), times[m][1].step_mean(), asked.attentions));
    if (methods.size() > 1)
      line.push_back(fixed(times[0].back().step_mean() / times[m].back().step_mean()) + "x");
    table.push_back(line);
  }
  return text + "\n" + markdown_table(table, 1);
}

/// Tokens that greedy decoding appends to asked.verify, for each sequence of the batch.
std::vector<std::vector<int32_t>> generate(const QwenBenchmark& asked, LoadedModel& model,
                                           const Method& method, AttentionType attention) {
  Arithmetic arithmetic = model.arithmetic;
  arithmetic.attention_type = attention;
  Session session(model, arithmetic, Runtime{*method.kernels, model.team, model.ranks},
                  model.session);
  const size_t vocabulary = model.config.vocab_size;
  std::vector<KvSequence> sequences;
  std::vector<float> logits(asked.batch * vocabulary);
  for (size_t i = 0; i < asked.batch; ++i) {
    sequences.emplace_back(session.cache());
    const std::span<const int32_t> ids(asked.verify);
    for (size_t done = 0; done < ids.size();) {
      const size_t count = std::min(model.session.chunk, ids.size() - done);
      done += count;
      const SequenceStep step{&sequences[i], ids.subspan(done - count, count),
                              done == ids.size() ? size_t{1} : size_t{0}};
      session.transformer().forward({&step, 1}, logits.data() + i * vocabulary);
    }
  }
  std::vector<std::vector<int32_t>> tokens(asked.batch);
  for (size_t n = 0; n < asked.generated; ++n) {
    std::vector<SequenceStep> steps;
    for (size_t i = 0; i < asked.batch; ++i) {
      const float* row = logits.data() + i * vocabulary;
      tokens[i].reserve(asked.generated);
      tokens[i].push_back(static_cast<int32_t>(std::max_element(row, row + vocabulary) - row));
      steps.push_back({&sequences[i], std::span<const int32_t>(tokens[i]).last(1), 1});
    }
    if (n + 1 < asked.generated) session.transformer().forward(steps, logits.data());
  }
  return tokens;
}

}  // namespace

std::unique_ptr<LoadedModel> load_for(const QwenBenchmark& asked) {
  LoadOptions load = asked.common.load_options();
  const std::vector<size_t>& lengths = asked.prompt_lengths;
  const size_t prompt = asked.verify.empty() ? *std::max_element(lengths.begin(), lengths.end())
                                             : asked.verify.size();
  load.session.context = prompt + asked.generated;
  load.session.sequences = asked.batch;
  const ModelConfig config = asked.common.config();
  if (load.session.context > config.max_position_embeddings)
    fail("prompt and generated tokens together are ", load.session.context,
         ", but this model was made for at most ", config.max_position_embeddings,
         " positions; lower --prompt-len or --gen-len");
  return asked.common.shape.empty() ? LoadedModel::load(asked.common.model, load)
                                    : LoadedModel::random(config, load, kSeed);
}

int print_tables(const QwenBenchmark& asked, LoadedModel& model,
                 const std::vector<Method>& methods) {
  const std::string arithmetic = asked.attentions.size() == 2
                                     ? describe(model.arithmetic, "both attentions")
                                     : describe(model.arithmetic);
  print("model " + asked.common.subject() + (asked.common.shape.empty() ? "" : ", random weights") +
        "; " + arithmetic + "; " + std::to_string(model.team.size()) +
        (model.team.size() == 1 ? " thread" : " threads") + describe_ranks(model.ranks) +
        "; mean of " + std::to_string(asked.iterations) + " runs after " +
        std::to_string(asked.warm_ups) + " not counted\n");
  std::vector<std::vector<Times>> times;  // [methods][attentions]
  for (const Method& method : methods) {
    times.emplace_back();
    for (AttentionType attention : asked.attentions)
      times.back().push_back(measure(asked, model, method, attention));
    show_status("");
    if (asked.prefill) print(attention_table(asked, method, times.back()));
  }
  for (size_t a = 0; a < asked.attentions.size() && asked.prefill && methods.size() > 1; ++a)
    print(method_table(asked, methods, times, a));
  if (asked.decode) print(decode_table(asked, methods, times));
  return 0;
}

int verify_attentions(const QwenBenchmark& asked, LoadedModel& model, const Method& method) {
  check_ids(asked.verify, model.config.vocab_size, "--verify");
  std::vector<std::vector<int32_t>> all;
  for (AttentionType attention : asked.attentions) {
    const auto tokens = generate(asked, model, method, attention);
    for (size_t i = 0; i < tokens.size(); ++i) {
      std::string line = to_string(attention);
      if (asked.batch > 1) line += ", sequence " + std::to_string(i + 1);
      line += ": [";
      for (size_t n = 0; n < tokens[i].size(); ++n)
        line += (n ? ", " : "") + std::to_string(tokens[i][n]);
      print(line + "]\n");
      all.push_back(tokens[i]);
    }
  }
  const bool same = std::all_of(all.begin(), all.end(), [&](const auto& t) { return t == all[0]; });
  print(std::string("same tokens: ") + (same ? "yes" : "no") + "\n");
  return same ? 0 : 1;
}

}  // namespace rill::apps
