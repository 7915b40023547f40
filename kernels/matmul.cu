// Matrix product on tensor cores.
//
// math     out = gelu(alpha a b + bias) + residual, or alpha a b gelu'(preactivation) + residual;
//          the residual may be out. 16-bit operands are multiplied exactly and summed in f32. f32
//          operands are split into three bf16 each, x = x0 + x1 + x2, and a b is the six products
//          a_i b_j with i + j <= 2, the smallest first: what is left out is below 2^-24 of |a||b|.
//          bf16x3 stops at x0 + x1 and three products, which leaves out less than 2^-15. Tensor
//          cores cut bits off sums that f32 would round, so they only add up one tile of k; tiles
//          are added in f32 (Ootomo & Yokota).
// shapes   a (m, k), b (k, n), each as it is or transposed in memory, any strides between rows and
//          products; out, preactivation, residual (m, n), f32 or like the operands; bias (n).
// tiling   A block computes a tile of tiles.h, warps 64 x 64 or 32 x 32 of it by mma.m16n8k16.
//          Tiles of a and b wait in a ring of shared memory, rows as they lie in global memory;
//          16-byte units of a row are permuted (XOR with the row) so that ldmatrix, and its
//          transposing form for rows of m or n, meet no bank twice. Fragments are double buffered
//          in registers. Blocks walk eight rows of tiles together (L2). A result too small for the
//          machine is split over k into partial sums, which a second kernel adds in order: no
//          atomics, the same bits every time on one model of GPU.
// data     cp.async of 16 bytes, zero-filled beyond the matrix: global -> shared -> fragments ->
//          accumulators -> shared (16 rows of a warp) -> four columns a lane -> global. Operands
//          that 16-byte copies cannot read (addresses or strides that are no multiple of 16 bytes)
//          are copied element by element.
// limits   m, n, k < 2^31 - 1024. f32: an infinity, or more than 3.39e38, makes NaN.
// source   multistage ring and raster: ideas from CUTLASS (BSD) and Triton (MIT); f32 by bf16:
//          Henry, Tang, Heinecke 2019 (arXiv:1904.06376); Ootomo, Yokota 2022 (arXiv:2203.03341).
// measured not yet on a GPU; compiled for sm_80 and sm_90a without spills (resources.txt), results
//          and counters checked on the host (native/test/kernel/matmul_kernel_test.cpp).
#include <type_traits>

#include "matmul.h"
#include "matmul_finish.cuh"

namespace gatun::kernels {

// ---- tiles of the operands in shared memory ----

constexpr int kUnitBytes = 16;

// kExtent of m or n by kDepth of k, rows as in global memory: of k, or (kTransposed) of m or n.
template <typename T, int kExtent, int kDepth, bool kTransposed>
struct OperandTile {
  static constexpr int kRows = kTransposed ? kDepth : kExtent;
  static constexpr int kUnits = (kTransposed ? kExtent : kDepth) / kVector<T>;  // of a row
  static constexpr int kBytes = kRows * kUnits * kUnitBytes;
  static_assert(kUnits == 4 || kUnits % 8 == 0, "rows of 64 bytes, or whole lines of all banks");

