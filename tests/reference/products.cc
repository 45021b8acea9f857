// SPDX-License-Identifier: Apache-2.0
// Linear layers and attention (docs/arithmetic.md, sections 8 and 9).
#include <algorithm>
#include <cassert>
#include <cmath>
#include <numeric>
#include <stdexcept>

#include "arithmetic.h"

namespace rill::reference {

// ---- 8. Linear layers -------------------------------------------------------------------------
namespace {

int64_t round_up(int64_t value, int64_t step) {
  return (value + step - 1) / step * step;
}

float held_value(const Options& options, float stored) {
  float value = stored;
  if (options.weights == WeightType::kBf16) value = round_bf16(value);
  if (options.weights == WeightType::kF16) value = round_f16(value);
  if (rounds(options.compute)) value = round_bf16(value);
  return value;
}

constexpr int64_t kRun = 32;  // of the inputs that bf16x32 sums from +0

// bf16x32: columns [begin, end) of every output, run by run; zeros beyond the inputs.
std::vector<float> partial_runs(const Matrix& w, std::span<const float> x, int64_t begin,
                                int64_t end) {
  std::vector<float> acc(w.outputs, 0.0f);
  for (int64_t first = begin; first < end; first += kRun) {
    for (int64_t o = 0; o < w.outputs; ++o) {
      float sum[2] = {0.0f, 0.0f};  // of the even and of the odd elements
      for (int64_t k = first; k < first + kRun; ++k) {
        const float value = k < w.inputs ? round_bf16(x[k]) : 0.0f;
        sum[k % 2] = std::fmaf(w.values[k * w.outputs + o], value, sum[k % 2]);
      }
      const float both = sum[0] + sum[1];
      acc[o] = acc[o] + both;
    }
  }
  return acc;
}

// Adds columns [begin, end) of every output, from +0, k padded with zeros to a multiple of 32.
std::vector<float> partial_float(const Matrix& w, std::span<const float> x, int64_t begin,
                                 int64_t end) {
  if (w.compute == ComputeType::kBf16x32) return partial_runs(w, x, begin, end);
  const bool bf16 = w.compute == ComputeType::kBf16;
  std::vector<float> acc(w.outputs, 0.0f);
  const auto step = [&](int64_t k) {
    const float value = k < w.inputs ? (bf16 ? round_bf16(x[k]) : x[k]) : 0.0f;
    const float* column = &w.values[k * w.outputs];
    float* sums = acc.data();
    for (int64_t o = 0; o < w.outputs; ++o) sums[o] = std::fmaf(column[o], value, sums[o]);
  };
  for (int64_t k = begin; k < begin + round_up(end - begin, kQuantBlock); k += 2) {
    step(bf16 ? k + 1 : k);
    step(bf16 ? k : k + 1);
  }
  return acc;
}

std::vector<float> partial_quantised(const Matrix& w, const QuantisedRow& x, int64_t begin,
                                     int64_t end) {
  std::vector<float> acc(w.outputs, 0.0f);
  std::vector<int32_t> dots(w.outputs);
  for (int64_t block = begin / kQuantBlock; block * kQuantBlock < end; ++block) {
    std::fill(dots.begin(), dots.end(), 0);
    for (int64_t k = block * kQuantBlock; k < (block + 1) * kQuantBlock; ++k) {
      const int8_t* column = &w.codes[k * w.outputs];
      for (int64_t o = 0; o < w.outputs; ++o) dots[o] += int32_t{column[o]} * x.codes[k];
    }
    for (int64_t o = 0; o < w.outputs; ++o) {
      const float scale = w.scales[block * w.outputs + o] * x.scales[block];
      acc[o] = std::fmaf(scale, static_cast<float>(dots[o]), acc[o]);
    }
  }
  return acc;
}

// An empty leaf is an empty vector: the identity.
std::vector<float> add_leaves(const std::vector<float>& a, const std::vector<float>& b) {
  if (a.empty()) return b;
  if (b.empty()) return a;
  std::vector<float> sum(a.size());
  for (size_t i = 0; i < a.size(); ++i) sum[i] = a[i] + b[i];
  return sum;
}

}  // namespace

std::vector<float> Matrix::row(int64_t output) const {
  const FlushSubnormals flush;
  std::vector<float> out(inputs);
  for (int64_t k = 0; k < inputs; ++k) {
    out[k] = quantised() ? scales[k / kQuantBlock * outputs + output] *
                               static_cast<float>(codes[k * outputs + output])
                         : values[k * outputs + output];
  }
  return out;
}

Matrix make_matrix(const Options& options, int64_t outputs, int64_t inputs, const float* source) {
  const FlushSubnormals flush;
  Matrix w{
      options.weights, options.compute, outputs, inputs, round_up(inputs, kQuantBlock), {}, {}, {}};
  if (w.quantised()) {
    w.codes.assign(w.padded_inputs * outputs, 0);
    w.scales.assign(w.padded_inputs / kQuantBlock * outputs, 0.0f);
  } else {
    w.values.assign(w.padded_inputs * outputs, 0.0f);
  }
  for (int64_t o = 0; o < outputs; ++o) {
    const std::span<const float> row(source + o * inputs, inputs);
    if (!w.quantised()) {
      for (int64_t k = 0; k < inputs; ++k) w.values[k * outputs + o] = held_value(options, row[k]);
      continue;
    }
    const QuantisedRow q = options.weights == WeightType::kInt8 ? quantise_weights_int8(row)
                                                                : quantise_weights_int4(row);
    for (size_t k = 0; k < q.codes.size(); ++k) w.codes[k * outputs + o] = q.codes[k];
    for (size_t b = 0; b < q.scales.size(); ++b) w.scales[b * outputs + o] = q.scales[b];
  }
  return w;
}

int64_t attention_unit(int head_dim) {
  return std::lcm<int64_t>(head_dim, kQuantBlock);
}

std::array<int64_t, 9> leaf_boundaries(int64_t inputs, int64_t unit) {
  const int64_t units = (inputs + unit - 1) / unit;
  std::array<int64_t, 9> columns;
  for (int i = 0; i <= 8; ++i) columns[i] = std::min(inputs, i * units / 8 * unit);
  return columns;
}

std::vector<float> linear(const Matrix& matrix, std::span<const float> x, int64_t unit) {
  const FlushSubnormals flush;
  assert(static_cast<int64_t>(x.size()) == matrix.inputs);
  const QuantisedRow codes = matrix.quantised() ? quantise_activations(x) : QuantisedRow{};
  const auto partial = [&](int64_t begin, int64_t end) {
    return matrix.quantised() ? partial_quantised(matrix, codes, begin, end)
                              : partial_float(matrix, x, begin, end);
  };
  if (unit == 0) return partial(0, matrix.inputs);
  const std::array<int64_t, 9> columns = leaf_boundaries(matrix.inputs, unit);
  std::array<std::vector<float>, 8> leaf;
  for (int i = 0; i < 8; ++i) {
    if (columns[i] < columns[i + 1]) leaf[i] = partial(columns[i], columns[i + 1]);
  }
  return add_leaves(add_leaves(add_leaves(leaf[0], leaf[1]), add_leaves(leaf[2], leaf[3])),
                    add_leaves(add_leaves(leaf[4], leaf[5]), add_leaves(leaf[6], leaf[7])));
}

void add_bias_and_residual(std::span<float> acc, std::span<const float> bias,
                           std::span<const float> residual) {
  const FlushSubnormals flush;
  for (size_t i = 0; i < acc.size(); ++i) {
    float value = acc[i];
    if (!bias.empty()) value = value + bias[i];
    if (!residual.empty()) value = residual[i] + value;
    acc[i] = value;
  }
}

// ---- 9. Attention -----------------------------------------------------------------------------
namespace {

constexpr int kStripes = 64;

// Codes against codes: an exact sum per block of 32, then one fma.
float int8_score(std::span<const float> q, const float* key) {
  const QuantisedRow query = quantise_activations(q);
  const QuantisedRow kept = quantise_weights_int8({key, q.size()});
  float acc = 0.0f;
  for (size_t block = 0; block < query.scales.size(); ++block) {
    int32_t dot = 0;
    for (size_t i = block * kQuantBlock; i < (block + 1) * kQuantBlock; ++i)
      dot += int32_t{query.codes[i]} * kept.codes[i];
    const float scale = kept.scales[block] * query.scales[block];
    acc = std::fmaf(scale, static_cast<float>(dot), acc);
  }
  return acc;
}

// bf16x32: runs of 32 dimensions.
float run_score(std::span<const float> q, const float* key) {
  float acc = 0.0f;
  for (size_t first = 0; first < q.size(); first += kRun) {
    float sum[2] = {0.0f, 0.0f};
    for (size_t d = first; d < std::min<size_t>(first + kRun, q.size()); ++d)
      sum[d % 2] = std::fmaf(key[d], q[d], sum[d % 2]);
    const float both = sum[0] + sum[1];
    acc = acc + both;
  }
  return acc;
}

// One score: d ascending, or pairs with the odd element first. head_dim is even.
float score(const Options& options, std::span<const float> q, const float* key) {
  if (options.kv == KvType::kInt8) return int8_score(q, key);
  if (options.compute == ComputeType::kBf16x32) return run_score(q, key);
  const int odd_first = options.compute == ComputeType::kBf16 ? 1 : 0;
  float acc = 0.0f;
  for (size_t d = 0; d < q.size(); d += 2) {
    acc = std::fmaf(key[d + odd_first], q[d + odd_first], acc);
    acc = std::fmaf(key[d + 1 - odd_first], q[d + 1 - odd_first], acc);
  }
  return acc;
}

// What l adds. int8 values are multiplied with something else.
float weight_of(const Options& options, float s, float m) {
  const float difference = s - m;
  const float p = exp2(difference);
  return rounds(options.compute) && options.kv != KvType::kInt8 ? round_bf16(p) : p;
}

// int8: the keys [first, first + p.size()), which are of one run of 32.
void accumulate_codes(const KeyValues& kv, int64_t first, std::span<const float> p,
                      SoftmaxState& state) {
  std::vector<QuantisedRow> values;
  std::vector<float> weights;
  float top = 0.0f;
  for (size_t j = 0; j < p.size(); ++j) {
    values.push_back(
        quantise_value({kv.values + (first + j) * kv.stride, static_cast<size_t>(kv.head_dim)}));
    weights.push_back(p[j] * values[j].scales[0]);
    top = std::max(top, weights[j]);
  }
  const float inverse = 32767.0f / top, scale = top / 32767.0f;
  const bool usable = std::isfinite(inverse) && inverse > 0.0f;
  for (int d = 0; d < kv.head_dim; ++d) {
    int64_t sum = 0;
    for (size_t j = 0; j < p.size(); ++j) {
      const float code = usable ? weights[j] * inverse : 0.0f;
      sum += static_cast<int64_t>(std::nearbyint(code)) * values[j].codes[d];
    }
    state.o[d] = std::fmaf(scale, static_cast<float>(sum), state.o[d]);
  }
}

// bf16x32: the keys [first, first + p.size()), which are of one run of 32.
void accumulate_run(const KeyValues& kv, int64_t first, std::span<const float> p,
                    SoftmaxState& state) {
  for (int d = 0; d < kv.head_dim; ++d) {
    float sum[2] = {0.0f, 0.0f};  // of the even and of the odd keys
    for (size_t j = 0; j < p.size(); ++j) {
      const int64_t key = first + static_cast<int64_t>(j);
      sum[key % 2] = std::fmaf(kv.values[key * kv.stride + d], p[j], sum[key % 2]);
    }
    const float both = sum[0] + sum[1];
    state.o[d] = state.o[d] + both;
  }
}

// Continues the chains of l and O over the keys of one block; p[j] belongs to key first + j.
void accumulate(const Options& options, const KeyValues& kv, int64_t first,
                std::span<const float> p, SoftmaxState& state) {
  for (size_t j = 0; j < p.size(); ++j) {
    float& lane = state.l[(first + j) % kLanes];
    lane = lane + p[j];
  }
  if (options.kv == KvType::kInt8 || options.compute == ComputeType::kBf16x32) {
    for (size_t j = 0; j < p.size();) {
      const size_t run = std::min<size_t>(p.size() - j, 32 - (first + j) % 32);
      const auto add = options.kv == KvType::kInt8 ? accumulate_codes : accumulate_run;
      add(kv, first + static_cast<int64_t>(j), p.subspan(j, run), state);
      j += run;
    }
    return;
  }
  const auto add_key = [&](size_t j) {
    if (j >= p.size()) return;  // masked: p is +0
    const float* value = kv.values + (first + j) * kv.stride;
    for (int d = 0; d < kv.head_dim; ++d) state.o[d] = std::fmaf(value[d], p[j], state.o[d]);
  };
  const bool odd_first = options.compute == ComputeType::kBf16;
  for (size_t j = 0; j < p.size(); j += 2) {  // first is even
    add_key(odd_first ? j + 1 : j);
    add_key(odd_first ? j : j + 1);
  }
}

void clear_negative_zero(SoftmaxState& state) {
  for (float& o : state.o) o = o + 0.0f;
}

std::vector<float> finish(const SoftmaxState& state) {
  const float l = lane_tree(state.l);
  std::vector<float> out(state.o.size());
  for (size_t d = 0; d < out.size(); ++d) out[d] = state.o[d] / l;
  return out;
}

SoftmaxState add_states(const SoftmaxState& a, const SoftmaxState& b) {
  if (a.empty) return b;
  if (b.empty) return a;
  SoftmaxState sum = a;
  for (int j = 0; j < kLanes; ++j) sum.l[j] = a.l[j] + b.l[j];
  for (size_t d = 0; d < sum.o.size(); ++d) sum.o[d] = a.o[d] + b.o[d];
  return sum;
}

using Stripes = std::vector<SoftmaxState>;  // [64]

template <typename Join>
SoftmaxState join_stripes(Stripes& stripes, Join join) {
  for (int width = kStripes / 2; width >= 1; width /= 2) {
    for (int s = 0; s < width; ++s) stripes[s] = join(stripes[s], stripes[s + width]);
  }
  return stripes[0];
}

std::vector<float> streaming(const Options& options, std::span<const float> q, const KeyValues& kv,
                             int64_t position) {
  Stripes stripes(kStripes);
  for (int64_t block = 0; block * options.block_size <= position; ++block) {
    SoftmaxState& stripe = stripes[stripe_of_block(block, options.block_size)];
    stripe = merge(stripe, block_state(options, q, kv, block, position));
  }
  return finish(join_stripes(stripes, merge));
}

std::vector<float> standard(const Options& options, std::span<const float> q, const KeyValues& kv,
                            int64_t position) {
  std::vector<float> p(position + 1);
  for (int64_t j = 0; j <= position; ++j) p[j] = score(options, q, kv.keys + j * kv.stride);
  const float m = *std::max_element(p.begin(), p.end());
  for (float& s : p) s = weight_of(options, s, m);
  Stripes stripes(kStripes);
  const int64_t step = std::max(64, options.block_size);  // of a stripe; int8 has runs of 32 keys
  for (int64_t first = 0; first <= position; first += step) {
    const int64_t count = std::min<int64_t>(step, position + 1 - first);
    SoftmaxState& stripe = stripes[stripe_of_block(first / options.block_size, options.block_size)];
    if (stripe.empty) {
      stripe.empty = false;
      stripe.o.assign(kv.head_dim, 0.0f);
    }
    accumulate(options, kv, first, std::span(p).subspan(first, count), stripe);
  }
  for (SoftmaxState& stripe : stripes) clear_negative_zero(stripe);
  return finish(join_stripes(stripes, add_states));
}

}  // namespace

SoftmaxState merge(const SoftmaxState& earlier, const SoftmaxState& later) {
  const FlushSubnormals flush;
  if (earlier.empty) return later;
  if (later.empty) return earlier;
  SoftmaxState out;
  out.empty = false;
  out.m = std::max(earlier.m, later.m);
  const float f = exp2(earlier.m - out.m);
  const float g = exp2(later.m - out.m);
  for (int j = 0; j < kLanes; ++j) {
    const float scaled = later.l[j] * g;
    out.l[j] = std::fmaf(earlier.l[j], f, scaled);
  }
  out.o.resize(earlier.o.size());
  for (size_t d = 0; d < out.o.size(); ++d) {
    const float scaled = later.o[d] * g;
    out.o[d] = std::fmaf(earlier.o[d], f, scaled);
  }
  return out;
}

SoftmaxState block_state(const Options& options, std::span<const float> q, const KeyValues& kv,
                         int64_t block, int64_t position) {
  const FlushSubnormals flush;
  const int64_t first = block * options.block_size;
  SoftmaxState state;
  if (first > position) return state;
  std::vector<float> p(std::min<int64_t>(options.block_size, position + 1 - first));
  for (size_t j = 0; j < p.size(); ++j) {
    p[j] = score(options, q, kv.keys + (first + j) * kv.stride);
  }
  state.empty = false;
  state.m = *std::max_element(p.begin(), p.end());
  for (float& s : p) s = weight_of(options, s, state.m);
  state.o.assign(kv.head_dim, 0.0f);
  accumulate(options, kv, first, p, state);
  clear_negative_zero(state);
  return state;
}

int stripe_of_block(int64_t block, int block_size) {
  return static_cast<int>(block * block_size / std::max(64, block_size) % kStripes);
}

std::vector<float> attention(const Options& options, std::span<const float> q, const KeyValues& kv,
                             int64_t position) {
  const FlushSubnormals flush;
  assert(options.block_size >= kLanes && options.block_size % kLanes == 0);
  assert(static_cast<int>(q.size()) == kv.head_dim && kv.head_dim % 2 == 0);
  return options.attention == AttentionType::kStreaming ? streaming(options, q, kv, position)
                                                        : standard(options, q, kv, position);
}

}  // namespace rill::reference
