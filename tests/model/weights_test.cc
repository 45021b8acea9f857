// SPDX-License-Identifier: Apache-2.0
// Packing of a checkpoint whose sizes divide by nothing, against the twin's matrices.
#include "model/weights.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <map>
#include <random>

#include "base/half.h"
#include "model/golden.h"
#include "model/test_folder.h"

namespace rill {
namespace {

ModelConfig odd_config(bool tied) {
  ModelConfig config;
  config.hidden_size = 40;
  config.intermediate_size = 100;
  config.num_layers = 2;
  config.num_heads = 6;
  config.num_kv_heads = 3;
  config.head_dim = 10;
  config.vocab_size = 53;
  config.max_position_embeddings = 128;
  config.rms_norm_eps = 1e-6f;
  config.rope_theta = 10000;
  config.tie_word_embeddings = tied;
  config.attention_bias = true;
  return config;
}

// A checkpoint in a folder, and its values as fp32.
struct TestCheckpoint {
  TestFolder folder;
  std::map<std::string, std::vector<float>> values;
  ModelConfig config;

  // type(name): what a tensor is stored as. change(name, values): alters them first.
  template <class Type, class Change>
  TestCheckpoint(const ModelConfig& c, const Type& type, const Change& change) : config(c) {
    std::vector<TensorSpec> specs = model_tensors(config, DType::BF16);
    for (TensorSpec& spec : specs) spec.dtype = type(spec.name);
    SafetensorsWriter writer(folder.path() / "model.safetensors", specs);
    std::mt19937 random(11);
    std::normal_distribution<float> normal(0, 0.1f);
    for (const TensorSpec& spec : specs) {
      std::vector<float>& v = values[spec.name];
      v.resize(spec.byte_size() / (dtype_bits(spec.dtype) / 8));
      for (float& x : v) x = normal(random);
      change(spec.name, v);
      std::vector<std::byte> bytes(spec.byte_size());
      for (size_t i = 0; i < v.size(); ++i) store(spec.dtype, v[i], bytes.data(), i);
      writer.write(bytes);
    }
    writer.commit();
  }

