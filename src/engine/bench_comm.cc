// SPDX-License-Identifier: Apache-2.0
#include "engine/bench_comm.h"

#include <unistd.h>

#include <algorithm>
#include <bit>
#include <chrono>
#include <filesystem>
#include <string_view>

#include "base/topology.h"
#include "engine/bench_table.h"
#include "model/arena.h"
#include "model/config.h"
#include "model/ranks.h"
#include "model/tensor_ranks.h"

namespace rill {
namespace {

constexpr size_t kSmall = 8, kLarge = size_t{2} << 20;
constexpr size_t kSizes[] = {kSmall, 1024, 32768, size_t{512} << 10, kLarge};

template <class T>
std::vector<T> gather_values(Communicator& ranks, T mine) {
  std::vector<T> all(static_cast<size_t>(ranks.size()));
  all[static_cast<size_t>(ranks.rank())] = mine;
  const std::vector<size_t> bytes(all.size(), sizeof(T));
  ranks.all_gather(reinterpret_cast<std::byte*>(all.data()), bytes);
  return all;
}

double slowest(Communicator& ranks, double mine) {
  const std::vector<double> all = gather_values(ranks, mine);
  return *std::max_element(all.begin(), all.end());
}

// FNV-1a of the host's name.
uint64_t host_hash() {
  char name[256] = {};
  ::gethostname(name, sizeof name - 1);
  uint64_t hash = 0xcbf29ce484222325u;
  for (const char c : std::string_view(name))
    hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  return hash;
}

size_t numa_nodes() {
  size_t nodes = 0;
  while (std::filesystem::exists("/sys/devices/system/node/node" + std::to_string(nodes))) ++nodes;
  return std::max<size_t>(1, nodes);
}

// Seconds of one call: the best of some rounds of as many as take little time, of the slowest rank.
template <class Call>
double time_of(Communicator& world, const Call& call) {
  constexpr size_t kRounds = 5;
  constexpr double kRoundSeconds = 0.01, kMostCalls = 1000;
  const auto round = [&](size_t times) {
    using Clock = std::chrono::steady_clock;
    world.barrier();
    const auto start = Clock::now();
    for (size_t i = 0; i < times; ++i) call();
    const std::chrono::duration<double> took = Clock::now() - start;
    return slowest(world, took.count() / static_cast<double>(times));
  };
  double best = round(1);
  best = std::min(best, round(3));
  const auto times = static_cast<size_t>(std::clamp(kRoundSeconds / best, 1.0, kMostCalls));
  for (size_t i = 0; i < kRounds; ++i) best = std::min(best, round(times));
  return best;
}

// The verbs among the ranks of one group; all groups do the same at once.
class GroupBench {
 public:
  GroupBench(Communicator& world, Communicator& group, bool between_nodes, size_t ranks_of_node)
      : world_(world),
        group_(group),
        between_nodes_(between_nodes),
        ranks_of_node_(static_cast<double>(ranks_of_node)),
        others_(static_cast<size_t>(slowest(world, group.size() - 1))),  // of the largest group
        memory_((others_ + 1) * kLarge),
        counts_(static_cast<size_t>(group.size())) {}

  bool alone() const { return others_ == 0; }

  LinkConstants run(std::vector<CommTiming>& timings) {
    LinkConstants link;
    const double rounds = static_cast<double>(std::bit_width(others_));
    const auto [gather_latency, gather_bandwidth] = measure(true, timings);
    const auto [exchange_latency, exchange_bandwidth] = measure(false, timings);
    constexpr size_t kMessages = 16;
    const double many = time_of(world_, [&] { swap(kSmall, kMessages); });
    const double message = std::max(0.0, many - exchange_latency) / (kMessages - 1);
    return {gather_latency / rounds, exchange_latency, message, gather_bandwidth,
            exchange_bandwidth};
  }

 private:
  struct Line {
    double latency, bandwidth;
  };
  // The straight line through the shortest and the longest message.
  Line measure(bool gathers, std::vector<CommTiming>& timings) {
    Line line{};
    for (const size_t bytes : kSizes) {
      const double seconds = time_of(world_, [&] { gathers ? gather(bytes) : swap(bytes, 1); });
      const double sent = static_cast<double>(bytes * (gathers ? others_ : 1)) * ranks_of_node_;
      timings.push_back(
          {between_nodes_, gathers ? "all_gather" : "exchange", bytes, seconds, sent / seconds});
      if (bytes == kSmall) line.latency = seconds;
      if (bytes == kLarge) line.bandwidth = sent / std::max(1e-9, seconds - line.latency);
    }
    return line;
  }
  void gather(size_t bytes) {
    std::fill(counts_.begin(), counts_.end(), bytes);
    group_.all_gather(memory_.data(), counts_);
  }
  // Pairs of neighbours; the last of an odd number of ranks has nobody.
  void swap(size_t bytes, size_t messages) {
    const int other = group_.rank() ^ 1;
    if (other >= group_.size()) return;
    out_.clear();
    in_.clear();
    for (size_t i = 0; i < messages; ++i) {
      out_.push_back({other, std::span(memory_).subspan(i * bytes, bytes)});
      in_.push_back({other, std::span(memory_).subspan(kLarge + i * bytes, bytes)});
    }
    group_.exchange(out_, in_);
  }

