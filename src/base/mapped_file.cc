// SPDX-License-Identifier: Apache-2.0
#include "base/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstring>
#include <utility>

#include "base/error.h"

namespace rill {
namespace {

/// Closes on every way out; the mapping outlives the descriptor.
struct Descriptor {
  int value;
  ~Descriptor() {
    if (value >= 0) ::close(value);
  }
};

std::string_view advice(int error) {
  switch (error) {
    case ENOENT:
    case ENOTDIR:
      return "check the path";
    case EACCES:
    case EPERM:
      return "make it readable for this user (chmod +r, and +x on its folders)";
    case EMFILE:
    case ENFILE:
      return "raise the limit of open files (ulimit -n)";
    default:
      return "check the disk that holds it";
  }
}

}  // namespace

MappedFile MappedFile::open(const std::filesystem::path& path) {
  const std::string name = path.string();
  // O_NONBLOCK: opening a pipe without a writer would wait for one.
  const Descriptor file{::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)};
  if (file.value < 0) {
    fail("cannot open ", name, " (", std::strerror(errno), "), expected a readable file; ",
         advice(errno));
  }
  struct stat status {};
  if (::fstat(file.value, &status) != 0) {
    fail("cannot read the size of ", name, " (", std::strerror(errno), "); ", advice(errno));
  }
  if (!S_ISREG(status.st_mode)) {
    fail(name, " is ", S_ISDIR(status.st_mode) ? "a folder" : "a device or a pipe",
         ", expected a regular file; give the path of a file");
  }
  const auto size = static_cast<uint64_t>(status.st_size);
  if (size > PTRDIFF_MAX) fail(name, " has ", size, " bytes, more than this machine can map");
  MappedFile mapped;
  mapped.name_ = name;
  if (size == 0) return mapped;  // mmap refuses an empty range
  void* address = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, file.value, 0);
  if (address == MAP_FAILED) {
    fail("cannot map the ", size, " bytes of ", name, " (", std::strerror(errno),
         "); raise the limit of address space (ulimit -v) or copy it to another disk");
  }
  mapped.bytes_ = {static_cast<const std::byte*>(address), static_cast<size_t>(size)};
  return mapped;
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : bytes_(std::exchange(other.bytes_, {})), name_(std::move(other.name_)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(bytes_, other.bytes_);
  std::swap(name_, other.name_);
  return *this;
}

MappedFile::~MappedFile() {
  if (!bytes_.empty()) ::munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size());
}

std::string_view MappedFile::text() const {
  return {reinterpret_cast<const char*>(bytes_.data()), bytes_.size()};
}

void MappedFile::release(std::span<const std::byte> part) const {
  if (part.empty()) return;
  const auto page = static_cast<uintptr_t>(::sysconf(_SC_PAGESIZE));
  const uintptr_t first = reinterpret_cast<uintptr_t>(part.data()) / page * page;
  const uintptr_t last = reinterpret_cast<uintptr_t>(part.data() + part.size());
  // A hint: where the system declines it, memory stays in use and results are the same.
  (void)::madvise(reinterpret_cast<void*>(first), last - first, MADV_DONTNEED);
}

}  // namespace rill
