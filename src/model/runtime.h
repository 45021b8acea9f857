// SPDX-License-Identifier: Apache-2.0
// What a forward step runs on. Serial, SIMD and threaded are values in here, never other functions.
#pragma once
#include "base/team.h"
#include "kernels/kernels.h"

namespace rill {

struct Runtime {
  const Kernels& kernels;
  Team& team;
};

}  // namespace rill
