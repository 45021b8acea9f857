// SPDX-License-Identifier: Apache-2.0
// Reads from top to bottom as a token goes. Its parts: linear_layers.h, head_rows.h, attention.h;
// over ranks, sequence_ranks.h and tensor_ranks.h.
#include "model/forward_pass.h"

#include <algorithm>
#include <array>
#include <bit>
#include <functional>

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
    : model_(model), cut_{model.runtime.ranks.on_several_machines(), size.shard.sp.count} {
  for (size_t i = 0; i < kMostPieces; ++i) {
    ScratchSize piece = size;
    piece.rows = cut_.most(size.rows, i);
    if (piece.rows > 0) pieces_.push_back(std::make_unique<StepPiece>(model, piece, most_context));
  }
}

size_t ForwardPass::scratch_bytes(const ScratchSize& size, const StepPieces& cut,
                                  size_t most_context) {
  size_t bytes = 0;
  for (size_t i = 0; i < kMostPieces; ++i) {
    ScratchSize piece = size;
    piece.rows = cut.most(size.rows, i);
    if (piece.rows == 0) continue;
    bytes += StepScratch::bytes(piece) +
             TensorRanks::scratch_bytes(size.config, size.shard.tp.count, piece.rows) +
             SequenceRanks::scratch_bytes(size.config, size.shard, piece.rows) +
             Attention::scratch_bytes(attention_shape(size.config, size.arithmetic, size.shard),
                                      size.kernels, size.threads, piece.rows, most_context);
  }
  return bytes;
}

void ForwardPass::begin(size_t rows) {
  first_rows_ = cut_.first(rows);
  count_ = first_rows_ < rows ? 2 : 1;
  for (const auto& piece : pieces_) piece->rows().clear();
}

void ForwardPass::add(const StepTokens& step) {
  const size_t room = first_rows_ - pieces_[0]->rows().all().size();
  const auto [here, logits] = StepPieces::cut(room, step.tokens.size(), step.logits);
  if (here > 0)
    pieces_[0]->rows().add({step.sequence, step.position, step.tokens.first(here), logits});
  if (here < step.tokens.size())
    pieces_[1]->rows().add(
        {step.sequence, step.position + here, step.tokens.subspan(here), step.logits - logits});
}

void ForwardPass::plan(const StepOutput& output) {
  StepOutput piece = output;
  for (size_t i = 0; i < count_; ++i) {
    pieces_[i]->plan(piece);
    const StepRows& rows = pieces_[i]->rows();
    const size_t floats = rows.all().size() * model_.config.hidden_size;
    piece.logits += rows.wanted().size() * model_.config.vocab_size;
    if (piece.hidden) piece.hidden += floats;
    if (piece.middle) piece.middle += floats;
  }
}

size_t ForwardPass::run(const StepOutput& output, Profile* profile) {
  plan(output);
  const auto body = [this, profile](Worker& worker) {
    const FloatMode mode;
    if (profile) worker.observe(&profile->clock(worker.index()));
    step(worker);
    rill::begin(worker, Operation::WAITING);  // for the others to end
  };
  model_.runtime.team.run(std::cref(body));  // a reference: std::function allocates nothing
  if (profile) profile->clock(0).enter(static_cast<size_t>(Operation::REST));
  size_t bad = pieces_[0]->bad();
  if (count_ > 1 && bad == first_rows_) bad += pieces_[1]->bad();
  return pieces_[0]->least(bad);
}

// A piece goes on until it waits for something that is on its way; then it is the other one's turn.
// The first one is always ahead, so that keys are there before the second asks for them.
void ForwardPass::step(Worker& worker) {
  for (size_t i = 0; i < count_; ++i) pieces_[i]->embed(worker);
  std::array<size_t, kMostPieces> done{};
  for (size_t i = 0; done[count_ - 1] < pieces_[0]->phases(); i = (i + 1) % count_)
    while (!pieces_[i]->run(worker, done[i]++)) {
    }
}

// ---- a piece ----

StepPiece::StepPiece(const Model& model, const ScratchSize& size, size_t most_context)
    : model_(model),
      shard_(size.shard),
      widths_(model.config, shard_),
      memory_(StepScratch::bytes(size), "the scratch of the forward pass"),
      arena_(memory_.data()),
      scratch_(size, arena_),
      rows_(size.rows, shard_.sp, model.arithmetic.block_size),
      sequence_(SequenceRanks::make(model.config, model.runtime.ranks, size.rows)),
      tensor_(TensorRanks::make(model.config, model.runtime.ranks, size.rows)),
      attention_(attention_shape(model.config, model.arithmetic, shard_), model.runtime, size.rows,
                 most_context),
      heads_(model, rows_, scratch_, *sequence_, attention_),
      linear_(model, scratch_, *sequence_, *tensor_) {}

void StepPiece::plan(const StepOutput& output) {
  output_ = output;
  bad_.store(rows_.all().size());
  sequence_->plan(rows_.keepers());
  rows_.share_out(sequence_->shares());
  attention_.plan(rows_.queries(), sequence_->shares());
}

void StepPiece::embed(Worker& worker) {
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
  keep(worker, output_.hidden, 0);
  worker.barrier();
}

// True: something was sent that the next phase waits for; or there is none.
bool StepPiece::run(Worker& worker, size_t phase) {
  const size_t layer = phase / kPhases;
  switch (phase % kPhases) {
    case 0:
      if (layer > 0) end_layer(worker, layer - 1);
      if (phase + 1 == phases()) {
        head(worker);
        return true;
      }
      query_key_value(worker, layer);
      return sequence_->others() > 0;
    case 1:
      attend(worker, layer);
      return shard_.sp.count > 1;
    case 2:
      project_attended(worker, layer);
      return shard_.tp.count > 1;
    default:
      feed_forward(worker, layer);
      return shard_.tp.count > 1;
  }
}

