// SPDX-License-Identifier: Apache-2.0
#include "engine/bench_cost.h"

#include <algorithm>

#include "engine/bench_values.h"

namespace rill {
namespace {

/// Bytes of a packed matrix of `outputs` x `depth`.
double matrix_bytes(Format format, size_t outputs, size_t depth) {
  const size_t padded = (depth + kDepthUnit - 1) / kDepthUnit * kDepthUnit;
  const size_t panels = (outputs + kPanel - 1) / kPanel;
  return static_cast<double>(panels) * static_cast<double>(panel_bytes(format, padded));
}

/// Bytes of a key or a value of one head: of int8 with their scales.
double key_bytes(Format kv, size_t head_dim) {
  if (kv == Format::INT8)
    return static_cast<double>(
               panel_bytes(kv, (head_dim + kDepthUnit - 1) / kDepthUnit * kDepthUnit)) /
           kPanel;
  return static_cast<double>(head_dim) * (kv == Format::F32 ? 4 : 2);
}
double value_bytes(Format kv, size_t head_dim) {
  return kv == Format::INT8 ? static_cast<double>(head_dim + sizeof(float))
                            : key_bytes(kv, head_dim);
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
    case Ceiling::AMX_BF16:
      return "amx_bf16";
    case Ceiling::AMX_INT8:
      return "amx_int8";
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
    case Ceiling::AMX_BF16:
      return measured.amx_bf16;
    case Ceiling::AMX_INT8:
      return measured.amx_int8;
  }
  return 0;
}

Ceilings median_of(const std::vector<Ceilings>& measured) {
  Ceilings result;
  for (const auto kind : kCeilingFields) {
    std::vector<double> values;
    for (const Ceilings& ceilings : measured) values.push_back(ceilings.*kind);
    result.*kind = median(values);
  }
  return result;
}

Ceiling ceiling_of(Operand operand, const std::string& isa) {
  const bool bf16 = isa == "avx512bf16", amx = isa == "amx";
  const bool vnni = bf16 || amx || isa == "avx512vnni";
  if (operand == Operand::BF16X32 && amx) return Ceiling::AMX_BF16;
  if (operand == Operand::Q8)
    return amx ? Ceiling::AMX_INT8 : vnni ? Ceiling::VNNI : Ceiling::MADDUBS;
  return operand == Operand::BF16 && bf16 ? Ceiling::VDPBF16PS : Ceiling::FMA;
}

IdealTime ideal_time(const Work& work, Ceiling ceiling, const Ceilings& measured) {
  // What VDPBF16PS does, two FMAs do too, and on some processors sooner.
  if (ceiling == Ceiling::VDPBF16PS && measured.fma > measured.vdpbf16ps) ceiling = Ceiling::FMA;
  const double computing = work.flops / value_of(measured, ceiling);
  const double reading = work.bytes / measured.bandwidth;
  return computing > reading ? IdealTime{computing, ceiling}
                             : IdealTime{reading, Ceiling::BANDWIDTH};
}

AttentionCeilings attention_ceilings(Format kv, Operand operand, const std::string& isa) {
  // Scores of int8 keys stay in registers with AMX too.
  const std::string scores_isa = kv == Format::INT8 && isa == "amx" ? "avx512vnni" : isa;
  return {ceiling_of(query_operand(kv, operand), scores_isa), ceiling_of(operand, isa)};
}

IdealTime AttentionWork::ideal(const AttentionCeilings& ceilings, const Ceilings& measured) const {
  const IdealTime s = ideal_time(scores, ceilings.scores, measured);
  const IdealTime v = ideal_time(values, ceilings.values, measured);
  return {s.seconds + v.seconds, s.seconds > v.seconds ? s.binding : v.binding};
}

AttentionWork attention_work(const HeadCounts& layer, Format kv, const AttentionCount& count) {
  const double flops = 2 * product(layer.heads, layer.head_dim) * count.pairs;
  const double rows = static_cast<double>(layer.kv_heads) * count.keys;
  return {{flops, rows * key_bytes(kv, layer.head_dim)},
          {flops, rows * value_bytes(kv, layer.head_dim)}};
}

AttentionWork attention_work(const ModelConfig& config, Format kv, size_t start, size_t tokens) {
  const auto first = static_cast<double>(start), count = static_cast<double>(tokens);
  const double visible = count * first + count * (count + 1) / 2;  // query i sees start + i + 1
  return attention_work(HeadCounts{config.num_heads, config.num_kv_heads, config.head_dim}, kv,
                        {visible, first + count});
}

CostModel::CostModel(const ModelConfig& config, const Arithmetic& arithmetic,
                     const std::string& isa)
    : config_(config),
      kv_(arithmetic.kv),
      linear_ceiling_(ceiling_of(arithmetic.linear, isa)),
      attention_ceilings_(attention_ceilings(arithmetic.kv, arithmetic.attention, isa)) {
  const size_t q = config.num_heads * config.head_dim;
  const size_t kv = config.num_kv_heads * config.head_dim;
  const size_t hidden = config.hidden_size, inner = config.intermediate_size;
  const auto add = [&](Operation operation, size_t matrices, size_t outputs, size_t depth) {
    const Format format = operation == Operation::HEAD ? arithmetic.table : arithmetic.weights;
    const auto count = static_cast<double>(matrices);
    linear_.push_back({operation, count * 2 * product(outputs, depth),
                       count * matrix_bytes(format, outputs, depth)});
  };
  add(Operation::QKV, config.num_layers, q + 2 * kv, hidden);
  add(Operation::O, config.num_layers, hidden, q);
  add(Operation::GATE_UP, 2 * config.num_layers, inner, hidden);
  add(Operation::DOWN, config.num_layers, hidden, inner);
  add(Operation::HEAD, 1, config.vocab_size, hidden);
}

void CostModel::add_share(const StepShare& share) {
  const auto times = static_cast<double>(config_.num_layers * share.alike);
  rows_ += rows_of(share);
  logits_ += share.logits * share.alike;
  const AttentionWork layer = attention_work(config_, kv_, share.start, share.tokens);
  attention_ += layer * times;
}

void CostModel::end_step() {
  for (const Linear& linear : linear_) {
    const size_t rows = linear.operation == Operation::HEAD ? logits_ : rows_;
    if (rows)
      parts_.push_back({linear.operation,
                        linear_ceiling_,
                        {static_cast<double>(rows) * linear.flops, linear.bytes}});
  }
  parts_.push_back({Operation::ATTENTION, attention_ceilings_.scores, attention_.scores});
  parts_.push_back({Operation::ATTENTION, attention_ceilings_.values, attention_.values});
  rows_ = logits_ = 0;
  attention_ = {};
}

Work CostModel::sum(const Operation* only) const {
  Work work;
  for_parts(only, [&](const Part& part) {
    work.flops += part.work.flops;
    work.bytes += part.work.bytes;
  });
  return work;
}

Work CostModel::total() const {
  return sum(nullptr);
}

Work CostModel::total(Operation operation) const {
  return sum(&operation);
}

IdealTime CostModel::ideal_of(const Ceilings& measured, const Operation* only) const {
  IdealTime ideal;
  double shares[kCeilingKinds] = {};
  for_parts(only, [&](const Part& part) {
    const IdealTime time = ideal_time(part.work, part.ceiling, measured);
    shares[static_cast<size_t>(time.binding)] += time.seconds;
    ideal.seconds += time.seconds;
  });
  ideal.binding = static_cast<Ceiling>(std::max_element(shares, shares + kCeilingKinds) - shares);
  return ideal;
}

IdealTime CostModel::ideal(const Ceilings& measured) const {
  return ideal_of(measured, nullptr);
}

IdealTime CostModel::ideal(const Ceilings& measured, Operation operation) const {
  return ideal_of(measured, &operation);
}

}  // namespace rill
