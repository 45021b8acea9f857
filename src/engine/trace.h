// SPDX-License-Identifier: Apache-2.0
// A run whose every result is kept, so that two runs can be compared bit by bit.
#pragma once
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "engine/loaded_model.h"

namespace rill {

/// What a run may vary without changing a bit (and the arithmetic, which does).
struct TraceSetting {
  Arithmetic arithmetic;
  const Kernels* kernels;
  Team* team;
  size_t chunk;       // most tokens of the prompt in one step
  size_t before = 0;  // other sequences in every step, before and after ours
  size_t after = 0;
};

/// Rows are the tokens that were fed: the prompt, then each generated token but the last.
struct Trace {
  std::vector<int32_t> tokens;            // generated greedily, no id masked, past the end of text
  std::vector<double> margin;             // of each: how far its logit was above the next
  std::vector<float> logits;              // [rows][vocabulary]
  std::vector<float> hidden;              // [layers + 1][rows][hidden size]
  std::vector<float> middle;              // [layers][rows][hidden size] between a layer's halves
  std::vector<std::vector<uint64_t>> kv;  // [layers][blocks] hashes of what the KV cache holds
  size_t rows = 0;
  double seconds = 0;
};

/// Greedy generation of `length` tokens (at least one) after `prompt`.
Trace trace(const LoadedModel& model, const TraceSetting& setting, std::span<const int32_t> prompt,
            size_t length);

/// Nothing if the two are equal to the bit; else where they part first: the layer, the token, and
/// in the operations up to the keys and values, in attention, or in the feed-forward layer.
std::string first_difference(const ModelConfig& config, const Trace& a, const Trace& b);

}  // namespace rill
