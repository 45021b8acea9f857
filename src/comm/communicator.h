// SPDX-License-Identifier: Apache-2.0
// What ranks (processes that share one model) tell each other: few verbs, bytes only.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

namespace rill {

/// A message to another rank, and the place for one from another rank.
struct Outgoing {
  int rank;
  std::span<const std::byte> bytes;
};
struct Incoming {
  int rank;
  std::span<std::byte> bytes;
};

/// What a communicator was used for so far.
struct Traffic {
  uint64_t calls = 0;
  uint64_t messages = 0;  // of exchange as named; of the others one to each receiver
  uint64_t sent = 0;      // bytes that this rank gave away, each receiver counted
  double seconds = 0;     // in the calls, waiting included
  double steps = 0;       // seconds of the forward steps that count_step() was told of
};

/// Memory of the ranks of one machine: a part of each, which all may read and write.
class SharedMemory {
 public:
  SharedMemory() = default;
  SharedMemory(const SharedMemory&) = delete;
  SharedMemory& operator=(const SharedMemory&) = delete;
  virtual ~SharedMemory() = default;
  /// Aligned to 64 bytes.
  virtual std::byte* part(int rank) const = 0;
  /// Returns when all ranks have called it; what they wrote before, all see.
  virtual void meet() = 0;
};

/// Some ranks, numbered from 0. Every verb but exchange is called by all of them, with arguments
/// that agree; on a rank by one thread at a time, always the same. A rank that is lost ends the
/// job, so nothing here reports errors.
class Communicator {
 public:
  Communicator(int rank, int size)
      : rank_(rank),
        size_(size),
        values_(static_cast<size_t>(size)),
        value_bytes_(static_cast<size_t>(size), sizeof(uint64_t)) {
    out_.reserve(static_cast<size_t>(size));
    in_.reserve(static_cast<size_t>(size));
  }
  Communicator(const Communicator&) = delete;
  Communicator& operator=(const Communicator&) = delete;
  virtual ~Communicator() = default;

  int rank() const { return rank_; }
  int size() const { return size_; }
  /// Ranks of this communicator on this rank's machine, itself included.
  virtual int ranks_here() const = 0;

  /// Returns when all ranks have called it.
  void barrier();
  /// `bytes` of `root` for everyone.
  void broadcast(std::span<std::byte> bytes, int root);
  /// Everyone's parts for everyone: counts[r] bytes of rank r, one after the other in `all`, where
  /// this rank's own part stands already.
  void all_gather(std::byte* all, std::span<const size_t> counts);
  /// The least of everyone's values.
  uint64_t least(uint64_t value);
  /// Messages between pairs of ranks. Those from one rank to another arrive in the order in which
  /// they were named, with the sizes that the receiver named; messages may be empty.
  void exchange(std::span<const Outgoing> out, std::span<const Incoming> in);
  /// Begins an exchange, or a gather as exchange: the rank computes while bytes travel, and calls
  /// progress() now and then, since not every transport moves them by itself. finish() returns when
  /// what was received may be read, and what was sent may be written. Ranks begin in the same order
  /// and may have kMostStarted at a time.
  static constexpr size_t kMostStarted = 4;
  using Ticket = size_t;
  Ticket start(std::span<const Outgoing> out, std::span<const Incoming> in);
  Ticket start_gather(std::byte* all, std::span<const size_t> counts);
  void finish(Ticket ticket);
  void progress();
  /// Has begun what is not finished.
  bool started() const { return free_ != kAllFree; }
  /// `bytes` for each rank, zero at first; null if the ranks are on several machines or one of them
  /// has no memory to share. To be destroyed by all ranks, in the same order.
  virtual std::unique_ptr<SharedMemory> share_memory(size_t /*bytes*/) { return nullptr; }
  /// Hands over what stands in shared memory: meet(), counted as `messages` of `bytes` together,
  /// which are what others go on to read of this rank's part.
  void publish(SharedMemory& memory, uint64_t messages, uint64_t bytes);
  /// values[i] = the sum of everyone's, in an order of the transport's choosing: not for results,
  /// but to compare with. False if there is none.
  virtual bool transport_sum(std::span<float> /*values*/) { return false; }
  /// The ranks that name the same colour, in the order of their numbers here.
  virtual std::unique_ptr<Communicator> split(int colour) = 0;
  /// Ends all ranks of the job, with this status, now.
  [[noreturn]] virtual void end_job(int status) = 0;

  const Traffic& traffic() const { return traffic_; }
  /// A forward step took so long, calls included. A process by itself does not count.
  void count_step(double seconds) {
    if (size_ > 1) traffic_.steps += seconds;
  }

 private:
  virtual void do_barrier() = 0;
  virtual void do_broadcast(std::span<std::byte> bytes, int root) = 0;
  virtual void do_all_gather(std::byte* all, std::span<const size_t> counts) = 0;
  // Started as `ticket`, less than kMostStarted.
  virtual void do_start(Ticket ticket, std::span<const Outgoing> out,
                        std::span<const Incoming> in) = 0;
  virtual void do_finish(Ticket ticket) = 0;
  virtual void do_progress() {}
  class Count;
  class Time;
  Ticket take_ticket();

  static constexpr unsigned kAllFree = (1u << kMostStarted) - 1;
  const int rank_, size_;
  unsigned free_ = kAllFree;  // tickets, a bit each
  std::vector<Outgoing> out_;
  std::vector<Incoming> in_;
  Traffic traffic_;
  std::vector<uint64_t> values_;     // [size]
  std::vector<size_t> value_bytes_;  // [size]
};

/// A process by itself: nothing to tell.
class SingleCommunicator final : public Communicator {
 public:
  SingleCommunicator() : Communicator(0, 1) {}
  int ranks_here() const override { return 1; }
  std::unique_ptr<Communicator> split(int) override {
    return std::make_unique<SingleCommunicator>();
  }
  [[noreturn]] void end_job(int status) override;

 private:
  void do_barrier() override {}
  void do_broadcast(std::span<std::byte>, int) override {}
  void do_all_gather(std::byte*, std::span<const size_t>) override {}
  void do_start(Ticket, std::span<const Outgoing>, std::span<const Incoming>) override {}
  void do_finish(Ticket) override {}
};

}  // namespace rill
