// SPDX-License-Identifier: Apache-2.0
// The promise itself: whatever the threads, the chunks, the place in a batch and the instruction
// set, the same bits. One axis at a time from one base run.
#include <gtest/gtest.h>

#include "base/error.h"
#include "model/golden.h"

namespace rill {
namespace {

struct BitsCase {
  std::string folder;
  ArithmeticOptions options;
};

void PrintTo(const BitsCase& c, std::ostream* out) {
  *out << c.folder;
}

std::string case_name(const testing::TestParamInfo<BitsCase>& info) {
  const ArithmeticOptions& o = info.param.options;
  std::string name = info.param.folder + "_" + to_string(o.weights) + "_" + to_string(o.compute) +
                     "_" + to_string(o.attention);
  for (char& c : name) c = c == '-' ? '_' : c;
  return name;
}

class EqualBits : public testing::TestWithParam<BitsCase> {
 protected:
  EqualBits() : golden_(GetParam().folder, GetParam().options) {
    ids_ = GoldenReference(GetParam().folder).prompt;
    ids_.resize(std::min<size_t>(ids_.size(), 130));
    base_ = run({});
  }

  ModelOutput run(const RunSetting& setting) const {
    return run_model(golden_.config, golden_.arithmetic, golden_.weights, ids_, setting);
  }
  void expect_base(const ModelOutput& output) const {
    EXPECT_EQ(first_difference(output.hidden, base_.hidden), base_.hidden.size());
    EXPECT_EQ(first_difference(output.logits, base_.logits), base_.logits.size());
  }

  // The base run is of the best table of this machine; the weights are packed by `name`'s too.
  void check_kernels(const std::string& name) const {
    const Kernels* kernels = nullptr;
    for (const Kernels* table : all_kernels())
      if (table->name == name) kernels = table;
    ASSERT_NE(kernels, nullptr) << "this build has no " << name;
    if (!kernels->supported()) {  // what cannot run is refused, not run wrongly
      EXPECT_THROW(choose_kernels(name), Error);
      return;
    }
    const LoadedGolden packed(GetParam().folder, GetParam().options, 2, *kernels);
    expect_base(
        run_model(golden_.config, golden_.arithmetic, packed.weights, ids_, {.kernels = kernels}));
  }

  LoadedGolden golden_;
  std::vector<int32_t> ids_;
  ModelOutput base_;
};

TEST_P(EqualBits, Threads) {
  for (const int threads : {1, 2, 3, 5, 8}) {
    SCOPED_TRACE(threads);
    expect_base(run({.threads = threads}));
  }
}

TEST_P(EqualBits, Chunks) {
  for (const size_t chunk : {1, 7, 64, 100}) {
    SCOPED_TRACE(chunk);
    expect_base(run({.chunk = chunk}));
  }
}

TEST_P(EqualBits, BatchPositions) {
  for (const auto& [before, after] : {std::pair{1, 0}, {0, 1}, {2, 3}}) {
    SCOPED_TRACE(before);
    expect_base(run(
        {.chunk = 7, .before = static_cast<size_t>(before), .after = static_cast<size_t>(after)}));
  }
}

// Decoding with more threads than KV heads splits the stripes over threads.
TEST_P(EqualBits, DecodeOnManyThreads) {
  expect_base(run({.threads = 8, .chunk = 1}));
}

// Steps of many rows are dealt to threads in strips of rows, too; the second one begins with the
// later half of a pair of tokens, whose values share words of the cache.
TEST_P(EqualBits, StripsOfRows) {
  const auto longest = static_cast<size_t>(golden_.config.max_position_embeddings);
  const size_t tokens = std::min<size_t>(502, longest / 2 * 2),
               half = tokens / 2 - 1 + tokens / 2 % 2;
  const size_t given = ids_.size();
  for (size_t i = given; i < tokens; ++i) ids_.push_back(ids_[i % given]);
  base_ = run({.threads = 1, .chunk = 64});
  for (const int threads : {2, 3, 5, 8})
    for (const size_t chunk : {half, tokens}) {
      SCOPED_TRACE(threads);
      expect_base(run({.threads = threads, .chunk = chunk}));
    }
}

TEST_P(EqualBits, PackedByAnyThreads) {
  const LoadedGolden other(GetParam().folder, GetParam().options, 5);
  expect_base(run_model(golden_.config, golden_.arithmetic, other.weights, ids_, {}));
}

TEST_P(EqualBits, Scalar) {
  check_kernels("scalar");
}
TEST_P(EqualBits, Avx2) {
  check_kernels("avx2");
}
TEST_P(EqualBits, Avx512) {
  check_kernels("avx512");
}
TEST_P(EqualBits, Avx512Vnni) {
  check_kernels("avx512vnni");
}
TEST_P(EqualBits, Avx512Bf16) {
  check_kernels("avx512bf16");
}
TEST_P(EqualBits, Amx) {
  check_kernels("amx");
}

// Truncating and going on elsewhere leaves what stays as it was.
TEST_P(EqualBits, AfterTruncating) {
  ASSERT_GE(ids_.size(), 10u) << "too short to be cut";
  const size_t vocabulary = golden_.config.vocab_size, cut = ids_.size() / 2;
  Transformer transformer(golden_.config, golden_.arithmetic, golden_.weights,
                          {choose_kernels(), golden_.team}, ids_.size(), ids_.size());
  KvCache cache(golden_.config, golden_.arithmetic.kv, ids_.size());
  KvSequence sequence(cache);
  std::vector<int32_t> wrong = ids_;
  for (size_t i = cut; i < wrong.size(); ++i) wrong[i] = (wrong[i] + 1) % 256;
  std::vector<float> logits(ids_.size() * vocabulary);
  const SequenceStep first = {&sequence, wrong, wrong.size()};
  transformer.forward({&first, 1}, logits.data());
  sequence.truncate(cut);
  const SequenceStep rest = {&sequence, std::span(ids_).subspan(cut), ids_.size() - cut};
  transformer.forward({&rest, 1}, logits.data() + cut * vocabulary);
  EXPECT_EQ(first_difference(logits, base_.logits), logits.size());
}

const BitsCase kCases[] = {
    {"tied-gqa-bf16", {}},
    {"tied-gqa-bf16", {.compute = ComputeType::F32, .attention = AttentionType::STANDARD}},
    {"odd-mha-f32", {}},
    {"odd-mha-f32", {.compute = ComputeType::BF16, .attention = AttentionType::STANDARD}},
    {"wide-heads-sharded-f16", {.weights = WeightType::INT8}},
    {"yarn-bf16", {.weights = WeightType::INT4}},
    {"head128-long-bf16", {.block_size = 16}},
    {"bias-f32", {.kv = KvType::F16}},
    {"wide-heads-sharded-f16", {.compute = ComputeType::BF16, .kv = KvType::INT8}},
    {"head128-long-bf16", {.compute = ComputeType::BF16X32}},
    {"odd-mha-f32", {.compute = ComputeType::BF16X32, .attention = AttentionType::STANDARD}},
    {"bias-f32", {.compute = ComputeType::BF16X32, .block_size = 16}},
    {"odd-mha-f32", {.kv = KvType::INT8, .attention = AttentionType::STANDARD}},
};
INSTANTIATE_TEST_SUITE_P(Golden, EqualBits, testing::ValuesIn(kCases), case_name);

}  // namespace
}  // namespace rill
