// SPDX-License-Identifier: Apache-2.0
#include "text/tokenizer.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <utility>

#include "base/error.h"
#include "base/mapped_file.h"
#include "text/added_tokens.h"
#include "text/bpe.h"
#include "text/split_pattern.h"
#include "text/tokenizer_file.h"
#include "text/unicode.h"

namespace rill {
namespace {

/// Remembers the ids of short pieces within one call of encode: most text repeats its words.
class PieceCache {
 public:
  static constexpr size_t kLongestPiece = 16;
  static constexpr size_t kMostIds = 4;

  struct Entry {
    uint64_t low = 0, high = 0;  // the bytes of the piece, zero after its end
    uint8_t length = 0;          // 0: free
    uint8_t count = 0;
    int32_t ids[kMostIds] = {};
  };

  explicit PieceCache(size_t text_bytes)
      : entries_(std::bit_ceil(std::clamp<size_t>(text_bytes / 16, 16, 8192))) {}

  /// The place of a piece of 1 to kLongestPiece bytes; `hit` if it holds that piece. Otherwise the
  /// caller fills it by store.
  Entry& find(std::string_view piece, bool& hit) {
    Entry wanted;
    std::memcpy(&wanted.low, piece.data(), std::min<size_t>(8, piece.size()));
    if (piece.size() > 8) std::memcpy(&wanted.high, piece.data() + 8, piece.size() - 8);
    const uint64_t hash = (wanted.low * 0x9e3779b97f4a7c15u ^ wanted.high) * 0xbf58476d1ce4e5b9u;
    Entry& entry = entries_[(hash >> 32) & (entries_.size() - 1)];
    hit = entry.low == wanted.low && entry.high == wanted.high && entry.length == piece.size();
    if (!hit) {
      entry.low = wanted.low;
      entry.high = wanted.high;
      entry.length = 0;
    }
    return entry;
  }

  static void store(Entry& entry, std::string_view piece, std::span<const int32_t> ids) {
    if (ids.size() > kMostIds) return;
    entry.length = static_cast<uint8_t>(piece.size());
    entry.count = static_cast<uint8_t>(ids.size());
    std::copy(ids.begin(), ids.end(), entry.ids);
  }

 private:
  std::vector<Entry> entries_;  // direct mapped: a newcomer replaces what was there
};

/// All but the last of the files' checks: which tokens stand where.
struct Matchers {
  AddedTokenMatcher given;       // sought in the text as given
  AddedTokenMatcher normalized;  // sought in the normalised text

  Matchers(const TokenizerFile& file) {
    for (const AddedToken& token : file.added_tokens) {
      if (!token.normalized) {
        given.add(token, token.content);
      } else {
        normalized.add(token, file.nfc ? normalize_nfc(token.content) : token.content);
      }
    }
  }
};

}  // namespace

struct Tokenizer::Data {
  Data(TokenizerFile&& from, std::string_view name)
      : file(std::move(from)), matchers(file), bytes_end(file.vocabulary.size()) {
    for (const std::string& expression : file.expressions) patterns.emplace_back(expression, name);
    special.resize(file.vocabulary.size());
    for (const AddedToken& token : file.added_tokens) {
      special[static_cast<size_t>(token.id)] = token.special;
    }
    for (size_t id = 0; id < bytes_end.size(); ++id) {
      const int32_t token = static_cast<int32_t>(id);
      if (file.vocabulary.contains(token)) {
        bytes += bytes_of_content(file.vocabulary.content(token));
      }
      bytes_end[id] = static_cast<uint32_t>(bytes.size());
    }
  }

  TokenizerFile file;
  Matchers matchers;
  std::vector<SplitPattern> patterns;
  std::vector<bool> special;        // [id]
  std::string bytes;                // of all tokens, one after another
  std::vector<uint32_t> bytes_end;  // [id]: where its bytes end
};

namespace {

/// One call of encode.
class Encoder {
 public:
  Encoder(const TokenizerFile& file, const std::vector<SplitPattern>& patterns, size_t text_bytes)
      : file_(file), patterns_(patterns), cache_(text_bytes) {}

  /// Encodes text in which no added token is left.
  void encode(std::string_view text, size_t pattern = 0) {
    if (pattern == patterns_.size()) return encode_piece(text);
    patterns_[pattern].split(text, split_scratch_,
                             [&](std::string_view piece) { encode(piece, pattern + 1); });
  }

  std::vector<int32_t> ids;

