// SPDX-License-Identifier: Apache-2.0
// Sources: Transformers' modeling_qwen3.py for the model, arXiv 2309.00071 for YaRN.
#include "engine/oracle.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>

#include "base/error.h"
#include "base/half.h"

namespace rill {
namespace {

/// Values [width][tokens]: the tokens side by side, so that one weight meets all of them.
struct Columns {
  Columns(size_t width_, size_t tokens_) : width(width_), tokens(tokens_), v(width_ * tokens_) {}
  double* at(size_t i) { return v.data() + i * tokens; }
  const double* at(size_t i) const { return v.data() + i * tokens; }

  size_t width, tokens;
  std::vector<double> v;
};

/// `count` elements of a tensor from `first` on, widened exactly.
void widen(const TensorInfo& tensor, size_t first, size_t count, double* out) {
  const std::byte* bytes = tensor.bytes.data() + first * dtype_bits(tensor.dtype) / 8;
  for (size_t i = 0; i < count; ++i) {
    if (tensor.dtype == DType::F32) {
      float value;
      std::memcpy(&value, bytes + 4 * i, 4);
      out[i] = value;
    } else {
      uint16_t bits;
      std::memcpy(&bits, bytes + 2 * i, 2);
      out[i] = tensor.dtype == DType::BF16 ? bf16_to_float(bits) : f16_to_float(bits);
    }
  }
}

class Oracle {
 public:
  Oracle(const ModelConfig& config, const Checkpoint& checkpoint, Team& team, size_t tokens)
      : c_(config), checkpoint_(checkpoint), team_(team), tokens_(tokens) {
    make_rope();
  }

  Columns embed(std::span<const int32_t> ids) {
    const TensorInfo& table =
        checkpoint_.get("embed_tokens.weight", {c_.vocab_size, c_.hidden_size});
    Columns x(c_.hidden_size, tokens_);
    std::vector<double> row(c_.hidden_size);
    for (size_t t = 0; t < tokens_; ++t) {
      widen(table, static_cast<size_t>(ids[t]) * c_.hidden_size, c_.hidden_size, row.data());
      for (size_t i = 0; i < c_.hidden_size; ++i) x.at(i)[t] = row[i];
    }
    return x;
  }

  void layer(size_t index, Columns& x) {
    const std::string name = "layers." + std::to_string(index) + ".";
    const size_t heads = c_.num_heads * c_.head_dim, kv = c_.num_kv_heads * c_.head_dim;
    const Columns a = norm(x, name + "input_layernorm.weight");
    Columns q = linear(a, name + "self_attn.q_proj", heads, c_.attention_bias);
    Columns k = linear(a, name + "self_attn.k_proj", kv, c_.attention_bias);
    const Columns v = linear(a, name + "self_attn.v_proj", kv, c_.attention_bias);
    norm_and_rotate_heads(q, name + "self_attn.q_norm.weight");
    norm_and_rotate_heads(k, name + "self_attn.k_norm.weight");
    add(x,
        linear(attention(q, k, v), name + "self_attn.o_proj", c_.hidden_size, c_.attention_bias));
    const Columns b = norm(x, name + "post_attention_layernorm.weight");
    Columns gate = linear(b, name + "mlp.gate_proj", c_.intermediate_size, false);
    const Columns up = linear(b, name + "mlp.up_proj", c_.intermediate_size, false);
    for (size_t i = 0; i < gate.v.size(); ++i)
      gate.v[i] = gate.v[i] / (1 + std::exp(-gate.v[i])) * up.v[i];
    add(x, linear(gate, name + "mlp.down_proj", c_.hidden_size, false));
  }

  std::vector<double> head(const Columns& x) {
    const char* name = c_.tie_word_embeddings ? "embed_tokens" : "lm_head";
    const Columns y = linear(norm(x, "norm.weight"), name, c_.vocab_size, false);
    std::vector<double> logits(tokens_ * c_.vocab_size);
    for (size_t i = 0; i < c_.vocab_size; ++i)
      for (size_t t = 0; t < tokens_; ++t) logits[t * c_.vocab_size + i] = y.at(i)[t];
    return logits;
  }

 private:
  std::vector<double> vector(const std::string& name, size_t size) {
    std::vector<double> values(size);
    widen(checkpoint_.get(name, {size}), 0, size, values.data());
    return values;
  }

  Columns linear(const Columns& x, const std::string& name, size_t outputs, bool bias) {
    const TensorInfo& weight = checkpoint_.get(name + ".weight", {outputs, x.width});
    const std::vector<double> b = bias ? vector(name + ".bias", outputs) : std::vector<double>();
    Columns y(outputs, tokens_);
    team_.run([&](Worker& worker) {
      std::vector<double> row(x.width);
      const Range range = worker.share(outputs);
      for (size_t o = range.begin; o < range.end; ++o) {
        widen(weight, o * x.width, x.width, row.data());
        double* out = y.at(o);
        if (bias) std::fill_n(out, tokens_, b[o]);
        accumulate(row, x, out);
      }
    });
    return y;
  }

  /// out[t] += sum over i of row[i] * x[i][t]
  void accumulate(const std::vector<double>& row, const Columns& x, double* __restrict out) const {
    size_t i = 0;
    for (; i + 4 <= x.width; i += 4) {
      const double *a = x.at(i), *b = x.at(i + 1), *c = x.at(i + 2), *d = x.at(i + 3);
      for (size_t t = 0; t < tokens_; ++t)
        out[t] += row[i] * a[t] + row[i + 1] * b[t] + row[i + 2] * c[t] + row[i + 3] * d[t];
    }
    for (; i < x.width; ++i)
      for (size_t t = 0; t < tokens_; ++t) out[t] += row[i] * x.at(i)[t];
  }

