// SPDX-License-Identifier: Apache-2.0
#include "model/kv_cache.h"

#include <algorithm>
#include <bit>
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

// float_to_bf16 without branches and with signed comparisons, so that a loop becomes vectors.
uint16_t round_bf16(float x) {
  const auto bits = std::bit_cast<uint32_t>(x);
  const auto magnitude = static_cast<int32_t>(bits & 0x7fffffffu);
  uint32_t half = (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
  half = magnitude > 0x7f800000 ? bits >> 16 | 0x40u : half;
  half = magnitude < 0x00800000 ? bits >> 16 & 0x8000u : half;
  return static_cast<uint16_t>(half);
}

// Up to a panel's width.
void round_some(Format format, const float* x, size_t n, uint16_t* out) {
  if (format == Format::F16)
    for (size_t i = 0; i < n; ++i) out[i] = float_to_f16(x[i]);
  else if (n == kPanel)
    for (size_t i = 0; i < kPanel; ++i) out[i] = round_bf16(x[i]);
  else
    for (size_t i = 0; i < n; ++i) out[i] = round_bf16(x[i]);
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
  if (format == Format::F32) {
    for (size_t d = 0; d < head_dim; ++d) reinterpret_cast<float*>(panel)[d * kPanel + lane] = k[d];
    return;
  }
  auto* out = reinterpret_cast<uint16_t*>(panel);
  uint16_t halves[kPanel];
  for (size_t d = 0; d < head_dim; d += kPanel) {
    const size_t n = std::min(kPanel, head_dim - d);
    round_some(format, k + d, n, halves);
    if (format == Format::F16)
      for (size_t i = 0; i < n; ++i) out[(d + i) * kPanel + lane] = halves[i];
    else
      for (size_t i = 0; i < n; i += 2)  // head_dim is even
        std::memcpy(out + ((d + i) / 2 * kPanel + lane) * 2, halves + i, 2 * sizeof(uint16_t));
  }
}

void store_v(Format format, const float* v, size_t head_dim, size_t slot, std::byte* block) {
  uint16_t halves[kPanel];
  for (size_t d = 0; d < head_dim; d += kPanel, block += panel_bytes(format, kBlockTokens)) {
    const size_t n = std::min(kPanel, head_dim - d);
    if (format == Format::F32) {
      std::memcpy(reinterpret_cast<float*>(block) + slot * kPanel, v + d, n * sizeof(float));
      continue;
    }
    round_some(format, v + d, n, halves);
    auto* out = reinterpret_cast<uint16_t*>(block);
    if (format == Format::F16)
      std::memcpy(out + slot * kPanel, halves, n * sizeof(uint16_t));
    else
      for (size_t i = 0; i < n; ++i) out[(slot / 2 * kPanel + i) * 2 + slot % 2] = halves[i];
  }
}

}  // namespace rill
