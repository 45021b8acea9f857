// SPDX-License-Identifier: Apache-2.0
// The threads of a rank: how many, and where.
#pragma once
#include "base/numa.h"
#include "base/team.h"
#include "comm/communicator.h"

namespace rill {

/// This rank among those on its machine that may use just the same processors: the launcher did not
/// bind them, so they divide these processors. Called by all ranks.
struct Sharers {
  size_t index = 0, count = 1;
};
Sharers sharers_of(Communicator& world);

/// Threads of this rank: `wanted`, $OMP_NUM_THREADS (then 0 is returned, as Team takes it), or all
/// cores left to it. Where nothing says how many, ranks that may use the same cores divide them.
/// Called by all ranks.
int threads_of_rank(Communicator& world, int wanted);

/// A team of so many threads (as threads_of_rank takes them), placed as `policy` says. Bound
/// threads stay where the user (OMP_PROC_BIND) or the launcher bound them. Called by all ranks.
Team make_team(Communicator& world, int wanted, NumaPolicy policy);

}  // namespace rill
