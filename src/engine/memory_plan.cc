// SPDX-License-Identifier: Apache-2.0
#include "engine/memory_plan.h"

#include <algorithm>
#include <iomanip>
#include <sstream>

#include "model/kv_cache.h"
#include "model/transformer.h"
#include "model/weights.h"

namespace rill {
namespace {

/// Everything but the weights, for one size.
void fill(MemoryPlan& plan, const PlanSubject& subject) {
  const SessionSize& size = plan.size;
  const ModelConfig& config = subject.config;
  const Shard shard(config, subject.tp, subject.sp);
  plan.kv_cache =
      KvCache::bytes({config, shard, subject.arithmetic.block_size}, subject.arithmetic.kv,
                     size.context * size.sequences, size.sequences);
  plan.scratch = Transformer::scratch_bytes(
      {config, subject.arithmetic, shard, subject.kernels, subject.threads, size.chunk},
      size.context);
  plan.logits = std::max(size.sequences, size.logits) * config.vocab_size * sizeof(float);
}

}  // namespace

MemoryPlan plan_memory(const PlanSubject& subject, const SessionSize& size, size_t available) {
  MemoryPlan plan;
  plan.size = size;
  plan.available = available;
  plan.weights = Weights::packed_bytes(subject.config, subject.arithmetic,
                                       Shard(subject.config, subject.tp, subject.sp));
  // What a context needs grows with it, so the longest that fits is found by halving.
  MemoryPlan tried = plan;
  size_t low = 0, high = subject.config.max_position_embeddings;
  while (low < high) {
    tried.size.context = low + (high - low + 1) / 2;
    fill(tried, subject);
    if (tried.fits()) {
      low = tried.size.context;
    } else {
      high = tried.size.context - 1;
    }
  }
  plan.longest_context = low;
  fill(plan, subject);
  return plan;
}

std::string bytes_text(size_t bytes) {
  std::ostringstream text;
  text << std::fixed << std::setprecision(2);
  const auto value = static_cast<double>(bytes);
  if (bytes >= size_t{1} << 30) {
    text << value / (1 << 30) << " GiB";
  } else if (bytes >= size_t{1} << 20) {
    text << value / (1 << 20) << " MiB";
  } else {
    text << value / (1 << 10) << " KiB";
  }
  return text.str();
}

std::string MemoryPlan::table() const {
  std::ostringstream text;
  auto line = [&](const std::string& name, size_t bytes, const std::string& remark) {
    text << "  " << std::left << std::setw(12) << name << std::right << std::setw(12)
         << bytes_text(bytes) << (remark.empty() ? "" : "   ") << remark << "\n";
  };
  const std::string batch =
      size.sequences == 1 ? "" : " x " + std::to_string(size.sequences) + " sequences";
  line("weights", weights, "");
  line("KV cache", kv_cache, std::to_string(size.context) + " tokens" + batch);
  line("scratch", scratch, "steps of up to " + std::to_string(size.chunk) + " tokens");
  line("logits", logits, "");
  line("in all", total(), "");
  line("available", available, fits() ? "it fits" : "it does not fit");
  text << "  longest context that fits: ";
  if (longest_context == 0) {
    text << "none\n";
  } else {
    text << longest_context << " tokens" << batch << "\n";
  }
  return text.str();
}

void require_fit(const MemoryPlan& plan) {
  if (plan.fits()) return;
  std::ostringstream text;
  const bool several = plan.size.sequences > 1;
  text << "the model needs " << bytes_text(plan.total()) << " at a context of " << plan.size.context
       << " tokens" << (several ? " for each of " + std::to_string(plan.size.sequences) : "")
       << (several ? " sequences" : "") << ", but " << bytes_text(plan.available)
       << " are available; take ";
  if (plan.longest_context > 0) {
    // Not every program has a --ctx: a benchmark's lengths make up the context.
    text << "a context (--ctx, or prompt and answer of a benchmark) of " << plan.longest_context
         << " tokens or less";
  } else {
    text << "--weights int8 or int4, or a smaller model";
  }
  if (several) text << ", or fewer sequences";
  throw DoesNotFit(text.str(), plan.table());
}

}  // namespace rill
