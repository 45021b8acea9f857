// SPDX-License-Identifier: Apache-2.0
// Calls kernels, each once, for valgrind to count their instructions: instruction_counts.py. Not a
// test by itself.
//   instruction_counts ISA     prints a line for each call of counted_call, in order
#include <cstdio>
#include <cstring>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "base/buffer.h"
#include "base/error.h"
#include "kernels/kernels.h"

// What is counted: from its first instruction to its last. C linkage, as valgrind is told its name.
extern "C" __attribute__((noinline)) void counted_call(const std::function<void()>& call) {
  call();
}

namespace rill {
namespace {

constexpr size_t kInputs = 512, kOutputs = 256, kHeadDim = 128, kKeys = 2 * kBlockTokens;

std::vector<float> random_values(size_t count) {
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  std::vector<float> values(count);
  for (float& x : values) x = normal(random);
  return values;
}

void report(const std::string& name, const std::function<void()>& call) {
  call();  // the dynamic linker's work, and what is made at first use
  counted_call(call);
  std::printf("%s\n", name.c_str());
}

void count_linear(const Kernels& kernels, const char* name, Format format, Operand operand) {
  const std::vector<float> values = random_values(kPanel * kInputs);
  Buffer panels(kOutputs / kPanel * panel_bytes(format, kInputs), "the weights");
  PackSource source{Format::F32, false, kInputs, {}};
  for (size_t r = 0; r < kPanel; ++r)
    source.row[r] = reinterpret_cast<const std::byte*>(&values[r * kInputs]);
  for (size_t p = 0; p < kOutputs / kPanel; ++p)
    kernels.pack(source, format, kInputs, panels.data() + p * panel_bytes(format, kInputs));
  const PackedMatrix matrix{format, kOutputs, kInputs, panels.data(), 1, {}};
  for (const size_t rows : {1, 8, 48}) {
    const size_t stride = kernels.activation_bytes(operand, kInputs);
    Buffer x(rows * stride, "the activations");
    for (size_t r = 0; r < rows; ++r)
      kernels.convert(operand, values.data(), kInputs, kInputs, x.data() + r * stride);
    std::vector<float> y(rows * kOutputs);
    LinearJob job{};
    job.weight = &matrix;
    job.x = {operand, rows, kInputs, x.data(), stride};
    job.y = y.data();
    job.y_stride = kOutputs;
    report(std::string("linear ") + name + ", rows " + std::to_string(rows),
           [&] { kernels.linear(job, 0, kOutputs / kPanel); });
  }
}

void count_attention(const Kernels& kernels, const char* name, Format kv, Operand operand) {
  const std::vector<float> values = random_values(kHeadDim);
  std::vector<Buffer> memory;
  std::vector<const std::byte*> k, v;
  constexpr size_t kKeyBlocks = kKeys / kBlockTokens;
  for (size_t block = 0; block <= kKeyBlocks; ++block) {
    memory.emplace_back(k_block_bytes(kv, kHeadDim), "keys");
    k.push_back(memory.back().data());
    memory.emplace_back(v_block_bytes(kv, kHeadDim), "values");
    v.push_back(memory.back().data());
    for (size_t slot = 0; slot < kBlockTokens; ++slot) {
      kernels.store_k(kv, values.data(), kHeadDim, slot, memory[2 * block].data());
      kernels.store_v(kv, values.data(), kHeadDim, slot, memory[2 * block + 1].data());
    }
  }
  Buffer scratch(
      attention_scratch_bytes(kKeys, kMostQueries) + widened_bytes(kv, operand, kHeadDim, kKeys),
      "scratch");
  Buffer states((1 + kMostTogether) * state_floats(kHeadDim, kMostQueries) * sizeof(float),
                "states");
  const auto state = [&](size_t i) {
    return state_at(
        reinterpret_cast<float*>(states.data()) + i * state_floats(kHeadDim, kMostQueries),
        kMostQueries);
  };
  const Operand wanted = query_operand(kv, operand);
  const size_t row_bytes = kernels.activation_bytes(wanted, kQuerySlice);
  for (const size_t rows : {size_t{2}, kMostRows, kMostQueries}) {
    Buffer q(rows * row_bytes, "queries");
    for (size_t r = 0; r < rows; ++r)
      kernels.convert(wanted, values.data(), kHeadDim, kQuerySlice, q.data() + r * row_bytes);
    const AttentionTile tile{
        kv,       operand,       kHeadDim,      rows, q.data(), rows * row_bytes, k.data(),
        v.data(), k[kKeyBlocks], v[kKeyBlocks], 0,    kKeys,    nullptr,          scratch.data()};
    const SoftmaxState earlier = state(0);
    const AttentionJob fresh{tile, nullptr, 0, earlier}, joined{tile, &earlier, 1, state(1)};
    kernels.attend(&fresh, 1);
    report(std::string("attend ") + name + ", rows " + std::to_string(rows),
           [&] { kernels.attend(&joined, 1); });
    if (rows > kFewQueries) continue;
    AttentionJob jobs[kMostTogether];
    for (size_t i = 0; i < kMostTogether; ++i) {
      jobs[i] = {tile, &earlier, 1, state(1 + i)};
      jobs[i].tile.scratch += i * attention_scratch_bytes(kKeys, rows);
    }
    report(std::string("attend ") + name + ", rows " + std::to_string(rows) + ", four together",
           [&] { kernels.attend(jobs, kMostTogether); });
  }
}

void count_pointwise(const Kernels& kernels) {
  const std::vector<float> x = random_values(kInputs);
  std::vector<float> y(kInputs);
  Buffer row(kernels.activation_bytes(Operand::Q8, kInputs), "a row");
  report("rms_norm", [&] { kernels.rms_norm(x.data(), x.data(), kInputs, 1e-6f, y.data()); });
  const std::vector<double> frequencies(x.begin(), x.begin() + kHeadDim / 2);
  report("rotations", [&] {
    kernels.rotations({frequencies.data(), frequencies.size(), 1}, 1000, y.data(),
                      y.data() + frequencies.size());
  });
  report("convert to int8",
         [&] { kernels.convert(Operand::Q8, x.data(), kInputs, kInputs, row.data()); });
  report("convert to bf16",
         [&] { kernels.convert(Operand::BF16, x.data(), kInputs, kInputs, row.data()); });
}

}  // namespace
}  // namespace rill

int main(int count, char** arguments) {
  using namespace rill;
  if (count != 2) {
    std::fprintf(stderr, "usage: instruction_counts ISA\n");
    return 2;
  }
  try {
    const Kernels& kernels = choose_kernels(arguments[1]);
    count_linear(kernels, "f32", Format::F32, Operand::F32);
    count_linear(kernels, "bf16, compute f32", Format::BF16, Operand::F32);
    count_linear(kernels, "bf16", Format::BF16, Operand::BF16);
    count_linear(kernels, "bf16x32", Format::BF16, Operand::BF16X32);
    count_linear(kernels, "int8", Format::INT8, Operand::Q8);
    count_linear(kernels, "int4", Format::INT4, Operand::Q8);
    count_attention(kernels, "f32", Format::F32, Operand::F32);
    count_attention(kernels, "bf16", Format::BF16, Operand::BF16);
    count_attention(kernels, "bf16x32", Format::BF16, Operand::BF16X32);
    count_attention(kernels, "int8", Format::INT8, Operand::BF16);
    count_pointwise(kernels);
  } catch (const Error& error) {
    std::fprintf(stderr, "instruction_counts: %s\n", error.what());
    return 1;
  }
}
