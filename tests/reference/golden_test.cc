// SPDX-License-Identifier: Apache-2.0
// The twin's whole model against what Transformers and a float64 pass computed on the golden
// folders (tests/golden): both computes, both attentions.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>

#include "reference/model.h"

namespace rill::reference {
namespace {

struct Golden {
  std::vector<int32_t> prompt, greedy;
  double float32_max_error, bfloat16_rms_error;
  std::vector<int64_t> kept;
  std::vector<double> logits;  // [kept][vocabulary], float64
  std::vector<double> hidden;  // [layers + 1][kept][hidden]
};

Golden read_golden(const std::string& folder) {
  std::ifstream file(folder + "/reference.json");
  const nlohmann::json j = nlohmann::json::parse(file);
  Golden golden{j.at("prompt"),
                j.at("greedy"),
                j.at("transformers_float32_max_error"),
                j.at("transformers_bfloat16_rms_error"),
                {},
                {},
                {}};
  const auto tensors = read_file(folder + "/reference.safetensors");
  for (const double row : tensors.at("kept").values) golden.kept.push_back(static_cast<int>(row));
  golden.logits = tensors.at("logits_f64").values;
  golden.hidden = tensors.at("hidden").values;
  return golden;
}

struct Errors {
  double largest = 0, rms = 0;
};

Errors logit_errors(const Golden& golden, const Output& output) {
  Errors errors;
  const size_t vocabulary = output.logits[0].size();
  EXPECT_EQ(golden.logits.size(), golden.kept.size() * vocabulary);
  double squares = 0;
  for (size_t i = 0; i < golden.kept.size(); ++i) {
    for (size_t v = 0; v < vocabulary; ++v) {
      const double e = output.logits[golden.kept[i]][v] - golden.logits[i * vocabulary + v];
      errors.largest = std::max(errors.largest, std::fabs(e));
      squares += e * e;
    }
  }
  errors.rms = std::sqrt(squares / static_cast<double>(golden.logits.size()));
  return errors;
}

WeightType stored_type(const std::string& folder) {
  const std::string dtype = read_tensors(folder).at("norm.weight").dtype;
  return dtype == "BF16" ? WeightType::kBf16 : dtype == "F16" ? WeightType::kF16 : WeightType::kF32;
}

constexpr AttentionType kBoth[] = {AttentionType::kStandard, AttentionType::kStreaming};

class GoldenFolder : public testing::TestWithParam<const char*> {
 protected:
  std::string folder() const { return std::string(RILL_TESTS_DIR "/golden/") + GetParam(); }
};

TEST_P(GoldenFolder, Float32) {
  const Golden golden = read_golden(folder());
  const double limit = 4 * std::max(golden.float32_max_error, 2e-6);
  for (const AttentionType attention : kBoth) {
    const Options options{stored_type(folder()), ComputeType::kF32, KvType::kF32, attention, 64};
    const Model model(folder(), options);
    const Output output = model.forward(golden.prompt);
    const Errors errors = logit_errors(golden, output);
    EXPECT_LE(errors.largest, limit);
    const int name = static_cast<int>(attention);
    RecordProperty("error_over_limit_" + std::to_string(name),
                   std::to_string(errors.largest / limit));
    EXPECT_EQ(model.greedy(golden.prompt, 24), golden.greedy);

    const size_t kept = golden.kept.size(), width = model.config().hidden;
    double hidden_error = 0, size = 0;
    for (size_t layer = 0; layer < output.hidden.size(); ++layer) {
      for (size_t i = 0; i < kept; ++i) {
        for (size_t d = 0; d < width; ++d) {
          const double exact = golden.hidden[(layer * kept + i) * width + d];
          hidden_error =
              std::max(hidden_error, std::fabs(output.hidden[layer][golden.kept[i]][d] - exact));
          size = std::max(size, std::fabs(exact));
        }
      }
    }
    EXPECT_LE(hidden_error, 2e-5 * size);
  }
}

TEST_P(GoldenFolder, Bfloat16) {
  const Golden golden = read_golden(folder());
  for (const AttentionType attention : kBoth) {
    for (const ComputeType compute : {ComputeType::kBf16, ComputeType::kBf16x32}) {
      const Options options{stored_type(folder()), compute, KvType::kBf16, attention, 64};
      const Errors errors = logit_errors(golden, Model(folder(), options).forward(golden.prompt));
      EXPECT_LE(errors.rms, 0.75 * golden.bfloat16_rms_error);
      EXPECT_GT(errors.rms, 0.01 * golden.bfloat16_rms_error);  // it did round
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, GoldenFolder,
                         testing::Values("tied-gqa-bf16", "wide-heads-sharded-f16", "odd-mha-f32",
                                         "head128-long-bf16", "deep-bf16", "one-token-bf16",
                                         "yarn-bf16", "bias-f32"),
                         [](const auto& test) {
                           std::string name = test.param;
                           for (char& c : name) c = c == '-' ? '_' : c;
                           return name;
                         });

// Nothing to compare with but the float64 pass: the error must shrink with the width of the type.
TEST(GoldenTypes, Int8AndInt4AreAsGoodAsTheirWidth) {
  const std::string folder = RILL_TESTS_DIR "/golden/tied-gqa-bf16";
  const Golden golden = read_golden(folder);
  const auto rms = [&](WeightType weights) {
    const Options options{weights, ComputeType::kBf16, KvType::kBf16, AttentionType::kStreaming,
                          64};
    return logit_errors(golden, Model(folder, options).forward(golden.prompt)).rms;
  };
  const double int8 = rms(WeightType::kInt8), int4 = rms(WeightType::kInt4);
  EXPECT_LT(int8, 4 * golden.bfloat16_rms_error);
  EXPECT_LT(int8, int4 / 4);
  EXPECT_LT(int4, 0.5);  // the logits' standard deviation is about 1
}

TEST(GoldenTypes, KvTypesAndChunks) {
  const std::string folder = RILL_TESTS_DIR "/golden/tied-gqa-bf16";
  const Golden golden = read_golden(folder);
  const Options options{WeightType::kBf16, ComputeType::kF32, KvType::kF16,
                        AttentionType::kStreaming, 16};
  const Model model(folder, options);
  const Output whole = model.forward(golden.prompt);
  EXPECT_LT(logit_errors(golden, whole).rms, golden.bfloat16_rms_error);
  Sequence sequence = model.start();
  for (size_t first = 0; first < golden.prompt.size(); first += 7) {
    const size_t count = std::min<size_t>(7, golden.prompt.size() - first);
    const auto begin = golden.prompt.begin() + static_cast<std::ptrdiff_t>(first);
    const Output part =
        model.forward(sequence, {begin, begin + static_cast<std::ptrdiff_t>(count)});
    for (size_t i = 0; i < count; ++i) {
      EXPECT_EQ(std::memcmp(part.logits[i].data(), whole.logits[first + i].data(),
                            part.logits[i].size() * sizeof(float)),
                0);
    }
  }
}

}  // namespace
}  // namespace rill::reference
