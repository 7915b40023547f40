// Launchers of embedding.cu: raw device addresses and strides in, cudaError_t out.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "fault.h"
#include "rows.h"

namespace gatun::kernels {

// batch x length tokens: the table row of each by its id, its position by `start` (null: 0) of its
// batch entry. Steps in elements.
struct Tokens {
  const int32_t* ids;
  const int32_t* start;
  int64_t batch, length;
  int64_t ids_step[2];  // from batch entry to batch entry, from token to token
  int64_t start_step;
  FaultSink faults;
};

// out = table[id] + positions[position], rows of `columns`; positions may be null.
struct EmbeddingForward {
  Tokens tokens;
  void* out;
  const void* table;
  const void* positions;
  int64_t columns;
  int64_t table_rows, position_rows;
  int64_t out_step[2];
  int64_t table_step, positions_step;
};
cudaError_t embedding_forward(cudaStream_t stream, ElementType type, const EmbeddingForward& args);

// gradient[row] (+)= the sum of dout over the tokens whose id (or position, if by_position) is the
// row; without `add` the other rows become 0. At most kEmbeddingMost tokens and rows. scratch: of
// embedding_backward_scratch_bytes, aligned to 16.
constexpr int64_t kEmbeddingMost = INT32_MAX - 256;
struct EmbeddingBackward {
  Tokens tokens;
  bool by_position;
  bool add;
  void* gradient;
  const void* dout;
  int64_t rows, columns;
  int64_t gradient_step;
  int64_t dout_step[2];
  void* scratch;
};
size_t embedding_backward_scratch_bytes(int64_t tokens, int64_t columns);
cudaError_t embedding_backward(cudaStream_t stream, ElementType gradient_type,
                               ElementType dout_type, const EmbeddingBackward& args);

}  // namespace gatun::kernels
