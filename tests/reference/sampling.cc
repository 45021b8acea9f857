// SPDX-License-Identifier: Apache-2.0
#include "sampling.h"

#include <algorithm>
#include <set>

#include "arithmetic.h"

namespace rill::reference {
namespace {

struct Candidate {
  double logit;
  int32_t id;
};

void penalise(std::vector<Candidate>& candidates, const Sampling& options,
              const std::vector<int32_t>& prompt, const std::vector<int32_t>& generated) {
  const std::set<int32_t> fresh(generated.begin(), generated.end());
  std::set<int32_t> seen = fresh;
  seen.insert(prompt.begin(), prompt.end());
  for (Candidate& c : candidates) {
    if (seen.count(c.id) != 0) {
      c.logit =
          c.logit < 0 ? c.logit * options.repetition_penalty : c.logit / options.repetition_penalty;
    }
    if (fresh.count(c.id) != 0) c.logit = c.logit - options.presence_penalty;
  }
}

double sum_of(const std::vector<double>& weights) {
  double sum = 0;
  for (const double w : weights) sum = sum + w;
  return sum;
}

}  // namespace

std::array<uint32_t, 4> philox4x32(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t first = uint64_t{0xD2511F53u} * counter[0];
    const uint64_t second = uint64_t{0xCD9E8D57u} * counter[2];
    counter = {
        static_cast<uint32_t>(second >> 32) ^ counter[1] ^ key[0], static_cast<uint32_t>(second),
        static_cast<uint32_t>(first >> 32) ^ counter[3] ^ key[1], static_cast<uint32_t>(first)};
    key = {key[0] + 0x9E3779B9u, key[1] + 0xBB67AE85u};
  }
  return counter;
}

double uniform(uint64_t seed, uint64_t position) {
  const auto low = [](uint64_t v) { return static_cast<uint32_t>(v); };
  const auto high = [](uint64_t v) { return static_cast<uint32_t>(v >> 32); };
  const auto x = philox4x32({low(position), high(position), 0, 0}, {low(seed), high(seed)});
  return static_cast<double>(uint64_t{x[0]} << 21 | x[1] >> 11) * 0x1p-53;
}

int32_t sample(const std::vector<float>& logits, const Sampling& options,
               const std::vector<int32_t>& prompt, const std::vector<int32_t>& generated) {
  std::vector<Candidate> candidates;
  for (const float logit : logits) {
    candidates.push_back({logit, static_cast<int32_t>(candidates.size())});
  }
  penalise(candidates, options, prompt, generated);
  if (options.temperature != 0) {
    for (Candidate& c : candidates) c.logit = c.logit / options.temperature;
  }
  std::sort(candidates.begin(), candidates.end(), [](const Candidate& a, const Candidate& b) {
    return a.logit != b.logit ? a.logit > b.logit : a.id < b.id;
  });
  if (options.temperature == 0) return candidates[0].id;
  const size_t k = static_cast<size_t>(options.top_k);
  if (k > 0 && k < candidates.size()) candidates.resize(k);

  std::vector<double> weights;
  for (const Candidate& c : candidates) {
    weights.push_back(fixed::exp(c.logit - candidates[0].logit));
  }
  if (options.top_p < 1) {
    const double limit = options.top_p * sum_of(weights);
    double before = weights[0];
    size_t kept = 1;
    while (kept < weights.size() && before < limit) before = before + weights[kept++];
    weights.resize(kept);
  }
  if (options.min_p > 0) {
    size_t kept = 1;
    while (kept < weights.size() && weights[kept] >= options.min_p) ++kept;
    weights.resize(kept);
  }
  const uint64_t position = prompt.size() + generated.size();
  const double target = uniform(options.seed, position) * sum_of(weights);
  double running = 0;
  for (size_t i = 0; i < weights.size(); ++i) {
    running = running + weights[i];
    if (running > target) return candidates[i].id;
  }
  return candidates[weights.size() - 1].id;
}

}  // namespace rill::reference
