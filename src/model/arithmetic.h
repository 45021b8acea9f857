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
  Operand linear;       // operand of linear layers: F32, BF16, BF16X32 or Q8
  Operand attention;    // F32, BF16 or BF16X32
  Format kv;            // F32, F16, BF16 or INT8
  AttentionType attention_type;
  size_t block_size;  // keys per attention block, a power of two, 16 to 1024

  /// Keys per stripe step: a block belongs to stripe floor(first position / stripe()) mod 64.
  size_t stripe() const { return block_size < kBlockTokens ? kBlockTokens : block_size; }

  bool operator==(const Arithmetic&) const = default;
};

/// The type that holds the most bytes of the checkpoint: F32, F16 or BF16.
DType stored_type(const Checkpoint& checkpoint);

/// What kAutoBlockSize goes by: the size of a head, and the context that was asked for (never the
/// one that a sequence has reached: it would change the result).
struct BlockScope {
  size_t head_dim = 128, context = 4096;
};

/// The largest block that fills at most an eighth of a core's second-level cache (`cache` bytes,
/// 0: unknown) with its keys and values, and a quarter of the context. Long blocks have fewer joins
/// of states and row maxima; beyond that size they push each other's rows, scores and states out of
/// the cache. `rill bench-attention --block-size 16-1024*2` is the measurement behind it.
size_t choose_block_size(const BlockScope& scope, Format kv, size_t cache);

/// Decides the AUTO values: weights as `stored` (the checkpoint's type with the most bytes), and
/// refuses combinations that have no meaning; `scope` is for kAutoBlockSize. Throws rill::Error
/// naming the option.
Arithmetic resolve_arithmetic(const ArithmeticOptions& options, DType stored,
                              const BlockScope& scope = {});

/// "weights bf16, compute bf16, kv bf16, attention streaming, block 64": for reports.
std::string describe(const Arithmetic& arithmetic);
/// With other words than "attention streaming", of a report on "both attentions".
std::string describe(const Arithmetic& arithmetic, const std::string& attention);

}  // namespace rill
