// SPDX-License-Identifier: Apache-2.0
// Linear layers alone: how near the kernels come to the machine's ceilings, by type, shape and
// number of rows. Not a test; for those who change a kernel.
//   bench_linear [-t THREADS] [-i ISA] [-w TYPE,…] [-r ROWS,…] [-s SHAPE,…] [-c] [-q]
// A shape is OUTPUTSxINPUTS, with "l" behind it for a sum of leaves, "s" for SiLU times up. -c
// keeps the weights in the caches; else each pass reads others, from memory. -q leaves the ceilings
// out.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <sstream>
#include <string>
#include <vector>

#include "base/buffer.h"
#include "base/error.h"
#include "base/team.h"
#include "kernels/ceilings.h"
#include "kernels/kernels.h"

namespace rill {
namespace {

struct Type {
  const char* name;
  Format format;
  Operand operand;
};
constexpr Type kTypes[] = {
    {"f32", Format::F32, Operand::F32},          {"f16", Format::F16, Operand::F32},
    {"bf16w", Format::BF16, Operand::F32},       {"bf16", Format::BF16, Operand::BF16},
    {"bf16x32", Format::BF16, Operand::BF16X32}, {"int8", Format::INT8, Operand::Q8},
    {"int4", Format::INT4, Operand::Q8}};

struct Shape {
  std::string name;
  size_t outputs, inputs;
  bool leaves, silu;
};

struct Plan {
  int threads = 1;
  std::string isa;
  std::string types = "f32,bf16,int8,int4";
  std::string rows = "1,8,512";
  std::string shapes = "4096x1024,1024x2048l,6144x1024s,1024x3072l";  // of Qwen3-0.6B
  bool cached = false, ceilings = true;
};

double now() {
  using Clock = std::chrono::steady_clock;
  return std::chrono::duration<double>(Clock::now().time_since_epoch()).count();
}

std::vector<std::string> words(const std::string& list) {
  std::vector<std::string> all;
  std::istringstream in(list);
  for (std::string word; std::getline(in, word, ',');) all.push_back(word);
  return all;
}

Shape parse_shape(const std::string& name) {
  char* end = nullptr;
  Shape shape{name, std::strtoul(name.c_str(), &end, 10), 0, false, false};
  if (*end == 'x') shape.inputs = std::strtoul(end + 1, &end, 10);
  for (; *end; ++end) (*end == 'l' ? shape.leaves : shape.silu) = true;
  if (shape.outputs == 0 || shape.inputs == 0 || shape.inputs % 256)
    fail("the shape ", name, " is not one; write OUTPUTSxINPUTS with INPUTS a multiple of 256");
  return shape;
}

/// Matrices of one shape side by side, all of the same random panel.
struct Weights {
  PackedMatrix matrix{};
  Buffer memory;
  size_t matrix_bytes = 0, count = 0;

