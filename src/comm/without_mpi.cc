// SPDX-License-Identifier: Apache-2.0
// What a build without MPI (-DRILL_MPI=OFF) has in place of mpi.cc.
#include "base/error.h"
#include "comm/launcher.h"

namespace rill {

bool has_mpi() {
  return false;
}

std::unique_ptr<Communicator> join_ranks() {
  if (under_launcher() && launched_ranks() > 1)
    fail("this program was built without MPI, but a launcher started ", launched_ranks(),
         " ranks of it; build it with -DRILL_MPI=ON, or start it without mpirun or srun");
  check_launcher(1);
  return std::make_unique<SingleCommunicator>();
}

}  // namespace rill