  static __device__ __forceinline__ uint32_t address(uint32_t tile, int row, int unit) {
    int at;
    if constexpr (kUnits == 4) {
      at = unit ^ row / 2 % 4;
    } else if constexpr (kTransposed && sizeof(T) == 4) {
      at = unit ^ row % 4 * 2;  // lanes read 8 columns (two units) of 4 rows
    } else {
      at = unit ^ row % 8;
    }
    return tile + static_cast<uint32_t>((row * kUnits + at) * kUnitBytes);
  }
};

// Fragments as mma.m16n8k16 has them, lane = 4 g + t: 16 rows of a, or 8 columns of b, and 16 of k
// from 16 step on. f32: two words where 16-bit types have one, and lane t holds k = t, 4 + t, 8 +
// t, 12 + t instead of 2t, 2t + 1, 2t + 8, 2t + 9: sums do not mind, and so ldmatrix can deliver
// them.
template <typename T>
constexpr int kWordsA = sizeof(T) == 2 ? 4 : 8;
template <typename T>
constexpr int kWordsB = sizeof(T) == 2 ? 2 : 4;

// The f32 of k = 4j + t, of row or column g: words 0 … 3.
template <typename Tile, bool kTransposed>
__device__ __forceinline__ void load_eight_f32(uint32_t tile, int first, int step,
                                               uint32_t* words) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  if constexpr (kTransposed) {
    const int column = first + lane / 4;
    UNROLL for (int j = 0; j < 4; ++j) words[j] =
        lds32(Tile::address(tile, step * 16 + j * 4 + lane % 4, column / 4) +
              static_cast<uint32_t>(column % 4 * 4));
  } else {
    uint32_t quarter[4];
    ldmatrix_x4(quarter, Tile::address(tile, first + lane % 8, step * 4 + lane / 8));
    UNROLL for (int j = 0; j < 4; ++j) words[j] = quarter[j];
  }
}

template <typename T, typename Tile, bool kTransposed>
__device__ __forceinline__ void load_a(uint32_t tile, int first, int step,
                                       uint32_t (&words)[kWordsA<T>]) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  if constexpr (sizeof(T) == 4) {
    load_eight_f32<Tile, kTransposed>(tile, first, step, words);
    load_eight_f32<Tile, kTransposed>(tile, first + 8, step, words + 4);
  } else if constexpr (kTransposed) {
    ldmatrix_x4_transposed(
        words, Tile::address(tile, step * 16 + lane / 16 * 8 + lane % 8, first / 8 + lane / 8 % 2));
  } else {
    ldmatrix_x4(words, Tile::address(tile, first + lane % 16, step * 2 + lane / 16));
  }
}

// Of 16 columns.
template <typename T, typename Tile, bool kTransposed>
__device__ __forceinline__ void load_b(uint32_t tile, int first, int step,
                                       uint32_t (&low)[kWordsB<T>], uint32_t (&high)[kWordsB<T>]) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  if constexpr (sizeof(T) == 4) {
    load_eight_f32<Tile, kTransposed>(tile, first, step, low);
    load_eight_f32<Tile, kTransposed>(tile, first + 8, step, high);
  } else {
    uint32_t words[4];
    if constexpr (kTransposed)
      ldmatrix_x4_transposed(words,
                             Tile::address(tile, step * 16 + lane % 16, first / 8 + lane / 16));
    else
      ldmatrix_x4(words,
                  Tile::address(tile, first + lane / 16 * 8 + lane % 8, step * 2 + lane / 8 % 2));
    low[0] = words[0], low[1] = words[1], high[0] = words[2], high[1] = words[3];
  }
}

// ---- multiplication ----

// Parts that hold all bits of an operand.
template <typename T>
constexpr int kExactParts = sizeof(T) == 2 ? 1 : 3;
constexpr int kBf16x3Parts = 2;

// Two f32 in pairs of bf16 that add up to them: to all of their bits, if there are three.
template <int kParts>
__device__ __forceinline__ void split(float x, float y, uint32_t (&parts)[kParts]) {
  UNROLL for (int i = 0; i < kParts; ++i) {
    const float pair[2] = {x, y};
    parts[i] = pack(pair, __nv_bfloat16());
    float held[2];
    unpack(parts[i], held, __nv_bfloat16());
    x -= held[0];
    y -= held[1];
  }
}

