// Launchers of choose.cu: raw device addresses and strides in, cudaError_t out.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "fault.h"
#include "philox.h"
#include "rows.h"

namespace gatun::kernels {

// out[r out_stride]: the column of the largest of row r; logits: rows of `columns` elements of one
// type, logits_stride elements apart. Up to 2^31 - 1 rows and columns.
struct ArgMax {
  int32_t* out;
  const void* logits;
  int64_t rows;
  int64_t out_stride;
  int64_t logits_stride;
  int columns;
  FaultSink faults;
};

cudaError_t argmax(cudaStream_t stream, ElementType type, const ArgMax& args);

// One draw a row; logprobs may be null.
struct Sample {
  int32_t* out;
  float* logprobs;
  const void* logits;
  int64_t rows;
  int64_t out_stride;
  int64_t logprobs_stride;
  int64_t logits_stride;
  int columns;
  int top_k;  // 0: off
  float temperature;
  float top_p;  // 1: off
  float min_p;  // 0: off
  PhiloxSource philox;
  FaultSink faults;
};

cudaError_t sample(cudaStream_t stream, ElementType type, const Sample& args);

}  // namespace gatun::kernels
