// SPDX-License-Identifier: Apache-2.0
#include "verify_bits.h"

#include <algorithm>
#include <cmath>
#include <deque>
#include <iomanip>
#include <optional>
#include <sstream>

#include "engine/oracle.h"
#include "engine/session.h"
#include "engine/trace.h"
#include "model/checkpoint.h"
#include "program.h"
#include "progress_bar.h"

namespace rill::apps {
namespace {

std::string joined(const std::vector<int32_t>& tokens) {
  std::string text;
  for (const int32_t token : tokens) text += (text.empty() ? "" : ",") + std::to_string(token);
  return text;
}

std::string number(double value, int digits = 3) {
  std::ostringstream text;
  text << std::setprecision(digits) << value;
  return text.str();
}

/// How far some logits are from the oracle's.
struct Distance {
  double largest = 0, rms = 0, spread = 0;  // spread: the standard deviation of the oracle's
};

Distance distance(const std::vector<float>& logits, const std::vector<double>& oracle) {
  Distance d;
  double sum = 0, squares = 0, errors = 0;
  for (size_t i = 0; i < logits.size(); ++i) {
    const double error = logits[i] - oracle[i];
    d.largest = std::max(d.largest, std::abs(error));
    errors += error * error;
    sum += oracle[i];
    squares += oracle[i] * oracle[i];
  }
  const auto n = static_cast<double>(logits.size());
  d.rms = std::sqrt(errors / n);
  d.spread = std::sqrt(std::max(0.0, squares / n - sum / n * (sum / n)));
  return d;
}

/// The rms error, in parts of the logits' own spread, beyond which something is wrong and not just
/// rounded: some times what rounding gives on trained and random models of up to 28 layers.
double allowed(const Arithmetic& arithmetic) {
  if (arithmetic.weights == Format::INT4) return 1.0;
  if (arithmetic.weights == Format::INT8) return 0.25;
  return arithmetic.linear == Operand::F32 && arithmetic.kv == Format::F32 ? 1e-3 : 0.25;
}

/// What one process computes, on the first of several ranks, where the model fits in one.
class Alone {
 public:
  Alone(const CommonOptions& common, LoadOptions load, const std::vector<int32_t>& prompt,
        size_t length) {
    const Communicator& world = load.ranks->world();
    if (world.size() == 1 || world.rank() > 0) return;
    load.ranks = &Ranks::single();
    try {
      const auto model = LoadedModel::load(common.model, load);
      for (const AttentionType type : {AttentionType::STANDARD, AttentionType::STREAMING}) {
        TraceSetting setting{model->arithmetic, &model->kernels, &model->team,
                             std::min(model->session.chunk, prompt.size())};
        setting.arithmetic.attention_type = type;
        (type == AttentionType::STANDARD ? standard_ : streaming_) =
            trace(*model, setting, prompt, length);
      }
    } catch (const DoesNotFit&) {  // the reason to have ranks
    }
  }
  const std::optional<Trace>& trace_of(AttentionType type) const {
    return type == AttentionType::STANDARD ? standard_ : streaming_;
  }

 private:
  std::optional<Trace> standard_, streaming_;
};

class Verification {
 public:
  Verification(LoadedModel& model, const std::vector<int32_t>& prompt, size_t length, bool quick)
      : model_(model), prompt_(prompt), length_(length), quick_(quick) {}

  /// One attention: the base run, then each axis. Returns the base run. `alone`: what one process
  /// gives, on the first of several ranks.
  Trace attention(AttentionType type, const Alone& alone) {
    TraceSetting base{model_.arithmetic, &model_.kernels, &model_.team,
                      std::min(model_.session.chunk, prompt_.size())};
    base.arithmetic.attention_type = type;
    const Trace trace = run(base);
    print(std::string("\nattention ") + to_string(type) + "\n  tokens " + joined(trace.tokens) +
          "\n");
    row("base run",
        std::string(model_.kernels.name) + ", " + std::to_string(model_.team.size()) +
            " threads, chunks of " + std::to_string(base.chunk),
        "", trace.seconds);
    if (const auto& one = alone.trace_of(type)) {
      judge_trace(*one, trace, "ranks against", "one process");
    } else if (model_.ranks.world().size() > 1) {
      row("ranks against", "one process", "SKIPPED: the model does not fit in one process here", 0);
    }
    for (const int count : {1, 2, 3, 5, 8}) {
      if (count == model_.team.size()) continue;
      TraceSetting setting = base;
      Team team(count);
      setting.team = &team;
      compare(trace, setting, "threads", std::to_string(count));
    }
    for (const size_t chunk : {size_t{1}, size_t{7}, size_t{64}, size_t{100}, prompt_.size()}) {
      if (chunk == base.chunk || chunk > prompt_.size()) continue;
      TraceSetting setting = base;
      setting.chunk = chunk;
      compare(trace, setting, "chunks of", std::to_string(chunk));
    }
    for (const size_t place : {0, 1, 2}) {
      TraceSetting setting = base;
      setting.before = place;
      setting.after = 2 - place;
      compare(trace, setting, "place in a batch", std::to_string(place + 1) + " of 3");
    }
    for (const Kernels* kernels : all_kernels()) instruction_set(trace, base, *kernels);
    return trace;
  }

  bool passed() const { return passed_; }
  void judge(bool good) { passed_ = passed_ && good; }

 private:
  Trace run(const TraceSetting& setting) { return trace(model_, setting, prompt_, length_); }