template <typename T, int kParts, int kStrips, int kColumns>
__device__ __forceinline__ void multiply(float (&sums)[kStrips][kColumns][4],
                                         const uint32_t (&a)[kStrips][kWordsA<T>],
                                         const uint32_t (&b)[kColumns][kWordsB<T>]) {
  if constexpr (sizeof(T) == 2) {
    UNROLL for (int i = 0; i < kStrips; ++i) UNROLL for (int j = 0; j < kColumns; ++j)
        mma_m16n8k16(sums[i][j], a[i], b[j], T());
  } else {
    // [part][…][word of mma]: words of a are rows g and g + 8 by turns
    uint32_t a_parts[kParts][kStrips][4], b_parts[kParts][kColumns][2];
    UNROLL for (int i = 0; i < kStrips; ++i) UNROLL for (int w = 0; w < 4; ++w) {
      const uint32_t* pair = a[i] + w % 2 * 4 + w / 2 * 2;
      uint32_t parts[kParts];
      split(as_float(pair[0]), as_float(pair[1]), parts);
      UNROLL for (int s = 0; s < kParts; ++s) a_parts[s][i][w] = parts[s];
    }
    UNROLL for (int j = 0; j < kColumns; ++j) UNROLL for (int w = 0; w < 2; ++w) {
      uint32_t parts[kParts];
      split(as_float(b[j][2 * w]), as_float(b[j][2 * w + 1]), parts);
      UNROLL for (int s = 0; s < kParts; ++s) b_parts[s][j][w] = parts[s];
    }
    UNROLL for (int total = kParts - 1; total >= 0; --total) UNROLL for (int s = total; s >= 0; --s)
        UNROLL for (int i = 0; i < kStrips; ++i) UNROLL for (int j = 0; j < kColumns; ++j)
            mma_m16n8k16(sums[i][j], a_parts[s][i], b_parts[total - s][j], __nv_bfloat16());
  }
}

// ---- from global to shared memory ----

// A thread's part of one operand's next tile: every kThreads-th unit of it. source: the thread's
// first unit.
template <typename T, typename Tile, int kThreads>
__device__ __forceinline__ void copy_tile(uint32_t tile, const T* source, int64_t stride,
                                          int rows_left, int columns_left) {
  constexpr int kRows = kThreads / Tile::kUnits;  // at a time
  static_assert(Tile::kRows % kRows == 0 && kThreads % Tile::kUnits == 0);
  const int unit = static_cast<int>(threadIdx.x) % Tile::kUnits;
  const int first = static_cast<int>(threadIdx.x) / Tile::kUnits;
  const int elements = max(0, min(kVector<T>, columns_left - unit * kVector<T>));
  UNROLL for (int row = 0; row < Tile::kRows; row += kRows) {
    cp_async<kUnitBytes>(Tile::address(tile, first + row, unit), source,
                         first + row < rows_left ? elements * static_cast<int>(sizeof(T)) : 0);
    source += kRows * stride;
  }
}
// Where a thread's first unit lies in a tile.
template <typename T, typename Tile>
__device__ __forceinline__ int64_t first_unit(int64_t stride) {
  return static_cast<int>(threadIdx.x) / Tile::kUnits * stride +
         static_cast<int>(threadIdx.x) % Tile::kUnits * kVector<T>;
}

// By 16-byte copies that land later.
template <typename T, int kTile, bool kTransposeA, bool kTransposeB>
struct CopyLoader {
  static constexpr MatmulTile kShape = kMatmulTiles[kTile];
  static constexpr int kStages = kShape.stages;
  static constexpr int kThreads = kShape.threads();
  static constexpr int kMinBlocks = kShape.min_blocks;
  static constexpr bool kATransposed = kTransposeA, kBTransposed = !kTransposeB;  // of their tiles
  using TileA = OperandTile<T, kShape.m, kShape.k, kATransposed>;
  using TileB = OperandTile<T, kShape.n, kShape.k, kBTransposed>;

  const T* a;
  const T* b;
  int64_t a_stride, b_stride;
  int m_left, n_left, k_left;

