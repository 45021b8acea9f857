// SPDX-License-Identifier: Apache-2.0
#include "model/tensor_ranks.h"

#include <algorithm>
#include <cassert>
#include <vector>

#include "base/buffer.h"
#include "model/arena.h"
#include "model/shard.h"
#include "model/shared_areas.h"

namespace rill {
namespace {

// The whole model is here: the kernels add to the residual stream themselves.
class WholeModel final : public TensorRanks {
 public:
  LinearTarget root(Cut, size_t, const ResidualSum& to) override {
    return {to.x, to.stride, to.bias, Epilogue::ADD};
  }
  void start_roots(Worker&, Cut, const ResidualSum&) override {}
  void add_roots(Worker&, Cut, const ResidualSum&) override {}
  void share_embeddings(Worker&, std::span<const int32_t>, float*, size_t) override {}
  void share_logits(Worker&, float*, size_t) override {}
  size_t least(size_t value) override { return value; }
};

// The roots that the ranks compute, in the order of their leaves, and how they are added.
struct RootTree {
  struct Step {
    size_t to, from;  // roots: to += from
  };
  std::vector<Range> roots;   // the subtrees of leaves
  std::vector<size_t> first;  // [ranks + 1] the first root of each rank
  std::vector<Step> steps;    // the last one makes the sum, in `sum`
  size_t sum;

  RootTree(const LeafCut& cut, size_t ranks) {
    for (size_t rank = 0; rank < ranks; ++rank) {
      first.push_back(roots.size());
      for (const Range subtree : cut.subtrees(share_of(kLeaves, {rank, ranks})))
        roots.push_back(subtree);
    }
    first.push_back(roots.size());
    sum = add({0, kLeaves});
  }
  size_t count(size_t rank) const { return first[rank + 1] - first[rank]; }

 private:
  static constexpr size_t kNone = SIZE_MAX;  // leaves without columns: the identity
  size_t add(Range subtree) {
    for (size_t i = 0; i < roots.size(); ++i)
      if (roots[i].begin == subtree.begin && roots[i].end == subtree.end) return i;
    if (length(subtree) == 1) return kNone;
    const size_t middle = (subtree.begin + subtree.end) / 2;
    const size_t left = add({subtree.begin, middle}), right = add({middle, subtree.end});
    if (left == kNone || right == kNone) return std::min(left, right);
    steps.push_back({left, right});
    return left;
  }
};

// A part of the model is here. Only the team's first thread talks.
class PartOfModel : public TensorRanks {
 public:
  PartOfModel(const ModelConfig& config, const Ranks& ranks)
      : ranks_(ranks.tp()),
        me_(ranks.tp_place()),
        width_(config.hidden_size),
        vocabulary_(config.vocab_size),
        trees_{RootTree(LeafCut::of_o(config), me_.count),
               RootTree(LeafCut::of_down(config), me_.count)} {
    for (size_t rank = 0; rank < me_.count; ++rank)
      tables_.push_back(Shard(config, {rank, me_.count}).vocabulary);
  }

  LinearTarget root(Cut cut, size_t i, const ResidualSum& to) override {
    return {to_root(tree(cut), i, to.rows), width_, nullptr, Epilogue::STORE};
  }

 protected:
  const RootTree& tree(Cut cut) const { return trees_[static_cast<size_t>(cut)]; }

  // [rows][width] of this rank's i-th root, to be written.
  virtual float* to_root(const RootTree& tree, size_t i, size_t rows) = 0;
  // [rows][width] of any root, after the ranks have met.
  virtual const float* from_root(const RootTree& tree, size_t root, size_t rows) = 0;

