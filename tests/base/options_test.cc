// SPDX-License-Identifier: Apache-2.0
#include "rill/options.h"

#include <gtest/gtest.h>

#include <string>

#include "base/error.h"

namespace rill {
namespace {

// Each value prints as a spelling that reads back as the same value.
template <class T, class Parse>
void expect_round_trip(std::initializer_list<T> values, Parse parse) {
  for (T value : values) EXPECT_EQ(parse(to_string(value), "--x"), value) << to_string(value);
}

TEST(Options, EverySpellingReadsBack) {
  expect_round_trip({AttentionType::STANDARD, AttentionType::STREAMING}, parse_attention_type);
  expect_round_trip({WeightType::AUTO, WeightType::BF16, WeightType::F16, WeightType::F32,
                     WeightType::INT8, WeightType::INT4},
                    parse_weight_type);
  expect_round_trip({ComputeType::AUTO, ComputeType::F32, ComputeType::BF16, ComputeType::BF16X32},
                    parse_compute_type);
  expect_round_trip({KvType::AUTO, KvType::F16, KvType::BF16, KvType::F32}, parse_kv_type);
}

TEST(Options, SpellingsAreTheDocumentedOnes) {
  EXPECT_STREQ(to_string(AttentionType::STANDARD), "standard");
  EXPECT_STREQ(to_string(AttentionType::STREAMING), "streaming");
  EXPECT_STREQ(to_string(WeightType::INT4), "int4");
  EXPECT_STREQ(to_string(ComputeType::BF16), "bf16");
  EXPECT_STREQ(to_string(ComputeType::BF16X32), "bf16x32");
  EXPECT_STREQ(to_string(KvType::F16), "f16");
}

TEST(Options, AWrongSpellingIsNamedWithTheRightOnes) {
  const auto expect_refused = [](auto parse, const std::string& text, const std::string& one) {
    try {
      parse(text, "--some-option");
      FAIL() << "'" << text << "' was accepted";
    } catch (const Error& error) {
      const std::string message = error.what();
      EXPECT_NE(message.find("--some-option is '" + text + "'"), std::string::npos) << message;
      EXPECT_NE(message.find(one), std::string::npos) << message;
    }
  };
  for (const char* text : {"", "STANDARD", "flash", "standard ", "stream"})
    expect_refused(parse_attention_type, text, "standard, streaming");
  expect_refused(parse_weight_type, "q4_0", "int4");
  expect_refused(parse_compute_type, "int8", "f32, bf16");
  expect_refused(parse_kv_type, "int4", "int8, f16, bf16, f32");
}

TEST(Options, DefaultsAreStreamingInBlocksOf64) {
  const ArithmeticOptions options;
  EXPECT_EQ(options.attention, AttentionType::STREAMING);
  EXPECT_EQ(options.block_size, 64u);
  EXPECT_EQ(options.weights, WeightType::AUTO);
  EXPECT_EQ(options.compute, ComputeType::AUTO);
  EXPECT_EQ(options.kv, KvType::AUTO);
}

}  // namespace
}  // namespace rill
