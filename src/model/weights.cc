// SPDX-License-Identifier: Apache-2.0
#include "model/weights.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <string>

#include "base/error.h"
#include "base/half.h"
#include "model/arena.h"

namespace rill {
namespace {

size_t panels(const PackedMatrix& matrix) {
  return (matrix.outputs + kPanel - 1) / kPanel;
}

PackedMatrix lay_matrix(Arena& arena, Format format, size_t outputs, size_t columns) {
  PackedMatrix matrix{};
  matrix.format = format;
  matrix.outputs = outputs;
  matrix.depth = round_up(columns, kDepthUnit);
  matrix.data = arena.take<std::byte>(panels(matrix) * panel_bytes(format, matrix.depth));
  matrix.leaves = 1;
  matrix.leaf[1] = static_cast<uint32_t>(matrix.depth);
  return matrix;
}

// A matrix for each of the largest subtrees of a run of leaves: the kernels' sum over its leaves
// is the subtree's root, those outside it having no columns.
std::vector<CutMatrix> lay_cut(Arena& arena, Format format, size_t outputs, const LeafCut& cut,
                               Range leaves) {
  std::vector<CutMatrix> matrices;
  const size_t first = cut.columns_of(leaves).begin;
  for (const Range subtree : cut.subtrees(leaves)) {
    const Range columns = cut.columns_of(subtree);
    PackedMatrix matrix = lay_matrix(arena, format, outputs, length(columns));
    matrix.leaves = kLeaves;
    for (size_t i = 0; i <= kLeaves; ++i) {
      const size_t begin = cut.columns_of({i, i}).begin;
      const size_t within = std::clamp(begin, columns.begin, columns.end) - columns.begin;
      matrix.leaf[i] = static_cast<uint32_t>(round_up(within, kDepthUnit));
    }
    matrices.push_back({matrix, {columns.begin - first, columns.end - first}});
  }
  return matrices;
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

// Some rows of a tensor.
struct Part {
  const TensorInfo* tensor;
  Range rows;
};

// One packed matrix and the tensors that its rows come from.
struct MatrixJob {
  PackedMatrix matrix;
  Range columns;            // of the tensors
  std::vector<Part> parts;  // rows one after the other, or panel by panel in turn
  bool interleaved = false;

  // The tensor and its row that output `lane` of `panel` comes from; null past the last.
  std::pair<const TensorInfo*, size_t> source(size_t panel, size_t lane) const {
    if (interleaved) {
      const size_t row = panel / parts.size() * kPanel + lane;
      const Part& part = parts[panel % parts.size()];
      return {row < length(part.rows) ? part.tensor : nullptr, part.rows.begin + row};
    }
    size_t row = panel * kPanel + lane;
    for (const Part& part : parts) {
      if (row < length(part.rows)) return {part.tensor, part.rows.begin + row};
      row -= length(part.rows);
    }
    return {nullptr, 0};
  }

  // Where the columns of a tensor's row stand.
  const std::byte* row(const TensorInfo& tensor, size_t row) const {
    return tensor.bytes.data() +
           (row * tensor.shape[1] + columns.begin) * element_bytes(tensor.dtype);
  }
};

class Packer {
 public:
  Packer(const ModelConfig& config, const Arithmetic& arithmetic, const Checkpoint& checkpoint,
         Runtime runtime, const Progress& progress)
      : arithmetic_(arithmetic), checkpoint_(checkpoint), runtime_(runtime), progress_(progress) {
    for (const TensorSpec& spec : model_tensors(config, DType::BF16))
      total_ += checkpoint.get(spec.name, spec.shape).bytes.size();
  }

  const TensorInfo* tensor(const std::string& name, size_t rows, size_t columns) const {
    return &checkpoint_.get(name, {rows, columns});
  }

  void matrix(const MatrixJob& job) {
    runtime_.team.run([&](Worker& worker) {
      const FloatMode mode;
      std::vector<float> widened(kPanel * length(job.columns));
      const Range mine = worker.share(panels(job.matrix), job.interleaved ? 2 : 1);
      for (size_t panel = mine.begin; panel < mine.end; ++panel)
        pack_panel(job, panel, widened.data());
    });
  }

  void vector(const std::string& name, size_t count, const float* to) {
    vector(name, count, {0, count}, to);
  }
  // Of `count` values those of a range.
  void vector(const std::string& name, size_t count, Range range, const float* to) {
    const TensorInfo& info = checkpoint_.get(name, {count});
    float* out = const_cast<float*>(to);  // points into the memory that is being filled
    for (size_t i = range.begin; i < range.end; ++i)
      *out++ = load(info.dtype, info.bytes.data() + i * element_bytes(info.dtype));
    finish(info);
  }

  // The tensor has been packed as far as this rank has it.
  void finish(const TensorInfo& info) {
    checkpoint_.release(info);
    done_ += info.bytes.size();
    if (progress_) progress_(done_, total_);
  }

 private:
  void pack_panel(const MatrixJob& job, size_t panel, float* widened) const {
    PackSource source{};
    source.columns = length(job.columns);
    source.through_f16 =
        arithmetic_.declared == WeightType::F16 && job.matrix.format == Format::BF16;
    std::array<const TensorInfo*, kPanel> from;
    bool mixed = false;
    for (size_t lane = 0; lane < kPanel; ++lane) {
      const auto [part, row] = job.source(panel, lane);
      from[lane] = part;
      if (!part) continue;
      source.row[lane] = job.row(*part, row);
      mixed = mixed || part->dtype != from[0]->dtype;
    }
    source.dtype = from[0] ? format_of(from[0]->dtype) : Format::F32;
    if (mixed) widen(source.columns, from, source, widened);
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
      for (size_t i = 0; i < length(job.columns); ++i) {
        const float value = load(candidate->dtype, job.row(*candidate, row) + i * step);
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

  const Arithmetic& arithmetic_;
  const Checkpoint& checkpoint_;
  const Runtime runtime_;
  const Progress& progress_;
  size_t done_ = 0, total_ = 0;
};

// A layer's heads.
void pack_attention(Packer& packer, const ModelConfig& c, const Shard& shard,
                    const std::string& prefix, const LayerWeights& layer) {
  const size_t q = c.num_heads * c.head_dim, kv = c.num_kv_heads * c.head_dim;
  const auto rows_of = [&](Range heads) {
    return Range{heads.begin * c.head_dim, heads.end * c.head_dim};
  };
  const Range q_rows = rows_of(shard.heads), kv_rows = rows_of(shard.kv_heads);
  const TensorInfo* q_proj = packer.tensor(prefix + "q_proj.weight", q, c.hidden_size);
  const TensorInfo* k_proj = packer.tensor(prefix + "k_proj.weight", kv, c.hidden_size);
  const TensorInfo* v_proj = packer.tensor(prefix + "v_proj.weight", kv, c.hidden_size);
  packer.matrix(
      {layer.qkv, {0, c.hidden_size}, {{q_proj, q_rows}, {k_proj, kv_rows}, {v_proj, kv_rows}}});
  for (const TensorInfo* tensor : {q_proj, k_proj, v_proj}) packer.finish(*tensor);
  if (c.attention_bias) {
    const float* bias = layer.qkv_bias;
    packer.vector(prefix + "q_proj.bias", q, q_rows, bias);
    packer.vector(prefix + "k_proj.bias", kv, kv_rows, bias + length(q_rows));
    packer.vector(prefix + "v_proj.bias", kv, kv_rows, bias + length(q_rows) + length(kv_rows));
    packer.vector(prefix + "o_proj.bias", c.hidden_size, layer.o_bias);
  }
  packer.vector(prefix + "q_norm.weight", c.head_dim, layer.q_norm);
  packer.vector(prefix + "k_norm.weight", c.head_dim, layer.k_norm);
}

// A matrix that is cut along k; `first` is this rank's first column.
void pack_cut(Packer& packer, const TensorInfo* tensor, size_t first,
              const std::vector<CutMatrix>& matrices) {
  for (const CutMatrix& cut : matrices)
    packer.matrix({cut.matrix,
                   {first + cut.columns.begin, first + cut.columns.end},
                   {{tensor, {0, tensor->shape[0]}}}});
  packer.finish(*tensor);
}

void pack_layer(Packer& packer, const ModelConfig& c, const Shard& shard, const std::string& prefix,
                const LayerWeights& layer) {
  const std::string attention = prefix + "self_attn.", mlp = prefix + "mlp.";
  packer.vector(prefix + "input_layernorm.weight", c.hidden_size, layer.input_norm);
  pack_attention(packer, c, shard, attention, layer);
  pack_cut(packer,
           packer.tensor(attention + "o_proj.weight", c.hidden_size, c.num_heads * c.head_dim),
           shard.heads.begin * c.head_dim, layer.o);
  packer.vector(prefix + "post_attention_layernorm.weight", c.hidden_size,
                layer.post_attention_norm);
  const TensorInfo* gate =
      packer.tensor(mlp + "gate_proj.weight", c.intermediate_size, c.hidden_size);
  const TensorInfo* up = packer.tensor(mlp + "up_proj.weight", c.intermediate_size, c.hidden_size);
  packer.matrix(
      {layer.gate_up, {0, c.hidden_size}, {{gate, shard.columns}, {up, shard.columns}}, true});
  packer.finish(*gate);
  packer.finish(*up);
  pack_cut(packer, packer.tensor(mlp + "down_proj.weight", c.hidden_size, c.intermediate_size),
           shard.columns.begin, layer.down);
}

}  // namespace

size_t matrix_bytes(const PackedMatrix& matrix) {
  return panels(matrix) * panel_bytes(matrix.format, matrix.depth);
}

size_t Weights::lay_out(const ModelConfig& c, const Arithmetic& arithmetic, std::byte* base) {
  Arena arena(base);
  const size_t qkv = (length(shard_.heads) + 2 * length(shard_.kv_heads)) * c.head_dim;
  const size_t vocabulary = length(shard_.vocabulary);
  const Format format = arithmetic.weights;
  embedding_ = lay_matrix(arena, arithmetic.table, vocabulary, c.hidden_size);
  layers_.resize(c.num_layers);
  for (LayerWeights& layer : layers_) {
    layer.input_norm = arena.take<float>(c.hidden_size);
    layer.qkv = lay_matrix(arena, format, qkv, c.hidden_size);
    layer.qkv_bias = c.attention_bias ? arena.take<float>(qkv) : nullptr;
    layer.o_bias = c.attention_bias ? arena.take<float>(c.hidden_size) : nullptr;
    layer.q_norm = arena.take<float>(c.head_dim);
    layer.k_norm = arena.take<float>(c.head_dim);
    layer.o = lay_cut(arena, format, c.hidden_size, LeafCut::of_o(c), shard_.leaves);
    layer.post_attention_norm = arena.take<float>(c.hidden_size);
    layer.gate_up =
        lay_matrix(arena, format, 2 * round_up(length(shard_.columns), kPanel), c.hidden_size);
    layer.down = lay_cut(arena, format, c.hidden_size, LeafCut::of_down(c), shard_.leaves);
  }
  final_norm_ = arena.take<float>(c.hidden_size);
  head_ = c.tie_word_embeddings ? embedding_
                                : lay_matrix(arena, arithmetic.table, vocabulary, c.hidden_size);
  return arena.used();
}

size_t Weights::packed_bytes(const ModelConfig& config, const Arithmetic& arithmetic,
                             const Shard& shard) {
  return Weights(shard).lay_out(config, arithmetic, nullptr);
}

Weights Weights::pack(const ModelConfig& config, const Arithmetic& arithmetic,
                      const Checkpoint& checkpoint, Runtime runtime, const Progress& progress) {
  const Shard shard(config, runtime.ranks);
  Weights weights(shard);
  Packer packer(config, arithmetic, checkpoint, runtime, progress);  // refuses before allocating
  weights.memory_ = Buffer(packed_bytes(config, arithmetic, shard), "the weights");
  place_shared(runtime.team.placement(), weights.memory_.data(), weights.memory_.size());
  weights.lay_out(config, arithmetic, weights.memory_.data());
  const auto table = [&](const char* name, const PackedMatrix& matrix) {
    const TensorInfo* tensor = packer.tensor(name, config.vocab_size, config.hidden_size);
    packer.matrix({matrix, {0, config.hidden_size}, {{tensor, shard.vocabulary}}});
    packer.finish(*tensor);
  };
  table("model.embed_tokens.weight", weights.embedding_);
  for (size_t i = 0; i < weights.layers_.size(); ++i)
    pack_layer(packer, config, shard, "model.layers." + std::to_string(i) + ".",
               weights.layers_[i]);
  packer.vector("model.norm.weight", config.hidden_size, weights.final_norm_);
  if (!config.tie_word_embeddings) table("lm_head.weight", weights.head_);
  return weights;
}

size_t Weights::bytes_per_token() const {
  size_t bytes = matrix_bytes(head_);
  for (const LayerWeights& layer : layers_) {
    bytes += matrix_bytes(layer.qkv) + matrix_bytes(layer.gate_up);
    for (const CutMatrix& cut : layer.o) bytes += matrix_bytes(cut.matrix);
    for (const CutMatrix& cut : layer.down) bytes += matrix_bytes(cut.matrix);
  }
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
