// SPDX-License-Identifier: Apache-2.0
#include "base/process.h"

#include <gtest/gtest.h>

#include <cstring>

#include "base/buffer.h"

namespace rill {
namespace {

TEST(ProcessTest, AgeGrowsFromTheStart) {
  const double first = process_age();
  EXPECT_GE(first, 0);
  EXPECT_LT(first, 3600);
  EXPECT_GE(process_age(), first);
}

TEST(ProcessTest, ThePeakSeesWhatIsGoneAndCanStartAnew) {
  constexpr size_t kBytes = size_t{64} << 20;
  const size_t before = resident_memory();
  EXPECT_GT(before, size_t{100} << 10);
  {
    Buffer buffer(kBytes, "a test");
    std::memset(buffer.data(), 1, kBytes);
  }
  EXPECT_GE(peak_memory(), before + kBytes * 9 / 10);
  if (reset_peak_memory()) {
    EXPECT_LT(peak_memory(), before + kBytes * 9 / 10);
  }
}

}  // namespace
}  // namespace rill
