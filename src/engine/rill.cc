// SPDX-License-Identifier: Apache-2.0
#include "rill/rill.h"

#include "base/error.h"
#include "engine/generator.h"
#include "engine/loaded_model.h"
#include "engine/session.h"
#include "engine/text_side.h"
#include "model/attention.h"
#include "text/chat_template.h"

namespace rill {

const char* version() {
  return RILL_VERSION;
}

struct Engine::Impl {
  Impl(const std::filesystem::path& folder, const LoadOptions& options)
      : text(TextSide::load_if_present(folder)),
        model(LoadedModel::load(folder, options)),
        session(*model),
        generator(*model, session, text ? &*text : nullptr) {}

  const Tokenizer& tokenizer() const {
    if (!text) {
      fail(model->folder.string(),
           " has no tokenizer.json, which is needed to work with text; copy it from the published "
           "model, or give token ids");
    }
    return text->tokenizer;
  }

  std::optional<TextSide> text;
  std::unique_ptr<LoadedModel> model;
  Session session;
  Generator generator;
};

Engine::Engine(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Engine::Engine(Engine&&) noexcept = default;
Engine& Engine::operator=(Engine&&) noexcept = default;
Engine::~Engine() = default;

Engine Engine::load(const std::filesystem::path& folder, const EngineOptions& options) {
  LoadOptions load;
  load.arithmetic = options.arithmetic;
  load.threads = options.threads;
  load.isa = options.isa;
  load.session.chunk = options.chunk;
  load.session.context = options.context;
  load.progress = options.progress;
  return Engine(std::make_unique<Impl>(folder, load));
}

std::vector<int32_t> Engine::tokenize(std::string_view text) const {
  return impl_->tokenizer().encode(text);
}

std::string Engine::detokenize(std::span<const int32_t> ids) const {
  return impl_->tokenizer().decode(ids);
}

std::string Engine::apply_template(std::span<const Message> messages, bool thinking) const {
  ChatInput input;
  for (const Message& message : messages)
    input.messages.push_back(chat_message(message.role, message.content));
  input.add_generation_prompt = true;
  input.enable_thinking = thinking;
  return render_chat(input);
}

SamplingOptions Engine::default_sampling() const {
  return rill::default_sampling(impl_->model->generation);
}

GenerateResult Engine::generate(std::span<const int32_t> prompt, const GenerateOptions& options,
                                const TextCallback& on_text) {
  return impl_->generator.generate(prompt, options, on_text);
}

GenerateResult Engine::generate(std::string_view prompt, const GenerateOptions& options,
                                const TextCallback& on_text) {
  return generate(tokenize(prompt), options, on_text);
}

GenerateResult Engine::chat(std::span<const Message> messages, const GenerateOptions& options,
                            const TextCallback& on_text, bool thinking) {
  return generate(tokenize(apply_template(messages, thinking)), options, on_text);
}

std::vector<float> Engine::logits(std::span<const int32_t> ids, std::vector<float>* hidden) {
  impl_->generator.clear();  // its blocks of the cache are needed
  return impl_->session.logits(ids, hidden);
}

size_t Engine::vocab_size() const {
  return impl_->model->config.vocab_size;
}
size_t Engine::hidden_size() const {
  return impl_->model->config.hidden_size;
}
size_t Engine::num_layers() const {
  return impl_->model->config.num_layers;
}
size_t Engine::context() const {
  return impl_->model->session.context;
}

std::string Engine::describe() const {
  const LoadedModel& model = *impl_->model;
  return rill::describe(model.arithmetic) + "; isa " + model.kernels.name + ", " +
         std::to_string(model.team.size()) + (model.team.size() == 1 ? " thread" : " threads");
}

void attention(const AttentionProblem& problem, const ArithmeticOptions& options, float* out,
               int threads, const std::string& isa) {
  Team team(threads);
  attend(problem, options, Runtime{choose_kernels(isa), team}, out);
}

}  // namespace rill
