// Launcher of loss.cu: raw device addresses and strides in, cudaError_t out.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "fault.h"
#include "rows.h"

namespace gatun::kernels {

// logits: rows of `columns` elements of one type, overwritten if write_gradient; targets one a row;
// loss and factor scalars, factor may be null (1); row_losses, one a row, may be null.
// Up to 2^31 - 1 rows and columns. sums: scratch of cross_entropy_scratch_bytes.
struct CrossEntropy {
  void* logits;
  const int32_t* targets;
  const float* factor;
  float* loss;
  float* row_losses;
  double* sums;
  FaultSink faults;
  int columns;
  int32_t ignore_index;
  float smoothing;
  bool write_gradient;
  bool accumulate;
  RowLayout<1> layout;
};

size_t cross_entropy_scratch_bytes(const CrossEntropy& args);
cudaError_t cross_entropy(cudaStream_t stream, ElementType type, const CrossEntropy& args);

}  // namespace gatun::kernels
