// SPDX-License-Identifier: Apache-2.0
// The forward pass of Qwen3 in plain double precision, from the checkpoint as it is stored: what
// the fast path is measured against. It shares no arithmetic with it.
#pragma once
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "base/team.h"
#include "model/checkpoint.h"
#include "model/config.h"

namespace rill {

/// Logits of every token of `ids` (each in range), [ids][vocabulary]. `progress` gets layers done
/// and in all. Takes some seconds per billion parameters and ten tokens.
std::vector<double> oracle_logits(const ModelConfig& config, const Checkpoint& checkpoint,
                                  Team& team, std::span<const int32_t> ids,
                                  const std::function<void(size_t, size_t)>& progress = {});

}  // namespace rill
