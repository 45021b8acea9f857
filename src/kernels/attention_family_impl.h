// SPDX-License-Identifier: Apache-2.0
// Which functions of attention_product_impl.h a tile is met with, and how its rows are cut into
// stretches that fit the registers.
#pragma once
#include "kernels/attention_product_impl.h"

namespace rill {

// The functions of one kind of scores and one of values by number of rows. In a tile of several
// times score_rows `tall` takes most rows, or all: it reads floats. If K and V are not floats,
// `first` takes some rows beforehand and leaves them as floats.
struct AttentionFamily {
  int score_rows, value_rows;  // the most
  ScoreFunction score[kMostRows + 1];
  ValueFunction value[kMostRows + 1];
  // Of several tiles at a time; null where one at a time is as fast.
  ScoresTogether scores_together[kFewQueries + 1];
  ValuesTogether values_together[kFewQueries + 1];
  const AttentionFamily *first, *tall;
};

namespace {

template <class Kind, int R = Kind::Product::kRows>
constexpr void fill_scores(AttentionFamily& family) {
  if constexpr (R > 0) {
    family.score[R] = score_rows<Kind, R>;
    fill_scores<Kind, R - 1>(family);
  }
}
template <class Kind, int R = Kind::Product::kRows>
constexpr void fill_values(AttentionFamily& family) {
  if constexpr (R > 0) {
    family.value[R] = value_rows<Kind, R>;
    fill_values<Kind, R - 1>(family);
  }
}
// Sums go through the first-level cache at every turn. Where registers are few that costs more than
// several streams gain (a Granite Rapids with AVX2 is a fifth slower), and runs take turns too long
// to gain anything.
template <class Kind>
constexpr bool meets_together() {
  if constexpr (requires { Kind::kTurn; })
    return kRegisters >= 32 && Kind::kCopy == Copy::NONE;
  else
    return false;
}
template <class Scores, class Values, int R>
constexpr void fill_together(AttentionFamily& family) {
  if constexpr (R > 0) {
    if constexpr (R <= Scores::Product::kRows && R <= Values::Product::kRows) {
      family.scores_together[R] = scores_together<Scores, R>;
      family.values_together[R] = values_together<Values, R>;
    }
    fill_together<Scores, Values, R - 1>(family);
  }
}
template <class Scores, class Values = Scores>
constexpr AttentionFamily attention_family_of(const AttentionFamily* first = nullptr,
                                              const AttentionFamily* tall = nullptr) {
  AttentionFamily family{};
  family.score_rows = Scores::Product::kRows;
  family.value_rows = Values::Product::kRows;
  family.first = first;
  family.tall = tall;
  fill_scores<Scores>(family);
  fill_values<Values>(family);
  if constexpr (meets_together<Scores>()) fill_together<Scores, Values, kFewRows>(family);
  return family;
}

// A product whose weights are floats already, in tiles that load least for each multiplication: of
// 24, 6 x 4 loads 10 times and 12 x 2 14 times, which a Xeon's loads just do not keep up with.
template <class P>
struct Tall : P {
  static constexpr int kRows = kRegisters >= 32 ? 6 : P::kRows;
};

template <class P, Copy kCopy = Copy::NONE>
using Fp32Kind = FloatKind<P, sizeof(float), kCopy>;
template <bool kOddFirst>
using TallPairs = Fp32Kind<Tall<PairProduct<kOddFirst, LoadFloatPairs>>, Copy::READS>;
template <bool kOddFirst>
using FirstPairs = Fp32Kind<PairProduct<kOddFirst, KeepPairs>, Copy::KEEPS>;

}  // namespace

RILL_FLOATS(AttentionFamily, kTallF32,
            attention_family_of<Fp32Kind<Tall<PlainProduct<LoadF32>>, Copy::READS>>())
RILL_FLOATS(AttentionFamily, kAttendF32,
            attention_family_of<Fp32Kind<PlainProduct<LoadF32>>>(nullptr, &kTallF32))
RILL_FLOATS(AttentionFamily, kFirstF16,
            attention_family_of<Fp32Kind<PlainProduct<KeepF16>, Copy::KEEPS>>())
RILL_FLOATS(AttentionFamily, kAttendF16,
            attention_family_of<Fp32Kind<PlainProduct<LoadF16>>>(&kFirstF16, &kTallF32))
RILL_FLOATS(AttentionFamily, kTallAscending, attention_family_of<TallPairs<false>>())
RILL_FLOATS(AttentionFamily, kFirstAscending, attention_family_of<FirstPairs<false>>())
RILL_FLOATS(AttentionFamily, kAttendAscending,
            attention_family_of<Fp32Kind<PairProduct<false>>>(&kFirstAscending, &kTallAscending))
#if defined(RILL_BF16_DOT)
RILL_ODD_FIRST(AttentionFamily, kAttendOddFirst,
               attention_family_of<FloatKind<Bf16Product, sizeof(uint16_t)>>())
#else
RILL_ODD_FIRST(AttentionFamily, kTallOddFirst, attention_family_of<TallPairs<true>>())
RILL_ODD_FIRST(AttentionFamily, kFirstOddFirst, attention_family_of<FirstPairs<true>>())
RILL_ODD_FIRST(AttentionFamily, kAttendOddFirst,
               attention_family_of<Fp32Kind<PairProduct<true>>>(&kFirstOddFirst, &kTallOddFirst))
#endif
RILL_RUNS(AttentionFamily, kAttendRuns, attention_family_of<RunKind>())
RILL_CODES(AttentionFamily, kAttendInt8, attention_family_of<CodeScores, CodeValues>())

namespace {

inline const AttentionFamily& attention_family(const AttentionTile& t) {
  if (t.kv == Format::F32) return kAttendF32;
  if (t.kv == Format::F16) return kAttendF16;
  if (t.kv == Format::INT8) return kAttendInt8;
  return t.operand == Operand::BF16      ? kAttendOddFirst
         : t.operand == Operand::BF16X32 ? kAttendRuns
                                         : kAttendAscending;
}

// How many of the tile's keys are seen by any of some rows, rounded up to 16.
RILL_INLINE size_t keys_seen(const AttentionTile& t, size_t row, size_t rows) {
  if (!t.visible) return t.keys;
  int32_t most = 0;
  for (size_t r = row; r < row + rows; ++r) most = most > t.visible[r] ? most : t.visible[r];
  return least(t.keys, (static_cast<size_t>(most) + 15) / 16 * 16);
}

// Calls f(stretch) for stretches of the first `rows` rows, of nearly equal height of at most
// `most`, a register tile's.
template <class F>
RILL_INLINE void each_stretch(const AttentionTile& t, size_t rows, int most, const F& f) {
  const size_t count = (rows + static_cast<size_t>(most) - 1) / static_cast<size_t>(most);
  for (size_t i = 0; i < count; ++i) {
    const size_t first = rows * i / count, last = rows * (i + 1) / count;
    f(Stretch{first, last - first, keys_seen(t, first, last - first)});
  }
}

// How a tile's rows meet its keys: `first_rows` of them at the end, which see most, before the
// others.
struct TilePlan {
  explicit TilePlan(const AttentionTile& t)
      : first(&attention_family(t)), others(first), first_rows(0), copy(nullptr) {
    const auto most = static_cast<size_t>(first->score_rows);
    const bool widens = first->first;
    const bool fits = t.scratch && widened_bytes(t.kv, t.operand, t.head_dim, t.keys) > 0;
    if (!first->tall || t.rows <= most || (widens && !fits)) return;
    others = first->tall;
    if (!widens) return;
    first_rows = most;
    first = first->first;
    // After the scores.
    copy = reinterpret_cast<char*>(t.scratch) + attention_scratch_bytes(t.keys, t.rows);
  }
  size_t rest(const AttentionTile& t) const { return t.rows - first_rows; }
  // They meet all keys, so that the copy is whole.
  Stretch first_stretch(const AttentionTile& t) const { return {rest(t), first_rows, t.keys}; }