  // Every thread some columns of all of `rows`.
  void add(const Worker& worker, const RootTree& tree, const ResidualSum& to, Range rows) {
    constexpr size_t kStrip = 128;
    const Range columns = worker.share(width_, 16);
    const float* roots[kLeaves];
    for (size_t i = 0; i < tree.roots.size(); ++i) roots[i] = from_root(tree, i, to.rows);
    float sums[kLeaves][kStrip];
    for (size_t row = rows.begin; row < rows.end; ++row)
      for (size_t column = columns.begin; column < columns.end; column += kStrip) {
        const size_t n = std::min(kStrip, columns.end - column);
        const float* at[kLeaves];  // each root, then what was added to it
        for (size_t i = 0; i < tree.roots.size(); ++i) at[i] = roots[i] + row * width_ + column;
        for (const RootTree::Step& step : tree.steps) {
          add(at[step.to], at[step.from], n, sums[step.to]);
          at[step.to] = sums[step.to];
        }
        const float* sum = at[tree.sum];
        if (to.bias) {
          add(sum, to.bias + column, n, sums[tree.sum]);
          sum = sums[tree.sum];
        }
        float* x = to.x + row * to.stride + column;
        add(x, sum, n, x);
      }
  }
  static void add(const float* a, const float* b, size_t n, float* sum) {
    for (size_t i = 0; i < n; ++i) sum[i] = a[i] + b[i];
  }

  size_t owner_of(int32_t token) const {
    size_t rank = 0;
    while (static_cast<size_t>(token) >= tables_[rank].end) ++rank;
    return rank;
  }

  Communicator& ranks_;
  const RankOf me_;
  const size_t width_, vocabulary_;
  std::vector<Range> tables_;  // [ranks] of the vocabulary

 private:
  const RootTree trees_[2];
};

// Ranks of one machine read each other's roots, sums and columns where they were put (SharedAreas).
class PartInSharedMemory final : public PartOfModel {
 public:
  PartInSharedMemory(const ModelConfig& config, const Ranks& ranks,
                     std::unique_ptr<SharedAreas> areas)
      : PartOfModel(config, ranks), areas_(std::move(areas)) {}

  // An area takes a rank's roots, rows of the embedding, sums of some rows, or columns of a row of
  // logits.
  static size_t area_floats(const ModelConfig& config, size_t ranks, size_t most_rows) {
    size_t roots = 1, logits = 0;
    for (size_t rank = 0; rank < ranks; ++rank) {
      for (const LeafCut& cut : {LeafCut::of_o(config), LeafCut::of_down(config)})
        roots = std::max(roots, RootTree(cut, ranks).count(rank));
      logits = std::max(logits, length(Shard(config, {rank, ranks}).vocabulary));
    }
    return std::max({roots * most_rows * config.hidden_size,
                     (most_rows / ranks + 1) * row_stride(config.hidden_size), logits});
  }

  void start_roots(Worker&, Cut, const ResidualSum&) override {}
  // Many rows of more than two ranks: as in PartByMessages, for less volume.
  void add_roots(Worker& worker, Cut cut, const ResidualSum& to) override {
    const RootTree& roots = tree(cut);
    const bool by_rows = sums_by_rows(me_.count, to.rows, width_);
    const Range own = by_rows ? share_of(to.rows, me_) : Range{0, to.rows};
    const size_t count = roots.count(me_.index);
    hand_over(worker, (by_rows ? count : 1) * areas_->others(),
              count * width_ * (by_rows ? to.rows - length(own) : to.rows * areas_->others()));
    add(worker, roots, to, own);
    worker.barrier();  // copies are shared out otherwise than sums
    if (!by_rows) return;
    const Range mine = worker.share(length(own) * to.stride);
    std::copy_n(to.x + own.begin * to.stride + mine.begin, length(mine),
                areas_->own() + mine.begin);
    worker.barrier();
    hand_over(worker, areas_->others(), areas_->others() * length(own) * to.stride);
    for (size_t rank = 0; rank < me_.count; ++rank)
      if (rank != me_.index) take_sums(worker, to, rank);
    worker.barrier();
  }

  void share_embeddings(Worker& worker, std::span<const int32_t> tokens, float* x,
                        size_t stride) override {
    worker.barrier();
    const Range mine = worker.share(tokens.size());
    for (size_t row = mine.begin; row < mine.end; ++row)
      if (owner_of(tokens[row]) == me_.index)
        std::copy_n(x + row * stride, width_, areas_->own() + row * width_);
    worker.barrier();
    const auto count = static_cast<size_t>(std::count_if(
        tokens.begin(), tokens.end(), [&](int32_t token) { return owner_of(token) == me_.index; }));
    hand_over(worker, areas_->others(), areas_->others() * count * width_);
    for (size_t row = mine.begin; row < mine.end; ++row)
      if (const size_t owner = owner_of(tokens[row]); owner != me_.index)
        std::copy_n(areas_->of(owner) + row * width_, width_, x + row * stride);
  }

