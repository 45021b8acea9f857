// SPDX-License-Identifier: Apache-2.0
// Ctrl-C as a question that the program asks, instead of its end.
#pragma once
#include <csignal>

#include "comm/communicator.h"

namespace rill::apps {

/// While one lives, SIGINT is remembered instead of ending the process.
class Interrupt {
 public:
  Interrupt();
  ~Interrupt();
  Interrupt(const Interrupt&) = delete;
  Interrupt& operator=(const Interrupt&) = delete;

  /// Was there a SIGINT since the last reset?
  bool requested() const;
  /// On any rank? All ranks ask together, so that all stop at the same place.
  bool requested(Communicator& world) const;
  void reset();

 private:
  struct sigaction former_;
};

}  // namespace rill::apps
