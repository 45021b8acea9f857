// SPDX-License-Identifier: Apache-2.0
#include "text/tokenizer_file.h"

#include <algorithm>
#include <charconv>
#include <unordered_set>

#include "base/error.h"
#include "base/json.h"
#include "text/tokenizer_json.h"
#include "text/unicode.h"

namespace rill {
namespace {

constexpr std::string_view kAdvice = "take a checkpoint with the Qwen3 tokenizer";
constexpr std::string_view kDamaged = "the file is damaged, download it again";

/// GPT-2's expression, which ByteLevel brings along (tokenizers, pre_tokenizers/byte_level.rs).
constexpr std::string_view kGpt2Expression =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

/// Reads the parts of the file one by one into `file_`.
class Reader {
 public:
  Reader(TokenizerJson& json, std::string_view name, TokenizerFile& file)
      : json_(json), name_(name), file_(file) {}

  void run() {
    const JsonObject root(json_.rest, name_, "", std::string(kDamaged));
    read_normalizer(root);
    read_pre_tokenizer(root);
    read_decoder(root);
    read_model(root);
    read_added_tokens(root);
  }

 private:
  [[noreturn]] void refuse(std::string_view part, const std::string& found,
                           std::string_view expected) const {
    fail(name_, ": the ", part, " is ", found, ", but Rill implements only ", expected, "; ",
         kAdvice);
  }

  /// The parts of a Sequence under `list`, or the one part that `value` is itself.
  std::vector<JsonObject> parts(const Json& value, std::string_view part, const char* list) const {
    const JsonObject object(value, name_, std::string(part) + ".", std::string(kDamaged));
    if (object.string("type", "") != "Sequence") return {object};
    const Json* members = object.find(list);
    if (members == nullptr || !members->is_array()) object.wrong(list, "a list");
    std::vector<JsonObject> all;
    for (const Json& member : *members) {
      all.emplace_back(member, name_, std::string(part) + ".", std::string(kDamaged));
    }
    return all;
  }

  void read_normalizer(const JsonObject& root) {
    const Json* value = root.find("normalizer");
    if (value == nullptr) return;
    for (const JsonObject& part : parts(*value, "normalizer", "normalizers")) {
      const std::string type = part.string("type", "");
      if (type != "NFC") refuse("normalizer", quote(type), "NFC");
      file_.nfc = true;
    }
  }

  void read_pre_tokenizer(const JsonObject& root) {
    constexpr std::string_view kExpected =
        "Split by a regular expression (Isolated, not inverted) followed by ByteLevel without "
        "add_prefix_space";
    const Json* value = root.find("pre_tokenizer");
    if (value == nullptr) refuse("pre_tokenizer", "absent", kExpected);
    bool byte_level = false;
    for (const JsonObject& part : parts(*value, "pre_tokenizer", "pretokenizers")) {
      const std::string type = part.string("type", "");
      if (byte_level) refuse("pre_tokenizer", quote(type) + " after ByteLevel", kExpected);
      if (type == "Split") {
        read_split(part, kExpected);
      } else if (type == "ByteLevel") {
        byte_level = true;
        if (part.boolean("add_prefix_space", true)) {
          refuse("pre_tokenizer", "ByteLevel with add_prefix_space", kExpected);
        }
        if (part.boolean("use_regex", true)) file_.expressions.emplace_back(kGpt2Expression);
      } else {
        refuse("pre_tokenizer", quote(type), kExpected);
      }
    }
    if (!byte_level) refuse("pre_tokenizer", "without ByteLevel", kExpected);
  }

  void read_split(const JsonObject& part, std::string_view expected) {
    const auto pattern = part.object("pattern");
    if (!pattern || !pattern->has("Regex")) {
      refuse("pre_tokenizer", "a Split without a Regex", expected);
    }
    const std::string behavior = part.string("behavior", "");
    if (behavior != "Isolated") {
      refuse("pre_tokenizer", "a Split of behavior " + quote(behavior), expected);
    }
    if (part.boolean("invert", false)) refuse("pre_tokenizer", "an inverted Split", expected);
    file_.expressions.push_back(pattern->string("Regex", ""));
  }

  void read_decoder(const JsonObject& root) {
    const auto decoder = root.object("decoder");
    const std::string type = decoder ? decoder->string("type", "") : "";
    if (type == "ByteLevel") return;
    refuse("decoder", decoder ? quote(type) : "absent", "ByteLevel");
  }

  void read_model(const JsonObject& root) {
    const auto model = root.object("model");
    if (!model) root.wrong("model", "an object");
    const std::string type = model->string("type", "BPE");
    if (type != "BPE") refuse("model", quote(type), "BPE");
    const auto dropout = model->optional_number("dropout");
    if (dropout && *dropout != 0) refuse("model", "BPE with dropout", "BPE without dropout");
    for (const char* affix : {"continuing_subword_prefix", "end_of_word_suffix"}) {
      if (model->string(affix, "").empty()) continue;
      refuse("model", std::string("BPE with ") + affix, std::string("BPE without ") + affix);
    }
    if (model->boolean("byte_fallback", false)) {
      refuse("model", "BPE with byte_fallback", "byte-level BPE");
    }
    if (!json_.has_vocabulary) model->wrong("vocab", "an object of tokens and their ids");
    if (!json_.has_merges) model->wrong("merges", "a list of pairs of tokens");
    read_vocabulary();
    read_merges({.ignore_merges = model->boolean("ignore_merges", false)});
  }

