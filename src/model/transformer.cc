// SPDX-License-Identifier: Apache-2.0
#include "model/transformer.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cassert>
#include <chrono>
#include <cmath>
#include <cstring>
#include <numeric>

#include "base/buffer.h"
#include "base/error.h"
#include "model/arena.h"
#include "model/attention.h"
#include "model/read_ahead.h"
#include "model/rope.h"
#include "model/sequence_ranks.h"
#include "model/step_scratch.h"
#include "model/tensor_ranks.h"

namespace rill {
namespace {

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

size_t panels_of(const PackedMatrix& weight) {
  return (weight.outputs + kPanel - 1) / kPanel;
}

// Counts tokens in, and out again unless the step succeeds.
class Growth {
 public:
  explicit Growth(std::span<const SequenceStep> steps) : steps_(steps) {}
  Growth(const Growth&) = delete;
  Growth& operator=(const Growth&) = delete;
  ~Growth() {
    while (done_-- > 0) {
      KvSequence& sequence = *steps_[done_].sequence;
      sequence.truncate(sequence.length() - steps_[done_].tokens.size());
    }
  }
  // Of the next sequence. Returns its former length.
  size_t extend() {
    KvSequence& sequence = *steps_[done_].sequence;
    const size_t length = sequence.length();
    sequence.extend(steps_[done_].tokens.size());
    ++done_;
    return length;
  }
  void keep() { done_ = 0; }

 private:
  std::span<const SequenceStep> steps_;
  size_t done_ = 0;
};

bool finite(const float* values, size_t count) {
  uint32_t largest = 0;
  for (size_t i = 0; i < count; ++i)
    largest = std::max(largest, std::bit_cast<uint32_t>(values[i]) & 0x7fffffffu);
  return largest < 0x7f800000u;
}

}  // namespace

// One forward step, on every thread of the team. Threads meet at barriers; between them each
// writes what no other reads.
class Transformer::Pass {
 public:
  Pass(const Transformer& model, const ScratchSize& size)
      : config_(model.config_),
        arithmetic_(model.arithmetic_),
        weights_(model.weights_),
        runtime_(model.runtime_),
        shard_(weights_.shard()),
        widths_(config_, shard_),
        rope_(config_),
        query_scale_(static_cast<float>(0x1.71547652b82fep+0 /  // log2 e
                                        std::sqrt(static_cast<double>(config_.head_dim)))),
        attention_(attention_shape(config_, arithmetic_, shard_), runtime_, size.rows,
                   model.most_context_),
        ranks_(TensorRanks::make(config_, runtime_.ranks, size.rows)),
        sequence_(runtime_.ranks, widths_, size.rows),
        memory_(StepScratch::bytes(size), "the scratch of the forward pass"),
        arena_(memory_.data()),
        scratch_(size, arena_) {
    all_tokens_.reserve(size.rows);
    all_rows_.reserve(size.rows);
    keepers_.reserve(size.rows);
    wanted_.reserve(size.rows);
    queries_.reserve(size.rows);
    row_counts_.resize(shard_.sp.count);
    wanted_counts_.resize(shard_.sp.count);
    ahead_.resize(static_cast<size_t>(size.threads));
    for (uint32_t rank = 0; rank < shard_.sp.count; ++rank)
      for (size_t i = share_of(kStripes, {rank, shard_.sp.count}).begin; i < kStripes; ++i)
        keeper_of_[i] = rank;
  }

  // Takes up the tokens of a sequence that was `position` long.
  void add(const SequenceStep& step, size_t position) {
    const size_t run = stripe_length(arithmetic_.block_size);
    queries_.push_back({step.sequence, all_rows_.size(), step.tokens.size(), position, true});
    for (size_t i = 0; i < step.tokens.size(); ++i) {
      if (i + step.logits >= step.tokens.size()) wanted_.push_back(all_rows_.size());
      all_tokens_.push_back(step.tokens[i]);
      all_rows_.push_back({position + i, step.sequence});
      keepers_.push_back(keeper_of_[tree_place((position + i) / run)]);
    }
  }

