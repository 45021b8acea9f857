// SPDX-License-Identifier: Apache-2.0
#include "interrupt.h"

namespace rill::apps {
namespace {

// A signal handler reaches nothing but what is static.
volatile std::sig_atomic_t interrupted = 0;

void remember(int) {
  interrupted = 1;
}

}  // namespace

Interrupt::Interrupt() {
  reset();
  struct sigaction action {};
  action.sa_handler = remember;
  sigemptyset(&action.sa_mask);
  action.sa_flags = 0;  // a read that waits is ended by it
  sigaction(SIGINT, &action, &former_);
}

Interrupt::~Interrupt() {
  sigaction(SIGINT, &former_, nullptr);
}

bool Interrupt::requested() const {
  return interrupted != 0;
}
bool Interrupt::requested(Communicator& world) const {
  if (world.size() == 1) return requested();
  return world.least(requested() ? 0 : 1) == 0;
}
void Interrupt::reset() {
  interrupted = 0;
}

}  // namespace rill::apps
