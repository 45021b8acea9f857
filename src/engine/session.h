// SPDX-License-Identifier: Apache-2.0
// The working memory of a model in use: the transformer's scratch and a KV cache.
#pragma once
#include <functional>
#include <span>
#include <string>
#include <string_view>
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

  /// What one step computed: logits [count][vocabulary] of the tokens from `first` on, and the
  /// residual stream [layers + 1][count][hidden size] (empty if it was not asked for).
  struct Part {
    size_t first, count;
    std::span<const float> logits, hidden;
  };

  /// Runs `ids` from an empty cache in steps of `chunk` tokens (0: the session's), handing on each
  /// step's results. Throws Error for no ids, an id out of range, or more than the context holds.
  void run(std::span<const int32_t> ids, size_t chunk, bool hidden,
           const std::function<void(const Part&)>& consume);

  /// The same in one piece: logits [ids][vocabulary]; `hidden`, if not null, becomes the residual
  /// stream [layers + 1][ids][hidden size].
  std::vector<float> logits(std::span<const int32_t> ids, std::vector<float>* hidden = nullptr,
                            size_t chunk = 0);

  /// Throws Error if the context does not hold so many `tokens`: "FOUND, but ...; SHORTEN or
  /// LARGER", the latter only if a larger context can.
  void require_room(size_t tokens, const std::string& found, std::string_view shorten,
                    std::string_view larger) const;

 private:
  SessionSize size_;
  KvCache cache_;
  Transformer transformer_;
};

/// Throws Error naming `what` for the first id that is not in [0, vocabulary), or if there are
/// none.
void check_ids(std::span<const int32_t> ids, size_t vocabulary, const char* what);

/// Throws Error if no context of this model holds so many `tokens`: "FOUND, but the model has 8192
/// positions ...; SHORTEN".
void check_positions(const ModelConfig& config, size_t tokens, const std::string& found,
                     std::string_view shorten);

}  // namespace rill
