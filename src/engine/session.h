// SPDX-License-Identifier: Apache-2.0
// The working memory of a model in use: the transformer's scratch and a KV cache.
#pragma once
#include <span>
#include <vector>

#include "engine/loaded_model.h"
#include "model/kv_cache.h"
#include "model/transformer.h"

namespace rill {

/// Borrows the model, which outlives it. Several sessions of one model may differ in runtime,
/// attention and size: that is how `rill verify` compares them.
class Session {
 public:
  explicit Session(LoadedModel& model)
      : Session(model, model.arithmetic, model.runtime(), model.session) {}
  Session(const LoadedModel& model, const Arithmetic& arithmetic, Runtime runtime,
          const SessionSize& size);

  Transformer& transformer() { return transformer_; }
  KvCache& cache() { return cache_; }
  const SessionSize& size() const { return size_; }
  const ModelConfig& config() const { return transformer_.config(); }

  /// Logits of all `ids` from an empty cache, [ids][vocabulary], in steps of `chunk` tokens (0: the
  /// session's). `hidden`, if not null, becomes the residual stream [layers + 1][ids][hidden size].
  /// Throws Error for no ids, an id out of range, or more ids than the context holds.
  std::vector<float> logits(std::span<const int32_t> ids, std::vector<float>* hidden = nullptr,
                            size_t chunk = 0);

 private:
  SessionSize size_;
  KvCache cache_;
  Transformer transformer_;
};

/// Throws Error naming `what` for the first id that is not in [0, vocabulary), or if there are
/// none.
void check_ids(std::span<const int32_t> ids, size_t vocabulary, const char* what);

}  // namespace rill
