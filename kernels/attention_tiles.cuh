// What the attention kernels on tensor cores share: swizzled tiles of 16-bit rows, products of
// fragments, and the way of sums back to memory.
#pragma once

#include "attention_rows.cuh"

namespace gatun::kernels {

// ---- tiles ----

// kRows rows of kColumns 16-bit elements in panels of 32 columns, 64 bytes a row. A line of 128
// bytes holds two rows; the 16-byte chunks of a row are permuted by the number of its line, so that
// the eight rows which ldmatrix reads at once lie in eight different groups of banks.
template <int kRows, int kColumns>
struct alignas(128) Tile {
  static_assert(kRows % 32 == 0 && kColumns % 32 == 0, "whole lines, and whole passes of a load");
  uint4 chunk[kColumns / 32][kRows][4];
};

// Byte of a chunk of a row, within its panel.
__device__ __forceinline__ uint32_t chunk_offset(int row, int chunk) {
  return static_cast<uint32_t>(row * 64 + ((chunk ^ (row >> 1)) & 3) * 16);
}

// Up to 8 elements, zeros after them, one by one: for rows that 16-byte copies cannot read.
template <typename T>
__device__ __forceinline__ uint4 load_elements(const T* from, int count) {
  uint32_t word[4];
  UNROLL for (int i = 0; i < 4; ++i) {
    const uint32_t low = 2 * i < count ? ld16(from + 2 * i) : uint32_t{0};
    const uint32_t high = 2 * i + 1 < count ? ld16(from + 2 * i + 1) : uint32_t{0};
    word[i] = low | high << 16;
  }
  return {word[0], word[1], word[2], word[3]};
}

// Copies a tile: rows_of(row) is the address of a row of `columns` elements, null for a row of
// zeros. Asynchronous where `vectors`; the copies belong to the caller's group.
template <typename T, int kRows, int kColumns, typename RowsOf>
__device__ __forceinline__ void load_tile(Tile<kRows, kColumns>& tile, int columns, bool vectors,
                                          RowsOf rows_of) {
  constexpr int kPass = kAttentionThreads / 4;  // rows at once, four threads each
  const int first = static_cast<int>(threadIdx.x) / 4, chunk = static_cast<int>(threadIdx.x) % 4;
  const uint32_t to = shared_address(&tile) + chunk_offset(first, chunk);
  if (vectors) {
    UNROLL for (int row = 0; row < kRows; row += kPass) {
      // a number, since it may lie outside where nothing is read: one register pair for all panels
      const auto from = reinterpret_cast<uintptr_t>(rows_of(first + row));
      UNROLL for (int panel = 0; panel < kColumns / 32; ++panel) {
        const int column = panel * 32 + chunk * 8;
        const bool inside = from != 0 && column < columns;
        cp_async<16>(to + static_cast<uint32_t>((panel * kRows + row) * 64),
                     reinterpret_cast<const T*>(from + column * sizeof(T)), inside ? 16 : 0);
      }
    }
  } else {
    for (int row = 0; row < kRows; row += kPass) {
      const T* from = rows_of(first + row);
      for (int panel = 0; panel < kColumns / 32; ++panel) {
        const int column = panel * 32 + chunk * 8;
        sts128(to + static_cast<uint32_t>((panel * kRows + row) * 64),
               from == nullptr ? uint4{} : load_elements(from + column, columns - column));
      }
    }
  }
}

// Rows of keys and of their values, which pass by together.
template <int kRows, int kColumns>
struct KeyTiles {
  Tile<kRows, kColumns> k, v;
};

// Copies both, in a group of their own.
template <typename T, int kRows, int kColumns, typename KeysOf, typename ValuesOf>
__device__ __forceinline__ void load_pair(KeyTiles<kRows, kColumns>& tiles, int columns,
                                          bool vectors, KeysOf keys_of, ValuesOf values_of) {
  load_tile<T>(tiles.k, columns, vectors, keys_of);
  load_tile<T>(tiles.v, columns, vectors, values_of);
  cp_async_commit();
}

// ---- fragments ----

// This lane's row address for ldmatrix on rows 0 … 15 and the first two chunks of a tile. Whole
// rows first: fragments of A, and of B where the tile is stored [k][n] (transposed).
template <int kRows, int kColumns>
__device__ __forceinline__ uint32_t lanes_by_row(const Tile<kRows, kColumns>& tile) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  return shared_address(&tile) + chunk_offset(lane % 16, lane / 16);
}
// Chunks first: two fragments of B where the tile is stored [n][k].
template <int kRows, int kColumns>
__device__ __forceinline__ uint32_t lanes_by_chunk(const Tile<kRows, kColumns>& tile) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  return shared_address(&tile) + chunk_offset(lane / 16 * 8 + lane % 8, lane / 8 % 2);
}
// The same, `row` rows (a multiple of 16) down and `step` times two chunks to the right.
template <int kRows>
__device__ __forceinline__ uint32_t moved(uint32_t lanes, int row, int step) {
  return (lanes ^ static_cast<uint32_t>(step % 2 * 32)) +
         static_cast<uint32_t>((step / 2 * kRows + row) * 64);
}

