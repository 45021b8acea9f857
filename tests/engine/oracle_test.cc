// SPDX-License-Identifier: Apache-2.0
// The double-precision oracle against the float64 pass of the golden folders, which is numpy's; and
// traces that are to differ.
#include "engine/oracle.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "base/json.h"
#include "base/mapped_file.h"
#include "engine/trace.h"

namespace rill {
namespace {

std::string golden(const std::string& name) {
  return RILL_TESTS_DIR "/golden/" + name;
}

std::vector<int32_t> prompt_of(const std::string& name) {
  return load_json(golden(name) + "/reference.json").at("prompt").get<std::vector<int32_t>>();
}

class OracleTest : public testing::TestWithParam<const char*> {};

TEST_P(OracleTest, IsTheFloat64Pass) {
  const std::string folder = golden(GetParam());
  const ModelConfig config = ModelConfig::load(folder);
  const Checkpoint checkpoint = Checkpoint::open(folder);
  Team team(2);
  const std::vector<double> logits = oracle_logits(config, checkpoint, team, prompt_of(GetParam()));
  const MappedFile file = MappedFile::open(folder + "/reference.safetensors");
  std::vector<int32_t> kept;
  std::vector<double> expected;
  for (const TensorInfo& tensor : parse_safetensors(file.bytes(), file.name())) {
    if (tensor.name == "kept") {
      kept.resize(tensor.bytes.size() / 4);
      std::memcpy(kept.data(), tensor.bytes.data(), tensor.bytes.size());
    } else if (tensor.name == "logits_f64") {
      expected.resize(tensor.bytes.size() / 8);
      std::memcpy(expected.data(), tensor.bytes.data(), tensor.bytes.size());
    }
  }
  ASSERT_EQ(expected.size(), kept.size() * config.vocab_size);
  double largest = 0;
  for (size_t row = 0; row < kept.size(); ++row) {
    for (size_t i = 0; i < config.vocab_size; ++i) {
      largest = std::max(largest,
                         std::abs(logits[static_cast<size_t>(kept[row]) * config.vocab_size + i] -
                                  expected[row * config.vocab_size + i]));
    }
  }
  EXPECT_LT(largest, 1e-9);  // two double-precision passes, and eps rounded to fp32 in one of them
}

INSTANTIATE_TEST_SUITE_P(Golden, OracleTest,
                         testing::Values("tied-gqa-bf16", "wide-heads-sharded-f16", "odd-mha-f32",
                                         "head128-long-bf16", "deep-bf16", "one-token-bf16",
                                         "yarn-bf16", "bias-f32"),
                         [](const auto& test) {
                           std::string name = test.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

TEST(Trace, FindsWhereRunsPart) {
  LoadOptions options;
  options.threads = 2;
  options.session = {512, 128, 3, 1};
  const auto model = LoadedModel::load(golden("tied-gqa-bf16"), options);
  const std::vector<int32_t> prompt = prompt_of("tied-gqa-bf16");
  const TraceSetting base{model->arithmetic, &model->kernels, &model->team, 64};
  const Trace trace_of_base = trace(*model, base, prompt, 4);
  ASSERT_EQ(trace_of_base.tokens.size(), 4u);
  ASSERT_EQ(trace_of_base.rows, prompt.size() + 3);

  TraceSetting batch = base;
  batch.before = 2;
  batch.after = 1;
  batch.chunk = 7;
  EXPECT_EQ(first_difference(model->config, trace_of_base, trace(*model, batch, prompt, 4)), "");

  TraceSetting other = base;
  other.arithmetic.block_size = 16;  // part of the arithmetic
  EXPECT_NE(first_difference(model->config, trace_of_base, trace(*model, other, prompt, 4))
                .find("layer 0"),
            std::string::npos);
  Trace changed = trace_of_base;
  changed.hidden[(1 * changed.rows + 9) * model->config.hidden_size] += 1;
  EXPECT_EQ(first_difference(model->config, trace_of_base, changed),
            "layer 0 (of 0 to 1), token 9, in the feed-forward layer");
  changed.middle[9 * model->config.hidden_size] += 1;
  EXPECT_EQ(first_difference(model->config, trace_of_base, changed),
            "layer 0 (of 0 to 1), token 9, in attention (queries, softmax or the output's "
            "projection)");
  changed.kv[0][0] += 1;
  EXPECT_EQ(first_difference(model->config, trace_of_base, changed),
            "layer 0 (of 0 to 1), token 9, by its keys and values (norm, projection or RoPE)");
  changed = trace_of_base;
  changed.logits[5 * model->config.vocab_size] += 1;
  EXPECT_EQ(first_difference(model->config, trace_of_base, changed),
            "the final norm or the head, token 5");
}

}  // namespace
}  // namespace rill
