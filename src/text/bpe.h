// SPDX-License-Identifier: Apache-2.0
// Byte-level byte-pair encoding: a vocabulary, ranked merges, and the search for the best merge.
#pragma once
#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace rill {

/// The tokens of a tokenizer.json: content as the file spells it, in which a byte is one character
/// of the byte-level alphabet ("Ġ" is a space), found by id or by content.
class Vocabulary {
 public:
  static constexpr int32_t kNone = -1;
  /// The largest id accepted; far above any published vocabulary, and it bounds our tables.
  static constexpr int32_t kLargestId = (1 << 22) - 1;

  /// Returns false if `content` or `id` is taken. The id is from 0 to kLargestId.
  bool insert(std::string_view content, int32_t id);
  int32_t find(std::string_view content) const;
  /// Largest id + 1; ids in between may be unused.
  size_t size() const { return spans_.size(); }
  bool contains(int32_t id) const;
  /// The content of a token that the vocabulary contains.
  std::string_view content(int32_t id) const;

 private:
  struct Span {
    uint32_t begin = 0;
    uint32_t length = kUnused;
  };
  static constexpr uint32_t kUnused = UINT32_MAX;
  void grow();

  std::string text_;            // all contents, one after another
  std::vector<Span> spans_;     // [id]
  std::vector<int32_t> slots_;  // open addressing by hash of the content; kNone is free
  size_t count_ = 0;
};

/// The byte-level alphabet of GPT-2: the character that stands for `byte`, as UTF-8.
std::string_view byte_character(unsigned char byte);
/// The bytes that a token's content stands for. Content with any character outside the alphabet
/// (some added tokens) stands for itself, as in Hugging Face's ByteLevel decoder.
std::string bytes_of_content(std::string_view content);

/// The merges. Immutable once built, so many threads may share it.
class BpeModel {
 public:
  struct Options {
    bool ignore_merges = false;  // a piece that is a token becomes that token, merges or not
  };
  /// Reused between calls of encode by one thread.
  class Scratch;

  BpeModel() = default;
  /// `vocabulary` must hold a token for each byte that UTF-8 can contain (the caller has checked).
  BpeModel(Options options, const Vocabulary& vocabulary, size_t merge_count);

  /// Adds the merge of the next rank. A pair that comes twice takes the later rank.
  void add_merge(int32_t left, int32_t right, int32_t merged);

  /// Appends the ids of one piece of text (raw bytes, valid UTF-8). Repeatedly joins the leftmost
  /// pair of the lowest rank: Sennrich et al., https://arxiv.org/abs/1508.07909. Time
  /// O(n log n) in the bytes of the piece, memory O(n).
  void encode(std::string_view piece, const Vocabulary& vocabulary, Scratch& scratch,
              std::vector<int32_t>& ids) const;

 private:
  static constexpr uint32_t kNoMerge = UINT32_MAX;
  static constexpr uint64_t kFree = UINT64_MAX;
  struct Merge {
    uint64_t pair = kFree;  // left id << 32 | right id
    uint32_t rank = kNoMerge;
    int32_t merged = Vocabulary::kNone;
  };

  Merge find(int32_t left, int32_t right) const;
  size_t slot(uint64_t pair) const;
  void encode_short(std::string_view piece, Scratch& scratch, std::vector<int32_t>& ids) const;
  void encode_long(std::string_view piece, Scratch& scratch, std::vector<int32_t>& ids) const;

  Options options_;
  std::array<int32_t, 256> byte_ids_{};
  std::vector<Merge> table_;  // open addressing, a power of two, at most half full
  int shift_ = 0;             // 64 - log2(table size)
  uint32_t next_rank_ = 0;
};

class BpeModel::Scratch {
 public:
  /// Pairs looked up and heap entries moved so far: what the running time is proportional to, but
  /// for the logarithm of the heap.
  uint64_t steps = 0;

 private:
  friend class BpeModel;
  struct Symbol {
    int32_t id;
    int32_t previous, next;  // index of the neighbour, -1 at the ends
    uint32_t rank;           // of the pair that this and the next symbol make
    int32_t merged;          // its id
  };
  std::vector<Symbol> symbols_;
  std::vector<uint64_t> heap_;  // rank << 32 | index, the least on top
};

}  // namespace rill
