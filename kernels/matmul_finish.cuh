// What matmul's kernels have in common: the problem with the launcher's choices, and the way of a
// sum to memory (alpha, bias, preactivation, GELU or its gradient, residual).
#pragma once

#include <algorithm>
#include <climits>

#include "gelu.cuh"
#include "matmul.h"
#include "tile.cuh"
#include "tiles.h"

namespace gatun::kernels {

struct MatMulProblem : MatMul {
  ElementType out_type;
  int splits;  // parts of the sum over k; more than one: sums go to `partials`
  int k_of_a_split;
  int64_t first_tile;  // of this launch
  int64_t tiles_m, tiles_n;
  int partial_columns;  // n, to a multiple of 4
  bool a_vectors;       // a is rows of k, 16 bytes of one are one aligned access
  bool out_vectors;     // four columns of out are one aligned access
  bool preactivation_vectors;
  bool residual_vectors;
};

// ---- rows of four elements ----

// The first `count` of four in rows 0, kStep, … below `rows`, by one access a row where `vectors`.
template <int kStep, typename T, int kRows>
__device__ __forceinline__ void load_rows(const T* p, int64_t stride, int rows, int count,
                                          bool vectors, float (&v)[kRows][4]) {
  if (vectors && count == 4) {
    UNROLL for (int r = 0; r < kRows; ++r) if (r * kStep < rows)
        load_values<4>(p + r * kStep * stride, v[r]);
  } else {
    UNROLL for (int r = 0; r < kRows; ++r)
        UNROLL for (int i = 0; i < 4; ++i) if (r * kStep < rows && i < count) v[r][i] =
            to_float(load_element(p + r * kStep * stride + i));
  }
}
template <int kStep, typename T, int kRows>
__device__ __forceinline__ void store_rows(T* p, int64_t stride, int rows, int count, bool vectors,
                                           const float (&v)[kRows][4]) {
  if (vectors && count == 4) {
    UNROLL for (int r = 0; r < kRows; ++r) if (r * kStep < rows)
        store_values<4>(p + r * kStep * stride, v[r]);
  } else {
    UNROLL for (int r = 0; r < kRows; ++r)
        UNROLL for (int i = 0; i < 4; ++i) if (r * kStep < rows && i < count)
            store_values<1>(p + r * kStep * stride + i, &v[r][i]);
  }
}

// ---- from sums to the result ----

// Four columns from `column` (a multiple of 4) on of one product's result; what all rows share is
// read once.
template <typename Out>
class ResultColumns {
 public:
  __device__ __forceinline__ ResultColumns(const MatMulProblem& p, int64_t product, int column)
      : p_(p),
        count_(min(4, p.n - column)),
        out_(static_cast<Out*>(p.out) + row_offset(p.batch, MatMul::kOut, product) + column),
        preactivation_(static_cast<Out*>(p.preactivation)),
        residual_(static_cast<const Out*>(p.residual)),
        bias_{} {
    if (preactivation_ != nullptr)
      preactivation_ += row_offset(p.batch, MatMul::kPreactivation, product) + column;
    if (residual_ != nullptr) residual_ += row_offset(p.batch, MatMul::kResidual, product) + column;
    if (p.bias == nullptr) return;
    if (p.bias_type == ElementType::kF32)
      load_rows<1>(static_cast<const float*>(p.bias) + column, 0, 1, count_, false, bias_);
    else
      load_rows<1>(static_cast<const Out*>(p.bias) + column, 0, 1, count_, false, bias_);
  }

