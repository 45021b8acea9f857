// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <stdexcept>

namespace rill {

/// Thrown for anything that a user can cause and mend: files, options, prompts. The message is one
/// sentence that names the file, tensor or option, what was found, what was expected, what to do.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

}  // namespace rill
