// SPDX-License-Identifier: Apache-2.0
// Ranks of one job must have been asked for the same thing before they talk about anything else.
#pragma once
#include <string>

#include "program.h"

namespace rill::apps {

/// Throws rill::Error on all ranks if not all of them run the same program. Called by all, first.
void require_same_program(Communicator& world);

/// Compares what each rank understood of its command line, but for what may differ between machines
/// (MODEL, --out, the options of the group kMachineGroup). `refusal`: why this rank's line was
/// refused, "" if it was not. Throws UsageError on all ranks if one refused its line or was given
/// other options than the first one; of a process by itself, its own refusal. Called by all.
void require_same_options(const Program& program, const std::string& refusal);

}  // namespace rill::apps
