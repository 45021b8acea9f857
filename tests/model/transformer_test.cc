// SPDX-License-Identifier: Apache-2.0
// The whole model on the golden folders: the twin's bits for every option of the arithmetic, and
// the tolerances against Transformers and the float64 pass.
#include "model/transformer.h"

#include <gtest/gtest.h>

#include <cmath>

#include "base/error.h"
#include "model/golden.h"
#include "model/test_folder.h"

namespace rill {
namespace {

// Options of the arithmetic on one folder.
struct TwinCase {
  std::string folder;
  ArithmeticOptions options;
};

void PrintTo(const TwinCase& c, std::ostream* out) {
  *out << c.folder;
}

class Twin : public testing::TestWithParam<TwinCase> {};

TEST_P(Twin, SameBits) {
  const TwinCase& c = GetParam();
  const LoadedGolden golden(c.folder, c.options);
  std::vector<int32_t> ids = GoldenReference(c.folder).prompt;
  // A long prompt in whole only where the block size is what is tried.
  if (c.options.block_size == 64) ids.resize(std::min<size_t>(ids.size(), 160));
  const ModelOutput ours =
      run_model(golden.config, golden.arithmetic, golden.weights, ids, {.chunk = 117});
  const reference::Model twin(golden_path(c.folder), twin_options(golden.arithmetic));
  const ModelOutput theirs = flatten(twin.forward(ids));
  const size_t hidden = first_difference(ours.hidden, theirs.hidden);
  ASSERT_EQ(hidden, ours.hidden.size())
      << "layer " << hidden / golden.config.hidden_size / ids.size() << ", token "
      << hidden / golden.config.hidden_size % ids.size() << ": " << ours.hidden[hidden] << " and "
      << theirs.hidden[hidden];
  EXPECT_EQ(first_difference(ours.logits, theirs.logits), ours.logits.size());
}

// One axis at a time from the stored weights, streaming, blocks of 64.
std::vector<TwinCase> twin_cases() {
  std::vector<TwinCase> cases;
  for (const std::string& folder : golden_folders()) {
    for (const WeightType weights : {WeightType::AUTO, WeightType::BF16, WeightType::F16,
                                     WeightType::F32, WeightType::INT8, WeightType::INT4})
      cases.push_back({folder, {.weights = weights}});
    for (const WeightType weights : {WeightType::BF16, WeightType::F16, WeightType::F32})
      cases.push_back(
          {folder,
           {.weights = weights,
            .compute = weights == WeightType::BF16 ? ComputeType::F32 : ComputeType::BF16}});
    for (const KvType kv : {KvType::F16, KvType::BF16, KvType::INT8})
      cases.push_back({folder, {.compute = ComputeType::F32, .kv = kv}});
    cases.push_back({folder, {.compute = ComputeType::BF16, .kv = KvType::INT8}});
    cases.push_back({folder, {.compute = ComputeType::BF16X32, .kv = KvType::INT8}});
    for (const WeightType weights : {WeightType::AUTO, WeightType::F16, WeightType::INT4})
      cases.push_back({folder, {.weights = weights, .compute = ComputeType::BF16X32}});
    cases.push_back({folder, {.weights = WeightType::INT8, .compute = ComputeType::F32}});
    for (const ComputeType compute : {ComputeType::F32, ComputeType::BF16, ComputeType::BF16X32})
      cases.push_back({folder, {.compute = compute, .attention = AttentionType::STANDARD}});
  }
  for (const char* folder : {"head128-long-bf16", "yarn-bf16", "odd-mha-f32"})
    for (const AttentionType attention : {AttentionType::STANDARD, AttentionType::STREAMING})
      for (const size_t block : {16, 32, 128, 256, 1024})
        for (const ComputeType compute : {ComputeType::AUTO, ComputeType::BF16X32})
          cases.push_back(
              {folder, {.compute = compute, .attention = attention, .block_size = block}});
  return cases;
}

std::string case_name(const testing::TestParamInfo<TwinCase>& test) {
  const ArithmeticOptions& o = test.param.options;
  std::string name = test.param.folder + "_" + to_string(o.weights) + "_" + to_string(o.compute) +
                     "_" + to_string(o.kv) + "_" + to_string(o.attention) + "_" +
                     std::to_string(o.block_size);
  for (char& c : name)
    if (c == '-') c = '_';
  return name;
}

INSTANTIATE_TEST_SUITE_P(Golden, Twin, testing::ValuesIn(twin_cases()), case_name);

// ---- against Transformers and the float64 pass ----

struct Errors {
  double largest = 0, rms = 0;
};

Errors logit_errors(const GoldenReference& golden, const std::vector<float>& logits,
                    size_t vocabulary) {
  Errors errors;
  EXPECT_EQ(golden.logits.size(), golden.kept.size() * vocabulary);
  for (size_t i = 0; i < golden.kept.size(); ++i)
    for (size_t v = 0; v < vocabulary; ++v) {
      const double e = static_cast<double>(logits[golden.kept[i] * vocabulary + v]) -
                       golden.logits[i * vocabulary + v];
      errors.largest = std::max(errors.largest, std::fabs(e));
      errors.rms += e * e;
    }
  errors.rms = std::sqrt(errors.rms / static_cast<double>(golden.logits.size()));
  return errors;
}

// The highest logit each time, ties to the lowest id; no id is masked and nothing stops it.
std::vector<int32_t> greedy(LoadedGolden& golden, const std::vector<int32_t>& prompt,
                            size_t count) {
  const size_t vocabulary = golden.config.vocab_size;
  Transformer transformer(golden.config, golden.arithmetic, golden.weights,
                          {choose_kernels(), golden.team}, prompt.size(), prompt.size() + count);
  KvCache cache(golden.config, golden.arithmetic.kv, prompt.size() + count);
  KvSequence sequence(cache);
  std::vector<float> logits(vocabulary);
  std::vector<int32_t> ids = prompt, generated;
  while (generated.size() < count) {
    const SequenceStep step = {&sequence, ids, 1};
    transformer.forward({&step, 1}, logits.data());
    const auto best = std::max_element(logits.begin(), logits.end()) - logits.begin();
    generated.push_back(static_cast<int32_t>(best));
    ids.assign(1, generated.back());
  }
  return generated;
}

class Published : public testing::TestWithParam<std::string> {};

TEST_P(Published, Float32) {
  const GoldenReference reference(GetParam());
  for (const AttentionType attention : {AttentionType::STANDARD, AttentionType::STREAMING}) {
    LoadedGolden golden(GetParam(), {.compute = ComputeType::F32, .attention = attention});
    const ModelOutput output =
        run_model(golden.config, golden.arithmetic, golden.weights, reference.prompt, {});
    const Errors errors = logit_errors(reference, output.logits, golden.config.vocab_size);
    EXPECT_LE(errors.largest, 4 * std::max(reference.float32_max_error, 2e-6));
    EXPECT_EQ(greedy(golden, reference.prompt, 24), reference.greedy);
  }
}

TEST_P(Published, Bfloat16) {
  const GoldenReference reference(GetParam());
  for (const AttentionType attention : {AttentionType::STANDARD, AttentionType::STREAMING})
    for (const ComputeType compute : {ComputeType::BF16, ComputeType::BF16X32}) {
      const LoadedGolden golden(GetParam(), {.compute = compute, .attention = attention});
      const ModelOutput output =
          run_model(golden.config, golden.arithmetic, golden.weights, reference.prompt, {});
      const Errors errors = logit_errors(reference, output.logits, golden.config.vocab_size);
      EXPECT_LE(errors.rms, 0.75 * reference.bfloat16_rms_error);
      EXPECT_GT(errors.rms, 0.01 * reference.bfloat16_rms_error);  // it did round
    }
}

INSTANTIATE_TEST_SUITE_P(Golden, Published, testing::ValuesIn(golden_folders()),
                         [](const auto& test) {
                           std::string name = test.param;
                           for (char& c : name) c = c == '-' ? '_' : c;
                           return name;
                         });

// ---- refusals ----

class Refusals : public testing::Test {
 protected:
  static constexpr size_t kContext = 70;

