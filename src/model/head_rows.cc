// SPDX-License-Identifier: Apache-2.0
#include "model/head_rows.h"

#include <cmath>
#include <numeric>

namespace rill {

HeadRows::HeadRows(const Model& model, const StepRows& rows, const StepScratch& scratch,
                   SequenceRanks& sequence, Attention& attention)
    : model_(model),
      rows_(rows),
      scratch_(scratch),
      sequence_(sequence),
      attention_(attention),
      rope_(model.config),
      widths_(model.config, model.weights.shard()),
      q_heads_(length(model.weights.shard().heads)),
      kv_heads_(length(model.weights.shard().kv_heads)),
      dim_(model.config.head_dim),
      query_scale_(static_cast<float>(0x1.71547652b82fep+0 /  // log2 e
                                      std::sqrt(static_cast<double>(dim_)))) {}

void HeadRows::turn(size_t row) {
  model_.runtime.kernels.rotations(rope_.angles(), static_cast<double>(rows_.own()[row].position),
                                   cosine(row), sine(row));
}

size_t HeadRows::panels() const {
  return std::lcm(dim_, kPanel) / kPanel;
}

namespace {

// Of `count` rows, row(i) each, those of a share that begins and ends with whole pairs: of two
// tokens whose values stand in the same words of the cache.
template <class Row>
Range without_halves(Range share, size_t count, const Row& row) {
  const auto after_pair = [&](size_t i) {
    if (i == 0 || i >= count) return i;
    const StepRow first = row(i - 1), second = row(i);
    const bool pair = second.position % 2 == 1 && first.position + 1 == second.position &&
                      first.sequence == second.sequence;
    return pair ? i + 1 : i;
  };
  return {after_pair(share.begin), after_pair(share.end)};
}

}  // namespace

Range HeadRows::whole_pairs(Range rows) const {
  return without_halves(rows, rows_.size(), [&](size_t i) { return rows_.own()[i]; });
}

// A head's rows come one after the other: neighbours in the cache's panels.
void HeadRows::finish(size_t layer, Range heads, Range rows) {
  for (size_t head = heads.begin; head < heads.end; ++head)
    for (size_t row = rows.begin; row < rows.end; ++row) {
      float* values = scratch_.qkv + row * row_stride(widths_.qkv()) + head * dim_;
      if (head < q_heads_)
        query(layer, head, row, values);
      else if (head < q_heads_ + kv_heads_)
        key(layer, head - q_heads_, row, values);
      else
        keep_v(layer, head - q_heads_ - kv_heads_, rows_.own()[row], values);
    }
}

void HeadRows::query(size_t layer, size_t head, size_t row, float* q) {
  const Kernels& kernels = model_.runtime.kernels;
  kernels.rms_norm(q, model_.weights.layers()[layer].q_norm, dim_, model_.config.rms_norm_eps, q);
  kernels.rope(q, cosine(row), sine(row), dim_, query_scale_);
  attention_.set_query(head, rows_.first() + row, q);
}

void HeadRows::key(size_t layer, size_t head, size_t row, float* k) {
  const Kernels& kernels = model_.runtime.kernels;
  kernels.rms_norm(k, model_.weights.layers()[layer].k_norm, dim_, model_.config.rms_norm_eps, k);
  kernels.rope(k, cosine(row), sine(row), dim_, 1);
  keep_k(layer, head, rows_.own()[row], k);
}

namespace {

struct Place {
  uint32_t block;
  size_t slot;
};
Place place(const StepRow& row) {
  return {row.sequence->blocks()[row.position / kBlockTokens], row.position % kBlockTokens};
}

}  // namespace

// Other ranks keep the keys and values of their stripes.
void HeadRows::keep_k(size_t layer, size_t head, const StepRow& row, const float* k) {
  const auto [block, slot] = place(row);
  if (block == KvSequence::kElsewhere) return;
  model_.runtime.kernels.store_k(model_.arithmetic.kv, k, dim_, slot,
                                 row.sequence->cache().k(block, layer, head));
}

void HeadRows::keep_v(size_t layer, size_t head, const StepRow& row, const float* v) {
  const auto [block, slot] = place(row);
  if (block == KvSequence::kElsewhere) return;
  model_.runtime.kernels.store_v(model_.arithmetic.kv, v, dim_, slot,
                                 row.sequence->cache().v(block, layer, head));
}

void HeadRows::start_others(Worker& worker) {
  sequence_.start_qkv(worker, scratch_.qkv, row_stride(widths_.qkv()));
}

void HeadRows::take_others(Worker& worker, size_t layer) {
  if (sequence_.shares().cuts_columns())
    take_other_heads(worker, layer);
  else if (sequence_.others() > 0)
    take_other_rows(worker, layer);
}

void HeadRows::take_other_rows(Worker& worker, size_t layer) {
  sequence_.finish_qkv(worker);
  const Range mine = without_halves(worker.share(sequence_.others()), sequence_.others(),
                                    [&](size_t i) { return rows_.all()[sequence_.other(i)]; });
  for (size_t i = mine.begin; i < mine.end; ++i) {
    const size_t row = sequence_.other(i);
    const float* q = sequence_.queries(row);
    for (size_t head = 0; head < q_heads_; ++head) attention_.set_query(head, row, q + head * dim_);
    if (!sequence_.keeps(row)) continue;
    const float* k = sequence_.keys_values(row);
    for (size_t head = 0; head < kv_heads_; ++head) {
      keep_k(layer, head, rows_.all()[row], k + head * dim_);
      keep_v(layer, head, rows_.all()[row], k + widths_.kv + head * dim_);
    }
  }
  worker.barrier();
}

// Of this rank's rows: the heads that other ranks have computed.
void HeadRows::take_other_heads(Worker& worker, size_t layer) {
  const size_t stride = row_stride(widths_.qkv()), unit = panels() * kPanel;
  sequence_.share_columns(worker, {scratch_.qkv, stride, rows_.size(), widths_.qkv(), unit});
  worker.barrier();
  const Range own = sequence_.shares().own_columns(widths_.qkv(), unit);
  const Range mine = worker.share(q_heads_ + 2 * kv_heads_);
  for (size_t head = mine.begin; head < mine.end; ++head) {
    if (in_range(own, head * dim_)) continue;
    for (size_t row = 0; row < rows_.size(); ++row) {
      const float* values = scratch_.qkv + row * stride + head * dim_;
      if (head < q_heads_)
        attention_.set_query(head, row, values);
      else if (head < q_heads_ + kv_heads_)
        keep_k(layer, head - q_heads_, rows_.own()[row], values);
      else
        keep_v(layer, head - q_heads_ - kv_heads_, rows_.own()[row], values);
    }
  }
  worker.barrier();
}

}  // namespace rill