  // Sums of rows row, row + kStep, …, as far as they exist. One step for all rows at a time, so
  // that what is read for them is on its way together.
  template <int kStep, int kRows>
  __device__ __forceinline__ void put(int row, float (&sums)[kRows][4]) const {
    const int rows = p_.m - row;
    each(sums, [&](float sum, int i) { return sum * p_.alpha + bias_[0][i]; });
    if (preactivation_ != nullptr) {
      Out* const at = preactivation_ + row * p_.preactivation_stride;
      if (p_.gelu == Gelu::kTanhGradient || p_.gelu == Gelu::kErfGradient) {
        float x[kRows][4] = {};
        load_rows<kStep>(at, p_.preactivation_stride, rows, count_, p_.preactivation_vectors, x);
        if (p_.gelu == Gelu::kTanhGradient)
          each(x, [](float x, int) { return gelu_tanh_derivative(x); });
        else
          each(x, [](float x, int) { return gelu_erf_derivative(x); });
        UNROLL for (int r = 0; r < kRows; ++r) UNROLL for (int i = 0; i < 4; ++i) sums[r][i] *=
            x[r][i];
      } else {
        store_rows<kStep>(at, p_.preactivation_stride, rows, count_, p_.preactivation_vectors,
                          sums);
      }
    }
    if (p_.gelu == Gelu::kTanh) each(sums, [](float x, int) { return gelu_tanh(x); });
    if (p_.gelu == Gelu::kErf) each(sums, [](float x, int) { return gelu_erf(x); });
    if (residual_ != nullptr) {
      float more[kRows][4] = {};
      load_rows<kStep>(residual_ + row * p_.residual_stride, p_.residual_stride, rows, count_,
                       p_.residual_vectors, more);
      UNROLL for (int r = 0; r < kRows; ++r) UNROLL for (int i = 0; i < 4; ++i) sums[r][i] +=
          more[r][i];
    }
    store_rows<kStep>(out_ + row * p_.out_stride, p_.out_stride, rows, count_, p_.out_vectors,
                      sums);
  }

 private:
  template <int kRows, typename F>
  static __device__ __forceinline__ void each(float (&v)[kRows][4], F f) {
    UNROLL for (int r = 0; r < kRows; ++r) UNROLL for (int i = 0; i < 4; ++i) v[r][i] =
        f(v[r][i], i);
  }

  const MatMulProblem& p_;
  const int count_;  // that exist
  Out* const out_;   // of the first row
  Out* preactivation_;
  const Out* residual_;
  float bias_[1][4];
};

// The same columns of the partial sums of part `split`.
class PartialColumns {
 public:
  __device__ __forceinline__ PartialColumns(const MatMulProblem& p, int64_t product, int split,
                                            int column)
      : m_(p.m),
        stride_(p.partial_columns),
        sums_(p.partials + (split * p.batch.rows + product) * p.m * stride_ + column) {}

  template <int kStep, int kRows>
  __device__ __forceinline__ void put(int row, float (&sums)[kRows][4]) const {
    store_rows<kStep>(sums_ + row * stride_, stride_, m_ - row, 4, true, sums);
  }

 private:
  const int m_;
  const int64_t stride_;
  float* const sums_;
};

// f(where four sums a row of part `split` of the product go, from `column` on). T: the operands'
// type.
template <typename T, typename F>
__device__ __forceinline__ void with_columns(const MatMulProblem& p, int64_t product, int split,
                                             int column, F f) {
  if (p.splits > 1)
    f(PartialColumns(p, product, split, column));
  else if (sizeof(T) == sizeof(float) || p.out_type == ElementType::kF32)
    f(ResultColumns<float>(p, product, column));
  else
    f(ResultColumns<T>(p, product, column));
}

// One row of them.
template <typename T>
__device__ __forceinline__ void finish(const MatMulProblem& p, int64_t product, int split, int row,
                                       int column, float (&sums)[1][4]) {
  with_columns<T>(p, product, split, column,
                  [&](const auto& columns) { columns.template put<1>(row, sums); });
}

// matmul_few_rows.cu: whether it computes the problem, what it chooses, its launch.
bool is_few_rows(const MatMul& p);
void choose_few_rows(ElementType in, MatMulProblem& p, int sm_count);
cudaError_t matmul_few_rows(cudaStream_t stream, ElementType in, const MatMulProblem& p);

}  // namespace gatun::kernels
