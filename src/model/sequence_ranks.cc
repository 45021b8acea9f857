// SPDX-License-Identifier: Apache-2.0
#include "model/sequence_ranks.h"

#include <algorithm>
#include <array>
#include <numeric>

#include "base/buffer.h"
#include "model/arena.h"
#include "model/read_ahead.h"
#include "model/shared_areas.h"
#include "model/step_scratch.h"
#include "model/stripe_tree.h"

namespace rill {
namespace {

// The step is one process's own.
class AllRows final : public SequenceRanks {
 public:
  explicit AllRows(const Ranks& ranks, size_t most_rows) : SequenceRanks(ranks, most_rows) {}
  void start_qkv(Worker&, const float*, size_t) override {}
  void finish_qkv(Worker&) override {}
  const float* queries(size_t) const override { return nullptr; }
  const float* keys_values(size_t) const override { return nullptr; }
  void share_columns(Worker&, const SharedColumns&) override {}
  void share_logits(Worker&, const SharedColumns&) override {}
  size_t least(size_t value) override { return ranks_.least(value); }
};

// Ranks of one machine read each other's rows and columns where they were put (SharedAreas).
class RowsInSharedMemory final : public SequenceRanks {
 public:
  RowsInSharedMemory(const Ranks& ranks, const Widths& widths, size_t most_rows,
                     std::unique_ptr<SharedAreas> areas)
      : SequenceRanks(ranks, most_rows), widths_(widths), areas_(std::move(areas)) {
    owners_.reserve(most_rows);
  }

  // An area takes q, k and v of a rank's rows, or a rank's columns.
  static size_t area_floats(const ModelConfig& config, const Shard& shard, size_t most_rows) {
    const Widths widths(config, shard);
    const size_t ranks = shard.sp.count, most_cut = RowShares::most_of_everyone(ranks);
    const size_t cut_rows = std::min(most_rows, most_cut);
    const size_t rows = most_rows > most_cut ? (most_rows + ranks - 1) / ranks : 0;
    const auto columns = [&](size_t width, size_t unit) {
      size_t most = 0;
      for (size_t rank = 0; rank < ranks; ++rank)
        most = std::max(most, length(RowShares{1, {rank, ranks}}.own_columns(width, unit)));
      return most;
    };
    constexpr size_t kDealt = kDealtPanels * kPanel;
    return std::max({rows * widths.qkv(),
                     cut_rows * columns(widths.qkv(), std::lcm(config.head_dim, kPanel)),
                     cut_rows * columns(widths.hidden, kDealt),
                     cut_rows * columns(widths.intermediate, kDealt / 2),
                     columns(length(shard.vocabulary), kDealt)});
  }

  void start_qkv(Worker& worker, const float* qkv, size_t stride) override {
    if (others() == 0) return;
    const Range own = shares_.own(), mine = worker.share(length(own));
    for (size_t i = mine.begin; i < mine.end; ++i)
      std::copy_n(qkv + i * stride, keeps(own.begin + i) ? widths_.q : widths_.qkv(),
                  areas_->own() + i * widths_.qkv());
    worker.barrier();
    if (!worker.first()) return;
    size_t kept_elsewhere = 0;
    for (size_t row = own.begin; row < own.end; ++row) kept_elsewhere += keeps(row) ? 0 : 1;
    areas_->publish(2 * areas_->others(),
                    areas_->others() * length(own) * widths_.q + kept_elsewhere * 2 * widths_.kv);
  }
  void finish_qkv(Worker& worker) override {
    if (others() > 0) worker.barrier();
  }
  const float* queries(size_t row) const override {
    const size_t owner = owners_[row];
    return areas_->of(owner) + (row - shares_.of(owner).begin) * widths_.qkv();
  }
  const float* keys_values(size_t row) const override { return queries(row) + widths_.q; }

  void share_columns(Worker& worker, const SharedColumns& c) override {
    if (!shares_.cuts_columns()) return;
    std::array<Range, kStripes> columns;
    for (size_t rank = 0; rank < shares_.me.count; ++rank)
      columns[rank] = shares_.columns_of(rank, c.width, c.unit);
    worker.barrier();
    areas_->share_columns(worker, c.y, c.stride, c.rows, {columns.data(), shares_.me.count});
  }
  // An area has room for one row of the vocabulary.
  void share_logits(Worker& worker, const SharedColumns& c) override {
    for (size_t row = 0; row < c.rows; ++row)
      share_columns(worker, {c.y + row * c.stride, c.stride, 1, c.width, c.unit});
  }
  size_t least(size_t value) override { return areas_->least(value); }

