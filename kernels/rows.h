// How kernels see tensors: element types, and rows in dimensions with strides.
#pragma once

#include <cstdint>

namespace gatun::kernels {

enum class ElementType { kF32, kF16, kBf16 };

// The dimensions above the rows of several operands, the innermost first, already merged where the
// strides allow; strides in elements. Rank 0 is one row.
constexpr int kMaxLeading = 5;

template <int kOperands>
struct RowLayout {
  int64_t rows;
  int rank;
  int64_t shape[kMaxLeading];
  int64_t stride[kOperands][kMaxLeading];
};

}  // namespace gatun::kernels
