// SPDX-License-Identifier: Apache-2.0
// The KV cache: a pool of blocks of 64 tokens; a sequence owns a table of blocks.
#pragma once
#include <cstdint>
#include <vector>

#include "base/buffer.h"
#include "base/numa.h"
#include "kernels/kernels.h"
#include "model/config.h"
#include "model/shard.h"
#include "model/stripe_tree.h"

namespace rill {

/// What a rank's cache holds of a token.
struct KvShape {
  size_t layers, kv_heads, head_dim;
  /// Of a sequence the blocks whose keys lie in these stripes, counted in tree order.
  Range stripes = {0, kStripes};
  size_t stripe_tokens = kBlockTokens;

  KvShape(size_t layer_count, size_t head_count, size_t dimensions)
      : layers(layer_count), kv_heads(head_count), head_dim(dimensions) {}
  KvShape(const ModelConfig& config)  // of a whole model
      : KvShape(config.num_layers, config.num_kv_heads, config.head_dim) {}
  /// `block_size`: of attention.
  KvShape(const ModelConfig& config, const Shard& shard, size_t block_size)
      : layers(config.num_layers),
        kv_heads(length(shard.kv_heads)),
        head_dim(config.head_dim),
        stripes(shard.stripes),
        stripe_tokens(stripe_length(block_size)) {}

  /// Does the cache hold a sequence's index-th block?
  bool holds(size_t index) const {
    return in_range(stripes, tree_place(index * kBlockTokens / stripe_tokens));
  }
  /// How many of a sequence's first `blocks` blocks it holds.
  size_t held(size_t blocks) const;
};

/// A pool of blocks. A block holds K and V of 64 tokens for all layers and KV heads, as
/// AttentionTile describes them. Neighbouring blocks are kept side by side,
/// [layers][kv_heads][neighbours]{K, V}, so that a head's memory is read in runs long enough for
/// the processor's prefetching and for the rows of DRAM.
class KvCache {
 public:
  /// Room for `tokens` tokens in all, however they are shared among up to `sequences` sequences.
  /// Memory is reserved now and touched as blocks are used. Throws rill::Error if there is none.
  /// Pages lie where `placement` says.
  KvCache(const KvShape& shape, Format format, size_t tokens, size_t sequences = 1,
          const Placement& placement = {});
  KvCache(const KvCache&) = delete;  // sequences hold its address
  KvCache& operator=(const KvCache&) = delete;

  static size_t block_bytes(const KvShape& shape, Format format);
  /// Bytes of a cache with these arguments: for `rill plan`.
  static size_t bytes(const KvShape& shape, Format format, size_t tokens, size_t sequences);

  /// A zeroed block. Throws rill::Error when none is left.
  uint32_t allocate();
  void free(uint32_t block);
  size_t free_blocks() const { return free_.size(); }
  size_t blocks() const { return dirty_.size(); }
  Format format() const { return format_; }
  const KvShape& shape() const { return shape_; }
  /// Of K and V of one head in a block, which stand one after the other.
  size_t head_bytes() const { return head_bytes_; }

  std::byte* k(uint32_t block, size_t layer, size_t kv_head);
  std::byte* v(uint32_t block, size_t layer, size_t kv_head) {
    return k(block, layer, kv_head) + k_bytes_;
  }

  /// Zeroes the slots of a block from `slot` on: what a kernel may multiply by +0 must be finite.
  void clear_from(uint32_t block, size_t slot);

 private:
  static constexpr size_t kNeighbours = 4;
  Format format_;
  KvShape shape_;
  size_t k_bytes_, head_bytes_, block_bytes_;
  Buffer memory_;
  std::vector<uint32_t> free_;
  std::vector<bool> dirty_;  // was used before: needs zeroing
};

/// The tokens of one sequence in a cache. Its blocks go back to the pool with it.
class KvSequence {
 public:
  explicit KvSequence(KvCache& cache);
  KvSequence(KvSequence&& other) noexcept;
  KvSequence& operator=(KvSequence&& other) noexcept;
  ~KvSequence() { release(); }

  size_t length() const { return length_; }
  /// Where each block of 64 tokens is in the cache; kElsewhere for one that another rank keeps.
  static constexpr uint32_t kElsewhere = UINT32_MAX;
  const std::vector<uint32_t>& blocks() const { return blocks_; }
  KvCache& cache() const { return *cache_; }

  /// Blocks that `tokens` more would take from the pool.
  size_t blocks_for(size_t tokens) const;
  /// Makes room for `tokens` more and counts them in; the forward step writes them. Throws
  /// rill::Error, and changes nothing, if the cache has no room.
  void extend(size_t tokens);
  /// Forgets all tokens from `length` on (what stays keeps its bits).
  void truncate(size_t length);

 private:
  void release() noexcept;

  KvCache* cache_;
  std::vector<uint32_t> blocks_;
  size_t length_ = 0;
  size_t held_ = 0;  // blocks that are here
};

}  // namespace rill
