// SPDX-License-Identifier: Apache-2.0
// Threads. One Team runs one parallel region per forward step; inside it threads meet at barriers.
#pragma once
#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "base/numa.h"
#include "base/phase_clock.h"
#include "base/range.h"

namespace rill {

/// Meets `count` threads: spins for some ten microseconds, then parks. Where spinning was in vain
/// (another program holds a core, or there are more threads than cores) it is cut short, and grows
/// again as soon as it helps: fast on a core complex, and harmless when the machine is
/// oversubscribed.
class Barrier {
 public:
  explicit Barrier(int count) : count_(count) {}
  void wait() {
    wait([] {});
  }
  /// Calls idle() over and over while it spins: something short that is useful, but not needed.
  template <class Idle>
  void wait(const Idle& idle) {
    const unsigned generation = generation_.load(std::memory_order_acquire);
    if (arrive(generation)) return;
    const int spins = spins_.load(std::memory_order_relaxed);
    for (int spin = 0; spin < spins; ++spin) {
      if (generation_.load(std::memory_order_acquire) != generation) {
        if (spins < kMostSpins)
          spins_.store(std::min(2 * spins, kMostSpins), std::memory_order_relaxed);
        return;
      }
      idle();
      pause();
    }
    spins_.store(std::max(spins / 2, kLeastSpins), std::memory_order_relaxed);
    park(generation);
  }

 private:
  static void pause() {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#endif
  }
  bool arrive(unsigned generation);  // true for the last, who lets all go on
  void park(unsigned generation);

  const int count_;
  alignas(64) std::atomic<int> arrived_{0};
  alignas(64) std::atomic<unsigned> generation_{0};
  std::atomic<int> spins_{kMostSpins};  // before parking; a hint
  static constexpr int kLeastSpins = 16, kMostSpins = 4096;
};

/// What is left of a thread's share, in units. Its owner takes from the front, others from the
/// back.
class alignas(64) Remainder {
 public:
  /// Nobody takes from the share before; by its owner.
  void open(Range units) { state_.store(units.begin | units.end << 32, std::memory_order_release); }
  /// Takes an n-th of what is left, at least one unit; false if nothing is.
  bool take_front(size_t nth, Range& taken) {
    return take(
        [&](Range left, size_t n) {
          taken = {left.begin, left.begin + n};
          return Range{left.begin + n, left.end};
        },
        nth);
  }
  bool take_back(size_t nth, Range& taken) {
    return take(
        [&](Range left, size_t n) {
          taken = {left.end - n, left.end};
          return Range{left.begin, left.end - n};
        },
        nth);
  }

 private:
  template <class Cut>
  bool take(const Cut& cut, size_t nth) {
    uint64_t state = state_.load(std::memory_order_acquire);
    for (;;) {
      const Range left = {state & 0xffffffff, state >> 32};
      if (left.begin >= left.end) return false;
      const Range rest = cut(left, std::max<size_t>(1, (left.end - left.begin) / nth));
      if (state_.compare_exchange_weak(state, rest.begin | rest.end << 32,
                                       std::memory_order_acq_rel, std::memory_order_acquire))
        return true;
    }
  }

