// SPDX-License-Identifier: Apache-2.0
// Choosing a table of kernels. What a table holds is in table.h.
#pragma once
#include <functional>
#include <string>
#include <vector>

#include "kernels/table.h"

namespace rill {

/// Every table of this build, the most capable first.
const std::vector<const Kernels*>& all_kernels();

/// The best table that this processor runs, or the one that `name` asks for ("" or "auto": what
/// RILL_ISA says, else the best; "avx512bf16" is that only where its dot product pays). Throws
/// rill::Error for an unknown or unsupported name.
const Kernels& choose_kernels(const std::string& name = "");

/// What "auto" takes where `runs` says which tables do, and `bf16_dot_pays` whether the dot product
/// of "avx512bf16" does. The last table always runs.
const Kernels& best_kernels(const std::function<bool(const Kernels&)>& runs, bool bf16_dot_pays);

/// Whether VDPBF16PS gives the bits of its twin on this processor (checked once, at choice).
bool bf16_dot_matches();

/// Whether the processor has AMX's tiles for bf16 and int8 and the system lets this process use
/// them (asked for at the first call: to be made before there are other threads).
bool amx_allowed();

/// Whether TDPBF16PS gives the bits of its twin on this processor (checked once, at choice).
bool bf16_tiles_match();

/// Whether VDPBF16PS does at least as many operations a second as FMA on this processor (measured
/// once, at choice): else the table without it is faster, and has the same bits.
bool bf16_dot_pays();

/// Sets flush-to-zero, denormals-are-zero and round-to-nearest for a thread; restores on exit.
class FloatMode {
 public:
  FloatMode();
  ~FloatMode();
  FloatMode(const FloatMode&) = delete;
  FloatMode& operator=(const FloatMode&) = delete;

 private:
  unsigned saved_;
};

}  // namespace rill
