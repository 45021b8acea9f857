// SPDX-License-Identifier: Apache-2.0
// Ranks that are threads of one process: the same verbs as over MPI, under a debugger and the
// sanitizers, and fast enough to try many shapes.
#pragma once
#include <condition_variable>
#include <cstring>
#include <deque>
#include <exception>
#include <functional>
#include <map>
#include <mutex>
#include <stdexcept>
#include <thread>
#include <tuple>
#include <vector>

#include "base/buffer.h"
#include "comm/communicator.h"

namespace rill {

class ThreadCommunicator final : public Communicator {
 public:
  /// What the ranks of one communicator share.
  struct Group {
    explicit Group(int ranks) : size(ranks), slots(static_cast<size_t>(ranks)) {}
    const int size;
    std::mutex mutex;
    std::condition_variable changed;
    int arrived = 0;
    unsigned generation = 0;
    bool shares_memory = true;
    bool lost = false;  // a rank has thrown: the others must not wait for it
    std::vector<void*> slots;
    // From, to, and which of the sender's exchanges.
    std::map<std::tuple<int, int, uint64_t>, std::deque<std::vector<std::byte>>> mail;
    std::map<int, std::shared_ptr<Group>> parts;  // of the split that is being made
    std::vector<std::shared_ptr<Group>> all_parts;

    void lose() {
      const std::lock_guard lock(mutex);
      lost = true;
      for (const auto& part : all_parts) part->lose();
      changed.notify_all();
    }
    template <class Done>
    void wait(std::unique_lock<std::mutex>& lock, const Done& done) {
      changed.wait(lock, [&] { return lost || done(); });
      if (lost) throw std::runtime_error("another rank has failed");
    }
    void meet() {
      std::unique_lock lock(mutex);
      const unsigned mine = generation;
      if (++arrived == size) {
        arrived = 0;
        ++generation;
        changed.notify_all();
      }
      wait(lock, [&] { return generation != mine; });
    }
  };

  ThreadCommunicator(int rank, std::shared_ptr<Group> group)
      : Communicator(rank, group->size), group_(std::move(group)) {}

  int ranks_here() const override { return group_->shares_memory ? size() : 1; }
  std::unique_ptr<Communicator> split(int colour) override {
    group_->slots[static_cast<size_t>(rank())] = &colour;
    group_->meet();
    int count = 0, place = 0;
    for (int r = 0; r < size(); ++r) {
      if (*static_cast<int*>(group_->slots[static_cast<size_t>(r)]) != colour) continue;
      place += r < rank() ? 1 : 0;
      ++count;
    }
    std::shared_ptr<Group> part;
    {
      const std::lock_guard lock(group_->mutex);
      std::shared_ptr<Group>& shared = group_->parts[colour];
      if (!shared) {
        shared = std::make_shared<Group>(count);
        shared->shares_memory = group_->shares_memory;
        group_->all_parts.push_back(shared);
      }
      part = shared;
    }
    group_->meet();
    if (rank() == 0) group_->parts.clear();
    group_->meet();
    return std::make_unique<ThreadCommunicator>(place, std::move(part));
  }
  std::unique_ptr<SharedMemory> share_memory(size_t bytes) override {
    if (!group_->shares_memory) return nullptr;
    auto memory = std::make_unique<Parts>(*this, bytes);
    group_->slots[static_cast<size_t>(rank())] = memory->own();
    group_->meet();
    for (void* part : group_->slots) memory->add(static_cast<std::byte*>(part));
    group_->meet();
    return memory;
  }
  [[noreturn]] void end_job(int) override { throw std::runtime_error("the job has ended"); }

 private:
  class Parts final : public SharedMemory {
   public:
    Parts(ThreadCommunicator& ranks, size_t bytes)
        : ranks_(ranks), own_(bytes, "the tests' shared memory") {}
    // Others may still read.
    ~Parts() override {
      try {
        ranks_.group_->meet();
      } catch (const std::runtime_error&) {
      }
    }
    std::byte* own() { return own_.data(); }
    void add(std::byte* part) { parts_.push_back(part); }
    std::byte* part(int rank) const override { return parts_[static_cast<size_t>(rank)]; }
    void meet() override { ranks_.group_->meet(); }

   private:
    ThreadCommunicator& ranks_;
    Buffer own_;
    std::vector<std::byte*> parts_;
  };

  void do_barrier() override { group_->meet(); }
  void do_broadcast(std::span<std::byte> bytes, int root) override {
    group_->slots[static_cast<size_t>(rank())] = bytes.data();
    group_->meet();
    if (rank() != root && !bytes.empty())
      std::memcpy(bytes.data(), group_->slots[static_cast<size_t>(root)], bytes.size());
    group_->meet();
  }
  void do_all_gather(std::byte* all, std::span<const size_t> counts) override {
    group_->slots[static_cast<size_t>(rank())] = all;
    group_->meet();
    size_t at = 0;
    for (int r = 0; r < size(); ++r) {
      const size_t count = counts[static_cast<size_t>(r)];
      const auto* from = static_cast<const std::byte*>(group_->slots[static_cast<size_t>(r)]);
      if (r != rank() && count > 0) std::memcpy(all + at, from + at, count);
      at += count;
    }
    group_->meet();
  }
  // Messages carry the number of their start, so that exchanges may end in any order. What is sent
  // is read when the exchange ends, as late as a transport may.
  void do_start(Ticket ticket, std::span<const Outgoing> out,
                std::span<const Incoming> in) override {
    const std::lock_guard lock(group_->mutex);
    Started& mine = started_[ticket];
    mine.number = starts_++;
    mine.out.assign(out.begin(), out.end());
    mine.in.assign(in.begin(), in.end());
  }
  void do_finish(Ticket ticket) override {
    Started& mine = started_[ticket];
    std::unique_lock lock(group_->mutex);
    for (const Outgoing& message : mine.out)
      group_->mail[{rank(), message.rank, mine.number}].emplace_back(message.bytes.begin(),
                                                                     message.bytes.end());
    group_->changed.notify_all();
    for (const Incoming& message : mine.in) {
      auto& box = group_->mail[{message.rank, rank(), mine.number}];
      group_->wait(lock, [&] { return !box.empty(); });
      if (box.front().size() != message.bytes.size())
        throw std::runtime_error("a message has another size than its receiver expects");
      if (!message.bytes.empty())
        std::memcpy(message.bytes.data(), box.front().data(), message.bytes.size());
      box.pop_front();
    }
  }

  struct Started {
    uint64_t number;
    std::vector<Outgoing> out;
    std::vector<Incoming> in;
  };

  std::shared_ptr<Group> group_;
  Started started_[kMostStarted];
  uint64_t starts_ = 0;
};

/// Runs `body` on `count` ranks and waits for all; what one throws first is thrown again.
/// `shares_memory`: as if on one machine.
inline void run_ranks(int count, const std::function<void(Communicator&)>& body,
                      bool shares_memory = true) {
  const auto group = std::make_shared<ThreadCommunicator::Group>(count);
  group->shares_memory = shares_memory;
  std::mutex mutex;
  std::exception_ptr error;
  std::vector<std::thread> threads;
  for (int rank = 0; rank < count; ++rank)
    threads.emplace_back([&, rank] {
      ThreadCommunicator world(rank, group);
      try {
        body(world);
      } catch (...) {
        {
          const std::lock_guard lock(mutex);
          if (!error) error = std::current_exception();
        }
        group->lose();
      }
    });
  for (std::thread& thread : threads) thread.join();
  if (error) std::rethrow_exception(error);
}

}  // namespace rill
