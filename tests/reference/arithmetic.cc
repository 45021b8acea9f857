// SPDX-License-Identifier: Apache-2.0
// Elementary functions, pointwise operations and quantisation; products and attention are in
// products.cc. Follows docs/arithmetic.md section by section.
#include "arithmetic.h"

#include <algorithm>
#include <bit>
#include <cassert>
#include <cmath>
#include <limits>
#include <stdexcept>
#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace rill::reference {

// ---- 1. Ground rules --------------------------------------------------------------------------
#if defined(__x86_64__)
FlushSubnormals::FlushSubnormals() : saved_(_mm_getcsr()) {
  _mm_setcsr((static_cast<unsigned>(saved_) & ~0x6000u) | 0x8040u);  // nearest even, FTZ, DAZ
  asm volatile("" ::: "memory");  // loads, and so the arithmetic on them, stay behind this point
}
FlushSubnormals::~FlushSubnormals() {
  asm volatile("" ::: "memory");
  _mm_setcsr(static_cast<unsigned>(saved_));
}
#elif defined(__aarch64__)
FlushSubnormals::FlushSubnormals() {
  asm volatile("mrs %0, fpcr" : "=r"(saved_));
  asm volatile("msr fpcr, %0" ::"r"((saved_ & ~(3ull << 22)) | (1ull << 24)));
}
FlushSubnormals::~FlushSubnormals() {
  asm volatile("msr fpcr, %0" ::"r"(saved_));
}
#else
#error "flush-to-zero is not known for this processor"
#endif

