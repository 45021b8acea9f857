// SPDX-License-Identifier: Apache-2.0
// The public interface, through its header alone.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "rill/rill.h"

namespace {

const std::string kDemo = RILL_SOURCE_DIR "/models/rill-demo";

TEST(Api, TextThereAndBack) {
  rill::Engine engine = rill::Engine::load(kDemo);
  const std::string text = "Anna put the red lamp into the kitchen. <|im_end|> caf\xc3\xa9";
  EXPECT_EQ(engine.detokenize(engine.tokenize(text)), text);
  EXPECT_THROW(engine.tokenize("\xff"), rill::Error);
  const std::vector<rill::Message> messages = {{"user", "Hi"}};
  EXPECT_EQ(engine.apply_template(messages, false),
            "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n");
}

TEST(Api, GeneratesTheSameWithAndWithoutACallback) {
  rill::Engine engine = rill::Engine::load(kDemo);
  rill::GenerateOptions options;
  options.sampling.temperature = 1;
  options.sampling.seed = 3;
  options.max_tokens = 12;
  std::string streamed;
  const rill::GenerateResult result = engine.generate("Once", options, [&](std::string_view text) {
    streamed += text;
    return true;
  });
  EXPECT_EQ(result.text, streamed);
  EXPECT_LE(result.tokens.size(), 12u);
  EXPECT_EQ(engine.generate("Once", options).text, streamed);
}

TEST(Api, LogitsAndHiddenStates) {
  const std::string folder = RILL_TESTS_DIR "/golden/tied-gqa-bf16";  // has no tokenizer
  rill::EngineOptions options;
  options.threads = 1;
  options.context = 64;
  rill::Engine engine = rill::Engine::load(folder, options);
  const std::vector<int32_t> ids = {1, 2, 3};
  std::vector<float> hidden;
  const std::vector<float> logits = engine.logits(ids, &hidden);
  EXPECT_EQ(logits.size(), 3 * engine.vocab_size());
  EXPECT_EQ(hidden.size(), (engine.num_layers() + 1) * 3 * engine.hidden_size());
  EXPECT_THROW(engine.tokenize("a"), rill::Error);
  EXPECT_THROW(engine.logits(std::vector<int32_t>{512}), rill::Error);
  EXPECT_NE(engine.describe().find("1 thread"), std::string::npos);
}

TEST(Api, AttentionIsSoftmaxOfScores) {
  constexpr size_t kTokens = 3, kKeys = 40, kHeads = 4, kKvHeads = 2, kDim = 8;
  std::vector<float> q(kTokens * kHeads * kDim), k(kKeys * kKvHeads * kDim), v(k.size());
  for (size_t i = 0; i < q.size(); ++i) q[i] = std::sin(static_cast<float>(i));
  for (size_t i = 0; i < k.size(); ++i) k[i] = std::cos(static_cast<float>(3 * i));
  for (size_t i = 0; i < v.size(); ++i) v[i] = std::sin(static_cast<float>(7 * i + 1));
  rill::AttentionProblem problem{};
  problem.heads = kHeads;
  problem.kv_heads = kKvHeads;
  problem.head_dim = kDim;
  problem.tokens = kTokens;
  problem.kv_tokens = kKeys;
  problem.q = q.data();
  problem.k = k.data();
  problem.v = v.data();
  problem.position = 20;
  std::vector<float> out(q.size());
  for (const auto type : {rill::AttentionType::STANDARD, rill::AttentionType::STREAMING}) {
    rill::ArithmeticOptions options;
    options.attention = type;
    options.block_size = 16;
    rill::attention(problem, options, out.data(), 2);
    for (size_t t = 0; t < kTokens; ++t) {
      for (size_t h = 0; h < kHeads; ++h) {
        double sum = 0, expected[kDim] = {};
        for (size_t s = 0; s <= problem.position + t; ++s) {
          double score = 0;
          for (size_t i = 0; i < kDim; ++i)
            score += q[(t * kHeads + h) * kDim + i] * k[(s * kKvHeads + h / 2) * kDim + i];
          const double p = std::exp(score / std::sqrt(double{kDim}));
          sum += p;
          for (size_t i = 0; i < kDim; ++i) expected[i] += p * v[(s * kKvHeads + h / 2) * kDim + i];
        }
        for (size_t i = 0; i < kDim; ++i)
          EXPECT_NEAR(out[(t * kHeads + h) * kDim + i], expected[i] / sum, 2e-6);
      }
    }
    std::vector<float> scalar(out.size());
    rill::attention(problem, options, scalar.data(), 1, "scalar");
    EXPECT_EQ(std::memcmp(scalar.data(), out.data(), out.size() * sizeof(float)), 0);
  }
  problem.kv_heads = 3;
  EXPECT_THROW(rill::attention(problem, {}, out.data()), rill::Error);
}

TEST(Api, ErrorsNameWhatIsWrong) {
  try {
    rill::Engine::load("/nowhere/at/all");
    FAIL() << "nothing was thrown";
  } catch (const rill::Error& error) {
    EXPECT_NE(std::string(error.what()).find("/nowhere/at/all"), std::string::npos);
  }
  EXPECT_STRNE(rill::version(), "");
}

}  // namespace
