// SPDX-License-Identifier: Apache-2.0
// The topology as hwloc sees it: the only file that knows it.
#include <hwloc.h>

#include <set>

#include "base/error.h"
#include "base/numa.h"

namespace rill {
namespace {

class Topology {
 public:
  Topology() { hwloc_topology_init(&topology_); }
  Topology(const Topology&) = delete;
  Topology& operator=(const Topology&) = delete;
  ~Topology() { hwloc_topology_destroy(topology_); }
  hwloc_topology_t get() const { return topology_; }

  // The objects of a type within some processors, in their order.
  std::vector<hwloc_obj_t> within(hwloc_const_cpuset_t set, hwloc_obj_type_t type) const {
    std::vector<hwloc_obj_t> objects;
    for (hwloc_obj_t object = nullptr;
         (object = hwloc_get_next_obj_inside_cpuset_by_type(topology_, set, type, object));)
      objects.push_back(object);
    return objects;
  }

 private:
  hwloc_topology_t topology_ = nullptr;
};

}  // namespace

std::optional<Machine> machine_of_hwloc(const std::string& synthetic, const Allowed& allowed) {
  const Topology topology;
  if (!synthetic.empty() && hwloc_topology_set_synthetic(topology.get(), synthetic.c_str()) != 0)
    fail("hwloc does not understand the topology \"", synthetic,
         "\"; write it as \"node:2 core:26 pu:1\"");
  if (hwloc_topology_load(topology.get()) != 0) return std::nullopt;
  Machine machine{{}, "hwloc"};
  std::set<int> seen;  // a processor may stand by several memories: the first counts
  hwloc_obj_t object = nullptr;
  while ((object = hwloc_get_next_obj_by_type(topology.get(), HWLOC_OBJ_NUMANODE, object))) {
    NumaNode node{static_cast<int>(object->os_index), {}};
    std::vector<hwloc_obj_t> cores = topology.within(object->cpuset, HWLOC_OBJ_CORE);
    if (cores.empty()) cores = topology.within(object->cpuset, HWLOC_OBJ_PU);
    for (const hwloc_obj_t core : cores) {
      std::vector<int> processors;
      for (int i = hwloc_bitmap_first(core->cpuset); i >= 0; i = hwloc_bitmap_next(core->cpuset, i))
        if (allowed(i) && seen.insert(i).second) processors.push_back(i);
      if (!processors.empty()) node.cores.push_back(std::move(processors));
    }
    if (!node.cores.empty()) machine.nodes.push_back(std::move(node));
  }
  if (machine.nodes.empty()) return std::nullopt;
  return machine;
}

}  // namespace rill
