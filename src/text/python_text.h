// SPDX-License-Identifier: Apache-2.0
// JSON values written the way Python writes them, which is what a Jinja template prints.
#pragma once
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace rill {

/// JSON whose objects keep the order of their keys, as Python's dictionaries do.
using OrderedJson = nlohmann::ordered_json;

/// Values nested deeper than this are refused, so that writing them cannot exhaust the stack.
inline constexpr size_t kDeepestJson = 256;

/// Parses one JSON text; a key that comes twice keeps its place and takes the later value, as in
/// Python. Throws Error, naming `where`, for broken JSON or UTF-8, nesting beyond kDeepestJson, an
/// object of more than 4096 keys, and numbers beyond 64 bits or a double.
OrderedJson parse_ordered_json(std::string_view text, std::string_view where);

/// Appends json.dumps(value, ensure_ascii=False): ", " and ": " between items, nothing escaped but
/// quotes, backslashes and control characters. Throws Error beyond kDeepestJson.
void append_json(const OrderedJson& value, std::string& out);

/// str(value): a string as it is, None, True, 1.5, and lists and objects as repr shows them.
/// Throws Error beyond kDeepestJson.
std::string python_str(const OrderedJson& value);

}  // namespace rill
