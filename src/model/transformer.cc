// SPDX-License-Identifier: Apache-2.0
#include "model/transformer.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <cassert>
#include <cmath>
#include <cstring>
#include <numeric>

#include "base/buffer.h"
#include "base/error.h"
#include "model/arena.h"
#include "model/attention.h"
#include "model/rope.h"

namespace rill {
namespace {

/// Up to this many rows each thread prepares the operand of a linear layer for itself: doing it
/// twice costs less than one more barrier.
constexpr size_t kPrivateRows = 4;

/// Panels of a weight that are dealt together: what a kernel reads side by side. Even, since gate
/// and up panels alternate.
constexpr size_t kDealtPanels = 4;

AttentionShape attention_shape(const ModelConfig& config, const Arithmetic& arithmetic) {
  return {config.num_heads,      config.num_kv_heads,  config.head_dim, arithmetic.attention_type,
          arithmetic.block_size, arithmetic.attention, arithmetic.kv};
}

// The widths of a model's activations.
struct Widths {
  size_t hidden, q, kv, intermediate;

  explicit Widths(const ModelConfig& config)
      : hidden(config.hidden_size),
        q(config.num_heads * config.head_dim),
        kv(config.num_kv_heads * config.head_dim),
        intermediate(config.intermediate_size) {}
  size_t qkv() const { return q + 2 * kv; }
};

// The scratch of a step, laid out over one buffer. Attention has its own.
struct Scratch {
  float* x;                // [most_rows][row_stride(hidden)]: the residual stream
  float* qkv;              // [most_rows][row_stride(q + 2 kv)]
  float* attended;         // [most_rows][row_stride(q)]
  float* gated;            // [most_rows][row_stride(intermediate)]
  float *cosine, *sine;    // [most_rows][head_dim / 2]
  std::byte* activations;  // [most_rows][row_bytes]: the operand of a linear layer
  std::byte* threads;      // [threads][thread_bytes]: a row in fp32, and kPrivateRows operands
  size_t row_bytes, thread_bytes;
};

struct ScratchSize {
  const ModelConfig& config;
  const Arithmetic& arithmetic;
  const Kernels& kernels;
  int threads;
  size_t rows;
};

size_t operand_bytes(const ScratchSize& size, size_t width) {
  return size.kernels.activation_bytes(size.arithmetic.linear, round_up(width, kDepthUnit));
}

size_t panels_of(const PackedMatrix& weight) {
  return (weight.outputs + kPanel - 1) / kPanel;
}

size_t private_offset(const Widths& widths) {
  return round_up(widths.hidden * sizeof(float), 64);
}

Scratch lay_out(const ScratchSize& size, Arena& arena) {
  const Widths widths(size.config);
  Scratch s{};
  s.x = arena.take<float>(size.rows * row_stride(widths.hidden));
  s.qkv = arena.take<float>(size.rows * row_stride(widths.qkv()));
  s.attended = arena.take<float>(size.rows * row_stride(widths.q));
  s.gated = arena.take<float>(size.rows * row_stride(widths.intermediate));
  s.cosine = arena.take<float>(size.rows * size.config.head_dim / 2);
  s.sine = arena.take<float>(size.rows * size.config.head_dim / 2);
  for (const size_t width : {widths.hidden, widths.q, widths.intermediate})
    s.row_bytes = std::max(s.row_bytes, operand_bytes(size, width));
  s.activations = arena.take<std::byte>(size.rows * s.row_bytes);
  s.thread_bytes = private_offset(widths) + kPrivateRows * s.row_bytes;
  s.threads = arena.take<std::byte>(static_cast<size_t>(size.threads) * s.thread_bytes);
  return s;
}

size_t own_scratch_bytes(const ScratchSize& size) {
  Arena arena;
  lay_out(size, arena);
  return arena.used();
}

// What a thread reads of a weight first, asked for while it waits at a barrier: the memory would
// stand still meanwhile. Only worth it where a step is bound by reading weights.
class alignas(64) ReadAhead {
 public:
  // From now on: panels from `panel` on, in the order in which kernels read them.
  void aim(const PackedMatrix& weight, size_t panel) {
    const size_t bytes = panel_bytes(weight.format, weight.depth);
    const std::byte* first = weight.data + panel * bytes;
    if (first == first_) return;
    first_ = first;
    stride_ = bytes;
    next_ = 0;
    end_ = std::min(kMost, kDealtPanels * bytes) / (kDealtPanels * kRun);
  }
  void ask() {
    if (next_ == end_) return;
    for (size_t panel = 0; panel < kDealtPanels; ++panel)
      for (size_t line = 0; line < kRun; line += 64)
        __builtin_prefetch(first_ + panel * stride_ + next_ * kRun + line, 0, 2);
    ++next_;
  }

