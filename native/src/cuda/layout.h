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

}  // namespace gatun::cuda
