// SPDX-License-Identifier: Apache-2.0
#include "text/jsonl.h"

#include <cstdint>
#include <vector>

#include "base/error.h"
#include "base/json.h"

namespace rill {
namespace {

/// Calls `work` on the object in a line, which is to have a `key`; its errors get the number of the
/// line in front.
template <class Work>
std::string on_line(std::string_view line, size_t number, const char* key, const Work& work) {
  const std::string where = "line " + std::to_string(number);
  const OrderedJson value = parse_ordered_json(line, where);
  try {
    if (!value.is_object()) fail("it is not a JSON object, expected one with \"", key, "\"");
    OrderedJson result = OrderedJson::object();
    work(value, result);
    std::string out;
    append_json(result, out);
    return out;
  } catch (const Error& error) {
    throw Error(where + ": " + error.what());
  }
}

const OrderedJson& member(const OrderedJson& object, const char* key, const char* expected) {
  const auto at = object.find(key);
  if (at == object.end()) fail("the key \"", key, "\" is absent, expected ", expected);
  return *at;
}

[[noreturn]] void wrong(const char* key, const OrderedJson& found, const char* expected) {
  fail("\"", key, "\" is ", describe(Json(found)), ", expected ", expected);
}

/// A flag that may be absent or null.
std::optional<bool> flag(const OrderedJson& object, const char* key) {
  const auto at = object.find(key);
  if (at == object.end() || at->is_null()) return std::nullopt;
  if (!at->is_boolean()) wrong(key, *at, "true, false or null");
  return at->get<bool>();
}

}  // namespace

std::string tokenize_line(const Tokenizer& tokenizer, std::string_view line, size_t number) {
  return on_line(line, number, "text", [&](const OrderedJson& in, OrderedJson& out) {
    const OrderedJson& text = member(in, "text", "a string");
    if (!text.is_string()) wrong("text", text, "a string");
    const std::vector<int32_t> ids = tokenizer.encode(text.get_ref<const std::string&>());
    out["ids"] = ids;
    out["decoded"] = tokenizer.decode(ids);
  });
}

std::string detokenize_line(const Tokenizer& tokenizer, std::string_view line, size_t number) {
  return on_line(line, number, "ids", [&](const OrderedJson& in, OrderedJson& out) {
    const OrderedJson& list = member(in, "ids", "a list of token ids");
    if (!list.is_array()) wrong("ids", list, "a list of token ids");
    std::vector<int32_t> ids;
    for (const OrderedJson& id : list) {
      if (!id.is_number_unsigned() || id.get<uint64_t>() > INT32_MAX) {
        wrong("ids", id, "only whole numbers that are token ids");
      }
      ids.push_back(id.get<int32_t>());
    }
    out["text"] = tokenizer.decode(ids);
  });
}

std::string template_line(std::string_view line, size_t number) {
  return on_line(line, number, "messages", [&](const OrderedJson& in, OrderedJson& out) {
    out["text"] = render_chat(chat_input(in));
  });
}

ChatInput chat_input(const OrderedJson& object) {
  ChatInput input;
  input.messages = member(object, "messages", "a list of messages");
  if (object.contains("tools")) input.tools = object["tools"];
  input.add_generation_prompt = flag(object, "add_generation_prompt").value_or(false);
  input.enable_thinking = flag(object, "enable_thinking");
  return input;
}

}  // namespace rill
