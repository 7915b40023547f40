// Launchers of matmul.cu: raw device addresses and strides in, cudaError_t out.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "rows.h"

namespace gatun::kernels {

// Gradients: . gelu'(preactivation).
enum class Gelu { kNone, kTanh, kErf, kTanhGradient, kErfGradient };

// out(m, n) = gelu(alpha sum over k of a(m, k) b(k, n) + bias(n)) + residual(m, n). Strides are of
// the rows as they lie in memory, in elements; elements of a row are adjacent. batch: the products,
// in rows of the operands.
struct MatMul {
  enum Operand { kA, kB, kOut, kPreactivation, kResidual, kOperands };

  const void* a;  // rows of k (m of them); transpose_a: rows of m
  const void* b;  // rows of n (k of them); transpose_b: rows of k
  void* out;
  const void* bias;      // n adjacent elements, or null
  void* preactivation;   // like out: receives alpha sum + bias, or null; a gradient reads it
  const void* residual;  // like out, may be out; or null
  float* partials;       // scratch of matmul_scratch_bytes, aligned to 64
  int64_t a_stride;
  int64_t b_stride;
  int64_t out_stride;
  int64_t preactivation_stride;
  int64_t residual_stride;
  int m, n, k;
  float alpha;
  ElementType bias_type;  // f32 or that of out
  Gelu gelu;
  bool transpose_a;
  bool transpose_b;
  bool bf16x3;  // f32: three products of bf16 suffice
  RowLayout<kOperands> batch;
};

// The largest m, n, k: a tile beyond it is still an int.
constexpr int64_t kMatmulLargest = (int64_t{1} << 31) - 1024;

// `in`: of a and b; `out`: alike or f32.
size_t matmul_scratch_bytes(ElementType in, ElementType out, const MatMul& args, int sm_count);
cudaError_t matmul(cudaStream_t stream, ElementType in, ElementType out, const MatMul& args,
                   int sm_count);

}  // namespace gatun::kernels