 private:
  static constexpr size_t kMost = size_t{256} << 10;  // a part of the smallest second-level cache
  static constexpr size_t kRun = 256;                 // bytes of a panel
  const std::byte* first_ = nullptr;
  size_t stride_ = 0, next_ = 0, end_ = 0;
};

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
        widths_(config_),
        rope_(config_),
        query_scale_(static_cast<float>(0x1.71547652b82fep+0 /  // log2 e
                                        std::sqrt(static_cast<double>(config_.head_dim)))),
        attention_(attention_shape(config_, arithmetic_), runtime_, size.rows, model.most_context_),
        memory_(own_scratch_bytes(size), "the scratch of the forward pass") {
    Arena arena(memory_.data());
    scratch_ = lay_out(size, arena);
    rows_.reserve(size.rows);
    wanted_.reserve(size.rows);
    queries_.reserve(size.rows);
    ahead_.resize(static_cast<size_t>(size.threads));
  }

  // Takes up the tokens of a sequence that was `position` long.
  void add(const SequenceStep& step, size_t position) {
    queries_.push_back({step.sequence, rows_.size(), step.tokens.size(), position, true});
    for (size_t i = 0; i < step.tokens.size(); ++i) {
      if (i + step.logits >= step.tokens.size()) wanted_.push_back(rows_.size());
      rows_.push_back({static_cast<size_t>(step.tokens[i]), position + i, step.sequence});
    }
  }

  void clear() {
    rows_.clear();
    wanted_.clear();
    queries_.clear();
  }

  // Returns the first row whose logits are not finite, or the number of rows.
  size_t run(float* logits, float* hidden, Profile* profile) {
    logits_ = logits;
    hidden_ = hidden;
    profile_ = profile;
    bad_.store(rows_.size());
    attention_.plan(queries_);
    runtime_.team.run([this](Worker& worker) {  // one pointer: std::function allocates nothing
      const FloatMode mode;
      if (profile_) worker.observe(&profile_->clock(worker.index()));
      embed(worker);
      for (size_t layer = 0; layer < weights_.layers().size(); ++layer) {
        attention(worker, layer);
        feed_forward(worker, layer);
        keep_hidden(worker, layer + 1);
      }
      head(worker);
      begin(worker, Operation::WAITING);  // for the others to end
    });
    if (profile_) profile_->clock(0).enter(static_cast<size_t>(Operation::REST));
    return bad_.load();
  }

 private:
  struct Row {
    size_t token, position;
    KvSequence* sequence;
  };

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
    ahead.aim(next, worker.share(panels_of(next), kDealtPanels).begin);
    worker.barrier([&] { ahead.ask(); });
  }

  void embed(Worker& worker) {
    begin(worker, Operation::EMBEDDING);
    const Range mine = worker.share(rows_.size());
    for (size_t row = mine.begin; row < mine.end; ++row) {
      unpack_row(weights_.embedding(), rows_[row].token, widths_.hidden, x(row));
      rope_.row(rows_[row].position, cosine(row), sine(row));
    }
    keep_hidden(worker, 0);
    worker.barrier();
  }

