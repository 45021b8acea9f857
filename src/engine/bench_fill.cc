// SPDX-License-Identifier: Apache-2.0
#include "engine/bench_fill.h"

#include <vector>

namespace rill {
namespace {

// SplitMix64 (Steele, Lea, Flood 2014).
uint64_t mix(uint64_t z) {
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ z >> 27) * 0x94d049bb133111ebull;
  return z ^ z >> 31;
}

}  // namespace

void random_values(uint64_t seed, size_t count, float* out) {
  constexpr uint64_t kStep = 0x9e3779b97f4a7c15ull;
  constexpr float kScale = 1.7320508f / 32768;  // uniform in [-sqrt(3), sqrt(3)]: variance 1
  uint64_t state = mix(seed * kStep + 1);
  for (size_t i = 0; i < count; i += 4) {
    const uint64_t bits = mix(state += kStep);
    for (size_t j = 0; j < 4 && i + j < count; ++j)
      out[i + j] = static_cast<float>(static_cast<int16_t>(bits >> 16 * j)) * kScale;
  }
}

void fill_random(KvSequence& sequence, size_t tokens, uint64_t seed, Runtime runtime) {
  KvCache& cache = sequence.cache();
  const KvShape& shape = cache.shape();
  const size_t first = sequence.length(), heads = shape.kv_heads;
  sequence.extend(tokens);
  const Kernels& kernels = runtime.kernels;
  runtime.team.run([&](Worker& worker) {
    std::vector<float> values(2 * shape.head_dim);
    const float *k = values.data(), *v = k + shape.head_dim;
    const Range mine = worker.share(shape.layers * heads);
    for (size_t i = mine.begin; i < mine.end; ++i)
      for (size_t position = first; position < first + tokens; ++position) {
        const uint32_t block = sequence.blocks()[position / kBlockTokens];
        if (block == KvSequence::kElsewhere) continue;
        const size_t slot = position % kBlockTokens;
        random_values(seed + (uint64_t{i} << 32) + position, values.size(), values.data());
        kernels.store_k(cache.format(), k, shape.head_dim, slot,
                        cache.k(block, i / heads, i % heads));
        kernels.store_v(cache.format(), v, shape.head_dim, slot,
                        cache.v(block, i / heads, i % heads));
      }
  });
}

}  // namespace rill
