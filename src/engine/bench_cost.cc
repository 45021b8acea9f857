// SPDX-License-Identifier: Apache-2.0
#include "engine/bench_cost.h"

#include <algorithm>

namespace rill {
namespace {

/// Bytes of a packed matrix of `outputs` x `depth`.
double matrix_bytes(Format format, size_t outputs, size_t depth) {
  const size_t padded = (depth + kDepthUnit - 1) / kDepthUnit * kDepthUnit;
  const size_t panels = (outputs + kPanel - 1) / kPanel;
  return static_cast<double>(panels) * static_cast<double>(panel_bytes(format, padded));
}

double product(size_t a, size_t b) {
  return static_cast<double>(a) * static_cast<double>(b);
}

}  // namespace

const char* to_string(Ceiling ceiling) {
  switch (ceiling) {
    case Ceiling::BANDWIDTH:
      return "bandwidth";
    case Ceiling::FMA:
      return "fma";
    case Ceiling::VDPBF16PS:
      return "vdpbf16ps";
    case Ceiling::VNNI:
      return "vnni";
    case Ceiling::MADDUBS:
      return "maddubs";
  }
  return "";
}

double value_of(const Ceilings& measured, Ceiling ceiling) {
  switch (ceiling) {
    case Ceiling::BANDWIDTH:
      return measured.bandwidth;
    case Ceiling::FMA:
      return measured.fma;
    case Ceiling::VDPBF16PS:
      return measured.vdpbf16ps;
    case Ceiling::VNNI:
      return measured.vnni;
    case Ceiling::MADDUBS:
      return measured.maddubs;
  }
  return 0;
}

Ceiling ceiling_of(Operand operand, const std::string& isa) {
  const bool bf16 = isa == "avx512bf16";
  const bool vnni = bf16 || isa == "avx512vnni";
  if (operand == Operand::Q8) return vnni ? Ceiling::VNNI : Ceiling::MADDUBS;
  return operand == Operand::BF16 && bf16 ? Ceiling::VDPBF16PS : Ceiling::FMA;
}

CostModel::CostModel(const ModelConfig& config, const Arithmetic& arithmetic,
                     const std::string& isa)
    : linear_ceiling_(ceiling_of(arithmetic.linear, isa)),
      attention_ceiling_(ceiling_of(arithmetic.attention, isa)) {
  const size_t q = config.num_heads * config.head_dim;
  const size_t kv = config.num_kv_heads * config.head_dim;
  const size_t hidden = config.hidden_size, inner = config.intermediate_size;
  const auto layers = static_cast<double>(config.num_layers);
  const auto bytes = [&](size_t outputs, size_t depth) {
    return matrix_bytes(arithmetic.weights, outputs, depth);
  };
  layer_flops_ =
      layers * 2 * (product(q + 2 * kv, hidden) + product(hidden, q) + 3 * product(inner, hidden));
  layer_bytes_ = layers * (bytes(q + 2 * kv, hidden) + bytes(hidden, q) + 2 * bytes(inner, hidden) +
                           bytes(hidden, inner));
  head_flops_ = 2 * product(config.vocab_size, hidden);
  head_bytes_ = matrix_bytes(arithmetic.table, config.vocab_size, hidden);
  const double value_bytes = arithmetic.kv == Format::F32 ? 4 : 2;
  attention_flops_ = layers * 4 * static_cast<double>(q);
  attention_bytes_ = layers * 2 * static_cast<double>(kv) * value_bytes;
}

void CostModel::add_share(const StepShare& share) {
  const auto start = static_cast<double>(share.start), tokens = static_cast<double>(share.tokens);
  rows_ += share.tokens;
  logits_ += share.logits;
  visible_ += tokens * start + tokens * (tokens + 1) / 2;  // token i sees start + i + 1 keys
  keys_ += start + tokens;
}

void CostModel::end_step() {
  const auto rows = static_cast<double>(rows_), logits = static_cast<double>(logits_);
  operations_.push_back({linear_ceiling_, rows * layer_flops_, layer_bytes_});
  operations_.push_back(
      {attention_ceiling_, visible_ * attention_flops_, keys_ * attention_bytes_});
  if (logits_) operations_.push_back({linear_ceiling_, logits * head_flops_, head_bytes_});
  rows_ = logits_ = 0;
  visible_ = keys_ = 0;
}

Work CostModel::total() const {
  Work work;
  for (const Operation& operation : operations_) {
    work.flops += operation.flops;
    work.bytes += operation.bytes;
  }
  return work;
}

IdealTime CostModel::ideal(const Ceilings& measured) const {
  IdealTime ideal;
  double shares[kCeilingKinds] = {};
  for (const Operation& operation : operations_) {
    const double computing = operation.flops / value_of(measured, operation.ceiling);
    const double reading = operation.bytes / measured.bandwidth;
    const Ceiling binding = computing > reading ? operation.ceiling : Ceiling::BANDWIDTH;
    shares[static_cast<size_t>(binding)] += std::max(computing, reading);
    ideal.seconds += std::max(computing, reading);
  }
  ideal.binding = static_cast<Ceiling>(std::max_element(shares, shares + kCeilingKinds) - shares);
  return ideal;
}

}  // namespace rill
