// SPDX-License-Identifier: Apache-2.0
#include "engine/answer.h"

#include <algorithm>
#include <cassert>

#include "base/error.h"

namespace rill {
namespace {

/// Where the earliest of the stop strings begins in `text`, or npos.
size_t find_stop(const std::string& text, const std::vector<std::string>& stops) {
  size_t first = std::string::npos;
  for (const std::string& stop : stops) first = std::min(first, text.find(stop));
  return first;
}

/// Bytes at the end of `text` that may be the start of a stop string.
size_t possible_start(const std::string& text, const std::vector<std::string>& stops) {
  size_t longest = 0;
  for (const std::string& stop : stops) {
    for (size_t n = std::min(stop.size() - 1, text.size()); n > longest; --n) {
      if (text.compare(text.size() - n, n, stop, 0, n) == 0) longest = n;
    }
  }
  return longest;
}

size_t candidates(const LoadedModel& model, const TextSide* text) {
  const size_t rows = model.config.vocab_size;
  return text == nullptr ? rows : std::min(rows, text->tokenizer.vocab_size());
}

std::vector<int32_t> unused(const TextSide* text) {
  return text == nullptr ? std::vector<int32_t>{} : text->unused_ids();
}

}  // namespace

const char* to_string(StopReason reason) {
  switch (reason) {
    case StopReason::END_OF_TEXT:
      return "end of text";
    case StopReason::STOP_STRING:
      return "stop string";
    case StopReason::MAX_TOKENS:
      return "--max-tokens reached";
    case StopReason::CONTEXT_FULL:
      return "context full";
    case StopReason::CANCELLED:
      return "cancelled";
  }
  return "?";
}

std::vector<int32_t> end_of_text_ids(const LoadedModel& model) {
  return model.generation.eos_token_ids.empty() ? model.config.eos_token_ids
                                                : model.generation.eos_token_ids;
}

SamplingOptions default_sampling(const GenerationConfig& generation) {
  SamplingOptions sampling;
  const bool gives_sampling = generation.temperature.has_value() || generation.top_k.has_value() ||
                              generation.top_p.has_value();
  sampling.greedy = !generation.do_sample.value_or(gives_sampling);
  sampling.temperature = generation.temperature.value_or(1.0);
  sampling.top_k = generation.top_k.value_or(0);
  sampling.top_p = generation.top_p.value_or(1.0);
  sampling.min_p = generation.min_p.value_or(0.0);
  sampling.repetition_penalty = generation.repetition_penalty.value_or(1.0);
  return sampling;
}

Answer::Answer(const LoadedModel& model, const TextSide* text, const GenerateOptions& options,
               std::span<const int32_t> prompt)
    : options_(options), sampler_(options.sampling, candidates(model, text), unused(text)) {
  if (!options.ignore_end_of_text) end_ids_ = end_of_text_ids(model);
  if (text != nullptr) decoder_.emplace(text->tokenizer, true);
  if (text == nullptr && !options.stop.empty()) {
    fail("a stop string was given, but ", model.folder.string(),
         " has no tokenizer.json, so there is no text to look into; leave it out");
  }
  for (const std::string& stop : options.stop)
    if (stop.empty()) fail("--stop is empty, expected at least one character; leave it out");
  sampler_.start(prompt);
  result_.prompt_tokens = prompt.size();
}

void Answer::append(const std::string& piece) {
  held_ += piece;
  const size_t stop = find_stop(held_, options_.stop);
  size_t settled = stop;
  if (stop == std::string::npos) settled = held_.size() - possible_start(held_, options_.stop);
  ready_.append(held_, 0, settled);
  result_.text.append(held_, 0, settled);
  held_.erase(0, settled);
  if (stop == std::string::npos) return;
  held_.clear();
  result_.reason = StopReason::STOP_STRING;
  ended_ = true;
}

void Answer::end(StopReason reason) {
  if (ended_) return;
  if (decoder_) append(decoder_->flush());
  if (ended_) return;  // the last character completed a stop string
  ready_ += held_;
  result_.text += held_;
  held_.clear();
  result_.reason = reason;
  ended_ = true;
}

std::optional<int32_t> Answer::next(std::span<const float> logits, uint64_t position) {
  assert(!ended_);
  const int32_t id = sampler_.sample(logits, position);
  if (std::find(end_ids_.begin(), end_ids_.end(), id) != end_ids_.end()) {
    end(StopReason::END_OF_TEXT);
    return std::nullopt;
  }
  sampler_.accept(id);
  result_.tokens.push_back(id);
  if (decoder_) append(decoder_->push(id));
  if (options_.max_tokens > 0 && result_.tokens.size() >= options_.max_tokens)
    end(StopReason::MAX_TOKENS);
  return id;
}

std::string Answer::take_text() {
  std::string text;
  text.swap(ready_);
  return text;
}

}  // namespace rill
