// SPDX-License-Identifier: Apache-2.0
// How the ranks of one machine hand over floats: each writes its own, and reads the others' where
// they stand.
#pragma once
#include <memory>
#include <span>

#include "base/range.h"
#include "base/team.h"
#include "comm/communicator.h"
#include "model/arena.h"

namespace rill {

/// Two areas of each rank, used in turn. What a rank has written to one it publishes, and the
/// others may read it until they publish next. So none is overwritten while it is read: who writes
/// to an area again has published the other one in between, and so has met everyone after they read
/// it.
class SharedAreas {
 public:
  /// Areas of `floats` floats on every rank, which all of them make and destroy in the same order.
  /// Null if they have no memory to share.
  static std::unique_ptr<SharedAreas> make(Communicator& ranks, size_t floats);
  static size_t bytes(size_t floats) { return 2 * round_up(floats, kLine) * sizeof(float); }

  /// This rank's, to be written; and what a rank has published last.
  float* own() const { return area(me(), write_); }
  const float* of(size_t rank) const { return area(rank, 1 - write_); }
  /// Hands over what stands in own(), of which others go on to read `floats` floats, counted as
  /// `messages`. By one thread, and barriers separate it from the writing and from the reading.
  void publish(size_t messages, size_t floats);
  size_t others() const { return static_cast<size_t>(ranks_.size()) - 1; }

  /// By all threads, after a barrier: of `rows` rows of y [rows][stride] each rank has computed
  /// some columns, and takes the others'. A barrier must stand before they are read.
  void share_columns(Worker& worker, float* y, size_t stride, size_t rows,
                     std::span<const Range> columns);
  /// The least of the ranks' values; by one thread.
  size_t least(size_t value);

 private:
  static constexpr size_t kLine = 16;  // floats
  SharedAreas(Communicator& ranks, std::unique_ptr<SharedMemory> memory, size_t floats);
  size_t me() const { return static_cast<size_t>(ranks_.rank()); }
  float* area(size_t rank, size_t index) const {
    return reinterpret_cast<float*>(memory_->part(static_cast<int>(rank))) + index * floats_;
  }

  Communicator& ranks_;
  const std::unique_ptr<SharedMemory> memory_;
  const size_t floats_;
  size_t write_ = 0;
};

}  // namespace rill
