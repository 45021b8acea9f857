// SPDX-License-Identifier: Apache-2.0
// Reads from top to bottom as a token goes. Its parts: linear_layers.h, head_rows.h, attention.h;
// over ranks, sequence_ranks.h and tensor_ranks.h.
#include "model/forward_pass.h"

#include <algorithm>
#include <bit>

namespace rill {

AttentionShape attention_shape(const ModelConfig& config, const Arithmetic& arithmetic,
                               const Shard& shard) {
  const size_t group = config.num_heads / config.num_kv_heads;
  return {length(shard.heads),
          length(shard.kv_heads),
          config.head_dim,
          arithmetic.attention_type,
          arithmetic.block_size,
          arithmetic.attention,
          arithmetic.kv,
          group,
          shard.heads.begin - shard.kv_heads.begin * group,
          shard.sp};
}

ForwardPass::ForwardPass(const Model& model, const ScratchSize& size, size_t most_context)
    : model_(model),
      shard_(size.shard),
      widths_(model.config, shard_),
      memory_(StepScratch::bytes(size), "the scratch of the forward pass"),
      arena_(memory_.data()),
      scratch_(size, arena_),
      rows_(size.rows, shard_.sp, model.arithmetic.block_size),
      sequence_(model.runtime.ranks, widths_, size.rows),
      tensor_(TensorRanks::make(model.config, model.runtime.ranks, size.rows)),
      attention_(attention_shape(model.config, model.arithmetic, shard_), model.runtime, size.rows,
                 most_context),
      heads_(model, rows_, scratch_, sequence_, attention_),
      linear_(model, scratch_, sequence_, *tensor_) {}

size_t ForwardPass::run(float* logits, const Residuals& residuals, Profile* profile) {
  logits_ = logits;
  residuals_ = residuals;
  bad_.store(rows_.all().size());
  sequence_.plan(rows_.keepers());
  rows_.share_out(sequence_.shares());
  attention_.plan(rows_.queries(), sequence_.shares());
  const auto step = [this, profile](Worker& worker) {
    const FloatMode mode;
    if (profile) worker.observe(&profile->clock(worker.index()));
    embed(worker);
    for (size_t layer = 0; layer < model_.weights.layers().size(); ++layer) {
      attention(worker, layer);
      keep(worker, residuals_.middle, layer);
      feed_forward(worker, layer);
      keep(worker, residuals_.hidden, layer + 1);
    }
    head(worker);
    begin(worker, Operation::WAITING);  // for the others to end
  };
  model_.runtime.team.run(std::cref(step));  // a reference: std::function allocates nothing
  if (profile) profile->clock(0).enter(static_cast<size_t>(Operation::REST));
  return sequence_.least(tensor_->least(bad_.load()));
}

void ForwardPass::embed(Worker& worker) {
  begin(worker, Operation::EMBEDDING);
  const Range mine = worker.share(rows_.size());
  const Range here = shard_.vocabulary;
  for (size_t row = mine.begin; row < mine.end; ++row) {
    const auto token = static_cast<size_t>(rows_.own_tokens()[row]);
    if (in_range(here, token))
      unpack_row(model_.weights.embedding(), token - here.begin, widths_.hidden, x(row));
    heads_.turn(row);
  }
  tensor_->share_embeddings(worker, rows_.own_tokens(), scratch_.x, row_stride(widths_.hidden));
  keep(worker, residuals_.hidden, 0);
  worker.barrier();
}

void ForwardPass::attention(Worker& worker, size_t layer) {
  const LayerWeights& w = model_.weights.layers()[layer];
  query_key_value(worker, layer);
  heads_.take_others(worker, layer);
  linear_.meet(worker, w.o);
  begin(worker, Operation::ATTENTION);
  attention_.run(worker, layer, scratch_.attended, row_stride(widths_.q));
  linear_.meet(worker, w.o);
  linear_.project(worker, Cut::O, w.o, {scratch_.attended, row_stride(widths_.q), w.o_bias});
  linear_.meet(worker, w.gate_up);
}

// The QKV product, dealt in whole heads; each is normed, rotated and stored while it is warm. A
// few rows are bound by reading weights, which goes fastest in one run; many would not stay in
// the cache if a thread multiplied all its heads first.
void ForwardPass::query_key_value(Worker& worker, size_t layer) {
  const LayerWeights& w = model_.weights.layers()[layer];
  const Activations a = normed(worker, w.input_norm);
  const LinearJob job = {&w.qkv,         w.qkv_bias, a, scratch_.qkv, row_stride(widths_.qkv()),
                         Epilogue::STORE};
  const size_t unit = heads_.panels();
  begin(worker, Operation::QKV);
  linear_.deal(worker, w.qkv, unit, [&](Range panels) {
    const size_t step = a.rows <= kMostRows ? length(panels) : unit;
    for (size_t first = panels.begin; first < panels.end; first += step) {
      const size_t last = std::min(first + step, panels.end);
      model_.runtime.kernels.linear(job, first, last);
      begin(worker, Operation::HEADS);
      heads_.finish(layer, {first * kPanel / model_.config.head_dim,
                            std::min(last * kPanel, widths_.qkv()) / model_.config.head_dim});
      begin(worker, Operation::QKV);
    }
  });
}

void ForwardPass::feed_forward(Worker& worker, size_t layer) {
  const std::vector<LayerWeights>& layers = model_.weights.layers();
  const LayerWeights& w = layers[layer];
  const size_t stride = row_stride(widths_.intermediate);
  const Activations b = normed(worker, w.post_attention_norm);
  begin(worker, Operation::GATE_UP);
  linear_.product(worker, w.gate_up, b, {scratch_.gated, stride, nullptr, Epilogue::SILU_MUL});
  linear_.share_columns(worker, scratch_.gated, stride, widths_.intermediate, kDealtPanels / 2);
  linear_.meet(worker, w.down);
  linear_.project(worker, Cut::DOWN, w.down, {scratch_.gated, stride, nullptr});
  linear_.meet(worker, layer + 1 < layers.size() ? layers[layer + 1].qkv : model_.weights.head());
}

void ForwardPass::head(Worker& worker) {
  if (rows_.wanted().empty()) return;
  own_logits(worker);
  sequence_.share_rows(worker, logits_, model_.config.vocab_size, rows_.wanted_counts());
}

namespace {

bool finite(const float* values, size_t count) {
  uint32_t largest = 0;
  for (size_t i = 0; i < count; ++i)
    largest = std::max(largest, std::bit_cast<uint32_t>(values[i]) & 0x7fffffffu);
  return largest < 0x7f800000u;
}

}  // namespace

void ForwardPass::own_logits(Worker& worker) {
  const std::span<const size_t> wanted = rows_.own_wanted();
  if (wanted.empty()) return;
  const Activations a =
      linear_.prepare(worker, wanted.size(), widths_.hidden, [&](size_t i, float* to) {
        model_.runtime.kernels.rms_norm(x(wanted[i] - rows_.first()), model_.weights.final_norm(),
                                        widths_.hidden, model_.config.rms_norm_eps, to);
        return static_cast<const float*>(to);
      });
  begin(worker, Operation::HEAD);
  const size_t vocabulary = model_.config.vocab_size;
  float* rows = logits_ + rows_.first_wanted() * vocabulary;
  float* logits = rows + shard_.vocabulary.begin;
  linear_.product(worker, model_.weights.head(), a, {logits, vocabulary, nullptr, Epilogue::STORE},
                  [&](Range panels) {
                    const size_t first = panels.begin * kPanel;
                    const size_t last = std::min(panels.end * kPanel, length(shard_.vocabulary));
                    for (size_t i = 0; i < wanted.size(); ++i)
                      if (!finite(logits + i * vocabulary + first, last - first)) report(wanted[i]);
                  });
  sequence_.share_logits(worker, {logits, vocabulary, wanted.size(), length(shard_.vocabulary),
                                  kDealtPanels * kPanel});
  tensor_->share_logits(worker, rows, wanted.size());
}

Activations ForwardPass::normed(Worker& worker, const float* weight) {
  return linear_.prepare(worker, rows_.size(), widths_.hidden, [&](size_t row, float* to) {
    model_.runtime.kernels.rms_norm(x(row), weight, widths_.hidden, model_.config.rms_norm_eps, to);
    return static_cast<const float*>(to);
  });
}

void ForwardPass::report(size_t row) {
  size_t known = bad_.load();
  while (row < known && !bad_.compare_exchange_weak(known, row)) {
  }
}

// The residual stream to the index-th of some arrays [rows][hidden], if they are wanted.
void ForwardPass::keep(Worker& worker, float* arrays, size_t index) {
  if (!arrays) return;
  const size_t width = widths_.hidden;
  float* all = arrays + index * rows_.all().size() * width;
  const Range mine = worker.share(rows_.size());
  for (size_t row = mine.begin; row < mine.end; ++row)
    std::copy_n(x(row), width, all + (rows_.first() + row) * width);
  sequence_.share_rows(worker, all, width, rows_.counts());
}

}  // namespace rill
