// SPDX-License-Identifier: Apache-2.0
// The input is a tokenizer.json; if it loads, a few texts go through it. With a zero byte, what
// follows it is the text.
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "rill/error.h"
#include "text/tokenizer.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  const size_t zero = input.find('\0');
  const std::string_view text = zero == std::string_view::npos
                                    ? "ab  12\n<x> e\xCC\x81 \xE4\xBD\xA0"
                                    : input.substr(zero + 1);
  try {
    const rill::Tokenizer tokenizer = rill::Tokenizer::from_json(input.substr(0, zero), "fuzz");
    for (const auto mode : {rill::SpecialTokens::kRecognise, rill::SpecialTokens::kPlain}) {
      const auto ids = tokenizer.encode(text.substr(0, 256), mode);
      rill::StreamDecoder stream(tokenizer);
      std::string joined;
      for (const int32_t id : ids) joined += stream.push(id);
      if (joined + stream.flush() != tokenizer.decode(ids)) __builtin_trap();
    }
  } catch (const rill::Error&) {
  }
  return 0;
}