// ---- 2. Conversions ---------------------------------------------------------------------------
uint16_t bf16_from_float(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return static_cast<uint16_t>(bits >> 16 | 0x0040u);
  if (magnitude < 0x00800000u) return static_cast<uint16_t>(bits >> 16 & 0x8000u);
  return static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

float float_from_bf16(uint16_t bits) {
  return std::bit_cast<float>(uint32_t{bits} << 16);
}

uint16_t f16_from_float(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint16_t sign = static_cast<uint16_t>(bits >> 16 & 0x8000u);
  if (std::isnan(value)) return static_cast<uint16_t>(sign | 0x7e00u | (bits >> 13 & 0x3ffu));
  // The magnitude as a whole number of f16's spacing at its size; double holds every step exactly.
  const double magnitude = std::bit_cast<float>(bits & 0x7fffffffu);
  if (magnitude >= 65520.0) return static_cast<uint16_t>(sign | 0x7c00u);
  int exponent = std::max(static_cast<int>(bits >> 23 & 0xffu) - 127, -14);  // of the leading bit
  // In units of 2^(exponent - 10) a normal value is 1024 to 2048, a subnormal one less than 1024.
  const double units = std::nearbyint(std::ldexp(magnitude, 10 - exponent));
  const int code = static_cast<int>(units) + (exponent + 14) * 1024;
  return static_cast<uint16_t>(sign | static_cast<uint16_t>(code));
}

float float_from_f16(uint16_t bits) {
  const int exponent = bits >> 10 & 31, fraction = bits & 0x3ff;
  double magnitude;
  if (exponent == 31) {
    magnitude = fraction != 0 ? std::numeric_limits<double>::quiet_NaN()
                              : std::numeric_limits<double>::infinity();
  } else {
    magnitude =
        exponent == 0 ? std::ldexp(fraction, -24) : std::ldexp(1024 + fraction, exponent - 25);
  }
  return static_cast<float>((bits & 0x8000u) != 0 ? -magnitude : magnitude);
}

float round_bf16(float value) {
  return float_from_bf16(bf16_from_float(value));
}
float round_f16(float value) {
  return float_from_f16(f16_from_float(value));
}

float round_kv(KvType type, float value) {
  if (type == KvType::kBf16) return round_bf16(value);
  return type == KvType::kF16 ? round_f16(value) : value;
}
float round_query(const Options& options, float value) {
  const bool rounded = rounds(options.compute) && options.kv != KvType::kInt8;
  return rounded ? round_bf16(value) : value;
}

// ---- 3. exp2 and exp --------------------------------------------------------------------------
float exp2(float x) {
  if (!(x >= -126.0f)) return 0.0f;  // NaN too
  if (x >= 128.0f) return std::numeric_limits<float>::infinity();
  const float n = std::nearbyint(x);
  const float f = x - n;
  float p = 0x1.416b56p-13f;
  p = std::fmaf(p, f, 0x1.5f082ep-10f);
  p = std::fmaf(p, f, 0x1.3b2de0p-7f);
  p = std::fmaf(p, f, 0x1.c6af7cp-5f);
  p = std::fmaf(p, f, 0x1.ebfbdcp-3f);
  p = std::fmaf(p, f, 0x1.62e430p-1f);
  p = std::fmaf(p, f, 1.0f);
  const uint32_t shift = static_cast<uint32_t>(static_cast<int32_t>(n)) << 23;
  return std::bit_cast<float>(std::bit_cast<uint32_t>(p) + shift);
}

float exp(float x) {
  const float y = x * 0x1.715476p+0f;
  return exp2(y);
}

// ---- 4. Double functions ----------------------------------------------------------------------
namespace fixed {
namespace {

// 1 / (first)!, 1 / (first + step)!, ... with alternating signs where asked.
double inverse_factorial(int k) {
  double product = 1.0;
  for (int i = 2; i <= k; ++i) product *= i;
  return 1.0 / product;
}

double horner(std::span<const double> coefficients, double z) {
  double p = coefficients.back();
  for (size_t i = coefficients.size() - 1; i-- > 0;) p = std::fma(p, z, coefficients[i]);
  return p;
}

struct Reduced {
  double sin, cos;  // of the remainder
  int quadrant;
};

Reduced reduce(double x) {
  const double n = std::nearbyint(x * 0x1.45f306dc9c883p-1);
  double r = std::fma(-n, 0x1.921fb54442d18p+0, x);
  r = std::fma(-n, 0x1.1a62633145c07p-54, r);
  const double z = r * r;
  std::array<double, 8> s, c;
  for (int i = 0; i < 8; ++i) {
    const double sign = i % 2 == 0 ? -1.0 : 1.0;
    s[i] = sign * inverse_factorial(2 * i + 3);
    c[i] = sign * inverse_factorial(2 * i + 2);
  }
  const int64_t whole = static_cast<int64_t>(n);
  return {std::fma(r * z, horner(s, z), r), std::fma(z, horner(c, z), 1.0),
          static_cast<int>(((whole % 4) + 4) % 4)};
}

}  // namespace

double log(double x) {
  if (x == 0.0) return -std::numeric_limits<double>::infinity();
  const uint64_t bits = std::bit_cast<uint64_t>(x);
  const uint64_t t = bits - 0x3fe6a09e667f3bcdull;
  const double e = static_cast<double>(static_cast<int64_t>(t) >> 52);
  const double m = std::bit_cast<double>(bits - (t & 0xfff0000000000000ull));
  const double s = (m - 1.0) / (m + 1.0);
  const double z = s * s;
  std::array<double, 10> c;
  for (int i = 0; i < 10; ++i) c[i] = 1.0 / (2 * i + 3);
  const double p = horner(c, z);
  const double h = s + s;
  const double zp = z * p;
  const double r = std::fma(h, zp, h);
  return std::fma(e, 0x1.62e42fefa39efp-1, std::fma(e, 0x1.abc9e3b39803fp-56, r));
}

double exp(double x) {
  if (std::isnan(x)) return x;
  if (x < -708.0) return 0.0;
  if (x > 709.0) return std::numeric_limits<double>::infinity();
  const double n = std::nearbyint(x * 0x1.71547652b82fep+0);
  double r = std::fma(-n, 0x1.62e42fefa39efp-1, x);
  r = std::fma(-n, 0x1.abc9e3b39803fp-56, r);
  std::array<double, 14> c;
  for (int i = 0; i < 14; ++i) c[i] = inverse_factorial(i);
  return std::ldexp(horner(c, r), static_cast<int>(n));
}

double pow(double x, double y) {
  const double exponent = y * log(x);
  return exp(exponent);
}

double sin(double x) {
  const Reduced r = reduce(x);
  const double values[4] = {r.sin, r.cos, -r.sin, -r.cos};
  return values[r.quadrant];
}

double cos(double x) {
  const Reduced r = reduce(x);
  const double values[4] = {r.cos, -r.sin, -r.cos, r.sin};
  return values[r.quadrant];
}

}  // namespace fixed

// ---- 5. Reductions, RMSNorm, SiLU -------------------------------------------------------------
float lane_tree(Lanes lanes) {
  for (int width = 8; width >= 1; width /= 2) {
    for (int j = 0; j < width; ++j) lanes[j] = lanes[j] + lanes[j + width];
  }
  return lanes[0];
}

std::vector<float> rmsnorm(std::span<const float> x, std::span<const float> weight, float eps) {
  const FlushSubnormals flush;
  assert(x.size() == weight.size());
  Lanes lanes{};
  for (size_t i = 0; i < x.size(); ++i) {
    float& lane = lanes[i % kLanes];
    lane = std::fmaf(x[i], x[i], lane);
  }
  const float sum = lane_tree(lanes);
  const float mean = sum / static_cast<float>(x.size());
  const float shifted = mean + eps;
  const float root = std::sqrt(shifted);
  const float r = 1.0f / root;
  std::vector<float> y(x.size());
  for (size_t i = 0; i < x.size(); ++i) {
    const float normed = x[i] * r;
    y[i] = normed * weight[i];
  }
  return y;
}

std::vector<float> silu_mul(std::span<const float> gate, std::span<const float> up) {
  const FlushSubnormals flush;
  std::vector<float> y(gate.size());
  for (size_t i = 0; i < gate.size(); ++i) {
    const float denominator = 1.0f + exp(-gate[i]);
    const float silu = gate[i] / denominator;
    y[i] = silu * up[i];
  }
  return y;
}

// ---- 6. RoPE ----------------------------------------------------------------------------------
namespace {

struct YarnRange {
  double low, high;
};

YarnRange yarn_range(const Rope& rope) {
  const double d = rope.head_dim;
  const auto at = [&](double rotations) {
    const double ratio = rope.original_max_position_embeddings / (rotations * 0x1.921fb54442d18p+2);
    const double numerator = d * fixed::log(ratio);
    return numerator / (2.0 * fixed::log(rope.theta));
  };
  double low = at(rope.beta_fast), high = at(rope.beta_slow);
  if (rope.truncate) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, d - 1.0);
  if (low == high) high = high + 0.001;
  return {low, high};
}

double yarn_mscale(double s, double k) {
  if (s <= 1.0) return 1.0;
  const double product = (0.1 * k) * fixed::log(s);
  return product + 1.0;
}

}  // namespace