  void clear() {
    all_tokens_.clear();
    all_rows_.clear();
    keepers_.clear();
    wanted_.clear();
    queries_.clear();
  }

  // Where the residual stream is wanted, if it is: after each layer, and between its halves.
  struct Residuals {
    float *hidden = nullptr, *middle = nullptr;
  };

  // Returns the first row whose logits are not finite, or the number of rows.
  size_t run(float* logits, const Residuals& residuals, Profile* profile) {
    logits_ = logits;
    residuals_ = residuals;
    profile_ = profile;
    bad_.store(all_rows_.size());
    share_out();
    attention_.plan(queries_, sequence_.shares());
    runtime_.team.run([this](Worker& worker) {  // one pointer: std::function allocates nothing
      const FloatMode mode;
      if (profile_) worker.observe(&profile_->clock(worker.index()));
      embed(worker);
      for (size_t layer = 0; layer < weights_.layers().size(); ++layer) {
        attention(worker, layer);
        keep(worker, residuals_.middle, layer);
        feed_forward(worker, layer);
        keep(worker, residuals_.hidden, layer + 1);
      }
      head(worker);
      begin(worker, Operation::WAITING);  // for the others to end
    });
    if (profile_) profile_->clock(0).enter(static_cast<size_t>(Operation::REST));
    return sequence_.least(ranks_->least(bad_.load()));
  }

 private:
  struct Row {
    size_t position;
    KvSequence* sequence;
  };

  // Which rows this rank computes, and which of their logits are wanted.
  void share_out() {
    sequence_.plan(keepers_);
    const RowShares& shares = sequence_.shares();
    const Range own = shares.own();
    first_ = own.begin;
    rows_ = std::span(all_rows_).subspan(own.begin, length(own));
    tokens_ = std::span(all_tokens_).subspan(own.begin, length(own));
    const auto place = [&](size_t row) {
      return static_cast<size_t>(std::lower_bound(wanted_.begin(), wanted_.end(), row) -
                                 wanted_.begin());
    };
    for (size_t rank = 0; rank < shares.me.count; ++rank) {
      const Range range = shares.of(rank);
      row_counts_[rank] = length(range);
      wanted_counts_[rank] = place(range.end) - place(range.begin);
    }
    first_wanted_ = place(own.begin);
    own_wanted_ = std::span(wanted_).subspan(first_wanted_, place(own.end) - first_wanted_);
  }

  // What this thread does from now on, for a profile.
  static void begin(Worker& worker, Operation operation) {
    worker.enter(static_cast<size_t>(operation));
  }

  // A barrier. A thread that waits asks for its share of the next weight.
  void meet(Worker& worker, const PackedMatrix& next) {
    if (rows_.size() > kMostRows) {
      worker.barrier();
      return;
    }
    ReadAhead& ahead = ahead_[static_cast<size_t>(worker.index())];
    const Range own = own_panels(next, kDealtPanels);
    ahead.aim(next, own.begin + worker.share(length(own), kDealtPanels).begin);
    worker.barrier([&] { ahead.ask(); });
  }

  void embed(Worker& worker) {
    begin(worker, Operation::EMBEDDING);
    const Range mine = worker.share(rows_.size());
    const Range here = shard_.vocabulary;
    for (size_t row = mine.begin; row < mine.end; ++row) {
      const auto token = static_cast<size_t>(tokens_[row]);
      if (here.begin <= token && token < here.end)
        unpack_row(weights_.embedding(), token - here.begin, widths_.hidden, x(row));
      rope_.row(rows_[row].position, cosine(row), sine(row));
    }
    ranks_->share_embeddings(worker, tokens_, scratch_.x, row_stride(widths_.hidden));
    keep(worker, residuals_.hidden, 0);
    worker.barrier();
  }

