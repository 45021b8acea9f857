// SPDX-License-Identifier: Apache-2.0
#include "text/chat_template.h"

#include <gtest/gtest.h>

#include "golden.h"
#include "text/jsonl.h"

namespace rill {
namespace {

TEST(ChatTemplate, RendersTheGoldenConversationsAsTransformers) {
  const auto lines = test::read_lines("text/chat_template.jsonl");
  ASSERT_EQ(lines.size(), 378u);
  for (size_t i = 0; i < lines.size(); ++i) {
    const OrderedJson expected = OrderedJson::parse(lines[i]);
    const OrderedJson got = OrderedJson::parse(template_line(lines[i], i + 1));
    EXPECT_EQ(got.at("text"), expected.at("text")) << lines[i];
  }
}

}  // namespace
}  // namespace rill