  void instruction_set(const Trace& base, TraceSetting setting, const Kernels& kernels) {
    if (&kernels == &model_.kernels) return;
    if (!kernels.supported()) {
      row("isa", kernels.name, "SKIPPED: not on this processor", 0);
    } else if (quick_ && std::string(kernels.name) == "scalar") {
      row("isa", kernels.name, "SKIPPED: --quick", 0);
    } else {
      setting.kernels = &kernels;
      compare(base, setting, "isa", kernels.name);
    }
  }

  void compare(const Trace& base, const TraceSetting& setting, const std::string& axis,
               const std::string& value) {
    judge_trace(base, run(setting), axis, value);
  }

  void judge_trace(const Trace& base, const Trace& other, const std::string& axis,
                   const std::string& value) {
    const std::string difference = first_difference(model_.config, base, other);
    judge(difference.empty());
    std::string verdict = "same bits: yes";
    if (!difference.empty()) {
      verdict = "same bits: no, from " + difference + " on";
      if (other.tokens != base.tokens) verdict += "; tokens " + joined(other.tokens);
    }
    row(axis, value, verdict, other.seconds);
  }

  static void row(const std::string& axis, const std::string& value, const std::string& verdict,
                  double seconds) {
    std::ostringstream text;
    text << "  " << std::left << std::setw(18) << axis << std::setw(40) << value;
    if (seconds > 0) text << std::right << std::setw(8) << number(seconds) << " s  ";
    text << verdict << "\n";
    print(text.str());
  }

  LoadedModel& model_;
  const std::vector<int32_t>& prompt_;
  size_t length_;
  bool quick_, passed_ = true;
};

/// The prompt and what was generated but its last token: the ids that the rows of a trace belong
/// to.
std::vector<int32_t> fed_ids(const std::vector<int32_t>& prompt, const Trace& trace) {
  std::vector<int32_t> ids = prompt;
  ids.insert(ids.end(), trace.tokens.begin(), trace.tokens.end() - 1);
  return ids;
}

/// Against the oracle; where the tokens of the two attentions part, each is held against its own.
bool against_oracle(LoadedModel& model, const std::vector<int32_t>& prompt, const Trace& standard,
                    const Trace& streaming) {
  const Checkpoint checkpoint = Checkpoint::open(model.folder);
  print("\nagainst a plain double-precision pass over the checkpoint as stored\n");
  const std::vector<int32_t> ids = fed_ids(prompt, standard);
  std::vector<double> oracle = oracle_logits(model.config, checkpoint, model.team, ids,
                                             progress_bar("double-precision pass"));
  bool good = true;
  for (const auto& [type, trace] :
       {std::pair(AttentionType::STANDARD, &standard), {AttentionType::STREAMING, &streaming}}) {
    const std::vector<int32_t> own = fed_ids(prompt, *trace);
    if (own != ids) {
      oracle = oracle_logits(model.config, checkpoint, model.team, own,
                             progress_bar("double-precision pass"));
    }
    const Distance d = distance(trace->logits, oracle);
    const double limit = allowed(model.arithmetic) * d.spread;
    const bool within = d.rms <= limit;
    good = good && within;
    print(std::string("  ") + to_string(type) + ": largest error " + number(d.largest) + ", rms " +
          number(d.rms) + " (allowed " + number(limit) + "; the logits spread over " +
          number(d.spread) + ")  " + (within ? "PASS" : "FAIL") + "\n");
  }
  return good;
}

void compare_attentions(const Trace& standard, const Trace& streaming) {
  const auto parting = std::mismatch(standard.tokens.begin(), standard.tokens.end(),
                                     streaming.tokens.begin(), streaming.tokens.end());
  if (parting.first == standard.tokens.end()) {
    print("\nthe two attentions, which round differently, give the same tokens\n");
    return;
  }
  const auto at = static_cast<size_t>(parting.first - standard.tokens.begin());
  print("\nthe two attentions, which round differently, part at generated token " +
        std::to_string(at) + ": standard " + std::to_string(*parting.first) + " with a margin of " +
        number(standard.margin[at]) + ", streaming " + std::to_string(*parting.second) +
        " with a margin of " + number(streaming.margin[at]) + "\n");
}

}  // namespace

int verify_bits(const CommonOptions& common, const std::vector<int32_t>& prompt, size_t length,
                bool quick) {
  LoadOptions load = common.load_options();
  const ModelConfig config = ModelConfig::load(common.model);
  if (prompt.size() + length > config.max_position_embeddings) {
    fail("the prompt and --gen-len are ", prompt.size() + length,
         " tokens, but this model was made for at most ", config.max_position_embeddings,
         " positions (max_position_embeddings in config.json); take fewer");
  }
  check_ids(prompt, config.vocab_size, "the prompt's ids");
  load.session.context = prompt.size() + length;
  load.session.chunk = std::min(load.session.chunk, prompt.size());
  load.session.sequences = 3;
  load.session.logits = load.session.chunk;
  const Alone alone(common, load, prompt, length);
  const auto model = LoadedModel::load(common.model, load);
  print(common.model + "; " + describe_run(*model, describe(model->arithmetic, "both attentions")) +
        "\n" + std::to_string(prompt.size()) + " tokens of prompt, " + std::to_string(length) +
        " generated\n");
  Verification verification(*model, prompt, length, quick);
  const Trace standard = verification.attention(AttentionType::STANDARD, alone);
  const Trace streaming = verification.attention(AttentionType::STREAMING, alone);
  compare_attentions(standard, streaming);
  if (model->ranks.world().rank() == 0)
    verification.judge(against_oracle(*model, prompt, standard, streaming));
  print(verification.passed() ? "\nPASS\n" : "\nFAIL\n");
  return verification.passed() ? 0 : 1;
}

}  // namespace rill::apps
