// SPDX-License-Identifier: Apache-2.0
// The error of untrusted input: files, flags, prompts, remote ranks.
#pragma once
#include <sstream>

#include "rill/error.h"

namespace rill {

/// Joins `parts` into one message and throws it as Error.
template <class... Parts>
[[noreturn]] void fail(const Parts&... parts) {
  std::ostringstream message;
  (message << ... << parts);
  throw Error(message.str());
}

}  // namespace rill
