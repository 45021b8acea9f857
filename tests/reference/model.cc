// SPDX-License-Identifier: Apache-2.0
// The forward pass of docs/arithmetic.md, section 10.
#include "model.h"

#include <algorithm>
#include <stdexcept>

namespace rill::reference {
namespace {

// Takes tensors out by name and shape, so that a mistake in a name cannot go unseen.
class Tensors {
 public:
  explicit Tensors(const std::string& folder) : tensors_(read_tensors(folder)) {}

  bool has(const std::string& name) const { return tensors_.count(name) != 0; }
  const std::vector<float>& get(const std::string& name, std::vector<int64_t> shape) const {
    const auto it = tensors_.find(name);
    if (it == tensors_.end()) throw std::runtime_error("tensor " + name + " is missing");
    if (it->second.shape != shape)
      throw std::runtime_error("tensor " + name + " has a wrong shape");
    return it->second.values;
  }
  Matrix matrix(const Options& options, const std::string& name, int64_t outputs,
                int64_t inputs) const {
    return make_matrix(options, outputs, inputs, get(name + ".weight", {outputs, inputs}).data());
  }
  std::vector<float> bias(const std::string& name, int64_t outputs) const {
    return has(name + ".bias") ? get(name + ".bias", {outputs}) : std::vector<float>{};
  }

