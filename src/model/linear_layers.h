// SPDX-License-Identifier: Apache-2.0
// The linear layers of a forward pass: their operands, how their panels are dealt to ranks and
// threads, and where their products go.
#pragma once
#include <algorithm>
#include <vector>

#include "model/model.h"
#include "model/profile.h"
#include "model/read_ahead.h"
#include "model/sequence_ranks.h"
#include "model/step_scratch.h"
#include "model/tensor_ranks.h"

namespace rill {

/// The input of a projection, fp32 [rows][stride], which it may overwrite, and what is added to its
/// product (or null).
struct ProjectionInput {
  float* from;
  size_t stride;
  const float* bias;
};

/// The part of a job that makes some rows.
inline LinearJob rows_of(LinearJob job, Range rows) {
  job.x.data += rows.begin * job.x.stride_bytes;
  job.x.rows = length(rows);
  job.y += rows.begin * job.y_stride;
  return job;
}

/// By all threads of a parallel region. `rows` are this rank's, as `sequence` deals them.
class LinearLayers {
 public:
  LinearLayers(const Model& model, const StepScratch& scratch, SequenceRanks& sequence,
               TensorRanks& tensor);

  /// The operand of a linear layer. make(row, scratch) returns the row in fp32, in `scratch`
  /// ([hidden] floats of this thread) or elsewhere. Many rows are shared out and need a barrier.
  template <class Make>
  Activations prepare(Worker& worker, size_t rows, size_t width, const Make& make);

  /// y = W a, this rank's panels dealt to the threads. done(panels, rows) follows each piece.
  template <class Done>
  void product(Worker& worker, const PackedMatrix& weight, const Activations& a,
               const LinearTarget& target, const Done& done);
  void product(Worker& worker, const PackedMatrix& weight, const Activations& a,
               const LinearTarget& target) {
    product(worker, weight, a, target, [](Range, Range) {});
  }
  /// x += W from + bias, for a matrix that ranks cut along k: the roots of its subtrees of leaves
  /// are on their way to who adds them. `next`: the weight that is read after it.
  void project(Worker& worker, Cut cut, const std::vector<CutMatrix>& matrices,
               const ProjectionInput& input, const PackedMatrix& next);
  /// Ends it: the roots are added in their tree (docs/arithmetic.md, section 8).
  void add(Worker& worker, Cut cut, const float* bias) {
    tensor_.add_roots(worker, cut, sum(bias));
  }

  /// The panels of this rank, cut and dealt to its threads in runs of `unit`: body(panels, rows).
  /// Many rows come in strips, one after the other: the activations of a strip stay in the cache
  /// for all panels of a thread, and a slower thread can be helped with few panels, too.
  template <class Body>
  void deal(Worker& worker, const PackedMatrix& weight, size_t unit, const Activations& a,
            const Body& body);
  /// Of a product of this rank's rows, cut in runs of `panels` panels of y: the others' columns.
  void share_columns(Worker& worker, float* y, size_t stride, size_t width, size_t panels) {
    sequence_.share_columns(worker, {y, stride, rows(), width, panels * kPanel});
  }
  /// A barrier. A thread that waits asks for its share of the next weight.
  void meet(Worker& worker, const PackedMatrix& next);
  void meet(Worker& worker, const std::vector<CutMatrix>& next);

 private:
  size_t rows() const { return length(sequence_.shares().own()); }
  Range own_panels(const PackedMatrix& weight, size_t unit) const {
    const size_t panels = (weight.outputs + kPanel - 1) / kPanel;
    return sequence_.shares().own_columns(panels, unit);
  }
  static size_t strips_of(const Activations& a);
  static Range strip_of(const Activations& a, size_t strip, size_t strips);
  static bool shared(size_t rows) { return rows > kPrivateRows; }
  Activations operand(const Worker& worker, size_t rows, size_t width, size_t offset) const;
  ResidualSum sum(const float* bias) const {
    const size_t hidden = model_.config.hidden_size;
    return {scratch_.x, row_stride(hidden), bias, rows()};
  }
  void convert(Worker& worker, const std::vector<CutMatrix>& matrices, const ProjectionInput& input,
               Activations* operands);

  const Model model_;
  const StepScratch& scratch_;
  SequenceRanks& sequence_;
  TensorRanks& tensor_;
  std::vector<ReadAhead> ahead_;  // [threads]
};

template <class Make>
Activations LinearLayers::prepare(Worker& worker, size_t rows, size_t width, const Make& make) {
  begin(worker, Operation::NORMS);
  Activations a = operand(worker, rows, width, 0);
  float* own = scratch_.own_row(worker.index());
  const Range mine = shared(rows) ? worker.share(rows) : Range{0, rows};
  for (size_t row = mine.begin; row < mine.end; ++row)
    model_.runtime.kernels.convert(a.operand, make(row, own), width, a.depth,
                                   a.data + row * a.stride_bytes);
  if (shared(rows)) worker.barrier();
  return a;
}

template <class Body>
void LinearLayers::deal(Worker& worker, const PackedMatrix& weight, size_t unit,
                        const Activations& a, const Body& body) {
  const Range own = own_panels(weight, unit);
  const Ranks& ranks = model_.runtime.ranks;
  const size_t strips = strips_of(a);
  worker.deal(length(own), unit, strips, [&](Range panels, size_t strip) {
    const Range rows = strip_of(a, strip, strips);
    // The first thread moves what travels, between pieces.
    const bool moves = worker.first() && ranks.started();
    const size_t step = moves ? unit : length(panels);
    for (size_t begin = panels.begin; begin < panels.end; begin += step) {
      const size_t end = std::min(begin + step, panels.end);
      body(Range{own.begin + begin, own.begin + end}, rows);
      if (moves) ranks.progress();
    }
  });
}

template <class Done>
void LinearLayers::product(Worker& worker, const PackedMatrix& weight, const Activations& a,
                           const LinearTarget& target, const Done& done) {
  const LinearJob job = {&weight, target.bias, a, target.y, target.stride, target.epilogue};
  deal(worker, weight, kDealtPanels, a, [&](Range panels, Range rows) {
    model_.runtime.kernels.linear(rows_of(job, rows), panels.begin, panels.end);
    done(panels, rows);
  });
}

}  // namespace rill
