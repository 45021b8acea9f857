// SPDX-License-Identifier: Apache-2.0
#include "engine/rank_team.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "base/topology.h"

namespace rill {
namespace {

// Of the machine (since its last start) and of the processors that this rank may use. Equal for
// ranks that share them.
uint64_t name_of_processors() {
  std::string name;
  std::getline(std::ifstream("/proc/sys/kernel/random/boot_id"), name);
  for (const int processor : bound_processors()) name += " " + std::to_string(processor);
  return std::hash<std::string>()(name);
}

int divided(const Sharers& sharers, int wanted) {
  if (wanted > 0 || sharers.count == 1 || std::getenv("OMP_NUM_THREADS")) return wanted;
  return std::max(1, available_cores() / static_cast<int>(sharers.count));
}

Placement placement_for(Team& team, const Sharers& sharers, NumaPolicy policy) {
  if (policy == NumaPolicy::OFF) return {};
  const size_t threads = static_cast<size_t>(team.size());
  if (policy == NumaPolicy::AUTO) {
    const std::vector<std::vector<int>> bound = team.bound_by_user();
    if (!bound.empty()) return placement_of(read_whole_machine(), bound);
  }
  const Machine machine = read_machine();
  if (sharers.count == 1 || machine.nodes.size() == 1)
    return place_threads(machine, threads, policy);
  return place_threads(part_of_machine(machine, sharers.index, sharers.count), threads, policy,
                       true);
}

}  // namespace

Sharers sharers_of(Communicator& world) {
  const auto size = static_cast<size_t>(world.size()), rank = static_cast<size_t>(world.rank());
  std::vector<uint64_t> names(size);
  names[rank] = name_of_processors();
  const std::vector<size_t> bytes(size, sizeof(uint64_t));
  world.all_gather(std::as_writable_bytes(std::span(names)).data(), bytes);
  const auto same = [&](size_t ranks) {
    return static_cast<size_t>(
        std::count(names.begin(), names.begin() + static_cast<ptrdiff_t>(ranks), names[rank]));
  };
  return {same(rank), same(size)};
}

int threads_of_rank(Communicator& world, int wanted) {
  return divided(sharers_of(world), wanted);
}

Team make_team(Communicator& world, int wanted, NumaPolicy policy) {
  const Sharers sharers = sharers_of(world);
  Team team(divided(sharers, wanted));
  team.place(placement_for(team, sharers, policy));
  return team;
}

}  // namespace rill
