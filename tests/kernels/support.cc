// SPDX-License-Identifier: Apache-2.0
#include "kernels/support.h"

#include <bit>
#include <cstdio>

#include "base/error.h"

namespace rill {
extern const Kernels kKernelsScalar;
}

namespace rill::test {

const std::vector<const char*>& isa_names() {
  static const std::vector<const char*> names = [] {
    std::vector<const char*> all = {"portable"};
    for (const Kernels* kernels : all_kernels()) all.push_back(kernels->name);
    return all;
  }();
  return names;
}

void EveryIsa::SetUp() {
  const std::string name = GetParam();
  if (name == "portable") kernels_ = &kKernelsScalar;
  for (const Kernels* kernels : all_kernels())
    if (name == kernels->name) kernels_ = kernels;
  if (!kernels_->supported()) {
    // What the processor lacks cannot be run here, but must be refused by name.
    EXPECT_THROW(choose_kernels(name), Error);
    GTEST_SKIP() << "this processor has no " << name << ": run this test on one that has";
  }
}

std::vector<float> random_values(size_t count, uint64_t seed, float scale) {
  std::mt19937_64 generator(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(count);
  for (float& value : values) {
    value = normal(generator) * scale;
    const uint64_t kind = generator() % 16;
    if (kind == 0) value *= 0x1p-70f;
    if (kind == 1) value = 0.0f;
  }
  return values;
}

void put_row(Format format, std::byte* rows, size_t width, size_t column, size_t k, float value) {
  if (format == Format::F32) {
    std::memcpy(rows + (k * width + column) * 4, &value, 4);
  } else if (format == Format::F16) {
    const uint16_t half = reference::f16_from_float(value);
    std::memcpy(rows + (k * width + column) * 2, &half, 2);
  } else {
    const uint16_t half = reference::bf16_from_float(value);
    std::memcpy(rows + ((k / 2 * width + column) * 2 + k % 2) * 2, &half, 2);
  }
}

void put(Format format, std::byte* panels, size_t depth, size_t output, size_t k, float value) {
  put_row(format, panels + output / 16 * panel_bytes(format, depth), 16, output % 16, k, value);
}

void put_key(Format format, std::byte* block, size_t slot, std::span<const float> key) {
  if (format != Format::INT8) {
    for (size_t d = 0; d < key.size(); ++d) put_row(format, block, 64, slot, d, key[d]);
    return;
  }
  const reference::QuantisedRow row = reference::quantise_weights_int8(key);
  for (size_t b = 0; b < row.scales.size(); ++b) {
    std::byte* panel = block + (4 * b + slot / 16) * (32 + 512);
    const uint16_t scale = reference::f16_from_float(row.scales[b]);
    std::memcpy(panel + slot % 16 * 2, &scale, 2);
    for (size_t i = 0; i < 32; ++i)
      panel[32 + i / 4 * 64 + slot % 16 * 4 + i % 4] = std::byte(row.codes[32 * b + i] + 128);
  }
}

void put_value(Format format, std::byte* block, size_t slot, std::span<const float> value) {
  const size_t width = (value.size() + 15) / 16 * 16;
  if (format != Format::INT8) {
    for (size_t d = 0; d < value.size(); ++d) put_row(format, block, width, d, slot, value[d]);
    return;
  }
  const reference::QuantisedRow row = reference::quantise_value(value);
  for (size_t d = 0; d < value.size(); ++d)
    block[(slot / 32 * (width / 16) + d / 16) * 512 + slot % 32 / 4 * 64 + d % 16 * 4 + slot % 4] =
        std::byte(row.codes[d]);
  std::memcpy(block + 64 * width + slot * 4, row.scales.data(), 4);
}

std::string first_difference(const float* found, const float* expected, size_t count) {
  for (size_t i = 0; i < count; ++i) {
    const auto a = std::bit_cast<uint32_t>(found[i]), b = std::bit_cast<uint32_t>(expected[i]);
    if (a == b) continue;
    char text[120];
    std::snprintf(text, sizeof text, "element %zu: %08x (%g), expected %08x (%g)", i, a,
                  static_cast<double>(found[i]), b, static_cast<double>(expected[i]));
    return text;
  }
  return "";
}

}  // namespace rill::test
