// SPDX-License-Identifier: Apache-2.0
// Rotary position embedding: the cosines and sines of a position (docs/arithmetic.md, section 6).
#pragma once
#include <cstddef>
#include <vector>

#include "kernels/table.h"
#include "model/config.h"

namespace rill {

/// The angles of one model, with YaRN's scaling (arXiv 2309.00071) where the config asks for it.
/// Everything is computed in double and rounded once: fp32 angles would be off by 1.5e-3 at
/// position 40,959.
class Rope {
 public:
  explicit Rope(const ModelConfig& config);

  /// What Kernels::rotations makes the cosines and sines of a position from.
  RopeAngles angles() const { return {inverse_.data(), inverse_.size(), factor_}; }

 private:
  std::vector<double> inverse_;  // [head_dim / 2]
  double factor_ = 1;            // YaRN's
};

}  // namespace rill
