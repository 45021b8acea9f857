// SPDX-License-Identifier: Apache-2.0
#include "base/output_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <string>
#include <system_error>

#include "base/error.h"

namespace rill {
namespace {

constexpr int kNameAttempts = 100;

/// The file that is to be replaced: behind a symbolic link stands another name.
std::filesystem::path final_name(const std::filesystem::path& path) {
  if (path.empty() || !path.has_filename()) {
    fail("cannot write to ", path.empty() ? "an empty path" : path.string(),
         ", expected the name of a file; add one");
  }
  std::error_code error;
  const auto status = std::filesystem::status(path, error);
  if (!std::filesystem::exists(status)) return path;
  if (!std::filesystem::is_regular_file(status)) {
    fail("cannot write ", path.string(), ": it is ",
         std::filesystem::is_directory(status) ? "a folder" : "a device or a pipe",
         ", expected a regular file or a new name; choose another name");
  }
  const auto real = std::filesystem::canonical(path, error);
  return error ? path : real;
}

}  // namespace

OutputFile::OutputFile(const std::filesystem::path& path) : path_(final_name(path)) {
  for (int attempt = 0; attempt < kNameAttempts; ++attempt) {
    temporary_ = path_;
    temporary_ += "." + std::to_string(::getpid()) + "-" + std::to_string(attempt) + ".partial";
    descriptor_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (descriptor_ >= 0) return;
    if (errno != EEXIST) break;
  }
  fail("cannot create ", path_.string(), " (", std::strerror(errno),
       "), expected a folder that exists and can be written; choose another path");
}

OutputFile::~OutputFile() {
  if (descriptor_ >= 0) ::close(descriptor_);
  if (!temporary_.empty()) ::unlink(temporary_.c_str());
}

void OutputFile::write(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t written = ::write(descriptor_, bytes.data(), bytes.size());
    if (written < 0) {
      if (errno == EINTR) continue;
      fail("cannot write ", path_.string(), " (", std::strerror(errno),
           "); free space on its disk or choose another path");
    }
    bytes = bytes.subspan(static_cast<size_t>(written));
  }
}

void OutputFile::commit() {
  const int closed = ::close(descriptor_);
  descriptor_ = -1;
  if (closed != 0 || ::rename(temporary_.c_str(), path_.c_str()) != 0) {
    fail("cannot finish ", path_.string(), " (", std::strerror(errno),
         "); free space on its disk or choose another path");
  }
  temporary_.clear();
}

}  // namespace rill