  // Logits of the last of `ids`.
  std::vector<float> step(const std::vector<int32_t>& ids, KvSequence& sequence) {
    std::vector<float> logits(golden_.config.vocab_size);
    const SequenceStep one = {&sequence, ids, 1};
    transformer_.forward({&one, 1}, logits.data());
    return logits;
  }

  LoadedGolden golden_{"tied-gqa-bf16", {}};
  Transformer transformer_{
      golden_.config, golden_.arithmetic, golden_.weights, {choose_kernels(), golden_.team}, 32,
      kContext};
  KvCache cache_{golden_.config, golden_.arithmetic.kv, 128};
  KvSequence sequence_{cache_};
};

TEST_F(Refusals, LeaveEverySequenceAsItWas) {
  const std::vector<int32_t> prompt = {5, 6, 7, 8, 9};
  step(prompt, sequence_);
  expect_error([&] { step({1, 512}, sequence_); }, {"token id 512", "0 to 511"});
  expect_error([&] { step({1, -1}, sequence_); }, {"token id -1"});
  expect_error([&] { step(std::vector<int32_t>(33, 1), sequence_); }, {"33", "32", "--chunk"});
  step(std::vector<int32_t>(32, 1), sequence_);
  step(std::vector<int32_t>(32, 1), sequence_);
  expect_error([&] { step({1, 1}, sequence_); }, {"71", "70", "--ctx"});
  EXPECT_EQ(sequence_.length(), 69u);

  // The cache is full for the second sequence of a step: the first one is not extended either.
  sequence_.truncate(63);
  KvSequence other(cache_);
  const std::vector<int32_t> two = {1, 2}, one = {3};
  const size_t blocks = cache_.free_blocks();
  const std::vector<SequenceStep> steps = {{&sequence_, two, 0}, {&other, one, 1}};
  std::vector<float> logits(golden_.config.vocab_size);
  expect_error([&] { transformer_.forward(steps, logits.data()); }, {"KV cache", "--ctx"});
  EXPECT_EQ(sequence_.length(), 63u);
  EXPECT_EQ(other.length(), 0u);
  EXPECT_EQ(cache_.free_blocks(), blocks);

  sequence_.truncate(5);
  KvSequence fresh(cache_);
  step(prompt, fresh);
  EXPECT_EQ(first_difference(step({3, 4}, sequence_), step({3, 4}, fresh)),
            golden_.config.vocab_size);
}

// A value that is not finite (here put into the cache) reaches the logits, which ends the step; a
// sequence that is truncated before it goes on as if it had never been.
TEST(NonFinite, NamesTheSequenceAndLeavesNoTrace) {
  LoadedGolden golden("tied-gqa-bf16", {});
  KvCache cache(golden.config, golden.arithmetic.kv, 256, 2);
  Transformer transformer(golden.config, golden.arithmetic, golden.weights,
                          {choose_kernels(), golden.team}, 32, 128);
  KvSequence healthy(cache), poisoned(cache), twin(cache);
  const std::vector<int32_t> prompt = {5, 6, 7}, more = {8, 9};
  std::vector<float> logits(2 * golden.config.vocab_size), expected(golden.config.vocab_size);
  for (KvSequence* sequence : {&healthy, &poisoned, &twin}) {
    const SequenceStep step = {sequence, prompt, 0};
    transformer.forward({&step, 1}, nullptr);
  }
  const std::vector<float> nan(golden.config.head_dim, std::nanf(""));
  choose_kernels().store_v(cache.format(), nan.data(), nan.size(), 2,
                           cache.v(poisoned.blocks()[0], 1, 0));
  const std::vector<SequenceStep> steps = {{&healthy, more, 1}, {&poisoned, more, 1}};
  expect_error([&] { transformer.forward(steps, logits.data()); },
               {"sequence 1", "not finite", "position 4"});
  EXPECT_EQ(healthy.length(), 3u);
  EXPECT_EQ(poisoned.length(), 3u);

  poisoned.truncate(2);
  const std::vector<int32_t> last = {7};
  const std::vector<SequenceStep> repair = {{&poisoned, last, 0}};
  transformer.forward(repair, nullptr);
  const SequenceStep again = {&poisoned, more, 1}, same = {&twin, more, 1};
  transformer.forward({&again, 1}, logits.data());
  transformer.forward({&same, 1}, expected.data());
  logits.resize(expected.size());
  EXPECT_EQ(first_difference(logits, expected), expected.size());
}

// ---- memory ----

TEST(Scratch, StreamingDoesNotGrowWithTheContext) {
  const LoadedGolden golden("head128-long-bf16", {});
  const auto bytes = [&](AttentionType type, size_t context) {
    Arithmetic arithmetic = golden.arithmetic;
    arithmetic.attention_type = type;
    return Transformer::scratch_bytes(
        {golden.config, arithmetic, golden.weights.shard(), choose_kernels(), 4, 64}, context);
  };
  EXPECT_EQ(bytes(AttentionType::STREAMING, 1 << 20), bytes(AttentionType::STREAMING, 1 << 10));
  EXPECT_GT(bytes(AttentionType::STANDARD, 1 << 20), bytes(AttentionType::STANDARD, 1 << 10));
}

}  // namespace
}  // namespace rill
