// SPDX-License-Identifier: Apache-2.0
#include "engine/trace.h"

#include <algorithm>
#include <chrono>
#include <cstring>

#include "base/error.h"
#include "base/hash.h"
#include "engine/session.h"

namespace rill {
namespace {

/// A sequence that only keeps ours company: some tokens at first, then one a step.
struct Neighbour {
  KvSequence sequence;
  std::vector<int32_t> ids;

  std::span<const int32_t> next() {
    const size_t at = sequence.length();
    return std::span(ids).subspan(at % ids.size(), at == 0 ? std::min<size_t>(3, ids.size()) : 1);
  }
};

class Tracer {
 public:
  Tracer(const LoadedModel& model, const TraceSetting& setting, std::span<const int32_t> prompt,
         size_t length)
      : config_(model.config),
        setting_(setting),
        rows_(prompt.size() + length - 1),
        shard_(model.weights.shard()),
        world_(model.ranks.world()),
        session_(model, setting.arithmetic, Runtime{*setting.kernels, *setting.team, model.ranks},
                 size()),
        ours_(session_.cache()) {
    for (size_t i = 0; i < setting.before + setting.after; ++i) {
      std::vector<int32_t> ids(prompt.begin(), prompt.end());
      std::rotate(ids.begin(), ids.begin() + static_cast<std::ptrdiff_t>((i + 1) % ids.size()),
                  ids.end());
      neighbours_.push_back({KvSequence(session_.cache()), std::move(ids)});
    }
    trace_.rows = rows_;
    trace_.logits.resize(rows_ * config_.vocab_size);
    trace_.hidden.resize((config_.num_layers + 1) * rows_ * config_.hidden_size);
    trace_.middle.resize(config_.num_layers * rows_ * config_.hidden_size);
  }

  /// One step with `ids` of ours and its company's tokens.
  void feed(std::span<const int32_t> ids) {
    std::vector<SequenceStep> steps;
    size_t total = ids.size(), before = 0, wanted_before = 0;
    for (size_t i = 0; i <= neighbours_.size(); ++i) {
      if (i == setting_.before) {
        before = total - ids.size();
        wanted_before = i;
        steps.push_back({&ours_, ids, ids.size()});
      }
      if (i == neighbours_.size()) break;
      steps.push_back({&neighbours_[i].sequence, neighbours_[i].next(), 1});
      total += steps.back().tokens.size();
    }
    const size_t first = ours_.length(), vocabulary = config_.vocab_size;
    const size_t width = config_.hidden_size;
    logits_.resize((ids.size() + neighbours_.size()) * vocabulary);
    hidden_.resize((config_.num_layers + 1) * total * width);
    middle_.resize(config_.num_layers * total * width);
    session_.transformer().set_middle(middle_.data());
    session_.transformer().forward(steps, logits_.data(), hidden_.data());
    std::copy_n(logits_.data() + wanted_before * vocabulary, ids.size() * vocabulary,
                trace_.logits.data() + first * vocabulary);
    const auto take = [&](const std::vector<float>& from, std::vector<float>& to) {
      for (size_t layer = 0; layer * total * width < from.size(); ++layer)
        std::copy_n(from.data() + (layer * total + before) * width, ids.size() * width,
                    to.data() + (layer * rows_ + first) * width);
    };
    take(hidden_, trace_.hidden);
    take(middle_, trace_.middle);
  }

  void choose() {
    const float* row = trace_.logits.data() + (ours_.length() - 1) * config_.vocab_size;
    const float* best = std::max_element(row, row + config_.vocab_size);
    double second = -1e300;
    for (size_t i = 0; i < config_.vocab_size; ++i)
      if (row + i != best) second = std::max<double>(second, row[i]);
    trace_.tokens.push_back(static_cast<int32_t>(best - row));
    trace_.margin.push_back(*best - second);
  }

  Trace& result() { return trace_; }

  /// Keeps what the KV caches of all ranks hold of our sequence.
  void keep_cache() {
    const size_t blocks = ours_.blocks().size();
    std::vector<uint64_t> sums(config_.num_layers * blocks);
    for (size_t layer = 0; layer < config_.num_layers; ++layer)
      for (size_t block = 0; block < blocks; ++block)
        sums[layer * blocks + block] = hash_of_own(layer, ours_.blocks()[block]);
    add_ranks(sums);
    for (size_t layer = 0; layer < config_.num_layers; ++layer) {
      const auto begin = sums.begin() + static_cast<std::ptrdiff_t>(layer * blocks);
      trace_.kv.emplace_back(begin, begin + static_cast<std::ptrdiff_t>(blocks));
    }
  }

 private:
  /// A sum over the heads of which this rank keeps a block (one that it shares with other ranks
  /// counts where its first query head is), so that any split of the heads gives the same.
  uint64_t hash_of_own(size_t layer, uint32_t block) {
    KvCache& cache = session_.cache();
    const size_t group = config_.num_heads / config_.num_kv_heads;
    uint64_t sum = 0;
    for (size_t head = shard_.kv_heads.begin; head < shard_.kv_heads.end; ++head) {
      if (block == KvSequence::kElsewhere || !in_range(shard_.heads, head * group)) continue;
      Hash hash;
      hash.add(std::as_bytes(std::span(&head, 1)));
      hash.add({cache.k(block, layer, head - shard_.kv_heads.begin), cache.head_bytes()});
      sum += hash.value();
    }
    return sum;
  }

