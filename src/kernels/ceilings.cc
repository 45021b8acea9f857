// SPDX-License-Identifier: Apache-2.0
#include "kernels/ceilings.h"

#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <utility>

#include "base/timed_run.h"
#include "base/topology.h"
#include "kernels/kernels.h"
#include "kernels/next_page.h"
#include "kernels/tile_config.h"

namespace rill {
namespace {

/// A loop of one instruction, and the operations (a multiplication and an addition are two) that
/// one of its iterations does.
struct PeakLoop {
  void (*run)(uint64_t iterations);
  double operations;
  uint64_t iterations;  // some milliseconds
};

/// How long to measure one thing: rounds, of which the best counts. After `seconds` they end at
/// `least` even on a machine that is busy with other work, where they take long.
struct Effort {
  int least, most;
  double seconds;
};
constexpr Effort kThorough = {1, 5, 0.4}, kBrief = {2, 2, 0}, kBriefReading = {8, 1000, 0.06};

/// The best of some rounds of `measure()`.
template <class Measure>
double best_of(Effort effort, const Measure& measure) {
  double best = 0;
  const double deadline = seconds_now() + effort.seconds;
  for (int round = 0; round < effort.least || (round < effort.most && seconds_now() < deadline);
       ++round)
    best = std::max(best, measure());
  return best;
}

double peak(Team& team, const PeakLoop& loop, Effort effort) {
  return best_of(effort, [&] {
    const double seconds = timed_run(team, [&](Worker&) { loop.run(loop.iterations); });
    const double operations = loop.operations * static_cast<double>(loop.iterations);
    return team.size() * operations / seconds;
  });
}

/// Multiplications and additions that any compiler vectorises as far as its baseline goes.
void portable_loop(uint64_t iterations) {
  float sums[64] = {}, factor = 0.5f;
  for (uint64_t i = 0; i < iterations; ++i) {
    for (float& sum : sums) sum = sum * factor + 1.0f;
    asm volatile("" : "+m"(factor));
  }
  asm volatile("" : : "m"(sums));
}

#if defined(__x86_64__)

// The loops are whole asm statements: nothing for a compiler to fold, and no target flags. Twelve
// chains hide a latency of six cycles at two instructions a cycle. Registers start from zero, since
// what stood in them could be denormals, which are slow on some processors.
#define RILL_CLOBBERS                                                                            \
  "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", \
      "xmm11", "xmm12", "xmm13", "xmm14", "xmm15"
#define RILL_ZERO(i) "vpxor %%xmm" #i ", %%xmm" #i ", %%xmm" #i "\n"
#define RILL_TWELVE(ONE) \
  ONE(0) ONE(1) ONE(2) ONE(3) ONE(4) ONE(5) ONE(6) ONE(7) ONE(8) ONE(9) ONE(10) ONE(11)
#define RILL_LOOP(BODY)                                                         \
  asm volatile(RILL_TWELVE(RILL_ZERO) RILL_ZERO(12) RILL_ZERO(13) RILL_ZERO(14) \
                   RILL_ZERO(15) "1:\n" BODY "dec %0\n jnz 1b\n vzeroupper\n"   \
               : "+r"(iterations)                                               \
               :                                                                \
               : RILL_CLOBBERS)

#define RILL_FMA_YMM(i) "vfmadd231ps %%ymm14, %%ymm15, %%ymm" #i "\n"
#define RILL_FMA_ZMM(i) "vfmadd231ps %%zmm14, %%zmm15, %%zmm" #i "\n"
#define RILL_BF16_ZMM(i) "vdpbf16ps %%zmm14, %%zmm15, %%zmm" #i "\n"
#define RILL_VNNI_ZMM(i) "vpdpbusd %%zmm14, %%zmm15, %%zmm" #i "\n"

void fma_ymm(uint64_t iterations) {
  RILL_LOOP(RILL_TWELVE(RILL_FMA_YMM));
}
void fma_zmm(uint64_t iterations) {
  RILL_LOOP(RILL_TWELVE(RILL_FMA_ZMM));
}
void bf16_zmm(uint64_t iterations) {
  RILL_LOOP(RILL_TWELVE(RILL_BF16_ZMM));
}
void vnni_zmm(uint64_t iterations) {
  RILL_LOOP(RILL_TWELVE(RILL_VNNI_ZMM));
}

// Without VNNI the best that an int4 or int8 product can do: eight products added in 16 bits, then
// one widening. The temporaries are written before they are read, so renaming frees the chains.
#define RILL_MADDUBS(R, t, s) \
  "vpmaddubsw %%" R "14, %%" R "15, %%" R #s "\n vpaddw %%" R #s ", %%" R #t ", %%" R #t "\n"
#define RILL_MADDUBS_EIGHT(R, acc, t, s)                                                      \
  "vpmaddubsw %%" R "14, %%" R "15, %%" R #t "\n" RILL_MADDUBS(R, t, s) RILL_MADDUBS(R, t, s) \
      RILL_MADDUBS(R, t, s) RILL_MADDUBS(R, t, s) RILL_MADDUBS(R, t, s) RILL_MADDUBS(R, t, s) \
          RILL_MADDUBS(R, t, s) "vpmaddwd %%" R "13, %%" R #t ", %%" R #t "\n vpaddd %%" R #t \
                                ", %%" R #acc ", %%" R #acc "\n"
#define RILL_MADDUBS_LOOP(R)     \
  RILL_MADDUBS_EIGHT(R, 0, 1, 2) \
  RILL_MADDUBS_EIGHT(R, 3, 4, 5) RILL_MADDUBS_EIGHT(R, 6, 7, 8) RILL_MADDUBS_EIGHT(R, 9, 10, 11)

void maddubs_ymm(uint64_t iterations) {
  RILL_LOOP(RILL_MADDUBS_LOOP("ymm"));
}
void maddubs_zmm(uint64_t iterations) {
  RILL_LOOP(RILL_MADDUBS_LOOP("zmm"));
}

// Tiles of sixteen rows of 64 bytes, four of them sums that do not wait for each other. The
// configuration is of this thread, and given back.
#define RILL_TILE_LOOP(PRODUCT)                                                              \
  constexpr TileConfig config = TileConfig::whole();                                         \
  asm volatile(                                                                              \
      "ldtilecfg %1\n"                                                                       \
      "1:\n" PRODUCT " %%tmm6, %%tmm4, %%tmm0\n" PRODUCT " %%tmm7, %%tmm4, %%tmm1\n" PRODUCT \
      " %%tmm6, %%tmm5, %%tmm2\n" PRODUCT                                                    \
      " %%tmm7, %%tmm5, %%tmm3\n"                                                            \
      "dec %0\n jnz 1b\n tilerelease\n"                                                      \
      : "+r"(iterations)                                                                     \
      : "m"(config)                                                                          \
      : "cc")

void bf16_tiles(uint64_t iterations) {
  RILL_TILE_LOOP("tdpbf16ps");
}
void int8_tiles(uint64_t iterations) {
  RILL_TILE_LOOP("tdpbssd");
}

constexpr uint64_t kIterations = 2000000;
constexpr uint64_t kTileIterations = 200000;

void measure_vectors(Team& team, Effort effort, Ceilings& ceilings) {
  const auto best = [&](double& ceiling, void (*run)(uint64_t), double operations) {
    ceiling = std::max(ceiling, peak(team, {run, operations, kIterations}, effort));
  };
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    best(ceilings.fma, fma_ymm, 12 * 16);
    best(ceilings.maddubs, maddubs_ymm, 4 * 8 * 64);
  }
  if (__builtin_cpu_supports("avx512f")) best(ceilings.fma, fma_zmm, 12 * 32);
  if (__builtin_cpu_supports("avx512bw")) best(ceilings.maddubs, maddubs_zmm, 4 * 8 * 128);
  if (__builtin_cpu_supports("avx512vnni")) best(ceilings.vnni, vnni_zmm, 12 * 128);
  if (__builtin_cpu_supports("avx512bf16")) best(ceilings.vdpbf16ps, bf16_zmm, 12 * 64);
  if (amx_allowed()) {
    ceilings.amx_bf16 = peak(team, {bf16_tiles, 4 * 16 * 16 * 32 * 2, kTileIterations}, effort);
    ceilings.amx_int8 = peak(team, {int8_tiles, 4 * 16 * 16 * 64 * 2, kTileIterations}, effort);
  }
}

/// The lesser of `best` and the seconds that a short run of the loop takes.
double quicker(double best, void (*run)(uint64_t), uint64_t iterations) {
  const double start = seconds_now();
  run(iterations);
  return std::min(best, seconds_now() - start);
}

/// Reads a line at `p`; no sum, so that nothing but the loads takes time.
template <bool kAvx>
inline void read_line(const std::byte* p) {
  if constexpr (kAvx) {
    asm volatile("vmovaps (%0), %%ymm0\n vmovaps 32(%0), %%ymm1\n" : : "r"(p) : "xmm0", "xmm1");
  } else {
    for (int i = 0; i < 64; i += 16) asm volatile("movaps (%0), %%xmm0" : : "r"(p + i) : "xmm0");
  }
}

bool has_avx() {
  return __builtin_cpu_supports("avx2");
}

double measure_bf16_dot_gain() {
  __builtin_cpu_init();
  if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bf16")) return 0;
  // Runs that are long enough for the clock and short enough that most are not interrupted, in
  // turns and over a time in which a core wakes its wide units.
  constexpr uint64_t kShort = 1000;
  double fma = INFINITY, dot = INFINITY;
  for (int round = 0; round < 12; ++round) {
    fma = quicker(fma, fma_zmm, kShort);
    dot = quicker(dot, bf16_zmm, kShort);
  }
  return 2 * fma / dot;  // an instruction does twice the operations
}

#else

double measure_bf16_dot_gain() {
  return 0;
}

void measure_vectors(Team&, Effort, Ceilings&) {}

template <bool kAvx>
inline void read_line(const std::byte* p) {
  uint64_t words[8], sum = 0;
  std::memcpy(words, p, sizeof words);
  for (uint64_t word : words) sum += word;
  asm volatile("" : : "r"(sum));
}

bool has_avx() {
  return false;
}

#endif

Ceilings measure_instructions(Team& team, Effort effort) {
  Ceilings ceilings;
  measure_vectors(team, effort, ceilings);
  if (ceilings.fma == 0) ceilings.fma = peak(team, {portable_loop, 64 * 2, 1000000}, effort);
  return ceilings;
}

/// Returns the bytes read: what the cutting into streams leaves over is not.
template <bool kAvx>
size_t read(const std::byte* data, size_t bytes, ReadPattern pattern) {
  const size_t run = bytes / pattern.streams / pattern.step * pattern.step;
  for (size_t i = 0; i < run; i += pattern.step) {
    const std::byte* p = data + i;
    for (size_t stream = 0; stream < pattern.streams; ++stream, p += run) {
      if (pattern.next_page) NextPage::ask(reinterpret_cast<const char*>(p));
      for (size_t line = 0; line < pattern.step; line += 64) {
        if (pattern.ahead) __builtin_prefetch(p + pattern.ahead + line);
        read_line<kAvx>(p + line);
      }
    }
  }
  return run * pattern.streams;
}

/// Bytes per second of `pattern` over `buffer`, read `times` times.
double bandwidth(Team& team, const Buffer& buffer, ReadPattern pattern, size_t times) {
  const bool avx = has_avx();
  std::atomic<size_t> total{0};
  const double seconds = timed_run(team, [&](Worker& worker) {
    const Range share = worker.share(buffer.size(), 4096);
    const std::byte* data = buffer.data() + share.begin;
    const size_t bytes = share.end - share.begin;
    size_t done = 0;
    for (size_t i = 0; i < times; ++i)
      done += avx ? read<true>(data, bytes, pattern) : read<false>(data, bytes, pattern);
    total += done;
  });
  return static_cast<double>(total) / seconds;
}

constexpr size_t kLeastRead = size_t{64} << 20;  // shorter readings are noise

constexpr ReadPattern kPatterns[] = {{1, 256, 0},   {2, 256, 0},    {4, 256, 0},
                                     {8, 256, 0},   {1, 64, 8192},  {2, 64, 4096},
                                     {4, 64, 2048}, {4, 256, 2048}, {4, 64, 2048, true}};

/// A buffer and how fast each pattern reads it.
struct Readings {
  Buffer buffer;
  std::vector<std::pair<double, ReadPattern>> best;  // fastest first

