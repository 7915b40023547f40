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

// ---- four elements ----

// The first `count` of four, by one access where `vectors`.
template <typename T>
__device__ __forceinline__ void load_some(const T* p, int count, bool vectors, float (&v)[4]) {
  if (vectors && count == 4) {
    load_values<4>(p, v);
  } else {
    UNROLL for (int i = 0; i < 4; ++i) v[i] = i < count ? to_float(load_element(p + i)) : 0.f;
  }
}
template <typename T>
__device__ __forceinline__ void store_some(T* p, int count, bool vectors, const float (&v)[4]) {
  if (vectors && count == 4) {
    store_values<4>(p, v);
  } else {
    UNROLL for (int i = 0; i < 4; ++i) if (i < count) store_values<1>(p + i, v + i);
  }
}

// ---- from sums to the result ----

template <typename Out>
__device__ __forceinline__ void finish_as(const MatMulProblem& p, int64_t product, int row,
                                          int column, float (&v)[4]) {
  const int count = min(4, p.n - column);
  UNROLL for (int i = 0; i < 4; ++i) v[i] *= p.alpha;
  float other[4];
  if (p.bias != nullptr) {
    if (p.bias_type == ElementType::kF32)
      load_some(static_cast<const float*>(p.bias) + column, count, false, other);
    else
      load_some(static_cast<const Out*>(p.bias) + column, count, false, other);
    UNROLL for (int i = 0; i < 4; ++i) v[i] += other[i];
  }
  if (p.preactivation != nullptr) {
    Out* preactivation = static_cast<Out*>(p.preactivation) +
                         row_offset(p.batch, MatMul::kPreactivation, product) +
                         row * p.preactivation_stride + column;
    if (p.gelu == Gelu::kTanhGradient || p.gelu == Gelu::kErfGradient)
      load_some(preactivation, count, p.preactivation_vectors, other);
    else
      store_some(preactivation, count, p.preactivation_vectors, v);
  }
  UNROLL for (int i = 0; i < 4; ++i) {
    if (p.gelu == Gelu::kTanh) v[i] = gelu_tanh(v[i]);
    if (p.gelu == Gelu::kErf) v[i] = gelu_erf(v[i]);
    if (p.gelu == Gelu::kTanhGradient) v[i] *= gelu_tanh_derivative(other[i]);
    if (p.gelu == Gelu::kErfGradient) v[i] *= gelu_erf_derivative(other[i]);
  }
  if (p.residual != nullptr) {
    load_some(static_cast<const Out*>(p.residual) +
                  row_offset(p.batch, MatMul::kResidual, product) + row * p.residual_stride +
                  column,
              count, p.residual_vectors, other);
    UNROLL for (int i = 0; i < 4; ++i) v[i] += other[i];
  }
  store_some(static_cast<Out*>(p.out) + row_offset(p.batch, MatMul::kOut, product) +
                 row * p.out_stride + column,
             count, p.out_vectors, v);
}

// Four sums of part `split` of the product, from `column` (a multiple of 4) on: to the result, or
// to the partial sums of a split product. T: the operands' type.
template <typename T>
__device__ __forceinline__ void finish(const MatMulProblem& p, int64_t product, int split, int row,
                                       int column, float (&v)[4]) {
  if (p.splits > 1) {
    const int64_t at = (split * p.batch.rows + product) * p.m + row;
    st128(p.partials + at * p.partial_columns + column, pack<float>(v));
  } else if (sizeof(T) == sizeof(float) || p.out_type == ElementType::kF32) {
    finish_as<float>(p, product, row, column, v);
  } else {
    finish_as<T>(p, product, row, column, v);
  }
}

// matmul_few_rows.cu: whether it computes the problem, what it chooses, its launch.
bool is_few_rows(const MatMul& p);
void choose_few_rows(ElementType in, MatMulProblem& p, int sm_count);
cudaError_t matmul_few_rows(cudaStream_t stream, ElementType in, const MatMulProblem& p);

}  // namespace gatun::kernels
