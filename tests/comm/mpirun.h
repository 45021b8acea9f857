// SPDX-License-Identifier: Apache-2.0
// Runs the programs of this build under mpirun.
#pragma once
#include <string>

#include "cli/process.h"

namespace rill {

// More ranks than cores, and as root where tests run so.
inline const std::string kMpirunSetup =
    "export PATH=\"" RILL_BIN_DIR
    ":$PATH\" OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 "
    "OMPI_MCA_rmaps_base_oversubscribe=1 OMPI_MCA_btl_base_warn_component_unused=0 "
    "OMP_NUM_THREADS=1\n";

inline Finished under_mpirun(int ranks, const std::string& command) {
  return run_shell(kMpirunSetup + "mpirun -n " + std::to_string(ranks) + " " + command);
}

}  // namespace rill
