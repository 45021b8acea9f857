// SPDX-License-Identifier: Apache-2.0
// Attention over the KV cache, standard or streaming (docs/arithmetic.md, section 9). One code path
// for prefill, decode and batches: work is dealt in tiles of query rows, whatever they come from.
#pragma once
#include <cstdint>
#include <span>
#include <vector>

#include "base/buffer.h"
#include "base/team.h"
#include "model/attention_plan.h"
#include "model/kv_cache.h"
#include "model/partial_states.h"
#include "model/runtime.h"
#include "model/state_ranks.h"
#include "model/stripe_tree.h"
#include "rill/attention.h"
#include "rill/options.h"

namespace rill {

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
  using Task = AttentionTask;
  using Merge = void (*)(SoftmaxState, SoftmaxState, size_t, size_t);
  struct Tile;
  class Pass;
  class Rows;
  struct Scratch {
    std::byte* q = nullptr;        // of each KV head [slices][most_rows][its heads][q_bytes]
    std::byte* threads = nullptr;  // [threads][thread_bytes]: states, kernel scratch
    std::byte* scores = nullptr;   // of each thread's tile, or of tiles that threads share
    float* partial = nullptr;      // states of pieces of such tiles
    size_t bytes = 0;
  };
  static Scratch lay_out(const AttentionShape& shape, const Kernels& kernels, int threads,
                         size_t most_rows, size_t most_context, std::byte* base);

  std::byte* query(size_t kv_head, size_t slice, size_t folded_row) const;
  Tile tile_of(const Task& task) const;
  std::byte* thread_scratch(const Worker& worker) const;
  void cut_queries(std::span<const AttentionQueries> queries, const RowShares& shares);

  // Between barriers of a layer, threads take tasks of one of these kinds.
  enum class Phase { WHOLE, SCORES, SUMS };
  static constexpr size_t kPhases = 3;
  template <class Body>
  void deal(Worker& worker, size_t layer, Phase phase, std::span<const Task> tasks,
            const Body& body);
  void stream(const Task& task, size_t layer, std::byte* scratch, const Output& out);
  void standard(Worker& worker, size_t layer, const Output& out);
  void forget_maxima();
  void put_maxima(const Rows& rows);
  void gather_maxima(const Task& tile, float* maxima) const;
  void settle_maxima();
  void sum(const Rows& rows, std::byte* scratch, const Output& out);

  PartialStates::Subtree pieces_of(const Task& task) const;
  void bring(const Task& task, const Tile& tile, SoftmaxState state, const Output& out);
  void deliver(const Tile& tile, size_t part, SoftmaxState state, const Output& out);
  void join_parts(const Task& tile, std::byte* scratch, const Output& out);
  StateRanks::Place place_of(const Tile& tile) const;
  Merge merge() const;
  void join(const JoinChain& chain, size_t rows) const;
  void finish(const Tile& tile, SoftmaxState state, const Output& out) const;

  const AttentionShape shape_;
  const Runtime runtime_;
  const size_t q_bytes_, most_rows_;
  Buffer memory_;
  Scratch scratch_;
  StateRanks states_;
  AttentionPlan plan_;
  PartialStates partial_;
  size_t first_row_ = 0;  // of this rank's share
  std::vector<AttentionQueries> queries_;
  std::vector<StateRanks::Chunk> chunks_;          // of queries_
  TaskCounter next_task_[2][kPhases], next_join_;  // of even and of odd layers
};

// Attention by itself: AttentionProblem is public, so it stands in rill/attention.h.

/// out [tokens][heads][head_dim] = softmax(q k^T / sqrt(head_dim)) v, through the same kernels and
/// the same order of operations as in a model. Of `options` the type, the block size, compute and
/// KV type count (AUTO compute: F32). Throws rill::Error for sizes that make no sense.
void attend(const AttentionProblem& problem, const ArithmeticOptions& options, Runtime runtime,
            float* out);

}  // namespace rill
