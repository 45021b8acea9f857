// SPDX-License-Identifier: Apache-2.0
// --profile-comm: what the ranks told each other.
#pragma once
#include <string>

#include "model/ranks.h"

namespace rill::apps {

/// A table of what each rank sent in the model's forward steps so far, how often, and how long it
/// was at it, waiting included. Called by all ranks.
std::string comm_profile(const Ranks& ranks);

}  // namespace rill::apps
