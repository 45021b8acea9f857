// SPDX-License-Identifier: Apache-2.0
// The input is a line of `rill template --jsonl`: what it renders to must be JSON again.
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "rill/error.h"
#include "text/jsonl.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view line(reinterpret_cast<const char*>(data), size);
  try {
    const std::string out = rill::template_line(line, 1);
    if (!rill::OrderedJson::accept(out)) __builtin_trap();
  } catch (const rill::Error&) {
  }
  return 0;
}
