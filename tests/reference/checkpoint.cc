// SPDX-License-Identifier: Apache-2.0
// A minimal reader of safetensors and config.json for the twin; trusts the tests' own files.
#include <bit>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>
#include <stdexcept>

#include "model.h"

namespace rill::reference {
namespace {

using nlohmann::json;

json read_json(const std::string& path) {
  std::ifstream file(path);
  if (!file) throw std::runtime_error(path + " cannot be read");
  return json::parse(file);
}

template <typename T>
T at_offset(const std::string& bytes, size_t offset) {
  T value;
  std::memcpy(&value, bytes.data() + offset, sizeof value);
  return value;
}

double element(const std::string& dtype, const std::string& bytes, size_t i) {
  if (dtype == "BF16") return float_from_bf16(at_offset<uint16_t>(bytes, 2 * i));
  if (dtype == "F16") return float_from_f16(at_offset<uint16_t>(bytes, 2 * i));
  if (dtype == "F32") return at_offset<float>(bytes, 4 * i);
  if (dtype == "I32") return at_offset<int32_t>(bytes, 4 * i);
  if (dtype == "F64") return at_offset<double>(bytes, 8 * i);
  throw std::runtime_error("dtype " + dtype + " is not read");
}

// A field of rope_parameters or rope_scaling; null counts as absent.
double number_or(const json& object, const char* key, double fallback) {
  const auto it = object.find(key);
  return it == object.end() || it->is_null() ? fallback : it->get<double>();
}

}  // namespace

std::map<std::string, WideTensor> read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  uint64_t header_size = 0;
  if (!file.read(reinterpret_cast<char*>(&header_size), 8) || header_size > 100'000'000) {
    throw std::runtime_error(path + " is not a safetensors file");
  }
  std::string header(header_size, '\0');
  file.read(header.data(), static_cast<std::streamsize>(header_size));
  std::map<std::string, WideTensor> tensors;
  const json fields = json::parse(header);  // kept: items() borrows it
  for (const auto& [name, entry] : fields.items()) {
    if (name == "__metadata__") continue;
    WideTensor tensor{entry.at("shape"), {}, entry.at("dtype")};
    const uint64_t begin = entry.at("data_offsets").at(0), end = entry.at("data_offsets").at(1);
    std::string bytes(end - begin, '\0');
    file.seekg(static_cast<std::streamoff>(8 + header_size + begin));
    if (!file.read(bytes.data(), static_cast<std::streamsize>(bytes.size()))) {
      throw std::runtime_error(path + " ends before " + name);
    }
    size_t count = 1;
    for (const int64_t size : tensor.shape) count *= static_cast<size_t>(size);
    const size_t width = tensor.dtype == "F64"                             ? 8
                         : tensor.dtype == "BF16" || tensor.dtype == "F16" ? 2
                                                                           : 4;
    if (count * width != bytes.size()) throw std::runtime_error(name + " has a wrong size");
    tensor.values.resize(count);
    for (size_t i = 0; i < count; ++i) tensor.values[i] = element(tensor.dtype, bytes, i);
    tensors.emplace(name, std::move(tensor));
  }
  return tensors;
}

std::map<std::string, Tensor> read_tensors(const std::string& folder) {
  std::set<std::string> files;
  const std::string index = folder + "/model.safetensors.index.json";
  if (std::filesystem::exists(index)) {
    const json fields = read_json(index);
    for (const auto& file : fields.at("weight_map")) files.insert(file.get<std::string>());
  } else {
    files.insert("model.safetensors");
  }
  std::map<std::string, Tensor> tensors;
  for (const std::string& name : files) {
    for (auto& [key, wide] : read_file(folder + "/" + name)) {
      const std::string bare = key.rfind("model.", 0) == 0 ? key.substr(6) : key;
      tensors[bare] = {wide.shape, {wide.values.begin(), wide.values.end()}, wide.dtype};
    }
  }
  return tensors;
}

Config read_config(const std::string& folder) {
  const json c = read_json(folder + "/config.json");
  if (c.value("model_type", "") != "qwen3") throw std::runtime_error(folder + " is not a Qwen3");
  Config config;
  config.hidden = c.at("hidden_size");
  config.layers = c.at("num_hidden_layers");
  config.heads = c.at("num_attention_heads");
  config.kv_heads = c.value("num_key_value_heads", config.heads);
  config.head_dim = c.value("head_dim", config.hidden / config.heads);
  config.intermediate = c.at("intermediate_size");
  config.vocabulary = c.at("vocab_size");
  config.eps = static_cast<float>(c.value("rms_norm_eps", 1e-6));
  config.tied = c.value("tie_word_embeddings", false);

  json rope = json::object();
  for (const char* key : {"rope_parameters", "rope_scaling"}) {
    if (c.contains(key) && c[key].is_object()) rope = c[key];
  }
  Rope& out = config.rope;
  out.head_dim = static_cast<int>(config.head_dim);
  out.theta = number_or(rope, "rope_theta", number_or(c, "rope_theta", 10000.0));
  const std::string type = rope.value("rope_type", rope.value("type", "default"));
  if (type == "default") return config;
  if (type != "yarn") throw std::runtime_error("rope type " + type + " is not known to the twin");
  out.yarn = true;
  out.factor = rope.at("factor");
  const double longest = number_or(c, "max_position_embeddings", 0.0);
  out.original_max_position_embeddings =
      number_or(rope, "original_max_position_embeddings", longest);
  out.beta_fast = number_or(rope, "beta_fast", 32.0);
  out.beta_slow = number_or(rope, "beta_slow", 1.0);
  out.attention_factor = number_or(rope, "attention_factor", 0.0);
  out.mscale = number_or(rope, "mscale", 0.0);
  out.mscale_all_dim = number_or(rope, "mscale_all_dim", 0.0);
  out.truncate = rope.value("truncate", true);
  return config;
}

}  // namespace rill::reference
