// SPDX-License-Identifier: Apache-2.0
#include "comm/communicator.h"

#include <algorithm>
#include <bit>
#include <cassert>
#include <chrono>

namespace rill {

// Counts the time that it lasts.
class Communicator::Time {
 public:
  explicit Time(Traffic& traffic) : traffic_(traffic) {}
  Time(const Time&) = delete;
  Time& operator=(const Time&) = delete;
  ~Time() { traffic_.seconds += std::chrono::duration<double>(Clock::now() - start_).count(); }

 private:
  using Clock = std::chrono::steady_clock;
  Traffic& traffic_;
  Clock::time_point start_ = Clock::now();
};

// Counts one call, its time, its messages and their bytes.
class Communicator::Count {
 public:
  Count(Traffic& traffic, uint64_t messages, uint64_t bytes) : time_(traffic) {
    ++traffic.calls;
    traffic.messages += messages;
    traffic.sent += bytes;
  }

 private:
  Time time_;
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
  finish(start(out, in));
}

Communicator::Ticket Communicator::take_ticket() {
  assert(free_ != 0);
  const auto ticket = static_cast<Ticket>(std::countr_zero(free_));
  free_ &= free_ - 1;
  return ticket;
}

Communicator::Ticket Communicator::start(std::span<const Outgoing> out,
                                         std::span<const Incoming> in) {
  uint64_t bytes = 0;
  for (const Outgoing& message : out) bytes += message.bytes.size();
  const Count count(traffic_, out.size(), bytes);
  const Ticket ticket = take_ticket();
  do_start(ticket, out, in);
  return ticket;
}

Communicator::Ticket Communicator::start_gather(std::byte* all, std::span<const size_t> counts) {
  out_.clear();
  in_.clear();
  const auto me = static_cast<size_t>(rank_);
  std::byte* own = all;
  for (size_t rank = 0; rank < me; ++rank) own += counts[rank];
  for (size_t rank = 0; rank < counts.size(); all += counts[rank], ++rank) {
    if (rank == me) continue;
    out_.push_back({static_cast<int>(rank), {own, counts[me]}});
    in_.push_back({static_cast<int>(rank), {all, counts[rank]}});
  }
  return start(out_, in_);
}

void Communicator::finish(Ticket ticket) {
  const Time time(traffic_);
  do_finish(ticket);
  free_ |= 1u << ticket;
}

void Communicator::progress() {
  if (!started()) return;
  const Time time(traffic_);
  do_progress();
}

}  // namespace rill
