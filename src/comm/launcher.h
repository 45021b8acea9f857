// SPDX-License-Identifier: Apache-2.0
// How a program learns that it is one of several ranks.
#pragma once
#include <memory>

#include "comm/communicator.h"

namespace rill {

/// Was this process started as a rank of MPI: by mpirun, mpiexec, or srun with a PMI plugin? Read
/// from the environment variables that these set.
bool under_launcher();
/// Ranks or tasks that the launcher says it started; 0 if it does not say.
int launched_ranks();
/// This process's number among them; 0 if the launcher does not say.
int launched_rank();
/// Throws Error if this process counts no rank but itself where a launcher started more: srun
/// without MPI, or the launcher of another MPI.
void check_launcher(int ranks);
/// Was this program built with MPI?
bool has_mpi();

/// All ranks of the job. Without a launcher a single process, which never touches MPI. Throws Error
/// as check_launcher does, and in a build without MPI for a launcher with several ranks. MPI ends
/// with the communicator; to be called once, by the main thread, which alone may use the result and
/// what is split from it.
std::unique_ptr<Communicator> join_ranks();

}  // namespace rill
