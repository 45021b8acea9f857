// SPDX-License-Identifier: Apache-2.0
// Attention by itself, on the caller's own queries, keys and values.
#pragma once
#include <cstddef>
#include <string>

#include "rill/options.h"

namespace rill {

struct AttentionProblem {
  size_t heads, kv_heads, head_dim;  // query head h reads KV head h / (heads / kv_heads)
  size_t tokens, kv_tokens;
  const float* q;  // [tokens][heads][head_dim]: rotated, not scaled
  const float* k;  // [kv_tokens][kv_heads][head_dim]: rotated
  const float* v;  // [kv_tokens][kv_heads][head_dim]
  bool causal = true;
  size_t position = 0;  // of the first query: it sees keys 0 .. position (if causal)
};

/// out [tokens][heads][head_dim] = softmax(q k^T / sqrt(head_dim)) v, through the same kernels and
/// the same order of operations as in a model: the same bits for every `threads` (0: all cores) and
/// `isa` ("": the best). Of `options` the attention type, the block size, compute and KV type count
/// (AUTO compute: F32). Throws rill::Error for sizes that make no sense.
void attention(const AttentionProblem& problem, const ArithmeticOptions& options, float* out,
               int threads = 0, const std::string& isa = "");

}  // namespace rill
