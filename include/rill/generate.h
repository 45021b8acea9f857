// SPDX-License-Identifier: Apache-2.0
// What generation takes and gives. None of it but the sampling changes a bit of the logits.
#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace rill {

/// How the next token is chosen (docs/arithmetic.md, section 12): penalties, temperature, top-k,
/// top-p, min-p, in this order. The same seed gives the same text on every machine.
struct SamplingOptions {
  double temperature = 0;         ///< 0: greedy; else 1e-6 to 100
  size_t top_k = 0;               ///< 0: off
  double top_p = 1;               ///< (0, 1]; 1: off
  double min_p = 0;               ///< [0, 1]; 0: off
  double repetition_penalty = 1;  ///< 0.001 to 1000; 1: off; over prompt and text
  double presence_penalty = 0;    ///< -100 to 100; 0: off; over the text generated so far
  uint64_t seed = 0;              ///< random numbers depend on it and on the absolute position
  bool greedy = false;            ///< the largest logit, whatever the temperature
};

struct GenerateOptions {
  SamplingOptions sampling;
  size_t max_tokens = 0;            ///< 0: until the context is full
  std::vector<std::string> stop;    ///< the text ends before the first of these; none may be empty
  bool ignore_end_of_text = false;  ///< go on past the model's end-of-text tokens
};

enum class StopReason { END_OF_TEXT, STOP_STRING, MAX_TOKENS, CONTEXT_FULL, CANCELLED };
const char* to_string(StopReason reason);

/// Receives the text as it comes, in whole UTF-8 characters; returns false to stop. Also called
/// with an empty text between the chunks of a long prompt and after tokens that give none.
using TextCallback = std::function<bool(std::string_view text)>;

struct GenerateResult {
  std::vector<int32_t> tokens;  ///< generated, without the end-of-text token
  std::string text;             ///< of `tokens`, cut at a stop string
  StopReason reason = StopReason::MAX_TOKENS;
  size_t prompt_tokens = 0;  ///< of which `reused` stood in the KV cache already
  size_t reused = 0;
  size_t decode_steps = 0;  ///< forward passes of one token
  double prefill_seconds = 0, decode_seconds = 0;
};

}  // namespace rill
