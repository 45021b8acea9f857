// SPDX-License-Identifier: Apache-2.0
#include "model/checkpoint.h"

#include <gtest/gtest.h>

#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "base/json.h"
#include "model/test_folder.h"

namespace rill {
namespace {

TEST(Checkpoint, LoadsEveryGoldenFolder) {
  size_t checked = 0;
  for (const auto& entry : std::filesystem::directory_iterator(golden_folder())) {
    if (!std::filesystem::exists(entry.path() / "config.json")) continue;
    SCOPED_TRACE(entry.path());
    const Checkpoint checkpoint = Checkpoint::open(entry.path());
    EXPECT_FALSE(checkpoint.tensors().empty());
    if (entry.path().filename() == "moe-bf16") continue;
    const ModelConfig config = ModelConfig::load(entry.path());
    EXPECT_NO_THROW(checkpoint.check(config));
    EXPECT_EQ(checkpoint.tensors().size(), model_tensors(config, DType::F32).size());
    size_t elements = 0;
    for (const auto& tensor : checkpoint.tensors()) {
      elements += tensor.bytes.size() * 8 / dtype_bits(tensor.dtype);
    }
    EXPECT_EQ(elements, config.parameter_count());
    ++checked;
  }
  EXPECT_EQ(checked, 8u);
}

/// The smallest model, whose tensors the tests then damage.
ModelConfig small_config() {
  ModelConfig config;
  config.hidden_size = 4;
  config.intermediate_size = 6;
  config.num_layers = 2;
  config.num_heads = 2;
  config.num_kv_heads = 1;
  config.head_dim = 2;
  config.vocab_size = 5;
  config.tie_word_embeddings = true;
  return config;
}

void write_file(const std::filesystem::path& path, const std::vector<TensorSpec>& tensors) {
  SafetensorsWriter writer(path, tensors);
  for (const TensorSpec& tensor : tensors) {
    writer.write(std::vector<std::byte>(tensor.byte_size(), std::byte{1}));
  }
  writer.commit();
}

TensorSpec& named(std::vector<TensorSpec>& tensors, std::string_view name) {
  for (TensorSpec& tensor : tensors) {
    if (tensor.name == name) return tensor;
  }
  throw std::logic_error("no tensor of this name");
}

TEST(Checkpoint, FindsTensorsWithAndWithoutPrefix) {
  for (const bool prefix : {true, false}) {
    const TestFolder folder;
    auto tensors = model_tensors(small_config(), DType::F16);
    for (TensorSpec& tensor : tensors) {
      if (!prefix) tensor.name = tensor.name.substr(6);
    }
    write_file(folder.path() / "model.safetensors", tensors);
    const Checkpoint checkpoint = Checkpoint::open(folder.path());
    checkpoint.check(small_config());
    const TensorInfo* tensor = checkpoint.find("layers.1.mlp.up_proj.weight");
    ASSERT_NE(tensor, nullptr);
    EXPECT_EQ(tensor, checkpoint.find("model.layers.1.mlp.up_proj.weight"));
    EXPECT_EQ(tensor->name, std::string(prefix ? "model." : "") + "layers.1.mlp.up_proj.weight");
    EXPECT_EQ(&checkpoint.get("norm.weight", {4}), checkpoint.find("model.norm.weight"));
    EXPECT_EQ(checkpoint.find("lm_head.weight"), nullptr);
  }
}

TEST(Checkpoint, IgnoresTheRedundantHeadOfATiedModel) {
  const TestFolder folder;
  auto tensors = model_tensors(small_config(), DType::BF16);
  tensors.push_back({"lm_head.weight", DType::BF16, {5, 4}});
  write_file(folder.path() / "model.safetensors", tensors);
  EXPECT_NO_THROW(Checkpoint::open(folder.path()).check(small_config()));
}

TEST(Checkpoint, ReleasedPagesAreReadAgain) {
  const Checkpoint checkpoint = Checkpoint::open(golden_folder() / "tied-gqa-bf16");
  const TensorInfo& tensor = *checkpoint.find("embed_tokens.weight");
  const std::vector<std::byte> before(tensor.bytes.begin(), tensor.bytes.end());
  checkpoint.release(tensor);
  EXPECT_EQ(0, std::memcmp(before.data(), tensor.bytes.data(), before.size()));
}

TEST(Checkpoint, RefusesTensorsThatDoNotFitTheConfig) {
  using Tensors = std::vector<TensorSpec>;
  struct Case {
    const char* name;
    std::function<void(Tensors&, ModelConfig&)> damage;
    std::vector<std::string> words;
  };
  const std::vector<Case> cases = {
      {"missing",
       [](Tensors& t, ModelConfig&) { t.erase(t.begin() + 3); },
       {"has no tensor \"model.layers.0.self_attn.k_proj.weight\"", "[2, 4]"}},
      {"no head",
       [](Tensors&, ModelConfig& c) { c.tie_word_embeddings = false; },
       {"has no tensor \"lm_head.weight\"", "tie_word_embeddings is false"}},
      {"shape",
       [](Tensors& t, ModelConfig&) { named(t, "model.norm.weight").shape = {5}; },
       {"model.safetensors", "\"model.norm.weight\" has shape [5]", "expected [4]"}},
      {"transposed",
       [](Tensors& t, ModelConfig&) {
         named(t, "model.embed_tokens.weight").shape = {4, 5};
       },
       {"has shape [4, 5]", "expected [5, 4]"}},
      {"rank",
       [](Tensors& t, ModelConfig&) {
         named(t, "model.norm.weight").shape = {4, 1};
       },
       {"has shape [4, 1]", "expected [4]"}},
      {"dtype",
       [](Tensors& t, ModelConfig&) {
         named(t, "model.layers.1.mlp.up_proj.weight").dtype = DType::F8_E4M3;
       },
       {"is of type F8_E4M3", "BF16, F16 or F32", "unquantised"}},
      {"integers",
       [](Tensors& t, ModelConfig&) { named(t, "model.norm.weight").dtype = DType::I64; },
       {"is of type I64"}},
      {"more layers",
       [](Tensors&, ModelConfig& c) { c.num_layers = 1; },
       {"layers.1.", "belongs to layer 1", "expected layers 0 to 0"}},
      {"fewer layers",
       [](Tensors&, ModelConfig& c) { c.num_layers = 3; },
       {"has no tensor \"model.layers.2."}},
      {"bias",
       [](Tensors& t, ModelConfig&) {
         t.push_back({"model.layers.0.self_attn.q_proj.bias", DType::F16, {4}});
       },
       {"q_proj.bias", "attention_bias is false"}},
      {"no bias",
       [](Tensors&, ModelConfig& c) { c.attention_bias = true; },
       {"has no tensor", "q_proj.bias"}},
      {"both prefixes",
       [](Tensors& t, ModelConfig&) {
         t.push_back({"norm.weight", DType::F16, {4}});
       },
       {"occurs a second time", "norm.weight"}},
  };
  for (const Case& each : cases) {
    SCOPED_TRACE(each.name);
    const TestFolder folder;
    ModelConfig config = small_config();
    Tensors tensors = model_tensors(config, DType::F16);
    each.damage(tensors, config);
    write_file(folder.path() / "model.safetensors", tensors);
    expect_error([&] { Checkpoint::open(folder.path()).check(config); }, each.words);
  }
}

/// Two shards and their index, as parsed JSON that a test may damage before it is written.
class ShardedFolder {
 public:
  ShardedFolder() {
    const auto tensors = model_tensors(small_config(), DType::F32);
    const std::vector<TensorSpec> first(tensors.begin(), tensors.begin() + 5);
    const std::vector<TensorSpec> second(tensors.begin() + 5, tensors.end());
    write_file(folder.path() / "model-00001-of-00002.safetensors", first);
    write_file(folder.path() / "model-00002-of-00002.safetensors", second);
    for (const auto& t : first) index["weight_map"][t.name] = "model-00001-of-00002.safetensors";
    for (const auto& t : second) index["weight_map"][t.name] = "model-00002-of-00002.safetensors";
  }
  Checkpoint open() const {
    folder.write("model.safetensors.index.json", index.dump());
    return Checkpoint::open(folder.path());
  }