  void attention(Worker& worker, size_t layer) {
    const LayerWeights& w = weights_.layers()[layer];
    const Activations a = normed(worker, w.input_norm);
    query_key_value(worker, layer, a);
    take_others(worker, layer);
    meet(worker, first_of(w.o));
    begin(worker, Operation::ATTENTION);
    attention_.run(worker, layer, scratch_.attended, row_stride(widths_.q));
    meet(worker, first_of(w.o));
    project(worker, Cut::O, w.o, {scratch_.attended, row_stride(widths_.q), w.o_bias});
    meet(worker, w.gate_up);
  }

  void feed_forward(Worker& worker, size_t layer) {
    const LayerWeights& w = weights_.layers()[layer];
    const size_t stride = row_stride(widths_.intermediate);
    const Activations b = normed(worker, w.post_attention_norm);
    begin(worker, Operation::GATE_UP);
    linear(worker, w.gate_up, b, {scratch_.gated, stride, nullptr, Epilogue::SILU_MUL});
    share_columns(worker, scratch_.gated, stride, widths_.intermediate, kDealtPanels / 2);
    meet(worker, first_of(w.down));
    project(worker, Cut::DOWN, w.down, {scratch_.gated, stride, nullptr});
    meet(worker,
         layer + 1 < weights_.layers().size() ? weights_.layers()[layer + 1].qkv : weights_.head());
  }

  // The QKV product, dealt in whole heads; each is normed, rotated and stored while it is warm. A
  // few rows are bound by reading weights, which goes fastest in one run; many would not stay in
  // the cache if a thread multiplied all its heads first.
  void query_key_value(Worker& worker, size_t layer, const Activations& a) {
    const LayerWeights& w = weights_.layers()[layer];
    const LinearJob job = {&w.qkv,         w.qkv_bias, a, scratch_.qkv, row_stride(widths_.qkv()),
                           Epilogue::STORE};
    const size_t unit = head_panels();
    const size_t step = a.rows <= kMostRows ? panels_of(w.qkv) : unit;
    begin(worker, Operation::QKV);
    deal(worker, w.qkv, unit, [&](Range panels) {
      for (size_t first = panels.begin; first < panels.end; first += step) {
        const size_t last = std::min(first + step, panels.end);
        runtime_.kernels.linear(job, first, last);
        begin(worker, Operation::HEADS);
        heads(layer, {first * kPanel / config_.head_dim,
                      std::min(last * kPanel, widths_.qkv()) / config_.head_dim});
        begin(worker, Operation::QKV);
      }
    });
  }

  // The fewest panels that end where a head ends.
  size_t head_panels() const { return std::lcm(config_.head_dim, kPanel) / kPanel; }

  // Norms and rotates queries and keys, and stores keys and values as the cache holds them. A
  // head's rows come one after the other: neighbours in the cache's panels.
  void heads(size_t layer, Range range) {
    const size_t q_heads = length(shard_.heads), kv_heads = length(shard_.kv_heads);
    for (size_t head = range.begin; head < range.end; ++head)
      for (size_t row = 0; row < rows_.size(); ++row) {
        float* values = scratch_.qkv + row * row_stride(widths_.qkv()) + head * config_.head_dim;
        if (head < q_heads)
          query(layer, head, row, values);
        else if (head < q_heads + kv_heads)
          key(layer, head - q_heads, row, values);
        else
          value(layer, head - q_heads - kv_heads, row, values);
      }
  }

  void query(size_t layer, size_t head, size_t row, float* q) {
    const Kernels& kernels = runtime_.kernels;
    kernels.rms_norm(q, weights_.layers()[layer].q_norm, config_.head_dim, config_.rms_norm_eps, q);
    kernels.rope(q, cosine(row), sine(row), config_.head_dim, query_scale_);
    attention_.set_query(head, first_ + row, q);
  }

  void key(size_t layer, size_t head, size_t row, float* k) {
    const Kernels& kernels = runtime_.kernels;
    kernels.rms_norm(k, weights_.layers()[layer].k_norm, config_.head_dim, config_.rms_norm_eps, k);
    kernels.rope(k, cosine(row), sine(row), config_.head_dim, 1);
    keep_k(layer, head, rows_[row], k);
  }

