// SPDX-License-Identifier: Apache-2.0
#include "base/json.h"

#include <cmath>
#include <sstream>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/mapped_file.h"

namespace rill {
namespace {

constexpr size_t kQuotedBytes = 120;

/// Builds the value as nlohmann's own builder does, but stops at a limit or at a repeated key. (Its
/// parser with a callback does both too, in quadratic time: it searches the parent of every
/// object.)
class Builder : public nlohmann::json_sax<Json> {
 public:
  Builder(std::string_view file, const JsonLimits& limits, std::string_view advice)
      : file_(file), limits_(limits), advice_(advice) {}

  Json take() { return std::move(root_); }
  size_t error_byte() const { return error_byte_; }
  bool number_overflows() const { return number_overflows_; }

  bool null() override { return add(nullptr); }
  bool boolean(bool value) override { return add(value); }
  bool number_integer(number_integer_t value) override { return add(value); }
  bool number_unsigned(number_unsigned_t value) override { return add(value); }
  bool number_float(number_float_t value, const string_t&) override { return add(value); }
  bool string(string_t& value) override { return add(std::move(value)); }
  bool binary(binary_t&) override { return false; }  // not in JSON texts
  bool start_object(size_t) override { return open(Json::object()); }
  bool start_array(size_t) override { return open(Json::array()); }
  bool end_object() override { return close(); }
  bool end_array() override { return close(); }

  bool key(string_t& name) override {
    const auto [place, is_new] = open_.back()->emplace(name, nullptr);
    if (!is_new) {
      fail(file_, " holds the key ", quote(name), " twice in one object, expected it once; remove ",
           "one of them");
    }
    slot_ = &*place;
    return true;
  }

  bool parse_error(size_t byte, const std::string&, const Json::exception& error) override {
    error_byte_ = byte;
    number_overflows_ = dynamic_cast<const Json::out_of_range*>(&error) != nullptr;
    return false;
  }

 private:
  bool add(Json value) {
    if (++values_ > limits_.values) {
      fail(file_, " holds more than ", limits_.values, " JSON values, expected fewer; ", advice_);
    }
    if (!open_.empty() && open_.back()->is_array()) {
      open_.back()->push_back(std::move(value));
      slot_ = &open_.back()->back();
    } else {
      *slot_ = std::move(value);
    }
    return true;
  }

  bool open(Json empty) {
    if (open_.size() >= limits_.depth) {
      fail(file_, " nests deeper than ", limits_.depth, " levels of JSON, expected fewer; ",
           advice_);
    }
    add(std::move(empty));
    open_.push_back(slot_);  // stays in place: its parent grows only after it is closed
    return true;
  }

  bool close() {
    open_.pop_back();
    return true;
  }

  std::string_view file_;
  const JsonLimits& limits_;
  std::string_view advice_;
  Json root_;
  Json* slot_ = &root_;      // where the value of the last key goes, or the value last added
  std::vector<Json*> open_;  // objects and arrays around the present place, outermost first
  size_t values_ = 0, error_byte_ = 0;
  bool number_overflows_ = false;
};

}  // namespace

Json parse_json(std::string_view text, std::string_view file, const JsonLimits& limits,
                std::string_view advice) {
  if (text.size() > limits.bytes) {
    fail(file, " has ", text.size(), " bytes of JSON, expected at most ", limits.bytes, "; ",
         advice);
  }
  Builder builder(file, limits, advice);
  if (Json::sax_parse(text.begin(), text.end(), &builder)) return builder.take();
  if (builder.number_overflows()) {
    fail(file, " holds a number that no double can hold", ", expected finite numbers; ", advice);
  }
  // nlohmann's own text spells out parser states; where it stopped is what a reader can use.
  const size_t byte = builder.error_byte();
  fail(file, " is not JSON at byte ", byte, " of ", text.size(),
       byte > text.size() ? ": it ends too early" : "", ", expected valid JSON in UTF-8; ", advice);
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
