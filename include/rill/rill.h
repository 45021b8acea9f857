// SPDX-License-Identifier: Apache-2.0
// Rill's C++ interface: load a Qwen3 checkpoint, tokenise, generate, compute logits, attention.
// Every function may throw rill::Error, whose message is one sentence for a user.
#pragma once
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "rill/attention.h"
#include "rill/error.h"
#include "rill/generate.h"
#include "rill/options.h"

namespace rill {

/// "0.1.0".
const char* version();

struct EngineOptions {
  ArithmeticOptions arithmetic;  ///< part of the result
  int threads = 0;               ///< 0: OMP_NUM_THREADS, else the cores left to this process
  std::string isa;               ///< "": RILL_ISA, else the best; "scalar", "avx2", "avx512", ...
  size_t chunk = 512;            ///< most tokens of a prompt in one step
  size_t context = 0;  ///< tokens the KV cache holds; 0: 4096, or what model and memory allow
  std::function<void(size_t done, size_t total)> progress;  ///< bytes packed while loading
};

/// One turn of a conversation.
struct Message {
  std::string role;  ///< "system", "user" or "assistant"
  std::string content;
};

/// A model that is loaded. One conversation at a time: its KV cache keeps the last tokens, and a
/// prompt that begins with them is computed from where it differs (which changes no bit). Not to be
/// used from several threads at once.
class Engine {
 public:
  /// Loads a Hugging Face folder: config.json, safetensors, and for text tokenizer.json. Throws
  /// Error naming the file, tensor or option at fault, and when memory does not suffice.
  static Engine load(const std::filesystem::path& folder, const EngineOptions& options = {});

  Engine(Engine&&) noexcept;
  Engine& operator=(Engine&&) noexcept;
  ~Engine();

  /// Token ids of UTF-8 text; special tokens in it are recognised.
  std::vector<int32_t> tokenize(std::string_view text) const;
  /// The text of `ids`, special tokens included; bytes that are not UTF-8 become U+FFFD.
  std::string detokenize(std::span<const int32_t> ids) const;
  /// The Qwen3 chat template, ending with the start of the assistant's answer. `thinking` false
  /// appends an empty thinking block.
  std::string apply_template(std::span<const Message> messages, bool thinking = true) const;

  /// What generation_config.json asks for, with the model's greedy default when it does not sample.
  SamplingOptions default_sampling() const;

  /// Continues `prompt`; `on_text` may be empty. Throws Error if the prompt does not fit in the
  /// context. Without a tokenizer the result has tokens but no text.
  GenerateResult generate(std::span<const int32_t> prompt, const GenerateOptions& options,
                          const TextCallback& on_text = {});
  /// The same for a text, taken as it is (no template).
  GenerateResult generate(std::string_view prompt, const GenerateOptions& options,
                          const TextCallback& on_text = {});
  /// Answers a conversation, through the template.
  GenerateResult chat(std::span<const Message> messages, const GenerateOptions& options,
                      const TextCallback& on_text = {}, bool thinking = true);

  /// Logits [ids][vocab_size()] of every token of `ids`, from an empty cache. `hidden`, if not
  /// null, becomes the residual stream [layers + 1][ids][hidden_size()].
  std::vector<float> logits(std::span<const int32_t> ids, std::vector<float>* hidden = nullptr);

  size_t vocab_size() const;
  size_t hidden_size() const;
  size_t num_layers() const;
  size_t context() const;
  /// "weights bf16, compute bf16, ...; isa avx2, 2 threads": belongs beside every result.
  std::string describe() const;

 private:
  struct Impl;
  explicit Engine(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace rill
