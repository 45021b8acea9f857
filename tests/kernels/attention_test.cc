// SPDX-License-Identifier: Apache-2.0
// The attention kernels against the twin, by their bits: block states, merges, standard chains,
// masks, odd head sizes, and poison where no key stands.
#include <algorithm>
#include <array>
#include <cmath>
#include <memory>
#include <utility>

#include "kernels/support.h"

namespace rill::test {
namespace {

struct Kind {
  Format kv;
  Operand operand;
};
const Kind kKinds[] = {{Format::F32, Operand::F32},      {Format::F16, Operand::F32},
                       {Format::BF16, Operand::F32},     {Format::BF16, Operand::BF16},
                       {Format::INT8, Operand::F32},     {Format::INT8, Operand::BF16},
                       {Format::BF16, Operand::BF16X32}, {Format::INT8, Operand::BF16X32}};

struct Aligned {
  explicit Aligned(size_t bytes)
      : data(static_cast<std::byte*>(std::aligned_alloc(64, (bytes + 63) / 64 * 64)), &std::free) {
    std::memset(data.get(), 0, (bytes + 63) / 64 * 64);
  }
  float* floats() { return reinterpret_cast<float*>(data.get()); }
  std::unique_ptr<std::byte, decltype(&std::free)> data;
};

// One KV head of `tokens` tokens in pool blocks, and `rows` queries.
struct Scene {
  Scene(const Kernels& table, Kind what, size_t dimensions, size_t count, size_t row_count)
      : kernels(table), kind(what), head_dim(dimensions), tokens(count), rows(row_count) {
    keys = random_values(tokens * head_dim, head_dim + 1);
    values = random_values(tokens * head_dim, head_dim + 2);
    queries = random_values(rows * head_dim, head_dim + 3, 0.7f);
    for (auto* cached : {&keys, &values})
      for (float& x : *cached) x = reference::round_kv(twin_kv(kind.kv), x);
    for (size_t block = 0; block * 64 < tokens; ++block) {
      k_memory.emplace_back(k_block_bytes(kind.kv, head_dim));
      v_memory.emplace_back(v_block_bytes(kind.kv, head_dim));
      k.push_back(k_memory.back().data.get());
      v.push_back(v_memory.back().data.get());
    }
    k.push_back(k[0]);
    v.push_back(v[0]);
    for (size_t t = 0; t < tokens; ++t) {
      const size_t first = t * head_dim;
      put_key(kind.kv, k_memory[t / 64].data.get(), t % 64, {&keys[first], head_dim});
      put_value(kind.kv, v_memory[t / 64].data.get(), t % 64, {&values[first], head_dim});
    }
    const Operand operand = query_operand(kind.kv, kind.operand);
    const size_t row_bytes = table.activation_bytes(operand, kQuerySlice);
    const size_t slices = (head_dim + kQuerySlice - 1) / kQuerySlice;
    q_slice_bytes = rows * row_bytes + 64;
    q_memory = std::make_unique<Aligned>(slices * q_slice_bytes);
    for (size_t slice = 0; slice < slices; ++slice)
      for (size_t r = 0; r < rows; ++r) {
        const size_t first = slice * kQuerySlice;
        table.convert(operand, queries.data() + r * head_dim + first,
                      std::min(kQuerySlice, head_dim - first), kQuerySlice,
                      q_memory->data.get() + slice * q_slice_bytes + r * row_bytes);
      }
    options.compute = twin_compute(kind.operand);
    options.kv = twin_kv(kind.kv);
    for (float& x : queries) x = reference::round_query(options, x);
  }
  // The tile of keys [first, first + count); row r sees keys 0 .. position(r).
  AttentionTile tile(size_t first, size_t count, std::vector<int32_t>& visible, Aligned& scratch) {
    visible.resize(rows);
    bool whole = true;
    for (size_t r = 0; r < rows; ++r) {
      visible[r] = static_cast<int32_t>(position(r)) + 1 - static_cast<int32_t>(first);
      whole = whole && visible[r] >= static_cast<int32_t>(count);
    }
    return {kind.kv,
            kind.operand,
            head_dim,
            rows,
            q_memory->data.get(),
            q_slice_bytes,
            k.data() + first / 64,
            v.data() + first / 64,
            k[(first + count) / 64],
            v[(first + count) / 64],
            first % 64,
            count,
            whole ? nullptr : visible.data(),
            scratch.data.get()};
  }
  size_t position(size_t row) const { return tokens - 1 - (rows - 1 - row) * 29 % tokens; }
  std::span<const float> query(size_t row) const {
    return std::span(queries).subspan(row * head_dim, head_dim);
  }
  reference::KeyValues kv() const {
    return {keys.data(), values.data(), static_cast<int64_t>(head_dim), static_cast<int>(head_dim)};
  }

