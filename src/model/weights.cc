// SPDX-License-Identifier: Apache-2.0
#include "model/weights.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <numeric>
#include <string>

#include "base/error.h"
#include "base/half.h"
#include "model/arena.h"

namespace rill {
namespace {

size_t panels(const PackedMatrix& matrix) {
  return (matrix.outputs + kPanel - 1) / kPanel;
}

// The panels of a tensor that is cut along k into eight leaves start on whole units of columns
// (docs/arithmetic.md, section 8); unit 0: one sum.
PackedMatrix lay_matrix(Arena& arena, Format format, size_t outputs, size_t columns,
                        size_t unit = 0) {
  PackedMatrix matrix{};
  matrix.format = format;
  matrix.outputs = outputs;
  matrix.depth = round_up(columns, kDepthUnit);
  matrix.data = arena.take<std::byte>(panels(matrix) * panel_bytes(format, matrix.depth));
  matrix.leaves = unit ? kLeaves : 1;
  const size_t units = unit ? (columns + unit - 1) / unit : 1;
  for (size_t i = 0; i <= kLeaves; ++i) {
    const size_t end = unit ? std::min(i * units / kLeaves * unit, matrix.depth) : matrix.depth;
    matrix.leaf[i] = static_cast<uint32_t>(i == 0 ? 0 : end);
  }
  if (unit) matrix.leaf[kLeaves] = static_cast<uint32_t>(matrix.depth);
  return matrix;
}

// The fewest whole heads whose width is a multiple of 32.
size_t attention_unit(size_t head_dim) {
  return std::lcm(head_dim, kDepthUnit);
}

Format format_of(DType dtype) {
  return dtype == DType::F32 ? Format::F32 : dtype == DType::F16 ? Format::F16 : Format::BF16;
}

float load(DType dtype, const std::byte* from) {
  if (dtype == DType::F32) {
    float value;
    std::memcpy(&value, from, sizeof value);
    return value;
  }
  uint16_t bits;
  std::memcpy(&bits, from, sizeof bits);
  return dtype == DType::F16 ? f16_to_float(bits) : bf16_to_float(bits);
}

size_t element_bytes(DType dtype) {
  return dtype == DType::F32 ? 4 : 2;
}

// One packed matrix and the tensors that its rows come from.
struct MatrixJob {
  PackedMatrix matrix;
  size_t columns;
  std::vector<const TensorInfo*> parts;  // rows one after the other, or panel by panel in turn
  bool interleaved = false;

  // The tensor and row that output `row` of `panel` comes from; null past the last.
  std::pair<const TensorInfo*, size_t> source(size_t panel, size_t lane) const {
    if (interleaved) {
      const size_t row = panel / parts.size() * kPanel + lane;
      const TensorInfo* part = parts[panel % parts.size()];
      return {row < part->shape[0] ? part : nullptr, row};
    }
    size_t row = panel * kPanel + lane;
    for (const TensorInfo* part : parts) {
      if (row < part->shape[0]) return {part, row};
      row -= part->shape[0];
    }
    return {nullptr, 0};
  }
};

class Packer {
 public:
  Packer(const ModelConfig& config, const Arithmetic& arithmetic, const Checkpoint& checkpoint,
         Runtime runtime, const Progress& progress)
      : config_(config),
        arithmetic_(arithmetic),
        checkpoint_(checkpoint),
        runtime_(runtime),
        progress_(progress) {
    for (const TensorSpec& spec : model_tensors(config, DType::BF16))
      total_ += checkpoint.get(spec.name, spec.shape).bytes.size();
  }

  const TensorInfo* tensor(const std::string& name, size_t rows, size_t columns) const {
    return &checkpoint_.get(name, {rows, columns});
  }

  void matrix(const MatrixJob& job) {
    runtime_.team.run([&](Worker& worker) {
      const FloatMode mode;
      std::vector<float> widened(kPanel * job.columns);
      const Range mine = worker.share(panels(job.matrix), job.interleaved ? 2 : 1);
      for (size_t panel = mine.begin; panel < mine.end; ++panel)
        pack_panel(job, panel, widened.data());
    });
    for (const TensorInfo* part : job.parts) finish(*part);
  }

