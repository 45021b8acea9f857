// SPDX-License-Identifier: Apache-2.0
// The KV cache: a pool of blocks of 64 tokens; a sequence owns a table of blocks.
#pragma once
#include <cstdint>
#include <vector>

#include "base/buffer.h"
#include "kernels/kernels.h"
#include "model/config.h"

namespace rill {

/// A pool of blocks. A block holds K and V of 64 tokens for all layers and KV heads:
/// [layers][kv_heads]{K panels, V panels} as AttentionTile describes them.
class KvCache {
 public:
  /// Room for `tokens` tokens in all (rounded up to blocks, plus one partial block for each of
  /// `sequences`). Memory is reserved now and touched as blocks are used.
  KvCache(const ModelConfig& config, Format format, size_t tokens, size_t sequences = 1);

  static size_t block_bytes(const ModelConfig& config, Format format);
  /// Bytes of a cache with these arguments: for `rill plan`.
  static size_t bytes(const ModelConfig& config, Format format, size_t tokens, size_t sequences);

  /// A zeroed block. Throws rill::Error when none is left.
  uint32_t allocate();
  void free(uint32_t block);
  size_t free_blocks() const { return free_.size(); }
  Format format() const { return format_; }

  std::byte* k(uint32_t block, size_t layer, size_t kv_head);
  std::byte* v(uint32_t block, size_t layer, size_t kv_head);

 private:
  Format format_;
  size_t kv_heads_, k_bytes_, v_bytes_, block_bytes_;
  Buffer memory_;
  std::vector<uint32_t> free_;
  std::vector<bool> dirty_;  // was used before: needs zeroing
};

/// The tokens of one sequence in a cache. Its blocks go back to the pool with it.
class KvSequence {
 public:
  explicit KvSequence(KvCache& cache) : cache_(&cache) {}
  KvSequence(KvSequence&& other) noexcept;
  KvSequence& operator=(KvSequence&& other) noexcept;
  ~KvSequence() { truncate(0); }

  size_t length() const { return length_; }
  const std::vector<uint32_t>& blocks() const { return blocks_; }
  KvCache& cache() const { return *cache_; }

  /// Makes room for `tokens` more and counts them in; the forward step writes them.
  void extend(size_t tokens);
  /// Forgets all tokens from `length` on (what stays keeps its bits).
  void truncate(size_t length);

 private:
  KvCache* cache_;
  std::vector<uint32_t> blocks_;
  size_t length_ = 0;
};

/// Writes one token's K (or V) of one head, fp32 [head_dim], into slot `slot` (0 to 63) of a block.
void store_k(Format format, const float* k, size_t head_dim, size_t slot, std::byte* block);
void store_v(Format format, const float* v, size_t head_dim, size_t slot, std::byte* block);

}  // namespace rill
