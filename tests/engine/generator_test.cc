// SPDX-License-Identifier: Apache-2.0
// Generation on the golden folders and on the built-in model.
#include "engine/generator.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "base/error.h"
#include "base/json.h"

namespace rill {
namespace {

std::string golden(const std::string& name) {
  return RILL_TESTS_DIR "/golden/" + name;
}
const std::string kDemo = RILL_SOURCE_DIR "/models/rill-demo";

std::unique_ptr<LoadedModel> load(const std::string& folder, size_t context, size_t chunk = 512,
                                  size_t sequences = 1) {
  LoadOptions options;
  options.threads = 2;
  options.session = {chunk, context, sequences, 1};
  return LoadedModel::load(folder, options);
}

GenerateOptions greedy(size_t tokens) {
  GenerateOptions options;
  options.sampling.greedy = true;
  options.ignore_end_of_text = true;
  options.max_tokens = tokens;
  return options;
}

std::vector<int32_t> prompt_of(const std::string& name) {
  return load_json(golden(name) + "/reference.json").at("prompt").get<std::vector<int32_t>>();
}

TEST(Generator, SamplesTheSameWhateverTheChunkAndThePrefix) {
  const std::vector<int32_t> prompt = prompt_of("tied-gqa-bf16");
  GenerateOptions options = greedy(20);
  options.sampling.greedy = false;
  options.sampling.temperature = 1.5;
  options.sampling.top_p = 0.95;
  options.sampling.repetition_penalty = 1.1;
  options.sampling.seed = 12;
  const auto model = load(golden("tied-gqa-bf16"), 128);
  Session session(*model);
  Generator whole(*model, session, nullptr);
  const std::vector<int32_t> tokens = whole.generate(prompt, options).tokens;
  ASSERT_EQ(tokens.size(), 20u);
  whole.clear();

  const auto chunked = load(golden("tied-gqa-bf16"), 128, 7);
  Session other(*chunked);
  Generator generator(*chunked, other, nullptr);
  std::vector<int32_t> half(prompt.begin(), prompt.begin() + 40);
  half.push_back(5);  // parts from the prompt here
  generator.generate(half, greedy(3));
  const GenerateResult result = generator.generate(prompt, options);
  EXPECT_EQ(result.reused, 40u);
  EXPECT_EQ(result.tokens, tokens);
  const GenerateResult again = generator.generate(prompt, options);
  EXPECT_EQ(again.reused, prompt.size() - 1);
  EXPECT_EQ(again.tokens, tokens);
}

TEST(Generator, SideBySideIsOneByOne) {
  const std::vector<int32_t> prompt = prompt_of("tied-gqa-bf16");
  std::vector<std::vector<int32_t>> prompts;
  for (size_t i = 0; i < 7; ++i)
    prompts.emplace_back(prompt.begin() + static_cast<long>(i),
                         prompt.end() - static_cast<long>(5 * i));
  const auto model = load(golden("tied-gqa-bf16"), 128, 32, 3);
  std::vector<std::vector<int32_t>> expected;
  {
    Session session(*model);
    Generator generator(*model, session, nullptr);
    for (const auto& one : prompts) expected.push_back(generator.generate(one, greedy(9)).tokens);
  }
  Session session(*model);
  size_t done = 0;
  const auto results = generate_side_by_side(*model, session, nullptr, prompts, greedy(9),
                                             [&](size_t count, size_t) { done = count; });
  EXPECT_EQ(done, prompts.size());
  for (size_t i = 0; i < prompts.size(); ++i) EXPECT_EQ(results[i].tokens, expected[i]) << i;
}

TEST(Generator, EndsWhereItShould) {
  const std::vector<int32_t> prompt = prompt_of("tied-gqa-bf16");
  const auto model = load(golden("tied-gqa-bf16"), prompt.size() + 4);
  Session session(*model);
  Generator generator(*model, session, nullptr);
  GenerateResult result = generator.generate(prompt, greedy(0));
  EXPECT_EQ(result.reason, StopReason::CONTEXT_FULL);
  EXPECT_EQ(result.tokens.size(), 5u);  // the last needs no place
  const std::vector<int32_t> tokens = result.tokens;

  result = generator.generate(prompt, greedy(2));
  EXPECT_EQ(result.reason, StopReason::MAX_TOKENS);
  EXPECT_EQ(result.tokens, std::vector<int32_t>(tokens.begin(), tokens.begin() + 2));

  model->generation.eos_token_ids = {tokens[3]};
  GenerateOptions to_end = greedy(0);
  to_end.ignore_end_of_text = false;
  result = generator.generate(prompt, to_end);
  EXPECT_EQ(result.reason, StopReason::END_OF_TEXT);
  EXPECT_EQ(result.tokens, std::vector<int32_t>(tokens.begin(), tokens.begin() + 3));

  int calls = 0;
  result = generator.generate(prompt, greedy(0), [&](std::string_view) { return ++calls < 3; });
  EXPECT_EQ(result.reason, StopReason::CANCELLED);
  EXPECT_EQ(result.tokens.size(), 3u);
}

TEST(Generator, RefusesPromptsThatDoNotFit) {
  const auto model = load(golden("tied-gqa-bf16"), 8);
  Session session(*model);
  Generator generator(*model, session, nullptr);
  EXPECT_THROW(generator.generate(std::vector<int32_t>{}, greedy(1)), Error);
  EXPECT_THROW(generator.generate(std::vector<int32_t>{-1}, greedy(1)), Error);
  EXPECT_THROW(generator.generate(std::vector<int32_t>{512}, greedy(1)), Error);
  EXPECT_THROW(generator.generate(std::vector<int32_t>(9, 1), greedy(1)), Error);
  GenerateOptions stop = greedy(1);
  stop.stop = {"x"};
  EXPECT_THROW(generator.generate(std::vector<int32_t>{1}, stop), Error);  // no tokenizer
}

TEST(Generator, StopStringsCutTheText) {
  const auto model = load(kDemo, 256);
  const TextSide text = TextSide::load(kDemo);
  Session session(*model);
  Generator generator(*model, session, &text);
  const std::vector<int32_t> prompt = text.tokenizer.encode("Anna went to the");
  const std::string whole = generator.generate(prompt, greedy(30)).text;
  ASSERT_GT(whole.size(), 12u);
  for (size_t at = 1; at + 5 < whole.size(); at += 3) {
    GenerateOptions options = greedy(30);
    options.stop = {"\x01 never", whole.substr(at, 5)};
    std::string streamed;
    const GenerateResult result = generator.generate(prompt, options, [&](std::string_view piece) {
      streamed += piece;
      return true;
    });
    EXPECT_EQ(result.text, whole.substr(0, whole.find(whole.substr(at, 5))));
    EXPECT_EQ(result.reason, StopReason::STOP_STRING);
    EXPECT_EQ(streamed, result.text);
  }
}

TEST(Generator, DefaultsFollowTheFile) {
  GenerationConfig none;
  EXPECT_TRUE(default_sampling(none).greedy);
  GenerationConfig sampled;
  sampled.temperature = 0.6;
  sampled.top_k = 20;
  EXPECT_FALSE(default_sampling(sampled).greedy);
  EXPECT_EQ(default_sampling(sampled).temperature, 0.6);
  sampled.do_sample = false;
  EXPECT_TRUE(default_sampling(sampled).greedy);
}

}  // namespace
}  // namespace rill
