// SPDX-License-Identifier: Apache-2.0
// The sizes of the published dense Qwen3 models (https://huggingface.co/Qwen).
#include <algorithm>
#include <cctype>
#include <nlohmann/json.hpp>
#include <string>

#include "base/error.h"
#include "model/config.h"

namespace rill {
namespace {

// What all sizes share.
constexpr size_t kKvHeads = 8, kHeadDim = 128, kVocabulary = 151936, kPositions = 40960;

}  // namespace

const std::vector<PublishedModel>& published_models() {
  static const std::vector<PublishedModel> models = {
      {"qwen3-0.6b", "Qwen/Qwen3-0.6B", 1024, 28, 16, 3072, true},
      {"qwen3-1.7b", "Qwen/Qwen3-1.7B", 2048, 28, 16, 6144, true},
      {"qwen3-4b", "Qwen/Qwen3-4B", 2560, 36, 32, 9728, true},
      {"qwen3-8b", "Qwen/Qwen3-8B", 4096, 36, 32, 12288, false},
      {"qwen3-14b", "Qwen/Qwen3-14B", 5120, 40, 40, 17408, false},
      {"qwen3-32b", "Qwen/Qwen3-32B", 5120, 64, 64, 25600, false},
  };
  return models;
}

const PublishedModel& published_model(std::string_view name) {
  std::string wanted(name), names;
  std::transform(wanted.begin(), wanted.end(), wanted.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  for (const PublishedModel& model : published_models()) {
    if (wanted == model.name || "qwen3-" + wanted == model.name) return model;
    names += (names.empty() ? "" : ", ") + std::string(model.name);
  }
  fail("there is no published size named '", name, "', expected one of ", names);
}

std::string PublishedModel::config_json() const {
  const nlohmann::ordered_json config = {
      {"architectures", {"Qwen3ForCausalLM"}},
      {"attention_bias", false},
      {"attention_dropout", 0.0},
      {"bos_token_id", 151643},
      {"eos_token_id", 151645},
      {"head_dim", kHeadDim},
      {"hidden_act", "silu"},
      {"hidden_size", hidden_size},
      {"initializer_range", 0.02},
      {"intermediate_size", intermediate_size},
      {"max_position_embeddings", kPositions},
      {"max_window_layers", num_layers},
      {"model_type", "qwen3"},
      {"num_attention_heads", num_heads},
      {"num_hidden_layers", num_layers},
      {"num_key_value_heads", kKvHeads},
      {"rms_norm_eps", 1e-06},
      {"rope_scaling", nullptr},
      {"rope_theta", 1000000},
      {"sliding_window", nullptr},
      {"tie_word_embeddings", tie_word_embeddings},
      {"torch_dtype", "bfloat16"},
      {"transformers_version", "4.51.0"},
      {"use_cache", true},
      {"use_sliding_window", false},
      {"vocab_size", kVocabulary},
  };
  return config.dump(2) + "\n";
}

ModelConfig PublishedModel::config() const {
  return ModelConfig::from_json(config_json(), std::string(repository) + "/config.json");
}

}  // namespace rill
