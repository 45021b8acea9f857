// SPDX-License-Identifier: Apache-2.0
#include "engine/bench_judge.h"

#include <algorithm>

#include "engine/bench_cost.h"
#include "engine/bench_values.h"

namespace rill {

Ceilings measure_together(CeilingProbe& probe, Communicator& ranks) {
  ranks.barrier();
  std::vector<Ceilings> all(static_cast<size_t>(ranks.size()));
  all[static_cast<size_t>(ranks.rank())] = probe.measure();
  const std::vector<size_t> bytes(all.size(), sizeof(Ceilings));
  ranks.all_gather(reinterpret_cast<std::byte*>(all.data()), bytes);
  Ceilings sum{};
  for (const Ceilings& one : all) sum.add(one);
  return sum;
}

Judgement judge(const Ceilings& before, const Ceilings& after) {
  constexpr double kMostChange = 0.05;
  Judgement judgement{before};
  judgement.ceilings.keep_best(after);
  judgement.settled = std::min(before.bandwidth, after.bandwidth) >=
                      (1 - kMostChange) * judgement.ceilings.bandwidth;
  return judgement;
}

Verdict verdict_of(const std::vector<double>& seconds, const std::vector<Judgement>& judgements,
                   const std::function<double(const Ceilings&)>& ideal) {
  Verdict verdict;
  std::vector<double> counted;
  std::vector<Ceilings> ceilings;
  for (const Judgement& judgement : judgements) verdict.settled += judgement.settled;
  for (size_t i = 0; i < seconds.size(); ++i) {
    verdict.percents.push_back(100 * ideal(judgements[i].ceilings) / seconds[i]);
    if (verdict.settled > 0 && !judgements[i].settled) continue;
    counted.push_back(verdict.percents.back());
    ceilings.push_back(judgements[i].ceilings);
  }
  verdict.percent = median(counted);
  verdict.ceilings = median_of(ceilings);
  return verdict;
}

}  // namespace rill
