// SPDX-License-Identifier: Apache-2.0
// A file that appears whole or not at all: written beside its final name, then renamed.
#pragma once
#include <cstddef>
#include <filesystem>
#include <span>
#include <string_view>

namespace rill {

/// Until `commit` the final name is untouched; a destructor without it removes what was written.
class OutputFile {
 public:
  /// Creates the temporary file in the folder of `path`. Throws Error if that cannot be written, or
  /// if `path` exists and is not a regular file (a rename would replace a device or a folder).
  explicit OutputFile(const std::filesystem::path& path);
  OutputFile(const OutputFile&) = delete;
  OutputFile& operator=(const OutputFile&) = delete;
  ~OutputFile();

  /// Appends; throws Error when the disk is full or fails.
  void write(std::span<const std::byte> bytes);
  void write(std::string_view text) { write(std::as_bytes(std::span(text))); }

  /// Closes and renames. Throws Error if either fails.
  void commit();

 private:
  std::filesystem::path path_, temporary_;
  int descriptor_ = -1;
};

}  // namespace rill
