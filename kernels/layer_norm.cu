// Layer normalisation with a fused residual and dropout, forward and backward.
//
// math     sum = dropout(x) + residual;  y = xhat weight + bias,  xhat = (sum - mean) rstd,
//          rstd = 1 / sqrt(var + eps), mean and biased variance over the columns
//          g = dy weight;  dx = rstd (g - mean_columns(g) - xhat mean_columns(g xhat))
//          dweight = sum_rows(dy xhat);  dbias = sum_rows(dy);  ddropped = dropout(dx)
//          The dropout is that of philox.h by element index: no mask is stored.
// shapes   x, residual, y, sum, dy, dx, ddropped (rows, columns), any strides between rows; weight,
//          bias, dweight, dbias (columns); mean, rstd (rows), f32. Storage f32, f16 or bf16,
//          parameters alike or f32; arithmetic and sums in f32.
// tiling   A row belongs to a warp (up to 512 columns), or to a block of 128 (2048) or 512 threads
//          (8192), chosen by norm_tile() (tiles.h). Each thread loads its 16 values with 16-byte
//          accesses, once, and keeps them in registers for mean, variance and result. Sums:
//          shuffles in a warp, then one barrier and a row of shared memory (at most 128 bytes).
//          Longer or unaligned rows: 256 threads walk the row, three times forward, twice backward.
//          Parameter gradients: each block adds up its rows in registers and writes one partial
//          row; a second kernel adds the partial rows in a fixed order. No atomics: the same bits
//          every time on one model of GPU.
// limits   columns < 2^31. Two passes for the variance: one-pass sums cancel where |mean| >> std.
// source   Ba, Kiros, Hinton 2016 (arXiv:1607.06450); rows held in registers: idea from QuACK
//          (Dao-AILab, Apache-2.0); partial sums in two kernels: idea from Apex and llm.c (MIT).
// measured not yet on a GPU; compiled for sm_80 and sm_90a without spills (resources.txt), results
//          checked on the host (native/test/kernel/layer_norm_kernel_test.cpp).
#include <cuda_runtime.h>

#include <algorithm>
#include <climits>
#include <type_traits>

#include "layer_norm.h"
#include "tile.cuh"
#include "tiles.h"

