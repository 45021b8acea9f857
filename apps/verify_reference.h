// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <string>

#include "common_options.h"

namespace rill::apps {

/// Compares the model with reference.json and reference.safetensors in `folder` (or beside the file
/// that is named), with both attentions, under every compute type unless --compute chooses.
/// Prints what was compared, found and allowed, and returns the exit status.
int verify_reference(const CommonOptions& common, const std::string& folder);

}  // namespace rill::apps