  Weights(const Kernels& kernels, const Type& type, const Shape& shape, size_t total) {
    const size_t panel = panel_bytes(type.format, shape.inputs);
    matrix = {type.format, shape.outputs, shape.inputs, nullptr, shape.leaves ? kLeaves : 1, {}};
    for (size_t i = 0; i <= kLeaves; ++i)
      matrix.leaf[i] = static_cast<uint32_t>(shape.inputs / kLeaves / kDepthUnit * kDepthUnit * i);
    matrix_bytes = (shape.outputs + kPanel - 1) / kPanel * panel;
    count = std::max<size_t>(1, total / matrix_bytes);
    memory = Buffer(count * matrix_bytes, "the weights");
    std::mt19937 random(1);
    std::normal_distribution<float> normal;
    std::vector<float> rows(kPanel * shape.inputs);
    for (float& x : rows) x = normal(random);
    PackSource source{Format::F32, false, shape.inputs, {}};
    for (size_t r = 0; r < kPanel; ++r)
      source.row[r] = reinterpret_cast<const std::byte*>(&rows[r * shape.inputs]);
    kernels.pack(source, type.format, shape.inputs, memory.data());
    for (size_t at = panel; at < memory.size(); at += panel)
      std::memcpy(memory.data() + at, memory.data(), panel);
  }
};

/// Seconds for one pass over all the matrices, the best of several.
double seconds(Team& team, const Kernels& kernels, const Weights& weights, LinearJob job,
               size_t passes) {
  double best = 1e30;
  const double deadline = now() + 1.0;
  for (int round = 0; round < 2 || (round < 9 && now() < deadline); ++round) {
    const double start = now();
    team.run([&](Worker& worker) {
      const FloatMode mode;
      const size_t panels = (weights.matrix.outputs + kPanel - 1) / kPanel;
      const Range mine = worker.share(panels, 2);
      for (size_t i = 0; i < passes * weights.count; ++i) {
        PackedMatrix matrix = weights.matrix;
        matrix.data = weights.memory.data() + i % weights.count * weights.matrix_bytes;
        LinearJob own = job;
        own.weight = &matrix;
        kernels.linear(own, mine.begin, mine.end);
      }
    });
    best = std::min(best, (now() - start) / static_cast<double>(passes));
  }
  return best;
}

struct Rate {
  double operations, bytes;  // a second
};

Rate measure(Team& team, const Kernels& kernels, const Weights& weights, const Type& type,
             const Shape& shape, size_t rows) {
  const size_t row_bytes = kernels.activation_bytes(type.operand, shape.inputs);
  const size_t width = shape.silu ? shape.outputs / 2 : shape.outputs, stride = width + 16;
  Buffer operand(rows * row_bytes, "the activations"), y(rows * stride * 4, "the results");
  std::vector<float> x(shape.inputs);
  for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i % 13) - 6.0f;
  for (size_t r = 0; r < rows; ++r)
    kernels.convert(type.operand, x.data(), x.size(), x.size(), operand.data() + r * row_bytes);
  const LinearJob job{
      &weights.matrix,
      nullptr,
      {type.operand, rows, shape.inputs, operand.data(), row_bytes},
      y.as<float>(),
      stride,
      shape.silu ? Epilogue::SILU_MUL : (shape.leaves ? Epilogue::ADD : Epilogue::STORE)};
  const double operations = 2.0 * static_cast<double>(rows) * static_cast<double>(shape.outputs) *
                            static_cast<double>(shape.inputs) * static_cast<double>(weights.count);
  const double least = 2e10;  // operations of a round: some tens of milliseconds
  const auto passes = static_cast<size_t>(std::max(1.0, least / operations));
  const double time = seconds(team, kernels, weights, job, passes);
  return {operations / time, static_cast<double>(weights.memory.size()) / time};
}

void run(const Plan& plan) {
  Team team(plan.threads);
  const Kernels& kernels = choose_kernels(plan.isa);
  const Ceilings top = plan.ceilings ? measure_ceilings(team) : Ceilings{};
  std::printf(
      "%s, %d threads; G/s: FMA %.0f, VDPBF16PS %.0f, VPDPBUSD %.0f, maddubs %.0f; "
      "read %.1f GB/s\n%6s %-12s %5s %9s %8s\n",
      kernels.name, team.size(), top.fma / 1e9, top.vdpbf16ps / 1e9, top.vnni / 1e9,
      top.maddubs / 1e9, top.bandwidth / 1e9, "type", "shape", "rows", "G/s", "GB/s");
  for (const std::string& name : words(plan.types)) {
    const auto* type = std::find_if(std::begin(kTypes), std::end(kTypes),
                                    [&](const Type& t) { return name == t.name; });
    if (type == std::end(kTypes)) fail("unknown type ", name, "; use f32, f16, bf16, int8 or int4");
    for (const std::string& text : words(plan.shapes)) {
      const Shape shape = parse_shape(text);
      const Weights weights(kernels, *type, shape, plan.cached ? 0 : size_t{1} << 30);
      for (const std::string& rows : words(plan.rows)) {
        const Rate rate = measure(team, kernels, weights, *type, shape, std::stoul(rows));
        std::printf("%6s %-12s %5s %9.1f %8.1f\n", type->name, shape.name.c_str(), rows.c_str(),
                    rate.operations / 1e9, rate.bytes / 1e9);
        std::fflush(stdout);
      }
    }
  }
}

Plan parse(int argc, char** argv) {
  Plan plan;
  for (int i = 1; i < argc; ++i) {
    const std::string option = argv[i];
    if (option == "-c" || option == "-q") {
      (option == "-c" ? plan.cached : plan.ceilings) = option == "-c";
      continue;
    }
    if (i + 1 == argc) fail("option ", option, " lacks its value or is unknown");
    const std::string value = argv[++i];
    if (option == "-t")
      plan.threads = std::stoi(value);
    else if (option == "-i")
      plan.isa = value;
    else if (option == "-w")
      plan.types = value;
    else if (option == "-r")
      plan.rows = value;
    else if (option == "-s")
      plan.shapes = value;
    else
      fail("unknown option ", option, "; use -t, -i, -w, -r, -s, -c or -q");
  }
  return plan;
}

}  // namespace
}  // namespace rill

int main(int argc, char** argv) try {
  rill::run(rill::parse(argc, argv));
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "%s\n", error.what());
  return 1;
}