  void add_ranks(std::vector<uint64_t>& sums) {
    const auto ranks = static_cast<size_t>(world_.size()), me = static_cast<size_t>(world_.rank());
    std::vector<uint64_t> all(ranks * sums.size());
    std::copy(sums.begin(), sums.end(),
              all.begin() + static_cast<std::ptrdiff_t>(me * sums.size()));
    const std::vector<size_t> bytes(ranks, sums.size() * sizeof(uint64_t));
    world_.all_gather(reinterpret_cast<std::byte*>(all.data()), bytes);
    std::fill(sums.begin(), sums.end(), 0);
    for (size_t i = 0; i < all.size(); ++i) sums[i % sums.size()] += all[i];
  }

  SessionSize size() const {
    SessionSize size;
    const size_t company = setting_.before + setting_.after;
    size.context = rows_ + 3;
    size.sequences = 1 + company;
    size.chunk = setting_.chunk + 3 * company;
    size.logits = setting_.chunk + company;
    return size;
  }

  const ModelConfig& config_;
  const TraceSetting& setting_;
  size_t rows_;
  const Shard& shard_;
  Communicator& world_;
  Session session_;
  KvSequence ours_;
  std::vector<Neighbour> neighbours_;
  std::vector<float> logits_, hidden_, middle_;
  Trace trace_;
};

}  // namespace

Trace trace(const LoadedModel& model, const TraceSetting& setting, std::span<const int32_t> prompt,
            size_t length) {
  check_ids(prompt, model.config.vocab_size, "the prompt's ids");
  if (prompt.size() + length > model.config.max_position_embeddings) {
    fail("the prompt and --gen-len are ", prompt.size() + length,
         " tokens, but this model was made for at most ", model.config.max_position_embeddings,
         " positions (max_position_embeddings in config.json); take fewer");
  }
  const auto start = std::chrono::steady_clock::now();
  Tracer tracer(model, setting, prompt, length);
  for (size_t done = 0; done < prompt.size(); done += setting.chunk)
    tracer.feed(prompt.subspan(done, std::min(setting.chunk, prompt.size() - done)));
  tracer.choose();
  while (tracer.result().tokens.size() < length) {
    const int32_t id = tracer.result().tokens.back();
    tracer.feed({&id, 1});
    tracer.choose();
  }
  tracer.keep_cache();
  tracer.result().seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return std::move(tracer.result());
}

namespace {

/// Rows that were fed the same ids in both runs.
size_t common_rows(const Trace& a, const Trace& b) {
  const size_t prompt = a.rows + 1 - a.tokens.size();
  const auto parting =
      std::mismatch(a.tokens.begin(), a.tokens.end(), b.tokens.begin(), b.tokens.end());
  return std::min({a.rows, b.rows, prompt + static_cast<size_t>(parting.first - a.tokens.begin())});
}

/// In which part of a layer two runs part whose results are the same before it.
std::string part_of_layer(const Trace& a, const Trace& b, size_t layer, size_t count) {
  if (a.tokens == b.tokens && a.kv[layer] != b.kv[layer])
    return ", by its keys and values (norm, projection or RoPE)";
  const size_t width = a.middle.size() / a.kv.size() / a.rows;
  const bool middle =
      std::memcmp(a.middle.data() + layer * a.rows * width,
                  b.middle.data() + layer * b.rows * width, count * width * sizeof(float)) != 0;
  return middle ? ", in attention (queries, softmax or the output's projection)"
                : ", in the feed-forward layer";
}

}  // namespace

std::string first_difference(const ModelConfig& config, const Trace& a, const Trace& b) {
  const size_t rows = common_rows(a, b), width = config.hidden_size;
  auto differ = [](const float* x, const float* y, size_t n) {
    return std::memcmp(x, y, n * sizeof(float)) != 0;
  };
  // A token's later layers see earlier tokens, so the first layer counts before the first token.
  for (size_t layer = 0; layer <= config.num_layers; ++layer) {
    for (size_t row = 0; row < rows; ++row) {
      if (!differ(a.hidden.data() + (layer * a.rows + row) * width,
                  b.hidden.data() + (layer * b.rows + row) * width, width))
        continue;
      const std::string token = "token " + std::to_string(row);
      if (layer == 0) return "the embedding, " + token;
      return "layer " + std::to_string(layer - 1) + " (of 0 to " +
             std::to_string(config.num_layers - 1) + "), " + token +
             part_of_layer(a, b, layer - 1, rows);
    }
  }
  for (size_t row = 0; row < rows; ++row) {
    if (differ(a.logits.data() + row * config.vocab_size, b.logits.data() + row * config.vocab_size,
               config.vocab_size))
      return "the final norm or the head, token " + std::to_string(row);
  }
  return a.tokens == b.tokens && a.rows == b.rows ? "" : "the choice of tokens";
}

}  // namespace rill