 private:
  void lay_out() override {
    owners_.clear();
    for (uint32_t rank = 0; rank < shares_.me.count; ++rank)
      owners_.insert(owners_.end(), length(shares_.of(rank)), rank);
  }

  const Widths widths_;
  const std::unique_ptr<SharedAreas> areas_;
  std::vector<uint32_t> owners_;  // [rows] the rank that computes each
};

// Ranks that send each other messages.
class RowsByMessages final : public SequenceRanks {
 public:
  RowsByMessages(const Ranks& ranks, const Widths& widths, size_t most_rows)
      : SequenceRanks(ranks, most_rows),
        widths_(widths),
        memory_(Layout(ranks.sp_place(), widths, most_rows, nullptr).bytes, "what ranks exchange"),
        at_(ranks.sp_place(), widths, most_rows, memory_.data()),
        out_rows_(shares_.me.count),
        in_rows_(shares_.me.count),
        bytes_(shares_.me.count) {
    places_.reserve(most_rows);
    out_.reserve(2 * shares_.me.count);
    in_.reserve(2 * shares_.me.count);
  }
  static size_t bytes(const Shard& shard, const Widths& widths, size_t most_rows) {
    return Layout(shard.sp, widths, most_rows, nullptr).bytes;
  }

  void start_qkv(Worker& worker, const float* qkv, size_t stride) override {
    if (others() == 0) return;
    const Range own = shares_.own(), mine = worker.share(length(own));
    for (size_t i = mine.begin; i < mine.end; ++i) {
      const float* from = qkv + i * stride;
      const size_t row = own.begin + i;
      std::copy_n(from, widths_.q, at_.queries + row * widths_.q);
      if (!keeps(row))
        std::copy_n(from + widths_.q, 2 * widths_.kv, at_.sent + places_[row] * 2 * widths_.kv);
    }
    worker.barrier();
    if (worker.first()) send_qkv();
  }
  void finish_qkv(Worker& worker) override {
    if (others() == 0) return;
    if (worker.first()) ranks_.finish(started_);
    worker.barrier();
  }
  const float* queries(size_t row) const override { return at_.queries + row * widths_.q; }
  const float* keys_values(size_t row) const override {
    return at_.received + places_[row] * 2 * widths_.kv;
  }

  void share_columns(Worker& worker, const SharedColumns& c) override {
    if (!shares_.cuts_columns()) return;
    if (c.rows == 1) {
      share_logits(worker, c);
      return;
    }
    // [ranks][rows][columns of the rank]
    const auto place = [&](size_t rank, size_t row) {
      const Range columns = shares_.columns_of(rank, c.width, c.unit);
      return at_.columns + columns.begin * c.rows + row * length(columns);
    };
    const Range own = shares_.own_columns(c.width, c.unit), mine = worker.share(c.rows);
    worker.barrier();
    for (size_t row = mine.begin; row < mine.end; ++row)
      std::copy_n(c.y + row * c.stride + own.begin, length(own), place(shares_.me.index, row));
    worker.barrier();
    if (worker.first()) {
      for (size_t rank = 0; rank < shares_.me.count; ++rank)
        bytes_[rank] = c.rows * length(shares_.columns_of(rank, c.width, c.unit)) * sizeof(float);
      ranks_.all_gather(reinterpret_cast<std::byte*>(at_.columns), bytes_);
    }
    worker.barrier();
    for (size_t row = mine.begin; row < mine.end; ++row)
      for (size_t rank = 0; rank < shares_.me.count; ++rank) {
        const Range columns = shares_.columns_of(rank, c.width, c.unit);
        if (rank != shares_.me.index)
          std::copy_n(place(rank, row), length(columns), c.y + row * c.stride + columns.begin);
      }
  }
  void share_logits(Worker& worker, const SharedColumns& c) override {
    if (!shares_.cuts_columns()) return;
    worker.barrier();
    if (!worker.first()) return;
    for (size_t rank = 0; rank < shares_.me.count; ++rank)
      bytes_[rank] = length(shares_.columns_of(rank, c.width, c.unit)) * sizeof(float);
    for (size_t row = 0; row < c.rows; ++row)
      ranks_.all_gather(reinterpret_cast<std::byte*>(c.y + row * c.stride), bytes_);
  }
  size_t least(size_t value) override { return ranks_.least(value); }

 private:
  struct Layout {
    float *queries, *sent, *received, *columns;
    size_t bytes;

