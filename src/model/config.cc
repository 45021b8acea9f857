// SPDX-License-Identifier: Apache-2.0
#include "model/config.h"

#include <cmath>
#include <system_error>
#include <utility>

#include "base/error.h"
#include "base/json.h"
#include "base/mapped_file.h"
#include "model/folder.h"

namespace rill {
namespace {

namespace fs = std::filesystem;

// Several times beyond any published model, and small enough that no product of them that counts
// bytes comes near 2^63: weights stay below 2^58 and the KV cache below 2^60.
constexpr size_t kMaxHidden = size_t{1} << 20;
constexpr size_t kMaxIntermediate = size_t{1} << 22;
constexpr size_t kMaxLayers = 4096;
constexpr size_t kMaxHeads = size_t{1} << 14;
constexpr size_t kMaxHeadDim = 4096;
constexpr size_t kMaxAttentionWidth = size_t{1} << 20;  // heads × head_dim
constexpr size_t kMaxVocabulary = size_t{1} << 24;
constexpr size_t kMaxPositions = size_t{1} << 24;
constexpr size_t kMaxEosTokens = 1024;
constexpr size_t kDefaultHeadDim = 128;  // of Transformers' Qwen3Config, whatever the sizes
constexpr double kMaxScaling = 1e6;

constexpr std::string_view kAdvice = "take the config.json that was published with the weights";
constexpr std::string_view kDense =
    "take a dense Qwen3, for instance Qwen/Qwen3-0.6B or Qwen/Qwen3-8B";

/// The published model of these sizes, for advice; lenient, since the rest is not checked yet.
std::string_view nearest_repository(const JsonObject& config) {
  for (const PublishedModel& model : published_models()) {
    const Json* hidden = config.find("hidden_size");
    const Json* layers = config.find("num_hidden_layers");
    if (hidden && layers && *hidden == model.hidden_size && *layers == model.num_layers) {
      return model.repository;
    }
  }
  return "Qwen/Qwen3-0.6B";
}

std::string read_architecture(const JsonObject& config) {
  const Json* list = config.find("architectures");
  if (list == nullptr) return "";
  if (!list->is_array() || list->empty() || !list->front().is_string()) {
    config.wrong("architectures", "a list such as [\"Qwen3ForCausalLM\"]");
  }
  return list->front().get<std::string>();
}

/// Throws unless this is a dense Qwen3; returns its architecture.
std::string check_architecture(const JsonObject& config) {
  const std::string architecture = read_architecture(config);
  const std::string type = config.string("model_type", "");
  if (architecture.empty() && type.empty()) config.wrong("model_type", "\"qwen3\"");
  const std::string shown =
      quote(type.empty() ? architecture : type) +
      (type.empty() || architecture.empty() ? "" : " (" + quote(architecture) + ")");
  const std::string both = type + architecture;
  const Json* experts = config.find("num_experts");
  if (both.find("moe") != std::string::npos || both.find("Moe") != std::string::npos ||
      (experts != nullptr && *experts != 0)) {
    fail(config.file(), " describes ", shown, ", a mixture of experts, which Rill does not run, ",
         "expected a dense model of type \"qwen3\"; ", kDense);
  }
  if (!type.empty() && type != "qwen3") {
    fail(config.file(), " describes a model of type ", shown, ", which Rill does not run, ",
         "expected \"qwen3\"; ", kDense);
  }
  if (!architecture.empty() && architecture != "Qwen3ForCausalLM" && architecture != "Qwen3Model") {
    fail(config.file(), " describes the architecture ", quote(architecture),
         ", which Rill does not run, expected \"Qwen3ForCausalLM\"; ", kDense);
  }
  return architecture.empty() ? "Qwen3ForCausalLM" : architecture;
}

void check_quantization(const JsonObject& config) {
  for (const char* key : {"quantization_config", "compression_config"}) {
    const Json* value = config.find(key);
    if (value == nullptr) continue;
    if (!value->is_object()) config.wrong(key, "an object, or none");
    if (value->empty()) continue;
    const auto method = value->find("quant_method");
    fail(config.file(), ": ", key, " says that the weights are quantised",
         method == value->end() ? "" : " as " + describe(*method),
         ", which Rill does not read, expected BF16, F16 or F32 weights; take the unquantised "
         "checkpoint of the same name, for instance ",
         nearest_repository(config), ", and let Rill quantise it (--weights int8 or int4)");
  }
}

void check_activation_and_windows(const JsonObject& config, size_t layers) {
  const std::string activation = config.string("hidden_act", "silu");
  if (activation != "silu" && activation != "swish") {
    fail(config.file(), ": hidden_act is ", quote(activation),
         ", which Rill does not run, expected \"silu\" as in every Qwen3; ", kDense);
  }
  if (config.boolean("use_sliding_window", false)) {
    fail(config.file(), ": use_sliding_window is true, which Rill does not run, expected false as ",
         "in the published Qwen3; take one with full attention, for instance ",
         nearest_repository(config));
  }
  const Json* types = config.find("layer_types");
  if (types == nullptr) return;
  if (!types->is_array() || types->size() != layers) {
    config.wrong("layer_types", "a list of num_hidden_layers = " + std::to_string(layers));
  }
  for (const Json& type : *types) {
    if (type != "full_attention") {
      fail(config.file(), ": layer_types holds ", describe(type),
           ", which Rill does not run, expected \"full_attention\" in every layer; take for ",
           "instance ", nearest_repository(config));
    }
  }
}

double read_positive(const JsonObject& object, const char* key, double below) {
  const double value = object.number(key);
  if (!(value > 0) || value > below) object.wrong(key, "a number above 0 and not absurdly large");
  return value;
}

/// Fields as `_compute_yarn_parameters` of Transformers reads them: zero and null are defaults.
YarnScaling read_yarn(const JsonObject& rope, const JsonObject& config, size_t positions) {
  const auto optional_positive = [&](const char* key, double below) -> std::optional<double> {
    const auto value = rope.optional_number(key);
    if (!value || *value == 0) return std::nullopt;
    return read_positive(rope, key, below);
  };
  YarnScaling yarn;
  const JsonObject& source = config.has("original_max_position_embeddings") ? config : rope;
  yarn.original_max_position_embeddings =
      source.has("original_max_position_embeddings")
          ? static_cast<double>(source.size("original_max_position_embeddings", 1, kMaxPositions))
          : static_cast<double>(positions);
  yarn.factor = rope.optional_number("factor").value_or(static_cast<double>(positions) /
                                                        yarn.original_max_position_embeddings);
  if (!(yarn.factor >= 1) || yarn.factor > kMaxScaling) {
    rope.wrong("factor", "a number from 1 to 1000000");
  }
  yarn.beta_fast = optional_positive("beta_fast", kMaxScaling).value_or(yarn.beta_fast);
  yarn.beta_slow = optional_positive("beta_slow", kMaxScaling).value_or(yarn.beta_slow);
  if (yarn.beta_fast < yarn.beta_slow) rope.wrong("beta_fast", "at least beta_slow");
  if (rope.has("attention_factor")) {
    yarn.attention_factor = read_positive(rope, "attention_factor", kMaxScaling);
  }
  yarn.mscale = optional_positive("mscale", kMaxScaling);
  yarn.mscale_all_dim = optional_positive("mscale_all_dim", kMaxScaling);
  if (!yarn.mscale || !yarn.mscale_all_dim) yarn.mscale = yarn.mscale_all_dim = std::nullopt;
  yarn.truncate = rope.boolean("truncate", true);
  return yarn;
}

std::string rope_type(const JsonObject& rope) {
  return rope.string("rope_type", rope.string("type", "default"));
}

/// One of rope_scaling (older) and rope_parameters (newer), or nothing; both must not disagree.
std::optional<JsonObject> read_rope_object(const JsonObject& config) {
  const auto older = config.object("rope_scaling"), newer = config.object("rope_parameters");
  if (!older || older->value().empty()) return newer;
  if (newer && !newer->value().empty() && rope_type(*newer) != rope_type(*older)) {
    newer->wrong("rope_type", quote(rope_type(*older)) + " as in rope_scaling");
  }
  return older;
}

void check_rope(const JsonObject& rope) {
  for (const auto& [key, value] : rope.value().items()) {
    if (value.is_object()) {
      fail(rope.file(), ": the rotary parameters differ by kind of layer (", quote(key),
           "), which Rill does not run, expected one set for all layers; ", kDense);
    }
  }
  const std::string type = rope_type(rope);
  if (type != "default" && type != "yarn") {
    fail(rope.file(), ": the rope type is ", quote(type),
         ", which Rill does not run, expected \"default\" or \"yarn\"; ", kDense);
  }
}

void check_whole_rotation(const JsonObject& object) {
  if (object.optional_number("partial_rotary_factor").value_or(1) != 1) {
    object.wrong("partial_rotary_factor", "1 as in every Qwen3");
  }
}

void read_positions(const JsonObject& config, ModelConfig& out) {
  out.max_position_embeddings = config.size("max_position_embeddings", 1, kMaxPositions);
  check_whole_rotation(config);
  const auto rope = read_rope_object(config);
  const JsonObject& source = rope && rope->has("rope_theta") ? *rope : config;
  out.rope_theta = source.number("rope_theta");
  if (!(out.rope_theta > 1)) source.wrong("rope_theta", "a number above 1, such as 1000000");
  if (config.has("rope_theta") && config.number("rope_theta") != out.rope_theta) {
    source.wrong("rope_theta",
                 "the same as the other rope_theta, " + describe(*config.find("rope_theta")));
  }
  if (!rope) return;
  check_rope(*rope);
  check_whole_rotation(*rope);
  if (rope_type(*rope) == "yarn") out.yarn = read_yarn(*rope, config, out.max_position_embeddings);
}

/// eos_token_id: one id or a list of them, each below `end`.
std::vector<int32_t> read_eos(const JsonObject& config, size_t end) {
  const Json* value = config.find("eos_token_id");
  if (value == nullptr) return {};
  const std::string expected =
      "an id below " + std::to_string(end) + " or a short list of such ids";
  const Json list = value->is_array() ? *value : Json::array({*value});
  if (list.size() > kMaxEosTokens) config.wrong("eos_token_id", expected);
  std::vector<int32_t> ids;
  for (const Json& id : list) {
    if (!id.is_number_unsigned() || id.get<uint64_t>() >= end) {
      config.wrong("eos_token_id", expected);
    }
    ids.push_back(id.get<int32_t>());
  }
  return ids;
}

void read_heads(const JsonObject& config, ModelConfig& out) {
  out.num_heads = config.size("num_attention_heads", 1, kMaxHeads);
  // Present but null means one KV head for each head, as in Transformers.
  const bool null_kv =
      config.value().contains("num_key_value_heads") && !config.has("num_key_value_heads");
  out.num_kv_heads = null_kv ? out.num_heads : config.size("num_key_value_heads", 1, kMaxHeads);
  out.head_dim = config.has("head_dim") ? config.size("head_dim", 2, kMaxHeadDim) : kDefaultHeadDim;
  if (out.num_heads % out.num_kv_heads != 0) {
    config.wrong("num_key_value_heads",
                 "a divisor of num_attention_heads = " + std::to_string(out.num_heads));
  }
  if (out.head_dim % 2 != 0) {
    config.wrong("head_dim", "an even number, since rotary embedding turns pairs");
  }
  if (out.num_heads * out.head_dim > kMaxAttentionWidth) {
    config.wrong("num_attention_heads",
                 "at most " + std::to_string(kMaxAttentionWidth) +
                     " when multiplied by head_dim = " + std::to_string(out.head_dim));
  }
}

}  // namespace

ModelConfig ModelConfig::from_json(std::string_view text, std::string_view name) {
  const Json json = parse_json(text, name);
  const JsonObject config(json, std::string(name), "", std::string(kAdvice));
  ModelConfig out;
  out.architecture = check_architecture(config);
  check_quantization(config);
  out.hidden_size = config.size("hidden_size", 1, kMaxHidden);
  out.intermediate_size = config.size("intermediate_size", 1, kMaxIntermediate);
  out.num_layers = config.size("num_hidden_layers", 1, kMaxLayers);
  out.vocab_size = config.size("vocab_size", 1, kMaxVocabulary);
  read_heads(config, out);
  check_activation_and_windows(config, out.num_layers);
  const double epsilon = config.number("rms_norm_eps");
  out.rms_norm_eps = static_cast<float>(epsilon);
  if (!std::isnormal(out.rms_norm_eps) || epsilon < 0 || epsilon >= 1) {
    config.wrong("rms_norm_eps", "a number between 0 and 1, such as 1e-6");
  }
  read_positions(config, out);
  out.tie_word_embeddings = config.boolean("tie_word_embeddings", false);
  out.attention_bias = config.boolean("attention_bias", false);
  out.eos_token_ids = read_eos(config, out.vocab_size);
  out.bos_token_id = config.optional_id("bos_token_id");
  return out;
}

size_t ModelConfig::parameter_count() const {
  const size_t q = num_heads * head_dim, kv = num_kv_heads * head_dim;
  const size_t attention = hidden_size * (2 * q + 2 * kv) + 2 * head_dim +
                           (attention_bias ? q + 2 * kv + hidden_size : 0);
  const size_t layer = attention + 3 * hidden_size * intermediate_size + 2 * hidden_size;
  const size_t embeddings = vocab_size * hidden_size * (tie_word_embeddings ? 1 : 2);
  return num_layers * layer + embeddings + hidden_size;
}

ModelConfig ModelConfig::load(const fs::path& folder) {
  require_folder(folder);
  const fs::path path = folder / "config.json";
  std::error_code error;
  if (fs::status(path, error).type() == fs::file_type::not_found) {
    fail_not_checkpoint(folder, "config.json");
  }
  const MappedFile file = MappedFile::open(path);
  return from_json(file.text(), file.name());
}

GenerationConfig GenerationConfig::from_json(std::string_view text, std::string_view name) {
  const Json json = parse_json(text, name);
  const JsonObject config(json, std::string(name), "",
                          "take the generation_config.json that was published with the weights");
  const auto in_range = [&](const char* key, double min, double max, const char* expected) {
    const auto value = config.optional_number(key);
    if (value && !(*value >= min && *value <= max)) config.wrong(key, expected);
    return value;
  };
  GenerationConfig out;
  out.temperature = in_range("temperature", 0, 1e6, "a number that is not negative");
  out.top_p = in_range("top_p", 1e-9, 1, "a number above 0 and at most 1");
  out.min_p = in_range("min_p", 0, 1, "a number from 0 to 1");
  out.repetition_penalty = in_range("repetition_penalty", 1e-6, 1e6, "a number above 0");
  if (config.has("top_k")) out.top_k = config.size("top_k", 0, kMaxVocabulary);
  if (config.has("do_sample")) out.do_sample = config.boolean("do_sample", false);
  out.eos_token_ids = read_eos(config, kMaxVocabulary);
  return out;
}

GenerationConfig GenerationConfig::load(const fs::path& folder) {
  require_folder(folder);
  const fs::path path = folder / "generation_config.json";
  std::error_code error;
  if (fs::status(path, error).type() == fs::file_type::not_found) return {};
  const MappedFile file = MappedFile::open(path);
  return from_json(file.text(), file.name());
}

}  // namespace rill
