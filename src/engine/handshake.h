// SPDX-License-Identifier: Apache-2.0
// Ranks of one job agree on what they compute before they compute it.
#pragma once
#include <string>

#include "model/checkpoint.h"
#include "model/ranks.h"

namespace rill {

/// A hash of the program that runs: its whole file.
uint64_t program_hash();

/// A hash of a model's files: its small ones whole (config.json, those of the tokenizer), the name,
/// type and shape of every tensor, and the first and last 64 KiB of each.
uint64_t model_hash(const Checkpoint& checkpoint);

/// Throws rill::Error on all ranks, naming the first one whose `value` is not rank 0's and `what`
/// differs there. Called by all.
void require_same(Communicator& world, uint64_t value, const std::string& what);

/// The same binary, options (`options` describes them) and model on all ranks; of a process by
/// itself nothing is read.
void shake_hands(Communicator& world, const Checkpoint& checkpoint, const std::string& options);

}  // namespace rill
