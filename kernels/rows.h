// How kernels see tensors: element types, and rows in dimensions with strides.
#pragma once

#include <cstddef>
#include <cstdint>

namespace gatun::kernels {

enum class ElementType { kF32, kF16, kBf16 };

constexpr size_t size_of(ElementType type) { return type == ElementType::kF32 ? 4 : 2; }

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

// Operands of one shape that are walked together: rows of `columns` elements, which lie one after
// another in every operand. Contiguous operands are one row.
template <int kOperands>
struct Runs {
  int64_t columns;
  RowLayout<kOperands> layout;
};

}  // namespace gatun::kernels
