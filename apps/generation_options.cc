// SPDX-License-Identifier: Apache-2.0
#include "generation_options.h"

#include <CLI/CLI.hpp>
#include <charconv>
#include <iomanip>
#include <sstream>

#include "program.h"

namespace rill::apps {
namespace {

uint64_t parse_seed(const std::string& text) {
  uint64_t seed = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), seed);
  if (error != std::errc() || end != text.data() + text.size())
    throw UsageError("--seed is '" + text + "'; use a whole number from 0 to 18446744073709551615");
  return seed;
}

}  // namespace

GenerateOptions GenerationFlags::over(const SamplingOptions& defaults) const {
  GenerateOptions options;
  options.sampling = defaults;
  SamplingOptions& sampling = options.sampling;
  // Who asks for a temperature or a cut wants to sample, also where the model's default is greedy.
  if (temperature || top_k || top_p || min_p) sampling.greedy = false;
  sampling.temperature = temperature.value_or(sampling.temperature);
  sampling.top_k = top_k.value_or(sampling.top_k);
  sampling.top_p = top_p.value_or(sampling.top_p);
  sampling.min_p = min_p.value_or(sampling.min_p);
  sampling.repetition_penalty = repetition_penalty.value_or(sampling.repetition_penalty);
  sampling.presence_penalty = presence_penalty.value_or(sampling.presence_penalty);
  sampling.seed = seed;
  if (greedy) sampling.greedy = true;
  options.stop = stop;
  options.max_tokens = max_tokens.value_or(0);
  return options;
}

void add_generation_options(CLI::App& command, GenerationFlags& flags) {
  const std::string group = "Sampling (defaults from generation_config.json)";
  auto number = [&](const char* name, std::optional<double>& target, double low, double high,
                    const std::string& text) {
    return command
        .add_option_function<double>(
            name,
            [&target, name, low, high](const double& value) {
              if (!(value >= low && value <= high)) {  // also refuses NaN
                std::ostringstream message;
                message << name << " is " << value << "; use a number from " << low << " to "
                        << high;
                throw UsageError(message.str());
              }
              target = value;
            },
            text)
        ->group(group);
  };
  auto* temperature = number("--temperature", flags.temperature, 0, 100, "0: greedy");
  auto* top_k = command.add_option("--top-k", flags.top_k, "keep the k likeliest tokens; 0: all")
                    ->check(CLI::Range(size_t{0}, size_t{1} << 30))
                    ->type_name("N")
                    ->group(group);
  auto* top_p = number("--top-p", flags.top_p, 1e-9, 1, "keep the likeliest of this probability");
  auto* min_p = number("--min-p", flags.min_p, 0, 1, "drop tokens below this share of the best");
  number("--repetition-penalty", flags.repetition_penalty, 1e-3, 1e3,
         "divide the logits of tokens seen in prompt or text; 1: off");
  number("--presence-penalty", flags.presence_penalty, -100, 100,
         "subtracted from the logits of tokens seen in the text; 0: off");
  command
      .add_option_function<std::string>(
          "--seed", [&flags](const std::string& text) { flags.seed = parse_seed(text); },
          "the same seed gives the same text on any machine (default 0)")
      ->type_name("N")
      ->group(group);
  command.add_flag("--greedy", flags.greedy, "always the likeliest token")
      ->excludes(temperature)
      ->excludes(top_k)
      ->excludes(top_p)
      ->excludes(min_p)
      ->group(group);
  command
      .add_option_function<std::string>(
          "--stop",
          [&flags](const std::string& text) {
            if (text.empty()) throw UsageError("--stop is empty; give at least one character");
            flags.stop.push_back(text);
          },
          "end the text before this string (may be given several times)")
      ->trigger_on_parse();
  command
      .add_option("--max-tokens", flags.max_tokens,
                  "most tokens to generate (default: until the context is full)")
      ->check(CLI::Range(size_t{1}, size_t{1} << 30))
      ->type_name("N");
}

void add_template_options(CLI::App& command, TemplateFlags& flags) {
  command.add_option_function<std::string>(
      "--system",
      [&flags](const std::string& text) {
        flags.system = text;
        flags.has_system = true;
      },
      "the system message (default: none)");
  command
      .add_option_function<std::string>(
          "--think",
          [&flags](const std::string& text) {
            flags.think = parse_switch(text, "--think");
            flags.has_think = true;
          },
          "let the model think before it answers: on or off (default on)")
      ->type_name("on|off");
}

bool parse_switch(const std::string& text, const std::string& option) {
  if (text == "on") return true;
  if (text == "off") return false;
  throw UsageError(option + " is '" + text + "'; use on or off");
}

std::string describe_speed(const GenerateResult& result) {
  std::ostringstream text;
  text << std::fixed << std::setprecision(1);
  auto part = [&](const char* name, size_t tokens, double seconds) {
    text << name << " " << tokens << (tokens == 1 ? " token" : " tokens");
    if (tokens > 0 && seconds > 0)
      text << ", " << static_cast<double>(tokens) / seconds << " tokens/s";
  };
  part("prefill", result.prompt_tokens - result.reused, result.prefill_seconds);
  if (result.reused > 0) text << " (" << result.reused << " more stood in the KV cache)";
  text << "; ";
  part("decode", result.decode_steps, result.decode_seconds);
  text << "; " << to_string(result.reason);
  return text.str();
}

bool can_hold_more(const LoadedModel& model) {
  return model.session.context < model.config.max_position_embeddings;
}

}  // namespace rill::apps
