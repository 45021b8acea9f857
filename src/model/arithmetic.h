// SPDX-License-Identifier: Apache-2.0
// The options of the arithmetic with every AUTO decided.
#pragma once
#include <string>

#include "kernels/kernels.h"
#include "model/checkpoint.h"
#include "rill/options.h"

namespace rill {

/// What a model computes with; equal values mean equal bits.
struct Arithmetic {
  WeightType declared;  // --weights; f16 and f32 are held as BF16 under bf16 compute
  Format weights;       // of the linear layers
  Format table;         // of the embedding and the head: INT8 under INT4
  Operand linear;       // operand of linear layers: F32, BF16 or Q8
  Operand attention;    // F32 or BF16
  Format kv;            // F32, F16 or BF16
  AttentionType attention_type;
  size_t block_size;  // keys per attention block, a power of two, 16 to 1024

  /// Keys per stripe step: a block belongs to stripe floor(first position / stripe()) mod 64.
  size_t stripe() const { return block_size < kBlockTokens ? kBlockTokens : block_size; }

  bool operator==(const Arithmetic&) const = default;
};

/// The type that holds the most bytes of the checkpoint: F32, F16 or BF16.
DType stored_type(const Checkpoint& checkpoint);

/// Decides the AUTO values: weights as `stored` (the checkpoint's type with the most bytes), and
/// refuses combinations that have no meaning. Throws rill::Error naming the option.
Arithmetic resolve_arithmetic(const ArithmeticOptions& options, DType stored);

/// "weights bf16, compute bf16, kv bf16, attention streaming, block 64": for reports.
std::string describe(const Arithmetic& arithmetic);

}  // namespace rill
