// SPDX-License-Identifier: Apache-2.0
// Attention over the KV cache, standard or streaming (docs/arithmetic.md, section 9). One code path
// for prefill, decode and batches: work is dealt in tiles of query rows, whatever they come from.
#pragma once
#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

#include "base/buffer.h"
#include "base/team.h"
#include "model/kv_cache.h"
#include "model/runtime.h"
#include "model/state_ranks.h"
#include "model/stripe_tree.h"
#include "rill/attention.h"
#include "rill/options.h"

namespace rill {

/// Sizes and arithmetic of one kind of attention.
struct AttentionShape {
  size_t heads, kv_heads, head_dim;
  AttentionType type;
  size_t block_size;  // a power of two, 16 to 1024
  Operand operand;    // of probabilities: F32 or BF16
  Format kv;          // of the cache
  // Of a rank that shares KV heads with others: query heads to a KV head, and how many of the first
  // one's are another rank's.
  size_t group = kv_heads ? heads / kv_heads : 1;
  size_t missing = 0;
  RankOf sp = {};  // of the ranks that share the stripes of keys

  /// The query heads that read a KV head.
  Range heads_of(size_t kv_head) const {
    return {std::max(kv_head * group, missing) - missing,
            std::min((kv_head + 1) * group - missing, heads)};
  }
  size_t group_of(size_t kv_head) const {
    const Range range = heads_of(kv_head);
    return range.end - range.begin;
  }
  size_t kv_head_of(size_t head) const { return (head + missing) / group; }
};

/// The queries of one sequence in a step; its K and V are in the cache already.
struct AttentionQueries {
  const KvSequence* sequence;
  size_t row;       // of the first query among the step's rows
  size_t tokens;    // queries, one row each
  size_t position;  // of the first query: it sees keys 0 .. position, the next one more, ...
  bool causal;      // false: every query sees the whole sequence
};

class Attention {
 public:
  /// Allocates all scratch for steps of up to `most_rows` rows (over all sequences) on contexts of
  /// up to `most_context` tokens. In streaming mode it does not depend on `most_context`.
  Attention(const AttentionShape& shape, Runtime runtime, size_t most_rows, size_t most_context);
  static size_t scratch_bytes(const AttentionShape& shape, const Kernels& kernels, int threads,
                              size_t most_rows, size_t most_context);

  /// Cuts a step into tasks; before the parallel region, once for all layers. Allocates nothing.
  /// Every rank gets the queries of all rows, and the results of its share of them.
  void plan(std::span<const AttentionQueries> queries, const RowShares& shares);

  /// Hands over the query of a head in a row, fp32 [head_dim], rotated and scaled.
  void set_query(size_t head, size_t row, const float* q);

  /// Where results go, [rows of this rank's share][stride]: the heads of a row one after the other.
  struct Output {
    float* rows;
    size_t stride;
  };
  /// In two parts, in a parallel region, on all its threads. Barriers must separate the first from
  /// the writing of queries, K and V before, the second from the reading of `out` and the next run
  /// after. Between them states of other ranks' rows are on their way.
  void attend(Worker& worker, size_t layer, const Output& out);
  void join(Worker& worker, const Output& out);

 private:
  // A tile of one sequence and KV head; rows are (token, head of the group), folded.
  struct Task {
    uint32_t queries, kv_head;
    uint32_t first, rows;  // folded rows
    uint32_t part;         // of this rank's subtrees of the stripes (streaming)
    size_t cost;
  };
  struct Tile;
  class Pass;
  class Rows;
  struct Scratch {
    std::byte* q = nullptr;        // of each KV head [slices][most_rows][its heads][q_bytes]
    std::byte* threads = nullptr;  // [threads][thread_bytes]: states, kernel scratch, scores
    float* partial = nullptr;      // states of subtrees, of a process by itself
    size_t bytes = 0;
  };
  static Scratch lay_out(const AttentionShape& shape, const Kernels& kernels, int threads,
                         size_t most_rows, size_t most_context, std::byte* base);

  std::byte* query(size_t kv_head, size_t slice, size_t folded_row) const;
  Tile tile_of(const Task& task) const;
  size_t sees(const AttentionQueries& queries, size_t token) const;
  std::byte* thread_scratch(const Worker& worker) const;
  void stream(const Task& task, size_t layer, std::byte* scratch, const Output& out);
  void standard(const Task& task, size_t layer, std::byte* scratch, const Output& out);
  void settle_maxima(Worker& worker, size_t layer, std::byte* scratch);
  void join_parts(const Task& task, std::byte* scratch, const Output& out);
  void cut_queries(std::span<const AttentionQueries> queries, const RowShares& shares);
  void choose_parts(size_t tiles, size_t longest);
  void add_tasks(size_t chunk, size_t rows);
  bool holds(size_t key) const;
  StateRanks::Place place_of(const Tile& tile) const;
  void join(const JoinChain& chain, size_t rows,
            void (*merge)(SoftmaxState, SoftmaxState, size_t, size_t)) const;
  void finish(const Tile& tile, SoftmaxState state, const Output& out) const;

  const AttentionShape shape_;
  const Runtime runtime_;
  const size_t q_bytes_, most_rows_, most_context_;
  Buffer memory_;
  Scratch scratch_;
  StateRanks states_;
  bool keeps_states_ = false;            // there is more than one part
  size_t first_row_ = 0, last_row_ = 0;  // this rank's share
  std::vector<AttentionQueries> queries_;
  std::vector<StateRanks::Chunk> chunks_;  // of queries_
  std::vector<Range> parts_;
  std::vector<Task> tasks_, joins_;
  TaskCounter next_task_[2], next_join_;  // of even and of odd layers
};

// Attention by itself: AttentionProblem is public, so it stands in rill/attention.h.

/// out [tokens][heads][head_dim] = softmax(q k^T / sqrt(head_dim)) v, through the same kernels and
/// the same order of operations as in a model. Of `options` the type, the block size, compute and
/// KV type count (AUTO compute: F32). Throws rill::Error for sizes that make no sense.
void attend(const AttentionProblem& problem, const ArithmeticOptions& options, Runtime runtime,
            float* out);

}  // namespace rill
