// SPDX-License-Identifier: Apache-2.0
#include "model/sequence_ranks.h"

#include <algorithm>

#include "model/arena.h"

namespace rill {
namespace {

struct Layout {
  float *queries, *sent, *received, *columns;
  size_t bytes;

  Layout(RankOf sp, const Widths& widths, size_t most_rows, std::byte* base) {
    Arena arena(base);
    const size_t rows = sp.count > 1 ? most_rows : 0;
    queries = arena.take<float>(rows * widths.q);
    sent = arena.take<float>(rows * 2 * widths.kv);
    received = arena.take<float>(rows * 2 * widths.kv);
    const size_t cut_rows = std::min(rows, RowShares::most_of_everyone(sp.count));
    columns =
        arena.take<float>(cut_rows * std::max({widths.hidden, widths.qkv(), widths.intermediate}));
    bytes = arena.used();
  }
};

}  // namespace

SequenceRanks::SequenceRanks(const Ranks& ranks, const Widths& widths, size_t most_rows)
    : ranks_(ranks.sp()),
      widths_(widths),
      memory_(scratch_bytes(ranks.sp_place(), widths, most_rows), "what ranks exchange"),
      shares_{0, ranks.sp_place()},
      out_rows_(shares_.me.count),
      in_rows_(shares_.me.count),
      bytes_(shares_.me.count) {
  const Layout layout(shares_.me, widths, most_rows, memory_.data());
  queries_ = layout.queries;
  sent_ = layout.sent;
  received_ = layout.received;
  columns_ = layout.columns;
  keepers_.reserve(most_rows);
  places_.reserve(most_rows);
  out_.reserve(2 * shares_.me.count);
  in_.reserve(2 * shares_.me.count);
}

size_t SequenceRanks::scratch_bytes(RankOf sp, const Widths& widths, size_t most_rows) {
  return Layout(sp, widths, most_rows, nullptr).bytes;
}

void SequenceRanks::plan(std::span<const uint32_t> keepers) {
  shares_.rows = keepers.size();
  keepers_.assign(keepers.begin(), keepers.end());
  places_.assign(keepers.size(), 0);
  std::fill(out_rows_.begin(), out_rows_.end(), 0);
  std::fill(in_rows_.begin(), in_rows_.end(), 0);
  if (shares_.everyone()) return;
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

void SequenceRanks::start_qkv(Worker& worker, const float* qkv, size_t stride) {
  if (others() == 0) return;
  const Range own = shares_.own();
  const Range mine = worker.share(length(own));
  for (size_t i = mine.begin; i < mine.end; ++i) {
    const float* from = qkv + i * stride;
    const size_t row = own.begin + i;
    std::copy_n(from, widths_.q, queries_ + row * widths_.q);
    if (!keeps(row))
      std::copy_n(from + widths_.q, 2 * widths_.kv, sent_ + places_[row] * 2 * widths_.kv);
  }
  worker.barrier();
  if (worker.first()) {
    out_.clear();
    in_.clear();
    size_t sent = 0, received = 0;
    const auto rows = [&](float* base, size_t first, size_t count, size_t width) {
      return std::as_writable_bytes(std::span(base + first * width, count * width));
    };
    for (size_t rank = 0; rank < shares_.me.count; ++rank) {
      if (rank == shares_.me.index) continue;
      const int other = static_cast<int>(rank);
      const Range theirs = shares_.of(rank);
      out_.push_back({other, rows(queries_, own.begin, length(own), widths_.q)});
      out_.push_back({other, rows(sent_, sent, out_rows_[rank], 2 * widths_.kv)});
      in_.push_back({other, rows(queries_, theirs.begin, length(theirs), widths_.q)});
      in_.push_back({other, rows(received_, received, in_rows_[rank], 2 * widths_.kv)});
      sent += out_rows_[rank];
      received += in_rows_[rank];
    }
    started_ = ranks_.start(out_, in_);
  }
}

void SequenceRanks::finish_qkv(Worker& worker) {
  if (others() == 0) return;
  if (worker.first()) ranks_.finish(started_);
  worker.barrier();
}

void SequenceRanks::share_rows(Worker& worker, float* all, size_t width,
                               std::span<const size_t> counts) {
  if (others() == 0) return;
  worker.barrier();
  if (!worker.first()) return;
  for (size_t rank = 0; rank < counts.size(); ++rank)
    bytes_[rank] = counts[rank] * width * sizeof(float);
  ranks_.all_gather(reinterpret_cast<std::byte*>(all), bytes_);
}

void SequenceRanks::share_columns(Worker& worker, const SharedColumns& c) {
  if (!shares_.cuts_columns()) return;
  if (c.rows == 1) {
    share_logits(worker, c);
    return;
  }
  // [ranks][rows][columns of the rank]
  const auto place = [&](size_t rank, size_t row) {
    const Range columns = shares_.columns_of(rank, c.width, c.unit);
    return columns_ + columns.begin * c.rows + row * length(columns);
  };
  const Range own = shares_.own_columns(c.width, c.unit), mine = worker.share(c.rows);
  worker.barrier();
  for (size_t row = mine.begin; row < mine.end; ++row)
    std::copy_n(c.y + row * c.stride + own.begin, length(own), place(shares_.me.index, row));
  worker.barrier();
  if (worker.first()) {
    for (size_t rank = 0; rank < shares_.me.count; ++rank)
      bytes_[rank] = c.rows * length(shares_.columns_of(rank, c.width, c.unit)) * sizeof(float);
    ranks_.all_gather(reinterpret_cast<std::byte*>(columns_), bytes_);
  }
  worker.barrier();
  for (size_t row = mine.begin; row < mine.end; ++row)
    for (size_t rank = 0; rank < shares_.me.count; ++rank) {
      const Range columns = shares_.columns_of(rank, c.width, c.unit);
      if (rank != shares_.me.index)
        std::copy_n(place(rank, row), length(columns), c.y + row * c.stride + columns.begin);
    }
}

void SequenceRanks::share_logits(Worker& worker, const SharedColumns& c) {
  if (!shares_.cuts_columns()) return;
  worker.barrier();
  if (!worker.first()) return;
  for (size_t rank = 0; rank < shares_.me.count; ++rank)
    bytes_[rank] = length(shares_.columns_of(rank, c.width, c.unit)) * sizeof(float);
  for (size_t row = 0; row < c.rows; ++row)
    ranks_.all_gather(reinterpret_cast<std::byte*>(c.y + row * c.stride), bytes_);
}

size_t SequenceRanks::least(size_t value) {
  return ranks_.least(value);
}

}  // namespace rill
