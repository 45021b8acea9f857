// SPDX-License-Identifier: Apache-2.0
#include "rank_agreement.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <numeric>
#include <span>

#include "engine/handshake.h"

namespace rill::apps {
namespace {

/// A rank's text for all ranks.
std::vector<std::string> all_texts(Communicator& world, const std::string& mine) {
  const auto ranks = static_cast<size_t>(world.size()), me = static_cast<size_t>(world.rank());
  std::vector<uint64_t> sizes(ranks);
  sizes[me] = mine.size();
  const std::vector<size_t> counts(ranks, sizeof(uint64_t));
  world.all_gather(reinterpret_cast<std::byte*>(sizes.data()), counts);
  std::vector<size_t> bytes(sizes.begin(), sizes.end()), begin(ranks + 1);
  std::partial_sum(bytes.begin(), bytes.end(), begin.begin() + 1);
  std::string all(begin.back(), '\0');
  std::copy(mine.begin(), mine.end(), all.begin() + static_cast<std::ptrdiff_t>(begin[me]));
  world.all_gather(reinterpret_cast<std::byte*>(all.data()), bytes);
  std::vector<std::string> texts;
  for (size_t rank = 0; rank < ranks; ++rank) texts.push_back(all.substr(begin[rank], bytes[rank]));
  return texts;
}

/// "--weights int8", one after the other, each closed by a zero.
std::string options_text(const Program& program) {
  const CLI::App& command = program.chosen ? *program.chosen : program.app;
  std::string text = program.chosen ? command.get_name() + '\0' : "";
  for (const CLI::Option* option : command.get_options()) {
    const std::string name = option->get_name();
    const bool own = option->get_group() == kMachineGroup || name == "MODEL" || name == "--model" ||
                     name == "--out";
    if (own || option->count() == 0) continue;
    text += name;
    for (const std::string& value : option->results()) text += " " + value;
    text += '\0';
  }
  return text;
}

std::vector<std::string> words_of(const std::string& text) {
  std::vector<std::string> words;
  for (size_t begin = 0, end; (end = text.find('\0', begin)) != std::string::npos; begin = end + 1)
    words.push_back(text.substr(begin, end - begin));
  return words;
}

/// The first of `words` that is not among `others`.
std::string only_in(const std::vector<std::string>& words, const std::vector<std::string>& others) {
  for (const std::string& word : words)
    if (std::find(others.begin(), others.end(), word) == others.end()) return word;
  return "";
}

}  // namespace

void require_same_program(Communicator& world) {
  if (world.size() > 1) require_same(world, program_hash(), "another program or build of Rill");
}

void require_same_options(const Program& program, const std::string& refusal) {
  Communicator& world = program.world;
  if (world.size() == 1) {
    if (!refusal.empty()) throw UsageError(refusal);
    return;
  }
  const std::vector<std::string> refusals = all_texts(world, refusal);
  const auto refused = std::find_if(refusals.begin(), refusals.end(),
                                    [](const std::string& text) { return !text.empty(); });
  if (refused != refusals.end()) {
    const bool all = std::all_of(refusals.begin(), refusals.end(),
                                 [&](const std::string& text) { return text == refusals[0]; });
    throw UsageError((all ? "" : "rank " + std::to_string(refused - refusals.begin()) + ": ") +
                     *refused);
  }
  const std::vector<std::string> texts = all_texts(world, options_text(program));
  for (size_t rank = 1; rank < texts.size(); ++rank) {
    if (texts[rank] == texts[0]) continue;
    const auto first = words_of(texts[0]), other = words_of(texts[rank]);
    std::string has = only_in(other, first), lacks = only_in(first, other);
    throw UsageError("rank " + std::to_string(rank) + " has " +
                     (has.empty() ? "not \"" + lacks + "\"" : "\"" + has + "\"") +
                     " on its command line, unlike rank 0" +
                     (has.empty() || lacks.empty() ? "" : ", which has \"" + lacks + "\"") +
                     "; start all ranks with the same options");
  }
}

}  // namespace rill::apps
