// SPDX-License-Identifier: Apache-2.0
// Which table of kernels runs: the best that the processor has, or the one asked for.
#include <xmmintrin.h>

#include <cstdlib>
#include <cstring>

#include "base/error.h"
#include "base/topology.h"
#include "kernels/ceilings.h"
#include "kernels/kernels.h"
#include "kernels/reading.h"

namespace rill {

// What each table needs of the processor (and of the system, which must save the registers).
bool cpu_scalar() {
  return true;
}
bool cpu_scalar_fma() {
  return __builtin_cpu_supports("fma");
}
bool cpu_avx2() {
  // f16c has no name here in GCC 11; every processor with AVX2 and FMA has it.
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
         __builtin_cpu_supports("bmi2");
}
bool cpu_avx512() {
  return cpu_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
bool cpu_avx512vnni() {
  return cpu_avx512() && __builtin_cpu_supports("avx512vnni");
}
bool cpu_avx512bf16() {
  return cpu_avx512vnni() && __builtin_cpu_supports("avx512bf16") && bf16_dot_matches();
}

extern const Kernels kKernelsScalar, kKernelsScalarFma, kKernelsAvx2, kKernelsAvx512,
    kKernelsAvx512Vnni, kKernelsAvx512Bf16;

const std::vector<const Kernels*>& all_kernels() {
  // "scalar" has one fma per instruction where the processor has it, and else a library call.
  static const std::vector<const Kernels*> tables = {
      &kKernelsAvx512Bf16, &kKernelsAvx512Vnni, &kKernelsAvx512, &kKernelsAvx2,
      cpu_scalar_fma() ? &kKernelsScalarFma : &kKernelsScalar};
  return tables;
}

namespace {

std::string known_names() {
  std::string names = "auto";
  for (const Kernels* kernels : all_kernels())
    names += std::string(", ") + kernels->name + (kernels->supported() ? "" : " (not on this CPU)");
  return names;
}

// One product of 16 outputs, k = kDepthUnit * 4, as `kernels` computes it.
void probe_product(const Kernels& kernels, const uint16_t* weights, const float* x, float* y) {
  constexpr size_t kDepth = 128;
  PackedMatrix matrix{};
  matrix.format = Format::BF16;
  matrix.outputs = kPanel;
  matrix.depth = kDepth;
  matrix.data = reinterpret_cast<const std::byte*>(weights);
  matrix.leaves = 1;
  std::vector<std::byte> row(kernels.activation_bytes(Operand::BF16, kDepth));
  kernels.convert(Operand::BF16, x, kDepth, kDepth, row.data());
  LinearJob job{};
  job.weight = &matrix;
  job.x = {Operand::BF16, 1, kDepth, row.data(), row.size()};
  job.y = y;
  job.y_stride = kPanel;
  kernels.linear(job, 0, 1);
}

// Intel documents VDPBF16PS as two fmas, odd element first, with subnormals as zeros. A processor
// that did otherwise would break the promise of equal bits, so it is looked at, not believed.
bool compare_bf16_dot() {
  if (!cpu_avx512vnni() || !__builtin_cpu_supports("avx512bf16")) return false;
  FloatMode mode;
  constexpr size_t kDepth = 128;
  alignas(64) uint16_t weights[kDepth * kPanel];
  float x[kDepth];
  uint64_t state = 1;
  const auto next = [&] {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return static_cast<uint32_t>(state >> 32);
  };
  for (int round = 0; round < 64; ++round) {
    // Exponents from far below the normal range to moderate ones, so that sums round, cancel, and
    // fall into the subnormals.
    const uint32_t spread = round % 2 ? 32 : 250;
    for (uint16_t& w : weights)
      w = static_cast<uint16_t>((next() & 0x807f) | (next() % spread / 2 + (round % 2 ? 112 : 0))
                                                        << 7);
    for (float& value : x) {
      const uint32_t bits = (next() & 0x807f0000u) | (next() % spread / 2 + (round % 2 ? 112 : 0))
                                                         << 23;
      std::memcpy(&value, &bits, 4);
    }
    float a[kPanel], b[kPanel];
    probe_product(kKernelsAvx512Bf16, weights, x, a);
    probe_product(kKernelsAvx512Vnni, weights, x, b);
    if (std::memcmp(a, b, sizeof a) != 0) return false;
  }
  return true;
}

}  // namespace

bool bf16_dot_matches() {
  static const bool matches = compare_bf16_dot();
  return matches;
}

bool bf16_dot_pays() {
  static const bool pays = bf16_dot_gain() >= 1;
  return pays;
}

const Kernels& choose_kernels(const std::string& name) {
  std::string wanted = name;
  const char* source = "--isa";
  if (wanted.empty() || wanted == "auto") {
    const char* environment = std::getenv("RILL_ISA");
    wanted = environment ? environment : "";
    source = "RILL_ISA";
  }
  const bool best = wanted.empty() || wanted == "auto";
  for (const Kernels* kernels : all_kernels()) {
    if (!best && wanted != kernels->name) continue;
    if (!kernels->supported()) {
      if (best) continue;
      fail(source, " is '", wanted, "', which this CPU does not run; use one of ", known_names());
    }
    if (best && kernels == &kKernelsAvx512Bf16 && !bf16_dot_pays()) continue;
    return *kernels;
  }
  fail(source, " is '", wanted, "'; use one of ", known_names());
}

bool reads_best_unaided() {
  static const bool unaided = __builtin_cpu_is("amd");
  return unaided;
}

size_t level1_bytes() {
  constexpr size_t kGuess = size_t{32} << 10;
  static const size_t bytes = cache_bytes(1);
  return bytes ? bytes : kGuess;
}
size_t level2_bytes() {
  constexpr size_t kGuess = size_t{512} << 10;
  static const size_t bytes = cache_bytes(2);
  return bytes ? bytes : kGuess;
}

FloatMode::FloatMode() : saved_(_mm_getcsr()) {
  constexpr unsigned kFlushToZero = 0x8000, kDenormalsAreZero = 0x0040, kRounding = 0x6000;
  _mm_setcsr((saved_ & ~kRounding) | kFlushToZero | kDenormalsAreZero);
}
FloatMode::~FloatMode() {
  _mm_setcsr(saved_);
}

}  // namespace rill
