// SPDX-License-Identifier: Apache-2.0
// What a model needs of memory, known before any of it is allocated.
#pragma once
#include <cstddef>
#include <string>

#include "base/error.h"
#include "kernels/kernels.h"
#include "model/arithmetic.h"
#include "model/config.h"
#include "model/ranks.h"

namespace rill {

/// How large a session is.
struct SessionSize {
  size_t chunk = 512;  // most tokens of one step, over all sequences
  size_t context = 0;  // most tokens of one sequence
  size_t sequences = 1;
  size_t logits = 1;  // rows of logits wanted at once
};

/// Bytes of each part for one size.
struct MemoryPlan {
  SessionSize size;
  size_t weights = 0, kv_cache = 0, scratch = 0, logits = 0;
  size_t available = 0;        // what can still be allocated; counts weights already held
  size_t longest_context = 0;  // that fits `available` with this chunk and batch; 0: none

  size_t total() const { return weights + kv_cache + scratch + logits; }
  bool fits() const { return total() <= available; }
  /// Some lines, as `rill plan` prints them.
  std::string table() const;
};

/// What is planned for: a model on some threads of one rank.
struct PlanSubject {
  const ModelConfig& config;
  const Arithmetic& arithmetic;
  const Kernels& kernels;
  int threads;
  RankOf tp = {}, sp = {};
};

/// `available`: bytes for everything, weights included (available_memory() before loading).
MemoryPlan plan_memory(const PlanSubject& subject, const SessionSize& size, size_t available);

/// "1.4 GiB": for people.
std::string bytes_text(size_t bytes);

/// Thrown instead of allocating what does not fit. The message is one sentence; `table` is what
/// `rill plan` prints.
class DoesNotFit : public Error {
 public:
  DoesNotFit(const std::string& sentence, std::string table)
      : Error(sentence), table_(std::move(table)) {}
  const std::string& table() const { return table_; }

 private:
  std::string table_;
};

/// Throws DoesNotFit unless plan.fits().
void require_fit(const MemoryPlan& plan);

}  // namespace rill
