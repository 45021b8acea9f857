// SPDX-License-Identifier: Apache-2.0
// A golden folder as the engine loads it and as the twin does, for tests of the whole model.
#pragma once
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "kernels/twin_names.h"
#include "model/transformer.h"
#include "reference/model.h"

namespace rill {

/// Every folder of tests/golden but the mixture of experts.
inline const std::vector<std::string>& golden_folders() {
  static const std::vector<std::string> names = {
      "bias-f32",       "deep-bf16",     "head128-long-bf16",      "odd-mha-f32",
      "one-token-bf16", "tied-gqa-bf16", "wide-heads-sharded-f16", "yarn-bf16"};
  return names;
}

inline std::string golden_path(const std::string& name) {
  return std::string(RILL_TESTS_DIR "/golden/") + name;
}

/// What reference.json and reference.safetensors say.
struct GoldenReference {
  std::vector<int32_t> prompt, greedy;
  double float32_max_error = 0, bfloat16_rms_error = 0;
  std::vector<size_t> kept;    // positions whose logits follow
  std::vector<double> logits;  // [kept][vocabulary]

  explicit GoldenReference(const std::string& name) {
    std::ifstream file(golden_path(name) + "/reference.json");
    const nlohmann::json json = nlohmann::json::parse(file);
    prompt = json.at("prompt").get<std::vector<int32_t>>();
    greedy = json.at("greedy").get<std::vector<int32_t>>();
    float32_max_error = json.at("transformers_float32_max_error");
    bfloat16_rms_error = json.at("transformers_bfloat16_rms_error");
    const auto tensors = reference::read_file(golden_path(name) + "/reference.safetensors");
    for (const double row : tensors.at("kept").values) kept.push_back(static_cast<size_t>(row));
    logits = tensors.at("logits_f64").values;
  }
};

/// One model with its packed weights.
struct LoadedGolden {
  ModelConfig config;
  Checkpoint checkpoint;
  Arithmetic arithmetic;
  Team team;
  Weights weights;

  LoadedGolden(const std::string& name, const ArithmeticOptions& options, int threads = 2,
               const Kernels& kernels = choose_kernels())
      : config(ModelConfig::load(golden_path(name))),
        checkpoint(Checkpoint::open(golden_path(name))),
        arithmetic(resolve_arithmetic(options, stored_type(checkpoint))),
        team(threads),
        weights(Weights::pack(config, arithmetic, checkpoint, {kernels, team})) {}
};

/// The twin's names for resolved options.
inline reference::Options twin_options(const Arithmetic& a) {
  reference::Options options;
  switch (a.declared) {
    case WeightType::F16:
      options.weights = reference::WeightType::kF16;
      break;
    case WeightType::F32:
      options.weights = reference::WeightType::kF32;
      break;
    case WeightType::INT8:
      options.weights = reference::WeightType::kInt8;
      break;
    case WeightType::INT4:
      options.weights = reference::WeightType::kInt4;
      break;
    default:
      options.weights = reference::WeightType::kBf16;
  }
  options.compute = twin_compute(a.attention);
  options.kv = twin_kv(a.kv);
  options.attention = a.attention_type == AttentionType::STANDARD
                          ? reference::AttentionType::kStandard
                          : reference::AttentionType::kStreaming;
  options.block_size = static_cast<int>(a.block_size);
  return options;
}

/// Logits [tokens][vocabulary] and the residual stream [layers + 1][tokens][hidden].
struct ModelOutput {
  std::vector<float> logits, hidden;
};

inline ModelOutput flatten(const reference::Output& output) {
  ModelOutput flat;
  for (const auto& row : output.logits)
    flat.logits.insert(flat.logits.end(), row.begin(), row.end());
  for (const auto& layer : output.hidden)
    for (const auto& row : layer) flat.hidden.insert(flat.hidden.end(), row.begin(), row.end());
  return flat;
}

/// How a prompt is run: nothing of this may change a bit.
struct RunSetting {
  int threads = 2;
  size_t chunk = 1 << 20;
  size_t singles = 0;            // the last tokens come one by one
  size_t before = 0, after = 0;  // other sequences in every step
  const Kernels* kernels = &choose_kernels();
  const Ranks* ranks = &Ranks::single();
};

/// All rows of `ids` through the engine.
inline ModelOutput run_model(const ModelConfig& config, const Arithmetic& arithmetic,
                             const Weights& weights, const std::vector<int32_t>& ids,
                             const RunSetting& setting) {
  Team team(setting.threads);
  const size_t chunk = std::min(setting.chunk, ids.size());
  const size_t sequences = setting.before + 1 + setting.after;
  // The others bring an odd number of tokens, so that their rows fall apart from ours.
  const size_t others = 3, most_rows = chunk + others * (sequences - 1);
  Transformer transformer(config, arithmetic, weights, {*setting.kernels, team, *setting.ranks},
                          most_rows, ids.size() + others * ids.size());
  KvCache cache({config, weights.shard(), arithmetic.block_size}, arithmetic.kv,
                (ids.size() * (1 + others * (sequences - 1))), sequences);
  std::vector<KvSequence> kv;
  for (size_t i = 0; i < sequences; ++i) kv.emplace_back(cache);
  const size_t vocabulary = config.vocab_size, hidden = config.hidden_size;
  const size_t layers = config.num_layers + 1;
  ModelOutput output;
  output.hidden.resize(layers * ids.size() * hidden);
  std::vector<int32_t> other(others);
  for (size_t done = 0, n; done < ids.size(); done += n) {
    const size_t together = ids.size() - std::min(setting.singles, ids.size());
    n = done < together ? std::min(chunk, together - done) : 1;
    for (size_t i = 0; i < others; ++i)
      other[i] = static_cast<int32_t>((done * 7 + i * 13 + 1) % vocabulary);
    std::vector<SequenceStep> steps;
    for (size_t i = 0; i < sequences; ++i) {
      if (i == setting.before)
        steps.push_back({&kv[i], std::span(ids).subspan(done, n), n});
      else
        steps.push_back({&kv[i], other, i % 2});
    }
    size_t first_logits = 0, wanted = 0, rows = 0, first_row = setting.before * others;
    for (size_t i = 0; i < sequences; ++i) {
      if (i < setting.before) first_logits += steps[i].logits;
      wanted += steps[i].logits;
      rows += steps[i].tokens.size();
    }
    std::vector<float> logits(wanted * vocabulary), residual(layers * rows * hidden);
    transformer.forward(steps, logits.data(), residual.data());
    const auto from = logits.begin() + static_cast<std::ptrdiff_t>(first_logits * vocabulary);
    output.logits.insert(output.logits.end(), from,
                         from + static_cast<std::ptrdiff_t>(n * vocabulary));
    for (size_t layer = 0; layer < layers; ++layer)
      std::copy_n(residual.data() + (layer * rows + first_row) * hidden, n * hidden,
                  output.hidden.data() + (layer * ids.size() + done) * hidden);
  }
  return output;
}

/// Where two arrays first differ in their bits; their size if nowhere.
inline size_t first_difference(const std::vector<float>& a, const std::vector<float>& b) {
  if (a.size() != b.size()) return std::min(a.size(), b.size());
  if (std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0) return a.size();
  size_t i = 0;
  while (std::memcmp(&a[i], &b[i], sizeof(float)) == 0) ++i;
  return i;
}

}  // namespace rill