  __device__ CopyLoader(const MatMulProblem& p, int64_t product, int m, int n, int k, int k_end)
      : a_stride(p.a_stride),
        b_stride(p.b_stride),
        m_left(p.m - m),
        n_left(p.n - n),
        k_left(k_end - k) {
    a = static_cast<const T*>(p.a) + row_offset(p.batch, MatMul::kA, product) +
        (kTransposeA ? k * a_stride + m : m * a_stride + k) + first_unit<T, TileA>(a_stride);
    b = static_cast<const T*>(p.b) + row_offset(p.batch, MatMul::kB, product) +
        (kTransposeB ? n * b_stride + k : k * b_stride + n) + first_unit<T, TileB>(b_stride);
  }
  // The next tile of both operands; beyond the last one nothing.
  __device__ __forceinline__ void start(uint32_t stage) {
    if (k_left > 0) {
      copy_tile<T, TileA, kThreads>(stage, a, a_stride, kTransposeA ? k_left : m_left,
                                    kTransposeA ? m_left : k_left);
      copy_tile<T, TileB, kThreads>(stage + TileA::kBytes, b, b_stride,
                                    kTransposeB ? n_left : k_left, kTransposeB ? k_left : n_left);
      a += kTransposeA ? kShape.k * a_stride : kShape.k;
      b += kTransposeB ? kShape.k : kShape.k * b_stride;
      k_left -= kShape.k;
    }
    cp_async_commit();  // also an empty group: the wait counts them
  }
  // The oldest tile on its way has arrived, as far as this thread copies it.
  __device__ __forceinline__ void land() { cp_async_wait<kStages - 2>(); }
};

// Element by element, for any strides, and always to rows of k.
template <typename T, int kTile>
struct ElementLoader {
  static constexpr MatmulTile kShape = kMatmulTiles[kTile];
  static constexpr int kStages = kMatmulElementStages;
  static constexpr int kThreads = kShape.threads();
  static constexpr int kMinBlocks = kShape.min_blocks;
  static constexpr bool kATransposed = false, kBTransposed = false;
  using TileA = OperandTile<T, kShape.m, kShape.k, false>;
  using TileB = OperandTile<T, kShape.n, kShape.k, false>;

  const T* a;
  const T* b;
  int64_t a_row, a_k, b_row, b_k;  // strides; of a pair one is 1
  int m_left, n_left, k_left;

  __device__ ElementLoader(const MatMulProblem& p, int64_t product, int m, int n, int k, int k_end)
      : a_row(p.transpose_a ? 1 : p.a_stride),
        a_k(p.transpose_a ? p.a_stride : 1),
        b_row(p.transpose_b ? p.b_stride : 1),
        b_k(p.transpose_b ? 1 : p.b_stride),
        m_left(p.m - m),
        n_left(p.n - n),
        k_left(k_end - k) {
    a = static_cast<const T*>(p.a) + row_offset(p.batch, MatMul::kA, product) + m * a_row + k * a_k;
    b = static_cast<const T*>(p.b) + row_offset(p.batch, MatMul::kB, product) + n * b_row + k * b_k;
  }
  template <typename Tile>
  __device__ __forceinline__ void copy(uint32_t tile, const T* source, int64_t row_stride,
                                       int64_t k_stride, int rows_left) const {
    constexpr int kRows = Tile::kRows, kUnits = Tile::kUnits;
    static_assert(kThreads % kUnits == 0 && kThreads % kRows == 0);
    // neighbouring threads side by side where global memory has it so
    const bool along_k = k_stride == 1;
    const int thread = static_cast<int>(threadIdx.x);
    int row = along_k ? thread / kUnits : thread % kRows;
    int unit = along_k ? thread % kUnits : thread / kRows;
    const int rows = along_k ? kThreads / kUnits : 0, units = along_k ? 0 : kThreads / kRows;
    for (; row < kRows && unit < kUnits; row += rows, unit += units) {
      const int k = unit * kVector<T>;
      const T* at = source + row * row_stride + k * k_stride;
      float v[kVector<T>];
      UNROLL for (int i = 0; i < kVector<T>; ++i, at += k_stride) v[i] =
          row < rows_left && k + i < k_left ? to_float(load_element(at)) : 0.f;
      sts128(Tile::address(tile, row, unit), pack<T>(v));
    }
  }
  __device__ __forceinline__ void start(uint32_t stage) {
    copy<TileA>(stage, a, a_row, a_k, m_left);
    copy<TileB>(stage + TileA::kBytes, b, b_row, b_k, n_left);
    a += kShape.k * a_k;
    b += kShape.k * b_k;
    k_left -= kShape.k;
  }
  __device__ __forceinline__ void land() {}
};

