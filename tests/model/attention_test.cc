// SPDX-License-Identifier: Apache-2.0
// Attention by itself against the twin: odd sizes, all stripes, both types, any threads.
#include "model/attention.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>

#include "model/arithmetic.h"
#include "model/golden.h"
#include "model/stripe_tree.h"
#include "model/test_folder.h"
#include "reference/arithmetic.h"

namespace rill {
namespace {

struct AttentionCase {
  size_t heads, kv_heads, head_dim, tokens, kv_tokens, position;
  bool causal = true;
};

// Queries, keys and values of a problem: normal deviates, some of them large, some zero.
struct Inputs {
  std::vector<float> q, k, v;

  explicit Inputs(const AttentionCase& c) {
    std::mt19937 random(7);
    std::normal_distribution<float> normal;
    const auto fill = [&](std::vector<float>& values, size_t count, float scale) {
      values.resize(count);
      for (float& x : values) {
        const auto kind = random() % 16;
        x = kind == 0 ? 0.0f : kind == 1 ? 5 * scale * normal(random) : scale * normal(random);
      }
    };
    fill(q, c.tokens * c.heads * c.head_dim, 2);
    fill(k, c.kv_tokens * c.kv_heads * c.head_dim, 1);
    fill(v, c.kv_tokens * c.kv_heads * c.head_dim, 1);
  }
};

std::vector<float> ours(const AttentionCase& c, const Inputs& in, const ArithmeticOptions& options,
                        int threads, const Kernels& kernels = choose_kernels()) {
  Team team(threads);
  std::vector<float> out(c.tokens * c.heads * c.head_dim);
  attend({c.heads, c.kv_heads, c.head_dim, c.tokens, c.kv_tokens, in.q.data(), in.k.data(),
          in.v.data(), c.causal, c.position},
         options, {kernels, team}, out.data());
  return out;
}

std::vector<float> twin(const AttentionCase& c, const Inputs& in,
                        const ArithmeticOptions& options) {
  const reference::Options o = twin_options(resolve_arithmetic(options, DType::F32));
  std::vector<float> k = in.k, v = in.v, out;
  for (float& x : k) x = reference::round_kv(o.kv, x);
  for (float& x : v) x = reference::round_kv(o.kv, x);
  const float scale = reference::query_scale(static_cast<int>(c.head_dim));
  std::vector<float> q(c.head_dim);
  for (size_t token = 0; token < c.tokens; ++token)
    for (size_t head = 0; head < c.heads; ++head) {
      const float* from = in.q.data() + (token * c.heads + head) * c.head_dim;
      for (size_t d = 0; d < c.head_dim; ++d) q[d] = reference::round_query(o, from[d] * scale);
      const size_t kv_head = head / (c.heads / c.kv_heads);
      const reference::KeyValues kv = {
          k.data() + kv_head * c.head_dim, v.data() + kv_head * c.head_dim,
          static_cast<int64_t>(c.kv_heads * c.head_dim), static_cast<int>(c.head_dim)};
      const size_t last =
          c.causal ? std::min(c.position + token, c.kv_tokens - 1) : c.kv_tokens - 1;
      const auto row = reference::attention(o, q, kv, static_cast<int64_t>(last));
      out.insert(out.end(), row.begin(), row.end());
    }
  return out;
}

void expect_same(const std::vector<float>& a, const std::vector<float>& b) {
  ASSERT_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i)
    ASSERT_EQ(std::memcmp(&a[i], &b[i], sizeof(float)), 0)
        << "element " << i << ": " << a[i] << " and " << b[i];
}

class AttentionOptions : public testing::TestWithParam<ArithmeticOptions> {};

TEST_P(AttentionOptions, HasTheBitsOfTheTwin) {
  const AttentionCase cases[] = {
      {2, 1, 16, 5, 5, 0},          {5, 5, 24, 3, 40, 37},     {6, 2, 10, 33, 150, 117},
      {4, 1, 128, 20, 300, 280},    {3, 1, 160, 2, 70, 68},    {2, 2, 2, 1, 1, 0},
      {3, 3, 32, 4, 100, 0, false}, {2, 1, 64, 1, 4500, 4499},
  };
  for (const AttentionCase& c : cases) {
    SCOPED_TRACE(testing::Message() << "head_dim " << c.head_dim << ", keys " << c.kv_tokens);
    const Inputs in(c);
    expect_same(ours(c, in, GetParam(), 2), twin(c, in, GetParam()));
  }
}

std::vector<ArithmeticOptions> option_cases() {
  std::vector<ArithmeticOptions> cases;
  for (const AttentionType type : {AttentionType::STANDARD, AttentionType::STREAMING}) {
    for (const size_t block : {16, 32, 64, 128, 256, 1024})
      cases.push_back({.compute = ComputeType::F32, .attention = type, .block_size = block});
    for (const ComputeType compute : {ComputeType::BF16, ComputeType::BF16X32})
      for (const size_t block : {16, 64, 256})
        cases.push_back({.compute = compute, .attention = type, .block_size = block});
    for (const KvType kv : {KvType::F16, KvType::BF16, KvType::INT8})
      cases.push_back({.compute = ComputeType::F32, .kv = kv, .attention = type});
    for (const size_t block : {16, 64, 256})
      cases.push_back({.compute = ComputeType::BF16,
                       .kv = KvType::INT8,
                       .attention = type,
                       .block_size = block});
  }
  return cases;
}

INSTANTIATE_TEST_SUITE_P(All, AttentionOptions, testing::ValuesIn(option_cases()),
                         [](const auto& test) {
                           const ArithmeticOptions& o = test.param;
                           return std::string(to_string(o.attention)) + "_" + to_string(o.compute) +
                                  "_" + to_string(o.kv) + "_" + std::to_string(o.block_size);
                         });

// Tiles alone, groups of tiles and subtrees of stripes, as the number of threads decides.
TEST(AttentionThreads, ChangeNoBit) {
  const AttentionCase cases[] = {{6, 2, 32, 300, 1000, 700}, {2, 1, 32, 1, 5000, 4999}};
  for (const AttentionType type : {AttentionType::STANDARD, AttentionType::STREAMING})
    for (const ComputeType compute : {ComputeType::BF16, ComputeType::BF16X32})
      for (const AttentionCase& c : cases) {
        const Inputs in(c);
        const ArithmeticOptions options = {.compute = compute, .attention = type};
        const std::vector<float> one = ours(c, in, options, 1);
        for (const int threads : {2, 3, 5, 8, 40}) {
          SCOPED_TRACE(threads);
          expect_same(ours(c, in, options, threads), one);
        }
      }
}

// A head or a few for many threads: they share tiles, of standard attention too.
TEST(AttentionThreads, ShareFewHeads) {
  const AttentionCase cases[] = {{1, 1, 128, 1, 6000, 5999},
                                 {1, 1, 16, 1, 100, 99},
                                 {3, 1, 32, 17, 1500, 1483},
                                 {4, 2, 16, 40, 700, 0, false}};
  for (const AttentionType type : {AttentionType::STANDARD, AttentionType::STREAMING})
    for (const size_t block : {64, 256})
      for (const AttentionCase& c : cases) {
        const Inputs in(c);
        const ArithmeticOptions options = {
            .compute = ComputeType::BF16, .attention = type, .block_size = block};
        const std::vector<float> expected = twin(c, in, options);
        for (const int threads : {1, 2, 3, 5, 8, 16}) {
          SCOPED_TRACE(testing::Message() << to_string(type) << ", block " << block << ", keys "
                                          << c.kv_tokens << ", threads " << threads);
          expect_same(ours(c, in, options, threads), expected);
        }
      }
}

TEST(AttentionIsa, ChangesNoBit) {
  const AttentionCase c = {6, 2, 80, 30, 330, 300};
  const Inputs in(c);
  size_t compared = 0;
  for (const ComputeType compute : {ComputeType::F32, ComputeType::BF16, ComputeType::BF16X32}) {
    const std::vector<float> base = ours(c, in, {.compute = compute}, 2);
    for (const Kernels* kernels : all_kernels()) {
      if (!kernels->supported()) continue;
      SCOPED_TRACE(kernels->name);
      expect_same(ours(c, in, {.compute = compute}, 2, *kernels), base);
      ++compared;
    }
  }
  EXPECT_GE(compared, 2u);
}

// Against softmax in double: the twin and the kernels might be wrong together.
TEST(AttentionValue, IsSoftmaxTimesV) {
  const AttentionCase c = {2, 1, 32, 7, 200, 193};
  const Inputs in(c);
  for (const AttentionType type : {AttentionType::STANDARD, AttentionType::STREAMING}) {
    const std::vector<float> out = ours(c, in, {.compute = ComputeType::F32, .attention = type}, 2);
    for (size_t token = 0; token < c.tokens; ++token)
      for (size_t head = 0; head < c.heads; ++head) {
        const size_t at = (token * c.heads + head) * c.head_dim, keys = c.position + token + 1;
        std::vector<double> scores(keys), sum(c.head_dim);
        double most = -1e300, total = 0;
        for (size_t key = 0; key < keys; ++key) {
          for (size_t d = 0; d < c.head_dim; ++d)
            scores[key] += double{in.q[at + d]} * in.k[key * c.head_dim + d];
          scores[key] /= std::sqrt(static_cast<double>(c.head_dim));
          most = std::max(most, scores[key]);
        }
        for (size_t key = 0; key < keys; ++key) {
          const double p = std::exp(scores[key] - most);
          total += p;
          for (size_t d = 0; d < c.head_dim; ++d) sum[d] += p * in.v[key * c.head_dim + d];
        }
        for (size_t d = 0; d < c.head_dim; ++d) EXPECT_NEAR(out[at + d], sum[d] / total, 2e-5);
      }
  }
}

TEST(AttentionRefusals, NameWhatIsWrong) {
  const AttentionCase c = {2, 1, 16, 1, 1, 0};
  const Inputs in(c);
  Team team(1);
  const Runtime runtime = {choose_kernels(), team};
  std::vector<float> out(64);
  AttentionProblem p = {2, 1, 16, 1, 1, in.q.data(), in.k.data(), in.v.data(), true, 0};
  const auto run = [&](const ArithmeticOptions& options) {
    attend(p, options, runtime, out.data());
  };
  expect_error([&] { run({.block_size = 48}); }, {"--block-size", "48"});
  expect_error([&] { run({.compute = ComputeType::BF16, .kv = KvType::F32}); }, {"--kv", "f32"});
  expect_error([&] { run({.compute = ComputeType::BF16X32, .kv = KvType::F16}); },
               {"--kv", "f16", "--compute bf16x32"});
  p.heads = 3, p.kv_heads = 2;
  expect_error([&] { run({}); }, {"3", "2", "multiple"});
  p.heads = 2, p.kv_heads = 1, p.head_dim = 15;
  expect_error([&] { run({}); }, {"head_dim", "15", "even"});
  p.head_dim = 16, p.kv_tokens = 0;
  expect_error([&] { run({}); }, {"no keys"});
}

// The keys of subtrees, counted one by one.
TEST(StripeOrder, SubtreesHaveEveryKey) {
  for (const size_t step : {64, 256})
    for (const size_t most : {1, 64, 65, 1000, 4096, 4097, 20000, 70000})
      for (size_t stripes = 1; stripes <= kStripes; stripes *= 2)
        for (size_t begin = 0; begin < kStripes; begin += stripes) {
          const SubtreeKeys keys({begin, begin + stripes}, step, most);
          size_t count = 0, runs = 0;
          for (size_t key = 0; key < most; ++key) {
            const size_t place = tree_place(key / step);
            if (place < begin || place >= begin + stripes) continue;
            ASSERT_EQ(keys.before(key), count++);
            if (key % step == 0) {
              ASSERT_EQ(key / step, keys.first() + runs++ * keys.stride());
            }
          }
          ASSERT_EQ(keys.count(), count);
        }
}

// The tree as the page writes it, on words: which stripes are joined, in which order, whatever
// their number, and whether a stripe has a state of its own or goes straight into an earlier one.
TEST(StripeOrder, IsTheTreeOfTheArithmetic) {
  constexpr size_t kHeadDim = 16, kRows = 12, kFloats = state_floats(kHeadDim, kRows);
  for (const size_t present : {1, 2, 3, 31, 33, 41, 63, 64})
    for (const bool own : {false, true}) {
      SCOPED_TRACE(testing::Message() << present << (own ? " in a place of their own" : ""));
      std::vector<std::string> expected(kStripes);
      for (size_t s = 0; s < present; ++s) expected[s] = std::to_string(s);
      for (size_t w = kStripes / 2; w > 0; w /= 2)
        for (size_t s = 0; s < w; ++s)
          if (!expected[s + w].empty())
            expected[s] = "(" + expected[s] + "+" + expected[s + w] + ")";

      std::vector<float> memory(kLiveStates * kFloats);
      std::vector<std::string> names(kLiveStates);
      const auto name = [&](SoftmaxState state) -> std::string& {
        return names[static_cast<size_t>(state.m - memory.data()) / kFloats];
      };
      StripeTree tree(memory.data(), kHeadDim, kRows);
      EXPECT_FALSE(tree.present());
      for (size_t i = 0; i < kStripes;) {
        std::string value = std::to_string(stripe_at(i));
        if (own) name(tree.own()) = value;
        do ++i;
        while (i < kStripes && stripe_at(i) >= present);
        const JoinChain chain = tree.close(i);
        for (size_t c = own ? 1 : 0; c < chain.count; ++c)
          value = "(" + name(chain.earlier[c]) + "+" + value + ")";
        name(chain.target) = value;
      }
      ASSERT_TRUE(tree.present());
      EXPECT_EQ(name(tree.root()), expected[0]);
    }
}

}  // namespace
}  // namespace rill
