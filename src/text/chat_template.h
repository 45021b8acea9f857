// SPDX-License-Identifier: Apache-2.0
// The Qwen3 chat template, in C++: what Transformers' apply_chat_template makes of a conversation
// with the template in qwen3_template.h.
#pragma once
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>

#include "text/python_text.h"

namespace rill {

/// One conversation, in the shape that apply_chat_template takes.
struct ChatInput {
  /// A list of {"role": "system"|"user"|"assistant"|"tool", "content": string} in order; an
  /// assistant's may have "reasoning_content" (or "thinking", or "reasoning") and "tool_calls", a
  /// list of {"function": {"name", "arguments"}} or of {"name", "arguments"}. A key whose value is
  /// null counts as absent. A message of any other role is left out, as the template does.
  OrderedJson messages = OrderedJson::array();
  /// A list of JSON schemas, or null.
  OrderedJson tools;
  /// Whether to end with the beginning of the assistant's turn.
  bool add_generation_prompt = false;
  /// false puts an empty thinking block into that beginning; true and unset do not.
  std::optional<bool> enable_thinking;
};

/// {"role": role, "content": content}.
OrderedJson chat_message(std::string_view role, std::string_view content);

/// The prompt of a conversation. Throws Error, naming the message and the key, for what the
/// official template cannot render: no messages, content that is not a string, tool calls without
/// arguments; and for invalid UTF-8.
std::string render_chat(const ChatInput& input);

/// Whether `text`, but for white space at its ends, is a published Qwen3 template that render_chat
/// reproduces.
bool is_qwen3_template(std::string_view text);

/// Which template a model folder brings.
struct FolderTemplate {
  enum Kind { kQwen3, kOther, kNone } kind;
  /// For the user to read if the kind is not kQwen3: what render_chat will do all the same.
  std::string warning;
};

/// Looks at chat_template.jinja, which comes first as in Transformers, and tokenizer_config.json.
/// Throws Error if a file is there but cannot be read.
FolderTemplate inspect_chat_template(const std::filesystem::path& folder);

}  // namespace rill
