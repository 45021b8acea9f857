// SPDX-License-Identifier: Apache-2.0
// Standard input when no line of it is edited: a file, a pipe, a terminal as it is.
#pragma once
#include <optional>
#include <string>

namespace rill::apps {

/// All that is left of it. Throws Error if reading fails.
std::string read_standard_input();

/// Its next line without the newline; none at its end. Throws Error if reading fails. Not to be
/// mixed with read_standard_input(), which does not see what this has read ahead.
std::optional<std::string> read_standard_input_line();

}  // namespace rill::apps
