// SPDX-License-Identifier: Apache-2.0
// How a stream of reads gets over the ends of pages.
#pragma once
#include <cstddef>
#include <cstdint>

#include "kernels/inline.h"

namespace rill {

/// The processor follows a stream of reads by itself, but not into the next 4 KiB of memory, which
/// may be anybody's: there it misses several lines before it finds the stream again. A line of that
/// page asked for now and then makes these misses beforehand. Of all the lines of a page this names
/// eight of the next, in turn; asking costs little where they have come.
struct NextPage {
  static constexpr size_t kBytes = 4096;
  /// How often to ask.
  static constexpr size_t kEvery = 256;

  static RILL_INLINE const char* begin(const char* at) { return at - offset(at) + kBytes; }
  /// Which of the next page's bytes: the first of the line whose turn it is.
  static RILL_INLINE size_t line(const char* at) { return offset(at) / 8 / 64 * 64; }

 private:
  static RILL_INLINE size_t offset(const char* at) {
    return reinterpret_cast<uintptr_t>(at) % kBytes;
  }
};

}  // namespace rill
