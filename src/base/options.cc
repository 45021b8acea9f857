// SPDX-License-Identifier: Apache-2.0
#include "rill/options.h"

#include <array>
#include <utility>

#include "base/error.h"

namespace rill {
namespace {

template <class T, size_t N>
using Spellings = std::array<std::pair<T, const char*>, N>;

constexpr Spellings<AttentionType, 2> kAttention = {
    {{AttentionType::STANDARD, "standard"}, {AttentionType::STREAMING, "streaming"}}};
constexpr Spellings<WeightType, 6> kWeights = {{{WeightType::AUTO, "auto"},
                                                {WeightType::BF16, "bf16"},
                                                {WeightType::F16, "f16"},
                                                {WeightType::F32, "f32"},
                                                {WeightType::INT8, "int8"},
                                                {WeightType::INT4, "int4"}}};
constexpr Spellings<ComputeType, 4> kCompute = {{{ComputeType::AUTO, "auto"},
                                                 {ComputeType::F32, "f32"},
                                                 {ComputeType::BF16, "bf16"},
                                                 {ComputeType::BF16X32, "bf16x32"}}};
constexpr Spellings<KvType, 5> kKv = {{{KvType::AUTO, "auto"},
                                       {KvType::INT8, "int8"},
                                       {KvType::F16, "f16"},
                                       {KvType::BF16, "bf16"},
                                       {KvType::F32, "f32"}}};

template <class T, size_t N>
const char* name_of(const Spellings<T, N>& spellings, T value) {
  for (const auto& [known, name] : spellings)
    if (known == value) return name;
  return "?";
}

template <class T, size_t N>
T parse(const Spellings<T, N>& spellings, const std::string& text, const std::string& option) {
  std::string accepted;
  for (const auto& [value, name] : spellings) {
    if (text == name) return value;
    accepted += std::string(accepted.empty() ? "" : ", ") + name;
  }
  fail(option, " is '", text, "'; use one of ", accepted);
}

}  // namespace

const char* to_string(AttentionType value) {
  return name_of(kAttention, value);
}
const char* to_string(WeightType value) {
  return name_of(kWeights, value);
}
const char* to_string(ComputeType value) {
  return name_of(kCompute, value);
}
const char* to_string(KvType value) {
  return name_of(kKv, value);
}

AttentionType parse_attention_type(const std::string& text, const std::string& option) {
  return parse(kAttention, text, option);
}
WeightType parse_weight_type(const std::string& text, const std::string& option) {
  return parse(kWeights, text, option);
}
ComputeType parse_compute_type(const std::string& text, const std::string& option) {
  return parse(kCompute, text, option);
}
KvType parse_kv_type(const std::string& text, const std::string& option) {
  return parse(kKv, text, option);
}

}  // namespace rill