  void vector(const std::string& name, size_t count, const float* to) {
    const TensorInfo& info = checkpoint_.get(name, {count});
    float* out = const_cast<float*>(to);  // points into the memory that is being filled
    for (size_t i = 0; i < count; ++i)
      out[i] = load(info.dtype, info.bytes.data() + i * element_bytes(info.dtype));
    finish(info);
  }

 private:
  void pack_panel(const MatrixJob& job, size_t panel, float* widened) const {
    PackSource source{};
    source.columns = job.columns;
    source.through_f16 =
        arithmetic_.declared == WeightType::F16 && job.matrix.format == Format::BF16;
    std::array<const TensorInfo*, kPanel> from;
    bool mixed = false;
    for (size_t lane = 0; lane < kPanel; ++lane) {
      const auto [part, row] = job.source(panel, lane);
      from[lane] = part;
      if (!part) continue;
      source.row[lane] = part->bytes.data() + row * job.columns * element_bytes(part->dtype);
      mixed = mixed || part->dtype != from[0]->dtype;
    }
    source.dtype = from[0] ? format_of(from[0]->dtype) : Format::F32;
    if (mixed) widen(job.columns, from, source, widened);
    std::byte* out = const_cast<std::byte*>(job.matrix.data) +  // the memory that is being filled
                     panel * panel_bytes(job.matrix.format, job.matrix.depth);
    if (!runtime_.kernels.pack(source, job.matrix.format, job.matrix.depth, out))
      refuse(job, panel);
  }

  // A panel whose rows come from tensors of different types.
  static void widen(size_t columns, const std::array<const TensorInfo*, kPanel>& from,
                    PackSource& source, float* widened) {
    source.dtype = Format::F32;
    for (size_t lane = 0; lane < kPanel; ++lane) {
      if (!from[lane]) continue;
      float* row = widened + lane * columns;
      for (size_t i = 0; i < columns; ++i)
        row[i] = load(from[lane]->dtype, source.row[lane] + i * element_bytes(from[lane]->dtype));
      source.row[lane] = reinterpret_cast<const std::byte*>(row);
    }
  }

  [[noreturn]] void refuse(const MatrixJob& job, size_t panel) const {
    const TensorInfo* part = job.source(panel, 0).first;
    // Of a panel that spans tensors, name the one that holds the value.
    for (size_t lane = 0; lane < kPanel; ++lane) {
      const auto [candidate, row] = job.source(panel, lane);
      if (!candidate) continue;
      const size_t step = element_bytes(candidate->dtype);
      for (size_t i = 0; i < job.columns; ++i) {
        const float value =
            load(candidate->dtype, candidate->bytes.data() + (row * job.columns + i) * step);
        if (!(std::fabs(value) < largest())) part = candidate;
      }
    }
    fail("tensor ", part->name, " of ", part->file,
         " holds a value that is not finite or too large for --weights ",
         to_string(arithmetic_.declared), "; take --weights f32 or bf16 if the value is meant, ",
         "or download the checkpoint again");
  }

  float largest() const {
    return arithmetic_.declared == WeightType::F16 ? 65520.0f
           : arithmetic_.linear == Operand::Q8     ? 400000.0f
                                                   : INFINITY;
  }

  void finish(const TensorInfo& info) {
    checkpoint_.release(info);
    done_ += info.bytes.size();
    if (progress_) progress_(done_, total_);
  }

