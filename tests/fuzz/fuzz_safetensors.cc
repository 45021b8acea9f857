// SPDX-License-Identifier: Apache-2.0
// libFuzzer: any bytes as a safetensors file either list tensors that lie inside it or throw Error.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <span>

#include "base/error.h"
#include "model/safetensors.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto file = std::as_bytes(std::span(data, size));
  try {
    size_t total = 0;
    unsigned sum = 0;
    for (const rill::TensorInfo& tensor : rill::parse_safetensors(file, "fuzz.safetensors")) {
      size_t bits = rill::dtype_bits(tensor.dtype);
      for (const size_t length : tensor.shape) bits *= length;
      if (bits / 8 != tensor.bytes.size()) std::abort();
      // Reading every byte lets AddressSanitizer see one that lies outside.
      for (const std::byte byte : tensor.bytes) sum += static_cast<unsigned>(byte);
      total += tensor.bytes.size();
    }
    if (total > size || sum > 255 * total) std::abort();
  } catch (const rill::Error&) {
  }
  return 0;
}
