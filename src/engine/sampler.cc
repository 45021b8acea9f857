// SPDX-License-Identifier: Apache-2.0
#include "engine/sampler.h"

#include <algorithm>
#include <cassert>
#include <cmath>

#include "base/error.h"
#include "base/fixed_math.h"

namespace rill {
namespace {

constexpr uint8_t kSeen = 1, kGenerated = 2, kUnused = 4;

void require(const char* option, double value, double low, double high) {
  if (!(value >= low && value <= high)) {
    fail(option, " is ", value, ", expected a number from ", low, " to ", high,
         "; choose one in this range");
  }
}

}  // namespace

double uniform_at(uint64_t seed, uint64_t position) {
  auto low = [](uint64_t x) { return static_cast<uint32_t>(x); };
  auto high = [](uint64_t x) { return static_cast<uint32_t>(x >> 32); };
  uint32_t key[2] = {low(seed), high(seed)};
  uint32_t c[4] = {low(position), high(position), 0, 0};
  for (int round = 0; round < 10; ++round) {
    const uint64_t a = uint64_t{0xD2511F53} * c[0], b = uint64_t{0xCD9E8D57} * c[2];
    const uint32_t next[4] = {high(b) ^ c[1] ^ key[0], low(b), high(a) ^ c[3] ^ key[1], low(a)};
    std::copy(next, next + 4, c);
    key[0] += 0x9E3779B9;
    key[1] += 0xBB67AE85;
  }
  return static_cast<double>((uint64_t{c[0]} << 21) | (c[1] >> 11)) * 0x1p-53;
}

void check_sampling(const SamplingOptions& options) {
  // The lower bounds keep l / T and l / r finite for every finite float.
  if (options.temperature != 0) require("--temperature", options.temperature, 1e-6, 100);
  require("--top-p", options.top_p, 1e-9, 1);
  require("--min-p", options.min_p, 0, 1);
  require("--repetition-penalty", options.repetition_penalty, 1e-3, 1e3);
  require("--presence-penalty", options.presence_penalty, -100, 100);
}

Sampler::Sampler(const SamplingOptions& options, size_t candidates, std::span<const int32_t> unused)
    : options_(options), candidates_(candidates), seen_(candidates, 0) {
  assert(candidates > 0);
  check_sampling(options);
  for (const int32_t id : unused)
    if (static_cast<size_t>(id) < candidates) seen_[static_cast<size_t>(id)] = kUnused;
  kept_.reserve(candidates);
  weight_.reserve(candidates);
}

void Sampler::start(std::span<const int32_t> prompt) {
  for (uint8_t& seen : seen_) seen &= kUnused;
  for (const int32_t id : prompt)
    if (static_cast<size_t>(id) < candidates_) seen_[static_cast<size_t>(id)] |= kSeen;
}

void Sampler::accept(int32_t id) {
  if (static_cast<size_t>(id) < candidates_) seen_[static_cast<size_t>(id)] |= kSeen | kGenerated;
}

double Sampler::penalised(float logit, int32_t id) const {
  double l = logit;
  const uint8_t seen = seen_[static_cast<size_t>(id)];
  const double r = options_.repetition_penalty;
  if ((seen & kSeen) != 0 && r != 1) l = l < 0 ? l * r : l / r;
  if ((seen & kGenerated) != 0) l = l - options_.presence_penalty;
  return l;
}

int32_t Sampler::greedy(std::span<const float> logits) const {
  int32_t best = -1;
  double best_logit = 0;
  for (size_t i = 0; i < candidates_; ++i) {
    if ((seen_[i] & kUnused) != 0) continue;
    const double l = penalised(logits[i], static_cast<int32_t>(i));
    if (best < 0 || l > best_logit) {
      best = static_cast<int32_t>(i);
      best_logit = l;
    }
  }
  return best;
}

void Sampler::select(std::span<const float> logits) {
  kept_.clear();
  for (size_t i = 0; i < candidates_; ++i) {
    if ((seen_[i] & kUnused) != 0) continue;
    const auto id = static_cast<int32_t>(i);
    kept_.push_back({penalised(logits[i], id) / options_.temperature, id});
  }
  // A total order, so that sorting the first k alone gives what sorting all would.
  auto before = [](const Candidate& a, const Candidate& b) {
    return a.logit != b.logit ? a.logit > b.logit : a.id < b.id;
  };
  if (options_.top_k > 0 && options_.top_k < kept_.size()) {
    const auto end = kept_.begin() + static_cast<std::ptrdiff_t>(options_.top_k);
    std::nth_element(kept_.begin(), end - 1, kept_.end(), before);
    kept_.erase(end, kept_.end());
  }
  std::sort(kept_.begin(), kept_.end(), before);
  weight_.clear();
  for (const Candidate& candidate : kept_)
    weight_.push_back(fixed::exp(candidate.logit - kept_[0].logit));
  if (options_.top_p < 1) {
    double sum = 0;
    for (const double w : weight_) sum += w;
    const double limit = options_.top_p * sum;
    double before_it = 0;
    size_t count = 0;
    while (count < weight_.size() && (count == 0 || before_it < limit))
      before_it += weight_[count++];
    weight_.resize(count);
  }
  if (options_.min_p > 0) {
    size_t count = 1;
    while (count < weight_.size() && weight_[count] >= options_.min_p) ++count;
    weight_.resize(count);
  }
}

int32_t Sampler::sample(std::span<const float> logits, uint64_t position) {
  assert(logits.size() >= candidates_);
  if (options_.greedy || options_.temperature == 0) return greedy(logits);
  select(logits);
  double sum = 0;
  for (const double w : weight_) sum += w;
  const double x = uniform_at(options_.seed, position) * sum;
  double running = 0;
  for (size_t i = 0; i < weight_.size(); ++i) {
    running += weight_[i];
    if (running > x) return kept_[i].id;
  }
  return kept_[weight_.size() - 1].id;
}

}  // namespace rill
