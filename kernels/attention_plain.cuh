// What the attention kernels without tensor cores share: swizzled tiles of f32 rows and the two
// products on them, by 16 x 16 threads.
#pragma once

#include "attention_rows.cuh"

namespace gatun::kernels {

// ---- tiles ----

// 16 kEdge rows of f32. The 16-byte chunks of 128 bytes are permuted by the thread that owns the
// row, so that eight threads which read the same chunk of their own rows meet different banks.
template <int kEdge, int kColumns>
struct alignas(128) PlainTile {
  static constexpr int kRows = 16 * kEdge;
  static_assert(kColumns % 32 == 0, "whole lines of 128 bytes");
  float value[kRows][kColumns];
};

template <int kEdge, int kColumns>
__device__ __forceinline__ uint32_t plain_offset(int row, int chunk) {
  const int place = (chunk & ~7) | ((chunk ^ (row / kEdge)) & 7);
  return static_cast<uint32_t>((row * kColumns + place * 4) * 4);
}

// As load_tile() of attention_tiles.cuh.
template <int kEdge, int kColumns, typename RowsOf>
__device__ __forceinline__ void load_plain(PlainTile<kEdge, kColumns>& tile, int columns,
                                           bool vectors, RowsOf rows_of) {
  const int chunk = static_cast<int>(threadIdx.x) % 8;
  const uint32_t to = shared_address(&tile);
  for (int row = static_cast<int>(threadIdx.x) / 8; row < 16 * kEdge;
       row += kAttentionPlainThreads / 8) {
    const float* from = rows_of(row);
    for (int panel = 0; panel < kColumns / 32; ++panel) {
      const int column = panel * 32 + chunk * 4;
      const uint32_t at = to + plain_offset<kEdge, kColumns>(row, panel * 8 + chunk);
      if (vectors) {
        const bool inside = from != nullptr && column < columns;
        cp_async<16>(at, inside ? from + column : from, inside ? 16 : 0);
      } else {
        UNROLL for (int i = 0; i < 4; ++i) {
          const bool inside = from != nullptr && column + i < columns;
          cp_async<4>(at + static_cast<uint32_t>(i * 4), inside ? from + column + i : from,
                      inside ? 4 : 0);
        }
      }
    }
  }
}

// The copies of this thread are there.
__device__ __forceinline__ void plain_landed() {
  cp_async_commit();
  cp_async_wait<0>();
}
// The copies of all threads are there.
__device__ __forceinline__ void plain_loaded() {
  plain_landed();
  __syncthreads();
}

// ---- products ----

struct PlainThread {
  int x, y;
  __device__ __forceinline__ PlainThread()
      : x(static_cast<int>(threadIdx.x) % 16), y(static_cast<int>(threadIdx.x) / 16) {}
};

template <int kEdge, int kColumns>
__device__ __forceinline__ void plain_read(const PlainTile<kEdge, kColumns>& tile, int row,
                                           int chunk, float (&v)[4]) {
  unpack<float>(lds128(shared_address(&tile) + plain_offset<kEdge, kColumns>(row, chunk)), v);
}

// scores = a b^T over the columns.
template <int kEdgeA, int kEdgeB, int kColumns>
__device__ __forceinline__ void plain_scores(float (&scores)[kEdgeA][kEdgeB],
                                             const PlainTile<kEdgeA, kColumns>& a,
                                             const PlainTile<kEdgeB, kColumns>& b) {
  const PlainThread thread;
  UNROLL for (int i = 0; i < kEdgeA; ++i) UNROLL for (int j = 0; j < kEdgeB; ++j) scores[i][j] =
      0.f;
  for (int panel = 0; panel < kColumns / 32; ++panel) UNROLL for (int c = 0; c < 8; ++c) {
      float u[kEdgeA][4], w[kEdgeB][4];
      UNROLL for (int i = 0; i < kEdgeA; ++i)
          plain_read(a, thread.y * kEdgeA + i, panel * 8 + c, u[i]);
      UNROLL for (int j = 0; j < kEdgeB; ++j)
          plain_read(b, thread.x * kEdgeB + j, panel * 8 + c, w[j]);
      UNROLL for (int i = 0; i < kEdgeA; ++i) UNROLL for (int j = 0; j < kEdgeB; ++j)
          UNROLL for (int e = 0; e < 4; ++e) scores[i][j] += u[i][e] * w[j][e];
    }
}

// The weights of a block on their way from scores to the second product.
template <int kEdgeA, int kEdgeB>
__device__ __forceinline__ void plain_put(PlainTile<kEdgeA, 16 * kEdgeB>& tile,
                                          const float (&weights)[kEdgeA][kEdgeB]) {
  const PlainThread thread;
  UNROLL for (int i = 0; i < kEdgeA; ++i) {
    const int row = thread.y * kEdgeA + i;
    const uint32_t at = shared_address(&tile) +
                        plain_offset<kEdgeA, 16 * kEdgeB>(row, thread.x * kEdgeB / 4) +
                        static_cast<uint32_t>(thread.x * kEdgeB % 4 * 4);
    const float* w = weights[i];
    if constexpr (kEdgeB == 4)
      sts128(at, pack<float>(w));
    else
      sts64(at, uint2{as_bits(w[0]), as_bits(w[1])});
  }
}

// sums += weights b: of rows y kEdgeA …, groups of four columns x, x + 16, …
template <int kEdgeA, int kEdgeB, int kColumns>
__device__ __forceinline__ void plain_sums(float (&sums)[kEdgeA][kColumns / 64][4],
                                           const PlainTile<kEdgeA, 16 * kEdgeB>& weights,
                                           const PlainTile<kEdgeB, kColumns>& b) {
  const PlainThread thread;
  for (int four = 0; four < 4 * kEdgeB; ++four) {
    float w[kEdgeA][4];
    UNROLL for (int i = 0; i < kEdgeA; ++i) plain_read(weights, thread.y * kEdgeA + i, four, w[i]);
    UNROLL for (int e = 0; e < 4; ++e) UNROLL for (int n = 0; n < kColumns / 64; ++n) {
      float v[4];
      plain_read(b, four * 4 + e, thread.x + 16 * n, v);
      UNROLL for (int i = 0; i < kEdgeA; ++i) UNROLL for (int c = 0; c < 4; ++c) sums[i][n][c] +=
          w[i][e] * v[c];
    }
  }
}

// Writes the sums times `factor` as rows; rows_of(row) is where a row goes, or null.
template <int kEdge, int kGroups, typename RowsOf>
__device__ __forceinline__ void plain_store(float (&sums)[kEdge][kGroups][4], float factor,
                                            int columns, bool add, bool vectors, RowsOf rows_of) {
  const PlainThread thread;
  UNROLL for (int i = 0; i < kEdge; ++i) {
    float* to = rows_of(thread.y * kEdge + i);
    if (to == nullptr) continue;
    UNROLL for (int n = 0; n < kGroups; ++n) {
      const int column = (thread.x + 16 * n) * 4;
      if (column >= columns) continue;
      UNROLL for (int c = 0; c < 4; ++c) sums[i][n][c] *= factor;
      put_four(to + column, sums[i][n], columns - column, add, vectors);
    }
  }
}

// ---- launchers ----

// f(the padded width of the columns, as a constant).
template <typename F>
cudaError_t with_attention_plain_width(int columns, F f) {
  if (columns <= 64) return f(std::integral_constant<int, 64>());
  if (columns <= 128) return f(std::integral_constant<int, 128>());
  return f(std::integral_constant<int, 256>());
}

}  // namespace gatun::kernels
