// SPDX-License-Identifier: Apache-2.0
// How far a long step is, on standard error.
#pragma once
#include <functional>
#include <string>

namespace rill::apps {

/// A bar that redraws itself as `done` of `total` grows and vanishes at the end; an empty function
/// when standard error is no terminal. May be called from any one thread at a time.
std::function<void(size_t done, size_t total)> progress_bar(const std::string& label);

}  // namespace rill::apps
