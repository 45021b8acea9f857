// SPDX-License-Identifier: Apache-2.0
#include "comm/meeting.h"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <climits>
#include <ctime>

namespace rill {

static_assert(std::atomic<uint32_t>::is_always_lock_free, "a futex is the number itself");

// Nobody comes to the next meeting before this one is over. Who sleeps has counted itself before it
// looked for the last time, so either it sees the new number or the last one sees it.
bool Meeting::arrive(uint32_t meeting) {
  if (place_.arrived.fetch_add(1, std::memory_order_acq_rel) + 1 < count_) return false;
  place_.arrived.store(0, std::memory_order_relaxed);
  place_.meetings.store(meeting + 1);
  if (place_.sleepers.load() > 0)
    ::syscall(SYS_futex, &place_.meetings, FUTEX_WAKE, INT_MAX, nullptr, nullptr, 0);
  return true;
}

// std::atomic::wait would look for sleepers in this process only.
void Meeting::sleep(uint32_t meeting) {
  constexpr timespec kMillisecond = {0, 1'000'000};
  ::syscall(SYS_futex, &place_.meetings, FUTEX_WAIT, meeting, &kMillisecond, nullptr, 0);
}

}  // namespace rill
