// SPDX-License-Identifier: Apache-2.0
#include "model/step_scratch.h"

#include <algorithm>

namespace rill {
namespace {

size_t operand_bytes(const ScratchSize& size, size_t width) {
  return size.kernels.activation_bytes(size.arithmetic.linear, round_up(width, kDepthUnit));
}

// Of a projection that is cut along k: an operand for each subtree of leaves.
size_t cut_operand_bytes(const ScratchSize& size, const LeafCut& cut) {
  size_t bytes = 0;
  for (const Range subtree : cut.subtrees(size.shard.leaves))
    bytes += operand_bytes(size, length(cut.columns_of(subtree)));
  return bytes;
}

}  // namespace

StepScratch::StepScratch(const ScratchSize& size, Arena& arena) {
  const Widths widths(size.config, size.shard);
  x = arena.take<float>(size.rows * row_stride(widths.hidden));
  qkv = arena.take<float>(size.rows * row_stride(widths.qkv()));
  attended = arena.take<float>(size.rows * row_stride(widths.q));
  gated = arena.take<float>(size.rows * row_stride(widths.intermediate));
  cosine = arena.take<float>(size.rows * size.config.head_dim / 2);
  sine = arena.take<float>(size.rows * size.config.head_dim / 2);
  row_bytes = std::max({operand_bytes(size, widths.hidden),
                        cut_operand_bytes(size, LeafCut::of_o(size.config)),
                        cut_operand_bytes(size, LeafCut::of_down(size.config))});
  activations = arena.take<std::byte>(size.rows * row_bytes);
  private_offset = round_up(widths.hidden * sizeof(float), 64);
  thread_bytes = private_offset + kPrivateRows * row_bytes;
  threads = arena.take<std::byte>(static_cast<size_t>(size.threads) * thread_bytes);
}

size_t StepScratch::bytes(const ScratchSize& size) {
  Arena arena;
  const StepScratch counted(size, arena);
  return arena.used();
}

}  // namespace rill
