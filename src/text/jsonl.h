// SPDX-License-Identifier: Apache-2.0
// One line of `rill tokenize|detokenize|template --jsonl`: a JSON object in, a JSON object out.
#pragma once
#include <cstddef>
#include <string>
#include <string_view>

#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace rill {

/// {"text": string} to {"ids": [...], "decoded": string}. `number` is that of the line, from 1, for
/// errors. Throws Error, naming the line, if it is not JSON or not UTF-8, if a key is missing or of
/// the wrong type, or if the tokenizer refuses.
std::string tokenize_line(const Tokenizer& tokenizer, std::string_view line, size_t number);

/// {"ids": [...]} to {"text": string}. Throws as tokenize_line does, also for ids that are no
/// tokens.
std::string detokenize_line(const Tokenizer& tokenizer, std::string_view line, size_t number);

/// {"messages", "tools", "add_generation_prompt", "enable_thinking"} to {"text": string}; all but
/// "messages" may be absent or null. Throws as tokenize_line does.
std::string template_line(std::string_view line, size_t number);

/// The conversation of such an object. Throws Error, naming the key, if one has the wrong type.
ChatInput chat_input(const OrderedJson& object);

}  // namespace rill