// ---- the kernel ----

template <int kTile, typename Loader>
struct MatMulShared {
  static constexpr MatmulTile kShape = kMatmulTiles[kTile];
  static constexpr int kStageBytes = Loader::TileA::kBytes + Loader::TileB::kBytes;
  // of a row of sums; the eight more put rows g and g + 1 into different banks
  static constexpr int kStripColumns = kShape.n / kShape.warps_n + 8;
  union {
    unsigned char stages[Loader::kStages][kStageBytes];
    float strips[kShape.warps_m * kShape.warps_n][8][kStripColumns];
  };
  // the block's tile, of which product and from where on: here, since registers are short
  int64_t product;
  int m, n;
};

// The tile at `index` of a product: kMatmulRaster rows of tiles at a time, column by column.
__device__ __forceinline__ void raster(const MatMulProblem& p, int64_t index, int& tile_m,
                                       int& tile_n) {
  const int64_t band = index / (kMatmulRaster * p.tiles_n);
  const int64_t first = band * kMatmulRaster;
  const int64_t rows = min(static_cast<int64_t>(kMatmulRaster), p.tiles_m - first);
  const int64_t inside = index - first * p.tiles_n;
  tile_m = static_cast<int>(first + inside % rows);
  tile_n = static_cast<int>(inside / rows);
}

