// SPDX-License-Identifier: Apache-2.0
#include "engine/text_side.h"

#include <system_error>

#include "base/error.h"
#include "model/folder.h"
#include "text/chat_template.h"

namespace rill {

TextSide TextSide::load(const std::filesystem::path& folder) {
  require_folder(folder);
  std::error_code error;
  if (!std::filesystem::exists(folder / "tokenizer.json", error)) {
    if (!std::filesystem::exists(folder / "config.json", error))
      fail_not_checkpoint(folder, "config.json");
    fail(folder.string(),
         " has no tokenizer.json, which is needed to work with text; copy it from the published "
         "model, or use a command that takes --ids");
  }
  return {Tokenizer::load(folder), inspect_chat_template(folder).warning};
}

std::optional<TextSide> TextSide::load_if_present(const std::filesystem::path& folder) {
  std::error_code error;
  if (!std::filesystem::exists(folder / "tokenizer.json", error)) return std::nullopt;
  return load(folder);
}

std::vector<int32_t> TextSide::unused_ids() const {
  std::vector<int32_t> ids;
  for (size_t id = 0; id < tokenizer.vocab_size(); ++id)
    if (!tokenizer.contains(static_cast<int32_t>(id))) ids.push_back(static_cast<int32_t>(id));
  return ids;
}

}  // namespace rill
