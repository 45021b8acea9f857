// SPDX-License-Identifier: Apache-2.0
// Threads. One Team runs one parallel region per forward step; inside it threads meet at barriers.
#pragma once
#include <atomic>
#include <cstddef>
#include <functional>
#include <memory>

#include "base/phase_clock.h"

namespace rill {

/// A contiguous share [begin, end) of some indices.
struct Range {
  size_t begin, end;
};

/// Meets `count` threads: spins for about ten microseconds, then parks, so that it is fast on a
/// core complex and harmless when the machine is oversubscribed.
class Barrier {
 public:
  explicit Barrier(int count) : count_(count) {}
  void wait();

 private:
  const int count_;
  std::atomic<int> arrived_{0};
  std::atomic<unsigned> generation_{0};
};

/// One thread's place in the region that Team::run opened.
class Worker {
 public:
  Worker(int index, int count, Barrier& barrier)
      : index_(index), count_(count), barrier_(&barrier) {}
  int index() const { return index_; }
  int count() const { return count_; }
  bool first() const { return index_ == 0; }
  void barrier() {
    if (count_ == 1) return;
    const size_t phase = clock_ ? clock_->enter(PhaseClock::kWaiting) : PhaseClock::kWaiting;
    barrier_->wait();
    if (clock_) clock_->enter(phase);
  }
  /// From now on this thread's time is divided on `clock`; null (the usual): on none.
  void observe(PhaseClock* clock) { clock_ = clock; }
  void enter(size_t phase) {
    if (clock_) clock_->enter(phase);
  }
  /// This thread's share of `n` items, contiguous and equal to within one `unit`: the same thread
  /// gets the same share each time, so what it touched first stays on its NUMA node.
  Range share(size_t n, size_t unit = 1) const;

 private:
  int index_, count_;
  Barrier* barrier_;
  PhaseClock* clock_ = nullptr;
};

/// Deals task indices to whichever thread is free. Reset by one thread before a barrier.
class TaskCounter {
 public:
  void reset() { next_.store(0, std::memory_order_relaxed); }
  size_t next() { return next_.fetch_add(1, std::memory_order_relaxed); }

 private:
  alignas(64) std::atomic<size_t> next_{0};
};

/// A team of OpenMP threads (OMP_PLACES and OMP_PROC_BIND place them).
class Team {
 public:
  /// `threads` 0: as OMP_NUM_THREADS says, else one per core that the affinity mask and the cgroup
  /// quota leave to this process. At most 1024; rill::Error beyond.
  explicit Team(int threads = 0);
  int size() const { return size_; }

  /// Runs `body` once on every thread. An exception of a body that passes no barrier is rethrown
  /// here; a body that passes barriers must not throw.
  void run(const std::function<void(Worker&)>& body);

 private:
  int size_;
  std::unique_ptr<Barrier> barrier_;
};

}  // namespace rill
