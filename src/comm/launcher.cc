// SPDX-License-Identifier: Apache-2.0
#include "comm/launcher.h"

#include <cstdlib>

#include "base/error.h"

namespace rill {
namespace {

// Set by Open MPI; by MPICH's Hydra, Intel MPI and srun --mpi=pmi2; by srun, whatever it speaks.
constexpr const char* kSize[] = {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS"};
constexpr const char* kNumber[] = {"OMPI_COMM_WORLD_RANK", "PMI_RANK", "SLURM_PROCID"};
// Who has one of these is a rank of MPI. Not so every task of srun, or the shell of salloc.
constexpr const char* kRank[] = {"OMPI_COMM_WORLD_SIZE", "PMIX_RANK", "PMI_RANK", "PMI_FD"};

template <size_t kNames>
int first_of(const char* const (&names)[kNames]) {
  for (const char* name : names)
    if (const char* value = std::getenv(name)) return std::atoi(value);
  return 0;
}

}  // namespace

int launched_ranks() {
  return first_of(kSize);
}

int launched_rank() {
  return first_of(kNumber);
}

bool under_launcher() {
  for (const char* name : kRank)
    if (std::getenv(name)) return true;
  return false;
}

void check_launcher(int ranks) {
  const int launched = launched_ranks();
  if (ranks > 1 || launched <= 1) return;
  if (!under_launcher())
    fail("srun started ", launched,
         " tasks of this program without MPI, which would all do the same; take srun --mpi=pmix or "
         "mpirun for ranks of one job, or srun --ntasks=1");
  fail("the launcher started ", launched,
       " ranks, but this program's MPI library sees only this one; start it with the mpirun of the "
       "MPI that it was built with, or with srun --mpi=pmix if that MPI knows PMIx");
}

}  // namespace rill
