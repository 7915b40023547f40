// Gradient of a bias: sums of columns.
//
// math     dbias(n) (+)= sum over rows of dy(row, n), in f32.
// shapes   dy (rows, columns), any strides between rows; dbias (columns).
// tiling   A block takes 32 vectors of 16 bytes side by side and one part of the rows: eight warps
//          read every eighth row each, add up in registers, then through shared memory. With
//          several parts their sums are rows of f32, and the same kernel adds those up: no atomics,
//          the same bits every time on one model of GPU. Unaligned rows: a column a lane.
// limits   columns < 2^31.
// source   as layer_norm.cu's parameter gradients.
// measured not yet on a GPU; checked and counted on the host (bias_kernel_test.cpp).
#include <algorithm>

#include "bias.h"
#include "tile.cuh"
#include "tiles.h"

namespace gatun::kernels {

constexpr int kColumnSumWarps = kColumnSumThreads / 32;

struct ColumnSums {
  const void* in;
  void* out;  // of one row; or f32 partial sums, one row a part
  int64_t rows_of_a_part;
  int64_t out_stride;
  int columns;
  bool add;
  ElementType out_type;
  RowLayout<1> layout;
};

template <int kVec>
struct ColumnSumsShared {
  float sums[kColumnSumWarps][32 * kVec];
};

template <typename Out>
__device__ __forceinline__ void store_sum(const ColumnSums& p, int64_t at, float sum) {
  Out* out = static_cast<Out*>(p.out) + at;
  *out = from_float<Out>(p.add ? sum + to_float(*out) : sum);
}

// grid (column blocks, parts)
template <typename T, int kVec>
__global__ void __launch_bounds__(kColumnSumThreads)
    column_sums(const __grid_constant__ ColumnSums p) {
  constexpr int kAhead = 4;  // loads of a lane in flight
  constexpr int kColumns = 32 * kVec;
  using Shared = ColumnSumsShared<kVec>;
  SMEM(Shared, shared);
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const int64_t first = blockIdx.x * kColumns;  // columns are an int
  const int64_t column = first + lane * kVec;
  const int64_t begin = int64_t{blockIdx.y} * p.rows_of_a_part;
  const int64_t end = min(p.layout.rows, begin + p.rows_of_a_part);
  const T* in = static_cast<const T*>(p.in) + column;
  float sums[kVec] = {};
  if (column < p.columns) {
    int64_t row = begin + warp;
    for (; row + (kAhead - 1) * kColumnSumWarps < end; row += kAhead * kColumnSumWarps) {
      float v[kAhead][kVec];
      UNROLL for (int i = 0; i < kAhead; ++i)
          load_values<kVec>(in + row_offset(p.layout, 0, row + i * kColumnSumWarps), v[i]);
      UNROLL for (int i = 0; i < kAhead; ++i) UNROLL for (int e = 0; e < kVec; ++e) sums[e] +=
          v[i][e];
    }
    for (; row < end; row += kColumnSumWarps) {
      float v[kVec];
      load_values<kVec>(in + row_offset(p.layout, 0, row), v);
      UNROLL for (int e = 0; e < kVec; ++e) sums[e] += v[e];
    }
  }
  UNROLL for (int e = 0; e < kVec; ++e) shared.sums[warp][lane * kVec + e] = sums[e];
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.x); i < kColumns; i += kColumnSumThreads) {
    if (first + i >= p.columns) continue;
    float sum = 0.f;
    UNROLL for (int w = 0; w < kColumnSumWarps; ++w) sum += shared.sums[w][i];
    const int64_t at = blockIdx.y * p.out_stride + first + i;
    if (p.out_type == ElementType::kF32)
      store_sum<float>(p, at, sum);
    else if (p.out_type == ElementType::kF16)
      store_sum<__half>(p, at, sum);
    else
      store_sum<__nv_bfloat16>(p, at, sum);
  }
}

// ---- launcher ----

