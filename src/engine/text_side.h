// SPDX-License-Identifier: Apache-2.0
// The text half of a checkpoint: tokenizer and chat template. Needs none of the weights.
#pragma once
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "text/tokenizer.h"

namespace rill {

struct TextSide {
  /// Throws Error if the folder's tokenizer files are missing or of another kind.
  static TextSide load(const std::filesystem::path& folder);
  /// Nothing if there is no tokenizer.json; throws Error if there is one that cannot be used.
  static std::optional<TextSide> load_if_present(const std::filesystem::path& folder);

  /// Ids below vocab_size() that are no token: never to be sampled.
  std::vector<int32_t> unused_ids() const;

  Tokenizer tokenizer;
  std::string template_warning;  // one sentence if the chat template is not Qwen3's, else empty
};

}  // namespace rill
