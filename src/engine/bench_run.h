// SPDX-License-Identifier: Apache-2.0
// Runs the tests of a benchmark: prompts of a length, tokens generated, after a depth of context.
#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "engine/bench_cost.h"
#include "engine/bench_judge.h"
#include "engine/session.h"
#include "model/profile.h"

namespace rill {

/// One test, for each of `batch` sequences side by side: after `depth` tokens that are not timed,
/// `prompt` tokens in steps of the session's chunk, then `generated` tokens one by one.
struct BenchTest {
  size_t prompt = 0, generated = 0, depth = 0, batch = 1;

  /// As llama-bench names it: "pp512", "tg128", "pp512+tg128", "pp512 @ d4096".
  std::string name() const;
  /// Positions that each sequence reaches.
  size_t context() const { return depth + prompt + generated; }
};

/// The tests of all combinations, zeros left out, a depth's tests together: prompts, generations,
/// then `pairs` of both.
struct BenchPlan {
  std::vector<size_t> prompts, generated, depths, batches;
  std::vector<std::pair<size_t, size_t>> pairs;

  std::vector<BenchTest> tests() const;
};

/// How a test is run.
struct BenchRun {
  size_t repetitions = 5;
  bool warm_up = true;            // an untimed run before (the prompt and one token)
  bool profile = false;           // where the time goes
  CeilingProbe* probe = nullptr;  // measures the ceilings before and after each repetition
};

/// What a test took, and what it did at least.
struct BenchResult {
  BenchTest test;
  CostModel cost;                          // of one repetition
  std::string time;                        // of its start, UTC, ISO 8601
  std::vector<double> seconds = {};        // of each repetition
  std::vector<Judgement> judgements = {};  // of each repetition; with a probe
  std::optional<Profile> profile = {};     // of all repetitions together

  size_t tokens() const { return test.batch * (test.prompt + test.generated); }
};

/// Where the tokens of a depth come from.
enum class Fill { COMPUTED, RANDOM };

/// Runs tests on a model. Tokens are arbitrary but the same each time: their values change neither
/// the work nor its order.
class BenchRunner {
 public:
  /// Scratch and KV cache are allocated here: `size` holds the longest context and largest batch.
  BenchRunner(const LoadedModel& model, const Arithmetic& arithmetic, Runtime runtime,
              const SessionSize& size, Fill depth = Fill::COMPUTED);

  /// The depth is filled once and kept for the tests that follow.
  BenchResult run(const BenchTest& test, const BenchRun& how);

  /// Seconds of each generated token of one run, the prompt untimed.
  std::vector<double> steps(const BenchTest& test);

 private:
  Ceilings measure(CeilingProbe* probe) const;
  void fill(size_t depth, size_t batch);
  void prefill(size_t tokens, size_t batch, bool logits, CostModel* cost);
  void step(size_t batch, CostModel* cost);
  void forward(const std::vector<SequenceStep>& steps, CostModel* cost);
  double once(const BenchTest& test, CostModel* cost);

  const ModelConfig& config_;
  Arithmetic arithmetic_;
  Runtime runtime_;
  Fill depth_;
  Session session_;
  std::vector<KvSequence> sequences_;
  size_t filled_ = 0;            // depth of the last fill
  std::vector<int32_t> tokens_;  // [context]
  Buffer logits_;                // [sequences][vocabulary]
};

}  // namespace rill
