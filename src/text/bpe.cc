// SPDX-License-Identifier: Apache-2.0
#include "text/bpe.h"

#include <algorithm>
#include <bit>
#include <cassert>
#include <functional>

#include "text/unicode.h"

namespace rill {
namespace {

/// Pieces up to this many bytes are merged by scanning; longer ones need the heap.
constexpr size_t kShortPiece = 40;

/// GPT-2's table (https://github.com/openai/gpt-2/blob/master/src/encoder.py, bytes_to_unicode):
/// printable Latin-1 bytes stand for themselves, the others for U+0100 onwards, in order.
struct ByteAlphabet {
  std::array<std::string, 256> characters;
  std::array<int16_t, 0x144> bytes;  // [code point], -1 where none

  ByteAlphabet() {
    bytes.fill(-1);
    uint32_t next = 0x100;
    for (uint32_t byte = 0; byte < 256; ++byte) {
      const bool printable = (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte != 0xad);
      const uint32_t code_point = printable ? byte : next++;
      append_utf8(code_point, characters[byte]);
      bytes[code_point] = static_cast<int16_t>(byte);
    }
    assert(next == bytes.size());
  }
};

const ByteAlphabet& byte_alphabet() {
  static const ByteAlphabet alphabet;  // a constant, filled on first use
  return alphabet;
}

}  // namespace

std::string_view byte_character(unsigned char byte) {
  return byte_alphabet().characters[byte];
}

std::string bytes_of_content(std::string_view content) {
  const ByteAlphabet& alphabet = byte_alphabet();
  std::string bytes;
  for (std::string_view rest = content; !rest.empty();) {
    const Utf8Step step = next_utf8(rest);
    if (step.kind != Utf8Step::kCharacter || step.code_point >= alphabet.bytes.size() ||
        alphabet.bytes[step.code_point] < 0) {
      return std::string(content);
    }
    bytes.push_back(static_cast<char>(alphabet.bytes[step.code_point]));
    rest.remove_prefix(step.length);
  }
  return bytes;
}

bool Vocabulary::insert(std::string_view content, int32_t id) {
  assert(id >= 0 && id <= kLargestId);
  if (contains(id) || find(content) != kNone) return false;
  if (static_cast<size_t>(id) >= spans_.size()) spans_.resize(static_cast<size_t>(id) + 1);
  spans_[static_cast<size_t>(id)] = {static_cast<uint32_t>(text_.size()),
                                     static_cast<uint32_t>(content.size())};
  text_.append(content);
  if (2 * ++count_ > slots_.size()) grow();
  for (size_t at = std::hash<std::string_view>()(content);; ++at) {
    int32_t& slot = slots_[at & (slots_.size() - 1)];
    if (slot != kNone) continue;
    slot = id;
    return true;
  }
}

void Vocabulary::grow() {
  std::vector<int32_t> old = std::move(slots_);
  slots_.assign(std::max<size_t>(1024, 2 * old.size()), kNone);
  for (const int32_t id : old) {
    if (id == kNone) continue;
    size_t at = std::hash<std::string_view>()(content(id));
    while (slots_[at & (slots_.size() - 1)] != kNone) ++at;
    slots_[at & (slots_.size() - 1)] = id;
  }
}

int32_t Vocabulary::find(std::string_view content_of_token) const {
  if (slots_.empty()) return kNone;
  for (size_t at = std::hash<std::string_view>()(content_of_token);; ++at) {
    const int32_t id = slots_[at & (slots_.size() - 1)];
    if (id == kNone || content(id) == content_of_token) return id;
  }
}

bool Vocabulary::contains(int32_t id) const {
  return id >= 0 && static_cast<size_t>(id) < spans_.size() &&
         spans_[static_cast<size_t>(id)].length != kUnused;
}

std::string_view Vocabulary::content(int32_t id) const {
  assert(contains(id));
  const Span& span = spans_[static_cast<size_t>(id)];
  return std::string_view(text_).substr(span.begin, span.length);
}

BpeModel::BpeModel(Options options, const Vocabulary& vocabulary, size_t merge_count)
    : options_(options) {
  for (size_t byte = 0; byte < 256; ++byte) {
    byte_ids_[byte] = vocabulary.find(byte_character(static_cast<unsigned char>(byte)));
  }
  const size_t size = std::bit_ceil(std::max<size_t>(16, 2 * merge_count));
  table_.resize(size);
  shift_ = 64 - std::countr_zero(size);
}

size_t BpeModel::slot(uint64_t pair) const {
  size_t at = (pair * 0x9e3779b97f4a7c15u) >> shift_;
  while (table_[at].pair != pair && table_[at].pair != kFree) at = (at + 1) & (table_.size() - 1);
  return at;
}

void BpeModel::add_merge(int32_t left, int32_t right, int32_t merged) {
  const uint64_t pair = static_cast<uint64_t>(left) << 32 | static_cast<uint32_t>(right);
  table_[slot(pair)] = {pair, next_rank_++, merged};
  assert(2 * static_cast<size_t>(next_rank_) <= table_.size());
}

BpeModel::Merge BpeModel::find(int32_t left, int32_t right) const {
  return table_[slot(static_cast<uint64_t>(left) << 32 | static_cast<uint32_t>(right))];
}

void BpeModel::encode(std::string_view piece, const Vocabulary& vocabulary, Scratch& scratch,
                      std::vector<int32_t>& ids) const {
  if (options_.ignore_merges) {
    std::string content;
    for (const char c : piece) content.append(byte_character(static_cast<unsigned char>(c)));
    const int32_t id = vocabulary.find(content);
    if (id != Vocabulary::kNone) return ids.push_back(id);
  }
  if (piece.size() <= kShortPiece) {
    encode_short(piece, scratch, ids);
  } else {
    encode_long(piece, scratch, ids);
  }
}

void BpeModel::encode_short(std::string_view piece, Scratch& scratch,
                            std::vector<int32_t>& ids) const {
  int32_t id[kShortPiece];
  uint32_t rank[kShortPiece];  // of the pair (i, i + 1)
  int32_t merged[kShortPiece];
  size_t count = piece.size();
  const auto look_up = [&](size_t i) {
    if (i + 1 >= count) {
      rank[i] = kNoMerge;
      return;
    }
    const Merge merge = find(id[i], id[i + 1]);
    rank[i] = merge.rank;
    merged[i] = merge.merged;
    ++scratch.steps;
  };
  for (size_t i = 0; i < count; ++i) id[i] = byte_ids_[static_cast<unsigned char>(piece[i])];
  for (size_t i = 0; i < count; ++i) look_up(i);
  while (count > 1) {
    size_t best = 0;
    for (size_t i = 1; i + 1 < count; ++i) {
      if (rank[i] < rank[best]) best = i;
    }
    if (rank[best] == kNoMerge) break;
    id[best] = merged[best];
    --count;
    for (size_t i = best + 1; i < count; ++i) {
      id[i] = id[i + 1];
      rank[i] = rank[i + 1];
      merged[i] = merged[i + 1];
    }
    look_up(best);
    if (best > 0) look_up(best - 1);
  }
  ids.insert(ids.end(), id, id + count);
}

void BpeModel::encode_long(std::string_view piece, Scratch& scratch,
                           std::vector<int32_t>& ids) const {
  auto& symbols = scratch.symbols_;
  auto& heap = scratch.heap_;
  const int32_t count = static_cast<int32_t>(piece.size());
  symbols.resize(piece.size());
  heap.clear();
  for (int32_t i = 0; i < count; ++i) {
    const unsigned char byte = static_cast<unsigned char>(piece[static_cast<size_t>(i)]);
    symbols[static_cast<size_t>(i)] = {byte_ids_[byte], i - 1, i + 1 < count ? i + 1 : -1, kNoMerge,
                                       Vocabulary::kNone};
  }
  const auto symbol = [&symbols](int32_t i) -> Scratch::Symbol& {
    return symbols[static_cast<size_t>(i)];
  };
  // Sets the merge of `i` with what follows it; true if there is one.
  const auto look_up = [&](int32_t i) {
    Scratch::Symbol& left = symbol(i);
    const Merge merge = left.next < 0 ? Merge{} : find(left.id, symbol(left.next).id);
    left.rank = merge.rank;
    left.merged = merge.merged;
    ++scratch.steps;
    return merge.rank != kNoMerge;
  };
  const auto entry = [&](int32_t i) {
    return static_cast<uint64_t>(symbol(i).rank) << 32 | static_cast<uint32_t>(i);
  };
  for (int32_t i = 0; i < count; ++i) {
    if (look_up(i)) heap.push_back(entry(i));
  }
  std::make_heap(heap.begin(), heap.end(), std::greater<>());
  while (!heap.empty()) {
    const uint64_t top = heap.front();
    std::pop_heap(heap.begin(), heap.end(), std::greater<>());
    heap.pop_back();
    ++scratch.steps;
    const int32_t at = static_cast<int32_t>(top & UINT32_MAX);
    Scratch::Symbol& left = symbol(at);
    // An entry is stale once its pair has changed: ranks are unique to a pair, and a symbol that
    // was swallowed has no rank.
    if (left.rank != top >> 32) continue;
    Scratch::Symbol& right = symbol(left.next);
    left.id = left.merged;
    left.next = right.next;
    right.rank = kNoMerge;
    if (left.next >= 0) symbol(left.next).previous = at;
    for (const int32_t changed : {at, left.previous}) {
      if (changed < 0 || !look_up(changed)) continue;
      heap.push_back(entry(changed));
      std::push_heap(heap.begin(), heap.end(), std::greater<>());
    }
  }
  for (int32_t i = 0; i >= 0; i = symbol(i).next) ids.push_back(symbol(i).id);
}

}  // namespace rill