  const Kernels& kernels;
  Kind kind;
  size_t head_dim, tokens, rows, q_slice_bytes = 0;
  std::vector<float> keys, values, queries;
  std::vector<Aligned> k_memory, v_memory;
  std::vector<const std::byte*> k, v;
  std::unique_ptr<Aligned> q_memory;
  reference::Options options;
};

void expect_state(const reference::SoftmaxState& expected, SoftmaxState found, size_t row,
                  size_t head_dim, const std::string& what) {
  const size_t width = (head_dim + 15) / 16 * 16;
  if (expected.empty) {
    EXPECT_EQ(found.m[row], -std::numeric_limits<float>::infinity()) << what;
    return;
  }
  EXPECT_EQ(first_difference(found.m + row, &expected.m, 1), "") << what << ", m";
  EXPECT_EQ(first_difference(found.l + row * 16, expected.l.data(), 16), "") << what << ", l";
  EXPECT_EQ(first_difference(found.o + row * width, expected.o.data(), head_dim), "")
      << what << ", o";
}

size_t scratch_bytes(const Kind& kind, size_t head_dim, size_t keys, size_t rows) {
  return attention_scratch_bytes(keys, rows) + widened_bytes(kind.kv, kind.operand, head_dim, keys);
}

class AttentionKernels : public EveryIsa {
 protected:
  void attend(const AttentionJob& job) { kernels().attend(&job, 1); }
};
RILL_EVERY_ISA(AttentionKernels);

TEST_P(AttentionKernels, BlockStatesAndMerges) {
  FloatMode mode;
  for (const Kind kind : kKinds)
    for (const size_t head_dim : {2, 16, 24, 32, 128, 136, 320})
      for (const size_t block : {16, 64, 256})
        for (const size_t rows : {1, 2, 5, 12, 13, 37, 96}) {
          if (rows > 12 && head_dim % 128 && head_dim != 24) continue;  // time
          Scene scene(kernels(), kind, head_dim, 200, rows);
          scene.options.block_size = static_cast<int>(block);
          Aligned scratch(scratch_bytes(kind, head_dim, block, rows)),
              memory(state_floats(head_dim, rows) * 4), other(state_floats(head_dim, rows) * 4);
          const SoftmaxState state = state_at(memory.floats(), rows),
                             lone = state_at(other.floats(), rows);
          std::vector<reference::SoftmaxState> expected(rows);
          std::vector<int32_t> visible;
          for (size_t b = 0; b * block < scene.tokens; ++b) {
            const size_t keys = std::min(block, (scene.tokens - b * block + 15) / 16 * 16);
            const AttentionTile tile = scene.tile(b * block, keys, visible, scratch);
            attend({tile, nullptr, 0, lone});
            attend({tile, &state, b == 0 ? size_t{0} : 1, state});
            for (size_t r = 0; r < rows; ++r) {
              const auto one = reference::block_state(scene.options, scene.query(r), scene.kv(),
                                                      static_cast<int64_t>(b),
                                                      static_cast<int64_t>(scene.position(r)));
              const std::string what = "d " + std::to_string(head_dim) + ", B " +
                                       std::to_string(block) + ", block " + std::to_string(b) +
                                       ", row " + std::to_string(r);
              expect_state(one, lone, r, head_dim, what);
              expected[r] = reference::merge(expected[r], one);
              expect_state(expected[r], state, r, head_dim, what + " merged");
            }
          }
          // merge() of two states: the chain above with itself, and an empty one on either side.
          kernels().merge(state, lone, rows, head_dim);
          for (size_t r = 0; r < rows; ++r) {
            const int64_t last = static_cast<int64_t>((scene.tokens - 1) / block);
            const auto one = reference::block_state(scene.options, scene.query(r), scene.kv(), last,
                                                    static_cast<int64_t>(scene.position(r)));
            expect_state(reference::merge(expected[r], one), state, r, head_dim, "merge");
          }
        }
}

// A block joined with several states at once, as the tree over stripes wants it, into another
// place and into the last of them.
TEST_P(AttentionKernels, ChainsOfJoins) {
  FloatMode mode;
  for (const Kind kind : kKinds)
    for (const size_t rows : {1, 2, 6, 12, 20, 50, 96}) {
      const size_t head_dim = 80, block = 64, blocks = 4;
      Scene scene(kernels(), kind, head_dim, block * blocks, rows);
      const size_t floats = state_floats(head_dim, rows);
      Aligned scratch(scratch_bytes(kind, head_dim, block, rows)), memory(floats * 4 * blocks);
      SoftmaxState state[blocks];
      std::vector<int32_t> visible;
      for (size_t b = 0; b < blocks; ++b) {
        state[b] = state_at(memory.floats() + b * floats, rows);
        if (b < 3) attend({scene.tile(b * block, block, visible, scratch), nullptr, 0, state[b]});
      }
      const SoftmaxState earlier[] = {state[2], state[1], state[0]};
      const AttentionTile last = scene.tile(3 * block, block, visible, scratch);
      for (const SoftmaxState out : {state[3], state[0]}) {
        attend({last, earlier, 3, out});
        for (size_t r = 0; r < rows; ++r) {
          const auto one = [&](int64_t b) {
            return reference::block_state(scene.options, scene.query(r), scene.kv(), b,
                                          static_cast<int64_t>(scene.position(r)));
          };
          const auto joined = reference::merge(one(1), reference::merge(one(2), one(3)));
          expect_state(reference::merge(one(0), joined), out, r, head_dim,
                       "row " + std::to_string(r));
        }
      }
    }
}

// Blocks that are met side by side, and what they are joined with.
TEST_P(AttentionKernels, TogetherAsOneByOne) {
  FloatMode mode;
  for (const Kind kind : kKinds)
    for (const auto& [head_dim, block] :
         {std::pair<size_t, size_t>{2, 64}, {24, 64}, {128, 64}, {200, 64}, {128, 192}})
      for (const size_t rows : {1, 2, 3, 4}) {
        Scene scene(kernels(), kind, head_dim, kMostTogether * block + 128, rows);
        const size_t floats = state_floats(head_dim, rows);
        std::vector<Aligned> scratch, memory;
        std::vector<AttentionJob> jobs;
        std::vector<int32_t> visible;
        std::array<std::array<SoftmaxState, 2>, kMostTogether> earlier;
        for (size_t i = 0; i < kMostTogether; ++i) {
          scratch.emplace_back(scratch_bytes(kind, head_dim, block, rows));
          memory.emplace_back(4 * floats * sizeof(float));
          const auto state = [&](size_t n) {
            return state_at(memory[i].floats() + n * floats, rows);
          };
          earlier[i] = {state(0), state(1)};
          const AttentionTile tile = scene.tile(i * block, block, visible, scratch[i]);
          ASSERT_EQ(tile.visible, nullptr);
          attend({tile, nullptr, 0, state(0)});
          attend({tile, earlier[i].data(), 1, state(1)});
          attend({tile, earlier[i].data(), i % 3, state(2)});
          jobs.push_back({tile, earlier[i].data(), i % 3, state(3)});
        }
        for (size_t count = 2; count <= kMostTogether; ++count) {
          for (size_t i = 0; i < count; ++i)
            std::fill_n(memory[i].floats() + 3 * floats, floats, 0.0f);
          kernels().attend(jobs.data(), count);
          for (size_t i = 0; i < count; ++i)
            EXPECT_EQ(first_difference(memory[i].floats() + 2 * floats,
                                       memory[i].floats() + 3 * floats, floats),
                      "")
                << "d " << head_dim << ", B " << block << ", rows " << rows << ", the " << i
                << "-th of " << count;
        }
      }
}

// A NaN in a key must not pass for a key of no weight.
TEST_P(AttentionKernels, ShowsKeysThatAreNoNumbers) {
  FloatMode mode;
  for (const Kind kind : kKinds) {
    const size_t head_dim = 32, rows = 3;
    Scene scene(kernels(), kind, head_dim, 64, rows);
    std::vector<float> key(scene.keys.begin() + 5 * head_dim, scene.keys.begin() + 6 * head_dim);
    key[7] = kPoison;
    kernels().store_k(kind.kv, key.data(), head_dim, 5, scene.k_memory[0].data.get());
    Aligned scratch(scratch_bytes(kind, head_dim, 64, rows)),
        memory(state_floats(head_dim, rows) * 4);
    std::vector<int32_t> visible;
    const SoftmaxState state = state_at(memory.floats(), rows);
    attend({scene.tile(0, 64, visible, scratch), nullptr, 0, state});
    for (size_t r = 0; r < rows; ++r) {
      std::vector<float> out(head_dim);
      kernels().finish(state, r, head_dim, out.data());
      for (const float x : out) EXPECT_FALSE(std::isfinite(x)) << "row " << r;
    }
  }
}

TEST_P(AttentionKernels, WholeRowsOfBothKinds) {
  FloatMode mode;
  for (const Kind kind : kKinds)
    for (const size_t head_dim : {24, 128}) {
      const size_t rows = 7, tokens = 300, block = 64, width = (head_dim + 15) / 16 * 16;
      Scene scene(kernels(), kind, head_dim, tokens, rows);
      scene.options.block_size = block;
      scene.options.attention = reference::AttentionType::kStandard;
      Aligned scratch(scratch_bytes(kind, head_dim, block, rows));
      std::vector<Aligned> s;
      std::vector<float> m(16, -std::numeric_limits<float>::infinity());
      std::vector<int32_t> visible;
      for (size_t first = 0; first < tokens; first += block) {
        s.emplace_back(attention_scratch_bytes(block, rows));
        kernels().scores(scene.tile(first, std::min(block, 304 - first), visible, scratch),
                         s.back().floats(), m.data());
      }
      // Five blocks are five stripes: 0 1 2 3 4 join as ((0 + 4) + 2) + (1 + 3).
      std::vector<std::unique_ptr<Aligned>> states;
      std::vector<SoftmaxState> stripe;
      for (size_t b = 0; b < 5; ++b) {
        states.push_back(std::make_unique<Aligned>(state_floats(head_dim, rows) * 4));
        stripe.push_back(state_at(states.back()->floats(), rows));
        std::copy(m.begin(), m.end(), stripe[b].m);
        kernels().accumulate(
            scene.tile(b * block, std::min(block, 304 - b * block), visible, scratch),
            s[b].floats(), stripe[b]);
      }
      kernels().add(stripe[0], stripe[4], rows, head_dim);
      kernels().add(stripe[0], stripe[2], rows, head_dim);
      kernels().add(stripe[1], stripe[3], rows, head_dim);
      kernels().add(stripe[0], stripe[1], rows, head_dim);
      for (size_t r = 0; r < rows; ++r) {
        if (scene.position(r) < 4 * block)
          continue;  // stripes that the row does not reach are not added
        const auto expected = reference::attention(scene.options, scene.query(r), scene.kv(),
                                                   static_cast<int64_t>(scene.position(r)));
        std::vector<float> out(width + 1, kPoison);
        kernels().finish(stripe[0], r, head_dim, out.data());
        EXPECT_EQ(first_difference(out.data(), expected.data(), head_dim), "") << "row " << r;
        EXPECT_TRUE(std::isnan(out[head_dim])) << "wrote past the head";
      }
    }
}

}  // namespace
}  // namespace rill::test