  void read_vocabulary() {
    file_.vocabulary = std::move(json_.vocabulary);
    for (unsigned byte = 0; byte <= 0xf4; ++byte) {
      if (byte == 0xc0 || byte == 0xc1) continue;  // these and F5 to FF never occur in UTF-8
      const std::string_view character = byte_character(static_cast<unsigned char>(byte));
      if (file_.vocabulary.find(character) != Vocabulary::kNone) continue;
      fail(name_, ": vocab has no token ", quote(character), " for the byte ", byte,
           ", expected one for every byte, as byte-level BPE needs; ", kAdvice);
    }
  }

  void read_merges(BpeModel::Options options) {
    const size_t count = json_.merge_ends.size() / 2;
    file_.model = BpeModel(options, file_.vocabulary, count);
    const std::string_view text = json_.merge_text;
    size_t begin = 0;
    for (size_t i = 0; i < count; ++i) {
      const size_t middle = json_.merge_ends[2 * i], end = json_.merge_ends[2 * i + 1];
      const std::string_view left = text.substr(begin, middle - begin);
      const std::string_view right = text.substr(middle, end - middle);
      file_.model.add_merge(token_of_merge(left, i), token_of_merge(right, i),
                            token_of_merge(text.substr(begin, end - begin), i));
      begin = end;
    }
  }

  int32_t token_of_merge(std::string_view content, size_t merge) const {
    const int32_t id = file_.vocabulary.find(content);
    if (id != Vocabulary::kNone) return id;
    fail(name_, ": merge ", merge, " needs the token ", quote(content), ", which vocab lacks; ",
         kDamaged);
  }

  void read_added_tokens(const JsonObject& root) {
    const Json* list = root.find("added_tokens");
    if (list == nullptr) return;
    if (!list->is_array()) root.wrong("added_tokens", "a list");
    std::unordered_set<std::string> seen;
    for (const Json& entry : *list) {
      const JsonObject object(entry, name_, "added_tokens.", std::string(kDamaged));
      AddedToken token;
      token.id = static_cast<int32_t>(object.size("id", 0, Vocabulary::kLargestId));
      read_added_token(object, token);
      if (!seen.insert(token.content).second) {
        fail(name_, ": added_tokens holds ", quote(token.content), " twice; ", kDamaged);
      }
      insert_added_token(token, name_, file_);
    }
  }

 public:
  /// The content and the flags of `token`; its id is set already.
  static void read_added_token(const JsonObject& object, AddedToken& token) {
    token.content = object.string("content", "");
    if (token.content.empty() || token.content.size() > AddedTokenMatcher::kLongestContent) {
      fail(object.file(), ": the added token ", token.id, " has ", token.content.size(),
           " bytes of content, expected 1 to ", AddedTokenMatcher::kLongestContent, "; ", kDamaged);
    }
    token.single_word = object.boolean("single_word", false);
    token.lstrip = object.boolean("lstrip", false);
    token.rstrip = object.boolean("rstrip", false);
    token.special = object.boolean("special", false);
    token.normalized = object.boolean("normalized", !token.special);
  }

  /// Gives the token its place in the vocabulary, unless it has it already.
  static void insert_added_token(const AddedToken& token, std::string_view name,
                                 TokenizerFile& file) {
    const int32_t known = file.vocabulary.find(token.content);
    if (known != token.id) {
      if (known != Vocabulary::kNone) {
        fail(name, ": the added token ", quote(token.content), " has the id ", token.id,
             ", but vocab gives it ", known, "; ", kDamaged);
      }
      if (!file.vocabulary.insert(token.content, token.id)) {
        fail(name, ": the added token ", quote(token.content), " has the id ", token.id,
             ", which is that of ", quote(file.vocabulary.content(token.id)), "; ", kDamaged);
      }
    }
    file.added_tokens.push_back(token);
  }

 private:
  TokenizerJson& json_;
  std::string name_;
  TokenizerFile& file_;
};

}  // namespace

TokenizerFile read_tokenizer_file(std::string_view text, std::string_view name) {
  TokenizerJson json = parse_tokenizer_json(text, name);
  TokenizerFile file;
  Reader(json, name, file).run();
  return file;
}

void apply_tokenizer_config(std::string_view text, std::string_view name, TokenizerFile& file) {
  const Json root = parse_json(text, name);
  const auto tokens =
      JsonObject(root, std::string(name), "", std::string(kDamaged)).object("added_tokens_decoder");
  if (!tokens) return;
  for (const auto& [key, entry] : tokens->value().items()) {
    AddedToken token;
    const auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), token.id);
    if (error != std::errc() || end != key.data() + key.size() || token.id < 0 ||
        token.id > Vocabulary::kLargestId) {
      fail(name, ": added_tokens_decoder has the key ", quote(key),
           ", expected a whole number from 0 to ", Vocabulary::kLargestId, "; ", kDamaged);
    }
    Reader::read_added_token(
        JsonObject(entry, std::string(name), "added_tokens_decoder.", std::string(kDamaged)),
        token);
    const auto same =
        std::find_if(file.added_tokens.begin(), file.added_tokens.end(),
                     [&token](const AddedToken& other) { return other.content == token.content; });
    if (same == file.added_tokens.end() || same->id != token.id) {
      Reader::insert_added_token(token, name, file);
    } else {
      *same = token;
    }
  }
}

}  // namespace rill
