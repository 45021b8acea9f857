// SPDX-License-Identifier: Apache-2.0
#include "text/tokenizer_json.h"

#include <utility>

#include "base/error.h"

namespace rill {
namespace {

constexpr size_t kLargestFile = size_t{256} << 20;
constexpr size_t kDeepest = 32;
constexpr size_t kMostOtherValues = 1 << 20;  // outside vocab and merges: added tokens, mostly
constexpr std::string_view kAdvice = "; the file is damaged, download it again";

/// Receives the events of nlohmann's parser. The small members are built into `rest`; vocab and
/// merges, 300,000 entries in a published file, go straight into their tables.
class Handler : public nlohmann::json_sax<Json> {
 public:
  Handler(std::string_view name, TokenizerJson& out) : name_(name), out_(out) {}

  bool null() override { return value(nullptr); }
  bool boolean(bool flag) override { return value(flag); }
  bool number_integer(number_integer_t number) override { return value(number); }
  bool number_unsigned(number_unsigned_t number) override {
    return mode_ == kVocabulary ? token(number) : value(number);
  }
  bool number_float(number_float_t number, const string_t&) override { return value(number); }
  bool string(string_t& text) override {
    if (mode_ == kMerges) return merge(text);
    if (mode_ == kPair) return merge_part(text);
    return value(std::move(text));
  }
  bool binary(binary_t&) override { return false; }

  bool start_object(size_t) override {
    if (at_member("vocab")) {
      if (std::exchange(out_.has_vocabulary, true)) fail(name_, ": vocab comes twice", kAdvice);
      mode_ = kVocabulary;
      return true;
    }
    return open(Json::object());
  }
  bool end_object() override {
    if (mode_ == kVocabulary) {
      mode_ = kOther;
      return true;
    }
    return close();
  }
  bool key(string_t& text) override {
    if (mode_ == kOther && stack_.back()->contains(text)) {
      fail(name_, " holds the key ", quote(text), " twice in one object", kAdvice);
    }
    key_.swap(text);
    return true;
  }

  bool start_array(size_t) override {
    if (at_member("merges")) {
      if (std::exchange(out_.has_merges, true)) fail(name_, ": merges comes twice", kAdvice);
      mode_ = kMerges;
      return true;
    }
    if (mode_ == kMerges) {
      mode_ = kPair;
      parts_ = 0;
      return true;
    }
    return open(Json::array());
  }
  bool end_array() override {
    if (mode_ == kPair) {
      if (parts_ != 2) wrong_merge(std::to_string(parts_) + " parts");
      ++merges_;
      mode_ = kMerges;
      return true;
    }
    if (mode_ == kMerges) {
      mode_ = kOther;
      return true;
    }
    return close();
  }

  bool parse_error(size_t position, const std::string&, const Json::exception& error) override {
    if (dynamic_cast<const Json::parse_error*>(&error) == nullptr) {
      fail(name_, " holds a number that no double can hold", kAdvice);
    }
    fail(name_, " is not JSON at byte ", position, ", expected valid JSON in UTF-8", kAdvice);
  }

 private:
  enum Mode { kOther, kVocabulary, kMerges, kPair };

  bool at_member(std::string_view member) const {
    return mode_ == kOther && key_ == member && stack_.size() == 2 && stack_[1] == model_;
  }

  /// Puts a value where the parser stands, and returns it.
  Json* place(Json&& json) {
    if (++values_ > kMostOtherValues) {
      fail(name_, " holds more than ", kMostOtherValues, " values beside vocab and merges",
           kAdvice);
    }
    if (stack_.empty()) return &(out_.rest = std::move(json));
    if (!stack_.back()->is_array()) return &((*stack_.back())[key_] = std::move(json));
    stack_.back()->push_back(std::move(json));
    return &stack_.back()->back();
  }

  bool value(Json&& json) {
    if (mode_ == kVocabulary) {
      fail(name_, ": vocab gives ", quote(key_), " the id ", describe(json),
           ", expected a whole number from 0 to ", Vocabulary::kLargestId, kAdvice);
    }
    if (mode_ != kOther) wrong_merge(describe(json));
    place(std::move(json));
    return true;
  }

  bool open(Json&& container) {
    if (mode_ != kOther) return value(std::move(container));
    if (stack_.size() >= kDeepest) {
      fail(name_, " nests deeper than ", kDeepest, " levels of JSON", kAdvice);
    }
    Json* placed = place(std::move(container));
    if (stack_.size() == 1 && key_ == "model" && stack_[0]->is_object()) model_ = placed;
    stack_.push_back(placed);
    return true;
  }

  bool close() {
    stack_.pop_back();
    return true;
  }

  bool token(uint64_t id) {
    if (id > static_cast<uint64_t>(Vocabulary::kLargestId)) return value(id);
    if (out_.vocabulary.insert(key_, static_cast<int32_t>(id))) return true;
    fail(name_, ": vocab gives ", quote(key_), " the id ", id,
         ", but that token or that id comes twice", kAdvice);
  }

  bool merge(const std::string& text) {
    const size_t space = text.find(' ');
    if (space == std::string::npos || text.find(' ', space + 1) != std::string::npos) {
      wrong_merge(quote(text));
    }
    merge_part(std::string_view(text).substr(0, space));
    merge_part(std::string_view(text).substr(space + 1));
    ++merges_;
    return true;
  }

  bool merge_part(std::string_view part) {
    ++parts_;
    out_.merge_text.append(part);
    out_.merge_ends.push_back(static_cast<uint32_t>(out_.merge_text.size()));
    return true;
  }

  [[noreturn]] void wrong_merge(const std::string& found) const {
    fail(name_, ": merge ", merges_, " is ", found,
         ", expected two tokens as \"a b\" or [\"a\", \"b\"]", kAdvice);
  }

  std::string_view name_;
  TokenizerJson& out_;
  Mode mode_ = kOther;
  std::vector<Json*> stack_;     // the open containers of `rest`
  const Json* model_ = nullptr;  // the member "model" while it may be open
  std::string key_;              // the last key read
  size_t values_ = 0;
  size_t merges_ = 0;  // read so far
  size_t parts_ = 0;   // of the merge being read
};

}  // namespace

TokenizerJson parse_tokenizer_json(std::string_view text, std::string_view name) {
  if (text.size() > kLargestFile) {
    fail(name, " has ", text.size(), " bytes, expected at most ", kLargestFile, kAdvice);
  }
  TokenizerJson out;
  out.merge_text.reserve(text.size() / 4);
  Handler handler(name, out);
  Json::sax_parse(text.begin(), text.end(), &handler);
  return out;
}

}  // namespace rill
