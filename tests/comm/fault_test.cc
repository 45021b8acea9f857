// SPDX-License-Identifier: Apache-2.0
// A number that changes on its way between ranks: `rill verify` must find it, and say where.
#include <gtest/gtest.h>

#include <algorithm>

#include "comm/thread_ranks.h"
#include "engine/trace.h"
#include "model/test_folder.h"

namespace rill {
namespace {

// Which message is changed: in the n-th call of one of two verbs.
struct Fault {
  enum class Verb { GATHER, EXCHANGE } verb;
  size_t index;
};

// Another communicator, on rank 0 with a fault: one bit of a float's mantissa.
class Faulty final : public Communicator {
 public:
  Faulty(std::unique_ptr<Communicator> inner, const Fault* fault)
      : Communicator(inner->rank(), inner->size()), inner_(std::move(inner)), fault_(fault) {}
  int ranks_here() const override { return inner_->ranks_here(); }
  std::unique_ptr<Communicator> split(int colour) override { return inner_->split(colour); }
  [[noreturn]] void end_job(int) override { throw std::runtime_error("the job has ended"); }

 private:
  void do_barrier() override { inner_->barrier(); }
  void do_broadcast(std::span<std::byte> bytes, int root) override {
    inner_->broadcast(bytes, root);
  }
  void do_all_gather(std::byte* all, std::span<const size_t> counts) override {
    inner_->all_gather(all, counts);
    if (now(Fault::Verb::GATHER, gathers_)) change(all + counts[0]);  // what rank 1 gave
  }
  void do_start(Ticket ticket, std::span<const Outgoing> out,
                std::span<const Incoming> in) override {
    last_[ticket] = in.back().bytes;
    tickets_[ticket] = inner_->start(out, in);
  }
  void do_finish(Ticket ticket) override {
    inner_->finish(tickets_[ticket]);
    if (!now(Fault::Verb::EXCHANGE, exchanges_)) return;
    ASSERT_FALSE(last_[ticket].empty());
    change(last_[ticket].last(sizeof(float)).data());
  }
  bool now(Fault::Verb verb, size_t& calls) const {
    return rank() == 0 && fault_->verb == verb && calls++ == fault_->index;
  }
  static void change(std::byte* value) { value[2] ^= std::byte{0x40}; }

  std::unique_ptr<Communicator> inner_;
  const Fault* fault_;
  size_t gathers_ = 0, exchanges_ = 0;
  Ticket tickets_[kMostStarted] = {};        // of inner_
  std::span<std::byte> last_[kMostStarted];  // messages that come in
};

// All ranks of the job, of whose two splits, by tp and by sp, one is faulty.
class FaultyWorld final : public Communicator {
 public:
  FaultyWorld(Communicator& inner, size_t split, const Fault& fault)
      : Communicator(inner.rank(), inner.size()), inner_(inner), faulty_(split), fault_(fault) {}
  int ranks_here() const override { return inner_.ranks_here(); }
  std::unique_ptr<Communicator> split(int colour) override {
    auto part = inner_.split(colour);
    if (splits_++ != faulty_) return part;
    return std::make_unique<Faulty>(std::move(part), &fault_);
  }
  [[noreturn]] void end_job(int) override { throw std::runtime_error("the job has ended"); }

 private:
  void do_barrier() override { inner_.barrier(); }
  void do_broadcast(std::span<std::byte> bytes, int root) override {
    inner_.broadcast(bytes, root);
  }
  void do_all_gather(std::byte* all, std::span<const size_t> counts) override {
    inner_.all_gather(all, counts);
  }
  void do_start(Ticket, std::span<const Outgoing> out, std::span<const Incoming> in) override {
    inner_.exchange(out, in);
  }
  void do_finish(Ticket) override {}
  Communicator& inner_;
  const size_t faulty_;
  const Fault fault_;
  size_t splits_ = 0;
};

enum class By { TP, SP };

// What `rill verify` says of two ranks against one process, as rank 0 sees it.
std::string verdict(By by, const Fault& fault) {
  const std::filesystem::path folder = golden_folder() / "tied-gqa-bf16";
  LoadOptions load;
  load.threads = 1;
  load.session = {.chunk = 256, .context = 256};
  std::vector<int32_t> prompt;
  for (int32_t i = 0; i < 200; ++i) prompt.push_back(i * 37 % 500);
  const auto trace_of = [&](const Ranks& ranks) {
    LoadOptions own = load;
    own.ranks = &ranks;
    const auto model = LoadedModel::load(folder, own);
    return trace(*model, {model->arithmetic, &model->kernels, &model->team, 256}, prompt, 3);
  };
  const Trace alone = trace_of(Ranks::single());
  std::string text;
  run_ranks(2, [&](Communicator& threads) {
    FaultyWorld world(threads, by == By::TP ? 0 : 1, fault);
    const Ranks ranks(world, by == By::TP ? 2 : 1, by == By::TP ? 1 : 2);
    const Trace mine = trace_of(ranks);
    if (world.rank() == 0) text = first_difference(ModelConfig::load(folder), alone, mine);
  });
  return text;
}

constexpr size_t kNever = 1000000;
constexpr auto kGather = Fault::Verb::GATHER, kExchange = Fault::Verb::EXCHANGE;

TEST(Fault, NoneIsFoundWhereNoneIs) {
  EXPECT_EQ(verdict(By::TP, {kExchange, kNever}), "");
  EXPECT_EQ(verdict(By::SP, {kExchange, kNever}), "");
}

// In a step over two ranks the embeddings are gathered, then the roots of o_proj and of down_proj
// exchanged in each layer, then the logits gathered.
TEST(Fault, TensorParallel) {
  EXPECT_NE(verdict(By::TP, {kGather, 0}).find("the embedding, token"), std::string::npos)
      << verdict(By::TP, {kGather, 0});
  EXPECT_EQ(verdict(By::TP, {kExchange, 0}),
            "layer 0 (of 0 to 1), token 199, in attention (queries, softmax or the output's "
            "projection)");
  EXPECT_EQ(verdict(By::TP, {kExchange, 1}),
            "layer 0 (of 0 to 1), token 199, in the feed-forward layer");
  EXPECT_EQ(verdict(By::TP, {kExchange, 3}),
            "layer 1 (of 0 to 1), token 199, in the feed-forward layer");
  EXPECT_EQ(verdict(By::TP, {kGather, 1}), "the final norm or the head, token 0");
}

// Queries, keys and values go to other ranks, then the states of attention.
TEST(Fault, SequenceParallel) {
  const auto expect_in = [](size_t exchange, const char* layer, const char* part) {
    const std::string text = verdict(By::SP, {kExchange, exchange});
    EXPECT_EQ(text.find(layer), 0u) << text;
    EXPECT_NE(text.find(part), std::string::npos) << text;
  };
  expect_in(0, "layer 0 ", ", by its keys and values (");
  expect_in(1, "layer 0 (of 0 to 1), token 99", ", in attention (");
  expect_in(2, "layer 1 ", ", by its keys and values (");
  expect_in(3, "layer 1 (of 0 to 1), token 99", ", in attention (");
}

}  // namespace
}  // namespace rill
