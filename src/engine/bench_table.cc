// SPDX-License-Identifier: Apache-2.0
#include "engine/bench_table.h"

#include <algorithm>
#include <iomanip>
#include <sstream>

#include "base/error.h"

namespace rill {
namespace {

using Json = nlohmann::ordered_json;

std::string dump(const Json& value, int indent = -1) {
  return value.dump(indent, ' ', false, Json::error_handler_t::replace);
}

/// A cell of CSV: always quoted, as llama-bench does.
std::string quoted(const Json& value) {
  const std::string text = value.is_string() ? value.get<std::string>() : dump(value);
  std::string cell = "\"";
  for (char c : text) {
    if (c == '"') cell += '"';
    cell += c;
  }
  return cell + "\"";
}

std::string csv(const std::vector<Json>& rows) {
  std::ostringstream text;
  const auto line = [&](const Json& row, bool names) {
    bool first = true;
    for (const auto& [name, value] : row.items()) {
      if (value.is_array()) continue;  // the samples: JSON alone has them
      text << (first ? "" : ",") << (names ? name : quoted(value));
      first = false;
    }
    text << "\n";
  };
  if (!rows.empty()) line(rows.front(), true);
  for (const Json& row : rows) line(row, false);
  return text.str();
}

/// Columns that a terminal shows; the only wide character that we print is none, the only
/// multi-byte one the sign ±.
size_t columns_of(const std::string& text) {
  return static_cast<size_t>(std::count_if(text.begin(), text.end(), [](char c) {
    return (static_cast<unsigned char>(c) & 0xC0) != 0x80;
  }));
}

}  // namespace

const char* name_of(Format format) {
  switch (format) {
    case Format::F32:
      return "f32";
    case Format::F16:
      return "f16";
    case Format::BF16:
      return "bf16";
    case Format::INT8:
      return "int8";
    case Format::INT4:
      return "int4";
  }
  return "";
}

/// What the products of the linear layers are made of.
const char* name_of(Operand operand) {
  switch (operand) {
    case Operand::F32:
      return "f32";
    case Operand::BF16:
      return "bf16";
    case Operand::BF16X32:
      return "bf16x32";
    case Operand::Q8:
      return "int8";
  }
  return "";
}

ReportFormat parse_report_format(const std::string& text, const std::string& option) {
  if (text == "md") return ReportFormat::MD;
  if (text == "csv") return ReportFormat::CSV;
  if (text == "json") return ReportFormat::JSON;
  if (text == "jsonl") return ReportFormat::JSONL;
  fail(option, " is \"", text, "\"; use md, csv, json or jsonl");
}

std::string fixed(double value, int digits) {
  std::ostringstream text;
  text << std::fixed << std::setprecision(digits) << value;
  return text.str();
}

std::string format_rows(const std::vector<Json>& rows, ReportFormat format) {
  if (format == ReportFormat::CSV) return csv(rows);
  if (format == ReportFormat::JSON) return dump(Json(rows), 2) + "\n";
  std::string text;
  for (const Json& row : rows) text += dump(row) + "\n";
  return text;
}

std::string markdown_table(const std::vector<std::vector<std::string>>& cells, size_t numbers) {
  std::vector<size_t> widths(cells.front().size(), 3);
  for (const auto& line : cells)
    for (size_t i = 0; i < line.size(); ++i) widths[i] = std::max(widths[i], columns_of(line[i]));
  std::ostringstream text;
  for (size_t row = 0; row < cells.size(); ++row) {
    for (size_t i = 0; i < widths.size(); ++i) {
      const std::string padding(widths[i] - columns_of(cells[row][i]), ' ');
      text << "| " << (i < numbers ? cells[row][i] + padding : padding + cells[row][i]) << " ";
    }
    text << "|\n";
    for (size_t i = 0; row == 0 && i < widths.size(); ++i)
      text << "| " << std::string(widths[i] - 1, '-') << (i < numbers ? '-' : ':') << " ";
    if (row == 0) text << "|\n";
  }
  return text.str();
}

}  // namespace rill
