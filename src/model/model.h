// SPDX-License-Identifier: Apache-2.0
// A model and what it runs on, as the parts of a forward pass see it.
#pragma once
#include "model/arithmetic.h"
#include "model/config.h"
#include "model/runtime.h"
#include "model/weights.h"

namespace rill {

struct Model {
  const ModelConfig& config;
  const Arithmetic& arithmetic;
  const Weights& weights;
  Runtime runtime;
};

}  // namespace rill
