// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstdint>
#include <vector>

#include "common_options.h"

namespace rill::apps {

/// Runs `prompt` and `length` greedy tokens with both attentions, each from one base run along one
/// axis at a time (threads, chunks, places in a batch, instruction sets), prints a table, and
/// returns the exit status: 1 if any run differs from its base or strays from the oracle.
int verify_bits(const CommonOptions& common, const std::vector<int32_t>& prompt, size_t length,
                bool quick);

}  // namespace rill::apps
