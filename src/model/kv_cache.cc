// SPDX-License-Identifier: Apache-2.0
#include "model/kv_cache.h"

#include <algorithm>
#include <cassert>
#include <cstring>
#include <utility>

#include "base/error.h"
#include "model/arena.h"

namespace rill {
namespace {

// A sum of ceilings exceeds the ceiling of the sum by less than the number of its terms. Of the
// stripes of a rank likewise: what sequences hold of their last round through the stripes exceeds
// what one sequence of that length holds by less than a round each.
size_t blocks_of(const KvShape& shape, size_t tokens, size_t sequences) {
  const size_t others = sequences ? sequences - 1 : 0;
  const size_t blocks = (tokens + kBlockTokens - 1) / kBlockTokens + others;
  const size_t round = length(shape.stripes) * (shape.stripe_tokens / kBlockTokens);
  return std::min(blocks, shape.held(blocks) + others * round);
}

// Zeroes the tokens from `slot` on of K, whose rows are 64 tokens. Of int8 the scales: whatever
// the codes are, they then stand for zeros.
void clear_k(Format format, size_t head_dim, size_t slot, std::byte* block) {
  if (format == Format::INT8) {
    const size_t end = k_block_bytes(format, head_dim), step = panel_bytes(format, kDepthUnit);
    for (size_t row = 0; row < end; row += kBlockTokens / kPanel * step)
      for (size_t i = slot; i < kBlockTokens; ++i)
        std::memset(block + row + i / kPanel * step + i % kPanel * 2, 0, 2);
    return;
  }
  const size_t unit = format == Format::F16 ? 2 : 4;  // BF16: a pair of dimensions
  const size_t rows = format == Format::BF16 ? head_dim / 2 : head_dim;
  for (size_t row = 0; row < rows; ++row)
    std::memset(block + (row * kBlockTokens + slot) * unit, 0, (kBlockTokens - slot) * unit);
}

// Zeroes the tokens from `slot` on of V, whose rows are the dimensions of a token, or of two.
void clear_v(Format format, size_t head_dim, size_t slot, std::byte* block) {
  const size_t width = round_up(head_dim, kPanel), value = format == Format::F32 ? 4 : 2;
  if (format == Format::INT8) {
    std::memset(block + kBlockTokens * width + slot * sizeof(float), 0,
                (kBlockTokens - slot) * sizeof(float));
    return;
  }
  if (format == Format::BF16 && slot % 2) {  // the even token of its pair stays
    for (size_t d = 0; d < width; ++d) std::memset(block + (slot / 2 * width + d) * 4 + 2, 0, 2);
    ++slot;
  }
  std::memset(block + slot * width * value, 0, (kBlockTokens - slot) * width * value);
}

}  // namespace

KvCache::KvCache(const KvShape& shape, Format format, size_t tokens, size_t sequences,
                 const Placement& placement)
    : format_(format),
      shape_(shape),
      k_bytes_(k_block_bytes(format, shape.head_dim)),
      head_bytes_(k_bytes_ + v_block_bytes(format, shape.head_dim)),
      block_bytes_(shape.layers * shape.kv_heads * head_bytes_),
      memory_(bytes(shape, format, tokens, sequences), "the KV cache"),
      dirty_(blocks_of(shape, tokens, sequences)) {
  place_shared(placement, memory_.data(), memory_.size());
  free_.reserve(dirty_.size());
  for (size_t i = dirty_.size(); i-- > 0;) free_.push_back(static_cast<uint32_t>(i));
}

size_t KvCache::block_bytes(const KvShape& shape, Format format) {
  return shape.layers * shape.kv_heads *
         (k_block_bytes(format, shape.head_dim) + v_block_bytes(format, shape.head_dim));
}

size_t KvCache::bytes(const KvShape& shape, Format format, size_t tokens, size_t sequences) {
  size_t result;
  if (__builtin_mul_overflow(blocks_of(shape, tokens, sequences), block_bytes(shape, format),
                             &result))
    fail("a KV cache of ", tokens, " tokens is larger than the address space; lower --ctx");
  return result;
}

uint32_t KvCache::allocate() {
  if (free_.empty())
    fail("the KV cache is full (", blocks(), " blocks of ", kBlockTokens,
         " tokens are in use); raise --ctx or shorten the conversation");
  const uint32_t block = free_.back();
  free_.pop_back();
  if (dirty_[block])
    for (size_t layer = 0; layer < shape_.layers; ++layer)
      for (size_t head = 0; head < shape_.kv_heads; ++head)
        std::memset(k(block, layer, head), 0, head_bytes_);
  dirty_[block] = true;
  return block;
}

void KvCache::free(uint32_t block) {
  assert(free_.size() < dirty_.size());
  free_.push_back(block);  // never reallocates: reserved in full
}

std::byte* KvCache::k(uint32_t block, size_t layer, size_t kv_head) {
  const size_t first = block / kNeighbours * kNeighbours;
  const size_t neighbours = std::min(kNeighbours, blocks() - first);
  const size_t place = (layer * shape_.kv_heads + kv_head) * neighbours + (block - first);
  return memory_.data() + first * block_bytes_ + place * head_bytes_;
}

void KvCache::clear_from(uint32_t block, size_t slot) {
  for (size_t layer = 0; layer < shape_.layers; ++layer)
    for (size_t head = 0; head < shape_.kv_heads; ++head) {
      clear_k(format_, shape_.head_dim, slot, k(block, layer, head));
      clear_v(format_, shape_.head_dim, slot, v(block, layer, head));
    }
}

size_t KvShape::held(size_t blocks) const {
  const size_t run = stripe_tokens / kBlockTokens, round = kStripes * run;
  size_t count = blocks / round * length(stripes) * run;
  for (size_t i = blocks / round * round; i < blocks; ++i) count += holds(i) ? 1 : 0;
  return count;
}

KvSequence::KvSequence(KvCache& cache) : cache_(&cache) {
  // A forward step allocates nothing.
  blocks_.reserve((cache.blocks() + 1) * kStripes / rill::length(cache.shape().stripes) +
                  kStripes * cache.shape().stripe_tokens / kBlockTokens);
}

KvSequence::KvSequence(KvSequence&& other) noexcept
    : cache_(other.cache_),
      blocks_(std::exchange(other.blocks_, {})),
      length_(std::exchange(other.length_, 0)),
      held_(std::exchange(other.held_, 0)) {}

KvSequence& KvSequence::operator=(KvSequence&& other) noexcept {
  if (this == &other) return *this;
  release();
  cache_ = other.cache_;
  blocks_ = std::exchange(other.blocks_, {});
  length_ = std::exchange(other.length_, 0);
  held_ = std::exchange(other.held_, 0);
  return *this;
}

void KvSequence::release() noexcept {
  for (const uint32_t block : blocks_)
    if (block != kElsewhere) cache_->free(block);
  blocks_.clear();
  length_ = held_ = 0;
}

size_t KvSequence::blocks_for(size_t tokens) const {
  return cache_->shape().held((length_ + tokens + kBlockTokens - 1) / kBlockTokens) - held_;
}

void KvSequence::extend(size_t tokens) {
  const size_t wanted = blocks_for(tokens);
  if (wanted > cache_->free_blocks())
    fail("the KV cache has room for ", cache_->free_blocks() * kBlockTokens, " more tokens where ",
         tokens, " are to be added to a sequence of ", length_,
         "; raise --ctx or shorten the prompt");
  length_ += tokens;
  held_ += wanted;
  while (blocks_.size() * kBlockTokens < length_)
    blocks_.push_back(cache_->shape().holds(blocks_.size()) ? cache_->allocate() : kElsewhere);
}

void KvSequence::truncate(size_t length) {
  if (length >= length_) return;
  const size_t kept = (length + kBlockTokens - 1) / kBlockTokens;
  while (blocks_.size() > kept) {
    if (blocks_.back() != kElsewhere) {
      cache_->free(blocks_.back());
      --held_;
    }
    blocks_.pop_back();
  }
  if (length % kBlockTokens && blocks_.back() != kElsewhere)
    cache_->clear_from(blocks_.back(), length % kBlockTokens);
  length_ = length;
}

}  // namespace rill