  Readings(Team& team, size_t bytes, bool huge_pages)
      : buffer(bytes, "the measurement of read bandwidth") {
    if (!huge_pages) madvise(buffer.data(), buffer.size(), MADV_NOHUGEPAGE);
    team.run([&](Worker& worker) {
      const Range share = worker.share(bytes, 4096);
      std::memset(buffer.data() + share.begin, 1, share.end - share.begin);
    });
    for (ReadPattern pattern : kPatterns) best.push_back({0, pattern});
    const size_t times = std::max<size_t>(1, kLeastRead / bytes);
    best_of(kThorough, [&] {  // a round tries all, so that all see the same moods of the machine
      for (auto& [speed, pattern] : best)
        speed = std::max(speed, bandwidth(team, buffer, pattern, times));
      return 0.0;
    });
    std::sort(best.begin(), best.end(),
              [](const auto& a, const auto& b) { return a.first > b.first; });
  }
};

/// `working_set`, but no more than the caches hold eight times over (it reads no faster, and all
/// rounds must fit in a second), no more than an eighth of the free memory (of large and of small
/// pages there is one each for a moment), and enough for every thread to have eight streams.
size_t read_bytes(const Team& team, size_t working_set) {
  constexpr size_t kLarge = size_t{256} << 20;
  const size_t most = std::min(std::max(kLarge, 8 * cache_bytes(3)), available_memory() / 8);
  const size_t least = size_t{32768} * static_cast<size_t>(team.size());
  return std::max(least, std::min(working_set, most)) / 4096 * 4096;
}

}  // namespace

