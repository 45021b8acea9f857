// SPDX-License-Identifier: Apache-2.0
// A tile of query rows against a run of keys: streaming (online softmax, states and their merge)
// and the two steps of standard attention. docs/arithmetic.md §9. Included after pointwise_impl.h.
#pragma once
#include "kernels/pointwise_impl.h"

namespace rill {
namespace {

constexpr size_t kSlicePanels = 8;  // panels of V that one P·V product makes: 128 dimensions
constexpr size_t kSlice = kSlicePanels * kPanel;
constexpr float kNoKey = -__builtin_inff();

inline size_t padded(size_t head_dim) {
  return (head_dim + 15) / 16 * 16;
}
inline size_t least(size_t a, size_t b) {
  return a < b ? a : b;
}
// Bytes of one probability as the products read it, and from row to row.
inline size_t probability_bytes(Operand operand) {
  return operand == Operand::BF16 && kBf16Dot ? 2 : 4;
}
inline size_t probability_stride(const AttentionTile& t) {
  return t.keys * probability_bytes(t.operand) + 64;
}

// s[row][key] = q · k for all keys of the tile.
void raw_scores(const AttentionTile& t, float* s, size_t stride) {
  const ProductFamily& products = family(t.kv, t.operand);
  ProductJob job{};
  job.x = reinterpret_cast<const char*>(t.q);
  job.x_stride = t.q_stride_bytes;
  job.w_stride = panel_bytes(t.kv, t.head_dim);
  job.k_end = t.head_dim;
  job.out_stride = stride;
  for (size_t key = 0; key < t.keys;) {
    const size_t place = t.first + key, offset = place % kBlockTokens;
    const size_t n = least(kBlockTokens - offset, t.keys - key);
    job.w =
        reinterpret_cast<const char*>(t.k[place / kBlockTokens]) + offset / kPanel * job.w_stride;
    job.panels = n / kPanel;
    job.out = s + key;
    run_product(products, job, t.rows);
    key += n;
  }
}

// -infinity where the row does not see the key; the row's maximum.
RILL_INLINE float mask_row(float* s, size_t keys, ptrdiff_t visible) {
  V most = splat(kNoKey);
  for (size_t j = 0; j < keys; j += 16) {
    V x = load(s + j);
    if (visible < static_cast<ptrdiff_t>(j + 16)) {
      x = keep_lanes(x, visible - static_cast<ptrdiff_t>(j), splat(kNoKey));
      store(s + j, x);
    }
    most = max(most, x);
  }
  return max_lane(most);
}

// p = exp2(s - m), rounded under bf16 compute, written as an operand; l goes on in sixteen lanes.
RILL_INLINE V probabilities(Operand operand, const float* s, size_t keys, float m, char* p, V l) {
  const V most = splat(m);
  for (size_t j = 0; j < keys; j += 16) {
    V x = exp2(sub(load(s + j), most));
    if (operand == Operand::BF16) x = round_bf16(x);
    l = add(l, x);
    if (operand == Operand::BF16 && kBf16Dot)
      store_bf16(reinterpret_cast<uint16_t*>(p) + j, x);
    else
      store(reinterpret_cast<float*>(p) + j, x);
  }
  return l;
}

// out[row][dimension] (+)= sum of p * v over the tile's keys, for a slice of dimensions.
void values(const AttentionTile& t, const char* p, size_t slice, float* out, size_t stride,
            bool accumulate) {
  const ProductFamily& products = family(t.kv, t.operand);
  const size_t key_bytes = panel_bytes(t.kv, 2) / 2;  // of sixteen dimensions
  ProductJob job{};
  job.x_stride = probability_stride(t);
  job.w_stride = panel_bytes(t.kv, kBlockTokens);
  job.panels = least(kSlicePanels, padded(t.head_dim) / kPanel - slice);
  job.out = out;
  job.out_stride = stride;
  job.accumulate = accumulate;
  for (size_t key = 0; key < t.keys;) {
    const size_t place = t.first + key, offset = place % kBlockTokens;
    const size_t n = least(kBlockTokens - offset, t.keys - key);
    job.x = p + key * probability_bytes(t.operand);
    job.w = reinterpret_cast<const char*>(t.v[place / kBlockTokens]) + slice * job.w_stride +
            offset * key_bytes;
    job.k_end = n;
    run_product(products, job, t.rows);
    job.accumulate = true;
    key += n;
  }
}

// One row of merge(a, b), a earlier; f and g are the factors of a and b.
RILL_INLINE void merge_row(float* a, const float* b, size_t n, float f, float g) {
  const V fv = splat(f), gv = splat(g);
  for (size_t i = 0; i < n; i += 16) store(a + i, fma(load(a + i), fv, mul(load(b + i), gv)));
}
RILL_INLINE void copy_row(const float* from, float* to, size_t n) {
  for (size_t i = 0; i < n; i += 16) store(to + i, load(from + i));
}
RILL_INLINE void add_zero(float* x, size_t n) {  // turns -0 into +0
  for (size_t i = 0; i < n; i += 16) store(x + i, add(load(x + i), zero()));
}

// The factors of a merge for all rows at once, and which rows need one: a row without keys on one
// side is the identity.
struct MergePlan {
  alignas(64) float f[16], g[16], m[16];
};
RILL_INLINE void plan_merge(const float* ma, const float* mb, MergePlan& plan) {
  const V a = load(ma), b = load(mb), m = max(a, b);
  store(plan.f, exp2(sub(a, m)));
  store(plan.g, exp2(sub(b, m)));
  store(plan.m, m);
}
RILL_INLINE void merge_or_copy(float* a, const float* b, size_t n, size_t row, const float* ma,
                               const float* mb, const MergePlan& plan) {
  if (mb[row] == kNoKey) return;
  if (ma[row] == kNoKey)
    copy_row(b, a, n);
  else
    merge_row(a, b, n, plan.f[row], plan.g[row]);
}

// Streaming: the state of the tile's keys from nothing, written to `state` or merged into it.
void attend(const AttentionTile& t, SoftmaxState state, bool fresh) {
  const size_t width = padded(t.head_dim), p_stride = probability_stride(t);
  float* const s = reinterpret_cast<float*>(t.scratch);
  char* const p = reinterpret_cast<char*>(s + t.rows * t.keys);
  alignas(64) float m[16], l[kMostRows * 16];
  for (float& x : m) x = kNoKey;
  raw_scores(t, s, t.keys);
  for (size_t r = 0; r < t.rows; ++r) {
    m[r] = mask_row(s + r * t.keys, t.keys, t.visible[r]);
    const V sum = probabilities(t.operand, s + r * t.keys, t.keys, m[r], p + r * p_stride, zero());
    store((fresh ? state.l : l) + r * 16, sum);
  }
  if (fresh) {
    for (size_t slice = 0; slice * kPanel < width; slice += kSlicePanels)
      values(t, p, slice, state.o + slice * kPanel, width, false);
    add_zero(state.o, t.rows * width);
    copy_row(m, state.m, 16);
    return;
  }
  MergePlan plan;
  plan_merge(state.m, m, plan);
  alignas(64) float o[kMostRows * kSlice];
  for (size_t slice = 0; slice * kPanel < width; slice += kSlicePanels) {
    const size_t n = least(kSlice, width - slice * kPanel);
    values(t, p, slice, o, kSlice, false);
    for (size_t r = 0; r < t.rows; ++r) {
      add_zero(o + r * kSlice, n);
      merge_or_copy(state.o + r * width + slice * kPanel, o + r * kSlice, n, r, state.m, m, plan);
    }
  }
  for (size_t r = 0; r < t.rows; ++r)
    merge_or_copy(state.l + r * 16, l + r * 16, 16, r, state.m, m, plan);
  copy_row(plan.m, state.m, 16);
}

void merge(SoftmaxState a, SoftmaxState b, size_t rows, size_t head_dim) {
  const size_t width = padded(head_dim);
  MergePlan plan;
  plan_merge(a.m, b.m, plan);
  for (size_t r = 0; r < rows; ++r) {
    merge_or_copy(a.o + r * width, b.o + r * width, width, r, a.m, b.m, plan);
    merge_or_copy(a.l + r * 16, b.l + r * 16, 16, r, a.m, b.m, plan);
  }
  copy_row(plan.m, a.m, 16);
}

void scores(const AttentionTile& t, float* s, size_t stride, float* m) {
  raw_scores(t, s, stride);
  for (size_t r = 0; r < t.rows; ++r) {
    const float most = mask_row(s + r * stride, t.keys, t.visible[r]);
    m[r] = m[r] > most ? m[r] : most;
  }
}

void accumulate(const AttentionTile& t, float* s, size_t stride, SoftmaxState state) {
  const size_t width = padded(t.head_dim), p_stride = probability_stride(t);
  char* const p = reinterpret_cast<char*>(t.scratch);
  for (size_t r = 0; r < t.rows; ++r) {
    const V l = probabilities(t.operand, s + r * stride, t.keys, state.m[r], p + r * p_stride,
                              load(state.l + r * 16));
    store(state.l + r * 16, l);
  }
  for (size_t slice = 0; slice * kPanel < width; slice += kSlicePanels)
    values(t, p, slice, state.o + slice * kPanel, width, true);
  // At the end of a stripe this is the contract's; in between it cannot be seen, since a zero's
  // sign only survives where every later product is zero.
  add_zero(state.o, t.rows * width);
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
