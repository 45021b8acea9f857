// SPDX-License-Identifier: Apache-2.0
#include "model/linear_layers.h"

#include <array>

namespace rill {

LinearLayers::LinearLayers(const Model& model, const StepScratch& scratch, SequenceRanks& sequence,
                           TensorRanks& tensor)
    : model_(model),
      scratch_(scratch),
      sequence_(sequence),
      tensor_(tensor),
      ahead_(static_cast<size_t>(model.runtime.team.size())) {}

void LinearLayers::project(Worker& worker, Cut cut, const std::vector<CutMatrix>& matrices,
                           const ProjectionInput& input, const PackedMatrix& next) {
  const ResidualSum to = sum(input.bias);
  std::array<Activations, kMostSubtrees> operands;
  convert(worker, matrices, input, operands.data());
  begin(worker, cut == Cut::O ? Operation::O : Operation::DOWN);
  for (size_t i = 0; i < matrices.size(); ++i) {
    if (i > 0) worker.barrier();  // between two dealings
    product(worker, matrices[i].matrix, operands[i], tensor_.root(cut, i, to));
  }
  for (size_t i = 0; i < matrices.size(); ++i) {
    const LinearTarget root = tensor_.root(cut, i, to);
    share_columns(worker, root.y, root.stride, model_.config.hidden_size, kDealtPanels);
  }
  meet(worker, next);
  tensor_.start_roots(worker, cut, to);
}

namespace {

// Rows of products: whole tiles of all kernels, and the most that share what a kernel makes of a
// panel.
struct StripRows {
  size_t unit, most;
};
StripRows strip_rows(Operand operand) {
  const bool floats = operand == Operand::F32 || operand == Operand::BF16;
  return floats ? StripRows{12, 192} : StripRows{32, 256};
}

}  // namespace

// As few as leave the activations of each in most of the L2 cache.
size_t LinearLayers::strips_of(const Activations& a) {
  const size_t fit = level2_bytes() * 5 / 8 / a.stride_bytes;
  const size_t rows = std::clamp<size_t>(fit, 64, strip_rows(a.operand).most);
  return std::max<size_t>(1, (a.rows + rows - 1) / rows);
}

Range LinearLayers::strip_of(const Activations& a, size_t strip, size_t strips) {
  const size_t unit = strip_rows(a.operand).unit;
  const auto begin = [&](size_t i) {
    return i == strips ? a.rows : a.rows * i / strips / unit * unit;
  };
  return {begin(strip), begin(strip + 1)};
}

void LinearLayers::meet(Worker& worker, const PackedMatrix& next) {
  if (rows() > kMostRows) {
    worker.barrier();
    return;
  }
  ReadAhead& ahead = ahead_[static_cast<size_t>(worker.index())];
  const Range own = own_panels(next, kDealtPanels);
  ahead.aim(next, own.begin + worker.share(length(own), kDealtPanels).begin);
  worker.barrier([&] { ahead.ask(); });
}

void LinearLayers::meet(Worker& worker, const std::vector<CutMatrix>& next) {
  static constexpr PackedMatrix kNone{};
  meet(worker, next.empty() ? kNone : next.front().matrix);
}

// The operands of a projection: the columns of each of its matrices. Where they may, many rows stay
// where they are: to write them elsewhere would take as long as reading them again.
void LinearLayers::convert(Worker& worker, const std::vector<CutMatrix>& matrices,
                           const ProjectionInput& input, Activations* operands) {
  begin(worker, Operation::NORMS);
  const Kernels& kernels = model_.runtime.kernels;
  const bool everyone = !shared(rows());
  const Range mine = everyone ? Range{0, rows()} : worker.share(rows());
  size_t place = 0;
  for (size_t i = 0; i < matrices.size(); ++i) {
    const Range columns = matrices[i].columns;
    float* const from = input.from + columns.begin;
    Activations& a = operands[i] = operand(worker, rows(), length(columns), place);
    if (!everyone && kernels.converts_in_place(a.operand) && a.depth == length(columns)) {
      a.data = reinterpret_cast<std::byte*>(from);
      a.stride_bytes = input.stride * sizeof(float);
      if (a.operand == Operand::F32) continue;
    } else {
      place += rows() * a.stride_bytes;
    }
    for (size_t row = mine.begin; row < mine.end; ++row)
      kernels.convert(a.operand, from + row * input.stride, length(columns), a.depth,
                      a.data + row * a.stride_bytes);
  }
  if (!everyone) worker.barrier();
}

// A place for rows of `width` values, `offset` bytes into the operands' scratch.
Activations LinearLayers::operand(const Worker& worker, size_t rows, size_t width,
                                  size_t offset) const {
  Activations a{};
  a.operand = model_.arithmetic.linear;
  a.rows = rows;
  a.depth = round_up(width, kDepthUnit);
  a.stride_bytes = model_.runtime.kernels.activation_bytes(a.operand, a.depth);
  a.data = (shared(rows) ? scratch_.activations : scratch_.own_operands(worker.index())) + offset;
  return a;
}

}  // namespace rill
