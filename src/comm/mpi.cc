// SPDX-License-Identifier: Apache-2.0
// Ranks over MPI: the only file that knows it.
#include <mpi.h>

#include <algorithm>
#include <climits>
#include <cstdlib>
#include <exception>
#include <optional>
#include <vector>

#include "base/error.h"
#include "base/topology.h"
#include "comm/launcher.h"
#include "comm/meeting.h"

namespace rill {
namespace {

constexpr int kTag = 1;
// MPI counts in int; what is longer goes in pieces.
constexpr size_t kMostBytes = size_t{1} << 30;
// What is exchanged goes in pieces that transports over sockets send without asking the receiver
// first. Longer messages are agreed on fragment by fragment, and stand still while ranks compute
// (Open MPI 4.1 at 500 Mbit/s: a prompt waited a third of its time instead of a seventeenth).
constexpr size_t kPieceBytes = size_t{60} << 10;

int rank_in(MPI_Comm comm) {
  int rank = 0;
  MPI_Comm_rank(comm, &rank);
  return rank;
}

int size_of(MPI_Comm comm) {
  int size = 0;
  MPI_Comm_size(comm, &size);
  return size;
}

int ranks_on_machine(MPI_Comm comm) {
  MPI_Comm here;
  MPI_Comm_split_type(comm, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &here);
  const int size = size_of(here);
  MPI_Comm_free(&here);
  return size;
}

// Of the whole job, on this machine.
int all_ranks_here = 1;

// A window of MPI-3. The first part begins with the place where the ranks meet, and so the others
// have room for one.
class Window final : public SharedMemory {
 public:
  // Called by all ranks of `comm`; good() is false where MPI had no memory.
  Window(MPI_Comm comm, size_t bytes) : comm_(comm) {
    MPI_Info info;
    MPI_Info_create(&info);
    MPI_Info_set(info, "alloc_shared_noncontig", "true");  // pages of a rank near it
    MPI_Comm_set_errhandler(comm, MPI_ERRORS_RETURN);
    void* own = nullptr;
    const size_t size = sizeof(MeetingPlace) + bytes + kLine;
    good_ = MPI_Win_allocate_shared(static_cast<MPI_Aint>(size), 1, info, comm, &own, &window_) ==
            MPI_SUCCESS;
    MPI_Comm_set_errhandler(comm, MPI_ERRORS_ARE_FATAL);
    MPI_Info_free(&info);
    if (!good_) return;
    std::fill_n(static_cast<std::byte*>(own), size, std::byte{0});  // its rank touches it first
    for (int rank = 0; rank < size_of(comm); ++rank) {
      MPI_Aint length = 0;
      int unit = 0;
      void* base = nullptr;
      MPI_Win_shared_query(window_, rank, &length, &unit, &base);
      const auto address = reinterpret_cast<uintptr_t>(base);
      parts_.push_back(static_cast<std::byte*>(base) + (kLine - address % kLine) % kLine);
    }
    meeting_.emplace(*reinterpret_cast<MeetingPlace*>(parts_[0]),
                     static_cast<uint32_t>(parts_.size()), all_ranks_here > machine_cores());
    MPI_Barrier(comm);  // the zeros are there
  }
  // Freeing waits for the other ranks, and who is on the way out with an error must not.
  ~Window() override {
    if (good_ && std::uncaught_exceptions() == 0) MPI_Win_free(&window_);
  }
  bool good() const { return good_; }

  std::byte* part(int rank) const override {
    return parts_[static_cast<size_t>(rank)] + sizeof(MeetingPlace);
  }

  // What MPI took to send may have to leave before the others come.
  void meet() override {
    meeting_->wait([this] {
      int arrived = 0;
      MPI_Iprobe(MPI_ANY_SOURCE, kTag, comm_, &arrived, MPI_STATUS_IGNORE);
    });
  }

 private:
  static constexpr size_t kLine = 64;

  const MPI_Comm comm_;
  MPI_Win window_ = MPI_WIN_NULL;
  bool good_ = false;
  std::vector<std::byte*> parts_;  // [ranks]
  std::optional<Meeting> meeting_;
};

// MPI errors end the job (MPI_ERRORS_ARE_FATAL, the default), so no code is looked at.
class MpiCommunicator : public Communicator {
 public:
  explicit MpiCommunicator(MPI_Comm comm)
      : Communicator(rank_in(comm), size_of(comm)), comm_(comm), here_(ranks_on_machine(comm)) {}
  ~MpiCommunicator() override {
    if (comm_ != MPI_COMM_WORLD) MPI_Comm_free(&comm_);
  }

