// SPDX-License-Identifier: Apache-2.0
#include "engine/session.h"

#include <algorithm>

#include "base/error.h"

namespace rill {

Session::Session(const LoadedModel& model, const Arithmetic& arithmetic, Runtime runtime,
                 const SessionSize& size)
    : size_(size),
      cache_(model.config, arithmetic.kv, size.context * size.sequences, size.sequences),
      transformer_(model.config, arithmetic, model.weights, runtime, size.chunk, size.context) {}

std::vector<float> Session::logits(std::span<const int32_t> ids, std::vector<float>* hidden,
                                   size_t chunk) {
  check_ids(ids, config().vocab_size, "the ids");
  if (ids.size() > size_.context) {
    fail("there are ", ids.size(), " ids, but the context holds ", size_.context,
         "; give fewer or a larger --ctx");
  }
  chunk = chunk == 0 ? size_.chunk : std::min(chunk, size_.chunk);
  const size_t vocabulary = config().vocab_size, width = config().hidden_size;
  const size_t layers = config().num_layers + 1;
  std::vector<float> rows(ids.size() * vocabulary), part;
  if (hidden != nullptr) {
    hidden->resize(layers * ids.size() * width);
    part.resize(layers * std::min(chunk, ids.size()) * width);
  }
  KvSequence sequence(cache_);
  for (size_t done = 0; done < ids.size(); done += chunk) {
    const size_t count = std::min(chunk, ids.size() - done);
    const SequenceStep step{&sequence, ids.subspan(done, count), count};
    transformer_.forward({&step, 1}, rows.data() + done * vocabulary,
                         hidden != nullptr ? part.data() : nullptr);
    for (size_t layer = 0; hidden != nullptr && layer < layers; ++layer) {
      std::copy_n(part.data() + layer * count * width, count * width,
                  hidden->data() + (layer * ids.size() + done) * width);
    }
  }
  return rows;
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
