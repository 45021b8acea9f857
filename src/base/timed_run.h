// SPDX-License-Identifier: Apache-2.0
// How long a parallel region takes.
#pragma once
#include <algorithm>
#include <atomic>
#include <chrono>
#include <limits>

#include "base/team.h"

namespace rill {

/// Seconds on a clock that never jumps.
inline double seconds_now() {
  using Clock = std::chrono::steady_clock;
  return std::chrono::duration<double>(Clock::now().time_since_epoch()).count();
}

/// Seconds that `body(worker)` takes on all threads: from the first start to the last end. One
/// thread's clock would not do: it may lose its core between the barrier and the clock while the
/// others work on, and the best of several rounds would pick just that round.
template <class Body>
double timed_run(Team& team, const Body& body) {
  std::atomic<double> start{std::numeric_limits<double>::infinity()}, end{0};
  team.run([&](Worker& worker) {
    worker.barrier();
    const double mine = seconds_now();
    double earliest = start.load();
    while (mine < earliest && !start.compare_exchange_weak(earliest, mine)) {
    }
    body(worker);
    const double done = seconds_now();
    double latest = end.load();
    while (done > latest && !end.compare_exchange_weak(latest, done)) {
    }
  });
  return std::max(end.load() - start.load(), 1e-9);
}

}  // namespace rill
