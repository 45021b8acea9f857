// SPDX-License-Identifier: Apache-2.0
#include "text/unicode.h"

#include <utf8proc.h>

#include <algorithm>
#include <cassert>
#include <cstring>
#include <iterator>
#include <vector>

#include "base/error.h"

namespace rill {
namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";  // U+FFFD
constexpr uint32_t kFirstCombiningMark = 0x300;            // below it everything is already NFC

struct Range {
  uint32_t first, last;
};

/// Combining marks that entered Unicode after version 9, whose data the normaliser of Hugging
/// Face's `tokenizers` carries: it neither reorders nor composes them. To give the same ids, nor do
/// we. (Marks above U+20000 have never been assigned.)
constexpr Range kMarksUnknownToHuggingFace[] = {
    {0x7fd, 0x7fd},     {0x898, 0x89f},     {0x8ca, 0x8d3},     {0x9fe, 0x9fe},
    {0xc3c, 0xc3c},     {0xd3b, 0xd3c},     {0xeba, 0xeba},     {0x1715, 0x1715},
    {0x1abf, 0x1ace},   {0x1df6, 0x1dfa},   {0xa82c, 0xa82c},   {0x10d24, 0x10d27},
    {0x10eab, 0x10eac}, {0x10efd, 0x10eff}, {0x10f46, 0x10f50}, {0x10f82, 0x10f85},
    {0x11070, 0x11070}, {0x1133b, 0x1133b}, {0x1145e, 0x1145e}, {0x11839, 0x1183a},
    {0x11930, 0x11930}, {0x11938, 0x11938}, {0x1193d, 0x1193e}, {0x11943, 0x11943},
    {0x119e0, 0x119e0}, {0x11a34, 0x11a34}, {0x11a47, 0x11a47}, {0x11a99, 0x11a99},
    {0x11d42, 0x11d42}, {0x11d44, 0x11d45}, {0x11d97, 0x11d97}, {0x11f41, 0x11f42},
    {0x16ff0, 0x16ff1}, {0x1e08f, 0x1e08f}, {0x1e130, 0x1e136}, {0x1e2ae, 0x1e2ae},
    {0x1e2ec, 0x1e2ef}, {0x1e4ec, 0x1e4ef},
};

bool contains(const Range* begin, const Range* end, uint32_t code_point) {
  const Range* at = std::partition_point(
      begin, end, [code_point](const Range& range) { return range.last < code_point; });
  return at != end && at->first <= code_point;
}

bool unknown_to_hugging_face(uint32_t c) {
  return contains(std::begin(kMarksUnknownToHuggingFace), std::end(kMarksUnknownToHuggingFace), c);
}

/// Whether NFC neither changes `c` nor joins or reorders it with anything before it.
bool starts_segment(uint32_t c) {
  if (c < kFirstCombiningMark) return true;
  if (c >= 0x1100 && c <= 0x11ff) return false;  // Hangul jamo compose by rule, not by table
  const utf8proc_property_t* property = utf8proc_get_property(static_cast<utf8proc_int32_t>(c));
  // A compatibility decomposition (decomp_type set) is none to NFC. comb_index also marks
  // characters that only begin a composition; treating those with care costs nothing.
  const bool changes = property->decomp_seqindex != UINT16_MAX && property->decomp_type == 0;
  return (!changes && property->combining_class == 0 && property->comb_index == UINT16_MAX) ||
         unknown_to_hugging_face(c);
}

void decompose(uint32_t c, std::vector<utf8proc_int32_t>& out) {
  if (c < 0xc0 || unknown_to_hugging_face(c)) {
    out.push_back(static_cast<utf8proc_int32_t>(c));
    return;
  }
  utf8proc_int32_t parts[32];
  int boundary = 0;
  const utf8proc_ssize_t count = utf8proc_decompose_char(
      static_cast<utf8proc_int32_t>(c), parts, 32,
      static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_DECOMPOSE), &boundary);
  assert(count > 0 && count <= 32);
  out.insert(out.end(), parts, parts + count);
}

int combining_class(utf8proc_int32_t c) {
  if (unknown_to_hugging_face(static_cast<uint32_t>(c))) return 0;
  return utf8proc_get_property(c)->combining_class;
}