  void value(size_t layer, size_t head, size_t row, const float* v) {
    keep_v(layer, head, rows_[row], v);
  }

  // Other ranks keep the keys and values of their stripes.
  void keep_k(size_t layer, size_t head, const Row& row, const float* k) {
    const auto [block, slot] = place(row);
    if (block == KvSequence::kElsewhere) return;
    runtime_.kernels.store_k(arithmetic_.kv, k, config_.head_dim, slot,
                             row.sequence->cache().k(block, layer, head));
  }
  void keep_v(size_t layer, size_t head, const Row& row, const float* v) {
    const auto [block, slot] = place(row);
    if (block == KvSequence::kElsewhere) return;
    runtime_.kernels.store_v(arithmetic_.kv, v, config_.head_dim, slot,
                             row.sequence->cache().v(block, layer, head));
  }

  struct Place {
    uint32_t block;
    size_t slot;
  };
  static Place place(const Row& row) {
    return {row.sequence->blocks()[row.position / kBlockTokens], row.position % kBlockTokens};
  }

  // The i-th row of other ranks, or the next one if i is the second of two tokens whose values
  // stand in the same words of the cache: one thread stores both.
  size_t after_pair(size_t i) const {
    if (i == 0 || i >= sequence_.others()) return i;
    const Row &before = all_rows_[sequence_.other(i - 1)], &row = all_rows_[sequence_.other(i)];
    const bool pair = row.position % 2 == 1 && before.position + 1 == row.position &&
                      before.sequence == row.sequence;
    return pair ? i + 1 : i;
  }

  // Of the rows that other ranks compute: their queries, and the keys and values that are kept
  // here.
  void take_others(Worker& worker, size_t layer) {
    if (sequence_.shares().cuts_columns()) {
      take_other_heads(worker, layer);
      return;
    }
    sequence_.share_qkv(worker, scratch_.qkv, row_stride(widths_.qkv()));
    const size_t dim = config_.head_dim;
    const Range share = worker.share(sequence_.others());
    const Range mine = {after_pair(share.begin), after_pair(share.end)};
    for (size_t i = mine.begin; i < mine.end; ++i) {
      const size_t row = sequence_.other(i);
      for (size_t head = 0; head < length(shard_.heads); ++head)
        attention_.set_query(head, row, sequence_.queries(row) + head * dim);
      if (!sequence_.keeps(row)) continue;
      const float* k = sequence_.keys_values(row);
      for (size_t head = 0; head < length(shard_.kv_heads); ++head) {
        keep_k(layer, head, all_rows_[row], k + head * dim);
        keep_v(layer, head, all_rows_[row], k + widths_.kv + head * dim);
      }
    }
  }

  // Of this rank's rows: the heads that other ranks have computed.
  void take_other_heads(Worker& worker, size_t layer) {
    const size_t stride = row_stride(widths_.qkv()), dim = config_.head_dim;
    share_columns(worker, scratch_.qkv, stride, widths_.qkv(), head_panels());
    worker.barrier();
    const size_t q_heads = length(shard_.heads), kv_heads = length(shard_.kv_heads);
    const Range own = sequence_.shares().own_columns(widths_.qkv(), head_panels() * kPanel);
    const Range mine = worker.share(q_heads + 2 * kv_heads);
    for (size_t head = mine.begin; head < mine.end; ++head) {
      if (in_range(own, head * dim)) continue;
      for (size_t row = 0; row < rows_.size(); ++row) {
        const float* values = scratch_.qkv + row * stride + head * dim;
        if (head < q_heads)
          attention_.set_query(head, row, values);
        else if (head < q_heads + kv_heads)
          keep_k(layer, head - q_heads, rows_[row], values);
        else
          keep_v(layer, head - q_heads - kv_heads, rows_[row], values);
      }
    }
  }

  void head(Worker& worker) {
    if (wanted_.empty()) return;
    own_logits(worker);
    sequence_.share_rows(worker, logits_, config_.vocab_size, wanted_counts_);
  }

