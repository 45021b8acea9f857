// SPDX-License-Identifier: Apache-2.0
#include "base/buffer.h"

#include <sys/mman.h>

#include <cerrno>
#include <cstdint>
#include <cstring>

#include "base/error.h"

namespace rill {

Buffer::Buffer(size_t bytes, const char* what) : size_(bytes) {
  if (bytes == 0) return;
  constexpr size_t kHuge = size_t{2} << 20;
  const size_t alignment = bytes >= kHuge ? kHuge : 4096;
  const size_t rounded = (bytes + alignment - 1) / alignment * alignment;
  mapped_ = rounded + (alignment > 4096 ? alignment : 0);
  mapping_ = rounded < bytes ? MAP_FAILED
                             : mmap(nullptr, mapped_, PROT_READ | PROT_WRITE,
                                    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapping_ == MAP_FAILED) {
    mapping_ = nullptr;
    fail("cannot allocate ", bytes >> 20, " MiB for ", what, " (", std::strerror(errno),
         "); take a smaller context or smaller weights, see `rill plan`");
  }
  const auto address = reinterpret_cast<uintptr_t>(mapping_);
  data_ = reinterpret_cast<std::byte*>((address + alignment - 1) / alignment * alignment);
  if (alignment == kHuge) madvise(data_, rounded, MADV_HUGEPAGE);  // advice: may be refused
}

Buffer::~Buffer() {
  if (mapping_) munmap(mapping_, mapped_);
}

}  // namespace rill
