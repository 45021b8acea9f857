// SPDX-License-Identifier: Apache-2.0
// Hostile and damaged tokenizer files, templates and lines: each is refused in one sentence.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <functional>

#include "base/error.h"
#include "golden.h"
#include "small_tokenizer.h"
#include "text/chat_template.h"
#include "text/jsonl.h"
#include "text/qwen3_template.h"
#include "text/split_pattern.h"

namespace rill {
namespace {

using nlohmann::json;
using test::add_merge;
using test::add_token;
using test::qwen3;
using test::small_tokenizer;

/// The message of the Error that `action` throws, or "" if it throws none.
std::string refusal(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

/// Expects `action` to be refused in one line that has every one of `parts`.
void expect_refused(const std::function<void()>& action, const std::vector<std::string>& parts) {
  const std::string message = refusal(action);
  EXPECT_NE(message, "") << "accepted, expected a refusal with " << parts[0];
  EXPECT_EQ(message.find('\n'), std::string::npos) << message;
  EXPECT_LT(message.size(), 800u) << message;
  for (const std::string& part : parts) EXPECT_NE(message.find(part), std::string::npos) << message;
}

void expect_file_refused(const std::string& text, std::vector<std::string> parts) {
  parts.push_back("bad.json");
  expect_refused([&text] { Tokenizer::from_json(text, "bad.json"); }, parts);
}

using Change = std::function<void(json&)>;

void expect_change_refused(const Change& change, const std::vector<std::string>& parts) {
  json file = small_tokenizer();
  add_merge(file, "a", "b");
  change(file);
  expect_file_refused(file.dump(), parts);
}

TEST(BadTokenizer, TextThatIsNoTokenizer) {
  const std::string whole = small_tokenizer().dump();
  for (const size_t size : {size_t{0}, size_t{1}, whole.size() / 3, whole.size() - 1}) {
    expect_file_refused(whole.substr(0, size), {"is not JSON at byte"});
  }
  expect_file_refused("{\"a\": \"\xFF\"}", {"is not JSON at byte"});
  expect_file_refused("{\"a\": 1e999}", {"number"});
  expect_file_refused(std::string(100000, '['), {"nests deeper"});
  expect_file_refused("[]", {"a list of 0"});
  expect_file_refused("\"text\"", {"\"text\""});
  expect_file_refused("{}", {"pre_tokenizer", "absent"});
  expect_file_refused(R"({"model": 1, "model": 2})", {"\"model\" twice"});
}

TEST(BadTokenizer, KindsThatAreNotImplemented) {
  const std::vector<std::pair<Change, std::vector<std::string>>> cases = {
      {[](json& f) { f["model"]["type"] = "Unigram"; }, {"\"Unigram\"", "BPE"}},
      {[](json& f) { f["model"]["type"] = "WordPiece"; }, {"\"WordPiece\"", "BPE"}},
      {[](json& f) { f["model"]["dropout"] = 0.1; }, {"dropout"}},
      {[](json& f) { f["model"]["byte_fallback"] = true; }, {"byte_fallback"}},
      {[](json& f) { f["model"]["continuing_subword_prefix"] = "##"; }, {"continuing_subword"}},
      {[](json& f) { f["model"]["end_of_word_suffix"] = "</w>"; }, {"end_of_word_suffix"}},
      {[](json& f) {
         f["normalizer"] = {{"type", "NFKC"}};
       },
       {"normalizer", "\"NFKC\"", "NFC"}},
      {[](json& f) {
         f["pre_tokenizer"] = {{"type", "Whitespace"}};
       },
       {"\"Whitespace\"", "Split"}},
      {[](json& f) { f["pre_tokenizer"]["pretokenizers"].erase(1); }, {"without ByteLevel"}},
      {[](json& f) { f["pre_tokenizer"]["pretokenizers"][0]["behavior"] = "Removed"; },
       {"\"Removed\"", "Isolated"}},
      {[](json& f) { f["pre_tokenizer"]["pretokenizers"][0]["invert"] = true; }, {"inverted"}},
      {[](json& f) {
         f["pre_tokenizer"]["pretokenizers"][0]["pattern"] = {{"String", "a"}};
       },
       {"without a Regex"}},
      {[](json& f) { f["pre_tokenizer"]["pretokenizers"][1]["add_prefix_space"] = true; },
       {"add_prefix_space"}},
      {[](json& f) {
         f["decoder"] = {{"type", "Metaspace"}};
       },
       {"decoder", "\"Metaspace\""}},
      {[](json& f) { f["decoder"] = nullptr; }, {"decoder", "absent"}},
  };
  for (const auto& [change, parts] : cases) expect_change_refused(change, parts);
}

TEST(BadTokenizer, VocabularyAndMergesThatLie) {
  const std::vector<std::pair<Change, std::vector<std::string>>> cases = {
      {[](json& f) { f["model"].erase("vocab"); }, {"vocab", "absent"}},
      {[](json& f) { f["model"]["vocab"] = json::array(); }, {"vocab"}},
      {[](json& f) { f["model"].erase("merges"); }, {"merges", "absent"}},
      {[](json& f) { f["model"]["vocab"].erase("a"); }, {"no token \"a\"", "byte 97"}},
      {[](json& f) { f["model"]["vocab"]["new"] = 97; }, {"97", "twice"}},
      {[](json& f) { f["model"]["vocab"]["new"] = -1; }, {"\"new\"", "-1"}},
      {[](json& f) { f["model"]["vocab"]["new"] = 4000000000u; }, {"4000000000", "4194303"}},
      {[](json& f) { f["model"]["vocab"]["new"] = 4194304; }, {"4194304", "4194303"}},
      {[](json& f) { f["model"]["vocab"]["new"] = 300.5; }, {"300.5"}},
      {[](json& f) { f["model"]["vocab"]["new"] = "300"; }, {"\"300\""}},
      {[](json& f) { f["model"]["vocab"]["new"] = json::object(); }, {"an object"}},
      {[](json& f) {
         f["model"]["merges"].push_back({"a", "nobody"});
       },
       {"merge 1", "nobody"}},
      {[](json& f) {
         f["model"]["merges"].push_back({"b", "a"});
       },
       {"merge 1", "\"ba\""}},
      {[](json& f) { f["model"]["merges"].push_back("ab"); }, {"merge 1", "\"ab\""}},
      {[](json& f) { f["model"]["merges"].push_back("a b c"); }, {"merge 1"}},
      {[](json& f) { f["model"]["merges"].push_back({"a"}); }, {"merge 1", "1 parts"}},
      {[](json& f) {
         f["model"]["merges"].push_back({"a", "b", "c"});
       },
       {"merge 1", "3 parts"}},
      {[](json& f) {
         f["model"]["merges"].push_back({"a", 7});
       },
       {"merge 1", "7"}},
      {[](json& f) { f["model"]["merges"].push_back(nullptr); }, {"merge 1", "null"}},
      {[](json& f) { f["model"]["merges"] = "a b"; }, {"merges"}},
      {[](json& f) { f["model"] = json::array(); }, {"model"}},
  };
  for (const auto& [change, parts] : cases) expect_change_refused(change, parts);
  expect_file_refused(R"({"model": {"vocab": {"a": 0, "a": 1}}})", {"\"a\"", "twice"});
  expect_file_refused(R"({"model": {"vocab": {"a": 0}, "vocab": {"b": 1}}})", {"vocab", "twice"});
}

TEST(BadTokenizer, AddedTokensThatLie) {
  const std::vector<std::pair<Change, std::vector<std::string>>> cases = {
      {[](json& f) { f["added_tokens"] = 3; }, {"added_tokens", "3"}},
      {[](json& f) { f["added_tokens"] = {1}; }, {"added_tokens"}},
      {[](json& f) { add_token(f, -5, "<x>"); }, {"id", "-5"}},
      {[](json& f) { add_token(f, 2000000000, "<x>"); }, {"2000000000"}},
      {[](json& f) { add_token(f, 97, "<x>"); }, {"\"<x>\"", "97", "\"a\""}},
      {[](json& f) { add_token(f, 300, "a"); }, {"\"a\"", "300", "97"}},
      {[](json& f) { add_token(f, 300, ""); }, {"300", "0 bytes"}},
      {[](json& f) { add_token(f, 300, std::string(5000, 'x')); }, {"5000 bytes"}},
      {[](json& f) {
         add_token(f, 300, "<x>");
         add_token(f, 301, "<x>");
       },
       {"\"<x>\" twice"}},
      {[](json& f) {
         add_token(f, 300, "<x>");
         f["added_tokens"][0]["lstrip"] = "yes";
       },
       {"lstrip", "\"yes\"", "true or false"}},
  };
  for (const auto& [change, parts] : cases) expect_change_refused(change, parts);
}

TEST(BadTokenizer, Expressions) {
  for (const char* expression :
       {"(",          "a{",   "[",     "\\",    "a**b(", "\\p{Nonsense}", "[z-a]",
        "(?<name>a)", "(?R)", "\\w+",  "^a",    "a$",    "[[:alpha:]]",   "[a&&b]",
        "(*ACCEPT)",  "\\C",  "\\K",   "\\Qa",  "(?C1)", "a{2}+",         "a{,2}",
        "[]a]",       "\\1",  "(?#x)", "\\x41", "[\\S]", "\xC2\\\xC3"}) {
    const std::string message = refusal([expression] { SplitPattern(expression, "bad.json"); });
    EXPECT_NE(message.find("bad.json: the split expression"), std::string::npos) << expression;
  }
  expect_change_refused(
      [](json& f) { f["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = "(a"; },
      {"split expression \"(a\"", "not valid"});
  expect_refused([] { SplitPattern(std::string(100000, 'a'), "bad.json"); }, {"100000 bytes"});
}

TEST(BadTokenizer, CatastrophicExpressionGivesUp) {
  json file = small_tokenizer();
  file["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = "(?:a|a)+[bc]";
  const Tokenizer tokenizer = Tokenizer::from_json(file.dump(), "bad.json");
  EXPECT_EQ(tokenizer.encode("aab").size(), 3u);
  expect_refused([&tokenizer] { tokenizer.encode(std::string(200, 'a')); },
                 {"bad.json", "gave up", "200 bytes", "match limit"});
}

TEST(BadTokenizer, FoldersAndConfigs) {
  const auto folder = std::filesystem::path(testing::TempDir()) / "rill_bad_folder";
  std::filesystem::remove_all(folder);
  expect_refused([&] { Tokenizer::load(folder); }, {"rill_bad_folder", "tokenizer.json"});
  std::filesystem::create_directories(folder / "tokenizer.json");
  expect_refused([&] { Tokenizer::load(folder); }, {"tokenizer.json"});
  std::filesystem::remove_all(folder / "tokenizer.json");
  std::ofstream(folder / "tokenizer.json") << small_tokenizer().dump();
  EXPECT_EQ(refusal([&] { Tokenizer::load(folder); }), "");
  for (const auto& [config, part] : std::vector<std::pair<std::string, std::string>>{
           {"{", "is not JSON"},
           {"[]", "a list"},
           {R"({"added_tokens_decoder": 1})", "added_tokens_decoder"},
           {R"({"added_tokens_decoder": {"x": {"content": "<x>"}}})", "\"x\""},
           {R"({"added_tokens_decoder": {"-1": {"content": "<x>"}}})", "\"-1\""},
           {R"({"added_tokens_decoder": {"99999999": {"content": "<x>"}}})", "99999999"},
           {R"({"added_tokens_decoder": {"300": {"content": 5}}})", "content"},
           {R"({"added_tokens_decoder": {"97": {"content": "<x>"}}})", "97"}}) {
    std::ofstream(folder / "tokenizer_config.json") << config;
    expect_refused([&] { Tokenizer::load(folder); }, {"tokenizer_config.json", part});
  }
  std::filesystem::remove_all(folder);
}

TEST(BadText, InvalidUtf8AndIds) {
  expect_refused([] { qwen3().encode("abc\xFF"); }, {"byte 3", "0xFF"});
  expect_refused([] { qwen3().encode("\xED\xA0\x80"); }, {"byte 0"});
  expect_refused([] { qwen3().encode("ok \xE4\xBD"); }, {"byte 3"});
  for (const int32_t id : {-1, 151669, INT32_MAX, INT32_MIN}) {
    expect_refused([id] { qwen3().decode(std::vector{id}); }, {std::to_string(id), "151668"});
    expect_refused([id] { StreamDecoder(qwen3()).push(id); }, {std::to_string(id)});
  }
}

TEST(BadLine, EachNamesItsLine) {
  const std::vector<std::pair<std::string, std::string>> tokenize = {
      {"", "not JSON"},
      {"{", "not JSON"},
      {"[]", "not a JSON object"},
      {"{}", "\"text\" is absent"},
      {R"({"text": 5})", "is 5"},
      {R"({"text": null})", "is null"},
      {"{\"text\": \"\xFF\"}", "not JSON"},
      {R"({"text": "\ud800"})", "not JSON"}};
  for (const auto& [line, part] : tokenize) {
    expect_refused([&line] { tokenize_line(qwen3(), line, 12); }, {"line 12", part});
  }
  const std::vector<std::pair<std::string, std::string>> detokenize = {
      {R"({"ids": 5})", "is 5"},
      {R"({"ids": [1, -1]})", "is -1"},
      {R"({"ids": [1.5]})", "is 1.5"},
      {R"({"ids": ["1"]})", "is \"1\""},
      {R"({"ids": [151669]})", "151669"},
      {R"({"ids": [99999999999]})", "99999999999"},
      {R"({"ids": [123456789012345678901234567890]})", "64 bits"}};
  for (const auto& [line, part] : detokenize) {
    expect_refused([&line] { detokenize_line(qwen3(), line, 3); }, {"line 3", part});
  }
  EXPECT_EQ(tokenize_line(qwen3(), R"({"text": "Hello"})", 1),
            R"({"ids": [9707], "decoded": "Hello"})");
  EXPECT_EQ(detokenize_line(qwen3(), R"({"ids": [9707]})", 1), R"({"text": "Hello"})");
}

TEST(BadChat, WhatTheOfficialTemplateRefuses) {
  const auto messages = [](const std::string& list) { return "{\"messages\": " + list + "}"; };
  const std::string user = R"({"role": "user", "content": "q"})";
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"{}", "\"messages\" is absent"},
      {messages("null"), "messages is null"},
      {messages("[]"), "a list of 0"},
      {messages("{}"), "an object"},
      {messages("\"hi\""), "\"hi\""},
      {messages("[\"hi\"]"), "messages[0] is \"hi\""},
      {messages("[[" + user + "]]"), "messages[0] is a list"},
      {messages(R"([{"role": "user"}])"), "messages[0].content is absent"},
      {messages(R"([{"role": "user", "content": null}])"), "messages[0].content is absent"},
      {messages(R"([{"role": "user", "content": 5}])"), "messages[0].content is 5"},
      {messages(R"([{"role": "user", "content": [{"type": "text", "text": "x"}]}])"),
       "a list of 1"},
      {messages(R"([{"role": "system"}])"), "messages[0].content"},
      {messages("[" + user + R"(, {"role": "assistant", "content": null}])"),
       "messages[1].content"},
      {messages("[" + user + R"(, {"role": "assistant", "content": "", "reasoning_content": 7}])"),
       "messages[1].reasoning_content is 7"},
      {messages("[" + user + R"(, {"role": "assistant", "content": "", "tool_calls": "f"}])"),
       "messages[1].tool_calls"},
      {messages("[" + user + R"(, {"role": "assistant", "content": "", "tool_calls": ["f"]}])"),
       "messages[1].tool_calls[0]"},
      {messages("[" + user +
                R"(, {"role": "assistant", "content": "", "tool_calls": [{"name": "f"}]}])"),
       "arguments is absent"},
      {"{\"messages\": [" + user + "], \"tools\": 1}", "tools is 1"},
      {"{\"messages\": [" + user + "], \"tools\": [1]}", "tools[0] is 1"},
      {"{\"messages\": [" + user + "], \"enable_thinking\": \"no\"}", "enable_thinking"},
      {"{\"messages\": [" + user + "], \"add_generation_prompt\": 1}", "add_generation_prompt"},
      {"{\"messages\": [" + user + "], \"tools\": [{\"a\": 123456789012345678901}]}", "64 bits"},
      {messages(std::string(5000, '[') + std::string(5000, ']')), "nests deeper"},
  };
  for (const auto& [line, part] : cases) {
    expect_refused([&line] { template_line(line, 9); }, {"line 9", part});
  }
  ChatInput input;
  input.messages.push_back(chat_message("user", "\xFF"));
  expect_refused([&input] { render_chat(input); }, {"the conversation", "UTF-8"});
  input.messages[0] = chat_message("user", "x");
  OrderedJson deep = 1;
  for (int i = 0; i < 1000; ++i) deep = OrderedJson::array({deep});
  input.tools = OrderedJson::array({{{"deep", deep}}});
  expect_refused([&input] { render_chat(input); }, {"nests deeper"});
}

TEST(ChatTemplateFile, WarnsOfAnyOther) {
  const auto folder = std::filesystem::path(testing::TempDir()) / "rill_template_test";
  std::filesystem::remove_all(folder);
  std::filesystem::create_directories(folder);
  const auto kind = [&folder] { return inspect_chat_template(folder).kind; };
  EXPECT_EQ(kind(), FolderTemplate::kNone);
  EXPECT_NE(inspect_chat_template(folder).warning, "");
  const auto config = [&folder](const json& chat_template) {
    std::ofstream(folder / "tokenizer_config.json") << json{{"chat_template", chat_template}};
  };
  const std::string official(kQwen3Template);
  config(official + "\n");
  EXPECT_EQ(kind(), FolderTemplate::kQwen3);
  EXPECT_EQ(inspect_chat_template(folder).warning, "");
  config("{{ messages }}");
  EXPECT_EQ(kind(), FolderTemplate::kOther);
  EXPECT_NE(inspect_chat_template(folder).warning.find("tokenizer_config.json"), std::string::npos);
  config(json::array({{{"name", "default"}, {"template", official}}}));
  EXPECT_EQ(kind(), FolderTemplate::kQwen3);
  config(7);
  expect_refused(kind, {"chat_template", "7"});
  std::ofstream(folder / "chat_template.jinja") << "other";  // comes before tokenizer_config.json
  EXPECT_EQ(kind(), FolderTemplate::kOther);
  std::ofstream(folder / "chat_template.jinja") << official;
  EXPECT_EQ(kind(), FolderTemplate::kQwen3);
  std::filesystem::remove_all(folder);
  EXPECT_EQ(inspect_chat_template(test::data_folder() / "qwen3-tokenizer").kind,
            FolderTemplate::kQwen3);
}

}  // namespace
}  // namespace rill
