// SPDX-License-Identifier: Apache-2.0
#include "base/team.h"

#include <omp.h>

#include <algorithm>
#include <cstdlib>
#include <exception>
#include <utility>

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

// Binds the calling thread for a region. OpenMP's own threads stay bound; the one that calls run()
// is the program's, and gets its mask back.
class Team::Bound {
 public:
  explicit Bound(const Team& team) {
    if (team.placement_.threads.empty()) return;
    const auto index = static_cast<size_t>(omp_get_thread_num());
    const std::vector<int>& wanted = team.placement_.threads[index].processors;
    if (wanted.empty()) return;
    std::vector<int> before = bound_processors();
    if (before != wanted && bind_to(wanted) && index == 0) before_ = std::move(before);
  }
  Bound(const Bound&) = delete;
  Bound& operator=(const Bound&) = delete;
  ~Bound() {
    if (!before_.empty()) bind_to(before_);
  }

 private:
  std::vector<int> before_;
};

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

void Team::place(Placement placement) {
  placement_ = std::move(placement);
  mates_.clear();
  for (size_t node = 0; node < placement_.parts(); ++node)
    mates_.push_back(placement_.threads_of(node, static_cast<size_t>(size_)));
}

std::vector<std::vector<int>> Team::bound_by_user() {
  if (omp_get_proc_bind() == omp_proc_bind_false) return {};
  std::vector<std::vector<int>> bound(static_cast<size_t>(size_));
  run([&](Worker& worker) { bound[static_cast<size_t>(worker.index())] = bound_processors(); });
  return bound;
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
      const Bound bound(*this);
      const int index = omp_get_thread_num();
      Worker worker(index, size_, *barrier_, remainders_.get());
      if (!placement_.threads.empty()) {
        const size_t node = placement_.threads[static_cast<size_t>(index)].node;
        worker.stand(node, mates_[node]);
      }
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