/// Canonical ordering (Unicode 15, §3.11 D109). utf8proc's own is an insertion sort, which a long
/// run of marks would make quadratic.
void sort_marks(std::vector<utf8proc_int32_t>& text) {
  for (auto at = text.begin(); at != text.end();) {
    if (combining_class(*at) == 0) {
      ++at;
      continue;
    }
    const auto end =
        std::find_if(at, text.end(), [](utf8proc_int32_t c) { return combining_class(c) == 0; });
    std::stable_sort(at, end, [](utf8proc_int32_t a, utf8proc_int32_t b) {
      return combining_class(a) < combining_class(b);
    });
    at = end;
  }
}

/// Appends the NFC of `segment` to `out`; `scratch` is reused between calls.
void normalize_segment(std::string_view segment, std::vector<utf8proc_int32_t>& scratch,
                       std::string& out) {
  scratch.clear();
  while (!segment.empty()) {
    const Utf8Step step = next_utf8(segment);
    decompose(step.code_point, scratch);
    segment.remove_prefix(step.length);
  }
  sort_marks(scratch);
  // A mark that Hugging Face does not know stands between its neighbours like a letter, so the
  // composition runs on each part between such marks. (They neither compose nor decompose.)
  const auto unknown = [](utf8proc_int32_t c) {
    return unknown_to_hugging_face(static_cast<uint32_t>(c));
  };
  for (auto at = scratch.begin(); at != scratch.end();) {
    const auto end = std::find_if(at, scratch.end(), unknown);
    const utf8proc_ssize_t count = utf8proc_normalize_utf32(
        std::to_address(at), end - at,
        static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
    assert(count >= 0);
    for (utf8proc_ssize_t i = 0; i < count; ++i) append_utf8(static_cast<uint32_t>(at[i]), out);
    at = end;
    for (; at != scratch.end() && unknown(*at); ++at) append_utf8(static_cast<uint32_t>(*at), out);
  }
}

/// Whether the eight bytes from `at` on are there and all ASCII: most text goes by in such steps.
bool ascii_word(std::string_view text, size_t at) {
  uint64_t word = 0;
  if (at + sizeof word > text.size()) return false;
  std::memcpy(&word, text.data() + at, sizeof word);
  return (word & 0x8080808080808080u) == 0;
}

/// The offset of the first byte at or after `at` of a character from U+0300 on.
size_t skip_plain(std::string_view text, size_t at) {
  while (at < text.size()) {
    if (ascii_word(text, at)) {
      at += 8;
      continue;
    }
    if (static_cast<unsigned char>(text[at]) >= 0xcc) break;  // U+0300 is CC 80
    ++at;
  }
  return at;
}

}  // namespace

Utf8Step next_utf8(std::string_view bytes) {
  assert(!bytes.empty());
  const auto byte = [bytes](size_t i) { return static_cast<unsigned char>(bytes[i]); };
  const unsigned char lead = byte(0);
  if (lead < 0x80) return {Utf8Step::kCharacter, 1, lead};
  if (lead < 0xc2 || lead > 0xf4) return {Utf8Step::kInvalid, 1, 0};
  const size_t length = lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
  uint32_t code_point = lead & (0x7fu >> length);
  for (size_t i = 1; i < length; ++i) {
    if (i >= bytes.size()) return {Utf8Step::kTruncated, bytes.size(), 0};
    // The second byte is narrower after E0 and F0 (overlong), ED (surrogates), F4 (past 10FFFF).
    const unsigned char low = i != 1 ? 0x80 : lead == 0xe0 ? 0xa0 : lead == 0xf0 ? 0x90 : 0x80;
    const unsigned char high = i != 1 ? 0xbf : lead == 0xed ? 0x9f : lead == 0xf4 ? 0x8f : 0xbf;
    if (byte(i) < low || byte(i) > high) return {Utf8Step::kInvalid, i, 0};
    code_point = code_point << 6 | (byte(i) & 0x3fu);
  }
  return {Utf8Step::kCharacter, length, code_point};
}

size_t valid_utf8_prefix(std::string_view text) {
  size_t at = 0;
  while (at < text.size()) {
    if (ascii_word(text, at)) {
      at += 8;
      continue;
    }
    const Utf8Step step = next_utf8(text.substr(at));
    if (step.kind != Utf8Step::kCharacter) return at;
    at += step.length;
  }
  return at;
}

