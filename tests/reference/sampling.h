// SPDX-License-Identifier: Apache-2.0
// The twin of docs/arithmetic.md, section 12.
#pragma once
#include <array>
#include <cstdint>
#include <vector>

namespace rill::reference {

struct Sampling {
  double temperature = 1.0;  // 0: greedy
  int top_k = 0;             // 0: off
  double top_p = 1.0;        // 1 and more: off
  double min_p = 0.0;        // 0: off
  double repetition_penalty = 1.0;
  double presence_penalty = 0.0;
  uint64_t seed = 0;
};

std::array<uint32_t, 4> philox4x32(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key);
double uniform(uint64_t seed, uint64_t position);  // [0, 1)

// logits: of the ids that the tokenizer has. prompt and generated: the ids before this position,
// which is prompt.size() + generated.size().
int32_t sample(const std::vector<float>& logits, const Sampling& options,
               const std::vector<int32_t>& prompt, const std::vector<int32_t>& generated);

}  // namespace rill::reference
