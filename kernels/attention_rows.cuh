// What all attention kernels share: who sees whom, rows of heads, and the launchers' checks.
#pragma once

#include <climits>
#include <initializer_list>
#include <type_traits>

#include "attention.h"
#include "tile.cuh"
#include "tiles.h"

namespace gatun::kernels {

// ---- who sees whom ----

// Where one batch row's queries meet its keys: query i sees the keys below limit(i).
struct Sight {
  int keys;   // that exist
  int shift;  // query i sees keys up to i + shift

  __device__ __forceinline__ int limit(int query) const { return min_of(keys, query + shift + 1); }
  static __device__ __forceinline__ int min_of(int a, int b) { return a < b ? a : b; }
};

__device__ __forceinline__ Sight sight_of(const AttentionShape& shape, int batch) {
  Sight sight = {shape.keys, shape.causal ? shape.keys - shape.queries : shape.keys};
  if (shape.lengths != nullptr) {
    const int length = shape.lengths[batch];
    sight.keys = length < 0 ? 0 : length < shape.keys ? length : shape.keys;
  }
  return sight;
}

template <typename T>
__device__ __forceinline__ T* head_of(const HeadRows& rows, int batch, int head) {
  return static_cast<T*>(rows.data) + batch * rows.batch + head * rows.head;
}

constexpr float kLog2E = 1.44269504088896341f;
constexpr float kLn2 = 0.69314718055994531f;
constexpr float kInfinity = __builtin_huge_valf();

// ---- statistics of the backward pass ----

// Of one head's padded queries: the log-sum-exp in powers of 2 (+infinity where a row sees nothing
// or does not exist, so that its weights are 0), and delta = the row's sum of dout out.
struct Statistics {
  const float* base;
  const float* delta;
};

__device__ __forceinline__ int64_t padded_queries(const AttentionShape& shape) {
  return int64_t{(shape.queries - 1) / kAttentionStatisticRows + 1} * kAttentionStatisticRows;
}

__device__ __forceinline__ Statistics statistics_of(const AttentionBackward& p, int batch,
                                                    int head) {
  const int64_t padded = padded_queries(p.shape), heads = int64_t{p.shape.batch} * p.shape.heads;
  const float* base = p.statistics + (int64_t{batch} * p.shape.heads + head) * padded;
  return {base, base + heads * padded};
}

// ---- results ----

// Four elements to or from memory, side by side.
__device__ __forceinline__ void load_four(const float* p, float (&v)[4]) {
  unpack<float>(ld128(p), v);
}
__device__ __forceinline__ void store_four(float* p, const float (&v)[4]) {
  st128(p, pack<float>(v));
}
template <typename T>
__device__ __forceinline__ void load_four(const T* p, float (&v)[4]) {
  const uint2 words = ld64(p);
  float low[2], high[2];
  unpack(words.x, low, T());
  unpack(words.y, high, T());
  v[0] = low[0], v[1] = low[1], v[2] = high[0], v[3] = high[1];
}
template <typename T>
__device__ __forceinline__ void store_four(T* p, const float (&v)[4]) {
  const float low[2] = {v[0], v[1]}, high[2] = {v[2], v[3]};
  st64(p, uint2{pack(low, T()), pack(high, T())});
}

// One row's four columns, `count` of them inside; added to what is there, if so wanted.
template <typename T>
__device__ __forceinline__ void put_four(T* p, float (&v)[4], int count, bool add, bool vectors) {
  if (vectors) {
    if (add) {
      float old[4];
      load_four(p, old);
      UNROLL for (int i = 0; i < 4; ++i) v[i] += old[i];
    }
    store_four(p, v);
  } else {
    for (int i = 0; i < 4 && i < count; ++i)
      p[i] = from_float<T>(add ? to_float(p[i]) + v[i] : v[i]);
  }
}

// ---- launchers ----

inline bool attention_aligned(const HeadRows& rows, size_t size) {
  const auto multiple = [&](int64_t stride) {
    return static_cast<size_t>(stride) * size % 16 == 0;
  };
  return reinterpret_cast<uintptr_t>(rows.data) % 16 == 0 && multiple(rows.batch) &&
         multiple(rows.head) && multiple(rows.row);
}

// Whether all rows can be read and written 16 bytes at a time. Data may be null: no operand.
inline bool attention_aligned(const AttentionShape& shape, size_t size,
                              std::initializer_list<const HeadRows*> all) {
  bool aligned = static_cast<size_t>(shape.columns) * size % 16 == 0;
  for (const HeadRows* rows : all)
    aligned = aligned && (rows->data == nullptr || attention_aligned(*rows, size));
  return aligned;
}

inline bool attention_valid(const AttentionShape& shape) {
  return shape.columns >= 1 && shape.columns <= kAttentionMostColumns && shape.group >= 1 &&
         shape.queries <= INT_MAX / 2 && shape.keys <= INT_MAX / 2;
}

// Blocks of `each` rows over all heads; 0: none, or more than a grid can have.
inline int64_t attention_blocks(int64_t rows, int each, int64_t heads) {
  const int64_t blocks = (rows + each - 1) / each * heads;
  return blocks <= INT_MAX ? blocks : 0;
}

// f(the padded width of the columns, as a constant).
template <typename F>
cudaError_t with_attention_width(int columns, F f) {
  switch (attention_width(columns)) {
    case 32:
      return f(std::integral_constant<int, 32>());
    case 64:
      return f(std::integral_constant<int, 64>());
    case 96:
      return f(std::integral_constant<int, 96>());
    case 128:
      return f(std::integral_constant<int, 128>());
    case 256:
      return f(std::integral_constant<int, 256>());
  }
  return cudaErrorInvalidValue;
}

}  // namespace gatun::kernels
