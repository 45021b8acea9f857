// SPDX-License-Identifier: Apache-2.0
#include "engine/session.h"

#include <algorithm>

#include "base/error.h"

namespace rill {

Session::Session(const LoadedModel& model, const Arithmetic& arithmetic, Runtime runtime,
                 const SessionSize& size)
    : size_(size),
      cache_({model.config, model.weights.shard(), arithmetic.block_size}, arithmetic.kv,
             size.context * size.sequences, size.sequences, runtime.team.placement()),
      transformer_(model.config, arithmetic, model.weights, runtime, size.chunk, size.context) {}

void Session::run(std::span<const int32_t> ids, size_t chunk, bool hidden,
                  const std::function<void(const Part&)>& consume) {
  check_ids(ids, config().vocab_size, "the ids");
  require_room(ids.size(), "there are " + std::to_string(ids.size()) + " ids", "give fewer",
               "a larger --ctx");
  chunk = std::min({chunk == 0 ? size_.chunk : chunk, size_.chunk, ids.size()});
  const size_t row = (config().num_layers + 1) * config().hidden_size;
  std::vector<float> logits(chunk * config().vocab_size), residual(hidden ? chunk * row : 0);
  KvSequence sequence(cache_);
  for (size_t first = 0; first < ids.size(); first += chunk) {
    const size_t count = std::min(chunk, ids.size() - first);
    const SequenceStep step{&sequence, ids.subspan(first, count), count};
    transformer_.forward({&step, 1}, logits.data(), hidden ? residual.data() : nullptr);
    consume({first, count, std::span(logits).first(count * config().vocab_size),
             std::span(residual).first(hidden ? count * row : 0)});
  }
}

std::vector<float> Session::logits(std::span<const int32_t> ids, std::vector<float>* hidden,
                                   size_t chunk) {
  const size_t width = config().hidden_size, layers = config().num_layers + 1;
  std::vector<float> rows(ids.size() * config().vocab_size);
  if (hidden != nullptr) hidden->resize(layers * ids.size() * width);
  run(ids, chunk, hidden != nullptr, [&](const Part& part) {
    std::copy(part.logits.begin(), part.logits.end(),
              rows.begin() + static_cast<std::ptrdiff_t>(part.first * config().vocab_size));
    for (size_t layer = 0; hidden != nullptr && layer < layers; ++layer) {
      std::copy_n(part.hidden.data() + layer * part.count * width, part.count * width,
                  hidden->data() + (layer * ids.size() + part.first) * width);
    }
  });
  return rows;
}

void Session::require_room(size_t tokens, const std::string& found, std::string_view shorten,
                           std::string_view larger) const {
  if (tokens <= size_.context) return;
  check_positions(config(), tokens, found, shorten);
  fail(found, ", but the context holds ", size_.context, "; ", shorten, " or ", larger);
}

void check_positions(const ModelConfig& config, size_t tokens, const std::string& found,
                     std::string_view shorten) {
  if (tokens <= config.max_position_embeddings) return;
  fail(found, ", but the model has ", config.max_position_embeddings,
       " positions (max_position_embeddings in config.json); ", shorten);
}

void check_ids(std::span<const int32_t> ids, size_t vocabulary, const char* what) {
  if (ids.empty()) fail(what, " are empty, expected at least one token id");
  for (size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] < 0 || static_cast<size_t>(ids[i]) >= vocabulary) {
      fail(what, " hold ", ids[i], " at place ", i, ", expected ids from 0 to ", vocabulary - 1,
           " (vocab_size in config.json); take ids of this model's tokenizer");
    }
  }
}

}  // namespace rill
