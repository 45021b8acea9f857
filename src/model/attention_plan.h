// SPDX-License-Identifier: Apache-2.0
// How a step's attention is cut into tasks for the threads of a process. It changes no bit: what is
// cut are query rows, and whole subtrees of the stripes of keys.
#pragma once
#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

#include "model/kv_cache.h"
#include "model/ranks.h"
#include "model/shard.h"
#include "model/stripe_tree.h"
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

  /// Keys that a query sees.
  size_t sees(size_t token) const {
    const size_t length = sequence->length();
    return causal ? std::min(length, position + token + 1) : length;
  }
};

/// Some rows of one sequence and KV head (a tile) against some of this rank's keys. Rows are
/// (token, head of the group), folded.
struct AttentionTask {
  uint32_t queries, kv_head;
  uint32_t first, rows;  // folded rows
  uint32_t part;         // of this rank's subtrees of the stripes, or kAllParts
  // Of a tile that several threads share: this task's piece of the part, which is cut into
  // `pieces` equal subtrees. All pieces of the tile have a slot for their state.
  uint32_t piece, pieces;
  uint32_t part_slot;  // of the part's first piece among the tile's
  uint32_t slots;      // of the tile; 0: a thread has it by itself
  size_t first_slot;   // of the tile among the step's
  size_t states;       // floats before the tile's first state
  size_t scores;       // bytes before those of these keys (standard attention)
  size_t cost;         // pairs of a query and a key

  static constexpr uint32_t kAllParts = UINT32_MAX;
};

class AttentionPlan {
 public:
  /// What the tasks of a step may take of the scratch.
  struct Limits {
    size_t threads;
    size_t tiles;         // of a step, of kMostRows rows each
    size_t state_floats;  // of pieces
    size_t score_bytes;   // of a thread (standard)
  };
  /// `parts`: this rank's subtrees of the stripes.
  AttentionPlan(const AttentionShape& shape, const std::vector<Range>& parts, const Limits& limits);

  /// Cuts a step; `own` are the rows whose states this rank joins. Allocates nothing.
  void cut(std::span<const AttentionQueries> queries, Range own);

  /// In the order in which threads take them, the longest first.
  const std::vector<AttentionTask>& tasks() const { return tasks_; }
  /// So many of the first a thread does from the beginning to the end. The others are met in
  /// standard attention a second time when their rows' maxima are known, ...
  size_t whole() const { return whole_; }
  /// ... for which their scores are kept; or else computed again, and of all tasks.
  bool keeps_scores() const { return keeps_scores_; }
  /// The tiles that threads share, of which the tasks are pieces.
  const std::vector<AttentionTask>& shared() const { return shared_; }
  /// If there are other ranks, the tiles of `own` rows, of kMostRows rows each. Ranks may have cut
  /// theirs larger: a part with keys for a small tile has some for the large one that it lies in.
  const std::vector<AttentionTask>& joins() const { return joins_; }

  /// The stripes of a task's part, or of its piece of it.
  Range stripes_of(const AttentionTask& task) const;
  /// How many keys below `most` a subtree of the stripes has, and bytes of the scores of some rows.
  size_t keys_of(Range stripes, size_t most) const;
  size_t score_bytes(size_t rows, Range stripes, size_t most) const;

  size_t thread_score_bytes() const { return limits_.score_bytes; }
  static size_t most_slots(size_t threads) { return 32 * threads; }

 private:
  size_t sees(const AttentionTask& tile) const;
  void cut_tiles(size_t rows);
  size_t makespan(std::span<const AttentionTask> tasks);
  template <class F>
  void each_tile(size_t chunk, size_t rows, const F& f) const;
  size_t score_bytes(const AttentionTask& tile) const;
  size_t cost_from(size_t first) const;
  size_t scores_from(size_t first) const;
  void choose_whole();
  double time_of(size_t whole);
  bool add_tasks(double scale);
  size_t piece_stripes(const AttentionTask& tile, double most_cost) const;
  bool add_pieces(AttentionTask tile, size_t stripes);

  const AttentionShape shape_;
  const std::vector<Range> parts_;
  const Limits limits_;
  size_t own_stripes_ = 0;
  std::span<const AttentionQueries> queries_;
  size_t whole_ = 0;
  bool keeps_scores_ = false;
  std::vector<AttentionTask> tiles_, tasks_, shared_, joins_;
  std::vector<size_t> loads_;  // [threads]
  size_t slots_ = 0, states_ = 0, scores_ = 0;
};

}  // namespace rill
