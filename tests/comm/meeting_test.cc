// SPDX-License-Identifier: Apache-2.0
// Processes that wait for each other in memory that they share.
#include "comm/meeting.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <new>
#include <thread>

namespace rill {
namespace {

constexpr uint32_t kMost = 8;

struct Shared {
  MeetingPlace place{};
  uint64_t rounds[kMost] = {};  // that each process has begun
  std::atomic<uint32_t> wrong{0};
};

// Rounds of writing and of reading what all have written; in some of them one process is so late
// that the others sleep.
void take_part(Shared& shared, uint32_t me, uint32_t count, uint64_t rounds) {
  Meeting meeting(shared.place, count, true);
  const auto nothing = [] {};
  for (uint64_t round = 1; round <= rounds; ++round) {
    if (round % 50 == me) std::this_thread::sleep_for(std::chrono::milliseconds(3));
    shared.rounds[me] = round;
    meeting.wait(nothing);
    for (uint32_t other = 0; other < count; ++other)
      if (shared.rounds[other] != round) ++shared.wrong;
    meeting.wait(nothing);
  }
}

TEST(Meeting, ProcessesSeeWhatOthersWrote) {
  for (const uint32_t count : {1u, 2u, kMost}) {
    void* memory =
        ::mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    ASSERT_NE(memory, MAP_FAILED);
    Shared& shared = *new (memory) Shared;
    for (uint32_t me = 1; me < count; ++me)
      if (::fork() == 0) {
        take_part(shared, me, count, 200);
        ::_exit(0);
      }
    take_part(shared, 0, count, 200);
    int status = 0;
    for (uint32_t me = 1; me < count; ++me) {
      ::wait(&status);
      EXPECT_EQ(status, 0);
    }
    EXPECT_EQ(shared.wrong, 0u);
    ::munmap(memory, sizeof(Shared));
  }
}

TEST(Meeting, CallsWhatIsToBeDoneMeanwhile) {
  MeetingPlace place{};
  std::atomic<int> calls{0};
  std::thread late([&] {
    while (calls < 3) std::this_thread::yield();
    Meeting(place, 2, true).wait([] {});
  });
  Meeting(place, 2, true).wait([&] { ++calls; });
  late.join();
  EXPECT_GE(calls, 3);
}

}  // namespace
}  // namespace rill
