// SPDX-License-Identifier: Apache-2.0
#include "comm/launcher.h"

#include <cstdlib>

namespace rill {
namespace {

// Of Open MPI; of MPICH's Hydra, Intel MPI and srun's pmi2 (PMI_); of PMIx (srun --mpi=pmix).
constexpr const char* kSize[] = {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MPI_LOCALNRANKS"};
constexpr const char* kOthers[] = {"PMIX_RANK", "PMI_RANK", "PMI_FD"};

}  // namespace

int launched_ranks() {
  for (const char* name : kSize)
    if (const char* value = std::getenv(name)) return std::atoi(value);
  return 0;
}

bool under_launcher() {
  if (launched_ranks() > 0) return true;
  for (const char* name : kOthers)
    if (std::getenv(name)) return true;
  return false;
}

}  // namespace rill