  const ModelConfig& config_;
  const Arithmetic& arithmetic_;
  const Checkpoint& checkpoint_;
  const Runtime runtime_;
  const Progress& progress_;
  size_t done_ = 0, total_ = 0;
};

void pack_layer(Packer& packer, const ModelConfig& c, const std::string& prefix,
                const LayerWeights& layer) {
  const size_t q = c.num_heads * c.head_dim, kv = c.num_kv_heads * c.head_dim;
  const std::string attention = prefix + "self_attn.", mlp = prefix + "mlp.";
  packer.vector(prefix + "input_layernorm.weight", c.hidden_size, layer.input_norm);
  packer.matrix({layer.qkv,
                 c.hidden_size,
                 {packer.tensor(attention + "q_proj.weight", q, c.hidden_size),
                  packer.tensor(attention + "k_proj.weight", kv, c.hidden_size),
                  packer.tensor(attention + "v_proj.weight", kv, c.hidden_size)}});
  if (c.attention_bias) {
    packer.vector(attention + "q_proj.bias", q, layer.qkv_bias);
    packer.vector(attention + "k_proj.bias", kv, layer.qkv_bias + q);
    packer.vector(attention + "v_proj.bias", kv, layer.qkv_bias + q + kv);
    packer.vector(attention + "o_proj.bias", c.hidden_size, layer.o_bias);
  }
  packer.vector(attention + "q_norm.weight", c.head_dim, layer.q_norm);
  packer.vector(attention + "k_norm.weight", c.head_dim, layer.k_norm);
  packer.matrix({layer.o, q, {packer.tensor(attention + "o_proj.weight", c.hidden_size, q)}});
  packer.vector(prefix + "post_attention_layernorm.weight", c.hidden_size,
                layer.post_attention_norm);
  packer.matrix({layer.gate_up,
                 c.hidden_size,
                 {packer.tensor(mlp + "gate_proj.weight", c.intermediate_size, c.hidden_size),
                  packer.tensor(mlp + "up_proj.weight", c.intermediate_size, c.hidden_size)},
                 true});
  packer.matrix({layer.down,
                 c.intermediate_size,
                 {packer.tensor(mlp + "down_proj.weight", c.hidden_size, c.intermediate_size)}});
}

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
    const Range mine = worker.share(panels(matrix), interleaved ? 2 : 1);
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

size_t matrix_bytes(const PackedMatrix& matrix) {
  return panels(matrix) * panel_bytes(matrix.format, matrix.depth);
}

size_t Weights::lay_out(const ModelConfig& c, const Arithmetic& arithmetic, std::byte* base) {
  Arena arena(base);
  const size_t q = c.num_heads * c.head_dim, kv = c.num_kv_heads * c.head_dim;
  const Format format = arithmetic.weights;
  embedding_ = lay_matrix(arena, arithmetic.table, c.vocab_size, c.hidden_size);
  layers_.resize(c.num_layers);
  for (LayerWeights& layer : layers_) {
    layer.input_norm = arena.take<float>(c.hidden_size);
    layer.qkv = lay_matrix(arena, format, q + 2 * kv, c.hidden_size);
    layer.qkv_bias = c.attention_bias ? arena.take<float>(q + 2 * kv) : nullptr;
    layer.o_bias = c.attention_bias ? arena.take<float>(c.hidden_size) : nullptr;
    layer.q_norm = arena.take<float>(c.head_dim);
    layer.k_norm = arena.take<float>(c.head_dim);
    layer.o = lay_matrix(arena, format, c.hidden_size, q, attention_unit(c.head_dim));
    layer.post_attention_norm = arena.take<float>(c.hidden_size);
    layer.gate_up =
        lay_matrix(arena, format, 2 * round_up(c.intermediate_size, kPanel), c.hidden_size);
    layer.down = lay_matrix(arena, format, c.hidden_size, c.intermediate_size, kDepthUnit);
  }
  final_norm_ = arena.take<float>(c.hidden_size);
  head_ = c.tie_word_embeddings ? embedding_
                                : lay_matrix(arena, arithmetic.table, c.vocab_size, c.hidden_size);
  return arena.used();
}

size_t Weights::packed_bytes(const ModelConfig& config, const Arithmetic& arithmetic) {
  return Weights().lay_out(config, arithmetic, nullptr);
}

Weights Weights::pack(const ModelConfig& config, const Arithmetic& arithmetic,
                      const Checkpoint& checkpoint, Runtime runtime, const Progress& progress) {
  Weights weights;
  Packer packer(config, arithmetic, checkpoint, runtime, progress);  // refuses before allocating
  weights.memory_ = Buffer(packed_bytes(config, arithmetic), "the weights");
  weights.lay_out(config, arithmetic, weights.memory_.data());
  const size_t vocabulary = config.vocab_size, hidden = config.hidden_size;
  packer.matrix({weights.embedding_,
                 hidden,
                 {packer.tensor("model.embed_tokens.weight", vocabulary, hidden)}});
  for (size_t i = 0; i < weights.layers_.size(); ++i)
    pack_layer(packer, config, "model.layers." + std::to_string(i) + ".", weights.layers_[i]);
  packer.vector("model.norm.weight", hidden, weights.final_norm_);
  if (!config.tie_word_embeddings)
    packer.matrix({weights.head_, hidden, {packer.tensor("lm_head.weight", vocabulary, hidden)}});
  return weights;
}

Weights Weights::random(const ModelConfig& config, const Arithmetic& arithmetic, Runtime runtime,
                        uint64_t seed) {
  Weights weights;
  weights.memory_ = Buffer(packed_bytes(config, arithmetic), "the weights");
  weights.lay_out(config, arithmetic, weights.memory_.data());
  const auto matrix = [&](const PackedMatrix& m, bool interleaved = false) {
    random_matrix(m, runtime, next_random(seed), interleaved);
  };
  matrix(weights.embedding_);
  const size_t q = config.num_heads * config.head_dim, kv = config.num_kv_heads * config.head_dim;
  for (const LayerWeights& layer : weights.layers_) {
    matrix(layer.qkv);
    matrix(layer.o);
    matrix(layer.gate_up, true);
    matrix(layer.down);
    fill(layer.qkv_bias, q + 2 * kv, 0);
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

size_t Weights::bytes_per_token() const {
  size_t bytes = matrix_bytes(head_);
  for (const LayerWeights& layer : layers_)
    bytes += matrix_bytes(layer.qkv) + matrix_bytes(layer.o) + matrix_bytes(layer.gate_up) +
             matrix_bytes(layer.down);
  return bytes;
}

void unpack_row(const PackedMatrix& matrix, size_t row, size_t columns, float* out) {
  const std::byte* panel = matrix.data + row / kPanel * panel_bytes(matrix.format, matrix.depth);
  const size_t lane = row % kPanel;
  const auto* halves = reinterpret_cast<const uint16_t*>(panel);
  switch (matrix.format) {
    case Format::F32:
      for (size_t i = 0; i < columns; ++i)
        out[i] = reinterpret_cast<const float*>(panel)[i * kPanel + lane];
      return;
    case Format::F16:
      for (size_t i = 0; i < columns; ++i) out[i] = f16_to_float(halves[i * kPanel + lane]);
      return;
    case Format::BF16:
      for (size_t i = 0; i < columns; ++i)
        out[i] = bf16_to_float(halves[i / 2 * 2 * kPanel + lane * 2 + i % 2]);
      return;
    case Format::INT8:
      for (size_t i = 0; i < columns; ++i) {
        const std::byte* block = panel + i / 32 * panel_bytes(Format::INT8, 32);
        const auto* codes = reinterpret_cast<const uint8_t*>(block) + 2 * kPanel;
        const float scale = f16_to_float(reinterpret_cast<const uint16_t*>(block)[lane]);
        const int code = codes[i % 32 / 4 * 4 * kPanel + lane * 4 + i % 4];
        out[i] = scale * static_cast<float>(code - 128);
      }
      return;
    case Format::INT4:
      for (size_t i = 0; i < columns; ++i) {
        const std::byte* block = panel + i / 32 * panel_bytes(Format::INT4, 32);
        const auto* codes = reinterpret_cast<const uint8_t*>(block) + 2 * kPanel;
        const float scale = f16_to_float(reinterpret_cast<const uint16_t*>(block)[lane]);
        const int pair = codes[i % 16 / 4 * 4 * kPanel + lane * 4 + i % 4];
        out[i] = scale * static_cast<float>((i % 32 < 16 ? pair & 15 : pair >> 4) - 8);
      }
      return;
  }
}

}  // namespace rill
