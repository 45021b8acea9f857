// SPDX-License-Identifier: Apache-2.0
// Attention by itself, measured on the path that a model takes: K and V stand in a KV cache, and
// only the queries' conversion and Attention::run are timed.
#pragma once
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "engine/bench_cost.h"
#include "engine/bench_judge.h"
#include "engine/bench_table.h"
#include "model/attention.h"

namespace rill {

/// One layer of a model: what all cases of a run share.
struct AttentionLayer {
  size_t heads = 16, kv_heads = 8, head_dim = 128;
  Operand operand = Operand::BF16;
  Format kv = Format::BF16;
  size_t chunk = 512;  // queries of one step

  ModelConfig config() const;
};

/// One case: the last `queries` of `tokens` tokens attend to all before them and to themselves.
/// All tokens: a prefill from an empty cache, in steps of the chunk; 1: a step of decoding.
struct AttentionCase {
  size_t tokens, queries;
  AttentionType type;
  size_t block_size;
};

struct AttentionResult {
  AttentionCase what;
  std::string isa;
  int threads, ranks;  // threads of each rank
  AttentionCeilings ceilings;
  std::vector<AttentionWork> steps = {};  // useful work of each step
  std::vector<double> seconds = {};
  std::vector<Judgement> judgements = {};
  size_t kv_bytes = 0;       // of the keys and values, of all ranks together
  size_t scratch_bytes = 0;  // that Attention reserves on the first rank
  size_t peak_bytes = 0;     // of memory that it was seen to take there; 0 if nobody can tell

  int workers() const { return threads * ranks; }
  AttentionWork work() const;
  double ideal(const Ceilings& measured) const;
};

/// Of ranks, each measures the part of the keys that it keeps, all at once, with the same
/// arguments: a time is the slowest rank's.
class AttentionBench {
 public:
  /// Fills a cache with `most_tokens` random keys and values, of several ranks with this rank's
  /// part (runtime.ranks.sp()) for blocks of `block_size`. Throws rill::Error if memory does not
  /// suffice, for sizes that make no sense too.
  AttentionBench(const AttentionLayer& layer, size_t most_tokens, Runtime runtime,
                 size_t block_size = kBlockTokens);

  /// Up to `repetitions` timed runs after one that is not, fewer if they take longer than some
  /// seconds; a first run of seconds counts as well. Throws rill::Error if memory does not suffice.
  /// `runtime` has the ranks of the constructor's and, if there are several, `what` a block size
  /// that deals the keys as its.
  AttentionResult run(const AttentionCase& what, Runtime runtime, size_t repetitions,
                      CeilingProbe& probe);

  /// Bytes of K and V of `tokens` tokens.
  size_t kv_bytes(size_t tokens) const;
  /// The results of the last step that was run: [rows of this rank][heads][head_dim].
  std::span<const float> out() const { return out_; }

 private:
  AttentionShape shape(const AttentionCase& what) const;
  double once(Attention& attention, const AttentionCase& what, Team& team);
  double slowest(double seconds) const;
  double repetition(Attention& attention, const AttentionCase& what, Team& team);

  const AttentionLayer layer_;
  const Ranks& ranks_;
  KvCache cache_;
  KvSequence sequence_;
  std::vector<float> queries_;  // [chunk][heads][head_dim]
  std::vector<float> out_;      // the same
};

/// Results as objects with the same fields, in the order given. "speedup" is over the first result
/// of the same case, "efficiency" (percent) over the same instruction set with fewest threads and
/// ranks.
std::vector<nlohmann::ordered_json> attention_rows(const AttentionLayer& layer,
                                                   const std::vector<AttentionResult>& results);

/// All rows, and in Markdown the tables of the first description: by method, and of both kinds of
/// attention side by side.
std::string format_attention(const std::vector<nlohmann::ordered_json>& rows, ReportFormat format);

/// gnuplot's script for GFLOP/s over tokens.
std::string attention_script(const std::vector<nlohmann::ordered_json>& rows,
                             const std::string& svg_file);

}  // namespace rill