 private:
  void encode_piece(std::string_view piece) {
    if (piece.empty()) return;
    if (piece.size() > PieceCache::kLongestPiece) {
      return file_.model.encode(piece, file_.vocabulary, bpe_scratch_, ids);
    }
    bool hit = false;
    PieceCache::Entry& entry = cache_.find(piece, hit);
    if (hit) {
      ids.insert(ids.end(), entry.ids, entry.ids + entry.count);
      return;
    }
    const size_t before = ids.size();
    file_.model.encode(piece, file_.vocabulary, bpe_scratch_, ids);
    PieceCache::store(entry, piece, std::span(ids).subspan(before));
  }

  const TokenizerFile& file_;
  const std::vector<SplitPattern>& patterns_;
  SplitPattern::Scratch split_scratch_;
  BpeModel::Scratch bpe_scratch_;
  PieceCache cache_;
};

}  // namespace

Tokenizer Tokenizer::load(const std::filesystem::path& folder) {
  const MappedFile json = MappedFile::open(folder / "tokenizer.json");
  TokenizerFile file = read_tokenizer_file(json.text(), json.name());
  const std::filesystem::path config = folder / "tokenizer_config.json";
  if (std::filesystem::exists(config)) {
    const MappedFile text = MappedFile::open(config);
    apply_tokenizer_config(text.text(), text.name(), file);
  }
  return Tokenizer(std::make_shared<const Data>(std::move(file), json.name()));
}

Tokenizer Tokenizer::from_json(std::string_view text, std::string_view name) {
  return Tokenizer(std::make_shared<const Data>(read_tokenizer_file(text, name), name));
}

std::vector<int32_t> Tokenizer::encode(std::string_view text, SpecialTokens mode) const {
  if (text.size() > kLongestText) {
    fail("the text has ", text.size(), " bytes, expected at most ", kLongestText, "; split it");
  }
  require_utf8(text, "the text");
  Encoder encoder(data_->file, data_->patterns, text.size());
  encoder.ids.reserve(text.size() / 4);
  using Stretch = AddedTokenMatcher::Stretch;
  const auto split = [mode](const AddedTokenMatcher& matcher, std::string_view part) {
    if (mode == SpecialTokens::kPlain || matcher.empty()) return std::vector{Stretch{-1, part}};
    return matcher.split(part);
  };
  for (const Stretch& outer : split(data_->matchers.given, text)) {
    if (outer.id >= 0) {
      encoder.ids.push_back(outer.id);
      continue;
    }
    const std::string normal = data_->file.nfc ? normalize_nfc(outer.text) : std::string();
    const std::string_view part = data_->file.nfc ? std::string_view(normal) : outer.text;
    for (const Stretch& inner : split(data_->matchers.normalized, part)) {
      if (inner.id >= 0) {
        encoder.ids.push_back(inner.id);
      } else {
        encoder.encode(inner.text);
      }
    }
  }
  return std::move(encoder.ids);
}

std::string Tokenizer::decode(std::span<const int32_t> ids, bool skip_special) const {
  std::string bytes;
  for (const int32_t id : ids) {
    const std::string_view token = token_bytes(id);
    if (!skip_special || !is_special(id)) bytes.append(token);
  }
  return replace_invalid_utf8(bytes);
}

std::string_view Tokenizer::token_bytes(int32_t id) const {
  if (!contains(id)) {
    fail("the id ", id, " is no token, expected one from 0 to ", vocab_size() - 1,
         " that the tokenizer knows; check that the ids come from this tokenizer");
  }
  const size_t begin = id == 0 ? 0 : data_->bytes_end[static_cast<size_t>(id) - 1];
  return std::string_view(data_->bytes)
      .substr(begin, data_->bytes_end[static_cast<size_t>(id)] - begin);
}

size_t Tokenizer::vocab_size() const {
  return data_->file.vocabulary.size();
}

bool Tokenizer::contains(int32_t id) const {
  return data_->file.vocabulary.contains(id);
}

std::optional<int32_t> Tokenizer::id_of(std::string_view content) const {
  const int32_t id = data_->file.vocabulary.find(content);
  if (id == Vocabulary::kNone) return std::nullopt;
  return id;
}

bool Tokenizer::is_special(int32_t id) const {
  return contains(id) && data_->special[static_cast<size_t>(id)];
}

std::string StreamDecoder::push(int32_t id) {
  const std::string_view bytes = tokenizer_.token_bytes(id);
  std::string out;
  if (skip_special_ && tokenizer_.is_special(id)) return out;
  pending_.append(bytes);
  take_complete_utf8(pending_, out);
  return out;
}

std::string StreamDecoder::flush() {
  return replace_invalid_utf8(std::exchange(pending_, {}));
}

}  // namespace rill
