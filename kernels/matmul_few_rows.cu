// Matrix product with at most eight rows, as in decoding: reading b is all the work.
//
// math     as matmul.cu, by f32 multiply-adds.
// shapes   a (m <= 8, k) in any layout, b (k, n) or transposed, rows of b at multiples of 16 bytes.
// tiling   b as rows of k: a warp walks along four rows, each lane 16 bytes of each at a time,
//          and lanes are added up by shuffles. b as rows of n: eight lanes read a line of 128
//          bytes, a block 32 rows at a time; lanes of a column are added by shuffles, warps through
//          shared memory.
//          Blocks split k until every multiprocessor has loads in flight; partial sums are added in
//          order by matmul.cu's second kernel.
// data     every byte of b is read once, past L1. a goes through shared memory, read by each block.
// measured not yet on a GPU; checked and counted on the host (matmul_kernel_test.cpp).
#include "matmul_finish.cuh"

namespace gatun::kernels {

constexpr int kFewRowsWarps = kFewRowsThreads / 32;
static_assert(kFewRowsColumns == 4, "finish() takes four columns");

// The first `left` elements at a unit of 16 bytes, zeros behind them.
template <typename T>
__device__ __forceinline__ uint4 load_unit(const T* p, int left) {
  if (left >= kVector<T>) return ld128_once(p);
  float v[kVector<T>];
  UNROLL for (int i = 0; i < kVector<T>; ++i) v[i] = i < left ? to_float(load_element(p + i)) : 0.f;
  return pack<T>(v);
}

__device__ __forceinline__ int64_t place_in_a(const MatMulProblem& p, int row, int k) {
  return p.transpose_a ? k * p.a_stride + row : row * p.a_stride + k;
}

// Of a row of a: the first `left` elements from k on, zeros behind them.
template <typename T>
__device__ __forceinline__ uint4 load_a(const MatMulProblem& p, const T* a, int row, int k,
                                        int left) {
  if (p.a_vectors) return load_unit(a + row * p.a_stride + k, left);
  float v[kVector<T>];
  UNROLL for (int e = 0; e < kVector<T>; ++e) v[e] =
      e < left ? to_float(load_element(a + place_in_a(p, row, k + e))) : 0.f;
  return pack<T>(v);
}

// ---- b as rows of k ----

template <typename T, int kRows>
struct FewRowsAlongK {
  uint4 a[kRows][kFewRowsBytes / sizeof(uint4)];
};

template <typename T, int kRows>
__global__ void __launch_bounds__(kFewRowsThreads, few_rows_min_blocks(kRows, sizeof(T)))
    matmul_few_rows_along_k(const __grid_constant__ MatMulProblem p) {
  constexpr int kVec = kVector<T>;
  constexpr int kDepth = kFewRowsBytes / sizeof(T);
  using Shared = FewRowsAlongK<T, kRows>;
  SMEM(Shared, shared);
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const int64_t column = (int64_t{blockIdx.x} * kFewRowsWarps + warp) * kFewRowsColumns;
  const int split = static_cast<int>(blockIdx.y);
  const int64_t end = min(static_cast<int64_t>(p.k), int64_t{split + 1} * p.k_of_a_split);
  const T* a = static_cast<const T*>(p.a);
  const T* b = static_cast<const T*>(p.b);

  float sums[kRows][kFewRowsColumns] = {};
  for (int64_t k = int64_t{split} * p.k_of_a_split; k < end; k += kDepth) {
    const int depth = static_cast<int>(min(static_cast<int64_t>(kDepth), end - k));
    const int units = (depth + kVec - 1) / kVec;
    for (int i = static_cast<int>(threadIdx.x); i < kRows * units; i += kFewRowsThreads) {
      const int row = i / units, unit = i % units;
      const int left = row < p.m ? depth - unit * kVec : 0;
      const uint4 words = load_a(p, a, row, static_cast<int>(k) + unit * kVec, left);
      sts128(shared_address(&shared.a[row][unit]), words);
    }
    __syncthreads();
    for (int unit = lane; unit < units; unit += 32) {
      uint4 loaded[kFewRowsColumns];
      UNROLL for (int c = 0; c < kFewRowsColumns; ++c) loaded[c] =
          load_unit(b + (column + c) * p.b_stride + k + unit * kVec,
                    column + c < p.n ? depth - unit * kVec : 0);
      float weights[kFewRowsColumns][kVec];
      UNROLL for (int c = 0; c < kFewRowsColumns; ++c) unpack<T>(loaded[c], weights[c]);
      UNROLL for (int row = 0; row < kRows; ++row) {
        float v[kVec];
        unpack<T>(lds128(shared_address(&shared.a[row][unit])), v);
        UNROLL for (int c = 0; c < kFewRowsColumns; ++c) UNROLL for (int e = 0; e < kVec; ++e)
            sums[row][c] += v[e] * weights[c][e];
      }
    }
    __syncthreads();
  }
  UNROLL for (int row = 0; row < kRows; ++row) {
    float v[1][kFewRowsColumns];
    UNROLL for (int c = 0; c < kFewRowsColumns; ++c) v[0][c] = warp_sum(sums[row][c]);
    if (lane == row && row < p.m && column < p.n)
      finish<T>(p, 0, split, row, static_cast<int>(column), v);
  }
}

// ---- b as rows of n ----

// Which row of shared memory has a's elements for row `at` of b: lanes store units of different
// rows of a and neighbouring units at once, to different banks.
template <typename T>
__device__ __forceinline__ int place_of_a(int at) {
  return at ^ (at / kVector<T> & 3);
}

// Where the sums of four columns are: a lane's second four, stored at once by eight lanes, are on
// the banks that their first four leave.
__device__ __forceinline__ int place_of_sums(int column) { return column ^ (column / 32 & 1) * 4; }

template <typename T, int kRows>
struct FewRowsAlongN {
  static constexpr int kColumns = kFewRowsLanes * kVector<T>;  // of a block
  union {
    float a[kFewRowsDepth][kRows];
    float sums[kFewRowsWarps][kRows][kColumns];
  };
};

template <typename T, int kRows>
__global__ void __launch_bounds__(kFewRowsThreads, few_rows_min_blocks(kRows, sizeof(T)))
    matmul_few_rows_along_n(const __grid_constant__ MatMulProblem p) {
  constexpr int kVec = kVector<T>;
  using Shared = FewRowsAlongN<T, kRows>;
  SMEM(Shared, shared);
  const int thread = static_cast<int>(threadIdx.x), warp = thread / 32, lane = thread % 32;
  constexpr int kStep = kFewRowsThreads / kFewRowsLanes;  // rows of b at a time
  const int64_t first = int64_t{blockIdx.x} * Shared::kColumns;
  const int64_t column = first + lane % kFewRowsLanes * kVec;
  const int left = static_cast<int>(min(static_cast<int64_t>(kVec), p.n - column));
  const int split = static_cast<int>(blockIdx.y);
  const int64_t end = min(static_cast<int64_t>(p.k), int64_t{split + 1} * p.k_of_a_split);
  const T* a = static_cast<const T*>(p.a);
  const T* b = static_cast<const T*>(p.b) + column;

  float sums[kRows][kVec] = {};
  for (int64_t k = int64_t{split} * p.k_of_a_split; k < end; k += kFewRowsDepth) {
    const int depth = static_cast<int>(min(static_cast<int64_t>(kFewRowsDepth), end - k));
    if constexpr (kRows == 1) {
      for (int at = thread; at < depth; at += kFewRowsThreads) {
        const T value = load_element(a + place_in_a(p, 0, static_cast<int>(k) + at));
        sts32(shared_address(&shared.a[at][0]), as_bits(to_float(value)));
      }
    } else {
      for (int i = thread; i < kRows * ((depth + kVec - 1) / kVec); i += kFewRowsThreads) {
        const int row = i % kRows, at = i / kRows * kVec;
        float v[kVec];
        unpack<T>(load_a(p, a, row, static_cast<int>(k) + at, row < p.m ? depth - at : 0), v);
        UNROLL for (int e = 0; e < kVec; ++e)
            sts32(shared_address(&shared.a[place_of_a<T>(at + e)][row]), as_bits(v[e]));
      }
    }
    __syncthreads();
    for (int at = thread / kFewRowsLanes; at < depth; at += kStep * kFewRowsAhead) {
      uint4 loaded[kFewRowsAhead];
      UNROLL for (int i = 0; i < kFewRowsAhead; ++i) loaded[i] =
          load_unit(b + (k + at + i * kStep) * p.b_stride, at + i * kStep < depth ? left : 0);
      UNROLL for (int i = 0; i < kFewRowsAhead; ++i) {
        const int mine = at + i * kStep;
        if (mine >= depth) break;
        float weights[kVec], v[kRows];
        unpack<T>(loaded[i], weights);
        if constexpr (kRows > 1) {
          const uint32_t from = shared_address(&shared.a[place_of_a<T>(mine)]);
          UNROLL for (int row = 0; row < kRows; row += 4)
              unpack<float>(lds128(from + row * sizeof(float)), v + row);
        } else {
          v[0] = as_float(lds32(shared_address(&shared.a[mine][0])));
        }
        UNROLL for (int row = 0; row < kRows; ++row) UNROLL for (int e = 0; e < kVec; ++e)
            sums[row][e] += v[row] * weights[e];
      }
    }
    __syncthreads();
  }
  UNROLL for (int row = 0; row < kRows; ++row) {
    UNROLL for (int e = 0; e < kVec; ++e)
        UNROLL for (int mask = kFewRowsLanes; mask < 32; mask *= 2) sums[row][e] +=
        shuffle_xor(sums[row][e], mask);
    if (lane < kFewRowsLanes)
      UNROLL for (int e = 0; e < kVec; e += 4)
          sts128(shared_address(&shared.sums[warp][row][place_of_sums(lane * kVec + e)]),
                 pack<float>(&sums[row][e]));
  }
  __syncthreads();
  for (int i = thread * 4; i < p.m * Shared::kColumns; i += kFewRowsThreads * 4) {
    const int row = i / Shared::kColumns, at = i % Shared::kColumns;
    if (first + at >= p.n) continue;
    float v[1][4] = {};
    UNROLL for (int w = 0; w < kFewRowsWarps; ++w) {
      float part[4];
      unpack<float>(lds128(shared_address(&shared.sums[w][row][place_of_sums(at)])), part);
      UNROLL for (int e = 0; e < 4; ++e) v[0][e] += part[e];
    }
    finish<T>(p, 0, split, row, static_cast<int>(first) + at, v);
  }
}

// ---- launchers ----

namespace {

int columns_of_a_block(ElementType in, const MatMul& p) {
  if (p.transpose_b) return kFewRowsWarps * kFewRowsColumns;
  return kFewRowsLanes * (in == ElementType::kF32 ? kVector<float> : kVector<__half>);
}

template <typename T, int kRows>
cudaError_t launch_rows(cudaStream_t stream, dim3 grid, const MatMulProblem& p) {
  if (p.transpose_b)
    return launch("matmul_few_rows_along_k", matmul_few_rows_along_k<T, kRows>, grid,
                  kFewRowsThreads, sizeof(FewRowsAlongK<T, kRows>), stream, p);
  return launch("matmul_few_rows_along_n", matmul_few_rows_along_n<T, kRows>, grid, kFewRowsThreads,
                sizeof(FewRowsAlongN<T, kRows>), stream, p);
}

}  // namespace

bool is_few_rows(const MatMul& p) { return p.m <= kFewRows && p.batch.rows == 1; }

void choose_few_rows(ElementType in, MatMulProblem& p, int sm_count) {
  const int columns = columns_of_a_block(in, p);
  // of k: what a block reads at a time (rows of k: a lane's 16 bytes, rows of n: two rounds)
  const int step = p.transpose_b ? 32 * (in == ElementType::kF32 ? 4 : 8) : 64;
  const int wanted = few_rows_splits((int64_t{p.n} + columns - 1) / columns, p.k, step, sm_count);
  const int64_t steps = (int64_t{p.k} + step - 1) / step;
  const int64_t of_a_split = std::max<int64_t>(1, (steps + wanted - 1) / wanted);
  p.k_of_a_split = static_cast<int>(std::min<int64_t>(of_a_split * step, kMatmulLargest));
  p.splits = static_cast<int>(std::max<int64_t>(1, (steps + of_a_split - 1) / of_a_split));
}

cudaError_t matmul_few_rows(cudaStream_t stream, ElementType in, const MatMulProblem& p) {
  const int columns = columns_of_a_block(in, p);
  const dim3 grid(static_cast<unsigned>((int64_t{p.n} + columns - 1) / columns),
                  static_cast<unsigned>(p.splits));
  const auto launch_type = [&]<typename T>(T) {
    return p.m == 1 ? launch_rows<T, 1>(stream, grid, p)
                    : launch_rows<T, kFewRows>(stream, grid, p);
  };
  switch (in) {
    case ElementType::kF32:
      return launch_type(float());
    case ElementType::kF16:
      return launch_type(__half());
    case ElementType::kBf16:
      return launch_type(__nv_bfloat16());
  }
  return cudaErrorInvalidValue;
}

}  // namespace gatun::kernels
