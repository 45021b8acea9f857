// SPDX-License-Identifier: Apache-2.0
// Team, Barrier, Worker::share and TaskCounter. ThreadSanitizer runs these too, so whatever they
// share without a lock is there to be found by it.
#include "base/team.h"

#include <gtest/gtest.h>

#include <atomic>
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
