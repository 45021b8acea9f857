// SPDX-License-Identifier: Apache-2.0
#include "model/kv_cache.h"

#include <cassert>
#include <cstring>
#include <utility>

#include "base/error.h"
#include "base/half.h"

namespace rill {
namespace {

size_t k_bytes(const ModelConfig& config, Format format) {
  return kBlockTokens / kPanel * panel_bytes(format, config.head_dim);
}

size_t v_bytes(const ModelConfig& config, Format format) {
  return (config.head_dim + kPanel - 1) / kPanel * panel_bytes(format, kBlockTokens);
}

size_t blocks_of(size_t tokens, size_t sequences) {
  // A sum of ceilings exceeds the ceiling of the sum by less than the number of its terms.
  return (tokens + kBlockTokens - 1) / kBlockTokens + (sequences ? sequences - 1 : 0);
}

}  // namespace

KvCache::KvCache(const ModelConfig& config, Format format, size_t tokens, size_t sequences)
    : format_(format),
      layers_(config.num_layers),
      kv_heads_(config.num_kv_heads),
      head_dim_(config.head_dim),
      k_bytes_(k_bytes(config, format)),
      head_bytes_(k_bytes_ + v_bytes(config, format)),
      block_bytes_(layers_ * kv_heads_ * head_bytes_),
      memory_(bytes(config, format, tokens, sequences), "the KV cache"),
      dirty_(blocks_of(tokens, sequences)) {
  free_.reserve(dirty_.size());
  for (size_t i = dirty_.size(); i-- > 0;) free_.push_back(static_cast<uint32_t>(i));
}

size_t KvCache::block_bytes(const ModelConfig& config, Format format) {
  return config.num_layers * config.num_kv_heads *
         (k_bytes(config, format) + v_bytes(config, format));
}

size_t KvCache::bytes(const ModelConfig& config, Format format, size_t tokens, size_t sequences) {
  size_t result;
  if (__builtin_mul_overflow(blocks_of(tokens, sequences), block_bytes(config, format), &result))
    fail("a KV cache of ", tokens, " tokens is larger than the address space; lower --ctx");
  return result;
}

uint32_t KvCache::allocate() {
  if (free_.empty())
    fail("the KV cache is full (", blocks(), " blocks of ", kBlockTokens,
         " tokens are in use); raise --ctx or shorten the conversation");
  const uint32_t block = free_.back();
  free_.pop_back();
  if (dirty_[block]) std::memset(memory_.data() + block * block_bytes_, 0, block_bytes_);
  dirty_[block] = true;
  return block;
}

void KvCache::free(uint32_t block) {
  assert(free_.size() < dirty_.size());
  free_.push_back(block);  // never reallocates: reserved in full
}

void KvCache::clear_from(uint32_t block, size_t slot) {
  const std::vector<float> zeros(head_dim_);
  for (size_t layer = 0; layer < layers_; ++layer)
    for (size_t head = 0; head < kv_heads_; ++head)
      for (size_t i = slot; i < kBlockTokens; ++i) {
        store_k(format_, zeros.data(), head_dim_, i, k(block, layer, head));
        store_v(format_, zeros.data(), head_dim_, i, v(block, layer, head));
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
  std::byte* panel = block + slot / kPanel * panel_bytes(format, head_dim);
  const size_t lane = slot % kPanel;
  auto* halves = reinterpret_cast<uint16_t*>(panel);
  switch (format) {
    case Format::F32:
      for (size_t d = 0; d < head_dim; ++d)
        reinterpret_cast<float*>(panel)[d * kPanel + lane] = k[d];
      return;
    case Format::F16:
      for (size_t d = 0; d < head_dim; ++d) halves[d * kPanel + lane] = float_to_f16(k[d]);
      return;
    default:
      for (size_t d = 0; d < head_dim; ++d)
        halves[(d / 2 * kPanel + lane) * 2 + d % 2] = float_to_bf16(k[d]);
  }
}

void store_v(Format format, const float* v, size_t head_dim, size_t slot, std::byte* block) {
  const size_t panel = panel_bytes(format, kBlockTokens);
  for (size_t d = 0; d < head_dim; ++d) {
    std::byte* out = block + d / kPanel * panel;
    const size_t lane = d % kPanel;
    if (format == Format::F32)
      reinterpret_cast<float*>(out)[slot * kPanel + lane] = v[d];
    else if (format == Format::F16)
      reinterpret_cast<uint16_t*>(out)[slot * kPanel + lane] = float_to_f16(v[d]);
    else
      reinterpret_cast<uint16_t*>(out)[(slot / 2 * kPanel + lane) * 2 + slot % 2] =
          float_to_bf16(v[d]);
  }
}

}  // namespace rill