  void own_logits(Worker& worker) {
    const std::span<const size_t> wanted = own_wanted_;
    if (wanted.empty()) return;
    const Activations a = prepare(worker, wanted.size(), widths_.hidden, [&](size_t i, float* to) {
      runtime_.kernels.rms_norm(x(wanted[i] - first_), weights_.final_norm(), widths_.hidden,
                                config_.rms_norm_eps, to);
      return static_cast<const float*>(to);
    });
    begin(worker, Operation::HEAD);
    const size_t vocabulary = config_.vocab_size;
    float* rows = logits_ + first_wanted_ * vocabulary;
    float* logits = rows + shard_.vocabulary.begin;
    linear(worker, weights_.head(), a, {logits, vocabulary, nullptr, Epilogue::STORE},
           [&](Range panels) {
             const size_t first = panels.begin * kPanel;
             const size_t last = std::min(panels.end * kPanel, length(shard_.vocabulary));
             for (size_t i = 0; i < wanted.size(); ++i)
               if (!finite(logits + i * vocabulary + first, last - first)) report(wanted[i]);
           });
    sequence_.share_logits(worker, {logits, vocabulary, wanted.size(), length(shard_.vocabulary),
                                    kDealtPanels * kPanel});
    ranks_->share_logits(worker, rows, wanted.size());
  }

  void report(size_t row) {
    size_t known = bad_.load();
    while (row < known && !bad_.compare_exchange_weak(known, row)) {
    }
  }

  // The residual stream to the index-th of some arrays [rows][hidden], if they are wanted.
  void keep(Worker& worker, float* arrays, size_t index) {
    if (!arrays) return;
    const size_t width = widths_.hidden;
    float* all = arrays + index * all_rows_.size() * width;
    const Range mine = worker.share(rows_.size());
    for (size_t row = mine.begin; row < mine.end; ++row)
      std::copy_n(x(row), width, all + (first_ + row) * width);
    sequence_.share_rows(worker, all, width, row_counts_);
  }

  // ---- linear layers ----

  static const PackedMatrix& first_of(const std::vector<CutMatrix>& cut) {
    static constexpr PackedMatrix kNone{};
    return cut.empty() ? kNone : cut.front().matrix;
  }

  // x += W from + bias, for a matrix that ranks cut along k: the roots of its subtrees of leaves
  // are added in their tree (docs/arithmetic.md, section 8).
  struct Input {
    const float* from;
    size_t stride;
    const float* bias;
  };
  void project(Worker& worker, Cut cut, const std::vector<CutMatrix>& matrices,
               const Input& input) {
    const ResidualSum to = {scratch_.x, row_stride(widths_.hidden), input.bias, rows_.size()};
    std::array<Activations, kMostSubtrees> operands;
    convert(worker, matrices, input, operands.data());
    begin(worker, cut == Cut::O ? Operation::O : Operation::DOWN);
    for (size_t i = 0; i < matrices.size(); ++i) {
      if (i > 0) worker.barrier();  // between two dealings
      linear(worker, matrices[i].matrix, operands[i], ranks_->root(cut, i, to));
    }
    for (size_t i = 0; i < matrices.size(); ++i) {
      const LinearTarget root = ranks_->root(cut, i, to);
      share_columns(worker, root.y, root.stride, widths_.hidden, kDealtPanels);
    }
    ranks_->add_roots(worker, cut, to);
  }

  // The panels of this rank, cut and dealt to its threads in runs of `unit`.
  Range own_panels(const PackedMatrix& weight, size_t unit) const {
    return sequence_.shares().own_columns(panels_of(weight), unit);
  }
  template <class Body>
  void deal(Worker& worker, const PackedMatrix& weight, size_t unit, const Body& body) {
    const Range own = own_panels(weight, unit);
    worker.deal(length(own), unit, [&](Range panels) {
      body(Range{own.begin + panels.begin, own.begin + panels.end});
    });
  }
  // Of a product of this rank's rows, cut in runs of `panels` panels of y: the others' columns.
  void share_columns(Worker& worker, float* y, size_t stride, size_t width, size_t panels) {
    sequence_.share_columns(worker, {y, stride, rows_.size(), width, panels * kPanel});
  }

