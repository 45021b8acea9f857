// SPDX-License-Identifier: Apache-2.0
// What tensor-parallel ranks tell each other in a forward step (docs/arithmetic.md, section 11). A
// process that has the whole model uses the form in which everything is there already.
#pragma once
#include <cstdint>
#include <memory>
#include <span>

#include "base/team.h"
#include "kernels/kernels.h"
#include "model/config.h"
#include "model/ranks.h"

namespace rill {

/// The two matrices that ranks cut along k.
enum class Cut : size_t { O, DOWN };

/// x += sum + bias, for `rows` rows.
struct ResidualSum {
  float* x;  // [rows][stride]
  size_t stride;
  const float* bias;  // [hidden] or null
  size_t rows;
};

/// What a linear layer writes.
struct LinearTarget {
  float* y;
  size_t stride;
  const float* bias;
  Epilogue epilogue;
};

/// The methods that take a Worker are called in a parallel region, by all its threads, on all
/// ranks. What they change other threads may read after a barrier, unless something else is said.
class TensorRanks {
 public:
  virtual ~TensorRanks() = default;
  /// For steps of up to `most_rows` rows. Throws rill::Error if there is no memory.
  static std::unique_ptr<TensorRanks> make(const ModelConfig& config, const Ranks& ranks,
                                           size_t most_rows);
  /// Bytes that make() allocates.
  static size_t scratch_bytes(const ModelConfig& config, size_t tp, size_t most_rows);

  /// Are the roots of `rows` rows added by one rank each, and the sums handed on?
  static bool sums_by_rows(size_t tp, size_t rows, size_t width);

  /// Where the product with this rank's i-th CutMatrix goes: the root of a subtree of leaves.
  virtual LinearTarget root(Cut cut, size_t i, const ResidualSum& to) = 0;
  /// Begins to hand the roots over, a barrier after the products. One cut at a time.
  virtual void start_roots(Worker& worker, Cut cut, const ResidualSum& to) = 0;
  /// Adds the roots of all ranks in the tree, and the sum to the residual stream, which all threads
  /// may read then.
  virtual void add_roots(Worker& worker, Cut cut, const ResidualSum& to) = 0;
  /// Rows of x [tokens][stride] that hold the embeddings of other ranks' tokens.
  virtual void share_embeddings(Worker& worker, std::span<const int32_t> tokens, float* x,
                                size_t stride) = 0;
  /// logits [rows][vocabulary], of which this rank has computed its part of the vocabulary. Every
  /// rank gets all, and so chooses the same token without being told.
  virtual void share_logits(Worker& worker, float* logits, size_t rows) = 0;
  /// The least of the ranks' values; by one thread.
  virtual size_t least(size_t value) = 0;
};

}  // namespace rill
