// SPDX-License-Identifier: Apache-2.0
// A tile of query rows against a run of keys: streaming (online softmax, states and their merge)
// and the two steps of standard attention. docs/arithmetic.md §9.
#pragma once
#include "kernels/attention_family_impl.h"
#include "kernels/reading.h"
#if defined(RILL_AMX)
#include "kernels/tile_attention_impl.h"
#endif

namespace rill {
namespace {

#if !defined(RILL_AMX)
struct AttentionTiles {  // there are none
  explicit AttentionTiles(const AttentionTile&) {}
};
#endif

constexpr float kNoKey = -__builtin_inff();
constexpr float kLowest = -0x1.fffffep+127f;  // a maximum below it is that of no key at all

RILL_INLINE const float* value_scales(const AttentionTile& t, const std::byte* v) {
  const char* block = reinterpret_cast<const char*>(v);
  return reinterpret_cast<const float*>(block + kBlockTokens * padded(t.head_dim));
}

// Of each block after this tile's first: they are needed before its values are.
RILL_INLINE void ask_for_value_scales(const AttentionTile& t) {
  if (t.kv != Format::INT8) return;
  for (size_t part = 1; (part - 1) * kBlockTokens < t.keys; ++part) {
    const bool more = part * kBlockTokens < t.keys;
    const float* scales = value_scales(t, more ? t.v[part] : t.next_v);
    for (size_t key = 0; key < kBlockTokens; key += 16) __builtin_prefetch(scales + key, 0, 2);
  }
}

void raw_scores(const AttentionTile& t, float* s) {
#if defined(RILL_AMX)
  if (fits_tiles(t)) return scores_on_tiles(t, s);
#endif
  ask_for_value_scales(t);
  scores_by_stretches(t, s);
}
void values(const AttentionTile& t, const float* p, const ValueSink& sink) {
#if defined(RILL_AMX)
  if (fits_tiles(t)) return values_on_tiles(t, p, sink);
#endif
  values_by_stretches(t, p, sink);
}

// ---- From scores to probabilities: row by row, part by part (of one pool block each) ----

// Calls f(floats of one row in one part, its keys, keys before it) for all parts.
template <class F>
RILL_INLINE void each_part(const AttentionTile& t, float* row, const F& f) {
  const size_t stride = part_floats(t);
  for (size_t before = 0; before < t.keys; before += kBlockTokens, row += stride)
    f(row, least(kBlockTokens, t.keys - before), before);
}

// Puts -infinity where a row does not see the key.
void mask(const AttentionTile& t, float* s) {
  for (size_t r = 0; r < t.rows; ++r)
    each_part(t, s + r * kBlockTokens, [&](float* part, size_t keys, size_t before) {
      const ptrdiff_t visible = t.visible[r] - static_cast<ptrdiff_t>(before);
      for (size_t j = 0; j < keys; j += 16)
        if (visible < static_cast<ptrdiff_t>(j + 16))
          store(part + j,
                keep_lanes(load(part + j), visible - static_cast<ptrdiff_t>(j), splat(kNoKey)));
    });
}

RILL_INLINE V largest_of_row(const AttentionTile& t, float* s, size_t row) {
  V most = splat(kNoKey);
  each_part(t, s + least(row, t.rows - 1) * kBlockTokens, [&](float* part, size_t keys, size_t) {
#pragma GCC unroll 4
    for (size_t j = 0; j < keys; j += 16) most = max(most, load(part + j));
  });
  return most;
}
// Calls f(first row) for each sixteen of a tile's rows.
template <class F>
RILL_INLINE void each_sixteen(size_t rows, const F& f) {
  for (size_t r = 0; r < rows; r += 16) f(r);
}

// m[row] = the largest score of each row, four rows at a time; m has room for a multiple of 16.
void maxima(const AttentionTile& t, float* s, float* m) {
  each_sixteen(t.rows, [&](size_t r) { store(m + r, splat(kNoKey)); });
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
template <Operand kOperand>
RILL_INLINE V put_probabilities(float* part, size_t j, V a, V b, V l) {
#if defined(RILL_BF16_DOT) || defined(RILL_AMX)
  if (bf16_rows(kOperand))
    return store_bf16_and_add(reinterpret_cast<uint16_t*>(part) + j, a, b, l);
#endif
  if (rounds_to_bf16(kOperand)) {
    a = round_bf16(a);
    b = round_bf16(b);
  }
  store(part + j, a);
  store(part + j + 16, b);
  return add(add(l, a), b);
}

// p = exp2(s - m) in place of s, as an operand; l goes on in sixteen lanes.
template <Operand kOperand>
V row_probabilities(const AttentionTile& t, float* row, float m, V l) {
  const V most = max(splat(kLowest), splat(m));  // finite where there is no key
  each_part(t, row, [&](float* part, size_t keys, size_t) {
    const auto p = [&](size_t j)
                       RILL_INLINE_LAMBDA { return exp2_of_score(sub(load(part + j), most)); };
    size_t j = 0;
#pragma GCC unroll 2
    for (; j + 32 <= keys; j += 32) l = put_probabilities<kOperand>(part, j, p(j), p(j + 16), l);
    if (j < keys) l = put_probabilities<kOperand>(part, j, p(j), zero(), l);
  });
  return l;
}

// Stores 32 probabilities times the scales of their values as codes, from code `at` on.
RILL_INLINE void put_weights(char* row, size_t at, V a, V b) {
  const uint32_t bits = largest_magnitude(a, b);
  float most;
  __builtin_memcpy(&most, &bits, 4);
  const float inverse = 32767.0f / most;
  const bool usable = inverse > 0.0f && inverse <= 0x1.fffffep+127f;  // false for NaN
  reinterpret_cast<float*>(row + kWeightScales)[at / 32] = most / 32767.0f;
  const V factor = splat(usable ? inverse : 0.0f);
  store_weights(row, at, usable ? round_even(mul(a, factor)) : zero());
  store_weights(row, at + 16, usable ? round_even(mul(b, factor)) : zero());
}

// The same for int8 values. Codes are kept by runs of 32 of the cache's keys: those of a run that
// are not the tile's have the code 0.
V row_weights(const AttentionTile& t, float* row, float m, V l) {
  const V most = max(splat(kLowest), splat(m));
  const size_t skipped = t.first % 32;  // 16 or 0
  each_part(t, row, [&](float* part, size_t keys, size_t before) {
    const float* scales = value_scales(t, t.v[before / kBlockTokens]) + t.first;
    V w[kBlockTokens / 16];  // all of them before the codes overwrite the scores
#pragma GCC unroll 4
    for (size_t i = 0; i < kBlockTokens / 16; ++i) {
      w[i] = zero();
      if (16 * i >= keys) continue;
      const V p = exp2_of_score(sub(load(part + 16 * i), most));
      l = add(l, p);
      w[i] = mul(p, load(scales + 16 * i));
    }
    char* const codes = reinterpret_cast<char*>(part);
    put_weights(codes, 0, skipped ? zero() : w[0], skipped ? w[0] : w[1]);
    if (keys > 32) put_weights(codes, 32, w[2], w[3]);
  });
  return l;
}
using RowProbabilities = V (*)(const AttentionTile& t, float* row, float m, V l);
void probabilities(const AttentionTile& t, float* s, const float* m, bool fresh, float* l) {
  const RowProbabilities of_row = t.kv == Format::INT8         ? row_weights
                                  : t.operand == Operand::BF16 ? row_probabilities<Operand::BF16>
                                  : t.operand == Operand::BF16X32
                                      ? row_probabilities<Operand::BF16X32>
                                      : row_probabilities<Operand::F32>;
  for (size_t r = 0; r < t.rows; ++r)
    store(l + r * 16, of_row(t, s + r * kBlockTokens, m[r], fresh ? zero() : load(l + r * 16)));
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

// What is known of a tile's rows between its scores and its values.
struct Weighed {
  alignas(64) float largest[kMostQueries], l[kMostQueries * 16];
  Joins joins;
};

// Scores become probabilities, and the joins are planned.
void weigh(const AttentionJob& job, Weighed& rows) {
  const AttentionTile& t = job.tile;
  float* const s = reinterpret_cast<float*>(t.scratch);
  if (t.visible) mask(t, s);
  maxima(t, s, rows.largest);
  probabilities(t, s, rows.largest, true, rows.l);
  Joins& joins = rows.joins;
  joins.earlier = job.earlier;
  joins.count = job.earlier_count;
  for (size_t i = 0; i < joins.count; ++i) {
    const SoftmaxState& earlier = joins.earlier[i];
    each_sixteen(t.rows, [&](size_t r) {
      store(rows.largest + r,
            plan_join(load(earlier.m + r), load(rows.largest + r), joins.f[i] + r, joins.g[i] + r));
    });
    for (size_t r = 0; r < t.rows; ++r)
      join_sums(earlier.l + r * 16, rows.l + r * 16, 16, joins.f[i][r], joins.g[i][r],
                rows.l + r * 16);
  }
}

void store_sums(const AttentionJob& job, const Weighed& rows) {
  for (size_t r = 0; r < job.tile.rows; ++r) store(job.out.l + r * 16, load(rows.l + r * 16));
  each_sixteen(job.tile.rows, [&](size_t r) { store(job.out.m + r, load(rows.largest + r)); });
}

// Streaming: the state of the tile's keys from nothing, joined with earlier[0], then the result
// with earlier[1], and so on.
void attend_one(const AttentionJob& job) {
  const AttentionTiles tiles(job.tile);
  Weighed rows;
  raw_scores(job.tile, reinterpret_cast<float*>(job.tile.scratch));
  weigh(job, rows);
  values(job.tile, reinterpret_cast<float*>(job.tile.scratch), {job.out.o, false, &rows.joins});
  store_sums(job, rows);
}

void attend_together(const AttentionFamily& family, const AttentionJob* jobs, size_t count) {
  const size_t rows = jobs->tile.rows;
  Weighed weighed[kMostTogether];
  const Joins* joins[kMostTogether];
  for (size_t i = 0; i < count; ++i) ask_for_value_scales(jobs[i].tile);
  family.scores_together[rows](jobs, count);
  for (size_t i = 0; i < count; ++i) {
    weigh(jobs[i], weighed[i]);
    joins[i] = &weighed[i].joins;
  }
  family.values_together[rows](jobs, count, joins);
  for (size_t i = 0; i < count; ++i) store_sums(jobs[i], weighed[i]);
}

void attend(const AttentionJob* jobs, size_t count) {
  if (count == 1) return attend_one(*jobs);
  const AttentionFamily& family = attention_family(jobs->tile);
  if (family.scores_together[jobs->tile.rows] && !reads_best_unaided())
    return attend_together(family, jobs, count);
  for (size_t i = 0; i < count; ++i) {  // what is read next is then another one's
    AttentionJob job = jobs[i];
    job.tile.next_k = i + 1 < count ? jobs[i + 1].tile.k[0] : jobs[0].tile.next_k;
    job.tile.next_v = i + 1 < count ? jobs[i + 1].tile.v[0] : jobs[0].tile.next_v;
    attend_one(job);
  }
}

void merge(SoftmaxState a, SoftmaxState b, size_t rows, size_t head_dim) {
  const size_t width = padded(head_dim);
  alignas(64) float f[kMostQueries], g[kMostQueries];
  each_sixteen(rows, [&](size_t r) {
    store(a.m + r, plan_join(load(a.m + r), load(b.m + r), f + r, g + r));
  });
  for (size_t r = 0; r < rows; ++r) {
    join_sums(a.o + r * width, b.o + r * width, width, f[r], g[r], a.o + r * width);
    join_sums(a.l + r * 16, b.l + r * 16, 16, f[r], g[r], a.l + r * 16);
  }
}

void scores(const AttentionTile& t, float* s, float* m) {
  const AttentionTiles tiles(t);
  raw_scores(t, s);
  if (t.visible) mask(t, s);
  alignas(64) float largest[kMostQueries];
  maxima(t, s, largest);
  for (size_t r = 0; r < t.rows; ++r) m[r] = m[r] > largest[r] ? m[r] : largest[r];
}

void accumulate(const AttentionTile& t, float* s, SoftmaxState state) {
  const AttentionTiles tiles(t);
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
