// SPDX-License-Identifier: Apache-2.0
// JSON from untrusted files: nlohmann-json behind limits, and getters whose errors name the file,
// the key, what was found and what was expected.
#pragma once
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>

namespace rill {

using Json = nlohmann::json;

/// What a JSON text may cost. `values` bounds memory: a parsed value takes some 64 bytes, whereas
/// it may take two bytes of text.
struct JsonLimits {
  size_t bytes = size_t{16} << 20;
  size_t depth = 64;
  size_t values = size_t{1} << 20;
};

/// Parses `text`. Throws Error (naming `file`) if it is not JSON, not UTF-8, passes a limit, or
/// holds an object with the same key twice, of which parsers disagree which one counts. `advice`
/// ends the sentence.
Json parse_json(std::string_view text, std::string_view file, const JsonLimits& limits = {},
                std::string_view advice = "the file is damaged, download it again");

/// Reads and parses a whole file.
Json load_json(const std::filesystem::path& path, const JsonLimits& limits = {});

/// `text` in double quotes, fit for one line of a message: control characters escaped, invalid
/// UTF-8 replaced, cut after 120 bytes. Everything that a file provides goes through here.
std::string quote(std::string_view text);

/// A short rendering of a JSON value for messages.
std::string describe(const Json& value);

/// A borrowed JSON object with the names that its errors need. A key whose value is null counts as
/// absent, as Hugging Face configs write it.
class JsonObject {
 public:
  /// `file` is named in errors, `prefix` is put before the keys ("rope_scaling."), `advice` ends
  /// the sentence ("download it again"). Throws Error if `value` is not an object.
  JsonObject(const Json& value, std::string file, std::string prefix = "", std::string advice = "");

  /// The value of `key`, or nullptr if it is absent or null.
  const Json* find(std::string_view key) const;
  bool has(std::string_view key) const { return find(key) != nullptr; }
  const Json& value() const { return *value_; }

  /// Whole numbers in [min, max].
  size_t size(std::string_view key, size_t min, size_t max) const;
  std::optional<int32_t> optional_id(std::string_view key) const;
  /// A finite number, read from an integer or a fraction.
  double number(std::string_view key) const;
  std::optional<double> optional_number(std::string_view key) const;
  bool boolean(std::string_view key, bool when_absent) const;
  std::string string(std::string_view key, std::string_view when_absent) const;
  /// The object under `key`, or nothing if absent.
  std::optional<JsonObject> object(std::string_view key) const;

  /// Throws: "FILE: PREFIX KEY is FOUND, expected EXPECTED; ADVICE".
  [[noreturn]] void wrong(std::string_view key, std::string_view expected) const;

  const std::string& file() const { return file_; }

 private:
  const Json& require(std::string_view key, std::string_view expected) const;

  const Json* value_;
  std::string file_, prefix_, advice_;
};

}  // namespace rill
