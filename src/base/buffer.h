// SPDX-License-Identifier: Apache-2.0
// Memory that owns, aligned for every vector width.
#pragma once
#include <cstddef>
#include <utility>

namespace rill {

/// Zeroed anonymous memory, aligned to 64 bytes; from 2 MiB on aligned to 2 MiB and marked for
/// transparent huge pages (12 to 20 % of decode speed hangs on them). A page is placed on the NUMA
/// node of the thread that first writes it. Allocation failure throws rill::Error naming `what`.
class Buffer {
 public:
  Buffer() = default;
  Buffer(size_t bytes, const char* what);
  Buffer(Buffer&& other) noexcept { swap(other); }
  Buffer& operator=(Buffer&& other) noexcept {
    swap(other);
    return *this;
  }
  ~Buffer();

  std::byte* data() { return data_; }
  const std::byte* data() const { return data_; }
  size_t size() const { return size_; }
  template <class T>
  T* as() {
    return reinterpret_cast<T*>(data_);
  }
  template <class T>
  const T* as() const {
    return reinterpret_cast<const T*>(data_);
  }

 private:
  void swap(Buffer& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    std::swap(mapping_, other.mapping_);
    std::swap(mapped_, other.mapped_);
  }

  std::byte* data_ = nullptr;
  size_t size_ = 0;
  void* mapping_ = nullptr;  // what munmap takes; data_ is the aligned address inside
  size_t mapped_ = 0;
};

}  // namespace rill
