// SPDX-License-Identifier: Apache-2.0
// Norms, rotation and conversions against the twin, by their bits.
#include <cmath>
#include <random>

#include "kernels/support.h"

namespace rill::test {
namespace {

class Pointwise : public EveryIsa {};
RILL_EVERY_ISA(Pointwise);

TEST_P(Pointwise, RmsNorm) {
  for (size_t n = 1; n < 140; n += 3) {
    const auto x = random_values(n + 1, n), weight = random_values(n + 1, n + 500);
    std::vector<float> y(n + 2, kPoison);
    {
      FloatMode mode;
      kernels().rms_norm(x.data() + 1, weight.data() + 1, n, 1e-6f, y.data() + 1);
    }
    const auto expected =
        reference::rmsnorm(std::span(x).subspan(1), std::span(weight).subspan(1), 1e-6f);
    EXPECT_EQ(first_difference(y.data() + 1, expected.data(), n), "") << n;
    EXPECT_TRUE(std::isnan(y[0]) && std::isnan(y[n + 1])) << "wrote outside";
  }
}

TEST_P(Pointwise, Rotations) {
  std::mt19937_64 random(4);
  for (size_t head_dim = 2; head_dim <= 132; head_dim += 2) {
    reference::Rope rope;
    rope.head_dim = static_cast<int>(head_dim);
    const std::vector<double> inverse = reference::rope_inverse_frequencies(rope);
    const size_t count = head_dim / 2;
    for (int i = 0; i < 40; ++i) {
      const int64_t position = i < 8 ? i : static_cast<int64_t>(random() % 2000000);
      const reference::RopeRow row = reference::rope_row(rope, position);
      std::vector<float> cosine(count + 1, kPoison), sine(count + 1, kPoison);
      {
        FloatMode mode;
        kernels().rotations({inverse.data(), count, reference::rope_attention_factor(rope)},
                            static_cast<double>(position), cosine.data(), sine.data());
      }
      ASSERT_EQ(first_difference(cosine.data(), row.cos.data(), count), "") << position;
      ASSERT_EQ(first_difference(sine.data(), row.sin.data(), count), "") << position;
      ASSERT_TRUE(std::isnan(cosine[count]) && std::isnan(sine[count])) << "wrote outside";
    }
  }
}

// Angles of either sign far beyond a turn: a frequency each, at position 1.
TEST_P(Pointwise, RotationsOfAnyAngle) {
  std::mt19937_64 random(5);
  std::uniform_real_distribution<double> angle(-3e6, 3e6);
  std::vector<double> angles(20000);
  for (double& x : angles) x = angle(random);
  std::vector<float> cosine(angles.size()), sine(angles.size());
  {
    FloatMode mode;
    kernels().rotations({angles.data(), angles.size(), 1}, 1, cosine.data(), sine.data());
  }
  // The library's are right to a unit in the last place of a double: rounding to fp32 is what is
  // left, at most 2^-25 for values up to 1.
  for (size_t i = 0; i < angles.size(); ++i) {
    const auto s = static_cast<float>(reference::fixed::sin(angles[i]));
    const auto c = static_cast<float>(reference::fixed::cos(angles[i]));
    ASSERT_EQ(first_difference(&sine[i], &s, 1), "") << angles[i];
    ASSERT_EQ(first_difference(&cosine[i], &c, 1), "") << angles[i];
    ASSERT_NEAR(sine[i], std::sin(angles[i]), 0x1p-25 + 1e-14);
    ASSERT_NEAR(cosine[i], std::cos(angles[i]), 0x1p-25 + 1e-14);
  }
}

TEST_P(Pointwise, Rope) {
  for (size_t head_dim = 2; head_dim <= 132; head_dim += 2) {
    reference::Rope rope;
    rope.head_dim = static_cast<int>(head_dim);
    const reference::RopeRow row = reference::rope_row(rope, 12345);
    auto x = random_values(head_dim + 2, head_dim);
    std::vector<float> expected(x.begin() + 1, x.end() - 1);
    x.front() = x.back() = kPoison;
    reference::apply_rope(row, expected);
    const float scale = reference::query_scale(rope.head_dim);
    {
      const reference::FlushSubnormals flush;
      for (float& value : expected) value = value * scale;
      FloatMode mode;
      kernels().rope(x.data() + 1, row.cos.data(), row.sin.data(), head_dim, scale);
    }
    EXPECT_EQ(first_difference(x.data() + 1, expected.data(), head_dim), "") << head_dim;
    EXPECT_TRUE(std::isnan(x.front()) && std::isnan(x.back())) << "wrote outside";
  }
}

TEST_P(Pointwise, ActivationRowsKeepApartInTheCache) {
  for (const Operand operand : {Operand::F32, Operand::BF16, Operand::BF16X32, Operand::Q8})
    for (size_t depth = 32; depth <= 30720; depth += 32) {
      const size_t bytes = kernels().activation_bytes(operand, depth);
      EXPECT_EQ(bytes % 64, 0u);
      EXPECT_NE(bytes % 4096, 0u) << depth;
    }
}

// Activations are seen through a product with the identity.
TEST_P(Pointwise, QuantisedActivations) {
  const size_t n = 100, depth = 128;
  auto x = random_values(n, 7, 30.0f);
  for (size_t i = 32; i < 64; ++i) x[i] = 0.0f;              // scale 0
  for (size_t i = 64; i < 96; ++i) x[i] = 1e-38f * (i % 3);  // too small for 127 / amax
  std::vector<float> eye(n * n, 0.0f);
  for (size_t i = 0; i < n; ++i) eye[i * n + i] = 127.0f;  // int8 code 127, scale 1
  const size_t bytes = panel_bytes(Format::INT8, depth);
  std::vector<std::byte> memory(7 * bytes + 64);
  auto* panels = reinterpret_cast<std::byte*>((reinterpret_cast<uintptr_t>(memory.data()) + 63) &
                                              ~uintptr_t{63});
  std::vector<std::byte> row_memory(kernels().activation_bytes(Operand::Q8, depth) + 64);
  auto* row = reinterpret_cast<std::byte*>((reinterpret_cast<uintptr_t>(row_memory.data()) + 63) &
                                           ~uintptr_t{63});
  std::vector<float> y(n);
  {
    FloatMode mode;
    for (size_t p = 0; p < 7; ++p) {
      PackSource source{Format::F32, false, n, {}};
      for (size_t r = 0; r < 16 && p * 16 + r < n; ++r)
        source.row[r] = reinterpret_cast<const std::byte*>(eye.data() + (p * 16 + r) * n);
      ASSERT_TRUE(kernels().pack(source, Format::INT8, depth, panels + p * bytes));
    }
    kernels().convert(Operand::Q8, x.data(), n, depth, row);
    PackedMatrix matrix{Format::INT8, n, depth, panels, 1, {}};
    LinearJob job{&matrix,  nullptr, {Operand::Q8, 1, depth, row, row_memory.size()},
                  y.data(), n,       Epilogue::STORE};
    kernels().linear(job, 0, 7);
  }
  const reference::QuantisedRow codes = reference::quantise_activations(x);
  const reference::FlushSubnormals flush;
  for (size_t i = 0; i < n; ++i) {
    const float expected =
        std::fmaf(1.0f * codes.scales[i / 32], static_cast<float>(codes.codes[i] * 127), 0.0f);
    EXPECT_EQ(first_difference(&y[i], &expected, 1), "") << i;
  }
}

// Values of every kind, in an order that differs from slot to slot, head sizes that fill
// vectors and that do not; odd slots before even ones, so that neither may spoil the other.
TEST_P(Pointwise, StoresKeysAndValuesAsTheCacheHoldsThem) {
  const float nan = std::numeric_limits<float>::quiet_NaN(), inf = INFINITY;
  const float kinds[] = {1.0f,  -1.00390625f, 1.01171875f, 0.0f,  -0.0f, 1e-40f, -1e-40f, 3e-6f,
                         1e-6f, 65519.0f,     65520.0f,    3e38f, inf,   -inf,   nan,     -0.3f};
  for (const Format format : {Format::F32, Format::F16, Format::BF16, Format::INT8})
    for (const size_t head_dim : {2, 16, 38}) {
      // int8 is kept to what a weight may be; what is not finite has a scale that is not either.
      const auto value = [&](size_t slot, size_t d) {
        const float x = kinds[(slot * 7 + d * 5) % 16];
        return format != Format::INT8 || std::abs(x) < 1e5f ? x : 0.7f;
      };
      const size_t k_bytes = k_block_bytes(format, head_dim);
      const size_t bytes = k_bytes + v_block_bytes(format, head_dim);
      std::vector<std::byte> block(bytes + 64), expected(bytes);
      auto* k = reinterpret_cast<std::byte*>((reinterpret_cast<uintptr_t>(block.data()) + 63) &
                                             ~uintptr_t{63});
      const FloatMode mode;
      for (size_t i = 0; i < kBlockTokens; ++i) {
        const size_t slot = (i * 37 + 5) % kBlockTokens;
        std::vector<float> row(head_dim);
        for (size_t d = 0; d < head_dim; ++d) row[d] = value(slot, d);
        put_key(format, expected.data(), slot, row);
        put_value(format, expected.data() + k_bytes, slot, row);
        kernels().store_k(format, row.data(), head_dim, slot, k);
        kernels().store_v(format, row.data(), head_dim, slot, k + k_bytes);
      }
      EXPECT_EQ(std::memcmp(k, expected.data(), bytes), 0)
          << static_cast<int>(format) << " " << head_dim;
    }
}

}  // namespace
}  // namespace rill::test
