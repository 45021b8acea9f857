// SPDX-License-Identifier: Apache-2.0
#include "comm_profile.h"

#include <iomanip>
#include <span>
#include <sstream>
#include <vector>

namespace rill::apps {
namespace {

struct RankTraffic {
  Traffic tp, sp;
  double steps;
};

}  // namespace

std::string comm_profile(const Ranks& ranks) {
  Communicator& world = ranks.world();
  std::vector<RankTraffic> all(static_cast<size_t>(world.size()));
  all[static_cast<size_t>(world.rank())] = {ranks.tp().traffic(), ranks.sp().traffic(),
                                            world.traffic().steps};
  const std::vector<size_t> bytes(all.size(), sizeof(RankTraffic));
  world.all_gather(reinterpret_cast<std::byte*>(all.data()), bytes);

  std::ostringstream text;
  text << std::fixed << std::setprecision(3) << "rank  tp calls       bytes  seconds  sp calls"
       << "       bytes  seconds  share of the steps\n";
  for (size_t rank = 0; rank < all.size(); ++rank) {
    text << std::setw(4) << rank;
    for (const Traffic& traffic : {all[rank].tp, all[rank].sp})
      text << std::setw(10) << traffic.calls << std::setw(12) << traffic.sent << std::setw(9)
           << traffic.seconds;
    const double talking = all[rank].tp.seconds + all[rank].sp.seconds;
    text << std::setw(18) << std::setprecision(1)
         << (all[rank].steps > 0 ? 100 * talking / all[rank].steps : 0.0) << " %\n"
         << std::setprecision(3);
  }
  return text.str();
}

}  // namespace rill::apps
