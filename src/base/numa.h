// SPDX-License-Identifier: Apache-2.0
// NUMA: which cores stand by which memory, and where threads go. Placing is a pure function of a
// Machine, so that tests hand it machines that are not there.
#pragma once
#include <cstddef>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "base/range.h"

namespace rill {

/// A memory and the cores that stand by it.
struct NumaNode {
  int id = 0;                           // the system's number
  std::vector<std::vector<int>> cores;  // each core's processors (hardware threads)
};

/// The part of a machine that a process may use: only nodes with cores.
struct Machine {
  std::vector<NumaNode> nodes;
  std::string source;  // what told: "hwloc", "/sys", or "none" (taken for one node)

  size_t cores() const;
  /// "2 NUMA nodes (hwloc), 26 + 26 cores".
  std::string describe() const;
};

/// This machine as far as the affinity mask (and with it the cgroup's cpuset) lets this thread use
/// it. By hwloc where that is built in, else by /sys.
Machine read_machine();

/// The whole machine, whatever the mask says.
Machine read_whole_machine();

/// May a process use this processor?
using Allowed = std::function<bool(int processor)>;

/// The machine that the files under `root` ("/sys/devices/system") tell of.
Machine machine_of_sys(const std::string& root, const Allowed& allowed);

/// This machine by hwloc, or, if `synthetic` is not empty, the one that it describes, such as
/// "node:2 core:26 pu:2". None without hwloc. Throws rill::Error for a description that hwloc does
/// not understand.
std::optional<Machine> machine_of_hwloc(const std::string& synthetic, const Allowed& allowed);

/// Of `count` processes that may all use `machine`, the index-th one's part: whole nodes if there
/// are enough, else some cores of one node; a core by itself is shared rather than none given.
Machine part_of_machine(const Machine& machine, size_t index, size_t count);

/// How --numa wants threads and memory placed: each thread by the memory that it reads, not at all,
/// or the pages of weights and KV over all nodes in turn.
enum class NumaPolicy { AUTO, OFF, INTERLEAVE };

const char* to_string(NumaPolicy policy);
/// Throws rill::Error naming `option` for a word that is no policy.
NumaPolicy parse_numa_policy(const std::string& text, const std::string& option);

/// Where a team's threads run and its memory lies. The threads of a node follow each other.
struct Placement {
  struct Thread {
    size_t node;                  // index into `nodes`
    std::vector<int> processors;  // that it is bound to; empty: bound by others
  };
  NumaPolicy policy = NumaPolicy::OFF;
  std::vector<int> nodes;       // the system's numbers of the nodes used; empty: nothing is placed
  std::vector<Thread> threads;  // empty: no thread is bound, and memory not by threads

  /// Is memory placed by the threads that read it? Then on so many nodes, else 1.
  size_t parts() const { return threads.empty() ? 1 : nodes.size(); }
  /// The threads on a node; all of `count` where none is placed.
  Range threads_of(size_t node, size_t count) const;
  /// "threads bound: 26 + 26 by node", or why nothing is.
  std::string describe() const;
};

/// Places `threads` threads: on each node in proportion to its cores, one to a core before any
/// core gets a second. Threads that fill their node are bound to their cores, others to the node.
/// On one node nothing needs placing; but with `bind` its threads are bound to it, because they
/// could run elsewhere as well.
Placement place_threads(const Machine& machine, size_t threads, NumaPolicy policy,
                        bool bind = false);

/// For threads that were bound by others: each to the node that its processors (an entry of
/// `bound`) belong to. Nothing is placed if one may run on several nodes, or if the threads of a
/// node do not follow each other.
Placement placement_of(const Machine& machine, const std::vector<std::vector<int>>& bound);

/// The calling thread's affinity mask; and sets it (false if the system refuses).
std::vector<int> bound_processors();
bool bind_to(const std::vector<int>& processors);

/// Advice on where pages that nobody touched yet shall lie: on one node as far as it has room, or
/// over nodes in turn. False if the system refuses; then the first thread to touch a page decides.
bool prefer_node(void* memory, size_t bytes, int node);
bool interleave(void* memory, size_t bytes, const std::vector<int>& nodes);

/// What `placement` says of memory that all threads read alike: with --numa interleave its pages
/// take turns.
void place_shared(const Placement& placement, void* memory, size_t bytes);

/// The node of each 4 KiB page; negative for one that has no memory yet, or if the system does not
/// tell.
std::vector<int> nodes_of_pages(const void* memory, size_t bytes);

}  // namespace rill
