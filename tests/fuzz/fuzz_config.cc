// SPDX-License-Identifier: Apache-2.0
// libFuzzer: any text as config.json and generation_config.json either gives values that keep their
// promises or throws Error.
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "base/error.h"
#include "model/config.h"

namespace {

void require(bool promise) {
  if (!promise) std::abort();
}

void check_model(std::string_view text) {
  const rill::ModelConfig config = rill::ModelConfig::from_json(text, "config.json");
  require(config.hidden_size > 0 && config.intermediate_size > 0 && config.num_layers > 0);
  require(config.vocab_size > 0 && config.max_position_embeddings > 0);
  require(config.head_dim > 0 && config.head_dim % 2 == 0);
  require(config.num_kv_heads > 0 && config.num_heads % config.num_kv_heads == 0);
  require(std::isnormal(config.rms_norm_eps) && config.rms_norm_eps > 0);
  require(std::isfinite(config.rope_theta) && config.rope_theta > 1);
  require(config.parameter_count() < size_t{1} << 58);
  for (const int32_t id : config.eos_token_ids) {
    require(id >= 0 && static_cast<size_t>(id) < config.vocab_size);
  }
  if (!config.yarn) return;
  require(config.yarn->factor >= 1 && config.yarn->original_max_position_embeddings >= 1);
  require(config.yarn->beta_slow > 0 && config.yarn->beta_fast >= config.yarn->beta_slow);
  require(config.yarn->mscale.has_value() == config.yarn->mscale_all_dim.has_value());
}

void check_generation(std::string_view text) {
  const auto config = rill::GenerationConfig::from_json(text, "generation_config.json");
  require(config.temperature.value_or(0) >= 0 && config.top_p.value_or(1) > 0);
  require(config.repetition_penalty.value_or(1) > 0);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  for (const auto check : {check_model, check_generation}) {
    try {
      check(text);
    } catch (const rill::Error&) {
    }
  }
  return 0;
}
