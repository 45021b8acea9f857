// SPDX-License-Identifier: Apache-2.0
// What the system tells of NUMA, and what it is told: /sys, affinity masks, memory policies. The
// policies' system calls are made here directly, so that libnuma is not needed.
#include <linux/mempolicy.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <climits>
#include <cstdint>
#include <fstream>
#include <numeric>
#include <set>

#include "base/numa.h"
#include "base/topology.h"

namespace rill {
namespace {

constexpr int kMostProcessors = 8192;
constexpr size_t kMostNodes = 1024;  // of Linux
constexpr size_t kPage = 4096;

// The numbers of a list such as "0-25,52-77", none if there is no such file.
std::vector<int> read_list(const std::string& path) {
  std::vector<int> numbers;
  std::ifstream file(path);
  for (int first = 0; file >> first;) {
    int last = first;
    if (file.peek() == '-') file.ignore() >> last;
    for (int i = first; i <= last && i < kMostProcessors; ++i) numbers.push_back(i);
    if (file.peek() == ',') file.ignore();
  }
  return numbers;
}

// One node that holds the processors, each taken for a core.
Machine one_node(const Allowed& allowed) {
  Machine machine{{NumaNode{}}, "none"};
  for (int processor = 0; processor < kMostProcessors; ++processor)
    if (allowed(processor)) machine.nodes.front().cores.push_back({processor});
  return machine;
}

Machine read_allowed(const Allowed& allowed) {
  if (const auto machine = machine_of_hwloc("", allowed)) return *machine;
  const Machine machine = machine_of_sys("/sys/devices/system", allowed);
  return machine.nodes.empty() ? one_node(allowed) : machine;
}

// A mask of nodes as the system takes it.
struct NodeMask {
  static constexpr size_t kBits = sizeof(unsigned long) * CHAR_BIT;
  unsigned long words[kMostNodes / kBits] = {};

  explicit NodeMask(const std::vector<int>& nodes) {
    for (const int node : nodes)
      if (node >= 0 && static_cast<size_t>(node) < kMostNodes)
        words[static_cast<size_t>(node) / kBits] |= 1ul << static_cast<size_t>(node) % kBits;
  }
};

// The whole pages within.
bool advise(void* memory, size_t bytes, int mode, const std::vector<int>& nodes) {
  const auto address = reinterpret_cast<uintptr_t>(memory);
  const uintptr_t begin = (address + kPage - 1) / kPage * kPage;
  const uintptr_t end = (address + bytes) / kPage * kPage;
  if (begin >= end) return true;
  const NodeMask mask(nodes);
  return syscall(SYS_mbind, begin, end - begin, mode, mask.words, kMostNodes + 1, 0) == 0;
}

}  // namespace

Machine machine_of_sys(const std::string& root, const Allowed& allowed) {
  Machine machine{{}, "/sys"};
  std::set<int> seen;  // a processor may stand by several memories: the first counts
  for (const int id : read_list(root + "/node/online")) {
    NumaNode node{id, {}};
    for (const int processor : read_list(root + "/node/node" + std::to_string(id) + "/cpulist")) {
      if (seen.count(processor)) continue;
      std::vector<int> core;
      const std::string folder = root + "/cpu/cpu" + std::to_string(processor) + "/topology/";
      for (const int sibling : read_list(folder + "thread_siblings_list"))
        if (seen.insert(sibling).second && allowed(sibling)) core.push_back(sibling);
      if (seen.insert(processor).second && allowed(processor)) core.push_back(processor);
      if (!core.empty()) node.cores.push_back(std::move(core));
    }
    if (!node.cores.empty()) machine.nodes.push_back(std::move(node));
  }
  return machine;
}

Machine read_machine() {
  const std::vector<int> mine = bound_processors();
  return read_allowed(
      [&](int processor) { return std::binary_search(mine.begin(), mine.end(), processor); });
}

Machine read_whole_machine() {
  const int count = machine_cores();
  return read_allowed([count](int processor) { return processor < count; });
}

std::vector<int> bound_processors() {
  std::vector<unsigned long> mask(kMostProcessors / NodeMask::kBits);
  const auto set = reinterpret_cast<cpu_set_t*>(mask.data());
  const size_t bytes = mask.size() * sizeof mask[0];
  std::vector<int> processors;
  if (sched_getaffinity(0, bytes, set) == 0)
    for (int i = 0; i < kMostProcessors; ++i)
      if (CPU_ISSET_S(static_cast<size_t>(i), bytes, set)) processors.push_back(i);
  return processors;
}

bool bind_to(const std::vector<int>& processors) {
  std::vector<unsigned long> mask(kMostProcessors / NodeMask::kBits);
  const auto set = reinterpret_cast<cpu_set_t*>(mask.data());
  const size_t bytes = mask.size() * sizeof mask[0];
  for (const int i : processors) CPU_SET_S(static_cast<size_t>(i), bytes, set);
  return sched_setaffinity(0, bytes, set) == 0;
}

bool prefer_node(void* memory, size_t bytes, int node) {
  return advise(memory, bytes, MPOL_PREFERRED, {node});
}

bool interleave(void* memory, size_t bytes, const std::vector<int>& nodes) {
  return advise(memory, bytes, MPOL_INTERLEAVE, nodes);
}

void place_shared(const Placement& placement, void* memory, size_t bytes) {
  if (placement.policy == NumaPolicy::INTERLEAVE && placement.nodes.size() > 1)
    interleave(memory, bytes, placement.nodes);
}

std::vector<int> nodes_of_pages(const void* memory, size_t bytes) {
  const auto address = reinterpret_cast<uintptr_t>(memory) / kPage * kPage;
  const size_t count = (reinterpret_cast<uintptr_t>(memory) + bytes - address + kPage - 1) / kPage;
  std::vector<void*> pages(count);
  for (size_t i = 0; i < count; ++i) pages[i] = reinterpret_cast<void*>(address + i * kPage);
  std::vector<int> nodes(count, -1);
  syscall(SYS_move_pages, 0, count, pages.data(), nullptr, nodes.data(), 0);
  return nodes;
}

}  // namespace rill
