// SPDX-License-Identifier: Apache-2.0
// Asking for weights before they are needed.
#pragma once
#include <algorithm>

#include "kernels/kernels.h"

namespace rill {

/// Panels of a weight that are dealt together: what a kernel reads side by side. Even, since gate
/// and up panels alternate.
constexpr size_t kDealtPanels = 4;

/// What a thread reads of a weight first, asked for while it waits at a barrier: the memory would
/// stand still meanwhile. Only worth it where a step is bound by reading weights.
class alignas(64) ReadAhead {
 public:
  /// From now on: panels from `panel` on, in the order in which kernels read them.
  void aim(const PackedMatrix& weight, size_t panel) {
    const size_t bytes = panel_bytes(weight.format, weight.depth);
    const std::byte* first = weight.data + panel * bytes;
    if (first == first_) return;
    first_ = first;
    stride_ = bytes;
    next_ = 0;
    end_ = std::min(kMost, kDealtPanels * bytes) / (kDealtPanels * kRun);
  }
  void ask() {
    if (next_ == end_) return;
    for (size_t panel = 0; panel < kDealtPanels; ++panel)
      for (size_t line = 0; line < kRun; line += 64)
        __builtin_prefetch(first_ + panel * stride_ + next_ * kRun + line, 0, 2);
    ++next_;
  }

 private:
  static constexpr size_t kMost = size_t{256} << 10;  // a part of the smallest second-level cache
  static constexpr size_t kRun = 256;                 // bytes of a panel
  const std::byte* first_ = nullptr;
  size_t stride_ = 0, next_ = 0, end_ = 0;
};

}  // namespace rill