  void attention(Worker& worker, size_t layer) {
    const LayerWeights& w = weights_.layers()[layer];
    const Activations a = normed(worker, w.input_norm);
    query_key_value(worker, layer, a);
    meet(worker, w.o);
    begin(worker, Operation::ATTENTION);
    attention_.run(worker, layer, scratch_.attended, row_stride(widths_.q));
    meet(worker, w.o);
    const Activations attended =
        converted(worker, scratch_.attended, row_stride(widths_.q), widths_.q);
    begin(worker, Operation::O);
    linear(worker, w.o, attended,
           {scratch_.x, row_stride(widths_.hidden), w.o_bias, Epilogue::ADD});
    meet(worker, w.gate_up);
  }

  void feed_forward(Worker& worker, size_t layer) {
    const LayerWeights& w = weights_.layers()[layer];
    const size_t stride = row_stride(widths_.intermediate);
    const Activations b = normed(worker, w.post_attention_norm);
    begin(worker, Operation::GATE_UP);
    linear(worker, w.gate_up, b, {scratch_.gated, stride, nullptr, Epilogue::SILU_MUL});
    meet(worker, w.down);
    const Activations gated = converted(worker, scratch_.gated, stride, widths_.intermediate);
    begin(worker, Operation::DOWN);
    linear(worker, w.down, gated, {scratch_.x, row_stride(widths_.hidden), nullptr, Epilogue::ADD});
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
    // The fewest panels that end where a head ends.
    const size_t unit = std::lcm(config_.head_dim, kPanel) / kPanel;
    const size_t step = a.rows <= kMostRows ? panels_of(w.qkv) : unit;
    begin(worker, Operation::QKV);
    worker.deal(panels_of(w.qkv), unit, [&](Range panels) {
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

  // Norms and rotates queries and keys, and stores keys and values as the cache holds them. A
  // head's rows come one after the other: neighbours in the cache's panels.
  void heads(size_t layer, Range range) {
    const size_t q_heads = config_.num_heads, kv_heads = config_.num_kv_heads;
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
    attention_.set_query(head, row, q);
  }

  void key(size_t layer, size_t head, size_t row, float* k) {
    const Kernels& kernels = runtime_.kernels;
    kernels.rms_norm(k, weights_.layers()[layer].k_norm, config_.head_dim, config_.rms_norm_eps, k);
    kernels.rope(k, cosine(row), sine(row), config_.head_dim, 1);
    const auto [block, slot] = place(row);
    store_k(arithmetic_.kv, k, config_.head_dim, slot,
            rows_[row].sequence->cache().k(block, layer, head));
  }

  void value(size_t layer, size_t head, size_t row, const float* v) {
    const auto [block, slot] = place(row);
    store_v(arithmetic_.kv, v, config_.head_dim, slot,
            rows_[row].sequence->cache().v(block, layer, head));
  }

  struct Place {
    uint32_t block;
    size_t slot;
  };
  Place place(size_t row) const {
    const size_t position = rows_[row].position;
    return {rows_[row].sequence->blocks()[position / kBlockTokens], position % kBlockTokens};
  }

  void head(Worker& worker) {
    if (wanted_.empty()) return;
    const Activations a = prepare(worker, wanted_.size(), widths_.hidden, [&](size_t i, float* to) {
      runtime_.kernels.rms_norm(x(wanted_[i]), weights_.final_norm(), widths_.hidden,
                                config_.rms_norm_eps, to);
      return static_cast<const float*>(to);
    });
    begin(worker, Operation::HEAD);
    const Target target = {logits_, config_.vocab_size, nullptr, Epilogue::STORE};
    linear(worker, weights_.head(), a, target, [&](Range panels) {
      const size_t first = panels.begin * kPanel;
      const size_t last = std::min(panels.end * kPanel, config_.vocab_size);
      for (size_t i = 0; i < wanted_.size(); ++i)
        if (!finite(logits_ + i * config_.vocab_size + first, last - first)) report(wanted_[i]);
    });
  }

  void report(size_t row) {
    size_t known = bad_.load();
    while (row < known && !bad_.compare_exchange_weak(known, row)) {
    }
  }

  void keep_hidden(Worker& worker, size_t index) {
    if (!hidden_) return;
    const size_t rows = rows_.size(), width = widths_.hidden;
    const Range mine = worker.share(rows);
    for (size_t row = mine.begin; row < mine.end; ++row)
      std::copy_n(x(row), width, hidden_ + (index * rows + row) * width);
  }

  // ---- linear layers ----

  struct Target {
    float* y;
    size_t stride;
    const float* bias;
    Epilogue epilogue;
  };
  // y = W a, the panels dealt to the threads. done(panels) follows each piece.
  template <class Done>
  void linear(Worker& worker, const PackedMatrix& weight, const Activations& a,
              const Target& target, const Done& done) {
    const LinearJob job = {&weight, target.bias, a, target.y, target.stride, target.epilogue};
    worker.deal(panels_of(weight), kDealtPanels, [&](Range panels) {
      runtime_.kernels.linear(job, panels.begin, panels.end);
      done(panels);
    });
  }
  void linear(Worker& worker, const PackedMatrix& weight, const Activations& a,
              const Target& target) {
    linear(worker, weight, a, target, [](Range) {});
  }

  Activations normed(Worker& worker, const float* weight) {
    return prepare(worker, rows_.size(), widths_.hidden, [&](size_t row, float* to) {
      runtime_.kernels.rms_norm(x(row), weight, widths_.hidden, config_.rms_norm_eps, to);
      return static_cast<const float*>(to);
    });
  }

  Activations converted(Worker& worker, const float* from, size_t stride, size_t width) {
    return prepare(worker, rows_.size(), width,
                   [&](size_t row, float*) { return from + row * stride; });
  }

  // The operand of a linear layer. make(row, scratch) returns the row in fp32, in `scratch`
  // ([hidden] floats of this thread) or elsewhere. Many rows are shared out and need a barrier.
  template <class Make>
  Activations prepare(Worker& worker, size_t rows, size_t width, const Make& make) {
    begin(worker, Operation::NORMS);
    std::byte* own = scratch_.threads + static_cast<size_t>(worker.index()) * scratch_.thread_bytes;
    const bool shared = rows > kPrivateRows;
    Activations a{};
    a.operand = arithmetic_.linear;
    a.rows = rows;
    a.depth = round_up(width, kDepthUnit);
    a.stride_bytes = runtime_.kernels.activation_bytes(a.operand, a.depth);
    a.data = shared ? scratch_.activations : own + private_offset(widths_);
    const Range mine = shared ? worker.share(rows) : Range{0, rows};
    for (size_t row = mine.begin; row < mine.end; ++row)
      runtime_.kernels.convert(a.operand, make(row, reinterpret_cast<float*>(own)), width, a.depth,
                               a.data + row * a.stride_bytes);
    if (shared) worker.barrier();
    return a;
  }

  float* x(size_t row) { return scratch_.x + row * row_stride(widths_.hidden); }
  float* cosine(size_t row) { return scratch_.cosine + row * (config_.head_dim / 2); }
  float* sine(size_t row) { return scratch_.sine + row * (config_.head_dim / 2); }

  const ModelConfig& config_;
  const Arithmetic& arithmetic_;
  const Weights& weights_;
  const Runtime runtime_;
  const Widths widths_;
  const Rope rope_;
  const float query_scale_;
  Attention attention_;
  Buffer memory_;
  Scratch scratch_;
  std::vector<Row> rows_;
  std::vector<size_t> wanted_;  // rows whose logits are
  std::vector<AttentionQueries> queries_;
  float* logits_ = nullptr;
  float* hidden_ = nullptr;
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
      pass_(std::make_unique<Pass>(*this, ScratchSize{config_, arithmetic_, runtime.kernels,
                                                      runtime.team.size(), most_rows})) {}

Transformer::~Transformer() = default;

size_t Transformer::scratch_bytes(const ModelConfig& config, const Arithmetic& arithmetic,
                                  const Kernels& kernels, int threads, size_t most_rows,
                                  size_t most_context) {
  return own_scratch_bytes({config, arithmetic, kernels, threads, most_rows}) +
         Attention::scratch_bytes(attention_shape(config, arithmetic), kernels, threads, most_rows,
                                  most_context);
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
  size_t bad = pass_->run(logits, hidden, profile_);
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
