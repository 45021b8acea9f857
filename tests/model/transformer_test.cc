// SPDX-License-Identifier: Apache-2.0
// The whole model on the golden folders: the twin's bits for every option of the arithmetic, and
// the tolerances against Transformers and the float64 pass.
#include "model/transformer.h"

#include <gtest/gtest.h>

#include <cmath>

#include "base/error.h"
#include "model/golden.h"

namespace rill {
namespace {

// One option of the arithmetic away from a base case.
struct TwinCase {
  const char* folder;
  ArithmeticOptions options;
};

void expect_twin(const TwinCase& c, size_t most_tokens) {
  std::vector<int32_t> ids = GoldenReference(c.folder).prompt;
  ids.resize(std::min(ids.size(), most_tokens));
  const LoadedGolden golden(c.folder, c.options);
  const ModelOutput ours =
      run_model(golden.config, golden.arithmetic, golden.weights, ids, {.chunk = 37});
  const reference::Model twin(golden_path(c.folder), twin_options(golden.arithmetic));
  const ModelOutput theirs = flatten(twin.forward(ids));
  const size_t hidden = first_difference(ours.hidden, theirs.hidden);
  ASSERT_EQ(hidden, ours.hidden.size())
      << "layer " << hidden / golden.config.hidden_size / ids.size() << ", token "
      << hidden / golden.config.hidden_size % ids.size() << ": " << ours.hidden[hidden] << " and "
      << theirs.hidden[hidden];
  EXPECT_EQ(first_difference(ours.logits, theirs.logits), ours.logits.size());
}

class Twin : public testing::TestWithParam<TwinCase> {};
TEST_P(Twin, SameBits) {
  expect_twin(GetParam(), 200);
}

std::vector<TwinCase> twin_cases() {
  std::vector<TwinCase> cases;
  for (const std::string& folder : golden_folders())
    for (const WeightType weights :
         {WeightType::AUTO, WeightType::BF16, WeightType::F16, WeightType::F32, WeightType::INT8,
          WeightType::INT4})
      cases.push_back({folder.c_str(), {.weights = weights}});
  return cases;
}

std::string case_name(const testing::TestParamInfo<TwinCase>& info) {
  const ArithmeticOptions& o = info.param.options;
  std::string name = std::string(info.param.folder) + "_" + to_string(o.weights) + "_" +
                     to_string(o.compute) + "_" + to_string(o.kv) + "_" + to_string(o.attention) +
                     "_" + std::to_string(o.block_size);
  for (char& c : name)
    if (c == '-') c = '_';
  return name;
}

INSTANTIATE_TEST_SUITE_P(Golden, Twin, testing::ValuesIn(twin_cases()), case_name);

}  // namespace
}  // namespace rill
