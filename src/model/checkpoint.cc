// SPDX-License-Identifier: Apache-2.0
#include "model/checkpoint.h"

#include <algorithm>
#include <charconv>
#include <map>
#include <set>
#include <system_error>
#include <utility>

#include "base/error.h"
#include "base/json.h"
#include "model/folder.h"

namespace rill {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kSingle = "model.safetensors";
constexpr std::string_view kIndex = "model.safetensors.index.json";
constexpr std::string_view kPrefix = "model.";
constexpr std::string_view kAgain = "; download the checkpoint again";
// The largest published index names 36,000 tensors.
constexpr JsonLimits kIndexLimits{size_t{64} << 20, 8, size_t{1} << 20};

std::string without_prefix(std::string_view name) {
  if (name.starts_with(kPrefix)) name.remove_prefix(kPrefix.size());
  return std::string(name);
}

bool computes_with(DType dtype) {
  return dtype == DType::BF16 || dtype == DType::F16 || dtype == DType::F32;
}

/// Tensor name -> file name, as model.safetensors.index.json maps them.
std::map<std::string, std::string> read_index(const fs::path& path) {
  const Json json = load_json(path, kIndexLimits);
  const JsonObject index(json, path.string(), "", "download it again");
  const auto weight_map = index.object("weight_map");
  if (!weight_map || weight_map->value().empty()) {
    index.wrong("weight_map", "an object from tensor names to file names");
  }
  std::map<std::string, std::string> files;
  for (const auto& [tensor, file] : weight_map->value().items()) {
    // A name with a separator could lead out of the folder.
    if (!file.is_string() ||
        file.get_ref<const std::string&>().find_first_of("/\\") != std::string::npos ||
        !file.get_ref<const std::string&>().ends_with(".safetensors")) {
      fail(path.string(), ": weight_map says that ", quote(tensor), " is in ", describe(file),
           ", expected the plain name of a .safetensors file of the same folder", kAgain);
    }
    files.emplace(tensor, file.get<std::string>());
  }
  return files;
}

/// The place N in "layers.N.rest"; npos for other names.
size_t layer_of(std::string_view name) {
  constexpr std::string_view kLayers = "layers.";
  if (!name.starts_with(kLayers)) return std::string::npos;
  name.remove_prefix(kLayers.size());
  size_t layer = std::string::npos;
  const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), layer);
  return error == std::errc() ? layer : std::string::npos;
}

bool is_projection_bias(std::string_view name) {
  return name.find("self_attn.") != std::string_view::npos && name.ends_with("_proj.bias");
}

}  // namespace

Checkpoint Checkpoint::open(const fs::path& folder) {
  require_folder(folder);
  Checkpoint checkpoint;
  checkpoint.folder_ = folder.string();
  std::error_code error;
  if (fs::exists(folder / kSingle, error)) {
    checkpoint.add_file(MappedFile::open(folder / kSingle));
    return checkpoint;
  }
  if (!fs::exists(folder / kIndex, error)) {
    fail_not_checkpoint(folder, std::string(kSingle) + " and no " + std::string(kIndex));
  }
  const auto files = read_index(folder / kIndex);
  std::set<std::string> names;
  for (const auto& [tensor, file] : files) names.insert(file);
  for (const std::string& name : names) {
    if (!fs::exists(folder / name, error)) {
      fail((folder / name).string(), " is missing, expected it as one of ", names.size(),
           " shards that ", kIndex, " names; download it");
    }
    checkpoint.add_file(MappedFile::open(folder / name));
  }
  for (const auto& [tensor, file] : files) {
    const TensorInfo* info = checkpoint.find(tensor);
    if (info == nullptr || info->name != tensor || info->file != (folder / file).string()) {
      fail((folder / kIndex).string(), ": tensor ", quote(tensor), " is not in ", file,
           ", where weight_map expects it", kAgain);
    }
  }
  return checkpoint;
}

void Checkpoint::add_file(MappedFile file) {
  for (TensorInfo& tensor : parse_safetensors(file.bytes(), file.name())) {
    const auto [at, is_new] = index_.emplace(without_prefix(tensor.name), tensors_.size());
    if (!is_new) {
      const TensorInfo& other = tensors_[at->second];
      fail(tensor.file, ": tensor ", quote(tensor.name), " occurs a second time, after ",
           quote(other.name), " of ", other.file, ", expected each tensor once", kAgain);
    }
    tensors_.push_back(std::move(tensor));
  }
  files_.push_back(std::move(file));
}