// sums[m][n] += a b^T over kColumns columns; fragment(a, m, step) gives A, b is a tile [n][k].
template <typename T, int kColumns, int kRows, int kStrips, int kN, typename Fragment>
__device__ __forceinline__ void multiply_rows(float (&sums)[kStrips][kN][4], Fragment fragment,
                                              uint32_t b_lanes) {
  UNROLL for (int step = 0; step < kColumns / 16; ++step) {
    uint32_t a[kStrips][4];
    UNROLL for (int m = 0; m < kStrips; ++m) fragment(a[m], m, step);
    UNROLL for (int n = 0; n < kN; n += 2) {
      uint32_t b[4];
      ldmatrix_x4(b, moved<kRows>(b_lanes, n * 8, step));
      const uint32_t left[2] = {b[0], b[1]}, right[2] = {b[2], b[3]};
      UNROLL for (int m = 0; m < kStrips; ++m) {
        mma_m16n8k16(sums[m][n], a[m], left, T());
        mma_m16n8k16(sums[m][n + 1], a[m], right, T());
      }
    }
  }
}

// sums[m] += weights[m] b, where weights are sums of an earlier product in registers (their layout
// is that of A, once rounded to T) and b is a tile [k][n], from column 16 `step` on.
template <typename T, int kRows, int kStrips, int kK, int kN>
__device__ __forceinline__ void multiply_weights(float (&sums)[kStrips][kN][4],
                                                 const float (&weights)[kStrips][kK][4],
                                                 uint32_t b_lanes, int step = 0) {
  UNROLL for (int k = 0; k < kK; k += 2) {
    uint32_t a[kStrips][4];
    UNROLL for (int m = 0; m < kStrips; ++m) UNROLL for (int i = 0; i < 4; ++i) {
      const float* w = &weights[m][k + i / 2][i % 2 * 2];
      const float pair[2] = {w[0], w[1]};
      a[m][i] = pack(pair, T());
    }
    UNROLL for (int n = 0; n < kN; n += 2) {
      uint32_t b[4];
      ldmatrix_x4_transposed(b, moved<kRows>(b_lanes, k * 8, step + n / 2));
      const uint32_t left[2] = {b[0], b[1]}, right[2] = {b[2], b[3]};
      UNROLL for (int m = 0; m < kStrips; ++m) {
        mma_m16n8k16(sums[m][n], a[m], left, T());
        mma_m16n8k16(sums[m][n + 1], a[m], right, T());
      }
    }
  }
}

// ---- softmax ----

// The running softmax of the rows of a warp: of each strip, this lane's rows g and g + 8. Scores
// are kept as the products gave them; `factor` (the scale times log2 e) makes them powers of 2.
template <int kStrips>
struct Softmax {
  // Powers of 2 by which a score may pass the peak before sums are scaled to a new one: most tiles
  // leave them alone, and 2^8 times the length is far from the end of f16 and f32 (FlashAttention-4
  // does the same).
  static constexpr float kSlack = 8.f;

  float peak[kStrips][2];
  float mass[kStrips][2];  // this lane's columns only, until finish()

  __device__ __forceinline__ Softmax() {
    UNROLL for (int m = 0; m < kStrips; ++m) UNROLL for (int half = 0; half < 2; ++half) {
      peak[m][half] = -kInfinity;
      mass[m][half] = 0.f;
    }
  }

