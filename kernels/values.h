// Launchers of values.cu: raw device addresses and strides in, cudaError_t out. Every operand of
// an op has its shape.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "philox.h"
#include "rows.h"

namespace gatun::kernels {

// out = the low `element_bytes` (1, 2, 4 or 8) bytes of `bits`.
struct Fill {
  enum Operand { kOut, kOperands };

  void* out;
  uint64_t bits;
  Runs<kOperands> runs;
};
cudaError_t fill(cudaStream_t stream, int element_bytes, const Fill& args);

// out = src. Where the rows have one column, dimension 0 of the layout is the one in which `out`
// is the closest: src is then read in tiles if it has stride 1 in another.
struct Copy {
  enum Operand { kOut, kSrc, kOperands };

  void* out;
  const void* src;
  Runs<kOperands> runs;
};
// The same bits, elements of 1, 2, 4 or 8 bytes.
cudaError_t copy(cudaStream_t stream, int element_bytes, const Copy& args);
cudaError_t cast(cudaStream_t stream, ElementType to, ElementType from, const Copy& args);
// int32 to int64 (widen), or back by dropping the upper half.
cudaError_t cast_integers(cudaStream_t stream, bool widen, const Copy& args);

struct Random {
  enum Operand { kOut, kOperands };

  void* out;
  PhiloxSource philox;
  float shift, scale;       // uniform: low and high - low; normal: mean and standard deviation
  float smallest, largest;  // uniform: the ends of the interval in the type of `out`
  Runs<kOperands> runs;     // in row-major order
};
cudaError_t random_uniform(cudaStream_t stream, ElementType type, const Random& args);
cudaError_t random_normal(cudaStream_t stream, ElementType type, const Random& args);

// out = a + b; out may be a or b.
struct Add {
  enum Operand { kOut, kA, kB, kOperands };

  void* out;
  const void* a;
  const void* b;
  Runs<kOperands> runs;
};
cudaError_t add(cudaStream_t stream, ElementType type, const Add& args);

// out += by, int32 or int64 (wide), modulo 2^32 or 2^64.
struct Increment {
  enum Operand { kOut, kOperands };

  void* out;
  int64_t by;
  Runs<kOperands> runs;
};
cudaError_t increment(cudaStream_t stream, bool wide, const Increment& args);

}  // namespace gatun::kernels