  // y = W a, this rank's panels dealt to the threads. done(panels) follows each piece.
  template <class Done>
  void linear(Worker& worker, const PackedMatrix& weight, const Activations& a,
              const LinearTarget& target, const Done& done) {
    const LinearJob job = {&weight, target.bias, a, target.y, target.stride, target.epilogue};
    deal(worker, weight, kDealtPanels, [&](Range panels) {
      runtime_.kernels.linear(job, panels.begin, panels.end);
      done(panels);
    });
  }
  void linear(Worker& worker, const PackedMatrix& weight, const Activations& a,
              const LinearTarget& target) {
    linear(worker, weight, a, target, [](Range) {});
  }

  Activations normed(Worker& worker, const float* weight) {
    return prepare(worker, rows_.size(), widths_.hidden, [&](size_t row, float* to) {
      runtime_.kernels.rms_norm(x(row), weight, widths_.hidden, config_.rms_norm_eps, to);
      return static_cast<const float*>(to);
    });
  }

  // The operand of a linear layer. make(row, scratch) returns the row in fp32, in `scratch`
  // ([hidden] floats of this thread) or elsewhere. Many rows are shared out and need a barrier.
  template <class Make>
  Activations prepare(Worker& worker, size_t rows, size_t width, const Make& make) {
    begin(worker, Operation::NORMS);
    Activations a = operand(worker, rows, width, 0);
    float* own = scratch_.own_row(worker.index());
    const Range mine = shared(rows) ? worker.share(rows) : Range{0, rows};
    for (size_t row = mine.begin; row < mine.end; ++row)
      runtime_.kernels.convert(a.operand, make(row, own), width, a.depth,
                               a.data + row * a.stride_bytes);
    if (shared(rows)) worker.barrier();
    return a;
  }

  // The operands of a projection: the columns of each of its matrices.
  void convert(Worker& worker, const std::vector<CutMatrix>& matrices, const Input& input,
               Activations* operands) {
    begin(worker, Operation::NORMS);
    const size_t rows = rows_.size();
    const Range mine = shared(rows) ? worker.share(rows) : Range{0, rows};
    size_t place = 0;
    for (size_t i = 0; i < matrices.size(); ++i) {
      const Range columns = matrices[i].columns;
      const Activations& a = operands[i] = operand(worker, rows, length(columns), place);
      place += rows * a.stride_bytes;
      for (size_t row = mine.begin; row < mine.end; ++row)
        runtime_.kernels.convert(a.operand, input.from + row * input.stride + columns.begin,
                                 length(columns), a.depth, a.data + row * a.stride_bytes);
    }
    if (shared(rows)) worker.barrier();
  }

  static bool shared(size_t rows) { return rows > kPrivateRows; }

  // A place for rows of `width` values, `offset` bytes into the operands' scratch.
  Activations operand(const Worker& worker, size_t rows, size_t width, size_t offset) const {
    Activations a{};
    a.operand = arithmetic_.linear;
    a.rows = rows;
    a.depth = round_up(width, kDepthUnit);
    a.stride_bytes = runtime_.kernels.activation_bytes(a.operand, a.depth);
    a.data = (shared(rows) ? scratch_.activations : scratch_.own_operands(worker.index())) + offset;
    return a;
  }

  float* x(size_t row) { return scratch_.x + row * row_stride(widths_.hidden); }
  float* cosine(size_t row) { return scratch_.cosine + row * (config_.head_dim / 2); }
  float* sine(size_t row) { return scratch_.sine + row * (config_.head_dim / 2); }

