// SPDX-License-Identifier: Apache-2.0
#include "engine/generator.h"

#include <algorithm>
#include <chrono>
#include <memory>

#include "base/error.h"

namespace rill {
namespace {

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

void check_prompt(std::span<const int32_t> prompt, const Session& session, size_t vocabulary) {
  check_ids(prompt, vocabulary, "the prompt's ids");
  session.require_room(prompt.size(), "the prompt has " + std::to_string(prompt.size()) + " tokens",
                       "shorten it", "give a larger --ctx");
}

}  // namespace

Generator::Generator(const LoadedModel& model, Session& session, const TextSide* text)
    : model_(model),
      session_(session),
      text_(text),
      sequence_(session.cache()),
      logits_(model.config.vocab_size) {}

void Generator::clear() {
  sequence_.truncate(0);
  ids_.clear();
}

void Generator::feed(std::span<const int32_t> ids, size_t logits) {
  const SequenceStep step{&sequence_, ids, logits};
  session_.transformer().forward({&step, 1}, logits_.data());
  ids_.insert(ids_.end(), ids.begin(), ids.end());
}

bool Generator::prefill(std::span<const int32_t> prompt, const TextCallback& on_text,
                        GenerateResult& result) {
  const auto start = std::chrono::steady_clock::now();
  const auto differs = std::mismatch(ids_.begin(), ids_.end(), prompt.begin(), prompt.end());
  // The last token is computed again where all are there: its logits are wanted.
  const size_t kept =
      std::min(static_cast<size_t>(differs.second - prompt.begin()), prompt.size() - 1);
  sequence_.truncate(kept);
  ids_.resize(kept);
  result.reused = kept;
  while (ids_.size() < prompt.size()) {
    const size_t count = std::min(session_.size().chunk, prompt.size() - ids_.size());
    const bool last = ids_.size() + count == prompt.size();
    feed(prompt.subspan(ids_.size(), count), last ? 1 : 0);
    if (!last && on_text && !on_text({})) return false;
  }
  result.prefill_seconds = seconds_since(start);
  return true;
}

GenerateResult Generator::generate(std::span<const int32_t> prompt, const GenerateOptions& options,
                                   const TextCallback& on_text) {
  check_prompt(prompt, session_, model_.config.vocab_size);
  Answer answer(model_, text_, options, prompt);
  GenerateResult& result = answer.result();
  if (!prefill(prompt, on_text, result)) {
    answer.end(StopReason::CANCELLED);
    return std::move(result);
  }
  const auto start = std::chrono::steady_clock::now();
  while (!answer.ended()) {
    const std::optional<int32_t> id = answer.next(logits_, ids_.size());
    if (on_text && !on_text(answer.take_text())) answer.end(StopReason::CANCELLED);
    if (answer.ended()) break;
    if (ids_.size() == session_.size().context) {
      answer.end(StopReason::CONTEXT_FULL);
      break;
    }
    feed({&*id, 1}, 1);
    ++result.decode_steps;
  }
  result.decode_seconds = seconds_since(start);
  const std::string rest = answer.take_text();
  if (on_text && !rest.empty()) on_text(rest);
  return std::move(result);
}

namespace {

/// One of the prompts that are worked on at the same time.
struct Slot {
  explicit Slot(KvCache& cache) : sequence(cache) {}

  bool busy() const { return answer != nullptr; }

  KvSequence sequence;
  std::unique_ptr<Answer> answer;
  size_t index = 0;              // of the prompt
  std::vector<int32_t> pending;  // ids to be fed next
  size_t fed = 0;                // of `pending`
  size_t count = 0;              // ids in the step that is being made
};

/// Puts the ids of every busy slot into one step: decoding slots first, since they are short.
std::vector<SequenceStep> make_step(std::vector<Slot>& slots, size_t most_rows) {
  std::vector<SequenceStep> steps;
  size_t rows = 0, waiting = 0;
  for (const Slot& slot : slots) waiting += slot.busy() ? 1 : 0;
  for (Slot& slot : slots) {
    if (!slot.busy()) continue;
    --waiting;  // every slot after this one brings at least one token
    slot.count = std::min(slot.pending.size() - slot.fed, most_rows - rows - waiting);
    rows += slot.count;
    const bool last = slot.fed + slot.count == slot.pending.size();
    steps.push_back({&slot.sequence, std::span(slot.pending).subspan(slot.fed, slot.count),
                     last ? size_t{1} : size_t{0}});
  }
  return steps;
}

}  // namespace

std::vector<GenerateResult> generate_side_by_side(
    const LoadedModel& model, Session& session, const TextSide* text,
    std::span<const std::vector<int32_t>> prompts, const GenerateOptions& options,
    const std::function<void(size_t, size_t)>& on_done) {
  const size_t vocabulary = model.config.vocab_size;
  for (const auto& prompt : prompts) check_prompt(prompt, session, vocabulary);
  std::vector<GenerateResult> results(prompts.size());
  std::vector<Slot> slots;
  for (size_t i = 0; i < session.size().sequences; ++i) slots.emplace_back(session.cache());
  std::vector<float> logits(slots.size() * vocabulary);
  size_t next = 0, done = 0;
  while (done < prompts.size()) {
    for (Slot& slot : slots) {
      if (slot.busy() || next == prompts.size()) continue;
      slot.index = next++;
      slot.answer = std::make_unique<Answer>(model, text, options, prompts[slot.index]);
      slot.pending = prompts[slot.index];
      slot.fed = 0;
    }
    const std::vector<SequenceStep> steps = make_step(slots, session.size().chunk);
    session.transformer().forward(steps, logits.data());
    const float* row = logits.data();
    for (Slot& slot : slots) {
      if (!slot.busy()) continue;
      slot.fed += slot.count;
      if (slot.fed < slot.pending.size()) continue;
      const auto id = slot.answer->next({row, vocabulary}, slot.sequence.length());
      row += vocabulary;
      if (!slot.answer->ended() && slot.sequence.length() == session.size().context)
        slot.answer->end(StopReason::CONTEXT_FULL);
      if (slot.answer->ended()) {
        results[slot.index] = std::move(slot.answer->result());
        slot.answer.reset();
        slot.sequence.truncate(0);
        if (on_done)
          on_done(++done, prompts.size());
        else
          ++done;
      } else {
        slot.pending.assign(1, *id);
        slot.fed = 0;
      }
    }
  }
  return results;
}

}  // namespace rill
