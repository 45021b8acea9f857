// SPDX-License-Identifier: Apache-2.0
// --profile-comm: what the ranks told each other.
#pragma once
#include <string>

#include "model/ranks.h"

namespace rill::apps {

/// A table of what each rank sent in the model's forward steps so far, how often, how long it was
/// at it, waiting for others included, and which share of the steps that is. Called by all ranks.
std::string comm_profile(const Ranks& ranks);

}  // namespace rill::apps
