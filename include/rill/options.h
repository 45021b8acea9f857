// SPDX-License-Identifier: Apache-2.0
// The options that change the arithmetic. Everything else (threads, batch, chunks, instruction set)
// leaves every bit of every result as it is; see docs/arithmetic.md.
#pragma once
#include <cstddef>
#include <string>

namespace rill {

/// How a query meets the keys: a whole row of scores and its softmax, or the online softmax over
/// blocks of the KV cache, whose scratch does not grow with the context.
enum class AttentionType { STANDARD, STREAMING };

/// How linear weights are held. AUTO: as the checkpoint stores them.
enum class WeightType { AUTO, BF16, F16, F32, INT8, INT4 };

/// Operands of a product: fp32, or bf16 (exact products, fp32 sums). BF16 and BF16X32 add them in
/// different orders: one accumulator, or runs of 32, which AMX computes. AUTO: BF16 for bf16, int8
/// and int4 weights, else F32. Under INT8 and INT4 weights it concerns attention alone.
enum class ComputeType { AUTO, F32, BF16, BF16X32 };

/// How the KV cache stores K and V. AUTO: F32 under F32 compute, else BF16. INT8 takes 52 % of the
/// bytes of BF16; queries are quantised too.
enum class KvType { AUTO, F16, BF16, F32, INT8 };

/// ArithmeticOptions::block_size: chosen once, by this machine's caches, the size of a head and the
/// context that was asked for. Results name the size; passing it gives the same bits elsewhere.
constexpr size_t kAutoBlockSize = 0;

/// The options of one engine that are part of the arithmetic. They are printed with every result.
struct ArithmeticOptions {
  WeightType weights = WeightType::AUTO;
  ComputeType compute = ComputeType::AUTO;
  KvType kv = KvType::AUTO;
  AttentionType attention = AttentionType::STREAMING;
  size_t block_size = 64;  ///< keys per attention block: a power of two, 16 to 1024, or auto
};

const char* to_string(AttentionType value);
const char* to_string(WeightType value);
const char* to_string(ComputeType value);
const char* to_string(KvType value);

/// Parse the spellings of the command line ("standard", "bf16", ...). Throw rill::Error that names
/// `option`, the value and the accepted ones.
AttentionType parse_attention_type(const std::string& text, const std::string& option);
WeightType parse_weight_type(const std::string& text, const std::string& option);
ComputeType parse_compute_type(const std::string& text, const std::string& option);
KvType parse_kv_type(const std::string& text, const std::string& option);

}  // namespace rill
