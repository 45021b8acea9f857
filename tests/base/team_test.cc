// SPDX-License-Identifier: Apache-2.0
// Team, Barrier, Worker::share and TaskCounter. ThreadSanitizer runs these too, so whatever they
// share without a lock is there to be found by it.
#include "base/team.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <set>
#include <stdexcept>
#include <thread>
#include <vector>

#include "base/error.h"
#include "base/topology.h"

namespace rill {
namespace {

// More threads than cores by four: at each barrier most of them are not running.
int oversubscribed() {
  return 4 * available_cores();
}

std::vector<int> thread_counts() {
  return {1, 2, 3, 5, 8, oversubscribed()};
}

TEST(Team, RunsTheBodyOnceOnEveryThread) {
  for (int threads : thread_counts()) {
    Team team(threads);
    ASSERT_EQ(team.size(), threads);
    std::vector<int> visits(threads, 0);
    team.run([&](Worker& worker) {
      ASSERT_EQ(worker.count(), threads);
      ++visits[worker.index()];
      EXPECT_EQ(worker.first(), worker.index() == 0);
    });
    EXPECT_EQ(visits, std::vector<int>(threads, 1)) << threads << " threads";
  }
}

TEST(Team, BarrierMakesEveryWriteBeforeItVisibleAfterIt) {
  for (int threads : thread_counts()) {
    Team team(threads);
    std::vector<int> value(threads, -1);  // unsynchronised but for the barrier
    constexpr int kSteps = 200;
    int wrong = 0;
    team.run([&](Worker& worker) {
      int wrong_here = 0;
      for (int step = 0; step < kSteps; ++step) {
        value[worker.index()] = step;
        worker.barrier();
        for (int other = 0; other < threads; ++other) wrong_here += value[other] != step;
        worker.barrier();
      }
      std::atomic_ref(wrong).fetch_add(wrong_here);
    });
    EXPECT_EQ(wrong, 0) << threads << " threads";
  }
}

TEST(Team, OversubscribedBarriersFinish) {
  Team team(oversubscribed());
  std::vector<size_t> passed(team.size(), 0);
  for (int round = 0; round < 20; ++round)
    team.run([&](Worker& worker) {
      for (int step = 0; step < 50; ++step) {
        worker.barrier();
        ++passed[worker.index()];
      }
    });
  for (size_t count : passed) EXPECT_EQ(count, 20u * 50u);
}

TEST(Team, IsUsableAgainAfterABodyThrew) {
  for (int threads : {1, 3, oversubscribed()}) {
    Team team(threads);
    try {
      team.run([&](Worker& worker) {
        if (worker.index() == threads - 1) throw std::runtime_error("from the last thread");
      });
      FAIL() << "the exception was lost";
    } catch (const std::runtime_error& error) {
      EXPECT_STREQ(error.what(), "from the last thread");
    }
    std::atomic<int> ran{0};
    team.run([&](Worker& worker) {
      worker.barrier();
      ran.fetch_add(1);
      worker.barrier();
    });
    EXPECT_EQ(ran.load(), threads);
  }
}

TEST(Team, RethrowsOneOfSeveralExceptions) {
  Team team(4);
  EXPECT_THROW(team.run([](Worker&) { throw Error("each of them"); }), Error);
}

TEST(Team, TwoTeamsOfDifferentSizesTakeTurns) {
  Team small(2), large(5);
  std::atomic<int> sum{0};
  for (int round = 0; round < 30; ++round) {
    small.run([&](Worker& worker) {
      worker.barrier();
      sum.fetch_add(1);
    });
    large.run([&](Worker& worker) {
      worker.barrier();
      sum.fetch_add(100);
    });
  }
  EXPECT_EQ(sum.load(), 30 * (2 + 500));
}

TEST(Team, RefusesImpossibleSizesByName) {
  for (int threads : {-1, 1025, 1 << 30}) {
    try {
      Team team(threads);
      FAIL() << threads << " was accepted";
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find("--threads is " + std::to_string(threads)),
                std::string::npos)
          << error.what();
    }
  }
}

TEST(Team, ZeroTakesWhatTheProcessMayUse) {
  if (std::getenv("OMP_NUM_THREADS")) {
    EXPECT_GE(Team().size(), 1);
  } else {
    EXPECT_EQ(Team().size(), available_cores());
  }
}

TEST(Barrier, MeetsPlainThreads) {
  constexpr int kThreads = 6, kSteps = 100;
  Barrier barrier(kThreads);
  int turn = 0;  // written by one thread between two meetings
  std::atomic<int> wrong{0};
  std::vector<std::thread> threads;
  for (int index = 0; index < kThreads; ++index)
    threads.emplace_back([&, index] {
      for (int step = 0; step < kSteps; ++step) {
        if (step % kThreads == index) turn = step;
        barrier.wait();
        if (turn != step) wrong.fetch_add(1);
        barrier.wait();
      }
    });
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(wrong.load(), 0);
}

TEST(WorkerShare, CoversEveryItemOnceInWholeUnits) {
  Barrier barrier(1);
  for (int count : {1, 2, 3, 5, 7, 8, 64})
    for (size_t n : {0u, 1u, 2u, 15u, 16u, 17u, 100u, 1000u, 4097u})
      for (size_t unit : {1u, 2u, 16u, 300u}) {
        size_t next = 0, least = n, most = 0;
        for (int index = 0; index < count; ++index) {
          const Range range = Worker(index, count, barrier).share(n, unit);
          ASSERT_EQ(range.begin, next) << n << " by " << unit << " over " << count;
          ASSERT_LE(range.begin, range.end);
          ASSERT_TRUE(range.end % unit == 0 || range.end == n);
          next = range.end;
          const size_t units = (range.end - range.begin + unit - 1) / unit;
          least = std::min(least, units);
          most = std::max(most, units);
        }
        ASSERT_EQ(next, n) << n << " by " << unit << " over " << count;
        ASSERT_LE(most - least, 1u) << "shares differ by more than one unit";
      }
}

TEST(WorkerShare, IsTheSameEachTime) {
  Barrier barrier(1);
  const Worker worker(2, 5, barrier);
  const Range first = worker.share(999, 16), again = worker.share(999, 16);
  EXPECT_EQ(first.begin, again.begin);
  EXPECT_EQ(first.end, again.end);
}

TEST(WorkerDeal, GivesEveryItemToOneThreadInWholeUnits) {
  for (int threads : thread_counts()) {
    Team team(threads);
    for (size_t n : {0u, 1u, 3u, 4u, 5u, 64u, 1001u})
      for (size_t unit : {1u, 4u, 300u}) {
        std::vector<int> dealt(n, 0);  // each element is touched by the thread that got it alone
        std::atomic<int> ragged{0};
        team.run([&](Worker& worker) {
          for (int round = 0; round < 3; ++round) {
            worker.deal(n, unit, [&](Range range) {
              if (range.begin >= range.end || range.begin % unit ||
                  (range.end % unit && range.end != n))
                ragged.fetch_add(1);
              for (size_t i = range.begin; i < range.end; ++i) ++dealt[i];
            });
            worker.barrier();
          }
        });
        ASSERT_EQ(dealt, std::vector<int>(n, 3)) << n << " by " << unit << " over " << threads;
        ASSERT_EQ(ragged.load(), 0);
      }
  }
}

TEST(WorkerDeal, GivesEveryCellOfEveryStripToOneThread) {
  for (int threads : thread_counts()) {
    Team team(threads);
    for (size_t n : {0u, 1u, 5u, 64u, 101u})
      for (size_t strips : {1u, 2u, 7u}) {
        constexpr size_t kUnit = 4;
        std::vector<int> dealt(n * strips, 0);
        std::atomic<int> wrong{0};
        team.run([&](Worker& worker) {
          worker.deal(n, kUnit, strips, [&](Range range, size_t strip) {
            if (range.begin >= range.end || range.begin % kUnit ||
                (range.end % kUnit && range.end != n) || strip >= strips)
              wrong.fetch_add(1);
            else
              for (size_t i = range.begin; i < range.end; ++i) ++dealt[strip * n + i];
          });
        });
        ASSERT_EQ(dealt, std::vector<int>(n * strips, 1))
            << n << " x " << strips << " over " << threads;
        ASSERT_EQ(wrong.load(), 0);
      }
  }
}

TEST(WorkerDeal, GoesThroughAShareStripByStrip) {
  Team team(1);
  std::vector<size_t> seen;
  team.run([&](Worker& worker) {
    worker.deal(6, 2, 3, [&](Range range, size_t strip) {
      EXPECT_EQ(range.begin, 0u);
      EXPECT_EQ(range.end, 6u);
      seen.push_back(strip);
    });
  });
  EXPECT_EQ(seen, (std::vector<size_t>{0, 1, 2}));
}

TEST(WorkerDeal, OthersTakeWhatASlowThreadHasNotBegun) {
  Team team(2);
  std::vector<int> owner(100, -1);
  team.run([&](Worker& worker) {
    worker.deal(owner.size(), 1, [&](Range range) {
      for (size_t i = range.begin; i < range.end; ++i)
        std::atomic_ref(owner[i]).store(worker.index());
      while (!worker.first() && std::atomic_ref(owner[0]).load() < 0) std::this_thread::yield();
      // The first thread's core is busy until nothing is left but what it holds.
      while (worker.first() && std::atomic_ref(owner[49]).load() < 0) std::this_thread::yield();
    });
  });
  EXPECT_EQ(owner[0], 0);
  EXPECT_EQ(owner[49], 1) << "the last of the first thread's share";
}

TEST(WorkerBarrier, IsIdleOnlyWhileItWaits) {
  Team team(2);
  int idle[2] = {};
  team.run([&](Worker& worker) {
    // The second thread arrives when the first has waited for a while; no one waits for it.
    while (!worker.first() && std::atomic_ref(idle[0]).load() < 3) std::this_thread::yield();
    worker.barrier([&] { std::atomic_ref(idle[worker.index()]).fetch_add(1); });
  });
  EXPECT_GE(idle[0], 3);
  EXPECT_EQ(idle[1], 0);
}

// Seconds of 300 parallel steps, each some tens of microseconds of work and a barrier: like a small
// model's decode. The best of five.
double seconds_of_steps(int threads) {
  Team team(threads);
  double best = 1e9;
  for (int round = 0; round < 5; ++round) {
    const auto start = std::chrono::steady_clock::now();
    team.run([](Worker& worker) {
      for (int step = 0; step < 300; ++step) {
        worker.deal(64, 1, [](Range range) {
          for (size_t i = range.begin * 5000; i < range.end * 5000; ++i) {
            double x = static_cast<double>(i);
            asm volatile("" : "+x"(x));
          }
        });
        worker.barrier();
      }
    });
    const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - start;
    best = std::min(best, taken.count());
  }
  return best;
}

// What either may cost at the most is far above what it should (nothing; the share of the cores
// that the other program takes), since the machine may be shared, and far below what threads that
// spin for others who cannot run would cost. Other processes, such as tests that run beside this
// one, are neighbours as well: the best of a few tries counts. A barrier that does not give way
// loses a scheduler's time slice at each of hundreds of steps, in every try.
template <typename Slowdown>
double least_of_five(double enough, const Slowdown& slowdown) {
  double least = slowdown();
  for (int i = 1; i < 5 && least >= enough; ++i) least = std::min(least, slowdown());
  return least;
}

TEST(Team, FourTimesMoreThreadsThanCoresDoNotCollapse) {
  const auto slowdown = [] {
    const double even = seconds_of_steps(available_cores());
    return seconds_of_steps(oversubscribed()) / even;
  };
  EXPECT_LT(least_of_five(3, slowdown), 3);
}

// Beside a thread that never sleeps: how many times longer steps take.
double slowdown_beside_a_neighbour() {
  const double alone = seconds_of_steps(available_cores());
  std::atomic<bool> stop{false};
  std::thread neighbour([&] {
    while (!stop.load(std::memory_order_relaxed)) {
    }
  });
  const double beside = seconds_of_steps(available_cores());
  stop.store(true);
  neighbour.join();
  return beside / alone;
}

TEST(Team, ABusyNeighbourTakesItsShareAndLittleMore) {
  EXPECT_LT(least_of_five(5, slowdown_beside_a_neighbour), 5);
}

TEST(TaskCounter, DealsEveryTaskOnceAndAgainAfterReset) {
  Team team(oversubscribed());
  constexpr size_t kTasks = 5000;
  TaskCounter counter;
  std::vector<int> done(kTasks, 0);  // each element is touched by the thread that drew it alone
  for (int round = 1; round <= 3; ++round) {
    team.run([&](Worker& worker) {
      if (worker.first()) counter.reset();
      worker.barrier();
      for (size_t task = counter.next(); task < kTasks; task = counter.next()) ++done[task];
    });
    EXPECT_EQ(done, std::vector<int>(kTasks, round));
  }
}

}  // namespace
}  // namespace rill
