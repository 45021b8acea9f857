// SPDX-License-Identifier: Apache-2.0
// Where the time of forward steps goes.
#pragma once
#include <vector>

#include "base/phase_clock.h"
#include "base/team.h"

namespace rill {

/// The parts of a forward step, as `rill bench --profile` lists them.
enum class Operation : size_t {
  WAITING = PhaseClock::kWaiting,  // at barriers, for the start of the threads, for their end
  EMBEDDING,                       // rows of the embedding, and the angles of RoPE
  NORMS,                           // RMS norms, and conversion to the operands of linear layers
  QKV,
  HEADS,  // QK norm, RoPE, conversion of queries, storing of K and V
  ATTENTION,
  O,
  GATE_UP,
  DOWN,
  HEAD,
  REST,  // checks and planning, on one thread
};
constexpr size_t kOperations = 11;
static_assert(kOperations <= PhaseClock::kPhases);

/// Gathers times over forward steps; Transformer::set_profile hands it over.
class Profile {
 public:
  explicit Profile(int threads) : clocks_(static_cast<size_t>(threads)) {}

  /// Lasts as long as a step, on the thread that called for it, which is the team's first. Null:
  /// nothing is measured.
  class Step {
   public:
    explicit Step(Profile* profile) : profile_(profile) {
      if (profile_) profile_->start();
    }
    Step(const Step&) = delete;
    Step& operator=(const Step&) = delete;
    ~Step() {
      if (profile_) profile_->stop();
    }

   private:
    Profile* profile_;
  };

  /// A thread's clock, for its Worker; its phases are Operations.
  PhaseClock& clock(int thread) { return clocks_[static_cast<size_t>(thread)]; }

  size_t steps() const { return steps_; }
  /// Seconds between start and stop, over all steps.
  double total() const { return total_; }
  /// Seconds of an operation, the mean over the threads: all operations add up to total().
  double seconds(Operation operation) const {
    double sum = 0;
    for (const PhaseClock& clock : clocks_) sum += clock.spent(static_cast<size_t>(operation));
    return sum / static_cast<double>(clocks_.size());
  }

 private:
  void start() {
    started_ = PhaseClock::now();
    for (PhaseClock& clock : clocks_) clock.start(started_, PhaseClock::kWaiting);
    clocks_.front().start(started_, static_cast<size_t>(Operation::REST));
  }
  void stop() {
    const PhaseClock::Moment end = PhaseClock::now();
    for (PhaseClock& clock : clocks_) clock.stop(end);
    total_ += std::chrono::duration<double>(end - started_).count();
    ++steps_;
  }

  std::vector<PhaseClock> clocks_;
  PhaseClock::Moment started_;
  double total_ = 0;
  size_t steps_ = 0;
};

/// What a thread does from now on.
inline void begin(Worker& worker, Operation operation) {
  worker.enter(static_cast<size_t>(operation));
}

/// "waiting", "embedding", ... : as tables name it.
const char* to_string(Operation operation);

}  // namespace rill