// The QKV product, dealt in whole heads; each is normed, rotated and stored while it is warm. A
// few rows are bound by reading weights, which goes fastest in one run; many would not stay in
// the cache if a thread multiplied all its heads first.
void StepPiece::query_key_value(Worker& worker, size_t layer) {
  const LayerWeights& w = weights(layer);
  const Activations a = normed(worker, w.input_norm);
  const LinearJob job = {&w.qkv,         w.qkv_bias, a, scratch_.qkv, row_stride(widths_.qkv()),
                         Epilogue::STORE};
  const size_t unit = heads_.panels();
  begin(worker, Operation::QKV);
  linear_.deal(worker, w.qkv, unit, a, [&](Range panels, Range strip) {
    const Range rows = heads_.whole_pairs(strip);
    const size_t step = a.rows <= kMostRows ? length(panels) : unit;
    for (size_t first = panels.begin; first < panels.end; first += step) {
      const size_t last = std::min(first + step, panels.end);
      model_.runtime.kernels.linear(rows_of(job, rows), first, last);
      begin(worker, Operation::HEADS);
      heads_.finish(layer,
                    {first * kPanel / model_.config.head_dim,
                     std::min(last * kPanel, widths_.qkv()) / model_.config.head_dim},
                    rows);
      begin(worker, Operation::QKV);
    }
  });
  linear_.meet(worker, w.o);
  heads_.start_others(worker);
}

void StepPiece::attend(Worker& worker, size_t layer) {
  heads_.take_others(worker, layer);
  begin(worker, Operation::ATTENTION);
  attention_.attend(worker, layer, attended());
}

void StepPiece::project_attended(Worker& worker, size_t layer) {
  const LayerWeights& w = weights(layer);
  begin(worker, Operation::ATTENTION);
  attention_.join(worker, attended());
  linear_.meet(worker, w.o);
  linear_.project(worker, Cut::O, w.o, {scratch_.attended, row_stride(widths_.q), w.o_bias},
                  w.gate_up);
}

void StepPiece::feed_forward(Worker& worker, size_t layer) {
  const LayerWeights& w = weights(layer);
  const size_t stride = row_stride(widths_.intermediate);
  begin(worker, Operation::O);
  linear_.add(worker, Cut::O, w.o_bias);
  keep(worker, output_.middle, layer);
  const Activations b = normed(worker, w.post_attention_norm);
  begin(worker, Operation::GATE_UP);
  linear_.product(worker, w.gate_up, b, {scratch_.gated, stride, nullptr, Epilogue::SILU_MUL});
  linear_.share_columns(worker, scratch_.gated, stride, widths_.intermediate, kDealtPanels / 2);
  linear_.meet(worker, w.down);
  const bool last = layer + 1 == model_.weights.layers().size();
  linear_.project(worker, Cut::DOWN, w.down, {scratch_.gated, stride, nullptr},
                  last ? model_.weights.head() : weights(layer + 1).qkv);
}

void StepPiece::end_layer(Worker& worker, size_t layer) {
  begin(worker, Operation::DOWN);
  linear_.add(worker, Cut::DOWN, nullptr);
  keep(worker, output_.hidden, layer + 1);
}

void StepPiece::head(Worker& worker) {
  if (rows_.wanted().empty()) return;
  own_logits(worker);
  sequence_->share_rows(worker, output_.logits, model_.config.vocab_size, rows_.wanted_counts());
}

namespace {

bool finite(const float* values, size_t count) {
  uint32_t largest = 0;
  for (size_t i = 0; i < count; ++i)
    largest = std::max(largest, std::bit_cast<uint32_t>(values[i]) & 0x7fffffffu);
  return largest < 0x7f800000u;
}

}  // namespace

void StepPiece::own_logits(Worker& worker) {
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
  float* rows = output_.logits + rows_.first_wanted() * vocabulary;
  float* logits = rows + shard_.vocabulary.begin;
  linear_.product(worker, model_.weights.head(), a, {logits, vocabulary, nullptr, Epilogue::STORE},
                  [&](Range panels, Range some) {
                    const size_t first = panels.begin * kPanel;
                    const size_t last = std::min(panels.end * kPanel, length(shard_.vocabulary));
                    for (size_t i = some.begin; i < some.end; ++i)
                      if (!finite(logits + i * vocabulary + first, last - first)) report(wanted[i]);
                  });
  sequence_->share_logits(worker, {logits, vocabulary, wanted.size(), length(shard_.vocabulary),
                                   kDealtPanels * kPanel});
  tensor_->share_logits(worker, rows, wanted.size());
}

Activations StepPiece::normed(Worker& worker, const float* weight) {
  return linear_.prepare(worker, rows_.size(), widths_.hidden, [&](size_t row, float* to) {
    model_.runtime.kernels.rms_norm(x(row), weight, widths_.hidden, model_.config.rms_norm_eps, to);
    return static_cast<const float*>(to);
  });
}

void StepPiece::report(size_t row) {
  size_t known = bad_.load();
  while (row < known && !bad_.compare_exchange_weak(known, row)) {
  }
}

// The residual stream to the index-th of some arrays [rows][hidden], if they are wanted.
void StepPiece::keep(Worker& worker, float* arrays, size_t index) {
  if (!arrays) return;
  const size_t width = widths_.hidden;
  float* all = arrays + index * output_.step_rows * width;
  const Range mine = worker.share(rows_.size());
  for (size_t row = mine.begin; row < mine.end; ++row)
    std::copy_n(x(row), width, all + (rows_.first() + row) * width);
  sequence_->share_rows(worker, all, width, rows_.counts());
}

}  // namespace rill
