// SPDX-License-Identifier: Apache-2.0
#include "text/chat_template.h"

#include <algorithm>
#include <utility>

#include "base/error.h"
#include "base/json.h"
#include "base/mapped_file.h"
#include "text/qwen3_template.h"
#include "text/unicode.h"

namespace rill {
namespace {

constexpr std::string_view kToolsBefore =
    "# Tools\n\nYou may call one or more functions to assist with the user query.\n\nYou are "
    "provided with function signatures within <tools></tools> XML tags:\n<tools>";
constexpr std::string_view kToolsAfter =
    "\n</tools>\n\nFor each function call, return a json object with function name and arguments "
    "within <tool_call></tool_call> XML tags:\n<tool_call>\n{\"name\": <function-name>, "
    "\"arguments\": <args-json-object>}\n</tool_call><|im_end|>\n";

/// Python's str.strip("\n") and its halves.
std::string_view lstrip(std::string_view text) {
  return text.substr(std::min(text.find_first_not_of('\n'), text.size()));
}
std::string_view rstrip(std::string_view text) {
  return text.substr(0, text.find_last_not_of('\n') + 1);
}

/// text.split(mark)[0] and text.split(mark)[-1].
std::string_view before_first(std::string_view text, std::string_view mark) {
  return text.substr(0, text.find(mark));
}
std::string_view after_last(std::string_view text, std::string_view mark) {
  const size_t at = text.rfind(mark);
  return at == std::string_view::npos ? text : text.substr(at + mark.size());
}

/// What Python's bool() says of a value.
bool truthy(const OrderedJson& value) {
  if (value.is_boolean()) return value.get<bool>();
  if (value.is_number()) return value.get<double>() != 0;
  if (value.is_string()) return !value.get_ref<const std::string&>().empty();
  return !value.empty();  // null is empty
}

/// Renders one conversation; the steps and their order are the template's.
class Renderer {
 public:
  explicit Renderer(const ChatInput& input) : input_(input), messages_(input.messages) {}

  std::string run() {
    check();
    render_system();
    last_query_ = find_last_query();
    for (size_t i = 0; i < messages_.size(); ++i) {
      if (has_role(i, "user") || (has_role(i, "system") && i != 0)) {
        out_ += has_role(i, "user") ? "<|im_start|>user\n" : "<|im_start|>system\n";
        out_ += text(i, "content");
        out_ += "<|im_end|>\n";
      } else if (has_role(i, "assistant")) {
        render_assistant(i);
      } else if (has_role(i, "tool")) {
        render_tool_result(i);
      }
    }
    if (input_.add_generation_prompt) {
      out_ += "<|im_start|>assistant\n";
      if (input_.enable_thinking == false) out_ += "<think>\n\n</think>\n\n";
    }
    require_utf8(out_, "the conversation");
    return std::move(out_);
  }

 private:
  void check() const {
    if (!messages_.is_array() || messages_.empty()) {
      fail("messages is ", found(&messages_), ", expected a list of at least one message");
    }
    for (size_t i = 0; i < messages_.size(); ++i) {
      if (!messages_[i].is_object()) wrong(i, "", &messages_[i], "an object with role and content");
    }
    if (input_.tools.is_null()) return;
    if (!input_.tools.is_array()) {
      fail("tools is ", found(&input_.tools), ", expected a list of JSON schemas or null");
    }
    for (size_t i = 0; i < input_.tools.size(); ++i) {
      if (input_.tools[i].is_object()) continue;
      fail("tools[", i, "] is ", found(&input_.tools[i]), ", expected a JSON schema (an object)");
    }
  }

  static std::string found(const OrderedJson* value) {
    if (value == nullptr) return "absent";
    if (value->is_object()) return "an object";
    if (value->is_array()) return "a list of " + std::to_string(value->size());
    if (value->is_string()) return quote(value->get_ref<const std::string&>());
    return value->dump();
  }

  [[noreturn]] static void wrong(size_t message, std::string_view key, const OrderedJson* value,
                                 std::string_view expected) {
    fail("messages[", message, "]", key, " is ", found(value), ", expected ", expected);
  }

  /// The value of a key, or nullptr if it is absent or null.
  static const OrderedJson* member(const OrderedJson& object, std::string_view key) {
    if (!object.is_object()) return nullptr;
    const auto at = object.find(key);
    return at == object.end() || at->is_null() ? nullptr : &*at;
  }

  const std::string& text(size_t message, std::string_view key) const {
    const OrderedJson* value = member(messages_[message], key);
    if (value == nullptr || !value->is_string()) {
      wrong(message, "." + std::string(key), value, "a string");
    }
    return value->get_ref<const std::string&>();
  }

  bool has_role(size_t message, std::string_view role) const {
    const OrderedJson* value = member(messages_[message], "role");
    return value != nullptr && value->is_string() && value->get_ref<const std::string&>() == role;
  }

  void render_system() {
    const bool given = has_role(0, "system");
    const bool tools = !input_.tools.empty();
    if (!given && !tools) return;
    out_ += "<|im_start|>system\n";
    if (given) out_ += text(0, "content");
    if (!tools) {
      out_ += "<|im_end|>\n";
      return;
    }
    if (given) out_ += "\n\n";
    out_ += kToolsBefore;
    for (const OrderedJson& tool : input_.tools) {
      out_ += "\n";
      append_json(tool, out_);
    }
    out_ += kToolsAfter;
  }

  /// The last message of the user that is not a tool's result in disguise; without one, the last
  /// message.
  size_t find_last_query() const {
    for (size_t i = messages_.size(); i-- > 0;) {
      if (!has_role(i, "user")) continue;
      const std::string& content = text(i, "content");
      if (!content.starts_with("<tool_response>") || !content.ends_with("</tool_response>")) {
        return i;
      }
    }
    return messages_.size() - 1;
  }

