// SPDX-License-Identifier: Apache-2.0
// What ranks of one machine read of each other, many times over: nothing is overwritten while some
// still read it.
#include "model/shared_areas.h"

#include <gtest/gtest.h>

#include <chrono>
#include <thread>

#include "comm/thread_ranks.h"

namespace rill {
namespace {

// A rank, another one each time, is late in reading.
void dawdle(const Communicator& world, size_t round) {
  if (round % static_cast<size_t>(world.size()) == static_cast<size_t>(world.rank()))
    std::this_thread::sleep_for(std::chrono::microseconds(200));
}

TEST(SharedAreas, ManyRoundsOfOneMeetingEach) {
  for (const int count : {1, 2, 5})
    run_ranks(count, [](Communicator& world) {
      constexpr size_t kFloats = 33;
      const auto areas = SharedAreas::make(world, kFloats);
      ASSERT_TRUE(areas);
      const auto value = [](size_t round, size_t rank) {
        return static_cast<float>(100 * round + rank);
      };
      const auto me = static_cast<size_t>(world.rank());
      size_t wrong = 0;
      for (size_t round = 0; round < 200; ++round) {
        std::fill_n(areas->own(), kFloats, value(round, me));
        areas->publish(1, 2);
        dawdle(world, round);
        for (size_t rank = 0; rank <= areas->others(); ++rank)
          for (size_t i = 0; i < kFloats; ++i)
            wrong += areas->of(rank)[i] == value(round, rank) ? 0 : 1;
        if (round % 3 == 0) wrong += areas->least(1000 - me) == 1000 - areas->others() ? 0 : 1;
      }
      EXPECT_EQ(wrong, 0u);
      EXPECT_EQ(world.traffic().calls, 200u + 67);
      EXPECT_EQ(world.traffic().sent, 200 * 2 * sizeof(float) + 67 * 8 * areas->others());
    });
}

TEST(SharedAreas, ColumnsOfEveryRank) {
  run_ranks(3, [](Communicator& world) {
    const std::vector<Range> columns = {{0, 70}, {70, 70}, {70, 101}};
    constexpr size_t kRows = 3, kStride = 110, kWidth = 101;
    const auto areas = SharedAreas::make(world, kRows * 70);
    const Range own = columns[static_cast<size_t>(world.rank())];
    Team team(2);
    for (size_t round = 0; round < 20; ++round) {
      const auto value = [&](size_t row, size_t column) {
        return static_cast<float>(1000 * round + 200 * row + column);
      };
      std::vector<float> y(kRows * kStride, -1);
      for (size_t row = 0; row < kRows; ++row)
        for (size_t column = own.begin; column < own.end; ++column)
          y[row * kStride + column] = value(row, column);
      team.run(
          [&](Worker& worker) { areas->share_columns(worker, y.data(), kStride, kRows, columns); });
      dawdle(world, round);
      size_t wrong = 0;
      for (size_t row = 0; row < kRows; ++row)
        for (size_t column = 0; column < kStride; ++column)
          wrong += y[row * kStride + column] == (column < kWidth ? value(row, column) : -1) ? 0 : 1;
      EXPECT_EQ(wrong, 0u);
    }
  });
}

TEST(SharedAreas, RanksOfSeveralMachinesHaveNone) {
  run_ranks(
      2, [](Communicator& world) { EXPECT_FALSE(SharedAreas::make(world, 8)); }, false);
}

}  // namespace
}  // namespace rill
