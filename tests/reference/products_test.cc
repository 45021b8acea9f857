// SPDX-License-Identifier: Apache-2.0
// The twin's linear layers and attention against plain double precision, and the properties that
// the fixed orders are to have.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>

#include "reference/arithmetic.h"

namespace rill::reference {
namespace {

std::vector<float> normal_values(size_t count, uint32_t seed, float scale = 1.0f) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.0f, scale);
  std::vector<float> values(count);
  for (float& v : values) v = normal(random);
  return values;
}

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

Options options_of(WeightType weights, ComputeType compute) {
  return {weights, compute, rounds(compute) ? KvType::kBf16 : KvType::kF32,
          AttentionType::kStreaming, 64};
}

TEST(Linear, LeavesAreWholeUnits) {
  using Columns = std::array<int64_t, 9>;
  EXPECT_EQ(leaf_boundaries(3072, kDownUnit),
            (Columns{0, 384, 768, 1152, 1536, 1920, 2304, 2688, 3072}));
  EXPECT_EQ(leaf_boundaries(100, kDownUnit), (Columns{0, 0, 32, 32, 64, 64, 96, 96, 100}));
  EXPECT_EQ(attention_unit(128), 128);
  EXPECT_EQ(attention_unit(16), 32);
  EXPECT_EQ(attention_unit(24), 96);
  EXPECT_EQ(leaf_boundaries(5 * 24, 96), (Columns{0, 0, 0, 0, 96, 96, 96, 96, 120}));
  EXPECT_EQ(leaf_boundaries(16 * 128, 128)[3], 768);
}

TEST(Linear, CloseToDoubleForEveryType) {
  struct Case {
    WeightType weights;
    ComputeType compute;
    double tolerance;  // relative to the norm of the products
  };
  const Case cases[] = {{WeightType::kF32, ComputeType::kF32, 1e-6},
                        {WeightType::kF16, ComputeType::kF32, 1e-3},
                        {WeightType::kBf16, ComputeType::kF32, 1e-2},
                        {WeightType::kF32, ComputeType::kBf16, 1e-2},
                        {WeightType::kF32, ComputeType::kBf16x32, 1e-2},
                        {WeightType::kInt8, ComputeType::kBf16, 3e-2},
                        {WeightType::kInt4, ComputeType::kF32, 0.3}};
  for (const Case& c : cases) {
    for (const int64_t k : {1, 32, 40, 100, 353}) {
      const int64_t n = 21;
      const std::vector<float> w = normal_values(n * k, 5, 0.1f), x = normal_values(k, 6);
      const Matrix matrix = make_matrix(options_of(c.weights, c.compute), n, k, w.data());
      for (const int64_t unit : {int64_t{0}, kDownUnit, int64_t{96}}) {
        const std::vector<float> y = linear(matrix, x, unit);
        ASSERT_EQ(static_cast<int64_t>(y.size()), n);
        for (int64_t o = 0; o < n; ++o) {
          double exact = 0, norm = 0;
          for (int64_t i = 0; i < k; ++i) {
            const double product = static_cast<double>(w[o * k + i]) * x[i];
            exact += product;
            norm += product * product;
          }
          EXPECT_NEAR(y[o], exact, c.tolerance * std::sqrt(norm) * 4 + 1e-7);
        }
      }
    }
  }
}

TEST(Linear, OddElementComesFirstUnderBf16) {
  // 2^24 + 1 - 2^24: the pair (even, odd) = (1, 2^24) keeps nothing of the 1 in either order, but
  // with -2^24 waiting in the next pair the order shows where the tie falls.
  std::vector<float> x(32, 0.0f), w(32, 1.0f);
  x[0] = 1.0f;
  x[1] = 0x1p24f;
  x[2] = 1.0f;
  x[3] = -0x1p24f;
  const Options bf16 = options_of(WeightType::kBf16, ComputeType::kBf16);
  const Options f32 = options_of(WeightType::kBf16, ComputeType::kF32);
  // bf16: 2^24; + 1 is a tie to 2^24; - 2^24 is 0; + 1 is 1.  f32: 1; 2^24; + 1: 2^24; 0.
  EXPECT_EQ(linear(make_matrix(bf16, 1, 32, w.data()), x)[0], 1.0f);
  EXPECT_EQ(linear(make_matrix(f32, 1, 32, w.data()), x)[0], 0.0f);
}

TEST(Linear, RunsOf32SumTheirEvenAndOddElementsApart) {
  const Options options = options_of(WeightType::kBf16, ComputeType::kBf16x32);
  const auto sum = [&](std::vector<float> x) {
    std::vector<float> w(x.size(), 1.0f);
    return linear(make_matrix(options, 1, static_cast<int64_t>(x.size()), w.data()), x)[0];
  };
  // 2^24 swallows a 1 that it meets, not one of the other half or of another run.
  std::vector<float> x(64, 0.0f);
  x[0] = 0x1p24f;
  x[2] = 1.0f;
  x[4] = -0x1p24f;
  EXPECT_EQ(sum(x), 0.0f);  // all of them even elements of one run
  std::swap(x[2], x[3]);
  EXPECT_EQ(sum(x), 1.0f);
  std::swap(x[3], x[34]);
  EXPECT_EQ(sum(x), 1.0f);
  std::swap(x[4], x[36]);
  EXPECT_EQ(sum(x), -0x1p24f + 1.0f + 0x1p24f);  // the second run alone: 1 - 2^24
  std::swap(x[34], x[1]);
  EXPECT_EQ(sum(x), 0.0f);  // the first run: 2^24 + 1 is a tie to 2^24
}