  void render_assistant(size_t i) {
    std::string_view content = text(i, "content");
    const OrderedJson* given = nullptr;  // Transformers takes these names for the same thing
    for (const char* key : {"reasoning_content", "thinking", "reasoning"}) {
      if (given == nullptr) given = member(messages_[i], key);
    }
    std::string_view reasoning;
    if (given == nullptr && content.find("</think>") != std::string_view::npos) {
      reasoning = rstrip(before_first(content, "</think>"));
      reasoning = lstrip(after_last(reasoning, "<think>"));
      content = lstrip(after_last(content, "</think>"));
    }
    out_ += "<|im_start|>assistant\n";
    const bool last = i + 1 == messages_.size();
    const bool thinks = given == nullptr ? !reasoning.empty() : truthy(*given);
    if (i > last_query_ && (last || thinks)) {
      if (given != nullptr) {
        if (!given->is_string()) wrong(i, ".reasoning_content", given, "a string");
        reasoning = given->get_ref<const std::string&>();
      }
      out_ += "<think>\n";
      out_ += lstrip(rstrip(reasoning));
      out_ += "\n</think>\n\n";
      out_ += lstrip(content);
    } else {
      out_ += content;
    }
    render_tool_calls(i, !content.empty());
    out_ += "<|im_end|>\n";
  }

  void render_tool_calls(size_t i, bool after_content) {
    const OrderedJson* calls = member(messages_[i], "tool_calls");
    if (calls == nullptr || !truthy(*calls)) return;
    if (!calls->is_array()) wrong(i, ".tool_calls", calls, "a list");
    for (size_t c = 0; c < calls->size(); ++c) {
      const std::string place = ".tool_calls[" + std::to_string(c) + "]";
      const OrderedJson* call = &(*calls)[c];
      if (!call->is_object()) wrong(i, place, call, "an object with name and arguments");
      const OrderedJson* function = member(*call, "function");
      if (function != nullptr && truthy(*function)) call = function;
      if (c > 0 || after_content) out_ += "\n";
      out_ += "<tool_call>\n{\"name\": \"";
      // Only the keys of the message itself are dropped when null: here null prints as None.
      if (call->is_object() && call->contains("name")) out_ += python_str((*call)["name"]);
      out_ += "\", \"arguments\": ";
      if (!call->is_object() || !call->contains("arguments")) {
        wrong(i, place + ".function.arguments", nullptr, "an object or a string of JSON");
      }
      const OrderedJson& arguments = (*call)["arguments"];
      if (arguments.is_string()) {
        out_ += arguments.get_ref<const std::string&>();
      } else {
        append_json(arguments, out_);
      }
      out_ += "}\n</tool_call>";
    }
  }

  void render_tool_result(size_t i) {
    if (i == 0 || !has_role(i - 1, "tool")) out_ += "<|im_start|>user";
    out_ += "\n<tool_response>\n";
    // The template prints this one value as it comes, whatever its type.
    const OrderedJson* content = member(messages_[i], "content");
    if (content != nullptr) out_ += python_str(*content);
    out_ += "\n</tool_response>";
    if (i + 1 == messages_.size() || !has_role(i + 1, "tool")) out_ += "<|im_end|>\n";
  }

  const ChatInput& input_;
  const OrderedJson& messages_;
  size_t last_query_ = 0;
  std::string out_;
};

std::string_view trim(std::string_view text) {
  constexpr std::string_view kSpace = " \t\r\n";
  const size_t begin = text.find_first_not_of(kSpace);
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(kSpace) + 1 - begin);
}

FolderTemplate judge(std::string_view text, const std::string& file) {
  if (is_qwen3_template(text)) return {FolderTemplate::kQwen3, ""};
  return {FolderTemplate::kOther,
          file +
              " holds a chat template that is not the official one of Qwen3; Rill formats chats "
              "with the official one, so answers may differ from those in Transformers"};
}

/// The default template in a tokenizer_config.json: one string, or a list of named ones.
const Json* default_template(const JsonObject& config) {
  const Json* value = config.find("chat_template");
  if (value == nullptr || value->is_string()) return value;
  if (!value->is_array()) config.wrong("chat_template", "a string or a list of named templates");
  for (const Json& entry : *value) {
    if (!entry.is_object() || entry.value("name", Json()) != "default") continue;
    const auto text = entry.find("template");
    if (text != entry.end() && text->is_string()) return &*text;
  }
  return nullptr;
}

}  // namespace

OrderedJson chat_message(std::string_view role, std::string_view content) {
  OrderedJson message = OrderedJson::object();
  message["role"] = role;
  message["content"] = content;
  return message;
}

std::string render_chat(const ChatInput& input) {
  return Renderer(input).run();
}

bool is_qwen3_template(std::string_view text) {
  return trim(text) == trim(kQwen3Template);
}

FolderTemplate inspect_chat_template(const std::filesystem::path& folder) {
  const std::filesystem::path jinja = folder / "chat_template.jinja";
  const std::filesystem::path config = folder / "tokenizer_config.json";
  if (std::filesystem::exists(jinja)) {
    const MappedFile file = MappedFile::open(jinja);
    return judge(file.text(), file.name());
  }
  if (std::filesystem::exists(config)) {
    const Json root = load_json(config);
    const Json* text = default_template(JsonObject(root, config.string()));
    if (text != nullptr) return judge(text->get_ref<const std::string&>(), config.string());
  }
  return {FolderTemplate::kNone, folder.string() +
                                     " brings no chat template; Rill formats chats "
                                     "with the official one of Qwen3"};
}

}  // namespace rill
