// SPDX-License-Identifier: Apache-2.0
// The verbs, over threads and alone.
#include "comm/communicator.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "comm/thread_ranks.h"

namespace rill {
namespace {

// Every verb once, with parts of different sizes, one of them empty.
void try_verbs(Communicator& world) {
  const auto rank = static_cast<size_t>(world.rank()), size = static_cast<size_t>(world.size());
  std::vector<uint8_t> word(5, world.rank() == world.size() - 1 ? 7 : 0);
  world.broadcast(std::as_writable_bytes(std::span(word)), world.size() - 1);
  EXPECT_EQ(word, std::vector<uint8_t>(5, 7));

  std::vector<size_t> counts(size), begin(size + 1);
  for (size_t r = 0; r < size; ++r) counts[r] = 3 * r;
  std::partial_sum(counts.begin(), counts.end(), begin.begin() + 1);
  std::vector<uint8_t> all(begin.back(), 0xff);
  std::fill_n(all.begin() + static_cast<std::ptrdiff_t>(begin[rank]), counts[rank],
              static_cast<uint8_t>(rank));
  world.all_gather(reinterpret_cast<std::byte*>(all.data()), counts);
  for (size_t r = 0; r < size; ++r)
    for (size_t i = begin[r]; i < begin[r + 1]; ++i) EXPECT_EQ(all[i], r);

  EXPECT_EQ(world.least(100 - rank), 100 - (size - 1));

  // Two messages to everyone else, the second one longer.
  std::vector<std::vector<uint8_t>> got(2 * size);
  std::vector<uint8_t> mine(20, static_cast<uint8_t>(rank));
  std::vector<Outgoing> out;
  std::vector<Incoming> in;
  for (size_t r = 0; r < size; ++r) {
    if (r == rank) continue;
    for (size_t i = 0; i < 2; ++i) {
      got[2 * r + i].resize(4 + 16 * i);
      out.push_back({static_cast<int>(r), std::as_bytes(std::span(mine)).first(4 + 16 * i)});
      in.push_back({static_cast<int>(r), std::as_writable_bytes(std::span(got[2 * r + i]))});
    }
  }
  const uint64_t before = world.traffic().sent;
  world.exchange(out, in);
  EXPECT_EQ(world.traffic().sent - before, 24 * (size - 1));
  for (size_t r = 0; r < size; ++r)
    for (size_t i = 0; i < 2 && r != rank; ++i)
      EXPECT_EQ(got[2 * r + i], std::vector<uint8_t>(4 + 16 * i, static_cast<uint8_t>(r)));
}

// Two exchanges and a gather at once, which end in another order than they began.
void try_started(Communicator& world) {
  const auto rank = static_cast<size_t>(world.rank()), size = static_cast<size_t>(world.size());
  std::vector<std::vector<uint8_t>> got(2 * size);
  const std::vector<uint8_t> mine[2] = {std::vector<uint8_t>(5, static_cast<uint8_t>(rank)),
                                        std::vector<uint8_t>(300, static_cast<uint8_t>(50 + rank))};
  std::vector<Outgoing> out[2];
  std::vector<Incoming> in[2];
  for (size_t i = 0; i < 2; ++i)
    for (size_t r = 0; r < size; ++r) {
      if (r == rank) continue;
      std::vector<uint8_t>& to = got[2 * r + i];
      to.resize(mine[i].size());
      out[i].push_back({static_cast<int>(r), std::as_bytes(std::span(mine[i]))});
      in[i].push_back({static_cast<int>(r), std::as_writable_bytes(std::span(to))});
    }
  std::vector<size_t> counts(size);
  std::iota(counts.begin(), counts.end(), 0);
  std::vector<uint8_t> all(size * (size - 1) / 2, 0xff);
  std::fill_n(all.begin() + static_cast<std::ptrdiff_t>(rank * (rank - 1) / 2), rank,
              static_cast<uint8_t>(rank));

  EXPECT_FALSE(world.started());
  const Communicator::Ticket first = world.start(out[0], in[0]);
  const Communicator::Ticket second = world.start(out[1], in[1]);
  const uint64_t before = world.traffic().sent, calls = world.traffic().calls;
  const Communicator::Ticket gather =
      world.start_gather(reinterpret_cast<std::byte*>(all.data()), counts);
  EXPECT_TRUE(world.started());
  EXPECT_EQ(world.traffic().sent - before, rank * (size - 1));
  for (int i = 0; i < 10; ++i) world.progress();
  world.finish(second);
  world.finish(gather);
  world.finish(first);
  EXPECT_FALSE(world.started());
  EXPECT_EQ(world.traffic().calls - calls, 1u);  // an end is no call
  for (size_t r = 0; r < size; ++r) {
    for (size_t i = 0; i < 2 && r != rank; ++i)
      EXPECT_EQ(got[2 * r + i],
                std::vector<uint8_t>(mine[i].size(), static_cast<uint8_t>(50 * i + r)));
    for (size_t i = 0; i < r; ++i) EXPECT_EQ(all[r * (r - 1) / 2 + i], r);
  }
}

TEST(Communicator, WhatIsStartedEndsInAnyOrder) {
  SingleCommunicator alone;
  try_started(alone);
  for (const int ranks : {2, 3, 8}) {
    SCOPED_TRACE(ranks);
    run_ranks(ranks, try_started);
  }
}

TEST(Communicator, Verbs) {
  SingleCommunicator alone;
  try_verbs(alone);
  for (const int ranks : {1, 2, 3, 5, 8}) {
    SCOPED_TRACE(ranks);
    run_ranks(ranks, try_verbs);
  }
}

// Rounds in which every rank writes to its part and reads all.
TEST(Communicator, SharesMemory) {
  for (const int ranks : {1, 2, 5})
    run_ranks(ranks, [](Communicator& world) {
      const auto memory = world.share_memory(sizeof(int));
      ASSERT_TRUE(memory);
      const auto value = [&](int rank) { return reinterpret_cast<int*>(memory->part(rank)); };
      for (int round = 0; round < 50; ++round) {
        EXPECT_EQ(*value(world.rank()), round == 0 ? 0 : 100 * (round - 1) + world.rank());
        *value(world.rank()) = 100 * round + world.rank();
        world.publish(*memory, 1, 4);
        for (int r = 0; r < world.size(); ++r) EXPECT_EQ(*value(r), 100 * round + r);
        memory->meet();
      }
      EXPECT_EQ(world.traffic().sent, 200u);
      EXPECT_EQ(world.traffic().calls, 50u);
    });
  run_ranks(
      2, [](Communicator& world) { EXPECT_FALSE(world.share_memory(8)); }, false);
}

TEST(Communicator, SplitsByColour) {
  run_ranks(6, [](Communicator& world) {
    const auto pair = world.split(world.rank() / 2), third = world.split(world.rank() % 2);
    EXPECT_EQ(pair->size(), 2);
    EXPECT_EQ(pair->rank(), world.rank() % 2);
    EXPECT_EQ(third->size(), 3);
    EXPECT_EQ(third->rank(), world.rank() / 2);
    EXPECT_EQ(third->least(static_cast<uint64_t>(world.rank())),
              static_cast<uint64_t>(world.rank() % 2));
  });
}

TEST(Communicator, LosingARankEndsTheOthers) {
  EXPECT_THROW(run_ranks(3,
                         [](Communicator& world) {
                           if (world.rank() == 1) throw std::runtime_error("lost");
                           world.barrier();
                         }),
               std::runtime_error);
}

}  // namespace
}  // namespace rill