// grid (tiles of all products, splits)
template <typename T, int kTile, typename Loader, int kParts = kExactParts<T>>
__global__ void __launch_bounds__(Loader::kThreads, Loader::kMinBlocks)
    matmul_tiles(const __grid_constant__ MatMulProblem p) {
  constexpr MatmulTile kShape = kMatmulTiles[kTile];
  constexpr int kStages = Loader::kStages;
  constexpr int kSteps = kShape.k / 16;
  constexpr int kWarpM = kShape.m / kShape.warps_m, kWarpN = kShape.n / kShape.warps_n;
  constexpr int kStrips = kWarpM / 16, kColumns = kWarpN / 8;
  static_assert(kSteps % 2 == 0, "fragment buffers take turns within a tile");
  static_assert(kColumns % 2 == 0, "b is loaded 16 columns at a time");
  using Shared = MatMulShared<kTile, Loader>;
  SMEM(Shared, shared);
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const int warp_m = warp / kShape.warps_n * kWarpM, warp_n = warp % kShape.warps_n * kWarpN;

  const int64_t tile = p.first_tile + blockIdx.x;
  const int64_t product = tile / (p.tiles_m * p.tiles_n);
  int tile_m, tile_n;
  raster(p, tile - product * (p.tiles_m * p.tiles_n), tile_m, tile_n);
  if (threadIdx.x == 0) {
    shared.product = product;
    shared.m = tile_m * kShape.m;
    shared.n = tile_n * kShape.n;
  }
  const int split = static_cast<int>(blockIdx.y);
  const int64_t k = int64_t{split} * p.k_of_a_split;
  const int k_end = static_cast<int>(min(static_cast<int64_t>(p.k), k + p.k_of_a_split));
  const int tiles = (k_end - static_cast<int>(k) + kShape.k - 1) / kShape.k;

  float sums[kStrips][kColumns][4] = {};
  float tile_sums[kStrips][kColumns][4] = {};  // f32 only
  uint32_t a[2][kStrips][kWordsA<T>], b[2][kColumns][kWordsB<T>];
  const auto load = [&](uint32_t stage, int step, int buffer) {
    UNROLL for (int i = 0; i < kStrips; ++i)
        load_a<T, typename Loader::TileA, Loader::kATransposed>(stage, warp_m + i * 16, step,
                                                                a[buffer][i]);
    UNROLL for (int j = 0; j < kColumns; j += 2)
        load_b<T, typename Loader::TileB, Loader::kBTransposed>(
            stage + Loader::TileA::kBytes, warp_n + j * 8, step, b[buffer][j], b[buffer][j + 1]);
  };

  if (tiles > 0) {
    const uint32_t ring = shared_address(shared.stages);
    Loader loader(p, product, tile_m * kShape.m, tile_n * kShape.n, static_cast<int>(k), k_end);
    UNROLL for (int s = 0; s < kStages - 1; ++s) loader.start(ring + s * Shared::kStageBytes);
    loader.land();
    __syncthreads();
    load(ring, 0, 0);
    uint32_t reads = 0, writes = (kStages - 1) * Shared::kStageBytes;  // places in the ring
    for (int t = 0; t < tiles; ++t) {
      UNROLL for (int step = 0; step < kSteps; ++step) {
        if (step == kSteps - 1) {  // what is left of this tile is in registers
          loader.land();
          __syncthreads();
          reads = reads == (kStages - 1) * Shared::kStageBytes ? 0 : reads + Shared::kStageBytes;
        }
        load(ring + reads, (step + 1) % kSteps, (step + 1) % 2);
        if (step == 0) {  // into the place that the last barrier freed
          loader.start(ring + writes);
          writes = writes == (kStages - 1) * Shared::kStageBytes ? 0 : writes + Shared::kStageBytes;
        }
        multiply<T, kParts>(sizeof(T) == 4 ? tile_sums : sums, a[step % 2], b[step % 2]);
      }
      if constexpr (sizeof(T) == 4)
        UNROLL for (int i = 0; i < kStrips; ++i) UNROLL for (int j = 0; j < kColumns; ++j)
            UNROLL for (int e = 0; e < 4; ++e) {
          sums[i][j][e] += tile_sums[i][j][e];
          tile_sums[i][j][e] = 0.f;
        }
    }
  }
  __syncthreads();  // the ring becomes strips

  // Through shared memory, 8 rows at a time, so that a lane has the same four columns in all rows.
  // Not unrolled: it is long, and runs once.
  constexpr int kStep = 128 / kWarpN, kEach = 8 / kStep;
  static_assert(kStep * kWarpN == 128 && kEach * kStep == 8);
  float(&strip)[8][Shared::kStripColumns] = shared.strips[warp];
  const int row = lane * 4 / kWarpN, column = lane * 4 % kWarpN;
  const int m = shared.m + warp_m + row, n = shared.n + warp_n + column;
  with_columns<T>(p, shared.product, split, n, [&](const auto& columns) {
    ROLLED for (int eight = 0; eight < 2 * kStrips; ++eight) {
      UNROLL for (int s = 0; s < kStrips; ++s)
          UNROLL for (int half = 0; half < 2; ++half) if (s * 2 + half == eight)
              UNROLL for (int j = 0; j < kColumns; ++j)
                  sts64(shared_address(&strip[lane / 4][j * 8 + lane % 4 * 2]),
                        {as_bits(sums[s][j][half * 2]), as_bits(sums[s][j][half * 2 + 1])});
      sync_warp();
      float v[kEach][4];
      UNROLL for (int r = 0; r < kEach; ++r)
          unpack<float>(lds128(shared_address(&strip[row + r * kStep][column])), v[r]);
      if (n < p.n) columns.template put<kStep>(m + eight * 8, v);
      sync_warp();
    }
  });
}

// Adds up the parts of split sums, in order. A thread: four columns at a time.
template <typename T>
__global__ void __launch_bounds__(kMatmulFinishThreads)
    matmul_add_splits(const __grid_constant__ MatMulProblem p, int splits) {
  const int quads = p.partial_columns / 4;
  const int64_t part = p.batch.rows * p.m * quads;
  for (int64_t i = int64_t{blockIdx.x} * kMatmulFinishThreads + threadIdx.x; i < part;
       i += int64_t{gridDim.x} * kMatmulFinishThreads) {
    float v[1][4] = {}, more[4];
    for (int s = 0; s < splits; ++s) {
      load_values<4>(p.partials + (s * part + i) * 4, more);
      UNROLL for (int e = 0; e < 4; ++e) v[0][e] += more[e];
    }
    const int64_t row = i / quads;
    finish<T>(p, row / p.m, 0, static_cast<int>(row % p.m), static_cast<int>(i % quads) * 4, v);
  }
}