  void share_logits(Worker& worker, float* logits, size_t rows) override {
    for (size_t row = 0; row < rows; ++row) {
      worker.barrier();
      areas_->share_columns(worker, logits + row * vocabulary_, vocabulary_, 1, tables_);
    }
  }

  size_t least(size_t value) override { return areas_->least(value); }

 private:
  float* to_root(const RootTree&, size_t i, size_t rows) override {
    return areas_->own() + i * rows * width_;
  }
  const float* from_root(const RootTree& tree, size_t root, size_t rows) override {
    size_t owner = 0;
    while (root >= tree.first[owner + 1]) ++owner;
    return areas_->of(owner) + (root - tree.first[owner]) * rows * width_;
  }

  // After it what was written before a barrier may be read.
  void hand_over(Worker& worker, size_t messages, size_t floats) {
    if (worker.first()) areas_->publish(messages, floats);
    worker.barrier();
  }

  // Of another rank's rows, to x.
  void take_sums(const Worker& worker, const ResidualSum& to, size_t rank) {
    const Range rows = share_of(to.rows, {rank, me_.count});
    const Range mine = worker.share(length(rows) * to.stride);
    std::copy_n(areas_->of(rank) + mine.begin, length(mine),
                to.x + rows.begin * to.stride + mine.begin);
  }

  const std::unique_ptr<SharedAreas> areas_;
};

// Ranks that send each other messages.
class PartByMessages final : public PartOfModel {
 public:
  PartByMessages(const ModelConfig& config, const Ranks& ranks, size_t most_rows)
      : PartOfModel(config, ranks),
        memory_(bytes(config, me_.count, most_rows), "what ranks exchange"),
        counts_(me_.count) {
    const size_t messages = me_.count * kMostSubtrees;
    out_.reserve(messages);
    in_.reserve(messages);
    owners_.reserve(most_rows);
    places_.reserve(most_rows);
  }

  static size_t bytes(const ModelConfig& config, size_t ranks, size_t most_rows) {
    const size_t roots = std::max(RootTree(LeafCut::of_o(config), ranks).roots.size(),
                                  RootTree(LeafCut::of_down(config), ranks).roots.size());
    return roots * most_rows * config.hidden_size * sizeof(float);
  }

  // Few rows: everyone gets all roots, in one step. Many rows: everyone gets the roots of some
  // rows, adds them and hands on the sums, which takes two steps and less volume from three ranks
  // on: 2 (n - 1) / n of a root for each row instead of n - 1.
  void start_roots(Worker& worker, Cut cut, const ResidualSum& to) override {
    if (!worker.first()) return;
    started_ = sums_by_rows(me_.count, to.rows, width_) ? exchange_rows(tree(cut), to.rows)
                                                        : gather_roots(tree(cut), to.rows);
  }
  void add_roots(Worker& worker, Cut cut, const ResidualSum& to) override {
    const bool by_rows = sums_by_rows(me_.count, to.rows, width_);
    if (worker.first()) ranks_.finish(started_);
    worker.barrier();
    add(worker, tree(cut), to, by_rows ? share_of(to.rows, me_) : Range{0, to.rows});
    worker.barrier();
    if (!by_rows) return;
    if (worker.first()) gather_sums(to);
    worker.barrier();
  }

  void share_embeddings(Worker& worker, std::span<const int32_t> tokens, float* x,
                        size_t stride) override {
    worker.barrier();
    if (worker.first()) gather_embeddings(tokens, x, stride);
    worker.barrier();
    const Range mine = worker.share(tokens.size());
    for (size_t row = mine.begin; row < mine.end; ++row)
      std::copy_n(memory_.as<float>() + places_[row] * width_, width_, x + row * stride);
  }

  void share_logits(Worker& worker, float* logits, size_t rows) override {
    worker.barrier();
    if (!worker.first()) return;
    for (size_t rank = 0; rank < me_.count; ++rank)
      counts_[rank] = length(tables_[rank]) * sizeof(float);
    for (size_t row = 0; row < rows; ++row)
      ranks_.all_gather(reinterpret_cast<std::byte*>(logits + row * vocabulary_), counts_);
  }

  size_t least(size_t value) override { return ranks_.least(value); }

