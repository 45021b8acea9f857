// SPDX-License-Identifier: Apache-2.0
#include "comm/communicator.h"

#include <algorithm>
#include <chrono>

namespace rill {

// Counts one call, its time, its messages and their bytes.
class Communicator::Count {
 public:
  Count(Traffic& traffic, uint64_t messages, uint64_t bytes) : traffic_(traffic) {
    ++traffic_.calls;
    traffic_.messages += messages;
    traffic_.sent += bytes;
  }
  Count(const Count&) = delete;
  Count& operator=(const Count&) = delete;
  ~Count() { traffic_.seconds += std::chrono::duration<double>(Clock::now() - start_).count(); }

 private:
  using Clock = std::chrono::steady_clock;
  Traffic& traffic_;
  Clock::time_point start_ = Clock::now();
};

void Communicator::barrier() {
  const Count count(traffic_, 0, 0);
  do_barrier();
}

void Communicator::broadcast(std::span<std::byte> bytes, int root) {
  const auto others = static_cast<uint64_t>(size_ - 1);
  const Count count(traffic_, rank_ == root ? others : 0,
                    rank_ == root ? bytes.size() * others : 0);
  do_broadcast(bytes, root);
}

void Communicator::all_gather(std::byte* all, std::span<const size_t> counts) {
  const auto others = static_cast<uint64_t>(size_ - 1);
  const Count count(traffic_, others, counts[static_cast<size_t>(rank_)] * others);
  do_all_gather(all, counts);
}

uint64_t Communicator::least(uint64_t value) {
  values_[static_cast<size_t>(rank_)] = value;
  all_gather(reinterpret_cast<std::byte*>(values_.data()), value_bytes_);
  return *std::min_element(values_.begin(), values_.end());
}

void Communicator::publish(SharedMemory& memory, uint64_t messages, uint64_t bytes) {
  const Count count(traffic_, messages, bytes);
  memory.meet();
}

void Communicator::exchange(std::span<const Outgoing> out, std::span<const Incoming> in) {
  uint64_t bytes = 0;
  for (const Outgoing& message : out) bytes += message.bytes.size();
  const Count count(traffic_, out.size(), bytes);
  do_exchange(out, in);
}

}  // namespace rill
