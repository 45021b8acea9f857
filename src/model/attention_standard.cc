// SPDX-License-Identifier: Apache-2.0
// Standard attention: tiles keep the scores of all their keys.
#include <algorithm>
#include <limits>

#include "model/attention.h"
#include "model/attention_tile.h"
#include "model/stripe_tree.h"

namespace rill {

// A task's scores, and with them its sums, by blocks of 64 keys. The scores of a subtree of the
// stripes stand one after the other.
class Attention::Rows {
 public:
  Rows(const Attention& attention, const Task& task, size_t layer, std::byte* scores)
      : attention_(attention),
        kernels_(attention.runtime_.kernels),
        task_(task),
        tile_(attention.tile_of(task)),
        layer_(layer),
        step_(stripe_tokens(attention.shape_)),
        scores_(scores) {
    std::fill_n(maximum_, 16, -std::numeric_limits<float>::infinity());
  }

  // The scores of all keys, and their maximum.
  void score() {
    each_subtree([&](size_t, Range stripes, std::byte* scores) {
      const SubtreeKeys keys(stripes, step_, tile_.most);
      visit(keys, keys.first(), keys.stride(), scores,
            [&](const AttentionTile& tile, float* to) { kernels_.scores(tile, to, maximum_); });
    });
  }
  // Adds the keys of a stripe of a subtree, from nothing.
  void accumulate(Range stripes, size_t stripe, std::byte* scores, SoftmaxState state) const {
    std::copy_n(maximum_, tile_.rows, state.m);
    std::fill_n(state.l, tile_.rows * kPanel, 0.0f);
    std::fill_n(state.o, tile_.rows * round_up(attention_.shape_.head_dim, kPanel), 0.0f);
    visit({stripes, step_, tile_.most}, stripe, kStripes, scores,
          [&](const AttentionTile& tile, float* from) { kernels_.accumulate(tile, from, state); });
  }
  // Calls f(part, its stripes or a piece of them, their scores) as far as there are keys.
  template <class F>
  void each_subtree(const F& f) const {
    if (task_.part != Task::kAllParts) return f(task_.part, plan().stripes_of(task_), scores_);
    std::byte* scores = scores_;
    const std::vector<Range>& parts = attention_.states_.own_parts();
    for (size_t part = 0; part < parts.size(); ++part) {
      if (!attention_.states_.present(parts[part], tile_.most)) continue;
      f(part, parts[part], scores);
      scores += plan().score_bytes(tile_.rows, parts[part], tile_.most);
    }
  }
  float* maximum() { return maximum_; }
  const float* maximum() const { return maximum_; }
  const Task& task() const { return task_; }
  const Tile& tile() const { return tile_; }

 private:
  const AttentionPlan& plan() const { return attention_.plan_; }

  // Runs of keys, every so many from the first on.
  template <class Use>
  void visit(const SubtreeKeys& keys, size_t first, size_t stride, std::byte* scores,
             const Use& use) const {
    for (size_t run = first; run * step_ < tile_.most; run += stride) {
      const size_t end = std::min(tile_.most, (run + 1) * step_);
      for (size_t key = run * step_; key < end; key += kBlockTokens) {
        const size_t next = key + kBlockTokens < end ? key + kBlockTokens : (run + stride) * step_;
        meet(key, next < tile_.most ? next : key,
             reinterpret_cast<float*>(scores +
                                      attention_scratch_bytes(keys.before(key), tile_.rows)),
             use);
      }
    }
  }
  template <class Use>
  void meet(size_t key, size_t next, float* scores, const Use& use) const {
    const Range keys = {key, std::min(key + kBlockTokens, last_key(attention_.shape_, tile_.most))};
    KeyBlocks blocks;
    blocks.find(*tile_.queries->sequence, layer_, tile_.kv_head, keys, next);
    int32_t visible[kMostRows];
    use(tile_.over(attention_.shape_, keys, blocks, visible), scores);
  }