void require_utf8(std::string_view text, std::string_view what) {
  const size_t at = valid_utf8_prefix(text);
  if (at == text.size()) return;
  const unsigned value = static_cast<unsigned char>(text[at]);
  const char* digits = "0123456789ABCDEF";
  fail(what, " is not valid UTF-8: byte ", at, " is 0x", digits[value >> 4], digits[value & 15],
       ", expected the bytes of a character; convert the text to UTF-8");
}

void append_utf8(uint32_t c, std::string& out) {
  const auto put = [&out](uint32_t byte) { out.push_back(static_cast<char>(byte)); };
  if (c < 0x80) {
    put(c);
  } else if (c < 0x800) {
    put(0xc0 | c >> 6);
    put(0x80 | (c & 0x3f));
  } else if (c < 0x10000) {
    put(0xe0 | c >> 12);
    put(0x80 | (c >> 6 & 0x3f));
    put(0x80 | (c & 0x3f));
  } else {
    put(0xf0 | c >> 18);
    put(0x80 | (c >> 12 & 0x3f));
    put(0x80 | (c >> 6 & 0x3f));
    put(0x80 | (c & 0x3f));
  }
}

void take_complete_utf8(std::string& pending, std::string& out) {
  std::string_view rest = pending;
  while (!rest.empty()) {
    const Utf8Step step = next_utf8(rest);
    if (step.kind == Utf8Step::kTruncated) break;
    out.append(step.kind == Utf8Step::kInvalid ? kReplacement : rest.substr(0, step.length));
    rest.remove_prefix(step.length);
  }
  pending.erase(0, pending.size() - rest.size());
}

std::string replace_invalid_utf8(std::string_view bytes) {
  std::string pending(bytes), out;
  out.reserve(bytes.size());
  take_complete_utf8(pending, out);
  if (!pending.empty()) out.append(kReplacement);
  return out;
}

std::string normalize_nfc(std::string_view text) {
  std::string out;
  std::vector<utf8proc_int32_t> scratch;
  size_t copied = 0;     // text before it is in `out`
  size_t last_safe = 0;  // start of the last character that starts a segment
  size_t at = 0;
  while ((at = skip_plain(text, at)) < text.size()) {
    size_t start = at;
    if (at > 0) {  // the plain character before may compose with what comes
      start = at - 1;
      while ((static_cast<unsigned char>(text[start]) & 0xc0) == 0x80) --start;
    }
    last_safe = std::max(last_safe, start);
    Utf8Step step = next_utf8(text.substr(at));
    if (starts_segment(step.code_point)) {
      last_safe = at;
      at += step.length;
      continue;
    }
    size_t end = at;
    while (end < text.size()) {
      step = next_utf8(text.substr(end));
      if (starts_segment(step.code_point)) break;
      end += step.length;
    }
    out.append(text.substr(copied, last_safe - copied));
    normalize_segment(text.substr(last_safe, end - last_safe), scratch, out);
    copied = at = last_safe = end;
  }
  out.append(text.substr(copied));
  return out;
}

bool is_white_space(uint32_t c) {
  return (c >= 0x9 && c <= 0xd) || c == 0x20 || c == 0x85 || c == 0xa0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f || c == 0x205f ||
         c == 0x3000;
}

bool is_word_character(uint32_t c) {
  switch (utf8proc_category(static_cast<utf8proc_int32_t>(c))) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC:
      return true;
    default:  // joiners, and the symbols that are alphabetic (circled and squared letters)
      return c == 0x200c || c == 0x200d || (c >= 0x24b6 && c <= 0x24e9) ||
             (c >= 0x1f130 && c <= 0x1f149) || (c >= 0x1f150 && c <= 0x1f169) ||
             (c >= 0x1f170 && c <= 0x1f189);
  }
}

bool is_printable(uint32_t c) {
  if (c == ' ') return true;
  switch (utf8proc_category(static_cast<utf8proc_int32_t>(c))) {
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CS:
    case UTF8PROC_CATEGORY_CO:
    case UTF8PROC_CATEGORY_CN:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
    case UTF8PROC_CATEGORY_ZS:
      return false;
    default:
      return true;
  }
}

}  // namespace rill
