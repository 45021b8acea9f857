// SPDX-License-Identifier: Apache-2.0
// How a program learns that it is one of several ranks.
#pragma once
#include <memory>

#include "comm/communicator.h"

namespace rill {

/// Was this process started by mpirun, mpiexec, or srun with a PMI plugin? Read from the
/// environment variables that these set.
bool under_launcher();
/// Ranks that the launcher says it started; 0 if it does not say.
int launched_ranks();

/// All ranks of the job. Without a launcher a single process, which never touches MPI. In a build
/// without MPI a launcher with several ranks is an Error. MPI ends with the communicator; to be
/// called once, by the main thread, which alone may use the result and what is split from it.
std::unique_ptr<Communicator> join_ranks();

}  // namespace rill
