// SPDX-License-Identifier: Apache-2.0
// Latency and bandwidth of the communicator's verbs between the ranks of a job, and what its nodes
// compute and read at most: the constants of `rill plan`.
#pragma once
#include <string>
#include <vector>

#include "base/team.h"
#include "comm/communicator.h"
#include "engine/machine_constants.h"

namespace rill {

/// One size of message, sent by all ranks at once.
struct CommTiming {
  bool between_nodes;
  std::string verb;
  size_t bytes;      // that each rank gives
  double seconds;    // of one call
  double bandwidth;  // bytes/s given by all ranks of a node
};

struct CommBench {
  size_t ranks = 1, nodes = 1;
  std::vector<CommTiming> timings;  // none where there is nobody to talk to
  MachineConstants constants;       // links that could not be measured are assumed

  std::string table() const;
};

/// Called by all ranks, each with its team; takes a few seconds. `isa`: of the kernels. Ranks whose
/// hosts have the same name are on one node.
CommBench measure_comm(Communicator& world, Team& team, const std::string& isa);

}  // namespace rill
