// SPDX-License-Identifier: Apache-2.0
#include "text/python_text.h"

#include <charconv>
#include <cmath>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/json.h"
#include "text/unicode.h"

namespace rill {
namespace {

constexpr size_t kMostKeys = 4096;  // finding a key in an ordered object takes linear time
constexpr const char* kHex = "0123456789abcdef";

/// Builds the value from the events of nlohmann's parser, which by itself would turn integers
/// beyond 64 bits into doubles and nest without limit.
class Builder : public nlohmann::json_sax<OrderedJson> {
 public:
  Builder(std::string_view where, OrderedJson& root) : where_(where), root_(root) {}

  bool null() override { return place(nullptr) != nullptr; }
  bool boolean(bool value) override { return place(value) != nullptr; }
  bool number_integer(number_integer_t value) override { return place(value) != nullptr; }
  bool number_unsigned(number_unsigned_t value) override { return place(value) != nullptr; }
  bool number_float(number_float_t value, const string_t& text) override {
    if (text.find_first_of(".eE") == string_t::npos) {
      fail(where_, " holds the integer ", quote(text),
           ", expected one that fits 64 bits; write it as a string");
    }
    return place(value) != nullptr;
  }
  bool string(string_t& value) override { return place(std::move(value)) != nullptr; }
  bool binary(binary_t&) override { return false; }
  bool start_object(size_t) override { return open(OrderedJson::object()); }
  bool start_array(size_t) override { return open(OrderedJson::array()); }
  bool end_object() override { return close(); }
  bool end_array() override { return close(); }
  bool key(string_t& text) override {
    if (stack_.back()->size() >= kMostKeys) {
      fail(where_, " holds an object of more than ", kMostKeys, " keys, expected fewer; split it");
    }
    key_.swap(text);
    return true;
  }
  bool parse_error(size_t position, const std::string&,
                   const nlohmann::detail::exception& error) override {
    if (dynamic_cast<const OrderedJson::parse_error*>(&error) == nullptr) {
      fail(where_, " holds a number that no double can hold, expected finite numbers; mend it");
    }
    fail(where_, " is not JSON at byte ", position, ", expected valid JSON in UTF-8; mend it");
  }

 private:
  OrderedJson* place(OrderedJson&& value) {
    if (stack_.empty()) return &(root_ = std::move(value));
    if (!stack_.back()->is_array()) return &((*stack_.back())[key_] = std::move(value));
    stack_.back()->push_back(std::move(value));
    return &stack_.back()->back();
  }
  bool open(OrderedJson&& container) {
    if (stack_.size() >= kDeepestJson) {
      fail(where_, " nests deeper than ", kDeepestJson, " levels, expected fewer; flatten it");
    }
    stack_.push_back(place(std::move(container)));
    return true;
  }
  bool close() {
    stack_.pop_back();
    return true;
  }