  const AttentionFamily *first, *others;
  size_t first_rows;
  char* copy;  // of K, and then of V; null where they are floats
};

void scores_by_stretches(const AttentionTile& t, float* s) {
  const TilePlan plan(t);
  for (size_t part = 0; part * kBlockTokens < t.keys; ++part) {
    const std::byte* k = t.k[part];
    if (plan.first_rows > 0)
      plan.first->score[plan.first_rows](t, plan.first_stretch(t), {part, k, plan.copy}, s);
    // Each part's copy is in the same place, which stays in a near cache.
    if (plan.copy) k = reinterpret_cast<const std::byte*>(plan.copy);
    each_stretch(t, plan.rest(t), plan.others->score_rows,
                 [&](const Stretch& stretch) RILL_INLINE_LAMBDA {
                   if (stretch.keys > part * kBlockTokens)
                     plan.others->score[stretch.rows](t, stretch, {part, k, nullptr}, s);
                 });
  }
}

void values_by_stretches(const AttentionTile& t, const float* p, const ValueSink& sink) {
  const TilePlan plan(t);
  const std::byte* const* v = t.v;
  const std::byte* copied[kMostBlockTokens / kBlockTokens];
  if (plan.first_rows > 0)
    plan.first->value[plan.first_rows](t, plan.first_stretch(t), {v, plan.copy}, p, sink);
  if (plan.copy) {
    const size_t part_bytes = attention_scratch_bytes(kBlockTokens, padded(t.head_dim));
    for (size_t part = 0; part * kBlockTokens < t.keys; ++part)
      copied[part] = reinterpret_cast<const std::byte*>(plan.copy) + part * part_bytes;
    v = copied;
  }
  each_stretch(t, plan.rest(t), plan.others->value_rows,
               [&](const Stretch& stretch) RILL_INLINE_LAMBDA {
                 plan.others->value[stretch.rows](t, stretch, {v, nullptr}, p, sink);
               });
}

}  // namespace
}  // namespace rill
