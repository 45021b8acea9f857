// SPDX-License-Identifier: Apache-2.0
// A build without hwloc: /sys tells of the machine.
#include "base/numa_support.h"

namespace rill::test {
namespace {

TEST(WithoutHwloc, SysTells) {
  EXPECT_FALSE(machine_of_hwloc("", every_processor));
  EXPECT_FALSE(machine_of_hwloc("node:2 core:4 pu:1", every_processor));
  const Machine by_sys = machine_of_sys("/sys/devices/system", every_processor);
  const Machine found = read_whole_machine();
  EXPECT_EQ(found.describe().find("hwloc"), std::string::npos);
  if (by_sys.nodes.empty())
    EXPECT_EQ(found.nodes.size(), 1u);
  else
    EXPECT_EQ(cores_by_node(found), cores_by_node(by_sys));
}

}  // namespace
}  // namespace rill::test