const TensorInfo* Checkpoint::find(std::string_view name) const {
  const auto at = index_.find(without_prefix(name));
  return at == index_.end() ? nullptr : &tensors_[at->second];
}

const TensorInfo& Checkpoint::get(std::string_view name, const std::vector<size_t>& shape) const {
  const TensorInfo* tensor = find(name);
  if (tensor == nullptr) {
    fail(folder_, " has no tensor ", quote(name), ", expected it with shape ", shape_text(shape),
         "; take a checkpoint whose config.json belongs to its weights");
  }
  if (tensor->shape != shape) {
    fail(tensor->file, ": tensor ", quote(tensor->name), " has shape ", shape_text(tensor->shape),
         ", expected ", shape_text(shape), " by config.json",
         "; take a checkpoint whose config.json belongs to its weights");
  }
  if (!computes_with(tensor->dtype)) {
    fail(tensor->file, ": tensor ", quote(tensor->name), " is of type ", dtype_name(tensor->dtype),
         ", expected BF16, F16 or F32; take the unquantised checkpoint of the same name");
  }
  return *tensor;
}

void Checkpoint::check(const ModelConfig& config) const {
  if (!config.tie_word_embeddings && find("lm_head.weight") == nullptr) {
    fail(folder_, " has no tensor \"lm_head.weight\", expected it because tie_word_embeddings is ",
         "false in config.json; take a checkpoint of a language model, not of embeddings alone");
  }
  for (const TensorSpec& spec : model_tensors(config, DType::F32)) get(spec.name, spec.shape);
  for (const TensorInfo& tensor : tensors_) {
    const std::string name = without_prefix(tensor.name);
    const size_t layer = layer_of(name);
    if (layer == std::string::npos) continue;
    if (layer >= config.num_layers) {
      fail(tensor.file, ": tensor ", quote(tensor.name), " belongs to layer ", layer,
           ", expected layers 0 to ", config.num_layers - 1, " by num_hidden_layers of config.json",
           "; take a checkpoint whose config.json belongs to its weights");
    }
    if (!config.attention_bias && is_projection_bias(name)) {
      fail(tensor.file, ": tensor ", quote(tensor.name), " is a bias, expected none because ",
           "attention_bias is false in config.json",
           "; take a checkpoint whose config.json belongs to its weights");
    }
  }
}

void Checkpoint::release(const TensorInfo& tensor) const {
  const std::less_equal<const std::byte*> not_after;
  for (const MappedFile& file : files_) {
    const auto all = file.bytes();
    if (not_after(all.data(), tensor.bytes.data()) &&
        not_after(tensor.bytes.data() + tensor.bytes.size(), all.data() + all.size())) {
      file.release(tensor.bytes);
      return;
    }
  }
}

std::vector<TensorSpec> model_tensors(const ModelConfig& c, DType dtype) {
  std::vector<TensorSpec> all;
  const auto add = [&](std::string name, std::vector<size_t> shape) {
    all.push_back({std::move(name), dtype, std::move(shape)});
  };
  const size_t q = c.num_heads * c.head_dim, kv = c.num_kv_heads * c.head_dim;
  const auto add_projection = [&](const std::string& name, size_t out, size_t in) {
    add(name + ".weight", {out, in});
    if (c.attention_bias) add(name + ".bias", {out});
  };
  add("model.embed_tokens.weight", {c.vocab_size, c.hidden_size});
  for (size_t layer = 0; layer < c.num_layers; ++layer) {
    const std::string at = "model.layers." + std::to_string(layer) + ".";
    add(at + "input_layernorm.weight", {c.hidden_size});
    add_projection(at + "self_attn.q_proj", q, c.hidden_size);
    add_projection(at + "self_attn.k_proj", kv, c.hidden_size);
    add_projection(at + "self_attn.v_proj", kv, c.hidden_size);
    add(at + "self_attn.q_norm.weight", {c.head_dim});
    add(at + "self_attn.k_norm.weight", {c.head_dim});
    add_projection(at + "self_attn.o_proj", c.hidden_size, q);
    add(at + "post_attention_layernorm.weight", {c.hidden_size});
    add(at + "mlp.gate_proj.weight", {c.intermediate_size, c.hidden_size});
    add(at + "mlp.up_proj.weight", {c.intermediate_size, c.hidden_size});
    add(at + "mlp.down_proj.weight", {c.hidden_size, c.intermediate_size});
  }
  add("model.norm.weight", {c.hidden_size});
  if (!c.tie_word_embeddings) add("lm_head.weight", {c.vocab_size, c.hidden_size});
  return all;
}

}  // namespace rill
