// SPDX-License-Identifier: Apache-2.0
// The scratch of a forward step, laid out over one buffer. Attention has its own.
#pragma once
#include "kernels/kernels.h"
#include "model/arena.h"
#include "model/arithmetic.h"
#include "model/config.h"
#include "model/shard.h"

namespace rill {

/// Up to this many rows each thread prepares the operand of a linear layer for itself: doing it
/// twice costs less than one more barrier.
constexpr size_t kPrivateRows = 4;

/// The widths of a rank's activations.
struct Widths {
  size_t hidden, q, kv, intermediate;

  Widths(const ModelConfig& config, const Shard& shard)
      : hidden(config.hidden_size),
        q(length(shard.heads) * config.head_dim),
        kv(length(shard.kv_heads) * config.head_dim),
        intermediate(length(shard.columns)) {}
  size_t qkv() const { return q + 2 * kv; }
};

struct ScratchSize {
  const ModelConfig& config;
  const Arithmetic& arithmetic;
  const Shard& shard;
  const Kernels& kernels;
  int threads;
  size_t rows;
};

struct StepScratch {
  float* x;                // [most_rows][row_stride(hidden)]: the residual stream
  float* qkv;              // [most_rows][row_stride(q + 2 kv)]
  float* attended;         // [most_rows][row_stride(q)]
  float* gated;            // [most_rows][row_stride(intermediate)]
  float *cosine, *sine;    // [most_rows][head_dim / 2]
  std::byte* activations;  // [most_rows][row_bytes]: the operand of a linear layer
  std::byte* threads;      // [threads][thread_bytes]: a row in fp32, and kPrivateRows operands
  size_t row_bytes, thread_bytes, private_offset;

  /// Over `arena`, which may only count.
  StepScratch(const ScratchSize& size, Arena& arena);
  static size_t bytes(const ScratchSize& size);

  /// A thread's own scratch: a row in fp32, and behind it kPrivateRows operands.
  float* own_row(int thread) const { return reinterpret_cast<float*>(own(thread)); }
  std::byte* own_operands(int thread) const { return own(thread) + private_offset; }

 private:
  std::byte* own(int thread) const { return threads + static_cast<size_t>(thread) * thread_bytes; }
};

}  // namespace rill
