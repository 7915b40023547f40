// Launchers of activation.cu: raw device addresses and strides in, cudaError_t out. Every operand
// of an op has its shape and type.
#pragma once

#include <cuda_runtime_api.h>

#include "philox.h"
#include "rows.h"

namespace gatun::kernels {

// y may be x.
struct GeluForward {
  enum Operand { kY, kX, kOperands };

  void* y;
  const void* x;
  Runs<kOperands> runs;
};
cudaError_t gelu_forward(cudaStream_t stream, ElementType type, bool erf, const GeluForward& args);

// dx may be dy or x.
struct GeluBackward {
  enum Operand { kDx, kDy, kX, kOperands };

  void* dx;
  const void* dy;
  const void* x;
  bool add;
  Runs<kOperands> runs;
};
cudaError_t gelu_backward(cudaStream_t stream, ElementType type, bool erf,
                          const GeluBackward& args);

// y may be x.
struct Dropout {
  enum Operand { kY, kX, kOperands };

  void* y;
  const void* x;
  PhiloxSource philox;
  DropoutRule rule;
  bool add;
  Runs<kOperands> runs;  // in row-major order
};
cudaError_t dropout(cudaStream_t stream, ElementType type, const Dropout& args);

}  // namespace gatun::kernels
