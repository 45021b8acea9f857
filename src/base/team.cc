// SPDX-License-Identifier: Apache-2.0
#include "base/team.h"

#include <omp.h>

#include <algorithm>
#include <cstdlib>
#include <exception>

#include "base/error.h"
#include "base/topology.h"

namespace rill {

bool Barrier::arrive(unsigned generation) {
  if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 < count_) return false;
  arrived_.store(0, std::memory_order_relaxed);
  generation_.store(generation + 1, std::memory_order_release);
  generation_.notify_all();
  return true;
}

void Barrier::park(unsigned generation) {
  while (generation_.load(std::memory_order_acquire) == generation)
    generation_.wait(generation, std::memory_order_acquire);
}

Range Worker::share(size_t n, size_t unit) const {
  const size_t units = (n + unit - 1) / unit, count = static_cast<size_t>(count_);
  const size_t index = static_cast<size_t>(index_);
  return {std::min(n, units * index / count * unit),
          std::min(n, units * (index + 1) / count * unit)};
}

Team::Team(int threads) {
  constexpr int kMostThreads = 1024;
  if (threads < 0 || threads > kMostThreads)
    fail("--threads is ", threads, "; use 1 to ", kMostThreads, ", or 0 for all cores");
  if (threads == 0)
    threads = std::getenv("OMP_NUM_THREADS") ? omp_get_max_threads() : available_cores();
  threads = std::min(threads, omp_get_thread_limit());
  omp_set_dynamic(0);
  size_ = std::min(threads, kMostThreads);
  barrier_ = std::make_unique<Barrier>(size_);
  remainders_ = std::make_unique<Remainder[]>(static_cast<size_t>(size_));
}

void Team::run(const std::function<void(Worker&)>& body) {
  std::exception_ptr error;
  std::atomic<bool> failed{false};
#pragma omp parallel num_threads(size_)
  {
    // Fewer threads than asked for would leave the others waiting at a barrier for ever.
    if (omp_get_num_threads() != size_) {
      if (omp_get_thread_num() == 0) failed.store(true);
    } else {
      Worker worker(omp_get_thread_num(), size_, *barrier_, remainders_.get());
      try {
        body(worker);
      } catch (...) {
        if (!failed.exchange(true)) error = std::current_exception();
      }
    }
  }
  if (error) std::rethrow_exception(error);
  if (failed.load())
    fail("OpenMP started fewer threads than the ", size_,
         " asked for; lower --threads or raise OMP_THREAD_LIMIT");
}

}  // namespace rill
