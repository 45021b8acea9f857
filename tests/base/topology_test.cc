// SPDX-License-Identifier: Apache-2.0
#include "base/topology.h"

#include <gtest/gtest.h>
#include <sched.h>

#include <fstream>
#include <sstream>
#include <string>

namespace rill {
namespace {

TEST(Topology, CoresFollowTheAffinityMask) {
  cpu_set_t before;
  ASSERT_EQ(sched_getaffinity(0, sizeof before, &before), 0);
  EXPECT_GE(available_cores(), 1);
  EXPECT_LE(available_cores(), CPU_COUNT(&before));

  cpu_set_t one;
  CPU_ZERO(&one);
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu)
    if (CPU_ISSET(cpu, &before)) {
      CPU_SET(cpu, &one);
      break;
    }
  ASSERT_EQ(sched_setaffinity(0, sizeof one, &one), 0);
  EXPECT_EQ(available_cores(), 1);
  ASSERT_EQ(sched_setaffinity(0, sizeof before, &before), 0);
}

TEST(Topology, MemoryIsWithinWhatTheMachineHas) {
  size_t total_kib = 0;
  std::ifstream file("/proc/meminfo");
  for (std::string line, name; std::getline(file, line);) {
    std::istringstream fields(line);
    if (fields >> name && name == "MemTotal:") fields >> total_kib;
  }
  ASSERT_GT(total_kib, 0u);
  EXPECT_GT(available_memory(), 0u);
  EXPECT_LE(available_memory(), total_kib * 1024);
}

TEST(Topology, CachesGrowWithTheirLevel) {
  const size_t first = cache_bytes(1), second = cache_bytes(2), last = cache_bytes(3);
  // 0 stands for unknown, as some virtual machines have it.
  if (first && second) {
    EXPECT_LE(first, second);
  }
  if (second && last) {
    EXPECT_LE(second, last);
  }
  if (first) {
    EXPECT_GE(first, 4096u);
  }
}

TEST(Topology, TheProcessorHasAName) {
  EXPECT_FALSE(cpu_name().empty());
}

}  // namespace
}  // namespace rill
