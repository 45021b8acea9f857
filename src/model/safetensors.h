// SPDX-License-Identifier: Apache-2.0
// The safetensors format: eight bytes of header length, a JSON header, the tensors' bytes.
// Source: https://github.com/huggingface/safetensors (README, "Format", and safetensors/src).
#pragma once
#include <cstddef>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/output_file.h"

namespace rill {

/// Every type of the format; Rill computes with F32, F16 and BF16 and names the others in refusals.
enum class DType {
  F32,
  F16,
  BF16,
  F64,
  F8_E4M3,
  F8_E5M2,
  F8_E8M0,
  F8_E4M3FNUZ,
  F8_E5M2FNUZ,
  F6_E2M3,
  F6_E3M2,
  F4,
  BOOL,
  U8,
  I8,
  U16,
  I16,
  U32,
  I32,
  U64,
  I64,
  C64
};

/// The format's own name ("BF16").
std::string_view dtype_name(DType dtype);
/// Bits of one element: 4 and 6 for the packed types.
size_t dtype_bits(DType dtype);

/// One tensor of an open file. `bytes` borrows from the mapping and need not be aligned: read it
/// with memcpy or unaligned loads.
struct TensorInfo {
  std::string name;  // as stored
  DType dtype = DType::F32;
  std::vector<size_t> shape;
  std::span<const std::byte> bytes;  // row-major, shape's product × dtype's size
  std::string file;                  // for messages
};

/// "[1024, 3072]".
std::string shape_text(std::span<const size_t> shape);

/// Checks a whole safetensors file and lists its tensors in the order of their bytes. `name` stands
/// for the file in errors. Throws Error unless the header is valid and the tensors cover the bytes
/// behind it exactly, without overlaps or holes, each with the bytes that its shape and type need.
std::vector<TensorInfo> parse_safetensors(std::span<const std::byte> file, std::string_view name);

/// What a tensor is called and how large it is.
struct TensorSpec {
  std::string name;
  DType dtype = DType::F32;
  std::vector<size_t> shape;

  size_t byte_size() const;
};

/// Writes a file of known tensors piece by piece, so that it may be larger than memory; it appears
/// under its name when `commit` returns, or never.
class SafetensorsWriter {
 public:
  /// Writes the header for `tensors`, whose bytes are then appended in this order.
  SafetensorsWriter(const std::filesystem::path& path, std::span<const TensorSpec> tensors,
                    const std::map<std::string, std::string>& metadata = {});
  /// Appends the next bytes of the current tensor, or of several.
  void write(std::span<const std::byte> bytes);
  /// Asserts that every tensor was written whole; throws Error if the disk refuses.
  void commit();

 private:
  OutputFile file_;
  size_t remaining_ = 0;  // bytes still owed
};

}  // namespace rill
