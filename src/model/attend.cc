// SPDX-License-Identifier: Apache-2.0
// Attention by itself, over a cache of its own.
#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "model/arithmetic.h"
#include "model/attention.h"

namespace rill {
namespace {

void check(const AttentionProblem& p) {
  if (p.heads == 0 || p.kv_heads == 0 || p.heads % p.kv_heads)
    fail("attention was asked for ", p.heads, " query heads and ", p.kv_heads,
         " key heads; the first must be a multiple of the second");
  if (p.head_dim == 0 || p.head_dim % 2 || p.head_dim > 65536)
    fail("attention was asked for a head_dim of ", p.head_dim,
         "; it must be even and at most 65536");
  if (p.kv_tokens == 0 || !p.q || !p.k || !p.v)
    fail("attention was given no keys; q, k and v must be arrays of at least one token");
}

}  // namespace

void attend(const AttentionProblem& p, const ArithmeticOptions& options, Runtime runtime,
            float* out) {
  check(p);
  ArithmeticOptions resolved = options;
  resolved.weights = WeightType::F32;
  const Arithmetic arithmetic = resolve_arithmetic(resolved, DType::F32, {p.head_dim, p.kv_tokens});
  const AttentionShape shape = {p.heads,
                                p.kv_heads,
                                p.head_dim,
                                arithmetic.attention_type,
                                arithmetic.block_size,
                                arithmetic.attention,
                                arithmetic.kv};
  KvCache cache({1, p.kv_heads, p.head_dim}, shape.kv, p.kv_tokens);
  KvSequence sequence(cache);
  sequence.extend(p.kv_tokens);
  constexpr size_t kChunk = 256;
  Attention attention(shape, runtime, std::min(kChunk, p.tokens), p.kv_tokens);
  const auto scale =
      static_cast<float>(0x1.71547652b82fep+0 / std::sqrt(static_cast<double>(p.head_dim)));

  for (size_t first = 0; first < p.tokens; first += kChunk) {
    const size_t tokens = std::min(kChunk, p.tokens - first);
    const AttentionQueries queries = {&sequence, 0, tokens, p.position + first, p.causal};
    attention.plan({&queries, 1}, RowShares{tokens});
    runtime.team.run([&](Worker& worker) {
      const FloatMode mode;
      if (first == 0) {
        const Range mine = worker.share(p.kv_tokens, 2);  // pairs of tokens share words of V
        for (size_t i = mine.begin * p.kv_heads; i < mine.end * p.kv_heads; ++i) {
          const size_t token = i / p.kv_heads, head = i % p.kv_heads, slot = token % kBlockTokens;
          const uint32_t block = sequence.blocks()[token / kBlockTokens];
          runtime.kernels.store_k(shape.kv, p.k + i * p.head_dim, p.head_dim, slot,
                                  cache.k(block, 0, head));
          runtime.kernels.store_v(shape.kv, p.v + i * p.head_dim, p.head_dim, slot,
                                  cache.v(block, 0, head));
        }
      }
      // The output's rows serve as scratch for the scaled queries until they are overwritten.
      const size_t width = p.heads * p.head_dim;
      const Range mine = worker.share(tokens * p.heads);
      for (size_t i = mine.begin; i < mine.end; ++i) {
        const float* q = p.q + first * width + i * p.head_dim;
        float* scaled = out + first * width + i * p.head_dim;
        for (size_t d = 0; d < p.head_dim; ++d) scaled[d] = q[d] * scale;
        attention.set_query(i % p.heads, i / p.heads, scaled);
      }
      worker.barrier();
      const Attention::Output to = {out + first * width, width};
      attention.attend(worker, 0, to);
      attention.join(worker, to);
    });
  }
}

}  // namespace rill
