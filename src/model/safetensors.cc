// SPDX-License-Identifier: Apache-2.0
#include "model/safetensors.h"

#include <algorithm>
#include <array>
#include <cassert>
#include <cstdint>
#include <cstring>
#include <utility>

#include "base/error.h"
#include "base/json.h"

namespace rill {
namespace {

// The format's own limit of a header, and what of it may be spent on values: the largest published
// shards hold some 30,000 tensors of seven values each.
constexpr JsonLimits kHeaderLimits{100'000'000, 8, size_t{4} << 20};
constexpr size_t kLengthBytes = 8;
constexpr size_t kMaxRank = 8;
constexpr std::string_view kDamaged =
    "; the file is damaged or its download was cut short, download it again";
constexpr std::string_view kLfsPointer = "version https://git-lfs";

struct DTypeRow {
  DType dtype;
  std::string_view name;
  size_t bits;
};
constexpr std::array<DTypeRow, 22> kDTypes{{
    {DType::F32, "F32", 32},
    {DType::F16, "F16", 16},
    {DType::BF16, "BF16", 16},
    {DType::F64, "F64", 64},
    {DType::F8_E4M3, "F8_E4M3", 8},
    {DType::F8_E5M2, "F8_E5M2", 8},
    {DType::F8_E8M0, "F8_E8M0", 8},
    {DType::F8_E4M3FNUZ, "F8_E4M3FNUZ", 8},
    {DType::F8_E5M2FNUZ, "F8_E5M2FNUZ", 8},
    {DType::F6_E2M3, "F6_E2M3", 6},
    {DType::F6_E3M2, "F6_E3M2", 6},
    {DType::F4, "F4", 4},
    {DType::BOOL, "BOOL", 8},
    {DType::U8, "U8", 8},
    {DType::I8, "I8", 8},
    {DType::U16, "U16", 16},
    {DType::I16, "I16", 16},
    {DType::U32, "U32", 32},
    {DType::I32, "I32", 32},
    {DType::U64, "U64", 64},
    {DType::I64, "I64", 64},
    {DType::C64, "C64", 64},
}};

const DTypeRow& row_of(DType dtype) {
  const auto row = std::find_if(kDTypes.begin(), kDTypes.end(),
                                [&](const DTypeRow& each) { return each.dtype == dtype; });
  assert(row != kDTypes.end());
  return *row;
}

/// The header's JSON text, whose length stands before it.
std::string_view header_text(std::span<const std::byte> file, std::string_view name) {
  const std::string_view text(reinterpret_cast<const char*>(file.data()), file.size());
  if (text.starts_with(kLfsPointer)) {
    fail(
        name,
        " is a Git LFS pointer, expected the weights themselves; run `git lfs pull` in its folder");
  }
  if (text.starts_with("GGUF")) {
    fail(name, " is a GGUF file, expected safetensors; take the checkpoint's *.safetensors files");
  }
  if (file.size() < kLengthBytes) {
    fail(name, " has ", file.size(), " bytes, expected at least the ", kLengthBytes,
         " bytes of a safetensors header length", kDamaged);
  }
  uint64_t length = 0;  // stored little-endian
  for (size_t i = 0; i < kLengthBytes; ++i) length |= static_cast<uint64_t>(file[i]) << (8 * i);
  if (length > kHeaderLimits.bytes) {
    fail(name, " says that its header has ", length, " bytes, expected at most ",
         kHeaderLimits.bytes, "; it is not a safetensors file or it is damaged, download it again");
  }
  if (length > file.size() - kLengthBytes) {
    fail(name, " says that its header has ", length, " bytes, but the file has only ", file.size(),
         ", expected the whole header", kDamaged);
  }
  const std::string_view header = text.substr(kLengthBytes, length);
  if (!header.starts_with('{')) {
    fail(name, " has a header that does not start with {, expected a JSON object", kDamaged);
  }
  return header;
}

/// Names one tensor of one file, for messages.
struct Place {
  std::string_view file;
  std::string_view tensor;
};

template <class... Parts>
[[noreturn]] void fail_at(const Place& place, const Parts&... parts) {
  fail(place.file, ": tensor ", quote(place.tensor), " ", parts..., kDamaged);
}

DType read_dtype(const Json& entry, const Place& place) {
  const auto value = entry.find("dtype");
  if (value == entry.end() || !value->is_string()) {
    fail_at(place, "has no dtype, expected one such as \"BF16\"");
  }
  const auto& name = value->get_ref<const std::string&>();
  const auto row = std::find_if(kDTypes.begin(), kDTypes.end(),
                                [&](const DTypeRow& each) { return each.name == name; });
  if (row == kDTypes.end()) {
    fail(place.file, ": tensor ", quote(place.tensor), " has the unknown dtype ", quote(name),
         ", expected BF16, F16 or F32; take the checkpoint in one of these");
  }
  return row->dtype;
}

/// A list of whole numbers.
std::vector<size_t> read_sizes(const Json& entry, const char* key, const Place& place) {
  const auto value = entry.find(key);
  if (value == entry.end() || !value->is_array() || value->size() > kMaxRank) {
    fail_at(place, "has ", value == entry.end() ? "no " : "a wrong ", key, ", expected a list of ",
            "at most ", kMaxRank, " whole numbers");
  }
  std::vector<size_t> sizes;
  for (const Json& number : *value) {
    if (!number.is_number_unsigned()) {
      fail_at(place, "has ", describe(number), " in its ", key, ", expected a whole number");
    }
    sizes.push_back(number.get<size_t>());
  }
  return sizes;
}

/// Bytes that the shape needs; nothing is trusted before this has passed.
size_t bytes_of(const std::vector<size_t>& shape, DType dtype, const Place& place) {
  size_t bits = row_of(dtype).bits;
  const bool empty = std::find(shape.begin(), shape.end(), 0u) != shape.end();
  if (empty) return 0;
  for (const size_t size : shape) {
    if (size > SIZE_MAX / bits) {
      fail_at(place, "has shape ", shape_text(shape), ", expected one whose size fits a file");
    }
    bits *= size;
  }
  if (bits % 8 != 0) {
    fail_at(place, "has shape ", shape_text(shape), " of ", dtype_name(dtype), ", ", bits,
            " bits, expected whole bytes");
  }
  return bits / 8;
}

TensorInfo read_tensor(const Json& entry, const Place& place, std::span<const std::byte> data) {
  if (!entry.is_object()) {
    fail_at(place, "is described by ", describe(entry),
            ", expected an object of dtype, shape and data_offsets");
  }
  TensorInfo tensor;
  tensor.name = place.tensor;
  tensor.file = place.file;
  tensor.dtype = read_dtype(entry, place);
  tensor.shape = read_sizes(entry, "shape", place);
  const std::vector<size_t> offsets = read_sizes(entry, "data_offsets", place);
  if (offsets.size() != 2 || offsets[0] > offsets[1]) {
    fail_at(place, "has data_offsets ", shape_text(offsets), ", expected [begin, end]");
  }
  if (offsets[1] > data.size()) {
    fail_at(place, "ends at byte ", offsets[1], " of the data, but the file holds only ",
            data.size(), ", expected the whole tensor");
  }
  const size_t bytes = bytes_of(tensor.shape, tensor.dtype, place);
  if (bytes != offsets[1] - offsets[0]) {
    fail_at(place, "has ", offsets[1] - offsets[0], " bytes, expected ", bytes, " for shape ",
            shape_text(tensor.shape), " of ", dtype_name(tensor.dtype));
  }
  tensor.bytes = data.subspan(offsets[0], bytes);
  return tensor;
}

void check_metadata(const Json& metadata, std::string_view name) {
  bool good = metadata.is_object();
  if (good) {
    for (const Json& value : metadata) good = good && value.is_string();
  }
  if (!good) fail(name, ": __metadata__ is not an object of strings, as expected", kDamaged);
}

/// Sorts by position and throws unless the tensors cover `data` from end to end.
void check_cover(std::vector<TensorInfo>& tensors, std::span<const std::byte> data,
                 std::string_view name) {
  // An empty tensor sorts before the one that begins at the same byte.
  std::sort(tensors.begin(), tensors.end(), [](const TensorInfo& a, const TensorInfo& b) {
    return std::pair(a.bytes.data(), a.bytes.size()) < std::pair(b.bytes.data(), b.bytes.size());
  });
  size_t end = 0;
  for (const TensorInfo& tensor : tensors) {
    const auto begin = static_cast<size_t>(tensor.bytes.data() - data.data());
    if (begin != end) {
      fail_at({name, tensor.name}, "begins at byte ", begin, " of the data, ",
              begin < end ? "overlapping the one before it" : "leaving a hole before it",
              ", expected byte ", end);
    }
    end = begin + tensor.bytes.size();
  }
  if (end != data.size()) {
    fail(name, " has ", data.size(), " bytes of data, expected ", end, " as its tensors describe",
         kDamaged);
  }
}

std::string header_of(std::span<const TensorSpec> tensors,
                      const std::map<std::string, std::string>& metadata) {
  // Ordered, so that readers find the tensors in the order of their bytes.
  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  if (!metadata.empty()) header["__metadata__"] = metadata;
  size_t offset = 0;
  for (const TensorSpec& tensor : tensors) {
    assert(!header.contains(tensor.name));
    const size_t end = offset + tensor.byte_size();
    header[tensor.name] = {{"dtype", dtype_name(tensor.dtype)},
                           {"shape", tensor.shape},
                           {"data_offsets", {offset, end}}};
    offset = end;
  }
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');  // data stays aligned to 8 bytes
  return text;
}

}  // namespace

std::string_view dtype_name(DType dtype) {
  return row_of(dtype).name;
}
size_t dtype_bits(DType dtype) {
  return row_of(dtype).bits;
}

std::string shape_text(std::span<const size_t> shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) {
    text += (i == 0 ? "" : ", ") + std::to_string(shape[i]);
  }
  return text + "]";
}