  const ModelConfig& config_;
  const Arithmetic& arithmetic_;
  const Weights& weights_;
  const Runtime runtime_;
  const Shard shard_;
  const Widths widths_;
  const Rope rope_;
  const float query_scale_;
  Attention attention_;
  std::unique_ptr<TensorRanks> ranks_;
  SequenceRanks sequence_;
  Buffer memory_;
  Arena arena_;
  StepScratch scratch_;
  uint32_t keeper_of_[kStripes];  // the rank that keeps a stripe, in tree order
  // Of the whole step; wanted_: rows whose logits are.
  std::vector<int32_t> all_tokens_;
  std::vector<Row> all_rows_;
  std::vector<uint32_t> keepers_;
  std::vector<size_t> wanted_, row_counts_, wanted_counts_;  // counts: of each rank
  // Of this rank, from row first_ and wanted row first_wanted_ on.
  std::span<const int32_t> tokens_;
  std::span<const Row> rows_;
  std::span<const size_t> own_wanted_;
  size_t first_ = 0, first_wanted_ = 0;
  std::vector<AttentionQueries> queries_;
  float* logits_ = nullptr;
  Residuals residuals_;
  Profile* profile_ = nullptr;
  std::vector<ReadAhead> ahead_;  // [threads]
  std::atomic<size_t> bad_{0};
};

Transformer::Transformer(const ModelConfig& config, const Arithmetic& arithmetic,
                         const Weights& weights, Runtime runtime, size_t most_rows,
                         size_t most_context)
    : config_(config),
      arithmetic_(arithmetic),
      weights_(weights),
      runtime_(runtime),
      most_rows_(most_rows),
      most_context_(most_context),
      pass_(std::make_unique<Pass>(
          *this, ScratchSize{config_, arithmetic_, weights_.shard(), runtime.kernels,
                             runtime.team.size(), most_rows})) {}

Transformer::~Transformer() = default;

size_t Transformer::scratch_bytes(const ScratchSize& size, size_t most_context) {
  return StepScratch::bytes(size) +
         TensorRanks::scratch_bytes(size.config, size.shard.tp.count, size.rows) +
         SequenceRanks::scratch_bytes(size.shard.sp, Widths(size.config, size.shard), size.rows) +
         Attention::scratch_bytes(attention_shape(size.config, size.arithmetic, size.shard),
                                  size.kernels, size.threads, size.rows, most_context);
}

void Transformer::forward(std::span<const SequenceStep> steps, float* logits, float* hidden) {
  const Profile::Step measured(profile_);
  size_t rows = 0;
  for (const SequenceStep& step : steps) {
    assert(step.sequence && !step.tokens.empty() && step.logits <= step.tokens.size());
    assert(step.sequence->cache().format() == arithmetic_.kv);
    for (const int32_t id : step.tokens)
      if (id < 0 || static_cast<size_t>(id) >= config_.vocab_size)
        fail("token id ", id, " is outside the vocabulary; use ids from 0 to ",
             config_.vocab_size - 1);
    if (step.sequence->length() + step.tokens.size() > most_context_)
      fail("the context would be ", step.sequence->length() + step.tokens.size(),
           " tokens long where ", most_context_, " are allowed; raise --ctx or shorten the text");
    rows += step.tokens.size();
  }
  if (rows > most_rows_)
    fail("a step brings ", rows, " tokens where ", most_rows_, " are allowed; raise --chunk");
  if (rows == 0) return;

  Growth growth(steps);
  pass_->clear();
  for (const SequenceStep& step : steps) pass_->add(step, growth.extend());
  const auto start = std::chrono::steady_clock::now();
  size_t bad = pass_->run(logits, {hidden, middle_}, profile_);
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
  runtime_.ranks.world().count_step(took.count());
  if (bad == rows) {
    growth.keep();
    return;
  }
  size_t sequence = 0;
  for (; bad >= steps[sequence].tokens.size(); ++sequence) bad -= steps[sequence].tokens.size();
  fail("the logits of sequence ", sequence, " are not finite at position ",
       steps[sequence].sequence->length() - steps[sequence].tokens.size() + bad,
       "; check the checkpoint with `rill verify`, or take --compute f32 and --kv f32");
}

}  // namespace rill
