// SPDX-License-Identifier: Apache-2.0
// What a forward step runs on. Serial, SIMD, threaded and distributed are values in here, never
// other functions.
#pragma once
#include "base/team.h"
#include "kernels/kernels.h"
#include "model/ranks.h"

namespace rill {

struct Runtime {
  const Kernels& kernels;
  Team& team;
  const Ranks& ranks = Ranks::single();
};

}  // namespace rill
