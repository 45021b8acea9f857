// SPDX-License-Identifier: Apache-2.0
// A tile of query rows against a run of keys: streaming (online softmax, states and their merge)
// and the two steps of standard attention. docs/arithmetic.md §9.
#pragma once
#include "kernels/attention_product_impl.h"

namespace rill {
namespace {

constexpr float kNoKey = -__builtin_inff();
constexpr float kLowest = -0x1.fffffep+127f;  // a maximum below it is that of no key at all

void raw_scores(const AttentionTile& t, float* s) {
  const AttentionFamily& family = attention_family(t);
  each_stretch(t, family, [&](size_t row, size_t rows) { family.score[rows](t, row, s); });
}
void values(const AttentionTile& t, const float* p, const ValueSink& sink) {
  const AttentionFamily& family = attention_family(t);
  each_stretch(t, family, [&](size_t row, size_t rows) { family.value[rows](t, row, p, sink); });
}

// ---- From scores to probabilities: row by row, part by part (of one pool block each) ----

// Calls f(floats of one row in one part, its keys, keys before it) for all parts.
template <class F>
RILL_INLINE void each_part(size_t keys, float* row, const F& f) {
  for (size_t before = 0; before < keys; before += kBlockTokens, row += kPartFloats)
    f(row, least(kBlockTokens, keys - before), before);
}

// Puts -infinity where a row does not see the key.
void mask(const AttentionTile& t, float* s) {
  for (size_t r = 0; r < t.rows; ++r)
    each_part(t.keys, s + r * kBlockTokens, [&](float* part, size_t keys, size_t before) {
      const ptrdiff_t visible = t.visible[r] - static_cast<ptrdiff_t>(before);
      for (size_t j = 0; j < keys; j += 16)
        if (visible < static_cast<ptrdiff_t>(j + 16))
          store(part + j,
                keep_lanes(load(part + j), visible - static_cast<ptrdiff_t>(j), splat(kNoKey)));
    });
}

RILL_INLINE V largest_of_row(const AttentionTile& t, float* s, size_t row) {
  V most = splat(kNoKey);
  each_part(t.keys, s + least(row, t.rows - 1) * kBlockTokens,
            [&](float* part, size_t keys, size_t) {
#pragma GCC unroll 4
              for (size_t j = 0; j < keys; j += 16) most = max(most, load(part + j));
            });
  return most;
}
// m[row] = the largest score of each row, four rows at a time; m has sixteen places.
void maxima(const AttentionTile& t, float* s, float* m) {
  store(m, splat(kNoKey));
  for (size_t r = 0; r < t.rows; r += 4)
    store_largest(m + r, largest_of_row(t, s, r), largest_of_row(t, s, r + 1),
                  largest_of_row(t, s, r + 2), largest_of_row(t, s, r + 3));
}

// exp2 for x <= 0 (§3), but for a NaN, which stays one: what is not finite in a query or key shows
// in the result instead of weighing nothing.
RILL_INLINE V exp2_of_score(V x) {
  return zero_below(x, splat(-126.0f), exp2_in_range(x));
}

// Stores 32 probabilities as the products read them and adds them to the lanes of l.
template <bool kBf16>
RILL_INLINE V put_probabilities(float* part, size_t j, V a, V b, V l) {
  if (kBf16) {
#if defined(RILL_BF16_DOT)
    return store_bf16_and_add(reinterpret_cast<uint16_t*>(part) + j, a, b, l);
#endif
    a = round_bf16(a);
    b = round_bf16(b);
  }
  store(part + j, a);
  store(part + j + 16, b);
  return add(add(l, a), b);
}

// p = exp2(s - m) in place of s, as an operand; l goes on in sixteen lanes.
template <bool kBf16>
RILL_INLINE V row_probabilities(float* row, size_t count, float m, V l) {
  const V most = max(splat(kLowest), splat(m));  // finite where there is no key
  each_part(count, row, [&](float* part, size_t keys, size_t) {
    const auto p = [&](size_t j)
                       RILL_INLINE_LAMBDA { return exp2_of_score(sub(load(part + j), most)); };
    size_t j = 0;
#pragma GCC unroll 2
    for (; j + 32 <= keys; j += 32) l = put_probabilities<kBf16>(part, j, p(j), p(j + 16), l);
    if (j < keys) l = put_probabilities<kBf16>(part, j, p(j), zero(), l);
  });
  return l;
}
void probabilities(const AttentionTile& t, float* s, const float* m, bool fresh, float* l) {
  for (size_t r = 0; r < t.rows; ++r) {
    float* row = s + r * kBlockTokens;
    const V from = fresh ? zero() : load(l + r * 16);
    store(l + r * 16, t.operand == Operand::BF16
                          ? row_probabilities<true>(row, t.keys, m[r], from)
                          : row_probabilities<false>(row, t.keys, m[r], from));
  }
}

// ---- States ----

// Adds the join of state m with an earlier state: the factors of both, and m after it. A side
// without keys is the identity. It holds +0 in l and o, and a factor of -0 makes that -0, which
// added to anything changes no bit.
RILL_INLINE V plan_join(V earlier, V m, float* f, float* g) {
  const V most = max(earlier, m), lowest = splat(kLowest), none = splat(-0.0f);
  store(g, where_ge(m, lowest, exp2(sub(m, most)), none));
  store(f, where_ge(earlier, lowest, exp2(sub(earlier, most)), where_ge(m, lowest, none, zero())));
  return most;
}

RILL_INLINE void join_sums(const float* earlier, const float* l, size_t n, float f, float g,
                           float* out) {
  const V fv = splat(f), gv = splat(g);
  for (size_t i = 0; i < n; i += 16)
    store(out + i, fma(load(earlier + i), fv, mul(load(l + i), gv)));
}

// Streaming: the state of the tile's keys from nothing, joined with earlier[0], then the result
// with earlier[1], and so on.
void attend(const AttentionTile& t, const SoftmaxState* earlier, size_t count, SoftmaxState out) {
  float* const s = reinterpret_cast<float*>(t.scratch);
  alignas(64) float largest[16], l[kMostRows * 16];
  raw_scores(t, s);
  if (t.visible) mask(t, s);
  maxima(t, s, largest);
  probabilities(t, s, largest, true, l);
  Joins joins;
  joins.earlier = earlier;
  joins.count = count;
  V m = load(largest);
  for (size_t i = 0; i < count; ++i) {
    m = plan_join(load(earlier[i].m), m, joins.f[i], joins.g[i]);
    for (size_t r = 0; r < t.rows; ++r)
      join_sums(earlier[i].l + r * 16, l + r * 16, 16, joins.f[i][r], joins.g[i][r], l + r * 16);
  }
  values(t, s, {out.o, false, &joins});
  for (size_t r = 0; r < t.rows; ++r) store(out.l + r * 16, load(l + r * 16));
  store(out.m, m);
}

void merge(SoftmaxState a, SoftmaxState b, size_t rows, size_t head_dim) {
  const size_t width = padded(head_dim);
  alignas(64) float f[16], g[16];
  const V m = plan_join(load(a.m), load(b.m), f, g);
  for (size_t r = 0; r < rows; ++r) {
    join_sums(a.o + r * width, b.o + r * width, width, f[r], g[r], a.o + r * width);
    join_sums(a.l + r * 16, b.l + r * 16, 16, f[r], g[r], a.l + r * 16);
  }
  store(a.m, m);
}

void scores(const AttentionTile& t, float* s, float* m) {
  raw_scores(t, s);
  if (t.visible) mask(t, s);
  alignas(64) float largest[16];
  maxima(t, s, largest);
  for (size_t r = 0; r < t.rows; ++r) m[r] = m[r] > largest[r] ? m[r] : largest[r];
}

void accumulate(const AttentionTile& t, float* s, SoftmaxState state) {
  probabilities(t, s, state.m, false, state.l);
  values(t, s, {state.o, true, nullptr});
}

void add_states(SoftmaxState a, SoftmaxState b, size_t rows, size_t head_dim) {
  const size_t width = padded(head_dim);
  for (size_t i = 0; i < rows * 16; i += 16) store(a.l + i, add(load(a.l + i), load(b.l + i)));
  for (size_t i = 0; i < rows * width; i += 16) store(a.o + i, add(load(a.o + i), load(b.o + i)));
}

void finish(SoftmaxState state, size_t row, size_t head_dim, float* out) {
  const V sum = splat(sum_tree(load(state.l + row * 16)));
  const float* o = state.o + row * padded(head_dim);
  for (size_t i = 0; i < head_dim; i += 16)
    store_part(out + i, div(load(o + i), sum), least(16, head_dim - i));
}

}  // namespace
}  // namespace rill
