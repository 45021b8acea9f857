// SPDX-License-Identifier: Apache-2.0
// What threads get to do: everything once, and about as much each.
#include "model/attention_plan.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <memory>

#include "model/attention_tile.h"

namespace rill {
namespace {

struct PlanCase {
  const char* name;
  size_t kv_heads, group, position, queries;
};

class Plan {
 public:
  Plan(const PlanCase& c, AttentionType type, size_t threads, RankOf sp = {}, size_t sequences = 1)
      : shape_{c.kv_heads * c.group, c.kv_heads, 16, type, 64, Operand::F32, Format::F32},
        cache_({1, c.kv_heads, 16}, Format::F32, sequences * (c.position + c.queries), sequences) {
    shape_.sp = sp;
    for (size_t i = 0; i < sequences; ++i) {
      sequences_.emplace_back(cache_);
      sequences_.back().extend(c.position + c.queries);
    }
    for (size_t i = 0; i < sequences; ++i)
      queries_.push_back({&sequences_[i], i * c.queries, c.queries, c.position, true});
    const size_t rows = sequences * c.queries;
    plan_ = std::make_unique<AttentionPlan>(
        shape_, subtrees_of(share_of(kStripes, sp)),
        AttentionPlan::Limits{threads, rows * c.kv_heads * least_tiles(c.group),
                              partial_floats(shape_, threads),
                              thread_score_bytes(shape_, c.position + c.queries)});
    plan_->cut(queries_, {0, rows});
    threads_ = threads;
  }

  const AttentionPlan* operator->() const { return plan_.get(); }

  // The share of the time of all threads in which they have tasks, if a pair takes as long in each
  // and they take tasks as they become free.
  double balance() const {
    const std::span<const AttentionTask> tasks = plan_->tasks();
    double time = 0, work = 0;
    for (const auto phase : {tasks.first(plan_->whole()), tasks.subspan(plan_->whole())}) {
      std::vector<double> ends(threads_);
      for (const AttentionTask& task : phase) {
        *std::min_element(ends.begin(), ends.end()) += static_cast<double>(task.cost);
        work += static_cast<double>(task.cost);
      }
      time += *std::max_element(ends.begin(), ends.end());
    }
    return work / (time * static_cast<double>(threads_));
  }

  void expect_every_pair() const {
    const std::vector<Range> parts = subtrees_of(share_of(kStripes, shape_.sp));
    for (size_t i = 0; i < queries_.size(); ++i)
      for (size_t head = 0; head < shape_.kv_heads; ++head) {
        // [rows][stripes in tree order]
        std::vector<size_t> met(queries_[i].tokens * shape_.group * kStripes);
        for (const AttentionTask& task : plan_->tasks()) {
          if (task.queries != i || task.kv_head != head) continue;
          const auto meet = [&](Range stripes) {
            for (size_t row = task.first; row < task.first + task.rows; ++row)
              for (size_t s = stripes.begin; s < stripes.end; ++s) ++met[row * kStripes + s];
          };
          if (task.part != AttentionTask::kAllParts)
            meet(plan_->stripes_of(task));
          else
            std::for_each(parts.begin(), parts.end(), meet);
        }
        for (size_t at = 0; at < met.size(); ++at) {
          const size_t seen = queries_[i].sees(at / kStripes / shape_.group);
          const size_t stripe = at % kStripes;
          const bool here = in_range(share_of(kStripes, shape_.sp), stripe);
          ASSERT_LE(met[at], here ? 1u : 0u) << "row " << at / kStripes << ", stripe " << stripe;
          if (here && stripe_at(stripe) * kBlockTokens < seen) {
            ASSERT_EQ(met[at], 1u) << "row " << at / kStripes << ", stripe " << stripe;
          }
        }
      }
  }

  void expect_apart() const {
    std::vector<Range> scores, states;
    for (const AttentionTask& task : plan_->tasks()) {
      if (shape_.type == AttentionType::STANDARD && plan_->keeps_scores() &&
          (task.slots > 0 || shape_.sp.count > 1))
        scores.push_back({task.scores, task.scores + task.cost * sizeof(float)});
      if (task.slots == 0) continue;
      const size_t floats = state_floats(shape_.head_dim, task.rows);
      const size_t slot = task.part_slot + task.piece;
      EXPECT_LT(slot, task.slots);
      EXPECT_LE(task.first_slot + task.slots, AttentionPlan::most_slots(threads_));
      states.push_back({task.states + slot * floats, task.states + (slot + 1) * floats});
    }
    expect_apart(scores, threads_ * plan_->thread_score_bytes());
    expect_apart(states, partial_floats(shape_, threads_));
  }

 private:
  static void expect_apart(std::vector<Range> ranges, size_t end) {
    std::sort(ranges.begin(), ranges.end(), [](Range a, Range b) { return a.begin < b.begin; });
    ranges.push_back({end, end});
    for (size_t i = 1; i < ranges.size(); ++i) EXPECT_LE(ranges[i - 1].end, ranges[i].begin);
  }

  AttentionShape shape_;
  KvCache cache_;
  std::vector<KvSequence> sequences_;
  std::vector<AttentionQueries> queries_;
  std::unique_ptr<AttentionPlan> plan_;
  size_t threads_;
};

constexpr PlanCase kFew[] = {
    {"a token of one head", 1, 1, 65535, 1},
    {"a token of 8 heads", 8, 2, 4095, 1},
    {"a token of 16 over one", 1, 16, 16383, 1},
    {"a prompt of one head", 1, 1, 0, 512},
    {"its last chunk", 1, 1, 3584, 512},
    {"17 tiles", 1, 1, 4000, 17 * kMostRows},
    {"32 rows", 8, 2, 2000, 32},
    {"32 rows of groups of 4", 8, 4, 2000, 32},
    {"12 rows", 8, 2, 1000, 12},
    {"a chunk of 8 heads", 8, 2, 4000, 512},
};
constexpr AttentionType kTypes[] = {AttentionType::STANDARD, AttentionType::STREAMING};

TEST(AttentionPlanTest, ThreadsHaveAboutAsMuchToDo) {
  for (const AttentionType type : kTypes)
    for (const PlanCase& c : kFew)
      for (const size_t threads : {2, 4, 8, 16}) {
        SCOPED_TRACE(testing::Message() << to_string(type) << ", " << c.name << ", " << threads);
        EXPECT_GT(Plan(c, type, threads).balance(), 0.88);
        // Of the first of two ranks; standard attention of many rows has no room for scores there.
        if (type == AttentionType::STREAMING || c.queries == 1) {
          EXPECT_GT(Plan(c, type, threads, {0, 2}).balance(), 0.88);
        }
      }
}

// Every row meets every key that this rank has and the tile's last row sees, once; pieces have
// places of their own.
TEST(AttentionPlanTest, CutsIntoDisjointParts) {
  for (const AttentionType type : kTypes)
    for (const RankOf sp : {RankOf{0, 1}, RankOf{0, 2}, RankOf{1, 3}})
      for (const PlanCase& c : kFew)
        for (const size_t threads : {1, 2, 5, 16}) {
          SCOPED_TRACE(testing::Message() << to_string(type) << ", " << c.name << ", " << threads
                                          << ", rank " << sp.index << " of " << sp.count);
          const Plan plan(c, type, threads, sp, 2);
          plan.expect_every_pair();
          plan.expect_apart();
          EXPECT_TRUE(threads > 1 || plan->shared().empty());
        }
}

}  // namespace
}  // namespace rill
