// SPDX-License-Identifier: Apache-2.0
// Packing, conversion of activations and linear layers against the twin, by their bits.
#include <cstdlib>
#include <memory>

#include "kernels/support.h"

namespace rill::test {
namespace {

struct Held {
  const char* name;
  Format format;
  Operand operand;
  reference::Options options;
};

const std::vector<Held>& held_types() {
  using reference::ComputeType, reference::WeightType;
  const auto options = [](WeightType weights, ComputeType compute) {
    reference::Options o;
    o.weights = weights;
    o.compute = compute;
    return o;
  };
  static const std::vector<Held> all = {
      {"f32", Format::F32, Operand::F32, options(WeightType::kF32, ComputeType::kF32)},
      {"f16", Format::F16, Operand::F32, options(WeightType::kF16, ComputeType::kF32)},
      {"bf16, f32 compute", Format::BF16, Operand::F32,
       options(WeightType::kBf16, ComputeType::kF32)},
      {"bf16", Format::BF16, Operand::BF16, options(WeightType::kBf16, ComputeType::kBf16)},
      {"f16, bf16 compute", Format::BF16, Operand::BF16,
       options(WeightType::kF16, ComputeType::kBf16)},
      {"bf16x32", Format::BF16, Operand::BF16X32,
       options(WeightType::kBf16, ComputeType::kBf16x32)},
      {"f32, bf16x32 compute", Format::BF16, Operand::BF16X32,
       options(WeightType::kF32, ComputeType::kBf16x32)},
      {"int8", Format::INT8, Operand::Q8, options(WeightType::kInt8, ComputeType::kBf16)},
      {"int4", Format::INT4, Operand::Q8, options(WeightType::kInt4, ComputeType::kBf16)}};
  return all;
}

// A packed matrix whose memory ends where the panels end (a read beyond is for sanitizers to see).
struct Packed {
  PackedMatrix matrix{};
  std::unique_ptr<std::byte[], decltype(&std::free)> memory{nullptr, &std::free};
};

// `source` [outputs][inputs] is handed over one byte off its alignment, as a file may hold it.
Packed pack(const Kernels& kernels, const Held& held, size_t outputs, size_t inputs,
            const std::vector<float>& source, size_t unit) {
  Packed packed;
  PackedMatrix& m = packed.matrix;
  m.format = held.format;
  m.outputs = outputs;
  m.depth = (inputs + 31) / 32 * 32;
  m.leaves = unit ? kLeaves : 1;
  const auto leaves = reference::leaf_boundaries(static_cast<int64_t>(inputs),
                                                 static_cast<int64_t>(unit ? unit : 32));
  for (size_t i = 0; i <= kLeaves; ++i)
    m.leaf[i] = static_cast<uint32_t>((leaves[i] + 31) / 32 * 32);
  const size_t panels = (outputs + 15) / 16, bytes = panel_bytes(held.format, m.depth);
  packed.memory.reset(
      static_cast<std::byte*>(std::aligned_alloc(64, (panels * bytes + 63) / 64 * 64)));
  m.data = packed.memory.get();
  std::vector<std::byte> file(source.size() * 4 + 1);
  std::memcpy(file.data() + 1, source.data(), source.size() * 4);
  FloatMode mode;
  for (size_t p = 0; p < panels; ++p) {
    PackSource rows{Format::F32, held.options.weights == reference::WeightType::kF16, inputs, {}};
    for (size_t r = 0; r < 16 && p * 16 + r < outputs; ++r)
      rows.row[r] = file.data() + 1 + (p * 16 + r) * inputs * 4;
    EXPECT_TRUE(kernels.pack(rows, held.format, m.depth, packed.memory.get() + p * bytes));
  }
  return packed;
}

// All rows through convert and linear, in two halves of the panels; y is poisoned around.
struct LinearCase {
  size_t outputs, inputs, rows, unit;
  Epilogue epilogue;
  bool bias;
};
void check_linear(const Kernels& kernels, const Held& held, const LinearCase& c, uint64_t seed) {
  const bool silu = c.epilogue == Epilogue::SILU_MUL;
  const auto source = random_values(c.outputs * c.inputs, seed, 0.5f);
  const auto x = random_values(c.rows * c.inputs + 1, seed + 1, 2.0f);
  const auto bias = random_values(c.outputs, seed + 2);
  const Packed packed = pack(kernels, held, c.outputs, c.inputs, source, c.unit);
  const size_t width = silu ? c.outputs / 2 : c.outputs, stride = width + 3;
  std::vector<float> y(c.rows * stride + 1, kPoison);
  const auto residual = random_values(y.size(), seed + 3);
  if (c.epilogue == Epilogue::ADD)
    for (size_t r = 0; r < c.rows; ++r)
      for (size_t i = 0; i < width; ++i) y[1 + r * stride + i] = residual[1 + r * stride + i];

  const size_t row_bytes = kernels.activation_bytes(held.operand, packed.matrix.depth);
  std::unique_ptr<std::byte, decltype(&std::free)> rows(
      static_cast<std::byte*>(std::aligned_alloc(64, row_bytes * c.rows)), &std::free);
  std::memset(rows.get(), 0xff, row_bytes * c.rows);
  {
    FloatMode mode;
    for (size_t r = 0; r < c.rows; ++r)
      kernels.convert(held.operand, x.data() + 1 + r * c.inputs, c.inputs, packed.matrix.depth,
                      rows.get() + r * row_bytes);
    LinearJob job{&packed.matrix,
                  c.bias ? bias.data() : nullptr,
                  {held.operand, c.rows, packed.matrix.depth, rows.get(), row_bytes},
                  y.data() + 1,
                  stride,
                  c.epilogue};
    const size_t panels = (c.outputs + 15) / 16, middle = panels / 4 * 2;
    kernels.linear(job, middle, panels);
    kernels.linear(job, 0, middle);
  }
  const reference::Matrix twin = reference::make_matrix(
      held.options, static_cast<int64_t>(c.outputs), static_cast<int64_t>(c.inputs), source.data());
  for (size_t r = 0; r < c.rows; ++r) {
    auto expected = reference::linear(twin, std::span(x).subspan(1 + r * c.inputs, c.inputs),
                                      static_cast<int64_t>(c.unit));
    if (silu) {
      std::vector<float> gate, up;
      for (size_t i = 0; i < c.outputs; ++i) (i / 16 % 2 ? up : gate).push_back(expected[i]);
      expected = reference::silu_mul(gate, up);
    }
    std::vector<float> before(residual.begin() + static_cast<ptrdiff_t>(1 + r * stride),
                              residual.begin() + static_cast<ptrdiff_t>(1 + r * stride + width));
    reference::add_bias_and_residual(
        expected, c.bias ? std::span<const float>(bias) : std::span<const float>(),
        c.epilogue == Epilogue::ADD ? std::span<const float>(before) : std::span<const float>());
    EXPECT_EQ(first_difference(y.data() + 1 + r * stride, expected.data(), width), "")
        << held.name << ", " << c.outputs << " x " << c.inputs << ", row " << r << " of " << c.rows
        << ", unit " << c.unit;
    for (size_t i = width; i < stride && 1 + r * stride + i < y.size(); ++i)
      EXPECT_TRUE(std::isnan(y[1 + r * stride + i])) << "wrote past the row";
  }
  EXPECT_TRUE(std::isnan(y[0]));
}

class Linear : public EveryIsa {};
RILL_EVERY_ISA(Linear);

TEST_P(Linear, EqualsTheTwinOnOddSizes) {
  uint64_t seed = 1;
  for (const Held& held : held_types())
    for (const auto& [outputs, inputs] : {std::pair<size_t, size_t>{1, 1},
                                          {16, 32},
                                          {40, 24},
                                          {100, 120},
                                          {301, 40},
                                          {33, 257},
                                          {176, 64}})
      for (const size_t rows : {1, 2, 5})
        check_linear(kernels(), held, {outputs, inputs, rows, 0, Epilogue::STORE, false}, ++seed);
}

// Enough rows, panels and inputs for blocks: pieces of k that end inside the row and inside leaves,
// panels that are left over, and more rows than share a piece.
TEST_P(Linear, EqualsTheTwinForManyRows) {
  uint64_t seed = 4000;
  for (const Held& held : held_types()) {
    check_linear(kernels(), held, {176, 544, 33, 0, Epilogue::STORE, true}, ++seed);
    check_linear(kernels(), held, {144, 1280, 32, 32, Epilogue::ADD, true}, ++seed);
    check_linear(kernels(), held, {160, 160, 35, 0, Epilogue::SILU_MUL, false}, ++seed);
    check_linear(kernels(), held, {128, 64, 200, 0, Epilogue::STORE, false}, ++seed);
  }
}

TEST_P(Linear, EqualsTheTwinForEveryNumberOfRows) {
  uint64_t seed = 1000;
  for (const Held& held : held_types())
    for (const size_t rows : {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 25, 37})
      check_linear(kernels(), held, {72, 96, rows, 0, Epilogue::STORE, true}, ++seed);
}

// Blocks of rows and of inputs, with more and fewer rows than fill the last of a table's tiles.
TEST_P(Linear, EqualsTheTwinInPartsOfTiles) {
  uint64_t seed = 1500;
  for (const Held& held : held_types())
    for (const auto& [outputs, inputs, rows] :
         {std::tuple<size_t, size_t, size_t>{24, 610, 47}, {80, 64, 301}, {33, 3000, 261}}) {
      check_linear(kernels(), held, {outputs, inputs, rows, 0, Epilogue::STORE, true}, ++seed);
      check_linear(kernels(), held, {outputs, inputs, rows, 32, Epilogue::ADD, false}, ++seed);
    }
}

TEST_P(Linear, AddsLeavesAsTheContractSays) {
  uint64_t seed = 2000;
  for (const Held& held : held_types())
    for (const auto& [inputs, unit] : {std::pair<size_t, size_t>{32, 32},
                                       {100, 32},
                                       {120, 96},
                                       {256, 32},
                                       {320, 64},
                                       {352, 32},
                                       {1030, 128}})
      for (const size_t rows : {1, 6, 13})
        check_linear(kernels(), held, {41, inputs, rows, unit, Epilogue::ADD, rows == 6}, ++seed);
}

TEST_P(Linear, FusesSiluAndUp) {
  uint64_t seed = 3000;
  for (const Held& held : held_types())
    for (const size_t rows : {1, 2, 4, 12, 26})
      check_linear(kernels(), held, {160, 64, rows, 0, Epilogue::SILU_MUL, false}, ++seed);
}

TEST_P(Linear, RefusesWeightsThatDoNotFit) {
  const float infinity = std::numeric_limits<float>::infinity();
  for (const auto& [format, value, fits] :
       {std::tuple<Format, float, bool>{Format::INT8, kPoison, false},
        {Format::INT8, infinity, false},
        {Format::INT8, 400001.0f, false},
        {Format::INT8, 400000.0f, true},
        {Format::INT4, kPoison, false},
        {Format::INT4, -infinity, false},
        {Format::F16, 65520.0f, false},
        {Format::F16, 65519.0f, true},
        {Format::F32, infinity, true}}) {
    std::vector<float> row(33, 1.0f);
    row[32] = value;
    PackSource source{Format::F32, false, row.size(), {}};
    source.row[3] = reinterpret_cast<const std::byte*>(row.data());
    std::vector<std::byte> panel(panel_bytes(format, 64));
    FloatMode mode;
    EXPECT_EQ(kernels().pack(source, format, 64, panel.data()), fits)
        << static_cast<int>(format) << " " << value;
  }
}

TEST_P(Linear, PacksEveryStoredTypeAlike) {
  // 16 rows of every finite 16-bit pattern in turn, packed from F16 and BF16 and from the same
  // values widened to F32, into every format.
  FloatMode mode;
  for (const Format dtype : {Format::F16, Format::BF16}) {
    const size_t columns = 1000;
    std::vector<uint16_t> halves(16 * columns);
    std::vector<float> floats(16 * columns);
    for (size_t i = 0; i < halves.size(); ++i) {
      halves[i] = static_cast<uint16_t>(i * 4099u & (dtype == Format::F16 ? 0xb7ffu : 0xbfffu));
      floats[i] = dtype == Format::F16 ? reference::float_from_f16(halves[i])
                                       : reference::float_from_bf16(halves[i]);
    }
    PackSource narrow{dtype, false, columns, {}}, wide{Format::F32, false, columns, {}};
    for (size_t r = 0; r < 16; ++r) {
      narrow.row[r] = reinterpret_cast<const std::byte*>(halves.data() + r * columns);
      wide.row[r] = reinterpret_cast<const std::byte*>(floats.data() + r * columns);
    }
    for (const Format format :
         {Format::F32, Format::F16, Format::BF16, Format::INT8, Format::INT4}) {
      std::vector<std::byte> a(panel_bytes(format, 1024)), b(a.size());
      EXPECT_TRUE(kernels().pack(narrow, format, 1024, a.data()));
      EXPECT_TRUE(kernels().pack(wide, format, 1024, b.data()));
      if (format == Format::BF16 && dtype == Format::BF16) continue;  // subnormals: 0 or as stored
      EXPECT_EQ(std::memcmp(a.data(), b.data(), a.size()), 0) << static_cast<int>(format);
    }
  }
}

}  // namespace
}  // namespace rill::test
