// SPDX-License-Identifier: Apache-2.0
// Tables of results: Markdown, CSV, JSON, JSON lines.
#pragma once
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "kernels/kernels.h"

namespace rill {

enum class ReportFormat { MD, CSV, JSON, JSONL };

/// Throws rill::Error naming `option`, the value and the accepted ones.
ReportFormat parse_report_format(const std::string& text, const std::string& option);

/// `rows` (objects with the same fields) as CSV, JSON or JSON lines, ending with a newline. CSV
/// leaves out fields that are arrays.
std::string format_rows(const std::vector<nlohmann::ordered_json>& rows, ReportFormat format);

/// A Markdown table of `cells` (the first row is the header), columns padded to equal widths; the
/// columns from `numbers` on are aligned to the right.
std::string markdown_table(const std::vector<std::vector<std::string>>& cells, size_t numbers);

/// "f32", "bf16", ...: how a table names a storage type; what products are made of.
const char* name_of(Format format);
const char* name_of(Operand operand);

/// "1.23": with `digits` after the point.
std::string fixed(double value, int digits = 2);

}  // namespace rill
