// Launchers of optimizer.cu: raw device addresses and strides in, cudaError_t out. All ops take
// lists of tensors, in host memory; they are read before the call returns.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "fault.h"
#include "rows.h"

namespace gatun::kernels {

// Rows of `columns` elements; a contiguous tensor is one row.
struct ListTensor {
  void* data;
  ElementType type;
  int64_t columns;
  RowLayout<1> layout;
};

// norm = sqrt(sum of all squares); factor = min(1, max_norm / (norm + 1e-6)), 1 for max_norm <= 0,
// NaN where the norm is not finite. sums: scratch of global_norm_scratch_bytes.
struct GlobalNorm {
  float* norm;
  float* factor;
  double max_norm;
  double* sums;
};

size_t global_norm_scratch_bytes(const ListTensor* tensors, int64_t count);
cudaError_t global_norm(cudaStream_t stream, const ListTensor* tensors, int64_t count,
                        const GlobalNorm& args);

// Every element *= *inverse_scale; *found_inf = 1 if one was infinite or NaN before, else 0.
struct Unscale {
  float* found_inf;
  const float* inverse_scale;
};

cudaError_t unscale(cudaStream_t stream, const ListTensor* tensors, int64_t count,
                    const Unscale& args);

// Rows of `columns` elements, alike in weight, m, v (f32), gradient and copy; a contiguous tensor
// is one row. copy: f16 or bf16, null: none.
struct AdamWTensor {
  enum Operand { kWeight, kGradient, kM, kV, kCopy, kOperands };

  float* weight;
  const void* gradient;
  float* m;
  float* v;
  void* copy;
  ElementType gradient_type;
  ElementType copy_type;
  float decay;
  int64_t columns;
  RowLayout<kOperands> layout;
};

// The scalars of one step, as the device works them out from what only it knows.
struct AdamWStep {
  double learning_rate;
  float beta1, one_minus_beta1;
  float beta2, one_minus_beta2;
  float rate;       // learning_rate / (1 - beta1^step)
  float root_bias;  // 1 / sqrt(1 - beta2^step)
  float eps;
  float clip;
  bool valid;  // step is 1 or more; otherwise nothing is updated, and it is reported
};

struct AdamW {
  const float* learning_rate;
  const int64_t* step;
  const float* clip;  // null: 1
  double beta1;
  double beta2;
  double eps;
  AdamWStep* scratch;
  FaultSink faults;
};

cudaError_t adamw(cudaStream_t stream, const AdamWTensor* tensors, int64_t count,
                  const AdamW& args);

}  // namespace gatun::kernels
