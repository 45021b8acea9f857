// SPDX-License-Identifier: Apache-2.0
// What this machine could do at most, measured: the yardstick of every speed that Rill reports.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/buffer.h"
#include "base/team.h"

namespace rill {

/// Peaks of all threads of a team together. An instruction that the processor lacks has peak 0.
struct Ceilings {
  double fma = 0;        // FLOP/s of the widest fp32 FMA (mul and add where there is no FMA)
  double vdpbf16ps = 0;  // FLOP/s of bf16 x bf16 -> fp32 dot products
  double vnni = 0;       // op/s of u8 x s8 -> s32 dot products (VPDPBUSD)
  double maddubs = 0;    // op/s of the same without VNNI: eight VPMADDUBSW added in 16 bits
  double bandwidth = 0;  // bytes/s read
  double amx_bf16 = 0;   // FLOP/s of bf16 x bf16 -> fp32 products of tiles (TDPBF16PS)
  double amx_int8 = 0;   // op/s of 8-bit x 8-bit -> s32 products of tiles (TDPBSSD)

  /// Takes the larger of each: other programs and a machine's drift only ever take away.
  void keep_best(const Ceilings& other);
  /// Of two machines, or of two ranks on one that were measured at the same time.
  void add(const Ceilings& other);
};

/// All of them, for what is done with each.
constexpr double Ceilings::*kCeilingFields[] = {
    &Ceilings::fma,       &Ceilings::vdpbf16ps, &Ceilings::vnni,    &Ceilings::maddubs,
    &Ceilings::bandwidth, &Ceilings::amx_bf16,  &Ceilings::amx_int8};

/// How to read: a thread's share in `streams` runs side by side, `step` bytes of each in turn,
/// asking `ahead` bytes ahead (0: the processor's own prefetching alone), and for what comes first
/// in the next page if `next_page`.
struct ReadPattern {
  size_t streams, step, ahead;
  bool next_page = false;
};

/// Measures all of them, thoroughly once and then briefly as often as asked.
class CeilingProbe {
 public:
  /// In about two seconds: loops of the bare instruction in twelve independent chains, and reads of
  /// a buffer (best of 1, 2, 4 and 8 streams a thread, with and without asking ahead, on huge
  /// and on 4 KiB pages), each the best of several rounds. `working_set` is how many bytes are read
  /// over and over: a model that is smaller than the caches is read faster than memory is. Throws
  /// rill::Error if the buffer cannot be allocated.
  explicit CeilingProbe(Team& team, size_t working_set = SIZE_MAX);

  const Ceilings& first() const { return first_; }
  /// Once more in about a tenth of a second, with the ways of reading that were fastest at first: a
  /// shared machine's bandwidth changes from one minute to the next, so what judges a result is
  /// measured right beside it. The peaks of instructions, which do not, are the best so far.
  Ceilings measure();

 private:
  Team& team_;
  Buffer buffer_;
  std::vector<ReadPattern> patterns_;  // the fastest ones
  Ceilings first_;
  Ceilings best_;  // of the instructions; its bandwidth stays 0
};

/// CeilingProbe::first.
Ceilings measure_ceilings(Team& team, size_t working_set = SIZE_MAX);

/// The operations that one thread does a second with VDPBF16PS over those that it does with FMA: 2
/// on some processors, a half on others, 0 without the instruction. Takes less than a millisecond.
double bf16_dot_gain();

}  // namespace rill