  Communicator &world_, &group_;
  const bool between_nodes_;
  const double ranks_of_node_;
  const size_t others_;
  std::vector<std::byte> memory_;
  std::vector<size_t> counts_;
  std::vector<Outgoing> out_;
  std::vector<Incoming> in_;
};

// What tensor-parallel ranks do after a product that they have cut along k, beside the transport's
// own sum of as many numbers: of one row of Qwen3-0.6B, and of a step of its prompt. For nodes
// whose ranks can be one tensor-parallel group.
void measure_sums(Communicator& world, Communicator& node, Team& team,
                  std::vector<CommTiming>& timings) {
  const double most = slowest(world, node.size()), least = -slowest(world, -node.size());
  if (least < 2 || most > static_cast<double>(kLeaves)) return;
  const ModelConfig config = published_model("qwen3-0.6b").config();
  const size_t width = config.hidden_size;
  const Ranks ranks(node, node.size(), 1);
  for (const size_t rows : {size_t{1}, size_t{512}}) {
    const auto tensor = TensorRanks::make(config, ranks, rows);
    std::vector<float> x(rows * row_stride(width)), values(rows * width);
    const ResidualSum to = {x.data(), row_stride(width), nullptr, rows};
    const auto add = [&] {
      team.run([&](Worker& worker) {
        tensor->start_roots(worker, Cut::O, to);
        tensor->add_roots(worker, Cut::O, to);
      });
    };
    const size_t bytes = values.size() * sizeof(float);
    const auto keep = [&](const char* verb, double seconds) {
      timings.push_back({false, verb, bytes, seconds,
                         static_cast<double>(bytes) * static_cast<double>(node.size()) / seconds});
    };
    keep("sum in the tree", time_of(world, add));
    if (!node.transport_sum(values)) continue;
    keep("MPI_Allreduce", time_of(world, [&] { node.transport_sum(values); }));
  }
}

// Of all ranks of this rank's node, measured at the same time.
Ceilings node_ceilings(Communicator& world, Communicator& node, Team& team) {
  constexpr size_t kPart = 8;  // of the free memory: what all ranks read in, together
  const size_t share = available_memory() / kPart / static_cast<size_t>(node.size());
  world.barrier();
  const std::vector<Ceilings> all = gather_values(node, measure_ceilings(team, share));
  Ceilings sum;
  for (const Ceilings& one : all) sum.add(one);
  return sum;
}

std::string size_text(size_t bytes) {
  if (bytes >= size_t{1} << 20) return std::to_string(bytes >> 20) + " MiB";
  return bytes >= 1024 ? std::to_string(bytes >> 10) + " KiB" : std::to_string(bytes) + " B";
}

}  // namespace

CommBench measure_comm(Communicator& world, Team& team, const std::string& isa) {
  const std::vector<uint64_t> hosts = gather_values(world, host_hash());
  const uint64_t mine = hosts[static_cast<size_t>(world.rank())];
  const auto first = std::find(hosts.begin(), hosts.end(), mine) - hosts.begin();
  const auto node = world.split(static_cast<int>(first));
  const auto across = world.split(node->rank());  // a rank of every node

  CommBench bench;
  bench.ranks = hosts.size();
  bench.nodes = static_cast<size_t>(slowest(world, across->size()));
  MachineConstants& c = bench.constants = default_constants();
  c.name = std::to_string(bench.ranks) + (bench.ranks == 1 ? " rank of " : " ranks of ") +
           std::to_string(team.size()) + (team.size() == 1 ? " thread" : " threads") + " on " +
           std::to_string(bench.nodes) + " x " + cpu_name();
  c.isa = isa;
  c.numa_nodes = numa_nodes();
  c.node = node_ceilings(world, *node, team);
  const auto size = static_cast<size_t>(node->size());
  GroupBench near(world, *node, false, size), far(world, *across, true, size);
  if (!near.alone()) c.here = near.run(bench.timings);
  measure_sums(world, *node, team, bench.timings);
  if (!far.alone()) c.there = far.run(bench.timings);
  return bench;
}

std::string CommBench::table() const {
  std::vector<std::vector<std::string>> cells = {
      {"between", "verb", "bytes of a rank", "µs a call", "GB/s of a node"}};
  for (const CommTiming& t : timings)
    cells.push_back({t.between_nodes ? "nodes" : "ranks of a node", t.verb, size_text(t.bytes),
                     fixed(1e6 * t.seconds), fixed(t.bandwidth / 1e9)});
  std::string text = constants.name + "; node: read " + fixed(constants.node.bandwidth / 1e9) +
                     " GB/s, fma " + fixed(constants.node.fma / 1e9, 0) + ", vdpbf16ps " +
                     fixed(constants.node.vdpbf16ps / 1e9, 0) + ", vnni " +
                     fixed(constants.node.vnni / 1e9, 0) + " Gop/s\n";
  if (timings.empty()) return text + "One rank has nobody to talk to; start several with mpirun.\n";
  return text + "\n" + markdown_table(cells, 2);
}

}  // namespace rill
