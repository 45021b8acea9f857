// SPDX-License-Identifier: Apache-2.0
// What the files of Attention share: tiles of query rows, the keys that they meet, and the scratch
// that threads meet them in.
#pragma once
#include <algorithm>
#include <array>
#include <bit>

#include "model/arena.h"
#include "model/attention.h"

namespace rill {

/// Lanes of stripes that a task of a few rows (decode) visits side by side: so it reads longer runs
/// of memory. Tasks of more rows have fewer, down to one.
constexpr size_t kMostLanes = kMostTogether;

// Tiles of kMostRows rows, the least that it pays to cut queries into.
inline size_t least_tiles(size_t folded_rows) {
  return (folded_rows + kMostRows - 1) / kMostRows;
}
// Of kMostRows times a power of two rows, the least that hold `rows`.
inline size_t tile_rows(size_t rows) {
  return kMostRows * std::bit_ceil(least_tiles(rows));
}

inline size_t stripe_tokens(const AttentionShape& shape) {
  return stripe_length(shape.block_size);
}

// Floats of the states of pieces of tiles that threads share: so many a thread of kMostRows rows.
// Streaming tiles may have more rows; so small ones need not be made that there are enough.
inline size_t partial_floats(const AttentionShape& shape, size_t threads) {
  const size_t pieces = shape.type == AttentionType::STREAMING ? 16 : 8;
  return threads > 1 ? pieces * threads * state_floats(shape.head_dim, kMostRows) : 0;
}

// Bytes of the scores of one thread's tile of standard attention.
inline size_t thread_score_bytes(const AttentionShape& shape, size_t most_context) {
  return shape.type == AttentionType::STANDARD ? attention_scratch_bytes(most_context, kMostRows)
                                               : 0;
}

// One thread's scratch.
struct ThreadScratch {
  float* states;      // [lanes][kLiveStates]
  std::byte* kernel;  // AttentionTile::scratch (streaming)
  size_t bytes;
};

inline ThreadScratch lay_out_thread(const AttentionShape& shape, std::byte* base) {
  Arena arena(base);
  const bool streaming = shape.type == AttentionType::STREAMING;
  ThreadScratch s{};
  const size_t lanes_floats = kMostLanes * state_floats(shape.head_dim, kMostRows);
  s.states = arena.take<float>(
      kLiveStates * (streaming ? std::max(lanes_floats, state_floats(shape.head_dim, kMostQueries))
                               : state_floats(shape.head_dim, kMostRows)));
  s.kernel = arena.take<std::byte>(
      streaming ? attention_scratch_bytes(shape.block_size, kMostQueries) +
                      widened_bytes(shape.kv, shape.operand, shape.head_dim, shape.block_size)
                : 0);
  s.bytes = arena.used();
  return s;
}

// The pool blocks behind a run of keys, as kernels take them, and the one that is read next.
struct KeyBlocks {
  std::array<const std::byte*, kMostBlockTokens / kBlockTokens> k, v;
  const std::byte *next_k, *next_v;

  void find(const KvSequence& sequence, size_t layer, size_t kv_head, Range keys, size_t next) {
    const auto put = [&](size_t key, const std::byte*& k_at, const std::byte*& v_at) {
      const uint32_t block = sequence.blocks()[key / kBlockTokens];
      k_at = sequence.cache().k(block, layer, kv_head);
      v_at = sequence.cache().v(block, layer, kv_head);
    };
    size_t n = 0;
    for (size_t key = keys.begin; key < keys.end; key += kBlockTokens, ++n) put(key, k[n], v[n]);
    put(next, next_k, next_v);
  }
};

// Where a tile whose last row sees `most` keys ends: products take them by 16, those of bf16x32 by
// whole runs of 32.
inline size_t last_key(const AttentionShape& shape, size_t most) {
  return round_up(most, shape.operand == Operand::BF16X32 ? 32 : 16);
}

// Up to kMostQueries folded rows; kMostRows of standard attention, which keeps the scores of all
// their keys.
struct Attention::Tile {
  const AttentionQueries* queries;
  size_t kv_head, first, rows;
  const std::byte* q;
  size_t q_slice_bytes;
  size_t sees[kMostQueries];  // keys that each row sees, ascending
  size_t most;                // that the last row sees

  // The keys of this tile's sequence in a block, as far as any row sees them. `blocks` and
  // `visible` must outlive what is returned.
  AttentionTile over(const AttentionShape& shape, Range keys, const KeyBlocks& blocks,
                     int32_t* visible) const {
    AttentionTile tile{};
    tile.kv = shape.kv;
    tile.operand = shape.operand;
    tile.head_dim = shape.head_dim;
    tile.rows = rows;
    tile.q = q;
    tile.q_slice_bytes = q_slice_bytes;
    tile.k = blocks.k.data();
    tile.v = blocks.v.data();
    tile.next_k = blocks.next_k;
    tile.next_v = blocks.next_v;
    tile.first = keys.begin % kBlockTokens;
    tile.keys = std::min(keys.end, last_key(shape, most)) - keys.begin;
    if (sees[0] < keys.begin + tile.keys) {
      for (size_t r = 0; r < rows; ++r)
        visible[r] = static_cast<int32_t>(sees[r] > keys.begin ? sees[r] - keys.begin : 0);
      tile.visible = visible;
    }
    return tile;
  }
};

template <class Body>
void Attention::deal(Worker& worker, size_t layer, Phase phase, std::span<const Task> tasks,
                     const Body& body) {
  TaskCounter& next = next_task_[layer % 2][static_cast<size_t>(phase)];
  for (size_t i = next.next(); i < tasks.size(); i = next.next()) {
    body(tasks[i]);
    if (worker.first()) runtime_.ranks.progress();
  }
}

}  // namespace rill
