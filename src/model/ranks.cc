// SPDX-License-Identifier: Apache-2.0
#include "model/ranks.h"

#include "base/error.h"
#include "kernels/kernels.h"
#include "model/stripe_tree.h"

namespace rill {

std::string shapes_of(int ranks) {
  std::string text;
  for (int tp = 1; tp <= static_cast<int>(kLeaves); ++tp) {
    if (ranks % tp || ranks / tp > static_cast<int>(kStripes)) continue;
    text += (text.empty() ? "--tp " : ", --tp ") + std::to_string(tp) + " --sp " +
            std::to_string(ranks / tp);
  }
  return text;
}

namespace {

// What to do with so many ranks.
std::string advice(int ranks) {
  if (const std::string shapes = shapes_of(ranks); !shapes.empty()) return "take " + shapes;
  int fewer = ranks - 1;
  while (shapes_of(fewer).empty()) --fewer;
  return "no shape has that many (tp is 1 to 8, sp 1 to 64): start " + std::to_string(fewer) +
         " and take " + shapes_of(fewer);
}

void check(int ranks, int tp, int sp) {
  const bool known =
      tp >= 1 && sp >= 1 && tp <= static_cast<int>(kLeaves) && sp <= static_cast<int>(kStripes);
  if (known && tp * sp == ranks) return;
  const char* run = ranks == 1 ? " runs" : " run";
  const std::string start =
      ranks == 1 ? ", or put mpirun -n " + std::to_string(tp * sp) + " before the command" : "";
  if (known)
    fail("--tp ", tp, " --sp ", sp, " makes ", tp * sp, " ranks where ", ranks, run, "; ",
         advice(ranks), start);
  fail("--tp ", tp, " --sp ", sp, " is no shape, where ", ranks, run, "; ", advice(ranks));
}

}  // namespace

Ranks::Ranks(Communicator& world, int tp, int sp) : world_(&world) {
  check(world.size(), tp, sp);
  tp_ = world.split(world.rank() / tp);
  sp_ = world.split(world.rank() % tp);
}

const Ranks& Ranks::single() {
  static SingleCommunicator alone;
  static const Ranks ranks(alone, 1, 1);
  return ranks;
}

}  // namespace rill
