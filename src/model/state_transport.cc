// SPDX-License-Identifier: Apache-2.0
#include "model/state_transport.h"

#include <algorithm>
#include <numeric>
#include <span>

#include "base/buffer.h"
#include "model/shared_areas.h"

namespace rill {
namespace {

// Ranks of one machine find each other's states and maxima where they were put (SharedAreas).
class StatesInSharedMemory final : public StateTransport {
 public:
  StatesInSharedMemory(const Ranks& ranks, std::unique_ptr<SharedAreas> areas)
      : me_(ranks.sp_place().index), areas_(std::move(areas)) {}

  static size_t area_floats(const Sizes& sizes) {
    return std::max(sizes.maxima, *std::max_element(sizes.made.begin(), sizes.made.end()));
  }

  void plan(const Step& step) override {
    sent_ = 0;
    for (size_t rank = 0; rank < step.sent.size(); ++rank)
      if (rank != me_) sent_ += length(step.sent[rank]);
    maxima_ = step.maxima;
  }
  float* own(size_t place) const override { return areas_->own() + place; }
  const float* of(size_t rank, size_t place) const override { return areas_->of(rank) + place; }
  void start() override { areas_->publish(areas_->others(), sent_); }
  void finish() override {}

  float* own_maxima() const override { return areas_->own(); }
  const float* maxima(size_t rank) const override { return areas_->of(rank); }
  void share_maxima() override { areas_->publish(areas_->others(), areas_->others() * maxima_); }

 private:
  const size_t me_;
  const std::unique_ptr<SharedAreas> areas_;
  size_t sent_ = 0, maxima_ = 0;  // of a step
};

// Ranks that send each other messages.
class StatesByMessages final : public StateTransport {
 public:
  StatesByMessages(const Ranks& ranks, const Sizes& sizes)
      : ranks_(ranks.sp()),
        me_(ranks.sp_place()),
        memory_(bytes(sizes, me_.index), "what ranks exchange"),
        own_(memory_.as<float>()),
        maxima_(own_ + sizes.made[me_.index]),
        step_{std::vector<Range>(me_.count), std::vector<Range>(me_.count), 0},
        maxima_bytes_(me_.count) {
    float* at = maxima_ + me_.count * sizes.maxima;
    for (size_t rank = 0; rank < me_.count; ++rank) {
      received_.push_back(at);
      at += rank == me_.index ? 0 : sizes.joined[rank];
    }
    out_.reserve(me_.count);
    in_.reserve(me_.count);
  }

  static size_t bytes(const Sizes& sizes, size_t me) {
    const size_t joined = std::accumulate(sizes.joined.begin(), sizes.joined.end(), size_t{0});
    return (sizes.made[me] + joined - sizes.joined[me] + sizes.made.size() * sizes.maxima) *
           sizeof(float);
  }

  void plan(const Step& step) override { step_ = step; }
  float* own(size_t place) const override { return own_ + place; }
  const float* of(size_t rank, size_t place) const override {
    return rank == me_.index ? own_ + place : received_[rank] + (place - step_.joined[rank].begin);
  }
  void start() override {
    out_.clear();
    in_.clear();
    for (size_t rank = 0; rank < me_.count; ++rank) {
      if (rank == me_.index) continue;
      const Range sent = step_.sent[rank];
      out_.push_back(
          {static_cast<int>(rank), std::as_bytes(std::span(own_ + sent.begin, length(sent)))});
      in_.push_back({static_cast<int>(rank), std::as_writable_bytes(std::span(
                                                 received_[rank], length(step_.joined[rank])))});
    }
    started_ = ranks_.start(out_, in_);
  }
  void finish() override { ranks_.finish(started_); }

  // [ranks][maxima]
  float* own_maxima() const override { return maxima_ + me_.index * step_.maxima; }
  const float* maxima(size_t rank) const override { return maxima_ + rank * step_.maxima; }
  void share_maxima() override {
    maxima_bytes_.assign(me_.count, step_.maxima * sizeof(float));
    ranks_.all_gather(reinterpret_cast<std::byte*>(maxima_), maxima_bytes_);
  }

 private:
  Communicator& ranks_;
  const RankOf me_;
  Buffer memory_;
  float *const own_, *const maxima_;
  std::vector<float*> received_;  // [ranks]
  Step step_;
  std::vector<size_t> maxima_bytes_;  // [ranks]
  std::vector<Outgoing> out_;
  std::vector<Incoming> in_;
  Communicator::Ticket started_ = 0;
};

}  // namespace

std::unique_ptr<StateTransport> StateTransport::make(const Ranks& ranks, const Sizes& sizes) {
  if (ranks.sp_place().count == 1) return nullptr;
  const size_t floats = StatesInSharedMemory::area_floats(sizes);
  if (auto areas = SharedAreas::make(ranks.sp(), floats))
    return std::make_unique<StatesInSharedMemory>(ranks, std::move(areas));
  return std::make_unique<StatesByMessages>(ranks, sizes);
}

size_t StateTransport::bytes(const Sizes& sizes, size_t me) {
  if (sizes.made.size() == 1) return 0;
  return std::max(StatesByMessages::bytes(sizes, me),
                  SharedAreas::bytes(StatesInSharedMemory::area_floats(sizes)));
}

}  // namespace rill