TEST(Linear, EmptyLeavesAreTheIdentity) {
  std::vector<float> x(32, 0.0f), w(32, 1.0f);
  x[0] = -0.0f;
  const Options options = options_of(WeightType::kF32, ComputeType::kF32);
  const Matrix matrix = make_matrix(options, 1, 32, w.data());
  EXPECT_TRUE(same_bits(linear(matrix, x, kDownUnit), linear(matrix, x)));
}

TEST(Linear, NonFiniteActivationsPoisonInt8) {
  const std::vector<float> w = normal_values(64, 7);
  std::vector<float> x = normal_values(64, 8);
  const Options options = options_of(WeightType::kInt8, ComputeType::kBf16);
  const Matrix matrix = make_matrix(options, 1, 64, w.data());
  EXPECT_TRUE(std::isfinite(linear(matrix, x)[0]));
  x[40] = std::nanf("");
  EXPECT_TRUE(std::isnan(linear(matrix, x)[0]));
  x[40] = -INFINITY;
  EXPECT_FALSE(std::isfinite(linear(matrix, x)[0]));
}

struct AttentionCase {
  int head_dim;
  int64_t tokens;
};

std::vector<double> exact_attention(std::span<const float> q, const KeyValues& kv,
                                    int64_t position) {
  std::vector<double> p(position + 1), out(kv.head_dim, 0.0);
  double sum = 0;
  for (int64_t j = 0; j <= position; ++j) {
    double s = 0;
    for (int d = 0; d < kv.head_dim; ++d) {
      s += static_cast<double>(q[d]) * kv.keys[j * kv.stride + d];
    }
    sum += p[j] = std::exp2(s);
  }
  for (int64_t j = 0; j <= position; ++j) {
    for (int d = 0; d < kv.head_dim; ++d) out[d] += p[j] / sum * kv.values[j * kv.stride + d];
  }
  return out;
}

TEST(Attention, CloseToDouble) {
  for (const AttentionCase c : {AttentionCase{2, 1}, {24, 37}, {64, 129}, {128, 705}, {16, 9000}}) {
    const int64_t stride = c.head_dim + 3;  // a view into something wider
    std::vector<float> keys = normal_values(c.tokens * stride, 9);
    std::vector<float> values = normal_values(c.tokens * stride, 10);
    std::vector<float> q = normal_values(c.head_dim, 11, 2.0f / std::sqrt(1.0f * c.head_dim));
    for (auto* v : {&keys, &values, &q}) {
      for (float& x : *v) x = round_bf16(x);
    }
    const KeyValues kv{keys.data(), values.data(), stride, c.head_dim};
    const int64_t position = c.tokens - 1;
    const std::vector<double> exact = exact_attention(q, kv, position);
    for (const ComputeType compute :
         {ComputeType::kF32, ComputeType::kBf16, ComputeType::kBf16x32}) {
      for (const AttentionType type : {AttentionType::kStandard, AttentionType::kStreaming}) {
        for (const int block_size : {16, 64, 256, 1024}) {
          Options options = options_of(WeightType::kBf16, compute);
          options.attention = type;
          options.block_size = block_size;
          const std::vector<float> out = attention(options, q, kv, position);
          const double tolerance = rounds(compute) ? 8e-3 : 4e-6;
          for (int d = 0; d < c.head_dim; ++d) EXPECT_NEAR(out[d], exact[d], tolerance);
        }
      }
    }
  }
}

TEST(Attention, ReadsNothingBeyondThePosition) {
  std::vector<float> keys = normal_values(130 * 16, 12), values = normal_values(130 * 16, 13);
  const std::vector<float> q = normal_values(16, 14);
  const KeyValues kv{keys.data(), values.data(), 16, 16};
  for (const ComputeType compute : {ComputeType::kF32, ComputeType::kBf16, ComputeType::kBf16x32}) {
    for (const AttentionType type : {AttentionType::kStandard, AttentionType::kStreaming}) {
      Options options = options_of(WeightType::kBf16, compute);
      options.attention = type;
      const std::vector<float> before = attention(options, q, kv, 100);
      std::fill(keys.begin() + 101 * 16, keys.end(), std::nanf(""));
      std::fill(values.begin() + 101 * 16, values.end(), std::nanf(""));
      EXPECT_TRUE(same_bits(attention(options, q, kv, 100), before));
    }
  }
}

// A block of 64 keys of 16 dimensions whose products nearly vanish, so that signs of zeros occur.
struct MaskedBlock {
  std::vector<float> keys = normal_values(64 * 16, 15),
                     values = normal_values(64 * 16, 16, 0x1p-70f);
  std::vector<float> q = normal_values(16, 17, 5.0f);

