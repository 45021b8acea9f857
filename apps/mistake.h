// SPDX-License-Identifier: Apache-2.0
// What is wrong with a command line, in words of ours: what CLI11 says is short of what was
// expected, and it names an option's first spelling.
#pragma once
#include <string>
#include <vector>

namespace CLI {
class App;
class ParseError;
}  // namespace CLI

namespace rill::apps {

/// Why CLI11 has not understood a command line; `words` of it are those before "--", in order. Of
/// --help and --version, which it reports alike, what is wrong beside them; "" if nothing is.
std::string explain_mistake(const CLI::App& app, const std::vector<std::string>& words,
                            const CLI::ParseError& error);

/// What is wrong with one that CLI11 has understood; "" if nothing is.
std::string overlooked_mistake(const CLI::App& app, const std::vector<std::string>& words);

/// The (sub)command that was being parsed, as it is started.
std::string invocation(const CLI::App& app);

/// One line: a message may quote several lines of a library's.
std::string one_line(std::string text);

}  // namespace rill::apps
