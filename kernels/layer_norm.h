// Launchers of layer_norm.cu: raw device addresses and strides in, cudaError_t out.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "philox.h"
#include "rows.h"

namespace gatun::kernels {

// x, residual, y, sum: rows of `columns` elements of one type; weight, bias: `columns` elements of
// that type or f32; mean, rstd: f32, one a row. residual and sum are both null or both not; bias,
// mean, rstd may be null. sum may be x or residual; nothing else overlaps. Where drops is set, x is
// dropped before it joins the residual: element i of x in row-major order takes word i of philox.
struct LayerNormForward {
  enum Operand { kX, kResidual, kY, kSum, kMean, kRstd, kOperands };

  const void* x;
  const void* residual;
  const void* weight;
  const void* bias;
  void* y;
  void* sum;
  float* mean;
  float* rstd;
  int columns;
  float eps;
  bool drops;
  DropoutRule rule;
  PhiloxSource philox;
  RowLayout<kOperands> layout;
};

cudaError_t layer_norm_forward(cudaStream_t stream, ElementType type, ElementType parameter_type,
                               const LayerNormForward& args);

// dx like x, may be dy; dweight and dbias `columns` elements of f32 or the parameters' type;
// ddropped like x, the stored dx dropped as the forward pass dropped x, null without dx. Each of
// the four may be null; add_… says whether it is added to. partials: scratch of
// layer_norm_backward_scratch_bytes, aligned to 16.
struct LayerNormBackward {
  enum Operand { kDx, kDy, kX, kMean, kRstd, kDdropped, kOperands };

  void* dx;
  void* dweight;
  void* dbias;
  void* ddropped;
  const void* dy;
  const void* x;
  const float* mean;
  const float* rstd;
  const void* weight;
  float* partials;
  int64_t partial_count;  // set by the launcher
  ElementType dweight_type;
  ElementType dbias_type;
  bool add_dx;
  bool add_dweight;
  bool add_dbias;
  bool add_ddropped;
  DropoutRule rule;
  PhiloxSource philox;
  int columns;
  RowLayout<kOperands> layout;
};

size_t layer_norm_backward_scratch_bytes(ElementType type, ElementType parameter_type,
                                         const LayerNormBackward& args, int sm_count);

cudaError_t layer_norm_backward(cudaStream_t stream, ElementType type, ElementType parameter_type,
                                const LayerNormBackward& args, int sm_count);

}  // namespace gatun::kernels
