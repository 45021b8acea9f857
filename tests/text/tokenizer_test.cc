// SPDX-License-Identifier: Apache-2.0
#include "text/tokenizer.h"

#include <gtest/gtest.h>

#include "golden.h"

namespace rill {
namespace {

using test::qwen3;
using test::texts;

TEST(Tokenizer, EncodesTheGoldenTextsAsHuggingFace) {
  ASSERT_EQ(texts().size(), 1598u);
  for (const auto& [text, ids, decoded] : texts()) EXPECT_EQ(qwen3().encode(text), ids) << text;
}

TEST(Tokenizer, DecodesTheGoldenTextsAsHuggingFace) {
  for (const auto& [text, ids, decoded] : texts()) EXPECT_EQ(qwen3().decode(ids), decoded) << text;
}

}  // namespace
}  // namespace rill
