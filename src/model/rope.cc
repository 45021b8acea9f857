// SPDX-License-Identifier: Apache-2.0
#include "model/rope.h"

#include <algorithm>
#include <cmath>

#include "base/fixed_math.h"

namespace rill {
namespace {

constexpr double kTwoPi = 0x1.921fb54442d18p+2;

double magnitude(double scale, double k) {
  return scale <= 1 ? 1 : 0.1 * k * fixed::log(scale) + 1;
}

double attention_factor(const YarnScaling& yarn) {
  if (yarn.attention_factor) return *yarn.attention_factor;
  if (yarn.mscale.value_or(0) != 0 && yarn.mscale_all_dim.value_or(0) != 0)
    return magnitude(yarn.factor, *yarn.mscale) / magnitude(yarn.factor, *yarn.mscale_all_dim);
  return magnitude(yarn.factor, 1);
}

// Low dimensions turn often within the trained length and are kept; high ones are stretched by
// `factor`; a ramp lies between.
void stretch(const YarnScaling& yarn, double theta, double d, std::vector<double>& inverse) {
  const auto dimension = [&](double rotations) {
    const double length = yarn.original_max_position_embeddings;
    return d * fixed::log(length / (rotations * kTwoPi)) / (2 * fixed::log(theta));
  };
  double low = dimension(yarn.beta_fast), high = dimension(yarn.beta_slow);
  if (yarn.truncate) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, d - 1);
  if (low == high) high += 0.001;
  for (size_t i = 0; i < inverse.size(); ++i) {
    const double place = (static_cast<double>(i) - low) / (high - low);
    const double ramp = std::min(std::max(place, 0.0), 1.0);
    inverse[i] = inverse[i] / yarn.factor * ramp + inverse[i] * (1 - ramp);
  }
}

}  // namespace

Rope::Rope(const ModelConfig& config) : inverse_(config.head_dim / 2) {
  const auto d = static_cast<double>(config.head_dim);
  for (size_t i = 0; i < inverse_.size(); ++i)
    inverse_[i] = fixed::pow(config.rope_theta, -(static_cast<double>(2 * i) / d));
  if (!config.yarn) return;
  stretch(*config.yarn, config.rope_theta, d, inverse_);
  factor_ = attention_factor(*config.yarn);
}

}  // namespace rill
