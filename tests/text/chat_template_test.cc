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

std::string rendered(const char* messages) {
  ChatInput input;
  input.messages = OrderedJson::parse(messages);
  return render_chat(input);
}

// The following were compared with Transformers 5.23.0.

TEST(ChatTemplate, LeavesOutUnknownRoles) {
  EXPECT_EQ(
      rendered(R"([{"role": "developer", "content": "x"}, {"role": "user", "content": "y"}])"),
      "<|im_start|>user\ny<|im_end|>\n");
}

TEST(ChatTemplate, TakesTheOtherNamesOfReasoning) {
  for (const char* key : {"reasoning_content", "thinking", "reasoning"}) {
    ChatInput input;
    input.messages.push_back(chat_message("user", "q"));
    input.messages.push_back(chat_message("assistant", "a"));
    input.messages[1][key] = "\nbecause\n";
    EXPECT_EQ(
        render_chat(input),
        "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n<think>\nbecause\n</think>\n\na"
        "<|im_end|>\n");
  }
}

TEST(ChatTemplate, WritesJsonAsPythonDoes) {
  const auto json_of = [](const char* text) {
    std::string out;
    append_json(parse_ordered_json(text, "test"), out);
    return out;
  };
  EXPECT_EQ(json_of(R"({"b":[1,2.50,null,true],"a":{}})"),
            R"({"b": [1, 2.5, null, true], "a": {}})");
  EXPECT_EQ(json_of(R"("\u0001\n\"\\/<é\u007f")"), "\"\\u0001\\n\\\"\\\\/<é\x7f\"");
  EXPECT_EQ(json_of("[1e16, 1e15, 1e-4, 1e-5, 1.0, -0.0, 1.5e300]"),
            "[1e+16, 1000000000000000.0, 0.0001, 1e-05, 1.0, -0.0, 1.5e+300]");
  EXPECT_EQ(json_of(R"({"a": 1, "b": 2, "a": 3})"), R"({"a": 3, "b": 2})");
  EXPECT_EQ(json_of("[18446744073709551615, -9223372036854775808]"),
            "[18446744073709551615, -9223372036854775808]");
}

TEST(ChatTemplate, PrintsToolResultsAsPythonDoes) {
  EXPECT_EQ(
      rendered(
          R"([{"role": "tool", "content": [1, "it's", "\"'\n\u200b", true, null, {"k": 1e5}]}])"),
      "<|im_start|>user\n<tool_response>\n[1, \"it's\", '\"\\'\\n\\u200b', True, None, {'k': "
      "100000.0}]\n</tool_response><|im_end|>\n");
}

}  // namespace
}  // namespace rill
