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
    GTEST_SKIP() << "this processor does not run " << name;
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

reference::KvType reference_kv(Format format) {
  return format == Format::F32   ? reference::KvType::kF32
         : format == Format::F16 ? reference::KvType::kF16
                                 : reference::KvType::kBf16;
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
