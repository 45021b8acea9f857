// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <cstddef>

namespace rill {

/// A contiguous share [begin, end) of some indices.
struct Range {
  size_t begin, end;
};

}  // namespace rill
