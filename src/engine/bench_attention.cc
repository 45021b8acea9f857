// SPDX-License-Identifier: Apache-2.0
#include "engine/bench_attention.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "base/error.h"
#include "base/process.h"
#include "base/timed_run.h"
#include "base/topology.h"
#include "engine/bench_fill.h"
#include "engine/memory_plan.h"

namespace rill {
namespace {

constexpr uint64_t kSeed = 42;
/// A first run that takes longer counts; after kMostSeconds in all there is no further one.
constexpr double kLongRun = 2, kMostSeconds = 10;
/// A repetition is at least so long, over as many runs as that takes, and its time their mean; on a
/// machine where waking the threads takes most of the time it ends after the second number.
constexpr double kLeastSeconds = 0.02, kMostWall = 0.1;

KvShape kv_shape(const AttentionLayer& layer, const Ranks& ranks, size_t block_size) {
  const ModelConfig config = layer.config();
  return {config, Shard(config, {}, ranks.sp_place()), block_size};
}

AttentionLayer checked(const AttentionLayer& layer) {
  if (layer.heads == 0 || layer.kv_heads == 0 || layer.heads % layer.kv_heads)
    fail("attention was asked for ", layer.heads, " query heads and ", layer.kv_heads,
         " key heads; the first must be a multiple of the second");
  if (layer.head_dim == 0 || layer.head_dim % 2 || layer.head_dim > 65536)
    fail("attention was asked for a head_dim of ", layer.head_dim,
         "; it must be even and at most 65536");
  return layer;
}

/// `shape`, if memory for it is left to each rank of this machine.
const KvShape& checked(const KvShape& shape, Format format, size_t most_tokens,
                       const Ranks& ranks) {
  const size_t bytes = KvCache::bytes(shape, format, most_tokens, 1);
  const size_t available = available_memory() / static_cast<size_t>(ranks.world().ranks_here());
  if (bytes > available)
    fail("the keys and values of ", most_tokens, " tokens take ", bytes_text(bytes), ", but ",
         bytes_text(available), " of memory are available; take fewer tokens or heads");
  return shape;
}

}  // namespace

ModelConfig AttentionLayer::config() const {
  ModelConfig config;
  config.num_layers = 1;
  config.num_heads = heads;
  config.num_kv_heads = kv_heads;
  config.head_dim = head_dim;
  return config;
}

AttentionWork AttentionResult::work() const {
  AttentionWork sum;
  for (const AttentionWork& step : steps) sum += step;
  return sum;
}

double AttentionResult::ideal(const Ceilings& measured) const {
  double sum = 0;
  for (const AttentionWork& step : steps) sum += step.ideal(ceilings, measured).seconds;
  return sum;
}

AttentionBench::AttentionBench(const AttentionLayer& layer, size_t most_tokens, Runtime runtime,
                               size_t block_size)
    : layer_(checked(layer)),
      ranks_(runtime.ranks),
      cache_(checked(kv_shape(layer, ranks_, block_size), layer.kv, most_tokens, ranks_), layer.kv,
             most_tokens),
      sequence_(cache_),
      queries_(layer.chunk * layer.heads * layer.head_dim),
      out_(queries_.size()) {
  fill_random(sequence_, most_tokens, kSeed, runtime);
  random_values(kSeed, queries_.size(), queries_.data());
  const auto scale =  // log2 e / sqrt(head_dim), as a model scales its queries
      static_cast<float>(0x1.71547652b82fep+0 / std::sqrt(static_cast<double>(layer.head_dim)));
  for (float& q : queries_) q *= scale;
}

size_t AttentionBench::kv_bytes(size_t tokens) const {
  return static_cast<size_t>(
      attention_work(layer_.config(), layer_.kv, tokens - 1, 1).total().bytes);
}

AttentionShape AttentionBench::shape(const AttentionCase& what) const {
  AttentionShape shape = {layer_.heads,    layer_.kv_heads, layer_.head_dim, what.type,
                          what.block_size, layer_.operand,  layer_.kv};
  shape.sp = ranks_.sp_place();
  return shape;
}

double AttentionBench::once(Attention& attention, const AttentionCase& what, Team& team) {
  const size_t width = layer_.heads * layer_.head_dim;
  double seconds = 0;
  for (size_t first = 0; first < what.queries; first += layer_.chunk) {
    const size_t count = std::min(layer_.chunk, what.queries - first);
    const AttentionQueries queries = {&sequence_, 0, count, what.tokens - what.queries + first,
                                      true};
    attention.plan({&queries, 1},
                   RowShares{queries.tokens,
                             ranks_.sp_place()});  // in a model once for all layers, so not timed
    seconds += timed_run(team, [&](Worker& worker) {
      const FloatMode mode;
      const Range mine = worker.share(count * layer_.heads);
      for (size_t i = mine.begin; i < mine.end; ++i)
        attention.set_query(
            i / count, i % count,
            queries_.data() + (i % count * layer_.heads + i / count) * layer_.head_dim);
      worker.barrier();
      const Attention::Output to = {out_.data(), width};
      attention.attend(worker, 0, to);
      attention.join(worker, to);
    });
  }
  return seconds;
}

/// A step ends when its last rank has ended. Doubles that are not negative have the order of their
/// bits, and the largest of them is the least of the complements.
double AttentionBench::slowest(double seconds) const {
  return std::bit_cast<double>(~ranks_.world().least(~std::bit_cast<uint64_t>(seconds)));
}

/// The mean of as many runs as a repetition takes.
double AttentionBench::repetition(Attention& attention, const AttentionCase& what, Team& team) {
  const double start = seconds_now();
  double seconds = 0, runs = 0;
  for (; seconds < kLeastSeconds && slowest(seconds_now() - start) < kMostWall; ++runs)
    seconds += slowest(once(attention, what, team));
  return seconds / runs;
}

AttentionResult AttentionBench::run(const AttentionCase& what, Runtime runtime, size_t repetitions,
                                    CeilingProbe& probe) {
  const size_t rows = std::min(layer_.chunk, what.queries);
  AttentionResult result{what, runtime.kernels.name, runtime.team.size(), ranks_.world().size(),
                         attention_ceilings(layer_.kv, layer_.operand, runtime.kernels.name)};
  for (size_t first = 0; first < what.queries; first += layer_.chunk)
    result.steps.push_back(attention_work(layer_.config(), layer_.kv,
                                          what.tokens - what.queries + first,
                                          std::min(layer_.chunk, what.queries - first)));
  result.kv_bytes = kv_bytes(what.tokens);
  result.scratch_bytes = Attention::scratch_bytes(shape(what), runtime.kernels, runtime.team.size(),
                                                  rows, what.tokens);
  if (result.scratch_bytes > available_memory())
    fail(to_string(what.type), " attention over ", what.tokens, " tokens needs ",
         bytes_text(result.scratch_bytes), " of scratch, but ", bytes_text(available_memory()),
         " of memory are available; take fewer tokens or threads, or streaming attention");

  Ceilings before = measure_together(probe, ranks_.world());
  const auto count = [&](double seconds) {
    const Ceilings after = measure_together(probe, ranks_.world());
    result.seconds.push_back(seconds);
    result.judgements.push_back(judge(before, after));
    before = after;
  };
  const bool counted = reset_peak_memory();
  const size_t held = resident_memory();
  Attention attention(shape(what), runtime, rows, what.tokens);
  const double first = slowest(once(attention, what, runtime.team));
  if (counted) result.peak_bytes = std::max(held, peak_memory()) - held;
  if (first > kLongRun) count(first);
  for (double spent = first;
       result.seconds.empty() || (result.seconds.size() < repetitions && spent < kMostSeconds);) {
    count(repetition(attention, what, runtime.team));
    spent += std::max(result.seconds.back(), kLeastSeconds);
  }
  return result;
}

}  // namespace rill