// ---- launchers ----

namespace {

// Whether all rows of an operand start at multiples of `bytes`.
bool aligned(const void* address, ElementType type, int64_t stride, const MatMul& p,
             MatMul::Operand operand, int64_t bytes) {
  const auto size = static_cast<int64_t>(size_of(type));
  const auto fits = [&](int64_t elements) { return elements * size % bytes == 0; };
  bool all =
      reinterpret_cast<uintptr_t>(address) % static_cast<uintptr_t>(bytes) == 0 && fits(stride);
  for (int d = 0; d < p.batch.rank; ++d) all = all && fits(p.batch.stride[operand][d]);
  return all;
}

struct Choice {
  MatMulProblem problem;
  int tile;
  bool copies, few_rows;
};

Choice choose(ElementType in, ElementType out, const MatMul& p, int sm_count) {
  Choice choice = {};
  MatMulProblem& problem = choice.problem;
  static_cast<MatMul&>(problem) = p;
  // a single row has no stride that could be unaligned
  if ((p.transpose_a ? p.k : p.m) <= 1) problem.a_stride = 0;
  if ((p.transpose_b ? p.n : p.k) <= 1) problem.b_stride = 0;
  if (p.m <= 1) problem.out_stride = problem.preactivation_stride = problem.residual_stride = 0;
  problem.out_type = out;
  problem.partial_columns = (p.n + 3) / 4 * 4;
  const auto quad = static_cast<int64_t>(4 * size_of(out));
  problem.out_vectors = aligned(p.out, out, problem.out_stride, p, MatMul::kOut, quad);
  problem.preactivation_vectors =
      aligned(p.preactivation, out, problem.preactivation_stride, p, MatMul::kPreactivation, quad);
  problem.residual_vectors =
      aligned(p.residual, out, problem.residual_stride, p, MatMul::kResidual, quad);
  const bool a_aligned = aligned(p.a, in, problem.a_stride, p, MatMul::kA, kUnitBytes);
  const bool b_aligned = aligned(p.b, in, problem.b_stride, p, MatMul::kB, kUnitBytes);
  problem.a_vectors = a_aligned && !p.transpose_a;
  choice.few_rows = b_aligned && is_few_rows(p);
  if (choice.few_rows) {
    choose_few_rows(in, problem, sm_count);
    return choice;
  }
  choice.copies = a_aligned && b_aligned;
  const bool f32 = in == ElementType::kF32;
  const int last = f32 ? kMatmulTileF32 : kMatmulTileSmall;
  const int first = f32 || !choice.copies ? last : kMatmulTileLarge;
  const MatmulPlan plan = matmul_plan(first, last, p.batch.rows, p.m, p.n, p.k, sm_count);
  choice.tile = plan.tile;
  problem.splits = plan.splits;
  problem.k_of_a_split = plan.k_of_a_split;
  problem.tiles_m = (p.m + kMatmulTiles[plan.tile].m - 1) / kMatmulTiles[plan.tile].m;
  problem.tiles_n = (p.n + kMatmulTiles[plan.tile].n - 1) / kMatmulTiles[plan.tile].n;
  return choice;
}

size_t partial_bytes(const MatMulProblem& p) {
  if (p.splits <= 1) return 0;
  return static_cast<size_t>(p.splits * p.batch.rows * p.m) *
         static_cast<size_t>(p.partial_columns) * sizeof(float);
}

template <typename T, int kTile, typename Loader, int kParts = kExactParts<T>>
cudaError_t launch_tiles(cudaStream_t stream, MatMulProblem p) {
  static_assert(shared_fits(sizeof(MatMulShared<kTile, Loader>), Loader::kMinBlocks));
  const int64_t tiles = p.batch.rows * p.tiles_m * p.tiles_n;
  for (; p.first_tile < tiles; p.first_tile += INT_MAX) {
    const auto blocks = static_cast<unsigned>(std::min<int64_t>(tiles - p.first_tile, INT_MAX));
    const cudaError_t error =
        launch("matmul_tiles", matmul_tiles<T, kTile, Loader, kParts>,
               dim3(blocks, static_cast<unsigned>(p.splits)), kMatmulTiles[kTile].threads(),
               sizeof(MatMulShared<kTile, Loader>), stream, p);
    if (error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

template <typename T, int kTile, int kParts = kExactParts<T>>
cudaError_t launch_copies(cudaStream_t stream, const MatMulProblem& p) {
  const auto launch_with = [&]<bool kTransposeA, bool kTransposeB>() {
    return launch_tiles<T, kTile, CopyLoader<T, kTile, kTransposeA, kTransposeB>, kParts>(stream,
                                                                                          p);
  };
  if (p.transpose_a)
    return p.transpose_b ? launch_with.template operator()<true, true>()
                         : launch_with.template operator()<true, false>();
  return p.transpose_b ? launch_with.template operator()<false, true>()
                       : launch_with.template operator()<false, false>();
}

template <typename T>
cudaError_t launch_product(cudaStream_t stream, ElementType in, const Choice& choice) {
  const MatMulProblem& p = choice.problem;
  constexpr int kSmall = sizeof(T) == 4 ? kMatmulTileF32 : kMatmulTileSmall;
  cudaError_t error;
  if (choice.few_rows)
    error = matmul_few_rows(stream, in, p);
  else if (!choice.copies)
    error = launch_tiles<T, kSmall, ElementLoader<T, kSmall>>(stream, p);
  else if constexpr (sizeof(T) == 4)
    error = p.bf16x3 ? launch_copies<T, kSmall, kBf16x3Parts>(stream, p)
                     : launch_copies<T, kSmall>(stream, p);
  else
    error = choice.tile == kSmall ? launch_copies<T, kSmall>(stream, p)
                                  : launch_copies<T, kMatmulTileLarge>(stream, p);
  if (error != cudaSuccess || p.splits <= 1) return error;
  MatMulProblem whole = p;
  whole.splits = 1;
  const int64_t quads = p.batch.rows * p.m * (p.partial_columns / 4);
  const auto blocks = static_cast<unsigned>(
      std::min<int64_t>((quads + kMatmulFinishThreads - 1) / kMatmulFinishThreads, INT_MAX));
  return launch("matmul_add_splits", matmul_add_splits<T>, blocks, kMatmulFinishThreads, 0, stream,
                whole, p.splits);
}

}  // namespace

size_t matmul_scratch_bytes(ElementType in, ElementType out, const MatMul& p, int sm_count) {
  if (p.batch.rows == 0 || p.m == 0 || p.n == 0) return 0;
  return partial_bytes(choose(in, out, p, sm_count).problem);
}

cudaError_t matmul(cudaStream_t stream, ElementType in, ElementType out, const MatMul& p,
                   int sm_count) {
  if ((out != in && out != ElementType::kF32) || p.batch.rank > kMaxLeading ||
      std::max({p.m, p.n, p.k}) > kMatmulLargest)
    return cudaErrorInvalidValue;
  if (p.batch.rows == 0 || p.m == 0 || p.n == 0) return cudaSuccess;
  const Choice choice = choose(in, out, p, sm_count);
  switch (in) {
    case ElementType::kF32:
      return launch_product<float>(stream, in, choice);
    case ElementType::kF16:
      return launch_product<__half>(stream, in, choice);
    case ElementType::kBf16:
      return launch_product<__nv_bfloat16>(stream, in, choice);
  }
  return cudaErrorInvalidValue;
}

}  // namespace gatun::kernels