  int ranks_here() const override { return here_; }
  std::unique_ptr<Communicator> split(int colour) override {
    MPI_Comm part;
    MPI_Comm_split(comm_, colour, rank(), &part);
    return std::make_unique<MpiCommunicator>(part);
  }
  std::unique_ptr<SharedMemory> share_memory(size_t bytes) override {
    if (here_ < size()) return nullptr;
    auto window = std::make_unique<Window>(comm_, bytes);
    int good = window->good() ? 1 : 0;
    MPI_Allreduce(MPI_IN_PLACE, &good, 1, MPI_INT, MPI_MIN, comm_);
    if (!good) return nullptr;
    return window;
  }
  bool transport_sum(std::span<float> values) override {
    MPI_Allreduce(MPI_IN_PLACE, values.data(), static_cast<int>(values.size()), MPI_FLOAT, MPI_SUM,
                  comm_);
    return true;
  }
  [[noreturn]] void end_job(int status) override {
    MPI_Abort(MPI_COMM_WORLD, status);
    std::_Exit(status);  // MPI_Abort may return before it takes effect
  }

 private:
  void do_barrier() override { MPI_Barrier(comm_); }

  void do_broadcast(std::span<std::byte> bytes, int root) override {
    for (size_t done = 0; done < bytes.size(); done += kMostBytes)
      MPI_Bcast(bytes.data() + done, static_cast<int>(std::min(kMostBytes, bytes.size() - done)),
                MPI_BYTE, root, comm_);
  }

  void do_all_gather(std::byte* all, std::span<const size_t> counts) override {
    size_t total = 0;
    for (const size_t count : counts) total += count;
    if (total > kMostBytes) {
      for (size_t r = 0; r < counts.size(); all += counts[r], ++r)
        do_broadcast({all, counts[r]}, static_cast<int>(r));
      return;
    }
    counts_.assign(counts.begin(), counts.end());
    places_.resize(counts.size());
    for (size_t r = 1; r < counts.size(); ++r) places_[r] = places_[r - 1] + counts_[r - 1];
    MPI_Allgatherv(MPI_IN_PLACE, 0, MPI_DATATYPE_NULL, all, counts_.data(), places_.data(),
                   MPI_BYTE, comm_);
  }

  void do_start(Ticket ticket, std::span<const Outgoing> out,
                std::span<const Incoming> in) override {
    std::vector<MPI_Request>& requests = requests_[ticket];
    requests.clear();
    for (const Incoming& message : in)
      in_pieces(requests, message.bytes.size(), [&](size_t at, int count, MPI_Request* request) {
        MPI_Irecv(message.bytes.data() + at, count, MPI_BYTE, message.rank, kTag, comm_, request);
      });
    for (const Outgoing& message : out)
      in_pieces(requests, message.bytes.size(), [&](size_t at, int count, MPI_Request* request) {
        MPI_Isend(message.bytes.data() + at, count, MPI_BYTE, message.rank, kTag, comm_, request);
      });
  }
  void do_finish(Ticket ticket) override {
    std::vector<MPI_Request>& requests = requests_[ticket];
    MPI_Waitall(static_cast<int>(requests.size()), requests.data(), MPI_STATUSES_IGNORE);
    requests.clear();
  }
  // A test of any request moves the bytes of all. Open MPI looks at its sockets at every eighth
  // test only.
  void do_progress() override {
    constexpr int kTests = 16;
    for (std::vector<MPI_Request>& requests : requests_) {
      int done = requests.empty() ? 1 : 0;
      for (int test = 0; test < kTests && !done; ++test)
        MPI_Testall(static_cast<int>(requests.size()), requests.data(), &done, MPI_STATUSES_IGNORE);
    }
  }

  template <class Start>
  static void in_pieces(std::vector<MPI_Request>& requests, size_t bytes, const Start& start) {
    for (size_t at = 0; at < bytes; at += kPieceBytes) {
      requests.push_back(MPI_REQUEST_NULL);
      start(at, static_cast<int>(std::min(kPieceBytes, bytes - at)), &requests.back());
    }
  }

  MPI_Comm comm_;
  const int here_;
  std::vector<int> counts_, places_;
  std::vector<MPI_Request> requests_[kMostStarted];
};

// All ranks; MPI itself begins before it and ends with it.
class World {
 public:
  World() {
    int provided = 0;
    MPI_Init_thread(nullptr, nullptr, MPI_THREAD_FUNNELED, &provided);
    if (provided < MPI_THREAD_FUNNELED)
      fail("this MPI allows no threads (MPI_THREAD_FUNNELED) in its ranks; take one that does");
    all_ranks_here = ranks_on_machine(MPI_COMM_WORLD);
  }
  World(const World&) = delete;
  World& operator=(const World&) = delete;
  ~World() { MPI_Finalize(); }
};

class WorldCommunicator final : World, public MpiCommunicator {
 public:
  WorldCommunicator() : MpiCommunicator(MPI_COMM_WORLD) {}
};

}  // namespace

bool has_mpi() {
  return true;
}

std::unique_ptr<Communicator> join_ranks() {
  std::unique_ptr<Communicator> world;
  if (under_launcher())
    world = std::make_unique<WorldCommunicator>();
  else
    world = std::make_unique<SingleCommunicator>();
  check_launcher(world->size());
  return world;
}

}  // namespace rill