  SoftmaxState state(ComputeType compute, int64_t position) const {
    return block_state(options_of(WeightType::kBf16, compute), q,
                       {keys.data(), values.data(), 16, 16}, 0, position);
  }
};

// A kernel may run all B keys of a block with p = +0 for the masked ones: that is the same state.
TEST(Attention, MaskedKeysMayBeRunWithZeroWeight) {
  const MaskedBlock block;
  for (const int64_t position : {0, 1, 30, 62}) {
    const SoftmaxState state = block.state(ComputeType::kBf16, position);
    std::vector<float> o(16, 0.0f);
    const FlushSubnormals flush;
    for (int64_t j = 0; j < 64; j += 2) {
      for (const int64_t key : {j + 1, j}) {
        float s = 0;
        for (int d = 0; d < 16; d += 2) {
          s = std::fmaf(block.keys[key * 16 + d + 1], block.q[d + 1], s);
          s = std::fmaf(block.keys[key * 16 + d], block.q[d], s);
        }
        const float p = key > position ? 0.0f : round_bf16(exp2(s - state.m));
        for (int d = 0; d < 16; ++d) o[d] = std::fmaf(block.values[key * 16 + d], p, o[d]);
      }
    }
    for (float& x : o) x = x + 0.0f;
    EXPECT_TRUE(same_bits(o, state.o)) << position;
  }
}

// The same for runs of 32, of keys and of dimensions.
TEST(Attention, MaskedKeysOfRunsMayBeRunWithZeroWeight) {
  const MaskedBlock block;
  const FlushSubnormals flush;
  std::vector<float> s(64, 0.0f);  // 16 dimensions: half a run
  for (size_t key = 0; key < s.size(); ++key) {
    float sum[2] = {0.0f, 0.0f};
    for (size_t d = 0; d < 32; ++d)
      sum[d % 2] = d < 16 ? std::fmaf(block.keys[key * 16 + d], block.q[d], sum[d % 2])
                          : std::fmaf(0.0f, 0.0f, sum[d % 2]);
    s[key] = s[key] + (sum[0] + sum[1]);
  }
  for (const int64_t position : {0, 1, 30, 31, 32, 62}) {
    const SoftmaxState state = block.state(ComputeType::kBf16x32, position);
    std::vector<float> o(16, 0.0f);
    for (size_t d = 0; d < 16; ++d) {
      for (int64_t run = 0; run < 64; run += 32) {
        float sum[2] = {0.0f, 0.0f};
        for (int64_t key = run; key < run + 32; ++key) {
          const float p = key > position ? 0.0f : round_bf16(exp2(s[key] - state.m));
          sum[key % 2] = std::fmaf(block.values[key * 16 + d], p, sum[key % 2]);
        }
        o[d] = o[d] + (sum[0] + sum[1]);
      }
      o[d] = o[d] + 0.0f;
    }
    EXPECT_TRUE(same_bits(o, state.o)) << position;
  }
}

TEST(Merge, EmptyIsTheIdentityAndOrderOfMaximaDoesNotMatter) {
  const std::vector<float> keys = normal_values(128 * 8, 18), values = normal_values(128 * 8, 19);
  const std::vector<float> q = normal_values(8, 20);
  const KeyValues kv{keys.data(), values.data(), 8, 8};
  const Options options = options_of(WeightType::kF32, ComputeType::kF32);
  const SoftmaxState a = block_state(options, q, kv, 0, 127);
  const SoftmaxState b = block_state(options, q, kv, 1, 127);
  for (const SoftmaxState& same : {merge(a, SoftmaxState{}), merge(SoftmaxState{}, a)}) {
    EXPECT_EQ(same.m, a.m);
    EXPECT_TRUE(same_bits(same.o, a.o));
    EXPECT_EQ(std::memcmp(same.l.data(), a.l.data(), sizeof a.l), 0);
  }
  EXPECT_TRUE(merge(SoftmaxState{}, SoftmaxState{}).empty);
  const SoftmaxState ab = merge(a, b), ba = merge(b, a);
  EXPECT_EQ(ab.m, std::max(a.m, b.m));
  for (int d = 0; d < 8; ++d) EXPECT_NEAR(ab.o[d], ba.o[d], 1e-5f);
  EXPECT_NEAR(lane_tree(ab.l), lane_tree(ba.l), 1e-5f);
  // Both at once in one block of 128 say the same to rounding.
  Options wide = options;
  wide.block_size = 128;
  const SoftmaxState whole = block_state(wide, q, kv, 0, 127);
  for (int d = 0; d < 8; ++d) EXPECT_NEAR(whole.o[d], ab.o[d], 1e-5f);
}

TEST(Stripes, FollowThePositionInUnitsOf64OrTheBlock) {
  EXPECT_EQ(stripe_of_block(3, 16), 0);
  EXPECT_EQ(stripe_of_block(4, 16), 1);
  EXPECT_EQ(stripe_of_block(63, 64), 63);
  EXPECT_EQ(stripe_of_block(64, 64), 0);
  EXPECT_EQ(stripe_of_block(65, 256), 1);
}

}  // namespace
}  // namespace rill::reference
