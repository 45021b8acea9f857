// SPDX-License-Identifier: Apache-2.0
// What tests of topologies and of placements share.
#pragma once
#include <gtest/gtest.h>

#include <algorithm>
#include <set>
#include <vector>

#include "base/numa.h"

namespace rill::test {

inline bool every_processor(int) {
  return true;
}

inline std::vector<size_t> cores_by_node(const Machine& machine) {
  std::vector<size_t> counts;
  for (const NumaNode& node : machine.nodes) counts.push_back(node.cores.size());
  return counts;
}

inline std::vector<size_t> threads_by_node(const Placement& placement) {
  std::vector<size_t> counts(placement.nodes.size());
  for (const Placement::Thread& thread : placement.threads) ++counts[thread.node];
  return counts;
}

// Threads of a node follow each other, each bound to processors of its node.
inline void check_placement(const Machine& machine, const Placement& placement, size_t threads) {
  ASSERT_EQ(placement.threads.size(), threads);
  std::set<int> used;
  for (size_t i = 0; i < threads; ++i) {
    const Placement::Thread& thread = placement.threads[i];
    if (i > 0) {
      EXPECT_GE(thread.node, placement.threads[i - 1].node);
    }
    ASSERT_LT(thread.node, placement.nodes.size());
    const auto home =
        std::find_if(machine.nodes.begin(), machine.nodes.end(),
                     [&](const NumaNode& node) { return node.id == placement.nodes[thread.node]; });
    ASSERT_NE(home, machine.nodes.end());
    EXPECT_FALSE(thread.processors.empty());
    for (const int processor : thread.processors)
      EXPECT_TRUE(std::any_of(
          home->cores.begin(), home->cores.end(),
          [&](const auto& core) { return std::count(core.begin(), core.end(), processor) > 0; }))
          << "thread " << i << ", processor " << processor;
  }
  size_t sum = 0;
  for (size_t node = 0; node < placement.parts(); ++node) {
    const Range range = placement.threads_of(node, threads);
    EXPECT_EQ(range.begin, sum);
    sum = range.end;
  }
  EXPECT_EQ(sum, threads);
}

}  // namespace rill::test