  TestFolder folder;
  Json index;
};

TEST(Checkpoint, ReadsShards) {
  const ShardedFolder sharded;
  const Checkpoint checkpoint = sharded.open();
  checkpoint.check(small_config());
  EXPECT_NE(checkpoint.get("norm.weight", {4}).file,
            checkpoint.get("embed_tokens.weight", {5, 4}).file);
}

TEST(Checkpoint, RefusesBadIndexes) {
  const std::string norm = "model.norm.weight";
  struct Case {
    const char* name;
    std::function<void(ShardedFolder&)> damage;
    std::vector<std::string> words;
  };
  const auto map = [&](Json value) {
    return [=](ShardedFolder& s) { s.index["weight_map"][norm] = value; };
  };
  const std::vector<Case> cases = {
      {"no map",
       [](ShardedFolder& s) { s.index = Json::object(); },
       {"weight_map is absent", "index.json"}},
      {"empty map",
       [](ShardedFolder& s) { s.index["weight_map"] = Json::object(); },
       {"weight_map is an object"}},
      {"list",
       [](ShardedFolder& s) {
         s.index["weight_map"] = {1, 2};
       },
       {"weight_map is a list of 2"}},
      {"number", map(1), {"model.norm.weight", "is in 1", "plain name"}},
      {"upwards", map("../other.safetensors"), {"../other.safetensors", "plain name"}},
      {"absolute", map("/etc/passwd"), {"/etc/passwd", "plain name"}},
      {"not safetensors",
       map("pytorch_model.bin"),
       {"pytorch_model.bin", "plain name of a .safetensors"}},
      {"shard not there",
       map("model-00003-of-00003.safetensors"),
       {"model-00003-of-00003.safetensors is missing", "one of 3 shards"}},
      {"wrong shard",
       map("model-00001-of-00002.safetensors"),
       {"\"model.norm.weight\" is not in model-00001"}},
      {"no such tensor",
       [](ShardedFolder& s) {
         s.index["weight_map"]["extra"] = "model-00001-of-00002.safetensors";
       },
       {"\"extra\" is not in model-00001"}},
      {"shard removed",
       [](ShardedFolder& s) {
         std::filesystem::remove(s.folder.path() / "model-00002-of-00002.safetensors");
       },
       {"model-00002-of-00002.safetensors is missing", "download it"}},
      {"shard cut",
       [](ShardedFolder& s) {
         std::filesystem::resize_file(s.folder.path() / "model-00002-of-00002.safetensors", 100);
       },
       {"model-00002-of-00002.safetensors", "only 100"}},
      {"tensor in both",
       [&](ShardedFolder& s) {
         write_file(s.folder.path() / "model-00003.safetensors", {{norm, DType::F32, {4}}});
         s.index["weight_map"]["model.norm.weight"] = "model-00003.safetensors";
       },
       {"\"model.norm.weight\" occurs a second time"}},
      {"index is a folder",
       [](ShardedFolder& s) {
         std::filesystem::create_directory(s.folder.path() / "model.safetensors.index.json");
       },
       {"index.json is a folder"}},
  };
  for (const Case& each : cases) {
    SCOPED_TRACE(each.name);
    ShardedFolder sharded;
    each.damage(sharded);
    expect_error([&] { sharded.open(); }, each.words);
  }
  const ShardedFolder broken;
  broken.folder.write("model.safetensors.index.json",
                      "{\"weight_map\":{\"a\":\"x.safetensors\",\"a\"");
  expect_error([&] { Checkpoint::open(broken.folder.path()); }, {"index.json", "twice"});
}

TEST(Checkpoint, SaysWhatStandsThereInstead) {
  const TestFolder empty, torch, gguf, shards;
  expect_error([&] { Checkpoint::open(empty.path()); },
               {"holds no model.safetensors", "model.safetensors.index.json", "Qwen/Qwen3-0.6B"});
  torch.write("pytorch_model.bin", "");
  expect_error([&] { Checkpoint::open(torch.path()); }, {"pytorch_model.bin", "save_pretrained"});
  gguf.write("model-q4.gguf", "");
  expect_error([&] { Checkpoint::open(gguf.path()); }, {"model-q4.gguf", "does not read GGUF"});
  shards.write("model-00001-of-00002.safetensors", "");
  expect_error([&] { Checkpoint::open(shards.path()); },
               {"beside model-00001-of-00002.safetensors", "download what is missing"});
  expect_error([&] { Checkpoint::open(shards.path() / "absent"); }, {"there is no folder"});
}

}  // namespace
}  // namespace rill
