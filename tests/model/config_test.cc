// SPDX-License-Identifier: Apache-2.0
#include "model/config.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <functional>
#include <string>
#include <vector>

#include "base/json.h"
#include "model/test_folder.h"

namespace rill {
namespace {

Json good_config() {
  return Json::parse(published_model("qwen3-8b").config_json());
}

ModelConfig parse(const Json& json) {
  return ModelConfig::from_json(json.dump(), "config.json");
}

// ---- what loads -----------------------------------------------------------------------------

TEST(ModelConfig, ReadsThePublishedSpelling) {
  const ModelConfig config = parse(good_config());
  EXPECT_EQ(config.hidden_size, 4096u);
  EXPECT_EQ(config.intermediate_size, 12288u);
  EXPECT_EQ(config.num_layers, 36u);
  EXPECT_EQ(config.num_heads, 32u);
  EXPECT_EQ(config.num_kv_heads, 8u);
  EXPECT_EQ(config.head_dim, 128u);
  EXPECT_EQ(config.vocab_size, 151936u);
  EXPECT_EQ(config.max_position_embeddings, 40960u);
  EXPECT_EQ(config.rms_norm_eps, 1e-6f);
  EXPECT_EQ(config.rope_theta, 1e6);
  EXPECT_FALSE(config.yarn);
  EXPECT_FALSE(config.tie_word_embeddings);
  EXPECT_FALSE(config.attention_bias);
  EXPECT_EQ(config.eos_token_ids, std::vector<int32_t>{151645});
  EXPECT_EQ(config.bos_token_id, 151643);
  EXPECT_EQ(config.architecture, "Qwen3ForCausalLM");
}

TEST(ModelConfig, PublishedParameterCounts) {
  // As the model cards give them: 0.6B, 1.7B, 4B (4.02), 8B (8.19), 14B (14.8), 32B (32.8).
  const std::vector<double> billions = {0.596, 1.72, 4.02, 8.19, 14.77, 32.76};
  ASSERT_EQ(published_models().size(), billions.size());
  for (size_t i = 0; i < billions.size(); ++i) {
    const auto count = static_cast<double>(published_models()[i].config().parameter_count());
    EXPECT_NEAR(count / 1e9, billions[i], 0.005 * billions[i]) << published_models()[i].name;
  }
}

TEST(ModelConfig, FindsPublishedModelsByShortNames) {
  EXPECT_EQ(published_model("0.6B").name, "qwen3-0.6b");
  EXPECT_EQ(published_model("Qwen3-32B").repository, "Qwen/Qwen3-32B");
  expect_error([] { published_model("qwen3-9b"); }, {"qwen3-9b", "qwen3-8b", "expected one of"});
}

TEST(ModelConfig, LoadsEveryGoldenFolderButTheMixture) {
  size_t loaded = 0;
  for (const auto& entry : std::filesystem::directory_iterator(golden_folder())) {
    if (!std::filesystem::exists(entry.path() / "config.json")) continue;
    if (entry.path().filename() == "moe-bf16") {
      expect_error([&] { ModelConfig::load(entry.path()); }, {"qwen3_moe", "mixture of experts"});
      continue;
    }
    const ModelConfig config = ModelConfig::load(entry.path());
    EXPECT_EQ(config.max_position_embeddings, 4096u) << entry.path();
    EXPECT_EQ(config.eos_token_ids.size(), 1u) << entry.path();
    EXPECT_EQ(config.yarn.has_value(), entry.path().filename() == "yarn-bf16");
    EXPECT_EQ(config.attention_bias, entry.path().filename() == "bias-f32");
    const GenerationConfig generation = GenerationConfig::load(entry.path());
    EXPECT_EQ(generation.eos_token_ids, config.eos_token_ids);
    EXPECT_EQ(generation.do_sample, false);
    EXPECT_FALSE(generation.temperature);
    ++loaded;
  }
  EXPECT_EQ(loaded, 8u);
}

TEST(ModelConfig, BothSpellingsOfRotaryParametersAgree) {
  Json older = good_config(), newer = good_config();
  const Json yarn = {
      {"rope_type", "yarn"}, {"factor", 4.0}, {"original_max_position_embeddings", 32768}};
  older["rope_scaling"] = yarn;
  older["rope_scaling"].erase("rope_type");
  older["rope_scaling"]["type"] = "yarn";  // the oldest spelling of all
  newer.erase("rope_theta");
  newer.erase("rope_scaling");
  newer["rope_parameters"] = yarn;
  newer["rope_parameters"]["rope_theta"] = 1000000;
  for (const Json& json : {older, newer}) {
    const ModelConfig config = parse(json);
    EXPECT_EQ(config.rope_theta, 1e6);
    ASSERT_TRUE(config.yarn);
    EXPECT_EQ(config.yarn->factor, 4);
    EXPECT_EQ(config.yarn->original_max_position_embeddings, 32768);
    EXPECT_EQ(config.yarn->beta_fast, 32);
    EXPECT_EQ(config.yarn->beta_slow, 1);
    EXPECT_FALSE(config.yarn->attention_factor);
    EXPECT_FALSE(config.yarn->mscale);
    EXPECT_TRUE(config.yarn->truncate);
  }
}

TEST(ModelConfig, ReadsEveryFieldOfYarn) {
  Json json = good_config();
  json["rope_scaling"] = Json::parse(R"({"rope_type":"yarn","factor":8,"beta_fast":16,"beta_slow":2,
      "attention_factor":1.5,"mscale":0.7,"mscale_all_dim":0.9,"truncate":false})");
  const YarnScaling yarn = *parse(json).yarn;
  EXPECT_EQ(yarn.factor, 8);
  EXPECT_EQ(yarn.original_max_position_embeddings, 40960);  // absent: max_position_embeddings
  EXPECT_EQ(yarn.beta_fast, 16);
  EXPECT_EQ(yarn.beta_slow, 2);
  EXPECT_EQ(yarn.attention_factor, 1.5);
  EXPECT_EQ(yarn.mscale, 0.7);
  EXPECT_EQ(yarn.mscale_all_dim, 0.9);
  EXPECT_FALSE(yarn.truncate);
}

TEST(ModelConfig, DefaultsAreThoseOfTransformers) {
  Json json = good_config();
  for (const char* key : {"head_dim", "tie_word_embeddings", "attention_bias", "hidden_act",
                          "eos_token_id", "bos_token_id", "use_sliding_window", "rope_scaling"}) {
    json.erase(key);
  }
  json["hidden_size"] = 1024;
  json["num_key_value_heads"] = nullptr;
  json["quantization_config"] = nullptr;
  const ModelConfig config = parse(json);
  EXPECT_EQ(config.head_dim, 128u);  // not 1024 / 32
  EXPECT_EQ(config.num_kv_heads, 32u);
  EXPECT_FALSE(config.tie_word_embeddings);
  EXPECT_FALSE(config.attention_bias);
  EXPECT_TRUE(config.eos_token_ids.empty());
  EXPECT_FALSE(config.bos_token_id);
}

TEST(ModelConfig, EndOfTextMayBeAList) {
  Json json = good_config();
  json["eos_token_id"] = {151645, 151643};
  EXPECT_EQ(parse(json).eos_token_ids, (std::vector<int32_t>{151645, 151643}));
}

TEST(ModelConfig, LargestSizesDoNotOverflow) {
  Json json = good_config();
  json["hidden_size"] = 1 << 20;
  json["intermediate_size"] = 1 << 22;
  json["num_hidden_layers"] = 4096;
  json["num_attention_heads"] = 8192;
  json["num_key_value_heads"] = 8192;
  json["vocab_size"] = 1 << 24;
  json["max_position_embeddings"] = 1 << 24;
  const ModelConfig config = parse(json);
  EXPECT_LT(config.parameter_count(), size_t{1} << 57);
}

// ---- what is refused ------------------------------------------------------------------------

struct BadConfig {
  const char* name;
  std::function<void(Json&)> damage;
  std::vector<std::string> words;
};

std::vector<BadConfig> bad_configs() {
  const auto set = [](const char* key, Json value) {
    return [=](Json& json) { json[key] = value; };
  };
  const auto erase = [](const char* key) { return [=](Json& json) { json.erase(key); }; };
  const auto rope = [](const char* text) {
    return [=](Json& json) { json["rope_scaling"] = Json::parse(text); };
  };
  return {
      // Absent, of another kind, out of range.
      {"no hidden_size",
       erase("hidden_size"),
       {"hidden_size is absent", "config.json", "expected"}},
      {"no layers", erase("num_hidden_layers"), {"num_hidden_layers is absent"}},
      {"no heads", erase("num_attention_heads"), {"num_attention_heads is absent"}},
      {"no kv heads", erase("num_key_value_heads"), {"num_key_value_heads is absent"}},
      {"no intermediate", erase("intermediate_size"), {"intermediate_size is absent"}},
      {"no vocabulary", erase("vocab_size"), {"vocab_size is absent"}},
      {"no positions", erase("max_position_embeddings"), {"max_position_embeddings is absent"}},
      {"no epsilon", erase("rms_norm_eps"), {"rms_norm_eps is absent", "a number"}},
      {"no theta", erase("rope_theta"), {"rope_theta is absent"}},
      {"negative", set("hidden_size", -4096), {"hidden_size is -4096", "whole number"}},
      {"zero", set("num_hidden_layers", 0), {"num_hidden_layers is 0", "from 1 to 4096"}},
      {"fraction", set("vocab_size", 1000.5), {"vocab_size is 1000.5", "whole number"}},
      {"string", set("hidden_size", "4096"), {"hidden_size is \"4096\"", "whole number"}},
      {"list", set("hidden_size", Json::array({1, 2})), {"hidden_size is a list of 2"}},
      {"huge", set("hidden_size", uint64_t{1} << 63), {"hidden_size is 9223372036854775808"}},
      {"many layers", set("num_hidden_layers", 4097), {"num_hidden_layers is 4097", "4096"}},
      {"large vocabulary", set("vocab_size", 1 << 25), {"vocab_size is 33554432", "16777216"}},
      {"wide attention", set("num_attention_heads", 16384), {"num_attention_heads", "1048576"}},
      {"odd head", set("head_dim", 127), {"head_dim is 127", "even"}},
      {"head of one", set("head_dim", 1), {"head_dim is 1", "from 2"}},
      {"kv heads", set("num_key_value_heads", 5), {"num_key_value_heads is 5", "divisor", "32"}},
      {"more kv heads", set("num_key_value_heads", 64), {"num_key_value_heads is 64", "divisor"}},
      {"zero epsilon", set("rms_norm_eps", 0), {"rms_norm_eps is 0", "between 0 and 1"}},
      {"negative epsilon", set("rms_norm_eps", -1e-6), {"rms_norm_eps is -1e-06"}},
      {"tiny epsilon", set("rms_norm_eps", 1e-60), {"rms_norm_eps is 1e-60"}},
      {"zero theta", set("rope_theta", 0), {"rope_theta is 0", "above 1"}},
      {"theta as text", set("rope_theta", "1e6"), {"rope_theta is \"1e6\"", "finite number"}},
      {"tied as text",
       set("tie_word_embeddings", "yes"),
       {"tie_word_embeddings is \"yes\"", "true or false"}},
      {"eos beyond", set("eos_token_id", 151936), {"eos_token_id is 151936", "below 151936"}},
      {"eos negative", set("eos_token_id", {1, -1}), {"eos_token_id", "below 151936"}},
      {"bos negative", set("bos_token_id", -1), {"bos_token_id is -1"}},
      // Other models.
      {"llama", set("model_type", "llama"), {"\"llama\"", "Qwen/Qwen3-0.6B", "expected \"qwen3\""}},
      {"qwen2",
       [](Json& json) {
         json["model_type"] = "qwen2";
         json["architectures"] = {"Qwen2ForCausalLM"};
       },
       {"\"qwen2\"", "Qwen2ForCausalLM", "take a dense Qwen3"}},
      {"moe",
       [](Json& json) {
         json["model_type"] = "qwen3_moe";
         json["architectures"] = {"Qwen3MoeForCausalLM"};
       },
       {"\"qwen3_moe\"", "mixture of experts", "Qwen/Qwen3-8B"}},
      {"experts", set("num_experts", 128), {"mixture of experts"}},
      {"classifier",
       set("architectures", {"Qwen3ForSequenceClassification"}),
       {"Qwen3ForSequenceClassification"}},
      {"architectures", set("architectures", "Qwen3ForCausalLM"), {"architectures is", "a list"}},
      {"no type",
       [](Json& json) {
         json.erase("model_type");
         json.erase("architectures");
       },
       {"model_type is absent", "\"qwen3\""}},
      {"fp8",
       set("quantization_config", {{"quant_method", "fp8"}}),
       {"\"fp8\"", "unquantised", "Qwen/Qwen3-8B"}},
      {"awq",
       set("quantization_config", {{"quant_method", "awq"}, {"bits", 4}}),
       {"\"awq\"", "Qwen/Qwen3-8B", "int4"}},
      {"quantised",
       set("quantization_config", {{"bits", 4}}),
       {"quantization_config", "quantised"}},
      {"quantisation", set("quantization_config", "gptq"), {"quantization_config is \"gptq\""}},
      {"window", set("use_sliding_window", true), {"use_sliding_window is true", "Qwen/Qwen3-8B"}},
      {"layer window",
       [](Json& json) {
         json["layer_types"] = std::vector<std::string>(36, "full_attention");
         json["layer_types"][20] = "sliding_attention";
       },
       {"layer_types", "\"sliding_attention\""}},
      {"layer types", set("layer_types", {"full_attention"}), {"layer_types is a list of 1", "36"}},
      {"activation", set("hidden_act", "gelu"), {"hidden_act is \"gelu\"", "silu"}},
      // Rotary parameters.
      {"rope type", rope(R"({"rope_type":"llama3","factor":8})"), {"\"llama3\"", "\"yarn\""}},
      {"linear",
       rope(R"({"type":"linear","factor":2})"),
       {"\"linear\"", "\"default\" or \"yarn\""}},
      {"rope as list", rope("[1]"), {"rope_scaling is a list of 1", "JSON object"}},
      {"yarn factor",
       rope(R"({"rope_type":"yarn","factor":0.5})"),
       {"rope_scaling.factor is 0.5", "from 1"}},
      {"yarn original",
       rope(R"({"rope_type":"yarn","factor":4,"original_max_position_embeddings":0})"),
       {"rope_scaling.original_max_position_embeddings is 0"}},
      {"yarn betas",
       rope(R"({"rope_type":"yarn","factor":4,"beta_fast":1,"beta_slow":32})"),
       {"beta_fast is 1", "beta_slow"}},
      {"yarn attention",
       rope(R"({"rope_type":"yarn","factor":4,"attention_factor":-1})"),
       {"attention_factor is -1"}},
      {"two thetas",
       rope(R"({"rope_type":"default","rope_theta":10000})"),
       {"rope_theta is 10000", "the same"}},
      {"two rope types",
       [](Json& json) {
         json["rope_scaling"] = {{"rope_type", "yarn"}, {"factor", 2}};
         json["rope_parameters"] = {{"rope_type", "default"}, {"rope_theta", 1000000}};
       },
       {"rope_parameters.rope_type is \"default\"", "\"yarn\""}},
      {"rope by layer",
       [](Json& json) {
         json["rope_parameters"] = {{"full_attention", {{"rope_type", "default"}}}};
       },
       {"full_attention", "one set for all layers"}},
      {"partial rotation", set("partial_rotary_factor", 0.5), {"partial_rotary_factor is 0.5"}},
  };
}

TEST(ModelConfig, RefusesBadValuesByName) {
  for (const BadConfig& bad : bad_configs()) {
    SCOPED_TRACE(bad.name);
    Json json = good_config();
    bad.damage(json);
    std::vector<std::string> words = bad.words;
    words.push_back("config.json");
    expect_error([&] { parse(json); }, words);
  }
  EXPECT_GE(bad_configs().size(), 45u);
}

TEST(ModelConfig, RefusesWhatIsNotJson) {
  const std::string good = good_config().dump();
  const std::vector<std::pair<std::string, std::vector<std::string>>> texts = {
      {"", {"not JSON", "ends too early"}},
      {good.substr(0, good.size() / 2), {"not JSON at byte", "download it again"}},
      {"[]", {"a list of 0", "JSON object"}},
      {"\"\xff\xfe\"", {"not JSON", "UTF-8"}},
      {"{\"hidden_size\": NaN}", {"not JSON at byte 17"}},
      {"{\"hidden_size\": 1e999}", {"no double can hold"}},
      {"{\"a\": 1, \"a\": 2}", {"\"a\" twice"}},
      {std::string(100'000, '['), {"deeper than 64"}},
      {std::string(size_t{17} << 20, ' '), {"17825792 bytes", "at most 16777216"}},
      {"[" + std::string(size_t{3} << 20, '0'), {"not JSON"}},
  };
  for (const auto& bad : texts) {
    SCOPED_TRACE(bad.first.substr(0, 40));
    expect_error([&] { ModelConfig::from_json(bad.first, "config.json"); }, bad.second);
  }
  std::string values = "[0";
  for (int i = 0; i < 1 << 20; ++i) values += ",0";
  expect_error([&] { ModelConfig::from_json(values + "]", "config.json"); }, {"more than 1048576"});
}

TEST(ModelConfig, QuotesHostileStringsOnOneLine) {
  Json json = good_config();
  json["model_type"] = "line\nbreak\x1b[31m" + std::string(5000, 'x');
  expect_error([&] { parse(json); }, {"line\\nbreak\\u001b[31m", "…"});
}

// ---- folders --------------------------------------------------------------------------------

TEST(ModelFolder, SaysWhatToGiveInstead) {
  const TestFolder folder;
  const auto load = [](const std::filesystem::path& path) {
    return [=] { ModelConfig::load(path); };
  };
  expect_error(load(""), {"path of the model is empty"});
  expect_error(load(folder.path() / "absent"), {"there is no folder", "absent", "check the path"});
  expect_error(load("Qwen/Qwen3-0.6B-absent"), {"hf download Qwen/Qwen3-0.6B-absent"});
  expect_error(load(folder.path()), {"holds no config.json", "Qwen/Qwen3-0.6B"});
  expect_error(load(folder.write("a.gguf", "GGUF")), {"is a GGUF file", "Qwen/Qwen3-0.6B"});
  expect_error(load(folder.write("b", "GGUFxxxx")), {"is a GGUF file"});
  expect_error(load(folder.write("c.safetensors", "")), {"is a file", "folder that holds it"});
  expect_error(load(folder.path() / "c.safetensors/x"), {"c.safetensors/x"});
  const TestFolder gguf;
  gguf.write("Qwen3-8B-Q4_K_M.GGUF", "");
  expect_error(load(gguf.path()), {"Qwen3-8B-Q4_K_M.GGUF", "does not read GGUF"});
  const TestFolder adapter;
  adapter.write("adapter_config.json", "{}");
  expect_error(load(adapter.path()), {"adapter_config.json", "merge it"});
  const TestFolder cache;
  cache.write("snapshots/0123abc/config.json", "{}");
  expect_error(load(cache.path()), {"one level down", "snapshots/0123abc"});
  const TestFolder nested;
  std::filesystem::create_directories(nested.path() / "config.json");
  expect_error(load(nested.path()), {"config.json is a folder", "regular file"});
}

/// The superuser may read everything, so a test of permissions runs as somebody else.
class AsNobody {
 public:
  AsNobody() : user_(::geteuid()) {
    if (user_ == 0 && ::seteuid(65534) != 0) throw std::runtime_error("cannot change the user");
  }
  ~AsNobody() { (void)!::seteuid(user_); }

 private:
  uid_t user_;
};

TEST(ModelFolder, SaysWhenPermissionIsMissing) {
  namespace fs = std::filesystem;
  const TestFolder folder;
  const auto file = folder.write("config.json", good_config().dump());
  const auto load = [&] {
    const AsNobody nobody;
    ModelConfig::load(folder.path());
  };
  fs::permissions(file, fs::perms::none);
  fs::permissions(folder.path(), fs::perms::all);
  expect_error(load, {"config.json", "Permission denied", "chmod"});
  fs::permissions(folder.path(), fs::perms::none);
  expect_error(load, {"cannot list the folder", "Permission denied", "chmod"});
  fs::permissions(folder.path(), fs::perms::owner_all);
}

// ---- generation_config.json -----------------------------------------------------------------

TEST(GenerationConfig, ReadsThePublishedFile) {
  const GenerationConfig config = GenerationConfig::from_json(
      R"({"bos_token_id":151643,"do_sample":true,"eos_token_id":[151645,151643],"pad_token_id":151643,
          "temperature":0.6,"top_k":20,"top_p":0.95,"transformers_version":"4.51.0"})",
      "generation_config.json");
  EXPECT_EQ(config.temperature, 0.6);
  EXPECT_EQ(config.top_k, 20u);
  EXPECT_EQ(config.top_p, 0.95);
  EXPECT_EQ(config.do_sample, true);
  EXPECT_FALSE(config.min_p);
  EXPECT_FALSE(config.repetition_penalty);
  EXPECT_EQ(config.eos_token_ids, (std::vector<int32_t>{151645, 151643}));
}

TEST(GenerationConfig, MayBeAbsent) {
  const TestFolder folder;
  const GenerationConfig config = GenerationConfig::load(folder.path());
  EXPECT_FALSE(config.temperature);
  EXPECT_TRUE(config.eos_token_ids.empty());
}

TEST(GenerationConfig, RefusesBadValuesByName) {
  const std::vector<std::pair<std::string, std::vector<std::string>>> texts = {
      {R"({"temperature":-1})", {"temperature is -1", "not negative"}},
      {R"({"temperature":"hot"})", {"temperature is \"hot\""}},
      {R"({"top_p":0})", {"top_p is 0", "at most 1"}},
      {R"({"top_p":1.5})", {"top_p is 1.5"}},
      {R"({"top_k":-1})", {"top_k is -1"}},
      {R"({"min_p":2})", {"min_p is 2"}},
      {R"({"repetition_penalty":0})", {"repetition_penalty is 0"}},
      {R"({"do_sample":1})", {"do_sample is 1", "true or false"}},
      {R"({"eos_token_id":-5})", {"eos_token_id is -5"}},
      {R"({"eos_token_id":["x"]})", {"eos_token_id is a list of 1"}},
      {"[", {"not JSON"}},
  };
  for (const auto& bad : texts) {
    SCOPED_TRACE(bad.first);
    expect_error([&] { GenerationConfig::from_json(bad.first, "generation_config.json"); },
                 bad.second);
  }
}

}  // namespace
}  // namespace rill
