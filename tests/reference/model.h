// SPDX-License-Identifier: Apache-2.0
// The whole model of docs/arithmetic.md, section 10, token by token, read straight from a Hugging
// Face folder. Slow and plain: the engine's every result on the golden folders must equal it.
#pragma once
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "arithmetic.h"

namespace rill::reference {

// Every tensor of the folder's safetensors files, widened to fp32. Throws std::runtime_error.
struct Tensor {
  std::vector<int64_t> shape;
  std::vector<float> values;
  std::string dtype;  // BF16, F16 or F32
};
std::map<std::string, Tensor> read_tensors(const std::string& folder);
// One file; F64 and I32 tensors too, as double (the golden references).
struct WideTensor {
  std::vector<int64_t> shape;
  std::vector<double> values;
  std::string dtype;
};
std::map<std::string, WideTensor> read_file(const std::string& path);

struct Config {
  int64_t hidden = 0, layers = 0, heads = 0, kv_heads = 0, head_dim = 0, intermediate = 0,
          vocabulary = 0;
  float eps = 1e-6f;
  bool tied = false;
  Rope rope;
};
Config read_config(const std::string& folder);

struct Layer {
  std::vector<float> input_norm, post_attention_norm, q_norm, k_norm;
  Matrix q, k, v, o, gate, up, down;
  std::vector<float> q_bias, k_bias, v_bias, o_bias;  // empty without attention_bias
};

// What one sequence has stored: per layer [tokens][kv_heads * head_dim], rounded to the KV type.
struct Sequence {
  int64_t tokens = 0;
  std::vector<std::vector<float>> keys, values;
};

struct Output {
  std::vector<std::vector<float>> logits;               // [tokens][vocabulary]
  std::vector<std::vector<std::vector<float>>> hidden;  // [layers + 1][tokens][hidden]
};

class Model {
 public:
  // A folder with config.json and safetensors. Throws std::runtime_error.
  Model(const std::string& folder, const Options& options);

  const Config& config() const { return config_; }
  const Options& options() const { return options_; }
  Sequence start() const;
  // Appends the ids to the sequence. Any split of a prompt over calls gives the same bits.
  Output forward(Sequence& sequence, const std::vector<int32_t>& ids) const;
  Output forward(const std::vector<int32_t>& ids) const;
  // The highest logit each time, ties to the lowest id; no id is masked and nothing stops it.
  std::vector<int32_t> greedy(const std::vector<int32_t>& prompt, int count) const;

 private:
  std::vector<float> attend(const Layer& layer, Sequence& sequence, size_t index,
                            const std::vector<float>& normed) const;
  std::vector<float> head_of(const std::vector<float>& row, int64_t head,
                             const std::vector<float>& norm, const RopeRow& rope) const;

  Config config_;
  Options options_;
  std::vector<float> final_norm_;
  std::vector<Layer> layers_;
  Matrix head_;
  std::optional<Matrix> embedding_;  // absent when tied: the head is read
};

}  // namespace rill::reference
