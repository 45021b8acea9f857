// SPDX-License-Identifier: Apache-2.0
#include "base/buffer.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <limits>
#include <string>

#include "base/error.h"

namespace rill {
namespace {

uintptr_t address(const Buffer& buffer) {
  return reinterpret_cast<uintptr_t>(buffer.data());
}

TEST(Buffer, IsZeroedAndAligned) {
  for (size_t bytes :
       {size_t{1}, size_t{63}, size_t{4096}, size_t{100000}, (size_t{2} << 20) - 1}) {
    Buffer buffer(bytes, "a test");
    ASSERT_EQ(buffer.size(), bytes);
    EXPECT_EQ(address(buffer) % 64, 0u);
    for (size_t i = 0; i < bytes; ++i) ASSERT_EQ(buffer.data()[i], std::byte{0}) << i;
    std::memset(buffer.data(), 0xff, bytes);  // writable to the end
  }
}

TEST(Buffer, LargeOnesLieOnHugePages) {
  for (size_t bytes : {size_t{2} << 20, (size_t{5} << 20) + 1}) {
    Buffer buffer(bytes, "a test");
    EXPECT_EQ(address(buffer) % (size_t{2} << 20), 0u);
    buffer.data()[0] = buffer.data()[bytes - 1] = std::byte{1};
  }
}

TEST(Buffer, OfNothingHoldsNothing) {
  Buffer none, zero(0, "a test");
  EXPECT_EQ(none.data(), nullptr);
  EXPECT_EQ(zero.data(), nullptr);
  EXPECT_EQ(zero.size(), 0u);
}

TEST(Buffer, MovesWithoutCopying) {
  Buffer first(4096, "a test");
  first.as<int>()[7] = 42;
  const std::byte* where = first.data();
  Buffer second(std::move(first));
  EXPECT_EQ(second.data(), where);
  Buffer third(100, "another");
  third = std::move(second);
  EXPECT_EQ(third.data(), where);
  EXPECT_EQ(third.size(), 4096u);
  EXPECT_EQ(third.as<int>()[7], 42);
}

TEST(Buffer, TooMuchIsAnErrorThatNamesItsPurpose) {
  for (size_t bytes : {std::numeric_limits<size_t>::max(), std::numeric_limits<size_t>::max() / 2,
                       size_t{1} << 50}) {
    try {
      Buffer buffer(bytes, "the KV cache");
      FAIL() << bytes << " bytes were given";
    } catch (const Error& error) {
      const std::string message = error.what();
      EXPECT_NE(message.find("for the KV cache"), std::string::npos) << message;
      EXPECT_NE(message.find("rill plan"), std::string::npos) << message;
    }
  }
}

}  // namespace
}  // namespace rill
