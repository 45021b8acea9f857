// SPDX-License-Identifier: Apache-2.0
// The packed weights of a model: made once at load, in parallel, from the mapped checkpoint.
#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <vector>

#include "base/buffer.h"
#include "model/arithmetic.h"
#include "model/checkpoint.h"
#include "model/config.h"
#include "model/runtime.h"
#include "model/shard.h"

namespace rill {

/// The part of a matrix that is cut along k (o_proj, down_proj) whose product is the root of one
/// subtree of the leaves.
struct CutMatrix {
  PackedMatrix matrix;
  Range columns;  // of this rank's columns
};

/// One decoder layer, as far as this rank has it. Matrices are views into Weights' memory; columns
/// past a matrix's last one, up to its depth, are zero.
struct LayerWeights {
  PackedMatrix qkv;          // outputs: q heads, k heads, v heads, one after the other
  std::vector<CutMatrix> o;  // at most kMostSubtrees; one if this rank has the whole model
  PackedMatrix gate_up;      // panels gate 0, up 0, ...; outputs 2 * columns padded to 16
  std::vector<CutMatrix> down;
  const float* qkv_bias = nullptr;   // [qkv.outputs] or null
  const float* o_bias = nullptr;     // [hidden] or null
  const float* input_norm;           // [hidden]
  const float* post_attention_norm;  // [hidden]
  const float* q_norm;               // [head_dim]
  const float* k_norm;               // [head_dim]
};

/// Where packing stands, for a progress bar: bytes of the checkpoint done and in all.
using Progress = std::function<void(size_t done, size_t total)>;

class Weights {
 public:
  /// Packs what this rank has of every tensor of `checkpoint` (and reads no more), checking names,
  /// dtypes and shapes against `config`; the source pages are given back as they are done. Throws
  /// rill::Error, also for a weight that is not finite or does not fit its type.
  static Weights pack(const ModelConfig& config, const Arithmetic& arithmetic,
                      const Checkpoint& checkpoint, Runtime runtime, const Progress& progress = {});

  /// Random weights of the same shape without a checkpoint, for benchmarks: bits that look like a
  /// trained model's (finite activations), the same for the same seed.
  static Weights random(const ModelConfig& config, const Arithmetic& arithmetic, Runtime runtime,
                        uint64_t seed);

  /// Bytes that pack() will allocate: for `rill plan`, before anything is allocated.
  static size_t packed_bytes(const ModelConfig& config, const Arithmetic& arithmetic,
                             const Shard& shard);

  const Shard& shard() const { return shard_; }
  const PackedMatrix& embedding() const { return embedding_; }  // [shard.vocabulary], k: hidden
  const PackedMatrix& head() const { return head_; }            // the same matrix when tied
  const float* final_norm() const { return final_norm_; }
  const std::vector<LayerWeights>& layers() const { return layers_; }
  size_t bytes() const { return memory_.size(); }
  /// Bytes that decoding one token reads: all layers and the head.
  size_t bytes_per_token() const;

 private:
  explicit Weights(const Shard& shard) : shard_(shard) {}
  /// Cuts `base` into matrices and vectors, or only counts if it is null. Returns the bytes.
  size_t lay_out(const ModelConfig& config, const Arithmetic& arithmetic, std::byte* base);

  Shard shard_;
  Buffer memory_;
  PackedMatrix embedding_{}, head_{};
  const float* final_norm_ = nullptr;
  std::vector<LayerWeights> layers_;
};

/// Bytes of a packed matrix.
size_t matrix_bytes(const PackedMatrix& matrix);

/// Row `row` of a packed matrix as fp32: the embedding of a token. out [columns].
void unpack_row(const PackedMatrix& matrix, size_t row, size_t columns, float* out);

}  // namespace rill