std::vector<double> rope_inverse_frequencies(const Rope& rope) {
  const FlushSubnormals flush;
  std::vector<double> inverse(rope.head_dim / 2);
  for (size_t i = 0; i < inverse.size(); ++i) {
    const double exponent = static_cast<double>(2 * i) / static_cast<double>(rope.head_dim);
    inverse[i] = fixed::pow(rope.theta, -exponent);
  }
  if (!rope.yarn) return inverse;
  const YarnRange range = yarn_range(rope);
  for (size_t i = 0; i < inverse.size(); ++i) {
    const double place = (static_cast<double>(i) - range.low) / (range.high - range.low);
    const double ramp = std::min(std::max(place, 0.0), 1.0);
    const double stretched = (inverse[i] / rope.factor) * ramp;
    const double kept = inverse[i] * (1.0 - ramp);
    inverse[i] = stretched + kept;
  }
  return inverse;
}

double rope_attention_factor(const Rope& rope) {
  const FlushSubnormals flush;
  if (!rope.yarn) return 1.0;
  if (rope.attention_factor != 0.0) return rope.attention_factor;
  if (rope.mscale != 0.0 && rope.mscale_all_dim != 0.0) {
    return yarn_mscale(rope.factor, rope.mscale) / yarn_mscale(rope.factor, rope.mscale_all_dim);
  }
  return yarn_mscale(rope.factor, 1.0);
}

RopeRow rope_row(const Rope& rope, int64_t position) {
  const FlushSubnormals flush;
  const std::vector<double> inverse = rope_inverse_frequencies(rope);
  const double factor = rope_attention_factor(rope);
  RopeRow row;
  for (const double frequency : inverse) {
    const double angle = static_cast<double>(position) * frequency;
    row.cos.push_back(static_cast<float>(fixed::cos(angle) * factor));
    row.sin.push_back(static_cast<float>(fixed::sin(angle) * factor));
  }
  return row;
}

void apply_rope(const RopeRow& row, std::span<float> head) {
  const FlushSubnormals flush;
  const size_t half = head.size() / 2;
  for (size_t i = 0; i < half; ++i) {
    const float a = head[i], b = head[i + half];
    const float b_sin = b * row.sin[i], a_sin = a * row.sin[i];
    head[i] = std::fmaf(a, row.cos[i], -b_sin);
    head[i + half] = std::fmaf(b, row.cos[i], a_sin);
  }
}

float query_scale(int head_dim) {
  return static_cast<float>(0x1.71547652b82fep+0 / std::sqrt(static_cast<double>(head_dim)));
}

