// SPDX-License-Identifier: Apache-2.0
// What this process may use of the machine: cores, memory, caches.
#pragma once
#include <cstddef>
#include <string>

namespace rill {

/// Cores left by the affinity mask and the cgroup's CPU quota (rounded up); at least 1.
int available_cores();

/// Cores of the affinity mask alone, and of the whole machine; at least 1.
int affinity_cores();
int machine_cores();

/// Bytes that can still be allocated: MemAvailable, or what the cgroup leaves if that is less.
size_t available_memory();

/// Bytes of one core's data cache at `level` (1 or 2), or of the last level (3); 0 if unknown.
size_t cache_bytes(int level);

/// The processor's name as the system gives it, for reports.
std::string cpu_name();

}  // namespace rill
