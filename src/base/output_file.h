// SPDX-License-Identifier: Apache-2.0
// A file that appears whole or not at all: written without a name, named beside its final name,
// then renamed.
#pragma once
#include <cstddef>
#include <filesystem>
#include <functional>
#include <span>
#include <string>
#include <string_view>

namespace rill {

/// Throws Error if `output`, which is to be written, is the file `input` by whatever name: a link,
/// or another way to it. `source` is what names the input, an option for instance.
void require_not_input(const std::filesystem::path& output, const std::filesystem::path& input,
                       const std::string& source);

/// Until `commit` the final name is untouched. Without it nothing stays, whatever ends the process;
/// where the file system has no unnamed files (NFS), the destructor removes a temporary one.
class OutputFile {
 public:
  /// Creates a file in the folder of `path`. Throws Error if that cannot be written, or
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
  /// Finds the temporary name under which `create` succeeds, unlike with one that exists.
  bool take_name(const std::function<bool(const char*)>& create);

  std::filesystem::path path_, temporary_;  // temporary_: empty as long as the file has no name
  int descriptor_ = -1;
};

}  // namespace rill