  /// RMSNorm over the rows [first, first + size) of every token, in place.
  void norm_rows(Columns& x, size_t first, const std::vector<double>& weight) const {
    const size_t size = weight.size();
    for (size_t t = 0; t < tokens_; ++t) {
      double sum = 0;
      for (size_t i = 0; i < size; ++i) sum += x.at(first + i)[t] * x.at(first + i)[t];
      const double r = 1 / std::sqrt(sum / static_cast<double>(size) + c_.rms_norm_eps);
      for (size_t i = 0; i < size; ++i) x.at(first + i)[t] *= r * weight[i];
    }
  }

  Columns norm(const Columns& x, const std::string& name) {
    Columns y = x;
    norm_rows(y, 0, vector(name, c_.hidden_size));
    return y;
  }

  void norm_and_rotate_heads(Columns& x, const std::string& name) {
    const std::vector<double> weight = vector(name, c_.head_dim);
    const size_t half = c_.head_dim / 2;
    for (size_t first = 0; first < x.width; first += c_.head_dim) {
      norm_rows(x, first, weight);
      for (size_t i = 0; i < half; ++i) {
        for (size_t t = 0; t < tokens_; ++t) {
          const double angle = static_cast<double>(t) * inverse_[i];
          const double cosine = std::cos(angle) * factor_, sine = std::sin(angle) * factor_;
          const double a = x.at(first + i)[t], b = x.at(first + half + i)[t];
          x.at(first + i)[t] = a * cosine - b * sine;
          x.at(first + half + i)[t] = b * cosine + a * sine;
        }
      }
    }
  }

  Columns attention(const Columns& q, const Columns& k, const Columns& v) {
    const size_t d = c_.head_dim, group = c_.num_heads / c_.num_kv_heads;
    const double scale = 1 / std::sqrt(static_cast<double>(d));
    Columns out(q.width, tokens_);
    team_.run([&](Worker& worker) {
      std::vector<double> p(tokens_);
      const Range range = worker.share(c_.num_heads);
      for (size_t h = range.begin; h < range.end; ++h) {
        const size_t mine = h * d, theirs = h / group * d;
        for (size_t t = 0; t < tokens_; ++t) {
          std::fill(p.begin(), p.end(), 0.0);
          for (size_t i = 0; i < d; ++i)
            for (size_t s = 0; s <= t; ++s) p[s] += q.at(mine + i)[t] * k.at(theirs + i)[s];
          const double most = *std::max_element(p.begin(), p.begin() + static_cast<long>(t) + 1);
          double sum = 0;
          for (size_t s = 0; s <= t; ++s) sum += p[s] = std::exp((p[s] - most) * scale);
          for (size_t i = 0; i < d; ++i) {
            double o = 0;
            for (size_t s = 0; s <= t; ++s) o += p[s] * v.at(theirs + i)[s];
            out.at(mine + i)[t] = o / sum;
          }
        }
      }
    });
    return out;
  }

  static void add(Columns& x, const Columns& y) {
    for (size_t i = 0; i < x.v.size(); ++i) x.v[i] += y.v[i];
  }

  void make_rope() {
    const size_t half = c_.head_dim / 2;
    const auto d = static_cast<double>(c_.head_dim);
    inverse_.resize(half);
    for (size_t i = 0; i < half; ++i)
      inverse_[i] = std::pow(c_.rope_theta, -2.0 * static_cast<double>(i) / d);
    if (!c_.yarn) return;
    const YarnScaling& y = *c_.yarn;
    auto gain = [&](double k) { return y.factor <= 1 ? 1 : 0.1 * k * std::log(y.factor) + 1; };
    factor_ = y.attention_factor ? *y.attention_factor
              : y.mscale         ? gain(*y.mscale) / gain(*y.mscale_all_dim)
                                 : gain(1);
    auto turn = [&](double rotations) {
      return d * std::log(y.original_max_position_embeddings / (rotations * 2 * M_PI)) /
             (2 * std::log(c_.rope_theta));
    };
    double low = turn(y.beta_fast), high = turn(y.beta_slow);
    if (y.truncate) {
      low = std::floor(low);
      high = std::ceil(high);
    }
    low = std::max(low, 0.0);
    high = std::min(high, d - 1);
    if (low == high) high += 0.001;
    for (size_t i = 0; i < half; ++i) {
      const double ramp = std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
      inverse_[i] = inverse_[i] / y.factor * ramp + inverse_[i] * (1 - ramp);
    }
  }

  const ModelConfig& c_;
  const Checkpoint& checkpoint_;
  Team& team_;
  size_t tokens_;
  std::vector<double> inverse_;
  double factor_ = 1;
};

}  // namespace

std::vector<double> oracle_logits(const ModelConfig& config, const Checkpoint& checkpoint,
                                  Team& team, std::span<const int32_t> ids,
                                  const std::function<void(size_t, size_t)>& progress) {
  Oracle oracle(config, checkpoint, team, ids.size());
  Columns x = oracle.embed(ids);
  for (size_t layer = 0; layer < config.num_layers; ++layer) {
    if (progress) progress(layer, config.num_layers + 1);
    oracle.layer(layer, x);
  }
  std::vector<double> logits = oracle.head(x);
  if (progress) progress(config.num_layers + 1, config.num_layers + 1);
  return logits;
}

}  // namespace rill
