// SPDX-License-Identifier: Apache-2.0
#include "model/shared_areas.h"

#include <algorithm>
#include <cstring>

#include "model/shard.h"

namespace rill {

std::unique_ptr<SharedAreas> SharedAreas::make(Communicator& ranks, size_t floats) {
  auto memory = ranks.share_memory(bytes(floats));
  if (!memory) return nullptr;
  return std::unique_ptr<SharedAreas>(new SharedAreas(ranks, std::move(memory), floats));
}

SharedAreas::SharedAreas(Communicator& ranks, std::unique_ptr<SharedMemory> memory, size_t floats)
    : ranks_(ranks), memory_(std::move(memory)), floats_(round_up(floats, kLine)) {}

void SharedAreas::publish(size_t messages, size_t floats) {
  ranks_.publish(*memory_, messages, floats * sizeof(float));
  write_ = 1 - write_;
}

// In an area [rows][columns of its rank]. Each thread copies some columns of every rank, so that
// one row is shared out as well.
void SharedAreas::share_columns(Worker& worker, float* y, size_t stride, size_t rows,
                                std::span<const Range> columns) {
  const Range own = columns[me()];
  const size_t width = length(own);
  const Range mine = worker.share(width, kLine);
  for (size_t row = 0; row < rows; ++row)
    std::copy_n(y + row * stride + own.begin + mine.begin, length(mine),
                this->own() + row * width + mine.begin);
  worker.barrier();
  if (worker.first()) publish(others(), others() * rows * width);
  worker.barrier();
  for (size_t rank = 0; rank < columns.size(); ++rank) {
    if (rank == me()) continue;
    const size_t theirs = length(columns[rank]);
    const Range share = worker.share(theirs, kLine);
    for (size_t row = 0; row < rows; ++row)
      std::copy_n(of(rank) + row * theirs + share.begin, length(share),
                  y + row * stride + columns[rank].begin + share.begin);
  }
}

size_t SharedAreas::least(size_t value) {
  std::memcpy(own(), &value, sizeof value);
  publish(others(), others() * sizeof value / sizeof(float));
  for (size_t rank = 0; rank <= others(); ++rank) {
    size_t theirs;
    std::memcpy(&theirs, of(rank), sizeof theirs);
    value = std::min(value, theirs);
  }
  return value;
}

}  // namespace rill
