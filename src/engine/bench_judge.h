// SPDX-License-Identifier: Apache-2.0
// How near repetitions came to ceilings that change while they run.
#pragma once
#include <functional>
#include <vector>

#include "comm/communicator.h"
#include "kernels/ceilings.h"

namespace rill {

/// Of all ranks together, measured at the same time. Called by all.
Ceilings measure_together(CeilingProbe& probe, Communicator& ranks);

/// Ceilings that judge one repetition: the better of those measured right before and right after.
struct Judgement {
  Ceilings ceilings;
  /// Do the two bandwidths agree within 5 %? If not, the machine changed its speed meanwhile.
  bool settled = true;
};
Judgement judge(const Ceilings& before, const Ceilings& after);

/// How near each repetition came to its own ceilings.
struct Verdict {
  std::vector<double> percents;  // of all
  size_t settled = 0;
  double percent = 0;  // median over the settled ones; over all if there are none
  Ceilings ceilings;   // likewise
};

/// `seconds` and `judgements` of the repetitions; `ideal` gives the seconds that ceilings allow.
Verdict verdict_of(const std::vector<double>& seconds, const std::vector<Judgement>& judgements,
                   const std::function<double(const Ceilings&)>& ideal);

}  // namespace rill
