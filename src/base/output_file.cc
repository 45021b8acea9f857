// SPDX-License-Identifier: Apache-2.0
#include "base/output_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <string>
#include <system_error>
#include <utility>

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

std::filesystem::path temporary_name(std::filesystem::path path, int attempt) {
  path += "." + std::to_string(::getpid()) + "-" + std::to_string(attempt) + ".partial";
  return path;
}

/// Not so for a name that is too long, which is to be told before the work.
bool can_be_named(const std::filesystem::path& path) {
  struct stat unused;
  return ::lstat(path.c_str(), &unused) == 0 || errno == ENOENT;
}

/// Through which a file without a name gets one.
std::string link_to(int descriptor) {
  return "/proc/self/fd/" + std::to_string(descriptor);
}

/// A file that goes with the process, whatever ends it; -1 where the file system has none.
int open_unnamed(const std::filesystem::path& folder) {
  const int descriptor =
      ::open(folder.empty() ? "." : folder.c_str(), O_TMPFILE | O_WRONLY | O_CLOEXEC, 0666);
  if (descriptor < 0 || ::access(link_to(descriptor).c_str(), F_OK) == 0) return descriptor;
  ::close(descriptor);
  return -1;
}

}  // namespace

void require_not_input(const std::filesystem::path& output, const std::filesystem::path& input,
                       const std::string& source) {
  std::error_code error;
  const bool same_name = output.lexically_normal() == input.lexically_normal();
  if (!same_name && !std::filesystem::equivalent(output, input, error)) return;
  fail("cannot write ", output.string(), ": it is the file that ", source,
       " names, which would be lost, expected a new name or another file; choose another path");
}

OutputFile::OutputFile(const std::filesystem::path& path) : path_(final_name(path)) {
  if (can_be_named(temporary_name(path_, 0))) descriptor_ = open_unnamed(path_.parent_path());
  if (descriptor_ >= 0) return;
  const bool created = take_name([&](const char* name) {
    descriptor_ = ::open(name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    return descriptor_ >= 0;
  });
  if (created) return;
  fail("cannot create ", path_.string(), " (", std::strerror(errno),
       "), expected a folder that exists and can be written; choose another path");
}

bool OutputFile::take_name(const std::function<bool(const char*)>& create) {
  for (int attempt = 0; attempt < kNameAttempts; ++attempt) {
    const std::filesystem::path name = temporary_name(path_, attempt);
    if (create(name.c_str())) {
      temporary_ = name;
      return true;
    }
    if (errno != EEXIST) break;
  }
  return false;
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
  // A link cannot replace a file, so the file takes a temporary name, for no longer than it must.
  const bool named = !temporary_.empty() || take_name([&](const char* name) {
    return ::linkat(AT_FDCWD, link_to(descriptor_).c_str(), AT_FDCWD, name, AT_SYMLINK_FOLLOW) == 0;
  });
  const int closed = named ? ::close(std::exchange(descriptor_, -1)) : -1;
  if (closed != 0 || ::rename(temporary_.c_str(), path_.c_str()) != 0) {
    fail("cannot finish ", path_.string(), " (", std::strerror(errno),
         "); free space on its disk or choose another path");
  }
  temporary_.clear();
}

}  // namespace rill