 private:
  // [roots][rows][width]
  float* root_at(size_t root, size_t rows) { return memory_.as<float>() + root * rows * width_; }
  float* to_root(const RootTree& tree, size_t i, size_t rows) override {
    return root_at(tree.first[me_.index] + i, rows);
  }
  const float* from_root(const RootTree&, size_t root, size_t rows) override {
    return root_at(root, rows);
  }

  Communicator::Ticket gather_roots(const RootTree& tree, size_t rows) {
    for (size_t rank = 0; rank < me_.count; ++rank)
      counts_[rank] = tree.count(rank) * rows * width_ * sizeof(float);
    return ranks_.start_gather(memory_.data(), counts_);
  }
  void gather_sums(const ResidualSum& to) {
    for (size_t rank = 0; rank < me_.count; ++rank)
      counts_[rank] = length(share_of(to.rows, {rank, me_.count})) * to.stride * sizeof(float);
    ranks_.all_gather(reinterpret_cast<std::byte*>(to.x), counts_);
  }

  // The roots of each rank's rows go to it.
  Communicator::Ticket exchange_rows(const RootTree& tree, size_t rows) {
    out_.clear();
    in_.clear();
    const auto part = [&](size_t root, size_t owner) {
      const Range range = share_of(rows, {owner, me_.count});
      return std::as_writable_bytes(
          std::span(root_at(root, rows) + range.begin * width_, length(range) * width_));
    };
    for (size_t rank = 0; rank < me_.count; ++rank) {
      if (rank == me_.index) continue;
      const int other = static_cast<int>(rank);
      for (size_t i = tree.first[me_.index]; i < tree.first[me_.index + 1]; ++i)
        out_.push_back({other, part(i, rank)});
      for (size_t i = tree.first[rank]; i < tree.first[rank + 1]; ++i)
        in_.push_back({other, part(i, me_.index)});
    }
    return ranks_.start(out_, in_);
  }

  // Into memory_, [tokens][width] ordered by owner; places_ says where each token's row is.
  void gather_embeddings(std::span<const int32_t> tokens, const float* x, size_t stride) {
    owners_.clear();
    std::fill(counts_.begin(), counts_.end(), 0);
    for (const int32_t token : tokens) {
      owners_.push_back(owner_of(token));
      ++counts_[owners_.back()];
    }
    places_.resize(tokens.size());
    size_t place = 0;
    for (size_t rank = 0; rank < me_.count; ++rank)
      for (size_t row = 0; row < tokens.size(); ++row)
        if (owners_[row] == rank) places_[row] = place++;
    for (size_t row = 0; row < tokens.size(); ++row)
      if (owners_[row] == me_.index)
        std::copy_n(x + row * stride, width_, memory_.as<float>() + places_[row] * width_);
    for (size_t& count : counts_) count *= width_ * sizeof(float);
    ranks_.all_gather(memory_.data(), counts_);
  }

  Buffer memory_;  // roots, or rows of the embedding
  std::vector<size_t> counts_, owners_, places_;
  std::vector<Outgoing> out_;
  std::vector<Incoming> in_;
  Communicator::Ticket started_ = 0;
};

}  // namespace

std::unique_ptr<TensorRanks> TensorRanks::make(const ModelConfig& config, const Ranks& ranks,
                                               size_t most_rows) {
  const size_t count = ranks.tp_place().count;
  if (count == 1) return std::make_unique<WholeModel>();
  const size_t floats = PartInSharedMemory::area_floats(config, count, most_rows);
  if (auto areas = SharedAreas::make(ranks.tp(), floats))
    return std::make_unique<PartInSharedMemory>(config, ranks, std::move(areas));
  return std::make_unique<PartByMessages>(config, ranks, most_rows);
}

bool TensorRanks::sums_by_rows(size_t tp, size_t rows, size_t width) {
  constexpr size_t kManyBytes = size_t{64} << 10;
  return tp > 2 && rows * width * sizeof(float) >= kManyBytes;
}

size_t TensorRanks::scratch_bytes(const ModelConfig& config, size_t tp, size_t most_rows) {
  if (tp == 1) return 0;
  return std::max(PartByMessages::bytes(config, tp, most_rows),
                  SharedAreas::bytes(PartInSharedMemory::area_floats(config, tp, most_rows)));
}

}  // namespace rill
