// SPDX-License-Identifier: Apache-2.0
// Placement on machines that are not here, and pages where there are several memories.
#include "base/numa.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <numeric>
#include <set>

#include "base/buffer.h"
#include "base/error.h"
#include "base/numa_support.h"
#include "base/team.h"

namespace rill::test {
namespace {

// Nodes of so many cores, `processors` hardware threads each, numbered through.
Machine machine_of(const std::vector<int>& cores, int processors = 1) {
  Machine machine{{}, "test"};
  int next = 0;
  for (size_t i = 0; i < cores.size(); ++i) {
    NumaNode node{static_cast<int>(i), {}};
    for (int core = 0; core < cores[i]; ++core) {
      node.cores.emplace_back(processors);
      std::iota(node.cores.back().begin(), node.cores.back().end(), next);
      next += processors;
    }
    machine.nodes.push_back(std::move(node));
  }
  return machine;
}

TEST(Placement, OneNodeNeedsNone) {
  const Placement placement = place_threads(machine_of({8}), 8, NumaPolicy::AUTO);
  EXPECT_TRUE(placement.threads.empty());
  EXPECT_EQ(placement.parts(), 1u);
  EXPECT_EQ(placement.describe(), "nothing to place (--numa auto, one node)");
}

TEST(Placement, ThreadsThatFillTheirNodesAreBoundToCores) {
  const Machine machine = machine_of({26, 26}, 2);
  const Placement placement = place_threads(machine, 52, NumaPolicy::AUTO);
  check_placement(machine, placement, 52);
  for (size_t i = 0; i < 52; ++i)
    EXPECT_EQ(placement.threads[i].processors,
              (std::vector<int>{static_cast<int>(2 * i), static_cast<int>(2 * i + 1)}));
  EXPECT_EQ(placement.describe(), "threads, weights and KV by node (26 + 26 threads)");
}

TEST(Placement, FewThreadsMayRunAnywhereOnTheirNode) {
  const Machine machine = machine_of({4, 4});
  const Placement placement = place_threads(machine, 5, NumaPolicy::AUTO);
  check_placement(machine, placement, 5);
  EXPECT_EQ(threads_by_node(placement), (std::vector<size_t>{3, 2}));
  EXPECT_EQ(placement.threads.front().processors, (std::vector<int>{0, 1, 2, 3}));
  EXPECT_EQ(placement.threads.back().processors, (std::vector<int>{4, 5, 6, 7}));
}

TEST(Placement, ManyThreadsShareCoresEvenly) {
  const Machine machine = machine_of({2, 2});
  const Placement placement = place_threads(machine, 10, NumaPolicy::AUTO);
  check_placement(machine, placement, 10);
  std::vector<int> on(4);
  for (const Placement::Thread& thread : placement.threads) ++on[thread.processors.at(0)];
  EXPECT_EQ(on, (std::vector<int>{3, 2, 3, 2}));
}

TEST(Placement, ThreadsGoToNodesInProportionToCores) {
  const std::vector<std::vector<int>> machines = {{1, 1},
                                                  {26, 26},
                                                  {8, 4},
                                                  {3, 7},
                                                  {12, 12, 12, 12},
                                                  {6, 8, 1, 13},
                                                  {8, 8, 8, 8, 8, 8, 8, 8},
                                                  {1, 2, 3, 4, 5, 6, 7, 8}};
  for (const std::vector<int>& cores : machines) {
    const Machine machine = machine_of(cores);
    const double all_cores = std::accumulate(cores.begin(), cores.end(), 0);
    for (size_t threads = 1; threads <= 2 * machine.cores(); ++threads) {
      const Placement placement = place_threads(machine, threads, NumaPolicy::AUTO);
      check_placement(machine, placement, threads);
      const std::vector<size_t> counts = threads_by_node(placement);
      for (size_t node = 0; node < counts.size(); ++node) {
        const double fair = static_cast<double>(threads) *
                            cores[static_cast<size_t>(placement.nodes[node])] / all_cores;
        EXPECT_LT(std::abs(static_cast<double>(counts[node]) - fair), 1)
            << threads << " threads, node " << node;
      }
      if (threads == machine.cores()) {
        EXPECT_EQ(counts, cores_by_node(machine));
      }
    }
  }
}

TEST(Placement, PoliciesThatBindNothing) {
  const Machine machine = machine_of({4, 4});
  const Placement off = place_threads(machine, 8, NumaPolicy::OFF);
  EXPECT_TRUE(off.nodes.empty() && off.threads.empty());
  const Placement turns = place_threads(machine, 1, NumaPolicy::INTERLEAVE);
  EXPECT_EQ(turns.nodes, (std::vector<int>{0, 1}));
  EXPECT_TRUE(turns.threads.empty());
  EXPECT_EQ(turns.parts(), 1u);
  for (const NumaPolicy policy : {NumaPolicy::AUTO, NumaPolicy::OFF, NumaPolicy::INTERLEAVE})
    EXPECT_EQ(parse_numa_policy(to_string(policy), "--numa"), policy);
  EXPECT_THROW(parse_numa_policy("on", "--numa"), Error);
}

TEST(Placement, OfThreadsThatTheUserBound) {
  const Machine machine = machine_of({2, 2});
  const Placement placement = placement_of(machine, {{0}, {0, 1}, {2}, {3}});
  EXPECT_EQ(threads_by_node(placement), (std::vector<size_t>{2, 2}));
  EXPECT_TRUE(placement.threads.front().processors.empty());
  EXPECT_TRUE(placement_of(machine, {{0}, {2}, {1}, {3}}).threads.empty()) << "not one after other";
  EXPECT_TRUE(placement_of(machine, {{0, 1, 2, 3}}).threads.empty()) << "on several nodes";
}

TEST(MachineParts, AreWholeNodesOrCoresOfOne) {
  const std::vector<std::vector<int>> machines = {{4}, {26, 26}, {3, 5}, {4, 4, 4, 4}, {1, 6, 2}};
  for (const std::vector<int>& cores : machines) {
    const Machine machine = machine_of(cores);
    for (size_t count = 1; count <= machine.cores(); ++count) {
      std::multiset<int> used;
      for (size_t i = 0; i < count; ++i) {
        const Machine part = part_of_machine(machine, i, count);
        ASSERT_FALSE(part.nodes.empty());
        if (count > machine.nodes.size()) {
          EXPECT_EQ(part.nodes.size(), 1u);
        }
        for (const NumaNode& node : part.nodes)
          for (const std::vector<int>& core : node.cores) used.insert(core.front());
        ASSERT_GT(part.cores(), 0u);
      }
      EXPECT_EQ(std::set<int>(used.begin(), used.end()).size(), used.size()) << "cores of several";
      // A node that deserves less than half a process may go without.
      const int fewest = *std::min_element(cores.begin(), cores.end());
      if (count <= cores.size() || count * static_cast<size_t>(fewest) >= machine.cores()) {
        EXPECT_EQ(used.size(), machine.cores()) << count << " processes";
      }
    }
    // More processes than cores: each still has one.
    for (size_t i = 0; i < 3 * machine.cores(); ++i)
      EXPECT_GT(part_of_machine(machine, i, 3 * machine.cores()).cores(), 0u);
  }
}

TEST(MachineParts, AreBoundToTheirNode) {
  const Machine part = part_of_machine(machine_of({4, 4}), 1, 2);
  const Placement placement = place_threads(part, 4, NumaPolicy::AUTO, true);
  EXPECT_EQ(placement.nodes, std::vector<int>{1});
  EXPECT_EQ(placement.threads.back().processors, std::vector<int>{7});
  EXPECT_EQ(placement.describe(), "4 threads on node 1");
}

TEST(Sys, TellsTheSameAsTheFiles) {
  const std::filesystem::path root = std::filesystem::path(testing::TempDir()) / "rill_numa_sys";
  const auto write = [&](const std::string& path, const std::string& text) {
    std::filesystem::create_directories((root / path).parent_path());
    std::ofstream(root / path) << text << "\n";
  };
  write("node/online", "0,2-3");
  write("node/node0/cpulist", "0-1,4-5");
  write("node/node2/cpulist", "2-3,6-7");
  write("node/node3/cpulist", "");  // a memory without cores
  for (const int p : {0, 1, 2, 3})
    for (const int of : {p, p + 4})
      write("cpu/cpu" + std::to_string(of) + "/topology/thread_siblings_list",
            std::to_string(p) + "," + std::to_string(p + 4));
  const Machine machine = machine_of_sys(root, [](int p) { return p != 3; });
  ASSERT_EQ(machine.nodes.size(), 2u);
  EXPECT_EQ(machine.nodes[1].id, 2);
  EXPECT_EQ(machine.nodes[0].cores, (std::vector<std::vector<int>>{{0, 4}, {1, 5}}));
  EXPECT_EQ(machine.nodes[1].cores, (std::vector<std::vector<int>>{{2, 6}, {7}}));
  EXPECT_EQ(machine.describe(), "2 NUMA nodes (/sys), 2 + 2 cores");
  std::filesystem::remove_all(root);
}

TEST(Machine, HasOnlyWhatTheAffinityMaskLeaves) {
  const std::vector<int> before = bound_processors();
  ASSERT_FALSE(before.empty());
  ASSERT_TRUE(bind_to({before.back()}));
  const Machine machine = read_machine();
  ASSERT_TRUE(bind_to(before));
  ASSERT_EQ(machine.nodes.size(), 1u);
  EXPECT_EQ(machine.nodes.front().cores, (std::vector<std::vector<int>>{{before.back()}}));
}

// A team on this machine's processors as if each stood by a memory of its own.
TEST(PlacedTeam, RunsWhereItIsPlacedAndFreesItsCaller) {
  const std::vector<int> mine = bound_processors();
  // Of one processor both memories have that one.
  const int processors[] = {mine.front(), mine.size() > 1 ? mine[1] : mine.front()};
  Machine machine{{{0, {{processors[0]}}}, {1, {{processors[1]}}}}, "test"};
  Team team(4);
  team.place(place_threads(machine, 4, NumaPolicy::AUTO));
  for (int round = 0; round < 3; ++round) {
    std::vector<std::vector<int>> bound(4);
    std::vector<size_t> nodes(4);
    team.run([&](Worker& worker) {
      bound[static_cast<size_t>(worker.index())] = bound_processors();
      nodes[static_cast<size_t>(worker.index())] = worker.node();
    });
    for (size_t i = 0; i < 4; ++i) EXPECT_EQ(bound[i], std::vector<int>{processors[i / 2]});
    EXPECT_EQ(nodes, (std::vector<size_t>{0, 0, 1, 1}));
    EXPECT_EQ(bound_processors(), mine);
  }
}

TEST(PlacedTeam, DealsEverythingOnce) {
  for (const std::vector<int>& cores : {std::vector<int>{1, 1}, {2, 1}, {1, 1, 2}}) {
    const Machine machine = machine_of(cores);
    for (size_t threads = machine.cores(); threads <= 8; ++threads) {
      Team team(static_cast<int>(threads));
      Placement placement = place_threads(machine, threads, NumaPolicy::AUTO);
      for (auto& thread : placement.threads) thread.processors.clear();
      team.place(placement);
      std::vector<std::atomic<int>> done(101);
      team.run([&](Worker& worker) {
        worker.deal(done.size(), 4, [&](Range range) {
          for (size_t i = range.begin; i < range.end; ++i) ++done[i];
        });
      });
      for (const auto& count : done) EXPECT_EQ(count, 1);
    }
  }
}

// Where there are several memories, pages are where they were asked for.
class Pages : public testing::Test {
 protected:
  void SetUp() override {
    if (machine_.nodes.size() < 2)
      GTEST_SKIP() << "this machine has one NUMA node; tests/base/two_nodes_test.sh runs this in a "
                      "virtual machine of two";
  }
  Machine machine_ = read_machine();
};

TEST_F(Pages, LieByTheThreadThatTouchesThemFirst) {
  const size_t threads = machine_.cores(), each = size_t{4} << 20;
  Team team(static_cast<int>(threads));
  team.place(place_threads(machine_, threads, NumaPolicy::AUTO));
  Buffer memory(threads * each, "a test");
  team.run([&](Worker& worker) {
    const auto index = static_cast<size_t>(worker.index());
    std::fill_n(memory.data() + index * each, each, std::byte{1});
  });
  for (size_t i = 0; i < threads; ++i) {
    const int node = team.placement().nodes[team.placement().threads[i].node];
    for (const int found : nodes_of_pages(memory.data() + i * each, each)) EXPECT_EQ(found, node);
  }
}

TEST_F(Pages, LieWhereTheyArePreferredOrInTurn) {
  const size_t bytes = size_t{4} << 20;
  for (const NumaNode& node : machine_.nodes) {
    Buffer memory(bytes, "a test");
    ASSERT_TRUE(prefer_node(memory.data(), bytes, node.id));
    std::fill_n(memory.data(), bytes, std::byte{1});
    for (const int found : nodes_of_pages(memory.data(), bytes)) EXPECT_EQ(found, node.id);
  }
  const std::vector<int> nodes = place_threads(machine_, 1, NumaPolicy::INTERLEAVE).nodes;
  Buffer memory(bytes * nodes.size(), "a test");
  ASSERT_TRUE(interleave(memory.data(), memory.size(), nodes));
  std::fill_n(memory.data(), memory.size(), std::byte{1});
  const std::vector<int> found = nodes_of_pages(memory.data(), memory.size());
  for (const int node : nodes)
    EXPECT_EQ(std::count(found.begin(), found.end(), node),
              static_cast<std::ptrdiff_t>(found.size() / nodes.size()));
}

}  // namespace
}  // namespace rill::test