  // Writes element i, and makes `x` what was stored.
  static void store(DType type, float& x, std::byte* bytes, size_t i) {
    if (type == DType::F32) {
      std::memcpy(bytes + 4 * i, &x, 4);
      return;
    }
    const uint16_t half = type == DType::F16 ? float_to_f16(x) : float_to_bf16(x);
    std::memcpy(bytes + 2 * i, &half, 2);
    x = type == DType::F16 ? f16_to_float(half) : bf16_to_float(half);
  }
};

void leave(const std::string&, std::vector<float>&) {}

Weights pack(const TestCheckpoint& c, const Arithmetic& arithmetic, int threads = 2,
             const Kernels& kernels = choose_kernels(), const Progress& progress = {}) {
  Team team(threads);
  const Checkpoint checkpoint = Checkpoint::open(c.folder.path());
  return Weights::pack(c.config, arithmetic, checkpoint, {kernels, team}, progress);
}

// Rows [first, first + outputs) of a packed matrix are those of the tensor.
void expect_rows(const PackedMatrix& packed, size_t first, const std::vector<float>& tensor,
                 size_t outputs, const reference::Options& options) {
  const size_t columns = tensor.size() / outputs;
  const reference::Matrix twin = reference::make_matrix(
      options, static_cast<int64_t>(outputs), static_cast<int64_t>(columns), tensor.data());
  std::vector<float> row(packed.depth);
  for (size_t i = 0; i < outputs; ++i) {
    unpack_row(packed, first + i, packed.depth, row.data());
    std::vector<float> expected = twin.row(static_cast<int64_t>(i));
    expected.resize(packed.depth);  // zeros past the end
    for (size_t k = 0; k < packed.depth; ++k)
      ASSERT_EQ(row[k], expected[k]) << "row " << first + i << ", column " << k;
  }
}

void expect_weights(const TestCheckpoint& c, const Arithmetic& arithmetic) {
  const Weights weights = pack(c, arithmetic);
  EXPECT_EQ(weights.bytes(), Weights::packed_bytes(c.config, arithmetic, Shard(c.config)));
  const reference::Options options = twin_options(arithmetic);
  reference::Options table = options;
  if (table.weights == reference::WeightType::kInt4) table.weights = reference::WeightType::kInt8;
  expect_rows(weights.embedding(), 0, c.values.at("model.embed_tokens.weight"), 53, table);
  if (!c.config.tie_word_embeddings)
    expect_rows(weights.head(), 0, c.values.at("lm_head.weight"), 53, table);
  else
    EXPECT_EQ(weights.head().data, weights.embedding().data);
  for (size_t i = 0; i < 2; ++i) {
    const LayerWeights& layer = weights.layers()[i];
    const auto tensor = [&](const char* name) {
      return c.values.at("model.layers." + std::to_string(i) + "." + name);
    };
    expect_rows(layer.qkv, 0, tensor("self_attn.q_proj.weight"), 60, options);
    expect_rows(layer.qkv, 60, tensor("self_attn.k_proj.weight"), 30, options);
    expect_rows(layer.qkv, 90, tensor("self_attn.v_proj.weight"), 30, options);
    expect_rows(layer.o.at(0).matrix, 0, tensor("self_attn.o_proj.weight"), 40, options);
    expect_rows(layer.down.at(0).matrix, 0, tensor("mlp.down_proj.weight"), 40, options);
    const std::vector<float> gate = tensor("mlp.gate_proj.weight");
    const std::vector<float> up = tensor("mlp.up_proj.weight");
    EXPECT_EQ(layer.gate_up.outputs, 2 * 112u);
    for (size_t r = 0; r < 100; r += 20) {  // within panels: 20 rows would cross one
      const size_t n = std::min<size_t>(kPanel - r % kPanel, 4);
      const auto rows = [&](const std::vector<float>& from) {
        return std::vector<float>(from.begin() + static_cast<std::ptrdiff_t>(r * 40),
                                  from.begin() + static_cast<std::ptrdiff_t>((r + n) * 40));
      };
      const size_t place = r / kPanel * 2 * kPanel + r % kPanel;
      expect_rows(layer.gate_up, place, rows(gate), n, options);
      expect_rows(layer.gate_up, place + kPanel, rows(up), n, options);
    }
    for (size_t j = 0; j < 10; ++j) {
      EXPECT_EQ(layer.q_norm[j], tensor("self_attn.q_norm.weight")[j]);
      EXPECT_EQ(layer.k_norm[j], tensor("self_attn.k_norm.weight")[j]);
      EXPECT_EQ(layer.qkv_bias[90 + j], tensor("self_attn.v_proj.bias")[j]);
      EXPECT_EQ(layer.o_bias[j], tensor("self_attn.o_proj.bias")[j]);
    }
  }
}

class PackTypes : public testing::TestWithParam<WeightType> {};

TEST_P(PackTypes, HoldTheTwinsValues) {
  for (const DType stored : {DType::F32, DType::F16, DType::BF16})
    for (const bool tied : {false, true}) {
      SCOPED_TRACE(dtype_name(stored));
      const TestCheckpoint c(
          odd_config(tied), [&](auto&) { return stored; }, leave);
      expect_weights(c, resolve_arithmetic({.weights = GetParam()}, stored));
    }
}

TEST_P(PackTypes, UnderBf16Compute) {
  const TestCheckpoint c(
      odd_config(false), [](auto&) { return DType::F32; }, leave);
  expect_weights(
      c, resolve_arithmetic({.weights = GetParam(), .compute = ComputeType::BF16}, DType::F32));
}

// Types may differ from tensor to tensor, and panels span q, k and v here.
TEST_P(PackTypes, MixedCheckpoint) {
  const auto type = [](const std::string& name) {
    constexpr DType types[] = {DType::F32, DType::F16, DType::BF16};
    return types[name[name.find("_proj") == name.npos ? name.size() - 8 : name.find("_proj") - 1] %
                 3];
  };
  const TestCheckpoint c(odd_config(false), type, leave);
  expect_weights(c, resolve_arithmetic({.weights = GetParam()}, DType::F32));
}

TEST_P(PackTypes, SameBytesFromEveryInstructionSet) {
  const TestCheckpoint c(
      odd_config(false), [](auto&) { return DType::F32; }, leave);
  const Arithmetic arithmetic = resolve_arithmetic({.weights = GetParam()}, DType::F32);
  const Weights base = pack(c, arithmetic, 1);
  for (const Kernels* kernels : all_kernels()) {
    if (!kernels->supported()) continue;
    const Weights other = pack(c, arithmetic, 3, *kernels);
    ASSERT_EQ(other.bytes(), base.bytes());
    EXPECT_EQ(std::memcmp(other.embedding().data, base.embedding().data, base.bytes()), 0)
        << kernels->name;
  }
}

INSTANTIATE_TEST_SUITE_P(All, PackTypes,
                         testing::Values(WeightType::BF16, WeightType::F16, WeightType::F32,
                                         WeightType::INT8, WeightType::INT4),
                         [](const auto& test) { return to_string(test.param); });

TEST(PackLeaves, StartWhereTheTwinSays) {
  for (const size_t head_dim : {10, 24, 32, 48, 128})
    for (const size_t heads : {1, 3, 8, 20})
      for (const size_t intermediate : {1, 31, 100, 3072}) {
        ModelConfig config = odd_config(true);
        config.head_dim = head_dim;
        config.num_heads = heads;
        config.num_kv_heads = 1;
        config.intermediate_size = intermediate;
        Team team(1);
        const Arithmetic arithmetic = resolve_arithmetic({}, DType::BF16);
        const Weights weights = Weights::random(config, arithmetic, {choose_kernels(), team}, 1);
        const auto check = [](const PackedMatrix& m, size_t columns, int64_t unit) {
          const auto expected = reference::leaf_boundaries(static_cast<int64_t>(columns), unit);
          ASSERT_EQ(m.leaves, kLeaves);
          for (size_t i = 0; i < kLeaves; ++i) EXPECT_EQ(m.leaf[i], expected[i]);
          EXPECT_EQ(m.leaf[kLeaves], m.depth);
        };
        const int unit = static_cast<int>(head_dim);
        check(weights.layers()[0].o.at(0).matrix, heads * head_dim,
              reference::attention_unit(unit));
        check(weights.layers()[0].down.at(0).matrix, intermediate, reference::kDownUnit);
        EXPECT_EQ(weights.layers()[0].qkv.leaves, 1u);
      }
}

struct Damage {
  WeightType weights;
  std::string tensor;
  float value;
};

TEST(PackRefusals, NameTheTensor) {
  const Damage cases[] = {
      {WeightType::INT8, "model.layers.1.self_attn.v_proj.weight", NAN},
      {WeightType::INT8, "model.layers.0.self_attn.k_proj.weight", 500000},
      {WeightType::INT4, "model.layers.0.mlp.up_proj.weight", INFINITY},
      {WeightType::INT4, "model.embed_tokens.weight", -INFINITY},
      {WeightType::F16, "lm_head.weight", 70000},
      {WeightType::F16, "model.layers.1.mlp.down_proj.weight", -65520},
  };
  for (const Damage& damage : cases) {
    const TestCheckpoint c(
        odd_config(false), [](auto&) { return DType::F32; },
        [&](const std::string& name, std::vector<float>& values) {
          if (name == damage.tensor) values[values.size() - 3] = damage.value;
        });
    expect_error([&] { pack(c, resolve_arithmetic({.weights = damage.weights}, DType::F32)); },
                 {damage.tensor, "model.safetensors", to_string(damage.weights)});
  }
}

TEST(PackProgress, CountsEveryByteOnce) {
  const TestCheckpoint c(
      odd_config(false), [](auto&) { return DType::BF16; }, leave);
  size_t last = 0, whole = 0, bytes = 0;
  pack(c, resolve_arithmetic({}, DType::BF16), 2, choose_kernels(), [&](size_t done, size_t total) {
    EXPECT_GT(done, last);
    last = done;
    whole = total;
  });
  for (const TensorSpec& spec : model_tensors(c.config, DType::BF16)) bytes += spec.byte_size();
  EXPECT_EQ(last, bytes);
  EXPECT_EQ(whole, bytes);
}

TEST(RandomWeights, AreTheSameForASeedAndRun) {
  ModelConfig config = odd_config(false);
  const Arithmetic arithmetic = resolve_arithmetic({.weights = WeightType::INT8}, DType::BF16);
  const auto make = [&](int threads, uint64_t seed) {
    Team team(threads);
    return Weights::random(config, arithmetic, {choose_kernels(), team}, seed);
  };
  const Weights a = make(1, 5), b = make(3, 5), c = make(1, 6);
  EXPECT_EQ(std::memcmp(a.embedding().data, b.embedding().data, a.bytes()), 0);
  EXPECT_NE(std::memcmp(a.embedding().data, c.embedding().data, a.bytes()), 0);
  const ModelOutput output = run_model(config, arithmetic, a, {1, 2, 3, 4, 5}, {});
  double squares = 0;
  for (const float x : output.logits) squares += double{x} * x;
  EXPECT_NEAR(std::sqrt(squares / static_cast<double>(output.logits.size())), 1, 0.5);
}

TEST(BytesPerToken, CountsLayersAndHead) {
  ModelConfig config = odd_config(true);
  const Arithmetic arithmetic = resolve_arithmetic({}, DType::BF16);
  Team team(1);
  const Weights weights = Weights::random(config, arithmetic, {choose_kernels(), team}, 1);
  // Outputs are whole panels of 16, k is a multiple of 32; two bytes each.
  const size_t layer = 128 * 64 + 48 * 64 + 224 * 64 + 48 * 128;
  EXPECT_EQ(weights.bytes_per_token(), 2 * (2 * layer + 64 * 64));
}

}  // namespace
}  // namespace rill
