// SPDX-License-Identifier: Apache-2.0
#include "model/arithmetic.h"

#include <algorithm>
#include <array>
#include <bit>

#include "base/error.h"
#include "base/topology.h"

namespace rill {
namespace {

constexpr size_t kLeastBlock = 16, kMostBlock = 1024;

WeightType as_stored(DType stored) {
  switch (stored) {
    case DType::BF16:
      return WeightType::BF16;
    case DType::F16:
      return WeightType::F16;
    case DType::F32:
      return WeightType::F32;
    default:
      fail("the checkpoint's weights are ", dtype_name(stored),
           " where BF16, F16 or F32 is expected; take the checkpoint as it was published in bf16");
  }
}

Format format_of(WeightType type) {
  switch (type) {
    case WeightType::F32:
      return Format::F32;
    case WeightType::F16:
      return Format::F16;
    case WeightType::INT8:
      return Format::INT8;
    case WeightType::INT4:
      return Format::INT4;
    default:
      return Format::BF16;
  }
}

ComputeType resolve_compute(ComputeType asked, WeightType declared) {
  if (asked != ComputeType::AUTO) return asked;
  return declared == WeightType::F16 || declared == WeightType::F32 ? ComputeType::F32
                                                                    : ComputeType::BF16;
}

Operand operand_of(ComputeType compute) {
  return compute == ComputeType::F32    ? Operand::F32
         : compute == ComputeType::BF16 ? Operand::BF16
                                        : Operand::BF16X32;
}

Format kv_format(KvType type, ComputeType compute) {
  const bool bf16 = compute != ComputeType::F32;
  if (type == KvType::AUTO) return bf16 ? Format::BF16 : Format::F32;
  if (type == KvType::INT8) return Format::INT8;
  if (bf16 && type != KvType::BF16)
    fail("--kv is ", to_string(type), " under --compute ", to_string(compute),
         ", which reads K and V as bf16 or int8; use --kv bf16 or int8, or --compute f32 to keep",
         " --kv ", to_string(type));
  return type == KvType::F32 ? Format::F32 : type == KvType::F16 ? Format::F16 : Format::BF16;
}

const char* name_of(Format format) {
  constexpr std::array names = {"f32", "f16", "bf16", "int8", "int4"};
  return names[static_cast<size_t>(format)];
}
const char* name_of(Operand compute) {
  return compute == Operand::F32 ? "f32" : compute == Operand::BF16 ? "bf16" : "bf16x32";
}

}  // namespace

DType stored_type(const Checkpoint& checkpoint) {
  constexpr std::array types = {DType::BF16, DType::F16, DType::F32};
  std::array<size_t, 3> bytes{};
  for (const TensorInfo& tensor : checkpoint.tensors())
    for (size_t i = 0; i < types.size(); ++i)
      if (tensor.dtype == types[i]) bytes[i] += tensor.bytes.size();
  size_t most = 0;
  for (size_t i = 1; i < types.size(); ++i)
    if (bytes[i] > bytes[most]) most = i;
  return types[most];
}

size_t choose_block_size(const BlockScope& scope, Format kv, size_t cache) {
  constexpr size_t kLeastCache = size_t{256} << 10;
  const size_t key_bytes =
      (k_block_bytes(kv, scope.head_dim) + v_block_bytes(kv, scope.head_dim)) / kBlockTokens;
  const size_t most = std::min(std::max(cache, kLeastCache) / 8 / key_bytes, scope.context / 4);
  return std::clamp(std::bit_floor(most), kLeastBlock, kMostBlock);
}

Arithmetic resolve_arithmetic(const ArithmeticOptions& options, DType stored,
                              const BlockScope& scope) {
  if (options.block_size != kAutoBlockSize &&
      (options.block_size < kLeastBlock || options.block_size > kMostBlock ||
       !std::has_single_bit(options.block_size)))
    fail("--block-size is ", options.block_size, "; use a power of two from 16 to 1024, or auto");
  Arithmetic result{};
  result.declared = options.weights == WeightType::AUTO ? as_stored(stored) : options.weights;
  const bool quantised = result.declared == WeightType::INT8 || result.declared == WeightType::INT4;
  const ComputeType compute = resolve_compute(options.compute, result.declared);
  result.weights = format_of(result.declared);
  if (compute != ComputeType::F32 && !quantised) result.weights = Format::BF16;
  result.table = quantised ? Format::INT8 : result.weights;
  result.attention = operand_of(compute);
  result.linear = quantised ? Operand::Q8 : result.attention;
  result.kv = kv_format(options.kv, compute);
  result.attention_type = options.attention;
  result.block_size = options.block_size != kAutoBlockSize
                          ? options.block_size
                          : choose_block_size(scope, result.kv, cache_bytes(2));
  return result;
}

std::string describe(const Arithmetic& arithmetic) {
  return describe(arithmetic, std::string("attention ") + to_string(arithmetic.attention_type));
}

std::string describe(const Arithmetic& arithmetic, const std::string& attention) {
  return std::string("weights ") + to_string(arithmetic.declared) + ", compute " +
         name_of(arithmetic.attention) + ", kv " + name_of(arithmetic.kv) + ", " + attention +
         ", block " + std::to_string(arithmetic.block_size);
}

}  // namespace rill
