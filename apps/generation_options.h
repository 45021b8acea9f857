// SPDX-License-Identifier: Apache-2.0
// The options of `rill run` and `rill chat` that shape the text.
#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "engine/loaded_model.h"
#include "rill/generate.h"

namespace CLI {
class App;
}

namespace rill::apps {

/// What the user gave; the rest comes from generation_config.json.
struct GenerationFlags {
  std::optional<double> temperature, top_p, min_p, repetition_penalty, presence_penalty;
  std::optional<size_t> top_k, max_tokens;
  uint64_t seed = 0;
  bool greedy = false;
  std::vector<std::string> stop;

  /// `defaults`: of the model.
  GenerateOptions over(const SamplingOptions& defaults) const;
};

void add_generation_options(CLI::App& command, GenerationFlags& flags);

/// --system TEXT, --think on|off.
struct TemplateFlags {
  std::string system;
  bool has_system = false, has_think = false;
  bool think = true;
};
void add_template_options(CLI::App& command, TemplateFlags& flags);

/// "on" or "off"; throws UsageError naming `option`.
bool parse_switch(const std::string& text, const std::string& option);

/// "prefill 12 tokens, 345.6 tokens/s; decode 40 tokens, 78.9 tokens/s; end of text".
std::string describe_speed(const GenerateResult& result);

/// Has the model positions for a larger --ctx?
bool can_hold_more(const LoadedModel& model);

}  // namespace rill::apps