    Layout(RankOf sp, const Widths& widths, size_t rows, std::byte* base) {
      Arena arena(base);
      queries = arena.take<float>(rows * widths.q);
      sent = arena.take<float>(rows * 2 * widths.kv);
      received = arena.take<float>(rows * 2 * widths.kv);
      const size_t cut_rows = std::min(rows, RowShares::most_of_everyone(sp.count));
      columns = arena.take<float>(cut_rows *
                                  std::max({widths.hidden, widths.qkv(), widths.intermediate}));
      bytes = arena.used();
    }
  };

  void lay_out() override {
    places_.assign(shares_.rows, 0);
    std::fill(out_rows_.begin(), out_rows_.end(), 0);
    std::fill(in_rows_.begin(), in_rows_.end(), 0);
    const Range own = shares_.own();
    size_t sent = 0, received = 0;
    for (size_t rank = 0; rank < shares_.me.count; ++rank) {
      if (rank == shares_.me.index) continue;
      for (size_t row = own.begin; row < own.end; ++row)
        if (keepers_[row] == rank) {
          places_[row] = sent++;
          ++out_rows_[rank];
        }
      const Range theirs = shares_.of(rank);
      for (size_t row = theirs.begin; row < theirs.end; ++row)
        if (keeps(row)) {
          places_[row] = received++;
          ++in_rows_[rank];
        }
    }
  }

  void send_qkv() {
    out_.clear();
    in_.clear();
    size_t sent = 0, received = 0;
    const auto rows = [&](float* base, size_t first, size_t count, size_t width) {
      return std::as_writable_bytes(std::span(base + first * width, count * width));
    };
    const Range own = shares_.own();
    for (size_t rank = 0; rank < shares_.me.count; ++rank) {
      if (rank == shares_.me.index) continue;
      const int other = static_cast<int>(rank);
      const Range theirs = shares_.of(rank);
      out_.push_back({other, rows(at_.queries, own.begin, length(own), widths_.q)});
      out_.push_back({other, rows(at_.sent, sent, out_rows_[rank], 2 * widths_.kv)});
      in_.push_back({other, rows(at_.queries, theirs.begin, length(theirs), widths_.q)});
      in_.push_back({other, rows(at_.received, received, in_rows_[rank], 2 * widths_.kv)});
      sent += out_rows_[rank];
      received += in_rows_[rank];
    }
    started_ = ranks_.start(out_, in_);
  }

  const Widths widths_;
  Buffer memory_;
  const Layout at_;
  std::vector<size_t> places_;  // [rows] where K and V stand, in sent or in received
  std::vector<size_t> out_rows_, in_rows_, bytes_;  // [ranks] rows of K and V for, and from, each
  std::vector<Outgoing> out_;
  std::vector<Incoming> in_;
  Communicator::Ticket started_ = 0;
};

}  // namespace

std::unique_ptr<SequenceRanks> SequenceRanks::make(const ModelConfig& config, const Ranks& ranks,
                                                   size_t most_rows) {
  const Shard shard(config, ranks);
  if (shard.sp.count == 1) return std::make_unique<AllRows>(ranks, most_rows);
  const Widths widths(config, shard);
  const size_t floats = RowsInSharedMemory::area_floats(config, shard, most_rows);
  if (auto areas = SharedAreas::make(ranks.sp(), floats))
    return std::make_unique<RowsInSharedMemory>(ranks, widths, most_rows, std::move(areas));
  return std::make_unique<RowsByMessages>(ranks, widths, most_rows);
}

size_t SequenceRanks::scratch_bytes(const ModelConfig& config, const Shard& shard,
                                    size_t most_rows) {
  if (shard.sp.count == 1) return 0;
  return std::max(RowsByMessages::bytes(shard, Widths(config, shard), most_rows),
                  SharedAreas::bytes(RowsInSharedMemory::area_floats(config, shard, most_rows)));
}

SequenceRanks::SequenceRanks(const Ranks& ranks, size_t most_rows)
    : ranks_(ranks.sp()), shares_{0, ranks.sp_place()}, row_bytes_(shares_.me.count) {
  keepers_.reserve(most_rows);
}

void SequenceRanks::plan(std::span<const uint32_t> keepers) {
  shares_.rows = keepers.size();
  keepers_.assign(keepers.begin(), keepers.end());
  if (!shares_.everyone()) lay_out();
}

void SequenceRanks::share_rows(Worker& worker, float* all, size_t width,
                               std::span<const size_t> counts) {
  if (others() == 0) return;
  worker.barrier();
  if (!worker.first()) return;
  for (size_t rank = 0; rank < counts.size(); ++rank)
    row_bytes_[rank] = counts[rank] * width * sizeof(float);
  ranks_.all_gather(reinterpret_cast<std::byte*>(all), row_bytes_);
}

}  // namespace rill