namespace gatun::kernels {

static_assert(kNormValues % kVector<__half> == 0 && kNormValues % kVector<float> == 0,
              "a thread's values are whole 16-byte vectors of every type");
static_assert(kNormTiles[kNormTileCount - 1].threads <= 1024, "a row needs one block");
static_assert(kNormLoopThreads % 32 == 0, "group_sum adds up whole warps");

using Forward = LayerNormForward;
using Backward = LayerNormBackward;

// ---- device helpers ----

// Dropout of kCount elements from logical index `first` on, rounded as they would be stored: a
// multiple of 4 elements that start at one, or a single element.
template <int kCount, typename T>
__device__ __forceinline__ void drop(const DropoutRule& rule, const PhiloxStream& stream,
                                     int64_t first, float* v) {
  static_assert(kCount == 1 || kCount % 4 == 0, "whole blocks of random words");
  const auto one = [&](uint32_t word, float x) {
    // not to be fused with the addition that follows
    return rule.keeps(word) ? rounded<T>(__fmul_rn(x, rule.scale)) : 0.f;
  };
  if constexpr (kCount == 1) {
    v[0] = one(stream.word(static_cast<uint64_t>(first)), v[0]);
  } else {
    UNROLL for (int block = 0; block < kCount / 4; ++block) {
      const PhiloxBlock words = stream.words(static_cast<uint64_t>(first) / 4 + block);
      UNROLL for (int i = 0; i < 4; ++i) v[4 * block + i] = one(words.word[i], v[4 * block + i]);
    }
  }
}

// kCount columns of the sum from x and the residual (null: x itself), as it is stored: what the
// backward pass will see. `first` is the logical index of the row's first element.
template <int kCount, typename T>
__device__ __forceinline__ void load_sum(const Forward& p, const PhiloxStream& stream, const T* x,
                                         const T* residual, T* sum, int64_t first, int column,
                                         float* v) {
  load_values<kCount>(x + column, v);
  if (residual == nullptr) return;
  float r[kCount];
  load_values<kCount>(residual + column, r);
  if (p.drops) drop<kCount, T>(p.rule, stream, first + column, v);
  UNROLL for (int i = 0; i < kCount; ++i) v[i] = rounded<T>(v[i] + r[i]);
  store_values<kCount>(sum + column, v);
}

// y of kCount columns from the centred values.
template <int kCount, typename T, typename W>
__device__ __forceinline__ void store_y(T* y, const W* weight, const W* bias, int column,
                                        const float* centred, float rstd) {
  float w[kCount], result[kCount];
  load_values<kCount>(weight + column, w);
  UNROLL for (int i = 0; i < kCount; ++i) result[i] = centred[i] * rstd * w[i];
  if (bias != nullptr) {
    float b[kCount];
    load_values<kCount>(bias + column, b);
    UNROLL for (int i = 0; i < kCount; ++i) result[i] += b[i];
  }
  store_values<kCount>(y + column, result);
}

// dx of kCount columns, left in `gradient` as it is stored; dx may be where dy was.
template <int kCount, typename T>
__device__ __forceinline__ void store_dx(T* dx, bool add, int column, float* gradient,
                                         const float* xhat, float rstd, float g_mean,
                                         float gx_mean) {
  UNROLL for (int i = 0; i < kCount; ++i) gradient[i] =
      (gradient[i] - g_mean - xhat[i] * gx_mean) * rstd;
  if (add) {
    float old[kCount];
    load_values<kCount>(dx + column, old);
    UNROLL for (int i = 0; i < kCount; ++i) gradient[i] += old[i];
  }
  store_values<kCount>(dx + column, gradient);
  UNROLL for (int i = 0; i < kCount; ++i) gradient[i] = rounded<T>(gradient[i]);
}

// ddropped of kCount columns from their dx.
template <int kCount, typename T>
__device__ __forceinline__ void store_dropped(const Backward& p, const PhiloxStream& stream,
                                              T* ddropped, int64_t first, int column, float* dx) {
  drop<kCount, T>(p.rule, stream, first + column, dx);
  if (p.add_ddropped) {
    float old[kCount];
    load_values<kCount>(ddropped + column, old);
    UNROLL for (int i = 0; i < kCount; ++i) dx[i] += old[i];
  }
  store_values<kCount>(ddropped + column, dx);
}

template <typename T>
__device__ __forceinline__ T* row_of(T* base, int64_t offset) {
  return base == nullptr ? nullptr : base + offset;
}

// ---- forward ----

template <int kThreads>
struct NormForwardShared {
  GroupParts<kThreads, 1> parts;
};

// Rows in registers: thread `lane` of a row owns columns (k kThreads + lane) kVec + 0 .. kVec - 1.
template <typename T, typename W, int kTile>
__global__ void __launch_bounds__(kNormTiles[kTile].threads* kNormTiles[kTile].rows,
                                  kNormTiles[kTile].min_blocks)
    layer_norm_forward_rows(const __grid_constant__ Forward p) {
  constexpr int kThreads = kNormTiles[kTile].threads;
  constexpr int kRows = kNormTiles[kTile].rows;
  constexpr int kVec = kVector<T>;
  constexpr int kPacks = kNormValues / kVec;
  SMEM(NormForwardShared<kThreads>, shared);
  int phase = 0;
  const int lane = static_cast<int>(threadIdx.x) % kThreads;
  const float scale = 1.f / static_cast<float>(p.columns);
  const PhiloxStream stream = p.philox.stream();
  const int64_t step = int64_t{gridDim.x} * kRows;
  for (int64_t row = int64_t{blockIdx.x} * kRows + threadIdx.x / kThreads; row < p.layout.rows;
       row += step) {
    const T* x = static_cast<const T*>(p.x) + row_offset(p.layout, Forward::kX, row);
    const T* residual =
        row_of(static_cast<const T*>(p.residual), row_offset(p.layout, Forward::kResidual, row));
    T* sum = row_of(static_cast<T*>(p.sum), row_offset(p.layout, Forward::kSum, row));
    float v[kPacks][kVec];
    float total[1] = {0.f};
    UNROLL for (int k = 0; k < kPacks; ++k) {
      const int column = (k * kThreads + lane) * kVec;
      if (column < p.columns) {
        load_sum<kVec>(p, stream, x, residual, sum, row * p.columns, column, v[k]);
        UNROLL for (int i = 0; i < kVec; ++i) total[0] += v[k][i];
      }
    }
    group_sum<kThreads>(total, shared.parts, phase);
    const float mean = total[0] * scale;
    total[0] = 0.f;
    UNROLL for (int k = 0; k < kPacks; ++k) {
      const int column = (k * kThreads + lane) * kVec;
      if (column < p.columns) UNROLL for (int i = 0; i < kVec; ++i) {
          v[k][i] -= mean;
          total[0] += v[k][i] * v[k][i];
        }
    }
    group_sum<kThreads>(total, shared.parts, phase);
    const float rstd = 1.f / sqrtf(total[0] * scale + p.eps);
    T* y = static_cast<T*>(p.y) + row_offset(p.layout, Forward::kY, row);
    UNROLL for (int k = 0; k < kPacks; ++k) {
      const int column = (k * kThreads + lane) * kVec;
      if (column < p.columns)
        store_y<kVec>(y, static_cast<const W*>(p.weight), static_cast<const W*>(p.bias), column,
                      v[k], rstd);
    }
    if (lane == 0) {
      if (p.mean != nullptr)
        store_element(p.mean + row_offset(p.layout, Forward::kMean, row), mean);
      if (p.rstd != nullptr)
        store_element(p.rstd + row_offset(p.layout, Forward::kRstd, row), rstd);
    }
  }
}

// Rows of any length, kVec columns at a time, read again for each pass.
template <typename T, typename W, int kVec>
__global__ void __launch_bounds__(kNormLoopThreads, kNormLoopBlocks)
    layer_norm_forward_loop(const __grid_constant__ Forward p) {
  SMEM(NormForwardShared<kNormLoopThreads>, shared);
  int phase = 0;
  const int first = static_cast<int>(threadIdx.x) * kVec;
  constexpr int kStep = kNormLoopThreads * kVec;
  const float scale = 1.f / static_cast<float>(p.columns);
  const PhiloxStream stream = p.philox.stream();
  for (int64_t row = blockIdx.x; row < p.layout.rows; row += gridDim.x) {
    const T* x = static_cast<const T*>(p.x) + row_offset(p.layout, Forward::kX, row);
    const T* residual =
        row_of(static_cast<const T*>(p.residual), row_offset(p.layout, Forward::kResidual, row));
    T* sum = row_of(static_cast<T*>(p.sum), row_offset(p.layout, Forward::kSum, row));
    float v[kVec];
    float total[1] = {0.f};
    // the column after the last may pass 2^31
    for (int64_t column = first; column < p.columns; column += kStep) {
      load_sum<kVec>(p, stream, x, residual, sum, row * p.columns, static_cast<int>(column), v);
      UNROLL for (int i = 0; i < kVec; ++i) total[0] += v[i];
    }
    group_sum<kNormLoopThreads>(total, shared.parts, phase);
    const float mean = total[0] * scale;
    if (sum != nullptr) x = sum;  // each thread reads back what it wrote itself
    total[0] = 0.f;
    for (int64_t column = first; column < p.columns; column += kStep) {
      load_values<kVec>(x + column, v);
      UNROLL for (int i = 0; i < kVec; ++i) total[0] += (v[i] - mean) * (v[i] - mean);
    }
    group_sum<kNormLoopThreads>(total, shared.parts, phase);
    const float rstd = 1.f / sqrtf(total[0] * scale + p.eps);
    T* y = static_cast<T*>(p.y) + row_offset(p.layout, Forward::kY, row);
    for (int64_t column = first; column < p.columns; column += kStep) {
      load_values<kVec>(x + column, v);
      UNROLL for (int i = 0; i < kVec; ++i) v[i] -= mean;
      store_y<kVec>(y, static_cast<const W*>(p.weight), static_cast<const W*>(p.bias),
                    static_cast<int>(column), v, rstd);
    }
    if (threadIdx.x == 0) {
      if (p.mean != nullptr)
        store_element(p.mean + row_offset(p.layout, Forward::kMean, row), mean);
      if (p.rstd != nullptr)
        store_element(p.rstd + row_offset(p.layout, Forward::kRstd, row), rstd);
    }
  }
}

// ---- backward ----

// partials [blocks][2][columns]: dweight, then dbias, of each block's rows.
template <int kTile>
struct NormBackwardShared {
  static constexpr int kThreads = kNormTiles[kTile].threads;
  static constexpr int kRows = kNormTiles[kTile].rows;
  GroupParts<kThreads, 2> parts;
  // what the rows of a block found for each column, where a block has several
  float column[kRows > 1 ? kRows : 1][kRows > 1 ? kThreads* kNormValues : 1];
};

// Adds up `mine` over the rows of the block, in order, and writes it to partial[columns].
template <int kTile, int kPacks, int kVec>
__device__ __forceinline__ void store_partial(float* partial, int columns, int lane,
                                              const float (&mine)[kPacks][kVec],
                                              NormBackwardShared<kTile>& shared) {
  constexpr int kThreads = kNormTiles[kTile].threads;
  constexpr int kRows = kNormTiles[kTile].rows;
  if constexpr (kRows == 1) {
    UNROLL for (int k = 0; k < kPacks; ++k) {
      const int column = (k * kThreads + lane) * kVec;
      if (column < columns)
        UNROLL for (int i = 0; i < kVec; ++i) store_element(partial + column + i, mine[k][i]);
    }
  } else {
    __syncthreads();  // the previous partial was read
    UNROLL for (int k = 0; k < kPacks; ++k) UNROLL for (int i = 0; i < kVec; ++i)
        shared.column[threadIdx.x / kThreads][(k * kThreads + lane) * kVec + i] = mine[k][i];
    __syncthreads();
    for (int column = static_cast<int>(threadIdx.x); column < columns; column += kThreads * kRows) {
      float total = 0.f;
      UNROLL for (int row = 0; row < kRows; ++row) total += shared.column[row][column];
      store_element(partial + column, total);
    }
  }
}

template <typename T, typename W, int kTile>
__global__ void __launch_bounds__(kNormTiles[kTile].threads* kNormTiles[kTile].rows,
                                  kNormTiles[kTile].min_blocks)
    layer_norm_backward_rows(const __grid_constant__ Backward p) {
  constexpr int kThreads = kNormTiles[kTile].threads;
  constexpr int kRows = kNormTiles[kTile].rows;
  constexpr int kVec = kVector<T>;
  constexpr int kPacks = kNormValues / kVec;
  SMEM(NormBackwardShared<kTile>, shared);
  int phase = 0;
  const int lane = static_cast<int>(threadIdx.x) % kThreads;
  const float scale = 1.f / static_cast<float>(p.columns);
  float dweight[kPacks][kVec] = {};
  float dbias[kPacks][kVec] = {};
  const int64_t step = int64_t{gridDim.x} * kRows;
  for (int64_t row = int64_t{blockIdx.x} * kRows + threadIdx.x / kThreads; row < p.layout.rows;
       row += step) {
    const T* x = static_cast<const T*>(p.x) + row_offset(p.layout, Backward::kX, row);
    const T* dy = static_cast<const T*>(p.dy) + row_offset(p.layout, Backward::kDy, row);
    const float mean = load_element(p.mean + row_offset(p.layout, Backward::kMean, row));
    const float rstd = load_element(p.rstd + row_offset(p.layout, Backward::kRstd, row));
    float xhat[kPacks][kVec], gradient[kPacks][kVec];
    float sums[2] = {0.f, 0.f};
    // all loads of the row before the arithmetic, so that they are in flight together
    UNROLL for (int k = 0; k < kPacks; ++k) {
      const int column = (k * kThreads + lane) * kVec;
      if (column < p.columns) {
        load_values<kVec>(x + column, xhat[k]);
        load_values<kVec>(dy + column, gradient[k]);
      }
    }
    UNROLL for (int k = 0; k < kPacks; ++k) {
      const int column = (k * kThreads + lane) * kVec;
      if (column < p.columns) {
        float w[kVec];
        load_values<kVec>(static_cast<const W*>(p.weight) + column, w);
        UNROLL for (int i = 0; i < kVec; ++i) {
          xhat[k][i] = (xhat[k][i] - mean) * rstd;
          dbias[k][i] += gradient[k][i];
          dweight[k][i] += gradient[k][i] * xhat[k][i];
          gradient[k][i] *= w[i];
          sums[0] += gradient[k][i];
          sums[1] += gradient[k][i] * xhat[k][i];
        }
      }
    }
    if (p.dx == nullptr) continue;  // the whole block agrees
    group_sum<kThreads>(sums, shared.parts, phase);
    T* dx = static_cast<T*>(p.dx) + row_offset(p.layout, Backward::kDx, row);
    UNROLL for (int k = 0; k < kPacks; ++k) {
      const int column = (k * kThreads + lane) * kVec;
      if (column < p.columns)
        store_dx<kVec>(dx, p.add_dx, column, gradient[k], xhat[k], rstd, sums[0] * scale,
                       sums[1] * scale);
    }
    if (p.ddropped == nullptr) continue;
    const PhiloxStream stream = p.philox.stream();
    T* ddropped = static_cast<T*>(p.ddropped) + row_offset(p.layout, Backward::kDdropped, row);
    UNROLL for (int k = 0; k < kPacks; ++k) {
      const int column = (k * kThreads + lane) * kVec;
      if (column < p.columns)
        store_dropped<kVec>(p, stream, ddropped, row * p.columns, column, gradient[k]);
    }
  }
  if (p.partials == nullptr) return;
  float* partial = p.partials + int64_t{blockIdx.x} * 2 * p.columns;
  store_partial<kTile>(partial, p.columns, lane, dweight, shared);
  store_partial<kTile>(partial + p.columns, p.columns, lane, dbias, shared);
}

struct LoopShared {
  GroupParts<kNormLoopThreads, 2> parts;
};

// dx of rows of any length.
template <typename T, typename W, int kVec>
__global__ void __launch_bounds__(kNormLoopThreads, kNormLoopBlocks)
    layer_norm_backward_loop(const __grid_constant__ Backward p) {
  SMEM(LoopShared, shared);
  int phase = 0;
  const int first = static_cast<int>(threadIdx.x) * kVec;
  constexpr int kStep = kNormLoopThreads * kVec;
  const float scale = 1.f / static_cast<float>(p.columns);
  for (int64_t row = blockIdx.x; row < p.layout.rows; row += gridDim.x) {
    const T* x = static_cast<const T*>(p.x) + row_offset(p.layout, Backward::kX, row);
    const T* dy = static_cast<const T*>(p.dy) + row_offset(p.layout, Backward::kDy, row);
    const float mean = load_element(p.mean + row_offset(p.layout, Backward::kMean, row));
    const float rstd = load_element(p.rstd + row_offset(p.layout, Backward::kRstd, row));
    const auto load = [&](int64_t column, float* xhat, float* gradient) {
      float w[kVec];
      load_values<kVec>(x + column, xhat);
      load_values<kVec>(dy + column, gradient);
      load_values<kVec>(static_cast<const W*>(p.weight) + column, w);
      UNROLL for (int i = 0; i < kVec; ++i) {
        xhat[i] = (xhat[i] - mean) * rstd;
        gradient[i] *= w[i];
      }
    };
    float xhat[kVec], gradient[kVec];
    float sums[2] = {0.f, 0.f};
    for (int64_t column = first; column < p.columns; column += kStep) {
      load(column, xhat, gradient);
      UNROLL for (int i = 0; i < kVec; ++i) {
        sums[0] += gradient[i];
        sums[1] += gradient[i] * xhat[i];
      }
    }
    group_sum<kNormLoopThreads>(sums, shared.parts, phase);
    T* dx = static_cast<T*>(p.dx) + row_offset(p.layout, Backward::kDx, row);
    for (int64_t column = first; column < p.columns; column += kStep) {
      load(column, xhat, gradient);
      store_dx<kVec>(dx, p.add_dx, static_cast<int>(column), gradient, xhat, rstd, sums[0] * scale,
                     sums[1] * scale);
    }
    if (p.ddropped == nullptr) continue;
    const PhiloxStream stream = p.philox.stream();
    T* ddropped = static_cast<T*>(p.ddropped) + row_offset(p.layout, Backward::kDdropped, row);
    for (int64_t column = first; column < p.columns; column += kStep) {
      load_values<kVec>(dx + column, gradient);  // each thread reads back what it wrote itself
      store_dropped<kVec>(p, stream, ddropped, row * p.columns, static_cast<int>(column), gradient);
    }
  }
}

// Partial parameter gradients of rows of any length: a thread a column, block (i, j) the columns
// of tile i and the rows j, j + gridDim.y, …
template <typename T>
__global__ void __launch_bounds__(kNormLoopThreads)
    layer_norm_backward_columns(const __grid_constant__ Backward p) {
  const int64_t column = int64_t{blockIdx.x} * kNormLoopThreads + threadIdx.x;
  if (column >= p.columns) return;
  float dweight = 0.f, dbias = 0.f;
  for (int64_t row = blockIdx.y; row < p.layout.rows; row += gridDim.y) {
    const float x =
        to_float(static_cast<const T*>(p.x)[row_offset(p.layout, Backward::kX, row) + column]);
    const float dy =
        to_float(static_cast<const T*>(p.dy)[row_offset(p.layout, Backward::kDy, row) + column]);
    const float mean = load_element(p.mean + row_offset(p.layout, Backward::kMean, row));
    const float rstd = load_element(p.rstd + row_offset(p.layout, Backward::kRstd, row));
    dweight += dy * ((x - mean) * rstd);
    dbias += dy;
  }
  float* partial = p.partials + int64_t{blockIdx.y} * 2 * p.columns;
  store_element(partial + column, dweight);
  store_element(partial + p.columns + column, dbias);
}

struct FinishShared {
  float part[kNormFinishThreads][kNormFinishColumns];
};

__device__ __forceinline__ void store_gradient(void* out, ElementType type, int column, bool add,
                                               float value) {
  const auto put = [&](auto* p) {
    using T = std::remove_pointer_t<decltype(p)>;
    p[column] = from_float<T>(add ? to_float(p[column]) + value : value);
  };
  if (type == ElementType::kF32) put(static_cast<float*>(out));
  if (type == ElementType::kF16) put(static_cast<__half*>(out));
  if (type == ElementType::kBf16) put(static_cast<__nv_bfloat16*>(out));
}

// dweight (blockIdx.y 0) and dbias (1) from the partial rows: thread (i, j) of a block adds rows
// j, j + 8, … of column i, then the 8 sums are added in order.
__global__ void __launch_bounds__(kNormFinishColumns* kNormFinishThreads)
    layer_norm_backward_finish(const __grid_constant__ Backward p) {
  SMEM(FinishShared, shared);
  const bool second = blockIdx.y == 1;
  void* out = second ? p.dbias : p.dweight;
  if (out == nullptr) return;
  const int lane = static_cast<int>(threadIdx.x) % kNormFinishColumns;
  const int part = static_cast<int>(threadIdx.x) / kNormFinishColumns;
  const int64_t column = int64_t{blockIdx.x} * kNormFinishColumns + lane;
  float total = 0.f;
  if (column < p.columns)
    for (int64_t i = part; i < p.partial_count; i += kNormFinishThreads)
      total += load_element(p.partials + (2 * i + (second ? 1 : 0)) * p.columns + column);
  shared.part[part][lane] = total;
  __syncthreads();
  if (part != 0 || column >= p.columns) return;
  UNROLL for (int i = 1; i < kNormFinishThreads; ++i) total += shared.part[i][lane];
  store_gradient(out, second ? p.dbias_type : p.dweight_type, static_cast<int>(column),
                 second ? p.add_dbias : p.add_dweight, total);
}

// ---- launchers ----

namespace {

// Whether all rows that start at `base` can be read 16 bytes at a time.
template <int kOperands>
bool aligned_rows(const void* base, size_t size, const RowLayout<kOperands>& layout, int operand) {
  if (reinterpret_cast<uintptr_t>(base) % 16 != 0) return false;
  for (int d = 0; d < layout.rank; ++d)
    if (static_cast<size_t>(layout.stride[operand][d]) * size % 16 != 0) return false;
  return true;
}

bool aligned(const void* address) { return reinterpret_cast<uintptr_t>(address) % 16 == 0; }

bool aligned(ElementType type, const Forward& p) {
  const size_t size = size_of(type);
  return static_cast<size_t>(p.columns) * size % 16 == 0 && aligned(p.weight) && aligned(p.bias) &&
         aligned_rows(p.x, size, p.layout, Forward::kX) &&
         aligned_rows(p.residual, size, p.layout, Forward::kResidual) &&
         aligned_rows(p.y, size, p.layout, Forward::kY) &&
         aligned_rows(p.sum, size, p.layout, Forward::kSum);
}

bool aligned(ElementType type, const Backward& p) {
  const size_t size = size_of(type);
  return static_cast<size_t>(p.columns) * size % 16 == 0 && aligned(p.weight) &&
         aligned_rows(p.x, size, p.layout, Backward::kX) &&
         aligned_rows(p.dy, size, p.layout, Backward::kDy) &&
         aligned_rows(p.dx, size, p.layout, Backward::kDx) &&
         aligned_rows(p.ddropped, size, p.layout, Backward::kDdropped);
}

constexpr int64_t kMaxGrid = INT_MAX;  // of the x dimension; rows beyond it are looped over

unsigned grid_size(int64_t blocks) { return static_cast<unsigned>(std::min(blocks, kMaxGrid)); }

// Calls f(T(), W()) with the types of the elements and of the parameters.
template <typename F>
cudaError_t with_types(ElementType type, ElementType parameter_type, F f) {
  if (parameter_type != type && parameter_type != ElementType::kF32) return cudaErrorInvalidValue;
  const bool wide = parameter_type == ElementType::kF32;
  switch (type) {
    case ElementType::kF32:
      return f(float(), float());
    case ElementType::kF16:
      return wide ? f(__half(), float()) : f(__half(), __half());
    case ElementType::kBf16:
      return wide ? f(__nv_bfloat16(), float()) : f(__nv_bfloat16(), __nv_bfloat16());
  }
  return cudaErrorInvalidValue;
}

template <typename T, typename W, int kTile>
cudaError_t forward_rows(cudaStream_t stream, const Forward& p) {
  constexpr NormTile kShape = kNormTiles[kTile];
  static_assert(shared_fits(sizeof(NormForwardShared<kShape.threads>), kShape.min_blocks));
  return launch("layer_norm_forward_rows", layer_norm_forward_rows<T, W, kTile>,
                grid_size((p.layout.rows + kShape.rows - 1) / kShape.rows),
                kShape.threads * kShape.rows, sizeof(NormForwardShared<kShape.threads>), stream, p);
}

template <typename T, typename W, int kTile>
cudaError_t backward_rows(cudaStream_t stream, const Backward& p, int64_t blocks) {
  constexpr NormTile kShape = kNormTiles[kTile];
  static_assert(shared_fits(sizeof(NormBackwardShared<kTile>), kShape.min_blocks));
  return launch("layer_norm_backward_rows", layer_norm_backward_rows<T, W, kTile>,
                grid_size(blocks), kShape.threads * kShape.rows, sizeof(NormBackwardShared<kTile>),
                stream, p);
}

template <typename T, typename W, int kVec>
cudaError_t backward_loop(cudaStream_t stream, const Backward& p, int64_t blocks) {
  if (p.partials != nullptr) {  // first: dx may overwrite dy
    const unsigned tiles =
        (static_cast<unsigned>(p.columns) + kNormLoopThreads - 1) / kNormLoopThreads;
    const cudaError_t error =
        launch("layer_norm_backward_columns", layer_norm_backward_columns<T>,
               dim3(tiles, static_cast<unsigned>(blocks)), kNormLoopThreads, 0, stream, p);
    if (error != cudaSuccess) return error;
  }
  if (p.dx == nullptr) return cudaSuccess;
  static_assert(shared_fits(sizeof(LoopShared), kNormLoopBlocks));
  return launch("layer_norm_backward_loop", layer_norm_backward_loop<T, W, kVec>,
                grid_size(p.layout.rows), kNormLoopThreads, sizeof(LoopShared), stream, p);
}

}  // namespace

cudaError_t layer_norm_forward(cudaStream_t stream, ElementType type, ElementType parameter_type,
                               const LayerNormForward& p) {
  if (p.columns < 1 || p.layout.rank > kMaxLeading) return cudaErrorInvalidValue;
  if (p.layout.rows == 0) return cudaSuccess;
  const bool vectors = aligned(type, p);
  return with_types(type, parameter_type, [&]<typename T, typename W>(T, W) {
    switch (norm_tile(p.columns, vectors)) {
      case 0:
        return forward_rows<T, W, 0>(stream, p);
      case 1:
        return forward_rows<T, W, 1>(stream, p);
      case 2:
        return forward_rows<T, W, 2>(stream, p);
      default:
        static_assert(shared_fits(sizeof(NormForwardShared<kNormLoopThreads>), kNormLoopBlocks));
        return launch(
            "layer_norm_forward_loop",
            vectors ? layer_norm_forward_loop<T, W, kVector<T>> : layer_norm_forward_loop<T, W, 1>,
            grid_size(p.layout.rows), kNormLoopThreads, sizeof(NormForwardShared<kNormLoopThreads>),
            stream, p);
    }
  });
}

size_t layer_norm_backward_scratch_bytes(ElementType type, ElementType, const LayerNormBackward& p,
                                         int sm_count) {
  if (p.dweight == nullptr && p.dbias == nullptr) return 0;
  const int tile = norm_tile(p.columns, aligned(type, p));
  return static_cast<size_t>(norm_backward_blocks(p.layout.rows, tile, sm_count)) * 2 *
         static_cast<size_t>(p.columns) * sizeof(float);
}

cudaError_t layer_norm_backward(cudaStream_t stream, ElementType type, ElementType parameter_type,
                                const LayerNormBackward& args, int sm_count) {
  Backward p = args;
  if (p.columns < 1 || p.layout.rank > kMaxLeading) return cudaErrorInvalidValue;
  const bool vectors = aligned(type, p);
  const int tile = norm_tile(p.columns, vectors);
  const bool wants_parameters = p.dweight != nullptr || p.dbias != nullptr;
  const int64_t blocks = norm_backward_blocks(p.layout.rows, tile, sm_count);
  p.partial_count = wants_parameters ? blocks : 0;
  if (!wants_parameters) p.partials = nullptr;
  if (p.layout.rows > 0) {
    const cudaError_t error = with_types(type, parameter_type, [&]<typename T, typename W>(T, W) {
      switch (tile) {
        case 0:
          return backward_rows<T, W, 0>(stream, p, blocks);
        case 1:
          return backward_rows<T, W, 1>(stream, p, blocks);
        case 2:
          return backward_rows<T, W, 2>(stream, p, blocks);
        default:
          return vectors ? backward_loop<T, W, kVector<T>>(stream, p, blocks)
                         : backward_loop<T, W, 1>(stream, p, blocks);
      }
    });
    if (error != cudaSuccess) return error;
  }
  if (!wants_parameters) return cudaSuccess;
  const unsigned tiles =
      (static_cast<unsigned>(p.columns) + kNormFinishColumns - 1) / kNormFinishColumns;
  return launch("layer_norm_backward_finish", layer_norm_backward_finish, dim3(tiles, 2),
                kNormFinishColumns * kNormFinishThreads, sizeof(FinishShared), stream, p);
}

}  // namespace gatun::kernels
