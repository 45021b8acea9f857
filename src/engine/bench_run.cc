// SPDX-License-Identifier: Apache-2.0
#include "engine/bench_run.h"

#include <algorithm>
#include <cassert>
#include <chrono>
#include <ctime>

#include "engine/bench_fill.h"

namespace rill {
namespace {

double now() {
  using Clock = std::chrono::steady_clock;
  return std::chrono::duration<double>(Clock::now().time_since_epoch()).count();
}

std::string utc_time() {
  const std::time_t seconds = std::time(nullptr);
  std::tm fields{};
  gmtime_r(&seconds, &fields);
  char text[32];
  std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &fields);
  return text;
}

}  // namespace

std::string BenchTest::name() const {
  std::string text;
  if (prompt) text += "pp" + std::to_string(prompt);
  if (prompt && generated) text += "+";
  if (generated) text += "tg" + std::to_string(generated);
  if (depth) text += " @ d" + std::to_string(depth);
  return text;
}

std::vector<BenchTest> BenchPlan::tests() const {
  std::vector<BenchTest> tests;
  for (size_t batch : batches) {
    for (size_t depth : depths) {
      for (size_t prompt : prompts)
        if (prompt) tests.push_back({prompt, 0, depth, batch});
      for (size_t count : generated)
        if (count) tests.push_back({0, count, depth, batch});
      for (const auto& [prompt, count] : pairs) tests.push_back({prompt, count, depth, batch});
    }
  }
  return tests;
}

BenchRunner::BenchRunner(const LoadedModel& model, const Arithmetic& arithmetic, Runtime runtime,
                         const SessionSize& size, Fill depth)
    : config_(model.config),
      arithmetic_(arithmetic),
      runtime_(runtime),
      depth_(depth),
      session_(model, arithmetic, runtime, size),
      tokens_(size.context),
      logits_(size.sequences * model.config.vocab_size * sizeof(float), "logits") {
  for (size_t i = 0; i < size.sequences; ++i) sequences_.emplace_back(session_.cache());
  // The constants of Knuth's multiplicative hash: neighbours get rows of the embedding far apart.
  for (size_t i = 0; i < tokens_.size(); ++i)
    tokens_[i] = static_cast<int32_t>((i * 2654435761u + 12345u) % config_.vocab_size);
}

BenchResult BenchRunner::run(const BenchTest& test, const BenchRun& how) {
  assert(test.batch <= session_.size().sequences && test.context() <= session_.size().context);
  BenchResult result{test, CostModel(config_, arithmetic_, runtime_.kernels.name), utc_time()};
  if (how.warm_up) {
    BenchTest shorter = test;
    shorter.generated = std::min<size_t>(test.generated, 1);
    once(shorter, nullptr);
  }
  fill(test.depth, test.batch);
  if (how.profile) result.profile.emplace(runtime_.team.size());
  Ceilings before = measure(how.probe);
  for (size_t i = 0; i < how.repetitions; ++i) {
    session_.transformer().set_profile(result.profile ? &*result.profile : nullptr);
    result.seconds.push_back(once(test, i == 0 ? &result.cost : nullptr));
    session_.transformer().set_profile(nullptr);
    if (!how.probe) continue;
    const Ceilings after = measure(how.probe);
    result.judgements.push_back(judge(before, after));
    before = after;
  }
  return result;
}

Ceilings BenchRunner::measure(CeilingProbe* probe) const {
  return probe ? measure_together(*probe, runtime_.ranks.world()) : Ceilings{};
}

std::vector<double> BenchRunner::steps(const BenchTest& test) {
  fill(test.depth, test.batch);
  prefill(test.prompt, test.batch, true, nullptr);
  std::vector<double> seconds;
  for (size_t i = 0; i < test.generated; ++i) {
    const double start = now();
    step(test.batch, nullptr);
    seconds.push_back(now() - start);
  }
  return seconds;
}

double BenchRunner::once(const BenchTest& test, CostModel* cost) {
  fill(test.depth, test.batch);
  const double start = now();
  prefill(test.prompt, test.batch, true, cost);
  for (size_t i = 0; i < test.generated; ++i) step(test.batch, cost);
  return now() - start;
}

/// Leaves the first `batch` sequences with `depth` tokens each, the others with none. What was
/// computed for a smaller depth stays.
void BenchRunner::fill(size_t depth, size_t batch) {
  size_t common = depth;
  for (size_t i = 0; i < batch; ++i) common = std::min(common, sequences_[i].length());
  if (depth_ == Fill::RANDOM) common = std::min(common, filled_);  // no token of a test's own
  for (size_t i = 0; i < sequences_.size(); ++i) sequences_[i].truncate(i < batch ? common : 0);
  filled_ = depth;
  if (depth_ == Fill::COMPUTED) {
    prefill(depth - common, batch, false, nullptr);
    return;
  }
  constexpr uint64_t kSeed = 42;
  for (size_t i = 0; i < batch; ++i) fill_random(sequences_[i], depth - common, kSeed, runtime_);
}

/// Appends `tokens` to each of `batch` sequences, one after the other, in steps of the chunk; a
/// step that a sequence does not fill takes from the next one too.
void BenchRunner::prefill(size_t tokens, size_t batch, bool logits, CostModel* cost) {
  const size_t chunk = session_.size().chunk;
  std::vector<SequenceStep> steps;
  size_t rows = 0;
  for (size_t i = 0; i < batch; ++i) {
    for (size_t done = 0; done < tokens;) {
      const size_t count = std::min(chunk - rows, tokens - done);
      const bool last = done + count == tokens;
      const std::span<const int32_t> all(tokens_);
      steps.push_back({&sequences_[i], all.subspan(sequences_[i].length(), count),
                       logits && last ? size_t{1} : size_t{0}});
      done += count;
      rows += count;
      // A sequence appears once in a step, so that what is left of it takes a step of its own.
      if (rows == chunk || !last) {
        forward(steps, cost);
        steps.clear();
        rows = 0;
      }
    }
  }
  if (!steps.empty()) forward(steps, cost);
}

/// Appends one token to each of `batch` sequences.
void BenchRunner::step(size_t batch, CostModel* cost) {
  std::vector<SequenceStep> steps;
  for (size_t i = 0; i < batch; ++i) {
    const std::span<const int32_t> all(tokens_);
    steps.push_back({&sequences_[i], all.subspan(sequences_[i].length(), 1), 1});
  }
  forward(steps, cost);
}

void BenchRunner::forward(const std::vector<SequenceStep>& steps, CostModel* cost) {
  if (cost) {
    for (const SequenceStep& share : steps)
      cost->add_share({share.sequence->length(), share.tokens.size(), share.logits});
    cost->end_step();
  }
  session_.transformer().forward(steps, logits_.as<float>());
}

}  // namespace rill
