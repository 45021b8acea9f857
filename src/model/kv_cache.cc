// SPDX-License-Identifier: Apache-2.0
#include "model/kv_cache.h"

#include <algorithm>
#include <bit>
#include <cassert>
#include <cstring>
#include <utility>

#include "base/error.h"
#include "base/half.h"
#include "model/arena.h"

namespace rill {
namespace {

size_t k_bytes(const KvShape& shape, Format format) {
  return kBlockTokens / kPanel * panel_bytes(format, shape.head_dim);
}

size_t v_bytes(const KvShape& shape, Format format) {
  return (shape.head_dim + kPanel - 1) / kPanel * panel_bytes(format, kBlockTokens);
}

size_t blocks_of(size_t tokens, size_t sequences) {
  // A sum of ceilings exceeds the ceiling of the sum by less than the number of its terms.
  return (tokens + kBlockTokens - 1) / kBlockTokens + (sequences ? sequences - 1 : 0);
}

// float_to_bf16 without branches and with signed comparisons, so that a loop becomes vectors.
uint16_t round_bf16(float x) {
  const auto bits = std::bit_cast<uint32_t>(x);
  const auto magnitude = static_cast<int32_t>(bits & 0x7fffffffu);
  uint32_t half = (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
  half = magnitude > 0x7f800000 ? bits >> 16 | 0x40u : half;
  half = magnitude < 0x00800000 ? bits >> 16 & 0x8000u : half;
  return static_cast<uint16_t>(half);
}

uint16_t to_f16(float x) {
  return float_to_f16(x);
}

// Writes x [n] as `round` makes it, `stride` values apart.
template <class T, class Round>
void spread(const float* x, size_t n, T* out, size_t stride, const Round& round) {
  for (size_t i = 0; i < n; ++i) out[i * stride] = round(x[i]);
}

float as_it_is(float x) {
  return x;
}

}  // namespace

KvCache::KvCache(const KvShape& shape, Format format, size_t tokens, size_t sequences)
    : format_(format),
      shape_(shape),
      k_bytes_(k_bytes(shape, format)),
      head_bytes_(k_bytes_ + v_bytes(shape, format)),
      block_bytes_(shape.layers * shape.kv_heads * head_bytes_),
      memory_(bytes(shape, format, tokens, sequences), "the KV cache"),
      dirty_(blocks_of(tokens, sequences)) {
  free_.reserve(dirty_.size());
  for (size_t i = dirty_.size(); i-- > 0;) free_.push_back(static_cast<uint32_t>(i));
}

size_t KvCache::block_bytes(const KvShape& shape, Format format) {
  return shape.layers * shape.kv_heads * (k_bytes(shape, format) + v_bytes(shape, format));
}

size_t KvCache::bytes(const KvShape& shape, Format format, size_t tokens, size_t sequences) {
  size_t result;
  if (__builtin_mul_overflow(blocks_of(tokens, sequences), block_bytes(shape, format), &result))
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
  const std::vector<float> zeros(shape_.head_dim);
  for (size_t layer = 0; layer < shape_.layers; ++layer)
    for (size_t head = 0; head < shape_.kv_heads; ++head)
      for (size_t i = slot; i < kBlockTokens; ++i) {
        store_k(format_, zeros.data(), shape_.head_dim, i, k(block, layer, head));
        store_v(format_, zeros.data(), shape_.head_dim, i, v(block, layer, head));
      }
}

KvSequence::KvSequence(KvCache& cache) : cache_(&cache) {
  blocks_.reserve(cache.blocks());  // a forward step allocates nothing
}

KvSequence::KvSequence(KvSequence&& other) noexcept
    : cache_(other.cache_),
      blocks_(std::exchange(other.blocks_, {})),
      length_(std::exchange(other.length_, 0)) {}

KvSequence& KvSequence::operator=(KvSequence&& other) noexcept {
  if (this == &other) return *this;
  release();
  cache_ = other.cache_;
  blocks_ = std::exchange(other.blocks_, {});
  length_ = std::exchange(other.length_, 0);
  return *this;
}

void KvSequence::release() noexcept {
  for (const uint32_t block : blocks_) cache_->free(block);
  blocks_.clear();
  length_ = 0;
}

void KvSequence::extend(size_t tokens) {
  const size_t wanted = blocks_for(tokens);
  if (wanted > cache_->free_blocks())
    fail("the KV cache has room for ", cache_->free_blocks() * kBlockTokens, " more tokens where ",
         tokens, " are to be added to a sequence of ", length_,
         "; raise --ctx or shorten the prompt");
  for (size_t i = 0; i < wanted; ++i) blocks_.push_back(cache_->allocate());
  length_ += tokens;
}

void KvSequence::truncate(size_t length) {
  if (length >= length_) return;
  const size_t kept = (length + kBlockTokens - 1) / kBlockTokens;
  while (blocks_.size() > kept) {
    cache_->free(blocks_.back());
    blocks_.pop_back();
  }
  if (length % kBlockTokens) cache_->clear_from(blocks_.back(), length % kBlockTokens);
  length_ = length;
}

void store_k(Format format, const float* k, size_t head_dim, size_t slot, std::byte* block) {
  auto* halves = reinterpret_cast<uint16_t*>(block);
  if (format == Format::F32) {
    spread(k, head_dim, reinterpret_cast<float*>(block) + slot, kBlockTokens, as_it_is);
  } else if (format == Format::F16) {
    spread(k, head_dim, halves + slot, kBlockTokens, to_f16);
  } else {
    for (size_t d = 0; d < head_dim; d += 2)  // head_dim is even
      spread(k + d, 2, halves + d * kBlockTokens + 2 * slot, 1, round_bf16);
  }
}

void store_v(Format format, const float* v, size_t head_dim, size_t slot, std::byte* block) {
  const size_t width = round_up(head_dim, kPanel);
  auto* halves = reinterpret_cast<uint16_t*>(block);
  if (format == Format::F32)
    spread(v, head_dim, reinterpret_cast<float*>(block) + slot * width, 1, as_it_is);
  else if (format == Format::F16)
    spread(v, head_dim, halves + slot * width, 1, to_f16);
  else
    spread(v, head_dim, halves + slot / 2 * 2 * width + slot % 2, 2, round_bf16);
}

}  // namespace rill
