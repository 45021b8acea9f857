// SPDX-License-Identifier: Apache-2.0
// Context out of nothing: measuring at a depth of 32,768 tokens should not take computing them.
#pragma once
#include <cstdint>

#include "model/config.h"
#include "model/kv_cache.h"
#include "model/runtime.h"

namespace rill {

/// Appends `tokens` to `sequence`, with random K and V of mean 0 and variance 1 (about what QK norm
/// and a trained model's values have), stored as a forward step stores them. They depend on the
/// seed, layer, head and position alone, not on the threads or on how a depth was reached. Throws
/// rill::Error if the cache has no room.
void fill_random(KvSequence& sequence, size_t tokens, uint64_t seed, Runtime runtime);

/// `count` values of that kind, the same for the same `seed`.
void random_values(uint64_t seed, size_t count, float* out);

}  // namespace rill
