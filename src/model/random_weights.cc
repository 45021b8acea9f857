// SPDX-License-Identifier: Apache-2.0
// Weights without a checkpoint.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "model/weights.h"

namespace rill {
namespace {

// SplitMix64 (Steele, Lea, Flood 2014).
uint64_t next_random(uint64_t& state) {
  uint64_t z = state += 0x9e3779b97f4a7c15ull;
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ z >> 27) * 0x94d049bb133111ebull;
  return z ^ z >> 31;
}

// Uniform values whose products with normed activations have variance 1.
void fill_random(uint64_t state, size_t columns, float* to) {
  const float step = std::sqrt(3.0f / static_cast<float>(columns)) / 32768.0f;
  const size_t count = kPanel * columns;
  for (size_t i = 0; i < count; i += 4) {
    const uint64_t bits = next_random(state);
    for (size_t j = 0; j < 4 && i + j < count; ++j)
      to[i + j] = static_cast<float>(static_cast<int16_t>(bits >> 16 * j)) * step;
  }
}

void random_matrix(const PackedMatrix& matrix, Runtime runtime, uint64_t seed, bool interleaved) {
  runtime.team.run([&](Worker& worker) {
    const FloatMode mode;
    std::vector<float> rows(kPanel * matrix.depth);
    const size_t bytes = panel_bytes(matrix.format, matrix.depth);
    const Range mine = worker.share((matrix.outputs + kPanel - 1) / kPanel, interleaved ? 2 : 1);
    for (size_t panel = mine.begin; panel < mine.end; ++panel) {
      fill_random(seed + (panel << 32), matrix.depth, rows.data());
      PackSource source{};
      source.dtype = Format::F32;
      source.columns = matrix.depth;
      for (size_t lane = 0; lane < kPanel && panel * kPanel + lane < matrix.outputs; ++lane)
        source.row[lane] = reinterpret_cast<const std::byte*>(rows.data() + lane * matrix.depth);
      runtime.kernels.pack(source, matrix.format, matrix.depth,
                           const_cast<std::byte*>(matrix.data) + panel * bytes);
    }
  });
}

void fill(const float* to, size_t count, float value) {
  if (to) std::fill_n(const_cast<float*>(to), count, value);  // the memory that is being filled
}

}  // namespace

Weights Weights::random(const ModelConfig& config, const Arithmetic& arithmetic, Runtime runtime,
                        uint64_t seed) {
  const Shard shard(config, runtime.ranks);
  Weights weights(shard);
  weights.memory_ = Buffer(packed_bytes(config, arithmetic, shard), "the weights");
  place_shared(runtime.team.placement(), weights.memory_.data(), weights.memory_.size());
  weights.lay_out(config, arithmetic, weights.memory_.data());
  const auto matrix = [&](const PackedMatrix& m, bool interleaved = false) {
    random_matrix(m, runtime, next_random(seed), interleaved);
  };
  matrix(weights.embedding_);
  for (const LayerWeights& layer : weights.layers_) {
    matrix(layer.qkv);
    for (const CutMatrix& cut : layer.o) matrix(cut.matrix);
    matrix(layer.gate_up, true);
    for (const CutMatrix& cut : layer.down) matrix(cut.matrix);
    fill(layer.qkv_bias, layer.qkv.outputs, 0);
    fill(layer.o_bias, config.hidden_size, 0);
    fill(layer.input_norm, config.hidden_size, 1);
    fill(layer.post_attention_norm, config.hidden_size, 1);
    fill(layer.q_norm, config.head_dim, 1);
    fill(layer.k_norm, config.head_dim, 1);
  }
  fill(weights.final_norm_, config.hidden_size, 1);
  if (!config.tie_word_embeddings) matrix(weights.head_);
  return weights;
}

}  // namespace rill
