// SPDX-License-Identifier: Apache-2.0
#include "model/folder.h"

#include <algorithm>
#include <cctype>
#include <fstream>
#include <string>
#include <system_error>
#include <vector>

#include "base/error.h"

namespace rill {
namespace {

namespace fs = std::filesystem;

constexpr size_t kEntriesListed = 10'000;  // of a folder that is no checkpoint, say /usr/bin
constexpr std::string_view kTake =
    "the folder of a Hugging Face checkpoint (config.json and *.safetensors), for instance "
    "Qwen/Qwen3-0.6B";

bool ends_with(std::string name, std::string_view ending) {
  std::transform(name.begin(), name.end(), name.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return name.ends_with(ending);
}

bool is_gguf(const fs::path& file) {
  if (ends_with(file.filename().string(), ".gguf")) return true;
  char magic[4] = {};
  std::ifstream(file, std::ios::binary).read(magic, sizeof(magic));
  return std::string_view(magic, sizeof(magic)) == "GGUF";
}

/// "Qwen/Qwen3-0.6B": two plain words, as the hub names its repositories.
bool looks_like_hub_name(const fs::path& path) {
  const std::string text = path.string();
  const auto slash = text.find('/');
  return !path.is_absolute() && slash != std::string::npos && slash != 0 &&
         slash + 1 < text.size() && text.find('/', slash + 1) == std::string::npos &&
         text[0] != '.';
}

[[noreturn]] void fail_missing(const fs::path& folder) {
  if (looks_like_hub_name(folder)) {
    fail("there is no folder ", folder.string(), ", expected a checkpoint on this disk; if ",
         "it is a name of the Hugging Face hub, download it first (hf download ", folder.string(),
         " --local-dir ", folder.filename().string(), ") and give that folder");
  }
  fail("there is no folder ", folder.string(), ", expected ", kTake, "; check the path");
}

[[noreturn]] void fail_file(const fs::path& file) {
  std::error_code error;
  if (fs::is_regular_file(file, error) && is_gguf(file)) {
    fail(file.string(), " is a GGUF file, which Rill does not read; take ", kTake);
  }
  fail(file.string(), " is a file, expected ", kTake, "; give the folder that holds it");
}

std::vector<std::string> names_in(const fs::path& folder) {
  std::vector<std::string> names;
  std::error_code error;
  fs::directory_iterator at(folder, error), end;
  for (; !error && at != end && names.size() < kEntriesListed; at.increment(error)) {
    names.push_back(at->path().filename().string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

/// The newest-named snapshot of a Hugging Face cache entry ("models--Qwen--Qwen3-0.6B"), or empty.
fs::path snapshot_in(const fs::path& folder) {
  std::error_code error;
  for (const fs::path& parent : {folder / "snapshots", folder}) {
    for (const std::string& name : names_in(parent)) {
      if (fs::exists(parent / name / "config.json", error)) return parent / name;
    }
  }
  return {};
}

}  // namespace

void require_folder(const fs::path& folder) {
  std::error_code error;
  if (folder.empty()) fail("the path of the model is empty, expected ", kTake, "; give one");
  const fs::file_status status = fs::status(folder, error);
  if (status.type() == fs::file_type::not_found) fail_missing(folder);
  if (status.type() == fs::file_type::none) {
    fail("cannot open ", folder.string(), " (", error.message(), "), expected ", kTake,
         "; check the path and its permissions");
  }
  if (!fs::is_directory(status)) fail_file(folder);
  const fs::directory_iterator list(folder, error);
  if (error) {
    fail("cannot list the folder ", folder.string(), " (", error.message(),
         "), expected a readable one; make it readable for this user (chmod +rx)");
  }
}

void fail_not_checkpoint(const fs::path& folder, std::string_view wanted) {
  const fs::path snapshot = snapshot_in(folder);
  if (!snapshot.empty()) {
    fail(folder.string(), " holds no ", wanted,
         " but a checkpoint one level down; give the folder ", snapshot.string());
  }
  const std::vector<std::string> names = names_in(folder);
  const auto first = [&](auto matches) -> std::string {
    const auto at = std::find_if(names.begin(), names.end(), matches);
    return at == names.end() ? "" : *at;
  };
  const std::string gguf = first([](const auto& n) { return ends_with(n, ".gguf"); });
  if (!gguf.empty()) {
    fail(folder.string(), " holds no ", wanted, " but ", gguf,
         ", and Rill does not read GGUF; take ", kTake);
  }
  const std::string adapter = first([](const auto& n) { return n.starts_with("adapter_"); });
  if (!adapter.empty()) {
    fail(folder.string(), " holds no ", wanted, " but ", adapter,
         ", an adapter; merge it into its base model and give the merged folder");
  }
  const std::string torch =
      first([](const auto& n) { return ends_with(n, ".bin") || ends_with(n, ".pt"); });
  if (!torch.empty()) {
    fail(folder.string(), " holds no ", wanted, " but ", torch,
         ", and Rill does not read PyTorch's pickles; take the checkpoint's *.safetensors, or "
         "write them with save_pretrained of Transformers");
  }
  const std::string shard = first([](const auto& n) { return ends_with(n, ".safetensors"); });
  fail(folder.string(), " holds no ", wanted, shard.empty() ? "" : " beside " + shard,
       ", expected ", kTake, "; check the path or download what is missing");
}

void require_not_of_model(const fs::path& output, const fs::path& folder) {
  std::error_code error;
  const fs::path file = fs::canonical(output, error);
  if (error || !fs::is_regular_file(file, error)) return;  // nothing that a new file would replace
  const fs::path home = fs::canonical(folder, error);
  if (error) return;
  const bool inside =
      std::mismatch(home.begin(), home.end(), file.begin(), file.end()).first == home.end();
  const std::vector<std::string> names = names_in(folder);
  const auto is_output = [&](const std::string& name) {
    return fs::equivalent(folder / name, file, error);
  };
  if (!inside && std::none_of(names.begin(), names.end(), is_output)) return;
  fail("cannot write ", output.string(), ": it is a file of the model in ", folder.string(),
       ", expected a new name or a file elsewhere; choose another path");
}

}  // namespace rill
