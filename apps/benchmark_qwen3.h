// SPDX-License-Identifier: Apache-2.0
// The parts of the program benchmark_qwen3: what was asked for, the runs, the tables.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "common_options.h"
#include "engine/loaded_model.h"

namespace rill::apps {

struct QwenBenchmark {
  CommonOptions common;  // model or shape, weights, compute, kv, threads
  std::string method;    // "": the tables of all methods
  bool prefill = true, decode = true;
  std::vector<AttentionType> attentions;  // columns of the tables, in order
  std::vector<size_t> prompt_lengths;
  size_t generated = 2;
  size_t iterations = 2, warm_ups = 1;
  size_t batch = 1;
  std::vector<int32_t> verify;  // empty: measure
};

/// A column of the tables: an instruction set under the first description's name.
struct Method {
  std::string label;  // "Baseline", "AVX2"
  const Kernels* kernels;
};

/// Loads the model for the largest run of `asked`.
std::unique_ptr<LoadedModel> load_for(const QwenBenchmark& asked);

/// Measures and prints the tables. Returns the exit status.
int print_tables(const QwenBenchmark& asked, LoadedModel& model,
                 const std::vector<Method>& methods);

/// Generates from asked.verify with both attentions and prints whether the tokens agree. Returns 0
/// if they do, else 1.
int verify_attentions(const QwenBenchmark& asked, LoadedModel& model, const Method& method);

}  // namespace rill::apps
