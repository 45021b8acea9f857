// SPDX-License-Identifier: Apache-2.0
#include "base/json.h"

#include <cmath>
#include <sstream>
#include <unordered_set>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/mapped_file.h"

namespace rill {
namespace {

constexpr size_t kQuotedBytes = 120;

/// Watches a parse go by and stops it at a limit or at a repeated key.
class Guard {
 public:
  Guard(std::string_view file, const JsonLimits& limits) : file_(file), limits_(limits) {}

  bool operator()(int depth, Json::parse_event_t event, const Json& parsed) {
    using Event = Json::parse_event_t;
    if (event == Event::object_start || event == Event::array_start) {
      if (static_cast<size_t>(depth) >= limits_.depth) {
        fail(file_, " nests deeper than ", limits_.depth,
             " levels of JSON, expected fewer; the file is damaged, download it again");
      }
      keys_.emplace_back();
    } else if (event == Event::object_end || event == Event::array_end) {
      keys_.pop_back();
    } else if (event == Event::key && !keys_.back().insert(parsed.get<std::string>()).second) {
      fail(file_, " holds the key ", quote(parsed.get<std::string>()),
           " twice in one object, expected it once; remove one of them");
    }
    if (++values_ > limits_.values) {
      fail(file_, " holds more than ", limits_.values,
           " JSON values, expected fewer; the file is damaged, download it again");
    }
    return true;
  }

 private:
  std::string_view file_;
  const JsonLimits& limits_;
  std::vector<std::unordered_set<std::string>> keys_;  // of each object that is open
  size_t values_ = 0;
};

}  // namespace

Json parse_json(std::string_view text, std::string_view file, const JsonLimits& limits) {
  if (text.size() > limits.bytes) {
    fail(file, " has ", text.size(), " bytes of JSON, expected at most ", limits.bytes,
         "; the file is damaged, download it again");
  }
  try {
    Guard guard(file, limits);
    return Json::parse(text.begin(), text.end(), std::ref(guard));
  } catch (const Json::parse_error& error) {
    // nlohmann's own text spells out parser states; where it stopped is what a reader can use.
    fail(file, " is not JSON at byte ", error.byte, " of ", text.size(),
         error.byte > text.size() ? ": it ends too early" : "",
         ", expected valid JSON in UTF-8; the file is damaged, download it again");
  } catch (const Json::exception&) {
    fail(file, " holds a number that no double can hold",
         ", expected finite numbers; the file is damaged, download it again");
  }
}

Json load_json(const std::filesystem::path& path, const JsonLimits& limits) {
  const MappedFile file = MappedFile::open(path);
  return parse_json(file.text(), file.name(), limits);
}

std::string quote(std::string_view text) {
  const bool cut = text.size() > kQuotedBytes;
  std::string out = Json(std::string(text.substr(0, kQuotedBytes)))
                        .dump(-1, ' ', false, Json::error_handler_t::replace);
  for (size_t at = out.find('\x7f'); at != std::string::npos; at = out.find('\x7f')) {
    out.replace(at, 1, "\\u007f");
  }
  return cut ? out + "…" : out;
}

std::string describe(const Json& value) {
  if (value.is_string()) return quote(value.get_ref<const std::string&>());
  if (value.is_object()) return "an object";
  if (value.is_array()) return "a list of " + std::to_string(value.size());
  return value.dump();
}

JsonObject::JsonObject(const Json& value, std::string file, std::string prefix, std::string advice)
    : value_(&value),
      file_(std::move(file)),
      prefix_(std::move(prefix)),
      advice_(std::move(advice)) {
  if (value.is_object()) return;
  fail(file_, prefix_.empty() ? " holds " : ": " + prefix_.substr(0, prefix_.size() - 1) + " is ",
       describe(value), ", expected a JSON object; ", advice_);
}

const Json* JsonObject::find(std::string_view key) const {
  const auto at = value_->find(key);
  return at == value_->end() || at->is_null() ? nullptr : &*at;
}

const Json& JsonObject::require(std::string_view key, std::string_view expected) const {
  const Json* value = find(key);
  if (value == nullptr) wrong(key, expected);
  return *value;
}

void JsonObject::wrong(std::string_view key, std::string_view expected) const {
  const Json* value = find(key);
  fail(file_, ": ", prefix_, key, " is ", value == nullptr ? "absent" : describe(*value),
       ", expected ", expected, advice_.empty() ? "" : "; ", advice_);
}

size_t JsonObject::size(std::string_view key, size_t min, size_t max) const {
  std::ostringstream text;
  text << "a whole number from " << min << " to " << max;
  const Json& value = require(key, text.str());
  if (!value.is_number_unsigned()) wrong(key, text.str());
  const uint64_t number = value.get<uint64_t>();
  if (number < min || number > max) wrong(key, text.str());
  return static_cast<size_t>(number);
}

std::optional<int32_t> JsonObject::optional_id(std::string_view key) const {
  if (!has(key)) return std::nullopt;
  return static_cast<int32_t>(size(key, 0, INT32_MAX));
}

double JsonObject::number(std::string_view key) const {
  const Json& value = require(key, "a number");
  if (!value.is_number() || !std::isfinite(value.get<double>())) wrong(key, "a finite number");
  return value.get<double>();
}

std::optional<double> JsonObject::optional_number(std::string_view key) const {
  if (!has(key)) return std::nullopt;
  return number(key);
}

bool JsonObject::boolean(std::string_view key, bool when_absent) const {
  const Json* value = find(key);
  if (value == nullptr) return when_absent;
  if (!value->is_boolean()) wrong(key, "true or false");
  return value->get<bool>();
}

std::string JsonObject::string(std::string_view key, std::string_view when_absent) const {
  const Json* value = find(key);
  if (value == nullptr) return std::string(when_absent);
  if (!value->is_string()) wrong(key, "a string");
  return value->get<std::string>();
}

std::optional<JsonObject> JsonObject::object(std::string_view key) const {
  const Json* value = find(key);
  if (value == nullptr) return std::nullopt;
  return JsonObject(*value, file_, prefix_ + std::string(key) + ".", advice_);
}

}  // namespace rill
