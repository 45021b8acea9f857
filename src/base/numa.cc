// SPDX-License-Identifier: Apache-2.0
#include "base/numa.h"

#include <algorithm>
#include <numeric>

#include "base/error.h"

namespace rill {
namespace {

size_t length(Range range) {
  return range.end - range.begin;
}

// `total` in parts proportional to `weights`: whole numbers, the largest remainders rounded up.
std::vector<size_t> divide(size_t total, const std::vector<size_t>& weights) {
  const size_t sum = std::accumulate(weights.begin(), weights.end(), size_t{0});
  std::vector<size_t> parts, order(weights.size());
  for (const size_t weight : weights) parts.push_back(total * weight / sum);
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    return total * weights[a] % sum > total * weights[b] % sum;
  });
  size_t left = total - std::accumulate(parts.begin(), parts.end(), size_t{0});
  for (size_t i = 0; left > 0; ++i, --left) ++parts[order[i]];
  return parts;
}

std::vector<size_t> cores_of(const Machine& machine) {
  std::vector<size_t> cores;
  for (const NumaNode& node : machine.nodes) cores.push_back(node.cores.size());
  return cores;
}

std::string joined(const std::vector<size_t>& counts) {
  std::string text;
  for (const size_t count : counts) text += (text.empty() ? "" : " + ") + std::to_string(count);
  return text;
}

std::vector<int> all_processors(const NumaNode& node) {
  std::vector<int> all;
  for (const std::vector<int>& core : node.cores) all.insert(all.end(), core.begin(), core.end());
  std::sort(all.begin(), all.end());
  return all;
}

}  // namespace

size_t Machine::cores() const {
  size_t count = 0;
  for (const NumaNode& node : nodes) count += node.cores.size();
  return count;
}

std::string Machine::describe() const {
  const std::string told =
      source == "none" ? "taken for one: neither hwloc nor /sys tells" : source;
  return std::to_string(nodes.size()) + (nodes.size() == 1 ? " NUMA node (" : " NUMA nodes (") +
         told + "), " + joined(cores_of(*this)) + (cores() == 1 ? " core" : " cores");
}

Machine part_of_machine(const Machine& machine, size_t index, size_t count) {
  Machine part{{}, machine.source};
  const size_t nodes = machine.nodes.size();
  if (count <= nodes) {
    const size_t begin = nodes * index / count, end = nodes * (index + 1) / count;
    for (size_t i = begin; i < end; ++i) part.nodes.push_back(machine.nodes[i]);
    return part;
  }
  // So many processes on each node as its cores deserve; each gets a run of them.
  const std::vector<size_t> here = divide(count, cores_of(machine));
  size_t node = 0;
  while (index >= here[node]) index -= here[node++];
  const NumaNode& whole = machine.nodes[node];
  const size_t cores = whole.cores.size();
  const size_t begin = cores * index / here[node];
  const size_t end = std::max(begin + 1, cores * (index + 1) / here[node]);
  NumaNode some{whole.id, {}};
  for (size_t i = begin; i < end; ++i) some.cores.push_back(whole.cores[i]);
  part.nodes.push_back(std::move(some));
  return part;
}

const char* to_string(NumaPolicy policy) {
  return policy == NumaPolicy::AUTO ? "auto" : policy == NumaPolicy::OFF ? "off" : "interleave";
}

NumaPolicy parse_numa_policy(const std::string& text, const std::string& option) {
  for (const NumaPolicy policy : {NumaPolicy::AUTO, NumaPolicy::OFF, NumaPolicy::INTERLEAVE})
    if (text == to_string(policy)) return policy;
  fail(option, " is '", text, "'; use auto, off or interleave");
}

Range Placement::threads_of(size_t node, size_t count) const {
  if (threads.empty()) return {0, count};
  Range range = {threads.size(), 0};
  for (size_t i = 0; i < threads.size(); ++i)
    if (threads[i].node == node) range = {std::min(range.begin, i), i + 1};
  return range;
}

std::string Placement::describe() const {
  if (policy == NumaPolicy::OFF) return "nothing placed (--numa off)";
  if (nodes.size() == 1 && !threads.empty())
    return std::to_string(threads.size()) + " threads on node " + std::to_string(nodes.front());
  if (nodes.size() < 2)
    return std::string("nothing to place (--numa ") + to_string(policy) + ", one node)";
  if (policy == NumaPolicy::INTERLEAVE)
    return "weights and KV over " + std::to_string(nodes.size()) + " nodes in turn";
  if (threads.empty()) return "nothing placed: OMP_PROC_BIND lets threads run on several nodes";
  std::vector<size_t> counts;
  for (size_t node = 0; node < nodes.size(); ++node)
    counts.push_back(length(threads_of(node, threads.size())));
  return "threads, weights and KV by node (" + joined(counts) + " threads)";
}

Placement place_threads(const Machine& machine, size_t threads, NumaPolicy policy, bool bind) {
  Placement placement;
  placement.policy = policy;
  if (policy == NumaPolicy::OFF || threads == 0 || machine.nodes.empty()) return placement;
  const bool interleaved = policy == NumaPolicy::INTERLEAVE;
  const std::vector<size_t> counts = divide(threads, cores_of(machine));
  for (size_t node = 0; node < machine.nodes.size(); ++node) {
    const NumaNode& here = machine.nodes[node];
    if (counts[node] == 0 && !interleaved) continue;
    placement.nodes.push_back(here.id);
    if (interleaved || (machine.nodes.size() == 1 && !bind)) continue;
    const size_t cores = here.cores.size();
    const std::vector<int> all = all_processors(here);
    for (size_t i = 0; i < counts[node]; ++i)
      placement.threads.push_back(
          {placement.nodes.size() - 1, counts[node] < cores ? all : here.cores[i % cores]});
  }
  return placement;
}

Placement placement_of(const Machine& machine, const std::vector<std::vector<int>>& bound) {
  Placement placement;
  placement.policy = NumaPolicy::AUTO;
  for (const NumaNode& node : machine.nodes) placement.nodes.push_back(node.id);
  const Placement nothing = placement;
  if (machine.nodes.size() < 2) return nothing;
  placement.nodes.clear();
  for (const std::vector<int>& processors : bound) {
    const auto home =
        std::find_if(machine.nodes.begin(), machine.nodes.end(), [&](const NumaNode& node) {
          const std::vector<int> all = all_processors(node);
          return !processors.empty() &&
                 std::includes(all.begin(), all.end(), processors.begin(), processors.end());
        });
    if (home == machine.nodes.end()) return nothing;
    if (placement.nodes.empty() || placement.nodes.back() != home->id) {
      const auto& seen = placement.nodes;
      if (std::find(seen.begin(), seen.end(), home->id) != seen.end()) return nothing;
      placement.nodes.push_back(home->id);
    }
    placement.threads.push_back({placement.nodes.size() - 1, {}});
  }
  return placement;
}

}  // namespace rill
