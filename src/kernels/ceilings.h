// SPDX-License-Identifier: Apache-2.0
// What this machine could do at most, measured: the yardstick of every speed that Rill reports.
#pragma once
#include <cstddef>
#include <cstdint>

#include "base/team.h"

namespace rill {

/// Peaks of all threads of a team together. An instruction that the processor lacks has peak 0.
struct Ceilings {
  double fma = 0;        // FLOP/s of the widest fp32 FMA (mul and add where there is no FMA)
  double vdpbf16ps = 0;  // FLOP/s of bf16 x bf16 -> fp32 dot products
  double vnni = 0;       // op/s of u8 x s8 -> s32 dot products (VPDPBUSD)
  double maddubs = 0;    // op/s of the same without VNNI: eight VPMADDUBSW added in 16 bits
  double bandwidth = 0;  // bytes/s read

  /// Takes the larger of each: a machine drifts, and a ceiling is the best that was ever seen.
  void keep_best(const Ceilings& other);
};

/// Measures all of them on `team` in about two seconds: loops of the bare instruction in twelve
/// independent chains, and reads of a buffer (best of 1, 2, 4 and 8 streams a thread, with and
/// without prefetching ahead, on huge and on 4 KiB pages), each the best of several rounds.
/// `working_set` is how many bytes are read over and over: a model that is smaller than the caches
/// is read faster than memory is. Throws rill::Error if the buffer cannot be allocated.
Ceilings measure_ceilings(Team& team, size_t working_set = SIZE_MAX);

}  // namespace rill