std::vector<TensorInfo> parse_safetensors(std::span<const std::byte> file, std::string_view name) {
  const std::string_view text = header_text(file, name);
  const std::span<const std::byte> data = file.subspan(kLengthBytes + text.size());
  const Json header = parse_json(text, std::string(name) + " (its header)", kHeaderLimits);
  std::vector<TensorInfo> tensors;
  for (const auto& [key, entry] : header.items()) {
    if (key == "__metadata__") {
      check_metadata(entry, name);
    } else {
      tensors.push_back(read_tensor(entry, {name, key}, data));
    }
  }
  check_cover(tensors, data, name);
  return tensors;
}

size_t TensorSpec::byte_size() const {
  size_t bits = dtype_bits(dtype);
  for (const size_t size : shape) bits *= size;
  assert(bits % 8 == 0);
  return bits / 8;
}

SafetensorsWriter::SafetensorsWriter(const std::filesystem::path& path,
                                     std::span<const TensorSpec> tensors,
                                     const std::map<std::string, std::string>& metadata)
    : file_(path) {
  const std::string header = header_of(tensors, metadata);
  std::array<std::byte, kLengthBytes> length{};
  for (size_t i = 0; i < kLengthBytes; ++i) {
    length[i] = static_cast<std::byte>(static_cast<uint64_t>(header.size()) >> (8 * i));
  }
  file_.write(length);
  file_.write(header);
  for (const TensorSpec& tensor : tensors) remaining_ += tensor.byte_size();
}

void SafetensorsWriter::write(std::span<const std::byte> bytes) {
  assert(bytes.size() <= remaining_);
  file_.write(bytes);
  remaining_ -= bytes.size();
}

void SafetensorsWriter::commit() {
  assert(remaining_ == 0);
  file_.commit();
}

}  // namespace rill
