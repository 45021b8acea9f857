// SPDX-License-Identifier: Apache-2.0
// The tensors of a Hugging Face checkpoint folder, by name, mapped and not read.
#pragma once
#include <filesystem>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/mapped_file.h"
#include "model/config.h"
#include "model/safetensors.h"

namespace rill {

/// All tensors of model.safetensors, or of the shards that model.safetensors.index.json names.
class Checkpoint {
 public:
  /// Maps the files and checks their headers. Throws Error for a folder without safetensors (saying
  /// what was looked for, and what stands there instead: GGUF, pytorch_model.bin), for a shard or a
  /// tensor that the index names and that is missing, and for a name that occurs twice.
  static Checkpoint open(const std::filesystem::path& folder);

  /// Names are given with or without "model." and found either way, since embedding models are
  /// published without it: "layers.0.mlp.up_proj.weight". nullptr if there is none.
  const TensorInfo* find(std::string_view name) const;
  /// Throws Error naming tensor, file, found and expected if it is missing, has another shape, or
  /// is not of type BF16, F16 or F32.
  const TensorInfo& get(std::string_view name, const std::vector<size_t>& shape) const;
  const std::vector<TensorInfo>& tensors() const { return tensors_; }

  /// Throws Error unless every tensor that `config` calls for is there with its shape, and no layer
  /// beyond them. A redundant lm_head.weight of a tied model is fine, and ignored.
  void check(const ModelConfig& config) const;

  /// Gives the pages of a tensor back to the system once it is packed; it may still be read.
  void release(const TensorInfo& tensor) const;

  const std::string& folder() const { return folder_; }

 private:
  void add_file(MappedFile file);

  std::string folder_;
  std::vector<MappedFile> files_;
  std::vector<TensorInfo> tensors_;
  std::unordered_map<std::string, size_t> index_;  // name without "model." -> place in tensors_
};

/// The tensors of a model, named as published ("model.embed_tokens.weight" …), in the order in
/// which a forward pass meets them; lm_head.weight only if the embedding is not tied. The dtype is
/// the one given.
std::vector<TensorSpec> model_tensors(const ModelConfig& config, DType dtype);

}  // namespace rill
