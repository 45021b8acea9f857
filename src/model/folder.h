// SPDX-License-Identifier: Apache-2.0
// What a path holds that a user gave for a checkpoint, and what to say when it is not one.
#pragma once
#include <filesystem>
#include <string_view>

namespace rill {

/// Throws Error unless `folder` is a folder that can be listed. The message of a path that is
/// missing, of a GGUF or safetensors file, and of a name of the Hugging Face hub says what to give
/// instead.
void require_folder(const std::filesystem::path& folder);

/// Throws Error for a folder that lacks `wanted` ("config.json"), naming what stands there instead:
/// GGUF files, pytorch_model.bin, an adapter, a Hugging Face cache.
[[noreturn]] void fail_not_checkpoint(const std::filesystem::path& folder, std::string_view wanted);

/// Throws Error if `output`, which is to be written, is a file of the model in `folder`, by
/// whatever name: one that stands in there, or that a link in there leads to.
void require_not_of_model(const std::filesystem::path& output, const std::filesystem::path& folder);

}  // namespace rill
