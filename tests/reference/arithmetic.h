// SPDX-License-Identifier: Apache-2.0
// The independent twin of docs/arithmetic.md: each operation as plain loops, in the order that the
// page states, sharing no code with src/. Kernels are compared with it by memcmp. Every function
// sets flush-to-zero for its own duration.
#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace rill::reference {

enum class WeightType { kBf16, kF16, kF32, kInt8, kInt4 };
enum class ComputeType { kF32, kBf16, kBf16x32 };
// Whether products take bf16 operands.
inline bool rounds(ComputeType compute) {
  return compute != ComputeType::kF32;
}
enum class KvType { kF16, kBf16, kF32, kInt8 };
enum class AttentionType { kStandard, kStreaming };

// The options that change the maths, resolved: `auto` is the caller's business.
struct Options {
  WeightType weights = WeightType::kF32;
  ComputeType compute = ComputeType::kF32;
  KvType kv = KvType::kF32;
  AttentionType attention = AttentionType::kStreaming;
  int block_size = 64;
};

// Sets FTZ and DAZ for its lifetime (the calling thread only), restores what was set before.
class FlushSubnormals {
 public:
  FlushSubnormals();
  ~FlushSubnormals();
  FlushSubnormals(const FlushSubnormals&) = delete;
  FlushSubnormals& operator=(const FlushSubnormals&) = delete;

 private:
  uint64_t saved_;
};

// Conversions (section 2). round_* give the value after a round trip through the type.
uint16_t bf16_from_float(float value);
uint16_t f16_from_float(float value);
float float_from_bf16(uint16_t bits);
float float_from_f16(uint16_t bits);
float round_bf16(float value);
float round_f16(float value);
float round_kv(KvType type, float value);  // int8: as it is, quantised where it is read
// What scores take of a scaled query: under bf16 compute rounded, but not against int8 keys.
float round_query(const Options& options, float value);

// Single precision (section 3).
float exp2(float x);
float exp(float x);

// Double precision (section 4).
namespace fixed {
double log(double x);
double exp(double x);
double pow(double x, double y);  // x > 0
double sin(double x);
double cos(double x);
}  // namespace fixed

// Section 5.
constexpr int kLanes = 16;
using Lanes = std::array<float, kLanes>;
float lane_tree(Lanes lanes);  // 8-4-2-1
std::vector<float> rmsnorm(std::span<const float> x, std::span<const float> weight, float eps);
std::vector<float> silu_mul(std::span<const float> gate, std::span<const float> up);

// Section 6. `yarn` false: the fields after it are not read.
struct Rope {
  int head_dim = 0;
  double theta = 10000.0;
  bool yarn = false;
  double factor = 1.0;
  double original_max_position_embeddings = 0.0;
  double beta_fast = 32.0, beta_slow = 1.0;
  bool truncate = true;
  double attention_factor = 0.0;              // 0: derived
  double mscale = 0.0, mscale_all_dim = 0.0;  // 0: absent
};
struct RopeRow {
  std::vector<float> cos, sin;  // [head_dim / 2]
};
std::vector<double> rope_inverse_frequencies(const Rope& rope);  // [head_dim / 2]
double rope_attention_factor(const Rope& rope);
RopeRow rope_row(const Rope& rope, int64_t position);
void apply_rope(const RopeRow& row, std::span<float> head);  // head [head_dim], in place
float query_scale(int head_dim);                             // log2(e) / sqrt(head_dim)

// Section 7. Rows are padded with zeros to whole blocks of 32.
constexpr int kQuantBlock = 32;
struct QuantisedRow {
  std::vector<float> scales;  // [blocks]; for weights, f16 values
  std::vector<int8_t> codes;  // [blocks * 32]; int4: q - 8, so -8 .. 7
};
QuantisedRow quantise_activations(std::span<const float> x);
QuantisedRow quantise_weights_int8(std::span<const float> row);
// A value of the int8 KV cache: one scale for the whole row.
QuantisedRow quantise_value(std::span<const float> row);
QuantisedRow quantise_weights_int4(std::span<const float> row);

// A weight matrix as a product reads it. k-major, so that the loop over outputs is innermost and
// each output still has one accumulator and its k in order.
struct Matrix {
  WeightType type = WeightType::kF32;
  ComputeType compute = ComputeType::kF32;
  int64_t outputs = 0, inputs = 0;
  int64_t padded_inputs = 0;  // inputs rounded up to 32
  std::vector<float> values;  // [padded_inputs][outputs], rounded; empty for int8 and int4
  std::vector<int8_t> codes;  // [padded_inputs][outputs]; empty otherwise
  std::vector<float> scales;  // [padded_inputs / 32][outputs]

  bool quantised() const { return type == WeightType::kInt8 || type == WeightType::kInt4; }
  std::vector<float> row(int64_t output) const;  // dequantised [inputs]: an embedding row
};
// source: [outputs][inputs], the stored values widened to fp32.
Matrix make_matrix(const Options& options, int64_t outputs, int64_t inputs, const float* source);

// Section 8. unit 0: one sum over k. unit > 0: eight leaves made of whole units of `unit` columns.
std::vector<float> linear(const Matrix& matrix, std::span<const float> x, int64_t unit = 0);
std::array<int64_t, 9> leaf_boundaries(int64_t inputs, int64_t unit);  // columns
int64_t attention_unit(int head_dim);                                  // o_proj's, in columns
constexpr int64_t kDownUnit = 32;
// acc, then + bias where bias is not empty, then residual + that where residual is not empty.
void add_bias_and_residual(std::span<float> acc, std::span<const float> bias,
                           std::span<const float> residual);

// Section 9.
struct SoftmaxState {
  bool empty = true;
  float m = 0.0f;
  Lanes l{};
  std::vector<float> o;  // [head_dim]
};
SoftmaxState merge(const SoftmaxState& earlier, const SoftmaxState& later);

// One query head against one KV head: keys and values are [tokens][stride] floats holding what the
// cache stores (int8: what it quantises), of which the first head_dim of a row are read; the query
// sees keys 0 .. position.
struct KeyValues {
  const float* keys = nullptr;
  const float* values = nullptr;
  int64_t stride = 0;
  int head_dim = 0;
};
SoftmaxState block_state(const Options& options, std::span<const float> q, const KeyValues& kv,
                         int64_t block, int64_t position);
int stripe_of_block(int64_t block, int block_size);
// q is normed, rotated, scaled and went through round_query. Returns O / l, fp32, [head_dim].
std::vector<float> attention(const Options& options, std::span<const float> q, const KeyValues& kv,
                             int64_t position);

}  // namespace rill::reference