 private:
  std::map<std::string, Tensor> tensors_;
};

Layer load_layer(const Tensors& tensors, const Config& c, const Options& options,
                 const std::string& prefix) {
  const int64_t q_width = c.heads * c.head_dim, kv_width = c.kv_heads * c.head_dim;
  const std::string attention = prefix + "self_attn.", mlp = prefix + "mlp.";
  Layer layer;
  layer.input_norm = tensors.get(prefix + "input_layernorm.weight", {c.hidden});
  layer.post_attention_norm = tensors.get(prefix + "post_attention_layernorm.weight", {c.hidden});
  layer.q_norm = tensors.get(attention + "q_norm.weight", {c.head_dim});
  layer.k_norm = tensors.get(attention + "k_norm.weight", {c.head_dim});
  layer.q = tensors.matrix(options, attention + "q_proj", q_width, c.hidden);
  layer.k = tensors.matrix(options, attention + "k_proj", kv_width, c.hidden);
  layer.v = tensors.matrix(options, attention + "v_proj", kv_width, c.hidden);
  layer.o = tensors.matrix(options, attention + "o_proj", c.hidden, q_width);
  layer.q_bias = tensors.bias(attention + "q_proj", q_width);
  layer.k_bias = tensors.bias(attention + "k_proj", kv_width);
  layer.v_bias = tensors.bias(attention + "v_proj", kv_width);
  layer.o_bias = tensors.bias(attention + "o_proj", c.hidden);
  layer.gate = tensors.matrix(options, mlp + "gate_proj", c.intermediate, c.hidden);
  layer.up = tensors.matrix(options, mlp + "up_proj", c.intermediate, c.hidden);
  layer.down = tensors.matrix(options, mlp + "down_proj", c.hidden, c.intermediate);
  return layer;
}

std::vector<float> project(const Matrix& w, const std::vector<float>& x,
                           const std::vector<float>& bias) {
  std::vector<float> y = linear(w, x);
  add_bias_and_residual(y, bias, {});
  return y;
}

}  // namespace

Model::Model(const std::string& folder, const Options& options)
    : config_(read_config(folder)), options_(options) {
  const Tensors tensors(folder);
  const Config& c = config_;
  for (int64_t i = 0; i < c.layers; ++i) {
    layers_.push_back(load_layer(tensors, c, options, "layers." + std::to_string(i) + "."));
  }
  final_norm_ = tensors.get("norm.weight", {c.hidden});
  Options head_options = options;
  if (options.weights == WeightType::kInt4) head_options.weights = WeightType::kInt8;
  if (c.tied) {
    head_ = tensors.matrix(head_options, "embed_tokens", c.vocabulary, c.hidden);
  } else {
    head_ = tensors.matrix(head_options, "lm_head", c.vocabulary, c.hidden);
    embedding_ = tensors.matrix(head_options, "embed_tokens", c.vocabulary, c.hidden);
  }
}

Sequence Model::start() const {
  Sequence sequence;
  sequence.keys.resize(layers_.size());
  sequence.values.resize(layers_.size());
  return sequence;
}

// Norm and rotation of one head out of a row of heads.
std::vector<float> Model::head_of(const std::vector<float>& row, int64_t head,
                                  const std::vector<float>& norm, const RopeRow& rope) const {
  const size_t d = static_cast<size_t>(config_.head_dim);
  std::vector<float> out = rmsnorm(std::span(row).subspan(head * d, d), norm, config_.eps);
  apply_rope(rope, out);
  return out;
}

// From the normed residual to what o_proj reads, storing this token's K and V on the way.
std::vector<float> Model::attend(const Layer& layer, Sequence& sequence, size_t index,
                                 const std::vector<float>& normed) const {
  const FlushSubnormals flush;
  const int64_t d = config_.head_dim, group = config_.heads / config_.kv_heads;
  const std::vector<float> q = project(layer.q, normed, layer.q_bias);
  const std::vector<float> k = project(layer.k, normed, layer.k_bias);
  const std::vector<float> v = project(layer.v, normed, layer.v_bias);
  const RopeRow rope = rope_row(config_.rope, sequence.tokens);
  std::vector<float>& keys = sequence.keys[index];
  std::vector<float>& values = sequence.values[index];
  for (int64_t h = 0; h < config_.kv_heads; ++h) {
    for (const float x : head_of(k, h, layer.k_norm, rope)) {
      keys.push_back(round_kv(options_.kv, x));
    }
  }
  for (const float x : v) values.push_back(round_kv(options_.kv, x));

  std::vector<float> out;
  const float scale = query_scale(static_cast<int>(d));
  for (int64_t h = 0; h < config_.heads; ++h) {
    std::vector<float> query = head_of(q, h, layer.q_norm, rope);
    for (float& x : query) x = round_query(options_, x * scale);
    const int64_t start = h / group * d;
    const KeyValues kv{keys.data() + start, values.data() + start, config_.kv_heads * d,
                       static_cast<int>(d)};
    const std::vector<float> o = attention(options_, query, kv, sequence.tokens);
    out.insert(out.end(), o.begin(), o.end());
  }
  return out;
}

Output Model::forward(Sequence& sequence, const std::vector<int32_t>& ids) const {
  Output output;
  output.hidden.resize(layers_.size() + 1);
  for (const int32_t id : ids) {
    if (id < 0 || id >= config_.vocabulary) throw std::runtime_error("an id is out of range");
    std::vector<float> x = (embedding_ ? *embedding_ : head_).row(id);
    output.hidden[0].push_back(x);
    for (size_t i = 0; i < layers_.size(); ++i) {
      const Layer& layer = layers_[i];
      const std::vector<float> mixed =
          attend(layer, sequence, i, rmsnorm(x, layer.input_norm, config_.eps));
      std::vector<float> y = linear(layer.o, mixed, attention_unit(config_.rope.head_dim));
      add_bias_and_residual(y, layer.o_bias, x);
      const std::vector<float> b = rmsnorm(y, layer.post_attention_norm, config_.eps);
      const std::vector<float> inner = silu_mul(linear(layer.gate, b), linear(layer.up, b));
      x = linear(layer.down, inner, kDownUnit);
      add_bias_and_residual(x, {}, y);
      output.hidden[i + 1].push_back(x);
    }
    output.logits.push_back(linear(head_, rmsnorm(x, final_norm_, config_.eps)));
    ++sequence.tokens;
  }
  return output;
}

Output Model::forward(const std::vector<int32_t>& ids) const {
  Sequence sequence = start();
  return forward(sequence, ids);
}

std::vector<int32_t> Model::greedy(const std::vector<int32_t>& prompt, int count) const {
  Sequence sequence = start();
  std::vector<int32_t> next = prompt, out;
  for (int i = 0; i < count; ++i) {
    const std::vector<float> row = forward(sequence, next).logits.back();
    next = {static_cast<int32_t>(std::max_element(row.begin(), row.end()) - row.begin())};
    out.push_back(next[0]);
  }
  return out;
}

}  // namespace rill::reference
