// SPDX-License-Identifier: Apache-2.0
// A file mapped read-only, so that weights are read where they lie instead of being copied.
#pragma once
#include <cstddef>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

namespace rill {

/// Owns one read-only mapping of a whole regular file. The size is taken once, at open; a file that
/// another program shortens while it is mapped ends the process with SIGBUS, as with every mapping.
class MappedFile {
 public:
  /// Maps `path`. Throws Error if it is missing, unreadable, or not a regular file (a pipe would
  /// block for ever). An empty file gives an empty span.
  static MappedFile open(const std::filesystem::path& path);

  MappedFile() = default;
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;
  ~MappedFile();

  std::span<const std::byte> bytes() const { return bytes_; }
  std::string_view text() const;
  const std::string& name() const { return name_; }

  /// Gives the pages that hold `part` back to the system (MADV_DONTNEED). They are read again from
  /// the file when touched, so a neighbour that shares the first or last page loses nothing.
  void release(std::span<const std::byte> part) const;

 private:
  std::span<const std::byte> bytes_;
  std::string name_;
};

}  // namespace rill
