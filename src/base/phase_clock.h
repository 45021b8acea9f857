// SPDX-License-Identifier: Apache-2.0
// Splits a thread's time into phases.
#pragma once
#include <array>
#include <chrono>
#include <cstddef>

namespace rill {

/// One thread's stopwatch: every moment between start and stop belongs to exactly one phase, so the
/// phases add up to the time between. A change of phase costs one reading of the clock. Clocks of
/// neighbouring threads do not share a cache line.
class alignas(64) PhaseClock {
 public:
  static constexpr size_t kPhases = 16;
  /// Between start and the first enter, and inside Worker::barrier.
  static constexpr size_t kWaiting = 0;
  using Moment = std::chrono::steady_clock::time_point;

  static Moment now() { return std::chrono::steady_clock::now(); }

  void start(Moment moment, size_t phase) {
    since_ = moment;
    phase_ = phase;
  }
  /// Time from now on belongs to `phase`. Returns the phase that ends.
  size_t enter(size_t phase) {
    const size_t ended = phase_;
    stop(now());
    phase_ = phase;
    return ended;
  }
  void stop(Moment moment) {
    spent_[phase_] += std::chrono::duration<double>(moment - since_).count();
    since_ = moment;
  }

  /// Seconds of a phase, over all starts and stops.
  double spent(size_t phase) const { return spent_[phase]; }

 private:
  std::array<double, kPhases> spent_{};
  Moment since_;
  size_t phase_ = kWaiting;
};

}  // namespace rill
