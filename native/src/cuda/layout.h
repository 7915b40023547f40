// From the arguments of the C ABI to those of the kernels.
#pragma once

#include "core/error.h"
#include "ops/args.h"
#include "philox.h"
#include "rows.h"

namespace gatun::cuda {

inline kernels::ElementType element_type(int32_t dtype) {
  switch (dtype) {
    case GATUN_F32:
      return kernels::ElementType::kF32;
    case GATUN_F16:
      return kernels::ElementType::kF16;
    case GATUN_BF16:
      return kernels::ElementType::kBf16;
  }
  fail(GATUN_INTERNAL, "dtype %d is not a float dtype", dtype);
}

inline PhiloxSource philox_source(const Philox& philox) {
  return {philox.seed, philox.step.as<const int64_t>(), philox.site, philox.micro_batch};
}

// The dimensions of `shape` above its last one, merged where the strides of all operands allow it.
// An operand is a view with those leading dimensions (a statistic of each row has no others), or
// null: it never moves.
template <int kOperands>
kernels::RowLayout<kOperands> row_layout(const View& shape,
                                         const View* const (&operands)[kOperands]) {
  static_assert(kernels::kMaxLeading >= GATUN_MAX_RANK - 1);
  kernels::RowLayout<kOperands> layout = {};
  layout.rows = 1;
  for (int d = shape.rank - 2; d >= 0; --d) {
    const int64_t size = shape.shape[d];
    layout.rows *= size;
    if (size == 1) continue;
    int64_t step[kOperands];
    bool merges = layout.rank > 0;
    for (int i = 0; i < kOperands; ++i) {
      step[i] = operands[i] == nullptr || !*operands[i] ? 0 : operands[i]->stride[d];
      merges =
          merges && step[i] == layout.stride[i][layout.rank - 1] * layout.shape[layout.rank - 1];
    }
    if (merges) {
      layout.shape[layout.rank - 1] *= size;
      continue;
    }
    layout.shape[layout.rank] = size;
    for (int i = 0; i < kOperands; ++i) layout.stride[i][layout.rank] = step[i];
    ++layout.rank;
  }
  return layout;
}

enum class Order { kRowMajor, kAny };

// Operands of one shape as runs (rows.h). kAny, for ops that do the same to every element: the
// dimensions are sorted by the strides of the first operand, so that a permuted one that is dense
// becomes one run again.
template <int kOperands>
kernels::Runs<kOperands> run_layout(const View* const (&operands)[kOperands], Order order) {
  const View& first = *operands[0];
  int dimension[GATUN_MAX_RANK], count = 0;  // those with more than one element, innermost first
  for (int d = first.rank - 1; d >= 0; --d) {
    if (first.shape[d] == 1) continue;
    int at = count++;
    for (; order == Order::kAny && at > 0 && first.stride[dimension[at - 1]] > first.stride[d];
         --at)
      dimension[at] = dimension[at - 1];
    dimension[at] = d;
  }
  kernels::Runs<kOperands> runs = {};
  runs.columns = 1;
  runs.layout.rows = 1;
  kernels::RowLayout<kOperands>& rows = runs.layout;
  for (int k = 0; k < count; ++k) {
    const int d = dimension[k];
    const int64_t size = first.shape[d];
    int64_t step[kOperands];
    bool extends_run = rows.rank == 0, merges = rows.rank > 0;
    for (int i = 0; i < kOperands; ++i) {
      step[i] = !*operands[i] ? 0 : operands[i]->stride[d];
      if (!*operands[i]) continue;
      extends_run = extends_run && step[i] == runs.columns;
      merges = merges && step[i] == rows.stride[i][rows.rank - 1] * rows.shape[rows.rank - 1];
    }
    if (extends_run) {
      runs.columns *= size;
      continue;
    }
    rows.rows *= size;
    if (merges) {
      rows.shape[rows.rank - 1] *= size;
      continue;
    }
    // At most kMaxLeading: the last dimension of a view has one element or starts the run.
    rows.shape[rows.rank] = size;
    for (int i = 0; i < kOperands; ++i) rows.stride[i][rows.rank] = step[i];
    ++rows.rank;
  }
  return runs;
}

}  // namespace gatun::cuda