namespace {

struct Plan {
  bool vectors;
  int columns;  // of a block
  int64_t parts;
  int64_t partial_stride;
};

Plan plan(ElementType type, const BiasBackward& p, int sm_count) {
  const int64_t size = type == ElementType::kF32 ? 4 : 2;
  Plan plan = {};
  // the last vector of a row must not pass its end
  plan.vectors = reinterpret_cast<uintptr_t>(p.dy) % 16 == 0 && p.columns * size % 16 == 0;
  for (int d = 0; d < p.layout.rank; ++d)
    plan.vectors = plan.vectors && p.layout.stride[0][d] * size % 16 == 0;
  plan.columns = static_cast<int>(plan.vectors ? 32 * 16 / size : 32);
  const int64_t blocks = (int64_t{p.columns} + plan.columns - 1) / plan.columns;
  plan.parts = column_sum_parts(p.layout.rows, blocks, sm_count);
  plan.partial_stride = (int64_t{p.columns} + 3) / 4 * 4;
  return plan;
}

template <typename T>
cudaError_t launch_sums(cudaStream_t stream, const Plan& plan, const ColumnSums& p) {
  const dim3 grid(static_cast<unsigned>((int64_t{p.columns} + plan.columns - 1) / plan.columns),
                  static_cast<unsigned>(plan.parts));
  if (plan.vectors)
    return launch("column_sums", column_sums<T, kVector<T>>, grid, kColumnSumThreads,
                  sizeof(ColumnSumsShared<kVector<T>>), stream, p);
  return launch("column_sums", column_sums<T, 1>, grid, kColumnSumThreads,
                sizeof(ColumnSumsShared<1>), stream, p);
}

cudaError_t launch_sums(cudaStream_t stream, ElementType type, const Plan& plan,
                        const ColumnSums& p) {
  switch (type) {
    case ElementType::kF32:
      return launch_sums<float>(stream, plan, p);
    case ElementType::kF16:
      return launch_sums<__half>(stream, plan, p);
    case ElementType::kBf16:
      return launch_sums<__nv_bfloat16>(stream, plan, p);
  }
  return cudaErrorInvalidValue;
}

}  // namespace

size_t bias_backward_scratch_bytes(ElementType type, const BiasBackward& p, int sm_count) {
  if (p.columns == 0) return 0;
  const Plan with = plan(type, p, sm_count);
  if (with.parts <= 1) return 0;
  return static_cast<size_t>(with.parts * with.partial_stride) * sizeof(float);
}

cudaError_t bias_backward(cudaStream_t stream, ElementType type, ElementType dbias_type,
                          const BiasBackward& p, int sm_count) {
  if (p.layout.rank > kMaxLeading) return cudaErrorInvalidValue;
  if (p.columns == 0) return cudaSuccess;
  const Plan first = plan(type, p, sm_count);
  ColumnSums sums = {};
  sums.in = p.dy;
  sums.columns = p.columns;
  sums.layout = p.layout;
  sums.rows_of_a_part = (p.layout.rows + first.parts - 1) / first.parts;
  if (first.parts > 1) {
    sums.out = p.partials;
    sums.out_type = ElementType::kF32;
    sums.out_stride = first.partial_stride;
    const cudaError_t error = launch_sums(stream, type, first, sums);
    if (error != cudaSuccess) return error;
    type = ElementType::kF32;
    sums.in = p.partials;
    sums.layout.rows = sums.rows_of_a_part = first.parts;
    sums.layout.rank = 1;
    sums.layout.shape[0] = first.parts;
    sums.layout.stride[0][0] = first.partial_stride;
  }
  sums.out = p.dbias;
  sums.out_type = dbias_type;
  sums.add = p.add;
  Plan last = first;
  last.parts = 1;
  if (first.parts > 1) {
    last.vectors = p.columns % 4 == 0;
    last.columns = last.vectors ? 32 * 4 : 32;
  }
  return launch_sums(stream, type, last, sums);
}

}  // namespace gatun::kernels
