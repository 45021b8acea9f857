// SPDX-License-Identifier: Apache-2.0
// A hash against accidents, not against malice.
#pragma once
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>

namespace rill {

/// FNV-1a (Fowler, Noll, Vo) over words of eight bytes.
class Hash {
 public:
  void add(std::span<const std::byte> bytes) {
    uint64_t word = bytes.size();
    mix(word);
    for (size_t at = 0; at < bytes.size(); at += sizeof word) {
      word = 0;
      std::memcpy(&word, bytes.data() + at, std::min(sizeof word, bytes.size() - at));
      mix(word);
    }
  }
  void add(std::string_view text) { add(std::as_bytes(std::span(text))); }
  uint64_t value() const { return value_; }

 private:
  void mix(uint64_t word) {
    value_ = (value_ ^ word) * 0x100000001b3ull;
    value_ ^= value_ >> 32;
  }
  uint64_t value_ = 0xcbf29ce484222325ull;
};

}  // namespace rill
