// SPDX-License-Identifier: Apache-2.0
#include "base/topology.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <fstream>
#include <limits>
#include <sstream>
#include <thread>

namespace rill {
namespace {

// The cgroup folder of this process (v2 only; under v1 the limits are not looked for).
std::string cgroup_folder() {
  std::ifstream file("/proc/self/cgroup");
  for (std::string line; std::getline(file, line);)
    if (line.rfind("0::", 0) == 0) return "/sys/fs/cgroup" + line.substr(3);
  return "";
}

size_t read_number(const std::string& path) {
  std::ifstream file(path);
  size_t value = 0;
  return file >> value ? value : std::numeric_limits<size_t>::max();  // "max" or no such file
}

}  // namespace

int machine_cores() {
  return std::max(1, static_cast<int>(sysconf(_SC_NPROCESSORS_ONLN)));
}

int affinity_cores() {
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) return std::max(1, CPU_COUNT(&set));
  return static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
}

int available_cores() {
  int cores = affinity_cores();
  // Every ancestor's quota binds, so walk up to the root.
  for (std::string folder = cgroup_folder(); folder.size() >= 14;
       folder = folder.substr(0, folder.rfind('/'))) {
    std::ifstream file(folder + "/cpu.max");
    double quota = 0, period = 0;
    if (file >> quota >> period && period > 0)
      cores = std::min(cores, std::max(1, static_cast<int>((quota + period - 1) / period)));
  }
  return cores;
}

size_t available_memory() {
  size_t bytes = std::numeric_limits<size_t>::max();
  std::ifstream file("/proc/meminfo");
  for (std::string line; std::getline(file, line);) {
    std::istringstream fields(line);
    std::string name;
    size_t kib = 0;
    if (fields >> name >> kib && name == "MemAvailable:") bytes = kib * 1024;
  }
  for (std::string folder = cgroup_folder(); folder.size() >= 14;
       folder = folder.substr(0, folder.rfind('/'))) {
    const size_t most = read_number(folder + "/memory.max");
    const size_t used = read_number(folder + "/memory.current");
    if (most != std::numeric_limits<size_t>::max() && used != std::numeric_limits<size_t>::max())
      bytes = std::min(bytes, most > used ? most - used : 0);
  }
  return bytes;
}

size_t cache_bytes(int level) {
  const int name = level == 1   ? _SC_LEVEL1_DCACHE_SIZE
                   : level == 2 ? _SC_LEVEL2_CACHE_SIZE
                                : _SC_LEVEL3_CACHE_SIZE;
  const long bytes = sysconf(name);
  return bytes > 0 ? static_cast<size_t>(bytes) : 0;
}

std::string cpu_name() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);)
    if (line.rfind("model name", 0) == 0) return line.substr(line.find(':') + 2);
  return "unknown";
}

}  // namespace rill