  // Scores become weights; what was summed before is scaled where a peak of the warp rises.
  template <int kN, int kColumns>
  __device__ __forceinline__ void update(float (&scores)[kStrips][kN][4],
                                         float (&sums)[kStrips][kColumns][4], float factor) {
    float now[kStrips][2];
    bool rises = false;
    UNROLL for (int m = 0; m < kStrips; ++m) UNROLL for (int half = 0; half < 2; ++half) {
      float most = peak[m][half];
      UNROLL for (int n = 0; n < kN; ++n) UNROLL for (int i = 0; i < 2; ++i) most =
          fmaxf(most, scores[m][n][half * 2 + i]);
      most = fmaxf(most, shuffle_xor(most, 1));
      most = fmaxf(most, shuffle_xor(most, 2));
      now[m][half] = most;
      // "not <=": from -inf, a factor of 0 makes a NaN
      rises = rises || !(most * factor <= peak[m][half] * factor + kSlack);
    }
    if (ballot(rises) != 0)
      UNROLL for (int m = 0; m < kStrips; ++m) UNROLL for (int half = 0; half < 2; ++half) {
        float& before = peak[m][half];
        const float shrink =
            before == -kInfinity ? 0.f : ex2(before * factor - now[m][half] * factor);
        before = now[m][half];
        mass[m][half] *= shrink;
        UNROLL for (int n = 0; n < kColumns; ++n) UNROLL for (int i = 0; i < 2; ++i)
            sums[m][n][half * 2 + i] *= shrink;
      }
    UNROLL for (int m = 0; m < kStrips; ++m) UNROLL for (int half = 0; half < 2; ++half) {
      // 0 for a row that has seen nothing
      const float base = peak[m][half] == -kInfinity ? 0.f : peak[m][half] * factor;
      float added = 0.f;
      UNROLL for (int n = 0; n < kN; ++n) UNROLL for (int i = 0; i < 2; ++i) {
        float& score = scores[m][n][half * 2 + i];
        score = ex2(score * factor - base);
        added += score;
      }
      mass[m][half] += added;
    }
  }

  // The mass of whole rows.
  __device__ __forceinline__ void finish() {
    UNROLL for (int m = 0; m < kStrips; ++m) UNROLL for (int half = 0; half < 2; ++half) {
      mass[m][half] += shuffle_xor(mass[m][half], 1);
      mass[m][half] += shuffle_xor(mass[m][half], 2);
    }
  }
};

// ---- results ----

// f32 rows on their way out: groups of 8 columns permuted by the row, so that the four rows of a
// half-warp's 8-byte stores lie in different banks.
template <int kRows, int kColumns>
struct alignas(128) Stage {
  float value[kRows][kColumns];
};

// Byte of a column of group n of a row.
template <int kColumns>
__device__ __forceinline__ uint32_t stage_offset(int row, int n, int column) {
  return static_cast<uint32_t>((row * kColumns + (n ^ (row & 3)) * 8 + column) * 4);
}

// Writes the block's sums as rows; rows_of(row) is where a row goes, null for one that does not
// exist. A warp owns kStrips times 16 rows. The stage may lie over the tiles that were multiplied,
// or over the rows of the call before: a barrier first.
template <typename T, int kRows, int kStrips, int kN, typename RowsOf>
__device__ __forceinline__ void store_rows(Stage<kRows, kN * 8>& stage,
                                           const float (&sums)[kStrips][kN][4], int columns,
                                           bool add, bool vectors, RowsOf rows_of) {
  constexpr int kColumns = kN * 8;
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const uint32_t base = shared_address(&stage);
  __syncthreads();
  UNROLL for (int m = 0; m < kStrips; ++m) UNROLL for (int half = 0; half < 2; ++half) {
    const int row = (warp * kStrips + m) * 16 + half * 8 + lane / 4;
    UNROLL for (int n = 0; n < kN; ++n) {
      const float* v = &sums[m][n][half * 2];
      sts64(base + stage_offset<kColumns>(row, n, lane % 4 * 2),
            uint2{as_bits(v[0]), as_bits(v[1])});
    }
  }
  __syncthreads();
  constexpr int kFours = kColumns / 4;
  for (int i = static_cast<int>(threadIdx.x); i < kRows * kFours; i += kAttentionThreads) {
    const int row = i / kFours, four = i % kFours;
    T* to = rows_of(row);
    if (to == nullptr || four * 4 >= columns) continue;
    float v[4];
    unpack<float>(lds128(base + stage_offset<kColumns>(row, four / 2, four % 2 * 4)), v);
    put_four(to + four * 4, v, columns - four * 4, add, vectors);
  }
}

}  // namespace gatun::kernels