// ---- 7. Quantisation --------------------------------------------------------------------------
namespace {

using Block = std::array<float, kQuantBlock>;

Block take_block(std::span<const float> row, size_t block) {
  Block out{};
  const size_t first = block * kQuantBlock;
  for (size_t i = 0; i < kQuantBlock && first + i < row.size(); ++i) out[i] = row[first + i];
  return out;
}

size_t block_count(std::span<const float> row) {
  return (row.size() + kQuantBlock - 1) / kQuantBlock;
}

float largest_magnitude(const Block& x) {
  uint32_t largest = 0;
  for (const float v : x) largest = std::max(largest, std::bit_cast<uint32_t>(v) & 0x7fffffffu);
  return std::bit_cast<float>(largest);
}

void refuse_unrepresentable(const Block& w) {
  if (!(largest_magnitude(w) <= 400000.0f)) {
    throw std::runtime_error("a weight is not finite or above 400000 and cannot be quantised");
  }
}

std::array<float, kQuantBlock> int4_codes(const Block& w, float d) {
  std::array<float, kQuantBlock> codes{};
  const float inverse = 1.0f / d;
  if (!std::isfinite(inverse)) return codes;
  for (int i = 0; i < kQuantBlock; ++i) {
    const float scaled = w[i] * inverse;
    codes[i] = std::nearbyint(std::min(std::max(scaled, -8.0f), 7.0f));
  }
  return codes;
}

struct Int4Block {
  float scale = 0.0f;
  std::array<float, kQuantBlock> codes{};
};

Int4Block search_int4(const Block& w) {
  float extreme = 0.0f;
  for (const float v : w) {
    if (std::fabs(v) > std::fabs(extreme)) extreme = v;
  }
  Int4Block best;
  if (extreme == 0.0f) return best;
  float best_error = 0.0f;
  bool found = false;
  for (const float t : {8.8f, 8.2f, 7.6f, 7.0f, 6.4f}) {
    const float first = -(extreme / t);
    std::array<float, kQuantBlock> codes = int4_codes(w, first);
    Lanes products{}, squares{};
    int denominator = 0;
    for (int i = 0; i < kQuantBlock; ++i) {
      products[i % kLanes] = std::fmaf(w[i], codes[i], products[i % kLanes]);
      denominator += static_cast<int>(codes[i]) * static_cast<int>(codes[i]);
    }
    if (denominator == 0) continue;
    const float scale = round_f16(lane_tree(products) / static_cast<float>(denominator));
    if (scale == 0.0f || !std::isfinite(scale)) continue;
    codes = int4_codes(w, scale);
    for (int i = 0; i < kQuantBlock; ++i) {
      const float rest = std::fmaf(-scale, codes[i], w[i]);
      squares[i % kLanes] = std::fmaf(rest, rest, squares[i % kLanes]);
    }
    const float error = lane_tree(squares);
    if (!found || error < best_error) {
      best = {scale, codes};
      best_error = error;
      found = true;
    }
  }
  return best;
}

}  // namespace

QuantisedRow quantise_activations(std::span<const float> x) {
  const FlushSubnormals flush;
  QuantisedRow out;
  for (size_t b = 0; b < block_count(x); ++b) {
    const Block block = take_block(x, b);
    const float amax = largest_magnitude(block);
    const float inverse = 127.0f / amax;
    const bool usable = std::isfinite(inverse) && inverse > 0.0f;
    out.scales.push_back(amax / 127.0f);
    for (const float v : block) {
      const float scaled = v * inverse;
      out.codes.push_back(usable ? static_cast<int8_t>(std::nearbyint(scaled)) : int8_t{0});
    }
  }
  return out;
}

QuantisedRow quantise_value(std::span<const float> row) {
  const FlushSubnormals flush;
  float amax = 0.0f;
  for (size_t b = 0; b < block_count(row); ++b)
    amax = std::max(amax, largest_magnitude(take_block(row, b)));
  const float inverse = 127.0f / amax;
  const bool usable = std::isfinite(inverse) && inverse > 0.0f;
  QuantisedRow out{{amax / 127.0f}, {}};
  for (const float v : row) {
    const float scaled = v * inverse;
    out.codes.push_back(usable ? static_cast<int8_t>(std::nearbyint(scaled)) : int8_t{0});
  }
  return out;
}

QuantisedRow quantise_weights_int8(std::span<const float> row) {
  const FlushSubnormals flush;
  QuantisedRow out;
  for (size_t b = 0; b < block_count(row); ++b) {
    const Block block = take_block(row, b);
    refuse_unrepresentable(block);
    const float scale = round_f16(largest_magnitude(block) / 127.0f);
    out.scales.push_back(scale);
    for (const float v : block) {
      const float code = scale == 0.0f ? 0.0f : std::nearbyint(v / scale);
      out.codes.push_back(static_cast<int8_t>(std::clamp(code, -127.0f, 127.0f)));
    }
  }
  return out;
}

QuantisedRow quantise_weights_int4(std::span<const float> row) {
  const FlushSubnormals flush;
  QuantisedRow out;
  for (size_t b = 0; b < block_count(row); ++b) {
    const Block block = take_block(row, b);
    refuse_unrepresentable(block);
    const Int4Block best = search_int4(block);
    out.scales.push_back(best.scale);
    for (const float code : best.codes) out.codes.push_back(static_cast<int8_t>(code));
  }
  return out;
}

}  // namespace rill::reference
