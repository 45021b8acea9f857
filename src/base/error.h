// SPDX-License-Identifier: Apache-2.0
// The error of untrusted input: files, flags, prompts, remote ranks.
#pragma once
#include <sstream>
#include <stdexcept>
#include <string>

namespace rill {

/// Thrown for anything that a user can cause and mend. The message is one sentence that names the
/// file, tensor or option, what was found, what was expected, and what to do. Caught only in apps/.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// Joins `parts` into one message and throws it as Error.
template <class... Parts>
[[noreturn]] void fail(const Parts&... parts) {
  std::ostringstream message;
  (message << ... << parts);
  throw Error(message.str());
}

}  // namespace rill
