// Launcher of bias.cu: raw device addresses and strides in, cudaError_t out.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "rows.h"

namespace gatun::kernels {

// dbias(n) (+)= sum over the rows of dy(rows, n). dbias: `columns` elements of any type. partials:
// scratch of bias_backward_scratch_bytes, aligned to 16.
struct BiasBackward {
  const void* dy;
  void* dbias;
  float* partials;
  int columns;
  bool add;
  RowLayout<1> layout;  // of dy
};

size_t bias_backward_scratch_bytes(ElementType type, const BiasBackward& args, int sm_count);
cudaError_t bias_backward(cudaStream_t stream, ElementType type, ElementType dbias_type,
                          const BiasBackward& args, int sm_count);

}  // namespace gatun::kernels