  std::atomic<uint64_t> state_{0};  // begin below, end above
};

/// One thread's place in the region that Team::run opened.
class Worker {
 public:
  /// `remainders` [count]: for deal().
  Worker(int index, int count, Barrier& barrier, Remainder* remainders = nullptr)
      : index_(index),
        count_(count),
        barrier_(&barrier),
        remainders_(remainders),
        mates_{0, static_cast<size_t>(count)} {}
  int index() const { return index_; }
  /// The NUMA node whose memory this thread is to read, counted from 0 among those that the team is
  /// placed on, and the threads there.
  size_t node() const { return node_; }
  void stand(size_t node, Range mates) {
    node_ = node;
    mates_ = mates;
  }
  int count() const { return count_; }
  bool first() const { return index_ == 0; }
  void barrier() {
    barrier([] {});
  }
  /// As Barrier::wait: idle() is called while this thread waits.
  template <class Idle>
  void barrier(const Idle& idle) {
    if (count_ == 1) return;
    const size_t phase = clock_ ? clock_->enter(PhaseClock::kWaiting) : PhaseClock::kWaiting;
    barrier_->wait(idle);
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
  /// Calls body(range) for pieces of whole units that together are this thread's share of `n`; when
  /// they are done, for what others have not begun, first those on the same NUMA node: nobody waits
  /// long for a thread whose core is slower, or busy with another program. Every thread of the team
  /// calls this with the same arguments, and a barrier stands between two calls.
  template <class Body>
  void deal(size_t n, size_t unit, const Body& body) {
    deal(n, unit, 1, [&](Range items, size_t) { body(items); });
  }
  /// The same of each of `strips` strips: body(range, strip). A thread goes through its share strip
  /// by strip.
  template <class Body>
  void deal(size_t n, size_t unit, size_t strips, const Body& body);

 private:
  int index_, count_;
  Barrier* barrier_;
  Remainder* remainders_;
  size_t node_ = 0;
  Range mates_;
  PhaseClock* clock_ = nullptr;
};

template <class Body>
void Worker::deal(size_t n, size_t unit, size_t strips, const Body& body) {
  // The pieces shrink as the end comes near, so that no thread is left with a long last one.
  constexpr size_t kOwnPart = 2, kOthersPart = 2;
  const size_t units = (n + unit - 1) / unit, count = static_cast<size_t>(count_);
  const auto share_of = [&](size_t thread) {
    return Range{units * thread / count, units * (thread + 1) / count};
  };
  // Cells of a thread's share, counted strip by strip.
  const auto run = [&](size_t owner, Range cells) {
    const Range share = share_of(owner);
    const size_t width = share.end - share.begin;
    while (cells.begin < cells.end) {
      const size_t first = share.begin + cells.begin % width;
      const size_t taken = std::min(share.end - first, cells.end - cells.begin);
      body(Range{first * unit, std::min(n, (first + taken) * unit)}, cells.begin / width);
      cells.begin += taken;
    }
  };
  const auto cells_of = [&](size_t thread) {
    const Range share = share_of(thread);
    return Range{0, (share.end - share.begin) * strips};
  };
  const size_t index = static_cast<size_t>(index_);
  if (count_ == 1) {
    run(0, cells_of(0));
    return;
  }
  Range taken{};
  remainders_[index].open(cells_of(index));
  while (remainders_[index].take_front(kOwnPart, taken)) run(index, taken);
  const auto help = [&](size_t other) {
    while (remainders_[other].take_back(kOthersPart, taken)) run(other, taken);
  };
  const size_t mates = mates_.end - mates_.begin;
  for (size_t i = 1; i < mates; ++i) help(mates_.begin + (index - mates_.begin + i) % mates);
  for (size_t i = 0; i < count - mates; ++i) help((mates_.end + i) % count);
}

/// Deals task indices to whichever thread is free. Reset by one thread before a barrier.
class TaskCounter {
 public:
  void reset() { next_.store(0, std::memory_order_relaxed); }
  size_t next() { return next_.fetch_add(1, std::memory_order_relaxed); }

 private:
  alignas(64) std::atomic<size_t> next_{0};
};

/// A team of OpenMP threads, placed by place(), or by OMP_PLACES and OMP_PROC_BIND.
class Team {
 public:
  /// `threads` 0: as OMP_NUM_THREADS says, else one per core that the affinity mask and the cgroup
  /// quota leave to this process. At most 1024; rill::Error beyond.
  explicit Team(int threads = 0);
  int size() const { return size_; }

  /// From now on threads run where `placement` says. It has a place for each thread, or none.
  void place(Placement placement);
  const Placement& placement() const { return placement_; }
  /// Of each thread the processors that it may run on, if OMP_PROC_BIND and the like bind threads;
  /// else nothing.
  std::vector<std::vector<int>> bound_by_user();

  /// Runs `body` once on every thread. An exception of a body that passes no barrier is rethrown
  /// here; a body that passes barriers must not throw.
  void run(const std::function<void(Worker&)>& body);

 private:
  class Bound;
  int size_;
  Placement placement_;
  std::vector<Range> mates_;  // [nodes]
  std::unique_ptr<Barrier> barrier_;
  std::unique_ptr<Remainder[]> remainders_;  // [size_]
};

}  // namespace rill
