// Small matrix products in registers, for ops whose operands stay in the caches (attention's
// tiles). Nothing is packed: one operand is read as broadcast scalars with any two strides, the
// other as vectors along its contiguous dimension. So a b^T, a b and a^T b are all the same loop,
// as long as the caller lays its tiles out that way.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <utility>

#include "cpu/level/vec.h"

namespace gatun::cpu::GATUN_LEVEL {

// A tile of kTileRows x kTileVectors sums fills the registers but those for the operands: 24 of
// avx512's 32, 12 of avx2's 16; 8 of 16 without FMA, whose products need one more.
#if defined(__AVX512F__)
constexpr int kTileRows = 6;
constexpr int kTileVectors = 4;
#elif defined(__AVX2__)
constexpr int kTileRows = 6;
constexpr int kTileVectors = 2;
#else
constexpr int kTileRows = 4;
constexpr int kTileVectors = 2;
#endif

// What a product does with the values its destination holds.
enum class Into {
  kSet,     // out = a b
  kAdd,     // out += a b
  kRescale  // out = out * factor[row] + a b
};

// out [rows, vectors * kLanes] and sum over k of a(row, k) b(k, .).
struct Product {
  int64_t k;       // length of the sums
  const float* a;  // a(row, k) = a[row * a_row + k * a_k]
  int64_t a_row;
  int64_t a_k;
  const float* b;  // b(k, .) = b[k * b_k ..]
  int64_t b_k;
  float* out;  // out(row, .) = out[row * out_row ..]
  int64_t out_row;
  const float* factor = nullptr;  // kRescale only
};

template <Into kInto, int kRows, int kVectors>
void multiply_tile(const Product& p) {
  float* const out = p.out;
  const int64_t out_row = p.out_row;
  vf sum[kRows][kVectors];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (int c = 0; c < kVectors; ++c) {
      if constexpr (kInto == Into::kSet) {
        sum[r][c] = vf{};
      } else {
        sum[r][c] = load(out + r * out_row + c * kLanes);
        if constexpr (kInto == Into::kRescale) sum[r][c] *= p.factor[r];
      }
    }
  }
  const float* a = p.a;
  const float* b = p.b;
  const int64_t a_row = p.a_row, a_k = p.a_k, b_k = p.b_k;
  for (int64_t k = p.k; k > 0; --k, a += a_k, b += b_k) {
    vf column[kVectors];
#pragma GCC unroll 8
    for (int c = 0; c < kVectors; ++c) column[c] = load(b + c * kLanes);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const vf x = splat(a[r * a_row]);
#pragma GCC unroll 8
      for (int c = 0; c < kVectors; ++c) sum[r][c] += x * column[c];
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (int c = 0; c < kVectors; ++c) store(out + r * out_row + c * kLanes, sum[r][c]);
  }
}

using Tile = void (*)(const Product&);

template <Into kInto, int... kShape>
constexpr std::array<Tile, sizeof...(kShape)> tiles_of(std::integer_sequence<int, kShape...>) {
  return {multiply_tile<kInto, kShape / kTileVectors + 1, kShape % kTileVectors + 1>...};
}
template <Into kInto>
constexpr auto kTiles =
    tiles_of<kInto>(std::make_integer_sequence<int, kTileRows * kTileVectors>());

// Up to kTileRows rows and any number of vectors.
template <Into kInto>
inline void multiply_strip(int rows, int vectors, Product p) {
  const auto tiles = kTiles<kInto>.data() + (rows - 1) * kTileVectors;
  for (; vectors > kTileVectors; vectors -= kTileVectors) {
    tiles[kTileVectors - 1](p);
    p.b += kTileVectors * kLanes;
    p.out += kTileVectors * kLanes;
  }
  if (vectors > 0) tiles[vectors - 1](p);
}

// ---- transposes ----

template <int kOffset, int... kLane>
inline vf interleave(vf a, vf b, std::integer_sequence<int, kLane...>) {
  return __builtin_shufflevector(a, b, (kOffset + kLane / 2 + kLane % 2 * kLanes)...);
}
// a0 b0 a1 b1 .. of the lower, of the upper halves.
inline vf interleave_low(vf a, vf b) {
  return interleave<0>(a, b, std::make_integer_sequence<int, kLanes>());
}
inline vf interleave_high(vf a, vf b) {
  return interleave<kLanes / 2>(a, b, std::make_integer_sequence<int, kLanes>());
}

// rows[i][j] becomes rows[j][i]: log2 rounds of a perfect shuffle.
inline void transpose(vf (&rows)[kLanes]) {
#pragma GCC unroll 4
  for (int width = 1; width < kLanes; width *= 2) {
    vf next[kLanes];
#pragma GCC unroll 8
    for (int i = 0; i < kLanes / 2; ++i) {
      next[2 * i] = interleave_low(rows[i], rows[i + kLanes / 2]);
      next[2 * i + 1] = interleave_high(rows[i], rows[i + kLanes / 2]);
    }
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; ++i) rows[i] = next[i];
  }
}

// out[d * out_step + i] = factor * x[i * x_row + d] for i < rows, d < columns; lanes from rows up
// to the next whole vector become 0.
template <typename T>
void pack_transposed(float* out, int64_t out_step, const T* x, int64_t x_row, int64_t rows,
                     int64_t columns, float factor) {
  for (int64_t i = 0; i < rows; i += kLanes) {
    const int height = static_cast<int>(std::min<int64_t>(kLanes, rows - i));
    for (int64_t d = 0; d < columns; d += kLanes) {
      const int width = static_cast<int>(std::min<int64_t>(kLanes, columns - d));
      vf block[kLanes];
      if (height == kLanes && width == kLanes) {
#pragma GCC unroll 16
        for (int r = 0; r < kLanes; ++r) block[r] = load(x + (i + r) * x_row + d) * factor;
      } else {
        for (int r = 0; r < kLanes; ++r)
          block[r] = r < height ? load_first(x + (i + r) * x_row + d, width) * factor : vf{};
      }
      transpose(block);
      if (width == kLanes) {
#pragma GCC unroll 16
        for (int c = 0; c < kLanes; ++c) store(out + (d + c) * out_step + i, block[c]);
      } else {
        for (int c = 0; c < width; ++c) store(out + (d + c) * out_step + i, block[c]);
      }
    }
  }
}

// out[i * out_row + d] = x[i * x_row + d] for i < rows, d < columns; columns up to the next whole
// vector become 0.
template <typename T>
void pack_rows(float* out, int64_t out_row, const T* x, int64_t x_row, int64_t rows,
               int64_t columns) {
  for (int64_t i = 0; i < rows; ++i) {
    const T* from = x + i * x_row;
    float* to = out + i * out_row;
    each_vector(
        columns, [&](int64_t d) { store(to + d, load(from + d)); },
        [&](int64_t d, int n) { store(to + d, load_first(from + d, n)); });
  }
}

}  // namespace gatun::cpu::GATUN_LEVEL