  const Attention& attention_;
  const Kernels& kernels_;
  const Task& task_;
  Tile tile_;
  size_t layer_, step_;
  std::byte* scores_;
  alignas(64) float maximum_[16];
};

// Threads that share a tile look for its rows' maxima in the places of their states, and leave them
// there until the next layer.
void Attention::put_maxima(const Rows& rows) {
  const Task& task = rows.task();
  if (task.slots > 0)
    std::copy_n(rows.maximum(), task.rows, partial_.state(pieces_of(task), task.piece).m);
  else
    states_.put_maxima(place_of(rows.tile()), rows.maximum());
}

void Attention::gather_maxima(const Task& tile, float* maxima) const {
  const PartialStates::Subtree slots = {tile.first_slot, tile.states, tile.rows, tile.slots};
  for (size_t slot = 0; slot < tile.slots; ++slot) {
    const float* const m = partial_.state(slots, slot).m;
    for (size_t r = 0; r < tile.rows; ++r) maxima[r] = std::max(maxima[r], m[r]);
  }
}

// Pieces without keys have no task, so their maxima stay.
void Attention::forget_maxima() {
  for (const Task& tile : plan_.shared()) {
    const PartialStates::Subtree slots = {tile.first_slot, tile.states, tile.rows, tile.slots};
    for (size_t slot = 0; slot < tile.slots; ++slot)
      std::fill_n(partial_.state(slots, slot).m, tile.rows,
                  -std::numeric_limits<float>::infinity());
  }
}

// The rows' maxima over the keys of all ranks; by one thread.
void Attention::settle_maxima() {
  for (const Task& task : plan_.shared()) {
    float maxima[kMostRows];
    std::fill_n(maxima, kMostRows, -std::numeric_limits<float>::infinity());
    gather_maxima(task, maxima);
    states_.put_maxima(place_of(tile_of(task)), maxima);
  }
  states_.share_maxima();
}

// A tile that a thread has by itself it takes from its scores to the end. Where threads share it,
// or other ranks have keys, all scores are there before the first sum; those of tiles that have
// no room together are computed twice.
void Attention::standard(Worker& worker, size_t layer, const Output& out) {
  const std::span<const Task> tasks = plan_.tasks();
  const bool ranks = states_.ranks() > 1, keep = plan_.keeps_scores();
  std::byte* const scratch = thread_scratch(worker);
  std::byte* const own =
      scratch_.scores + static_cast<size_t>(worker.index()) * plan_.thread_score_bytes();
  deal(worker, layer, Phase::WHOLE, tasks.first(plan_.whole()), [&](const Task& task) {
    Rows rows(*this, task, layer, own);
    rows.score();
    sum(rows, scratch, out);
  });
  if (plan_.whole() == tasks.size() && !ranks) return;
  if (plan_.whole() > 0) worker.barrier();  // its scores are where the others' are to be
  const auto scores = [&](const Task& task) { return keep ? scratch_.scores + task.scores : own; };
  deal(worker, layer, Phase::SCORES, tasks.subspan(plan_.whole()), [&](const Task& task) {
    Rows rows(*this, task, layer, scores(task));
    rows.score();
    put_maxima(rows);
  });
  worker.barrier();
  if (ranks) {
    if (worker.first()) settle_maxima();
    worker.barrier();
  }
  deal(worker, layer, Phase::SUMS, tasks.subspan(plan_.whole()), [&](const Task& task) {
    Rows rows(*this, task, layer, scores(task));
    if (!keep) rows.score();
    if (ranks)
      states_.get_maxima(place_of(rows.tile()), rows.maximum());
    else
      gather_maxima(task, rows.maximum());
    sum(rows, scratch, out);
  });
}

// A task's state, from its scores and the rows' maxima.
void Attention::sum(const Rows& rows, std::byte* scratch, const Output& out) {
  const Tile& tile = rows.tile();
  float* const states = lay_out_thread(shape_, scratch).states;
  rows.each_subtree([&](size_t part, Range stripes, std::byte* scores) {
    StripeTree tree(states, shape_.head_dim, tile.rows);
    for (size_t i = stripes.begin; i < stripes.end;) {
      rows.accumulate(stripes, stripe_at(i), scores, tree.own());
      do ++i;
      while (i < stripes.end && stripe_at(i) * stripe_tokens(shape_) >= tile.most);
      join(tree.close(i - stripes.begin), tile.rows);
    }
    if (rows.task().slots > 0)
      bring(rows.task(), tile, tree.root(), out);
    else
      deliver(tile, part, tree.root(), out);
  });
}

}  // namespace rill
