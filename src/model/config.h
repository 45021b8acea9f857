// SPDX-License-Identifier: Apache-2.0
// config.json and generation_config.json of a Hugging Face Qwen3 checkpoint.
#pragma once
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace rill {

/// YaRN position scaling (arXiv 2309.00071) with the fields that Transformers'
/// `_compute_yarn_parameters` honours.
struct YarnScaling {
  double factor = 1;                            // >= 1
  double original_max_position_embeddings = 0;  // > 0; the length of pre-training
  double beta_fast = 32, beta_slow = 1;         // beta_fast >= beta_slow > 0
  /// What cosine and sine are multiplied with; if absent, m(mscale) / m(mscale_all_dim) where both
  /// are given, else m(1), with m(s) = 0.1 · s · ln(factor) + 1.
  std::optional<double> attention_factor;
  std::optional<double> mscale, mscale_all_dim;  // both or neither; not zero
  bool truncate = true;                          // round the ends of the ramp to whole dimensions
};

/// A validated dense Qwen3 configuration: the only source of sizes. After `from_json` every size is
/// at least 1, head_dim is even, num_heads is a multiple of num_kv_heads, and no product of sizes
/// that describes a tensor, all tensors, or the KV cache of max_position_embeddings tokens
/// overflows size_t, counted in bytes of fp32.
struct ModelConfig {
  size_t hidden_size = 0;
  size_t intermediate_size = 0;
  size_t num_layers = 0;
  size_t num_heads = 0;
  size_t num_kv_heads = 0;
  size_t head_dim = 0;
  size_t vocab_size = 0;
  size_t max_position_embeddings = 0;
  float rms_norm_eps = 0;  // > 0, finite
  double rope_theta = 0;   // > 1, finite
  std::optional<YarnScaling> yarn;
  bool tie_word_embeddings = false;
  bool attention_bias = false;          // q, k, v and o have biases
  std::vector<int32_t> eos_token_ids;   // each in [0, vocab_size)
  std::optional<int32_t> bos_token_id;  // Qwen3 puts none before a prompt
  std::string architecture;             // "Qwen3ForCausalLM"

  /// Reads folder/config.json. Throws Error for a folder that is not a checkpoint (saying what was
  /// looked for) and for what Rill does not run (saying which checkpoint to take instead).
  static ModelConfig load(const std::filesystem::path& folder);
  /// The same from a text; `name` stands for the file in errors.
  static ModelConfig from_json(std::string_view text, std::string_view name);

  /// Elements of all tensors, a tied embedding counted once.
  size_t parameter_count() const;
};

/// A size of the published Qwen3 series, by the name that users know it by.
struct PublishedModel {
  std::string_view name;        // "qwen3-0.6b"
  std::string_view repository;  // "Qwen/Qwen3-0.6B"
  size_t hidden_size, num_layers, num_heads, intermediate_size;
  bool tie_word_embeddings;

  /// The configuration as published.
  ModelConfig config() const;
  /// The text of its config.json.
  std::string config_json() const;
};

/// The dense sizes, 0.6B to 32B, in ascending order.
const std::vector<PublishedModel>& published_models();
/// By name, in any case, with or without "qwen3-"; throws Error listing the names.
const PublishedModel& published_model(std::string_view name);

/// The parts of generation_config.json that Rill honours; a value that the file does not give is
/// absent here.
struct GenerationConfig {
  std::optional<double> temperature;         // >= 0
  std::optional<double> top_p;               // (0, 1]
  std::optional<double> min_p;               // [0, 1]
  std::optional<size_t> top_k;               // 0: off
  std::optional<double> repetition_penalty;  // > 0
  std::optional<bool> do_sample;
  std::vector<int32_t> eos_token_ids;

  /// Reads folder/generation_config.json; without such a file everything is absent.
  static GenerationConfig load(const std::filesystem::path& folder);
  static GenerationConfig from_json(std::string_view text, std::string_view name);
};

}  // namespace rill
