// SPDX-License-Identifier: Apache-2.0
// Machines as hwloc tells of them. Built where Rill is built with hwloc; else
// numa_without_hwloc_test.cc is.
#include "base/error.h"
#include "base/numa_support.h"

namespace rill::test {
namespace {

TEST(Hwloc, SyntheticMachines) {
  struct Case {
    const char* text;
    std::vector<size_t> cores;
    size_t processors;
  };
  const std::vector<Case> cases = {
      {"node:1 core:4 pu:1", {4}, 1},
      {"node:2 core:26 pu:1", {26, 26}, 1},
      {"node:2 core:26 pu:2", {26, 26}, 2},
      {"pack:2 node:2 core:12 pu:1", {12, 12, 12, 12}, 1},
      {"pack:2 node:4 core:8 pu:2", std::vector<size_t>(8, 8), 2},
  };
  for (const Case& c : cases) {
    const Machine machine = *machine_of_hwloc(c.text, every_processor);
    EXPECT_EQ(cores_by_node(machine), c.cores) << c.text;
    EXPECT_EQ(machine.nodes.back().cores.back().size(), c.processors) << c.text;
    if (c.cores.size() == 1) continue;
    const Placement placement = place_threads(machine, machine.cores(), NumaPolicy::AUTO);
    check_placement(machine, placement, machine.cores());
    EXPECT_EQ(threads_by_node(placement), c.cores) << c.text;
  }
  EXPECT_THROW(machine_of_hwloc("node two", every_processor), Error);
}

TEST(Hwloc, TheAffinityMaskMakesCoresUneven) {
  const auto masked =
      machine_of_hwloc("node:4 core:6 pu:2", [](int p) { return p >= 5 && p < 26; });
  ASSERT_TRUE(masked);
  // Processor 5 is the second of node 0's third core; 24 and 25 are the first core of node 2.
  EXPECT_EQ(cores_by_node(*masked), (std::vector<size_t>{4, 6, 1}));
  EXPECT_EQ(masked->nodes[0].cores[0], std::vector<int>{5});
  const Placement placement = place_threads(*masked, 11, NumaPolicy::AUTO);
  check_placement(*masked, placement, 11);
  EXPECT_EQ(threads_by_node(placement), (std::vector<size_t>{4, 6, 1}));
}

// Where /sys tells of no nodes, as in some containers, there is one.
TEST(Hwloc, AgreesWithSysOnThisMachine) {
  const auto by_hwloc = machine_of_hwloc("", every_processor);
  ASSERT_TRUE(by_hwloc);
  const Machine by_sys = machine_of_sys("/sys/devices/system", every_processor);
  if (by_sys.nodes.empty())
    EXPECT_EQ(by_hwloc->nodes.size(), 1u);
  else
    EXPECT_EQ(cores_by_node(*by_hwloc), cores_by_node(by_sys));
}

}  // namespace
}  // namespace rill::test
