// SPDX-License-Identifier: Apache-2.0
// Which table of kernels runs: the best that the processor has, or the one asked for.
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
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

// Linux gives a process AMX's registers when it asks (Documentation/arch/x86/xstate.rst), which it
// must before it has threads with small signal stacks.
bool amx_allowed() {
  constexpr unsigned kBf16 = 1u << 22, kTile = 1u << 24, kInt8 = 1u << 25;
  constexpr long kRequestPermission = 0x1023, kTileData = 18;
  unsigned eax, ebx, ecx, edx;
  if (!__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx)) return false;
  if ((edx & (kBf16 | kTile | kInt8)) != (kBf16 | kTile | kInt8)) return false;
  static const bool allowed = syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
  return allowed;
}
bool cpu_amx() {
  return bf16_tiles_match();
}

extern const Kernels kKernelsScalar, kKernelsScalarFma, kKernelsAvx2, kKernelsAvx512,
    kKernelsAvx512Vnni, kKernelsAvx512Bf16, kKernelsAmx;

const std::vector<const Kernels*>& all_kernels() {
  // "scalar" has one fma per instruction where the processor has it, and else a library call.
  static const std::vector<const Kernels*> tables = {
      &kKernelsAmx,        &kKernelsAvx512Bf16,
      &kKernelsAvx512Vnni, &kKernelsAvx512,
      &kKernelsAvx2,       cpu_scalar_fma() ? &kKernelsScalarFma : &kKernelsScalar};
  return tables;
}

namespace {

std::string known_names() {
  std::string names = "auto";
  for (const Kernels* kernels : all_kernels())
    names += std::string(", ") + kernels->name + (kernels->supported() ? "" : " (not on this CPU)");
  return names;
}

// Products that an instruction and plain fmas should compute alike.
struct Probe {
  static constexpr size_t kDepth = 128, kOutputs = 3 * kPanel, kMostRows = 21;
  Operand operand;
  size_t rows;  // up to kMostRows
  alignas(64) uint16_t weights[kDepth * kOutputs];
  float x[kMostRows * kDepth];

  // Exponents from far below the normal range to moderate ones, so that sums round, cancel, and
  // fall into the subnormals.
  template <class Random>
  void fill(const Random& next, bool moderate) {
    const auto upper = [&] {  // of a float: its bf16
      const uint32_t exponent = moderate ? next() % 16 + 112 : next() % 125;
      return (next() & 0x807fu) | exponent << 7;
    };
    for (uint16_t& w : weights) w = static_cast<uint16_t>(upper());
    for (float& value : x) {
      const uint32_t bits = upper() << 16;
      std::memcpy(&value, &bits, 4);
    }
  }

  // [rows][kOutputs]
  std::vector<float> product(const Kernels& kernels) const {
    PackedMatrix matrix{};
    matrix.format = Format::BF16;
    matrix.outputs = kOutputs;
    matrix.depth = kDepth;
    matrix.data = reinterpret_cast<const std::byte*>(weights);
    matrix.leaves = 1;
    const size_t row_bytes = kernels.activation_bytes(operand, kDepth);
    std::vector<std::byte> converted(rows * row_bytes);
    for (size_t row = 0; row < rows; ++row)
      kernels.convert(operand, x + row * kDepth, kDepth, kDepth,
                      converted.data() + row * row_bytes);
    std::vector<float> y(rows * kOutputs);
    LinearJob job{};
    job.weight = &matrix;
    job.x = {operand, rows, kDepth, converted.data(), row_bytes};
    job.y = y.data();
    job.y_stride = kOutputs;
    kernels.linear(job, 0, kOutputs / kPanel);
    return y;
  }
};

// Whether `kernels`, which must run here, has the bits of plain fmas.
bool equals_fmas(const Kernels& kernels, Operand operand, size_t rows) {
  FloatMode mode;
  Probe probe{};
  probe.operand = operand;
  probe.rows = rows;
  uint64_t state = 1;
  const auto next = [&] {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return static_cast<uint32_t>(state >> 32);
  };
  for (int round = 0; round < 32; ++round) {
    probe.fill(next, round % 2 != 0);
    const std::vector<float> a = probe.product(kernels), b = probe.product(kKernelsAvx512);
    if (std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) != 0) return false;
  }
  return true;
}

}  // namespace

// Intel documents what VDPBF16PS and TDPBF16PS compute. A processor that did otherwise would break
// the promise of equal bits, so it is looked at, not believed.
bool bf16_dot_matches() {
  static const bool matches = cpu_avx512vnni() && __builtin_cpu_supports("avx512bf16") &&
                              equals_fmas(kKernelsAvx512Bf16, Operand::BF16, 1);
  return matches;
}
bool bf16_tiles_match() {
  static const bool matches = cpu_avx512vnni() && __builtin_cpu_supports("avx512bf16") &&
                              amx_allowed() &&
                              equals_fmas(kKernelsAmx, Operand::BF16X32, Probe::kMostRows);
  return matches;
}

bool bf16_dot_pays() {
  static const bool pays = bf16_dot_gain() >= 1;
  return pays;
}

const Kernels& best_kernels(const std::function<bool(const Kernels&)>& runs, bool bf16_dot_pays) {
  for (const Kernels* kernels : all_kernels())
    if (runs(*kernels) && (bf16_dot_pays || kernels != &kKernelsAvx512Bf16)) return *kernels;
  return *all_kernels().back();
}

const Kernels& choose_kernels(const std::string& name) {
  std::string wanted = name;
  const char* source = "--isa";
  if (wanted.empty() || wanted == "auto") {
    const char* environment = std::getenv("RILL_ISA");
    wanted = environment ? environment : "";
    source = "RILL_ISA";
  }
  if (wanted.empty() || wanted == "auto")
    return best_kernels([](const Kernels& kernels) { return kernels.supported(); },
                        bf16_dot_pays());
  for (const Kernels* kernels : all_kernels()) {
    if (wanted != kernels->name) continue;
    if (kernels->supported()) return *kernels;
    fail(source, " is '", wanted, "', which this CPU does not run; use one of ", known_names());
  }
  fail(source, " is '", wanted, "'; use one of ", known_names());
}

bool reads_best_unaided() {
  static const bool unaided = __builtin_cpu_is("amd");
  return unaided;
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