void Ceilings::keep_best(const Ceilings& other) {
  for (const auto field : kCeilingFields) this->*field = std::max(this->*field, other.*field);
}

void Ceilings::add(const Ceilings& other) {
  for (const auto field : kCeilingFields) this->*field += other.*field;
}

CeilingProbe::CeilingProbe(Team& team, size_t working_set) : team_(team) {
  first_ = measure_instructions(team, kThorough);
  const size_t bytes = read_bytes(team, working_set);
  Readings readings(team, bytes, true);
  if (bytes >= size_t{2} << 20) {  // pages matter where memory does
    Readings small(team, bytes, false);
    if (small.best.front().first > readings.best.front().first) readings = std::move(small);
  }
  buffer_ = std::move(readings.buffer);
  for (size_t i = 0; i < 3; ++i) patterns_.push_back(readings.best[i].second);
  best_ = first_;
  first_.bandwidth = readings.best.front().first;
}

Ceilings CeilingProbe::measure() {
  best_.keep_best(measure_instructions(team_, kBrief));
  Ceilings ceilings = best_;
  const size_t times = std::max<size_t>(1, kLeastRead / 4 / buffer_.size());
  size_t turn = 0;
  ceilings.bandwidth = best_of(kBriefReading, [&] {
    return bandwidth(team_, buffer_, patterns_[turn++ % patterns_.size()], times);
  });
  return ceilings;
}

Ceilings measure_ceilings(Team& team, size_t working_set) {
  return CeilingProbe(team, working_set).first();
}

double bf16_dot_gain() {
  return measure_bf16_dot_gain();
}

}  // namespace rill
