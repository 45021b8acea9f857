// SPDX-License-Identifier: Apache-2.0
// What the kernel tests share: every instruction set as a test parameter, random values with
// awkward exponents, packing written apart from the kernels', comparison of memory.
#pragma once
#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "kernels/kernels.h"
#include "kernels/twin_names.h"

namespace rill::test {

/// Runs once per table of kernels, "portable" being the scalar one without an fma instruction.
class EveryIsa : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override;
  const Kernels& kernels() const { return *kernels_; }

 private:
  const Kernels* kernels_ = nullptr;
};
const std::vector<const char*>& isa_names();

#define RILL_EVERY_ISA(suite)                                                      \
  INSTANTIATE_TEST_SUITE_P(Isa, suite, testing::ValuesIn(rill::test::isa_names()), \
                           [](const auto& isa) { return std::string(isa.param); })

/// Normal deviates, one in sixteen tiny (so that products and sums underflow), one in sixteen zero.
std::vector<float> random_values(size_t count, uint64_t seed, float scale = 1.0f);

/// Memory in which what a kernel must not touch stands as NaN.
constexpr float kPoison = std::numeric_limits<float>::quiet_NaN();

/// Writes element (output, k) of a packed matrix of plain format.
/// The same in rows of `width` columns, as the KV cache has them: K (width 64) and V.
void put_row(Format format, std::byte* rows, size_t width, size_t column, size_t k, float value);
void put(Format format, std::byte* panels, size_t depth, size_t output, size_t k, float value);

/// Writes a token's key or value where a block of the KV cache has it.
void put_key(Format format, std::byte* block, size_t slot, std::span<const float> key);
void put_value(Format format, std::byte* block, size_t slot, std::span<const float> value);

/// "element 7: 3f800000, expected 3f800001" for the first difference, or "" if all bits are equal.
std::string first_difference(const float* found, const float* expected, size_t count);

}  // namespace rill::test
