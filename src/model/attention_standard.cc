// SPDX-License-Identifier: Apache-2.0
// Standard attention: tiles keep the scores of all their keys.
#include <algorithm>
#include <cstring>
#include <limits>

#include "model/attention.h"
#include "model/attention_tile.h"
#include "model/stripe_tree.h"

namespace rill {

// One tile's scores, and with them its sums, block by block of 64 keys, as far as this rank has the
// keys.
class Attention::Rows {
 public:
  Rows(const Attention& attention, const Task& task, size_t layer, std::byte* scratch)
      : attention_(attention),
        kernels_(attention.runtime_.kernels),
        tile_(attention.tile_of(task)),
        layer_(layer),
        scores_(lay_out_thread(attention.shape_, attention.most_context_, scratch).scores) {
    std::fill_n(maximum_, 16, -std::numeric_limits<float>::infinity());
  }

  // The scores of all keys, and their maximum.
  void score() {
    for (size_t key = 0; key < tile_.most; key += kBlockTokens)
      if (attention_.holds(key))
        run(key,
            [&](const AttentionTile& keys, float* to) { kernels_.scores(keys, to, maximum_); });
  }
  // Adds the keys of a stripe, from nothing.
  void accumulate(size_t stripe, SoftmaxState state) {
    const size_t step = stripe_tokens(attention_.shape_);
    std::memset(state.m, 0, state_floats(attention_.shape_.head_dim, kMostRows) * sizeof(float));
    std::copy_n(maximum_, kMostRows, state.m);
    for (size_t start = stripe * step; start < tile_.most; start += kStripes * step)
      for (size_t key = start; key < std::min(tile_.most, start + step); key += kBlockTokens)
        run(key, [&](const AttentionTile& keys, float* from) {
          kernels_.accumulate(keys, from, state);
        });
  }
  float* maximum() { return maximum_; }
  const Tile& tile() const { return tile_; }

 private:
  template <class Use>
  void run(size_t key, const Use& use) {
    const Range keys = {key, std::min(key + kBlockTokens, last_key(attention_.shape_, tile_.most))};
    const size_t next = key + kBlockTokens;
    const bool more = next < tile_.most && attention_.holds(next);
    KeyBlocks blocks;
    blocks.find(*tile_.queries->sequence, layer_, tile_.kv_head, keys, more ? next : key);
    int32_t visible[kMostRows];
    use(tile_.over(attention_.shape_, keys, blocks, visible),
        reinterpret_cast<float*>(scores_ + attention_scratch_bytes(key, tile_.rows)));
  }

  const Attention& attention_;
  const Kernels& kernels_;
  Tile tile_;
  size_t layer_;
  std::byte* scores_;
  alignas(64) float maximum_[16];
};

// The rows' maxima over the keys of all ranks. The scores are computed again afterwards: those of
// all tiles together would not fit.
void Attention::settle_maxima(Worker& worker, size_t layer, std::byte* scratch) {
  const auto count = static_cast<size_t>(worker.count());
  for (size_t i = static_cast<size_t>(worker.index()); i < tasks_.size(); i += count) {
    Rows rows(*this, tasks_[i], layer, scratch);
    rows.score();
    states_.put_maxima(place_of(rows.tile()), rows.maximum());
  }
  worker.barrier();
  if (worker.first()) states_.share_maxima();
  worker.barrier();
}

void Attention::standard(const Task& task, size_t layer, std::byte* scratch, const Output& out) {
  Rows rows(*this, task, layer, scratch);
  rows.score();
  const Tile& tile = rows.tile();
  if (states_.ranks() > 1) states_.get_maxima(place_of(tile), rows.maximum());
  float* states = lay_out_thread(shape_, most_context_, scratch).states;
  const std::vector<Range>& parts = states_.own_parts();
  for (size_t part = 0; part < parts.size(); ++part) {
    if (!states_.present(parts[part], tile.most)) continue;
    StripeTree tree(states, shape_.head_dim, kMostRows);
    for (size_t i = parts[part].begin; i < parts[part].end;) {
      rows.accumulate(stripe_at(i), tree.own());
      do ++i;
      while (i < parts[part].end && stripe_at(i) * stripe_tokens(shape_) >= tile.most);
      join(tree.close(i - parts[part].begin), tile.rows, runtime_.kernels.add);
    }
    if (keeps_states_)
      states_.put(place_of(tile), part, tree.root());
    else
      finish(tile, tree.root(), out);
  }
}

}  // namespace rill