  std::string_view where_;
  OrderedJson& root_;
  std::vector<OrderedJson*> stack_;  // the open containers
  std::string key_;
};

void require_shallow(size_t depth) {
  if (depth > kDeepestJson) {
    fail("a JSON value nests deeper than ", kDeepestJson, " levels, expected fewer; flatten it");
  }
}

/// The shortest digits that read back as `value`, laid out as Python's repr(float) does.
void append_float(double value, std::string& out) {
  if (!std::isfinite(value)) {
    out += std::isnan(value) ? "NaN" : value > 0 ? "Infinity" : "-Infinity";
    return;
  }
  char text[40];
  const auto [end, error] =
      std::to_chars(text, text + sizeof text, value, std::chars_format::scientific);
  std::string digits(text, end);  // -d.dde+XX
  if (digits[0] == '-') {
    out.push_back('-');
    digits.erase(0, 1);
  }
  const size_t e = digits.find('e');
  const int exponent = std::stoi(digits.substr(e + 1));
  std::string mantissa = digits.substr(0, e);
  if (exponent < -4 || exponent >= 16) {
    const std::string shown = std::to_string(std::abs(exponent));
    out += mantissa + (exponent < 0 ? "e-" : "e+") + (shown.size() < 2 ? "0" : "") + shown;
    return;
  }
  std::erase(mantissa, '.');
  const int count = static_cast<int>(mantissa.size());
  if (exponent < 0) {
    out += "0." + std::string(static_cast<size_t>(-exponent - 1), '0') + mantissa;
  } else if (count <= exponent + 1) {
    out += mantissa + std::string(static_cast<size_t>(exponent + 1 - count), '0') + ".0";
  } else {
    out += mantissa.insert(static_cast<size_t>(exponent + 1), ".");
  }
}

void append_json_string(std::string_view text, std::string& out) {
  out.push_back('"');
  for (const char c : text) {
    const size_t named = std::string_view("\"\\\n\r\t\b\f").find(c);
    if (named != std::string_view::npos) {
      out.push_back('\\');
      out.push_back("\"\\nrtbf"[named]);
    } else if (static_cast<unsigned char>(c) < 0x20) {
      out += "\\u00";
      out.push_back(kHex[c >> 4]);
      out.push_back(kHex[c & 15]);
    } else {
      out.push_back(c);
    }
  }
  out.push_back('"');
}

/// \x, \u or \U and the digits of a character that repr does not show.
void append_escape(uint32_t c, std::string& out) {
  const int digits = c < 0x100 ? 2 : c < 0x10000 ? 4 : 8;
  out += digits == 2 ? "\\x" : digits == 4 ? "\\u" : "\\U";
  for (int i = digits - 1; i >= 0; --i) out.push_back(kHex[c >> (4 * i) & 15]);
}

void append_repr_string(std::string_view text, std::string& out) {
  const bool double_quotes =
      text.find('\'') != std::string_view::npos && text.find('"') == std::string_view::npos;
  const char mark = double_quotes ? '"' : '\'';
  out.push_back(mark);
  while (!text.empty()) {
    const Utf8Step step = next_utf8(text);
    const uint32_t c = step.code_point;
    if (step.kind != Utf8Step::kCharacter) {
      append_escape(static_cast<unsigned char>(text[0]), out);
    } else if (c == static_cast<unsigned char>(mark) || c == '\\') {
      out.push_back('\\');
      out.push_back(static_cast<char>(c));
    } else if (c == '\n' || c == '\r' || c == '\t') {
      out += c == '\n' ? "\\n" : c == '\r' ? "\\r" : "\\t";
    } else if (is_printable(c)) {
      out.append(text.substr(0, step.length));
    } else {
      append_escape(c, out);
    }
    text.remove_prefix(step.kind == Utf8Step::kCharacter ? step.length : 1);
  }
  out.push_back(mark);
}

void append_repr(const OrderedJson& value, size_t depth, std::string& out) {
  require_shallow(depth);
  const char* separator = "";
  switch (value.type()) {
    case OrderedJson::value_t::object:
      out.push_back('{');
      for (const auto& [key, member] : value.items()) {
        out += std::exchange(separator, ", ");
        append_repr_string(key, out);
        out += ": ";
        append_repr(member, depth + 1, out);
      }
      out.push_back('}');
      return;
    case OrderedJson::value_t::array:
      out.push_back('[');
      for (const OrderedJson& member : value) {
        out += std::exchange(separator, ", ");
        append_repr(member, depth + 1, out);
      }
      out.push_back(']');
      return;
    case OrderedJson::value_t::string:
      return append_repr_string(value.get_ref<const std::string&>(), out);
    case OrderedJson::value_t::boolean:
      out += value.get<bool>() ? "True" : "False";
      return;
    case OrderedJson::value_t::number_float:
      return append_float(value.get<double>(), out);
    case OrderedJson::value_t::number_integer:
    case OrderedJson::value_t::number_unsigned:
      out += value.dump();
      return;
    default:
      out += "None";
  }
}

void append_json_at(const OrderedJson& value, size_t depth, std::string& out) {
  require_shallow(depth);
  const char* separator = "";
  if (value.is_object()) {
    out.push_back('{');
    for (const auto& [key, member] : value.items()) {
      out += std::exchange(separator, ", ");
      append_json_string(key, out);
      out += ": ";
      append_json_at(member, depth + 1, out);
    }
    out.push_back('}');
  } else if (value.is_array()) {
    out.push_back('[');
    for (const OrderedJson& member : value) {
      out += std::exchange(separator, ", ");
      append_json_at(member, depth + 1, out);
    }
    out.push_back(']');
  } else if (value.is_string()) {
    append_json_string(value.get_ref<const std::string&>(), out);
  } else if (value.is_number_float()) {
    append_float(value.get<double>(), out);
  } else {
    out += value.dump();
  }
}

}  // namespace

OrderedJson parse_ordered_json(std::string_view text, std::string_view where) {
  OrderedJson root;
  Builder builder(where, root);
  OrderedJson::sax_parse(text.begin(), text.end(), &builder);
  return root;
}

void append_json(const OrderedJson& value, std::string& out) {
  append_json_at(value, 1, out);
}

std::string python_str(const OrderedJson& value) {
  if (value.is_string()) return value.get<std::string>();
  std::string out;
  append_repr(value, 1, out);
  return out;
}

}  // namespace rill
