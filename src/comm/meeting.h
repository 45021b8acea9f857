// SPDX-License-Identifier: Apache-2.0
// Where the processes of one machine wait for each other.
#pragma once
#include <algorithm>
#include <atomic>
#include <cstdint>

namespace rill {

/// What the processes share: memory that is zero at first.
struct MeetingPlace {
  alignas(64) std::atomic<uint32_t> arrived;
  alignas(64) std::atomic<uint32_t> meetings;  // that are over
  std::atomic<uint32_t> sleepers;
};

/// One process's side of it. Spins for some hundred microseconds, then sleeps. To yield instead of
/// sleeping would leave the core to whatever else wants it for milliseconds: a process that is
/// woken takes it back. Processes that share cores cut spinning short where it was in vain, as in
/// Barrier; where each has a core, that would only add the time of waking up: two of them decoded
/// int8 a tenth slower.
class Meeting {
 public:
  Meeting(MeetingPlace& place, uint32_t count, bool share_cores)
      : place_(place), count_(count), least_spins_(share_cores ? 16 : kMostSpins) {}

  /// Returns when all have called it; what they wrote before, all see. Calls idle() now and then
  /// while that takes long.
  template <class Idle>
  void wait(const Idle& idle) {
    const uint32_t meeting = place_.meetings.load(std::memory_order_acquire);
    if (arrive(meeting)) return;
    const int spins = spins_;
    for (int spin = 0; spin < spins; ++spin) {
      if (is_over(meeting)) {
        spins_ = std::min(2 * spins, kMostSpins);
        return;
      }
      pause();
    }
    spins_ = std::max(spins / 2, least_spins_);
    place_.sleepers.fetch_add(1);
    while (!is_over(meeting)) {
      sleep(meeting);
      idle();
    }
    place_.sleepers.fetch_sub(1);
  }

 private:
  static constexpr int kMostSpins = 8192;
  static void pause() {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#endif
  }
  bool arrive(uint32_t meeting);  // true for the last, who ends it
  bool is_over(uint32_t meeting) const {
    return place_.meetings.load(std::memory_order_acquire) != meeting;
  }
  void sleep(uint32_t meeting);  // until it is over, or for a millisecond

  MeetingPlace& place_;
  const uint32_t count_;
  const int least_spins_;
  int spins_ = kMostSpins;
};

}  // namespace rill
