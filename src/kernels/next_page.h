// SPDX-License-Identifier: Apache-2.0
// How a stream of reads gets over the ends of pages.
#pragma once
#include <cstddef>
#include <cstdint>

#include "kernels/inline.h"

namespace rill {

/// The processor follows a stream of reads by itself, but not into the next 4 KiB of memory, which
/// may be anybody's: there it misses several lines before it has found the stream again. Who asks
/// for one of that page's first eight lines every 256 bytes or so makes these misses beforehand;
/// asking once more for what has come costs little.
struct NextPage {
  static constexpr size_t kBytes = 4096;

  static RILL_INLINE const char* begin(const char* at) { return at - offset(at) + kBytes; }
  /// Which of the next page's bytes: the farther `at` is in its own page, the later the line.
  static RILL_INLINE size_t line(const char* at) { return offset(at) / 8 / 64 * 64; }
  static RILL_INLINE void ask(const char* at) { __builtin_prefetch(begin(at) + line(at), 0, 2); }

 private:
  static RILL_INLINE size_t offset(const char* at) {
    return reinterpret_cast<uintptr_t>(at) % kBytes;
  }
};

}  // namespace rill
