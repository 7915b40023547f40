// What kernels share: vectors of elements as f32, sums over a warp and over a group of threads, the
// address of a row, the report of a fault, the launch of a kernel.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <cstring>

#include "fault.h"
#include "launch.cuh"
#include "ptx.cuh"
#include "rows.h"

namespace gatun::kernels {

// ---- elements ----

template <typename T>
constexpr int kVector = 16 / sizeof(T);  // elements of one 16-byte access

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(__half x) { return __half2float(x); }
__device__ __forceinline__ float to_float(__nv_bfloat16 x) { return __bfloat162float(x); }

template <typename T>
__device__ __forceinline__ T from_float(float x);
template <>
__device__ __forceinline__ float from_float<float>(float x) {
  return x;
}
template <>
__device__ __forceinline__ __half from_float<__half>(float x) {
  return __float2half_rn(x);
}
template <>
__device__ __forceinline__ __nv_bfloat16 from_float<__nv_bfloat16>(float x) {
  return __float2bfloat16_rn(x);
}

// Two elements in one 32-bit word, and one.
__device__ __forceinline__ void unpack(uint32_t word, float (&v)[1], float) {
  v[0] = as_float(word);
}
__device__ __forceinline__ void unpack(uint32_t word, float (&v)[2], __half) {
  const float2 pair = __half22float2(*reinterpret_cast<const __half2*>(&word));
  v[0] = pair.x;
  v[1] = pair.y;
}
__device__ __forceinline__ void unpack(uint32_t word, float (&v)[2], __nv_bfloat16) {
  v[0] = as_float(word << 16);
  v[1] = as_float(word & 0xffff0000u);
}
__device__ __forceinline__ uint32_t pack(const float (&v)[1], float) { return as_bits(v[0]); }
__device__ __forceinline__ uint32_t pack(const float (&v)[2], __half) {
  const __half2 pair = __floats2half2_rn(v[0], v[1]);
  return *reinterpret_cast<const uint32_t*>(&pair);
}
__device__ __forceinline__ uint32_t pack(const float (&v)[2], __nv_bfloat16) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(v[0], v[1]);
  return *reinterpret_cast<const uint32_t*>(&pair);
}

template <typename T>
__device__ __forceinline__ void unpack(uint4 words, float* v) {
  constexpr int kEach = kVector<T> / 4;
  const uint32_t word[4] = {words.x, words.y, words.z, words.w};
  UNROLL for (int i = 0; i < 4; ++i) {
    float part[kEach];
    unpack(word[i], part, T());
    UNROLL for (int j = 0; j < kEach; ++j) v[i * kEach + j] = part[j];
  }
}

template <typename T>
__device__ __forceinline__ uint4 pack(const float* v) {
  constexpr int kEach = kVector<T> / 4;
  uint32_t word[4];
  UNROLL for (int i = 0; i < 4; ++i) {
    float part[kEach];
    UNROLL for (int j = 0; j < kEach; ++j) part[j] = v[i * kEach + j];
    word[i] = pack(part, T());
  }
  return {word[0], word[1], word[2], word[3]};
}

// One element, whatever its alignment to vectors.
template <typename T>
__device__ __forceinline__ T load_element(const T* p) {
  T value;
  if constexpr (sizeof(T) == 8) {
    const uint2 bits = ld64(p);
    std::memcpy(&value, &bits, 8);
  } else if constexpr (sizeof(T) == 4) {
    const uint32_t bits = ld32(p);
    std::memcpy(&value, &bits, 4);
  } else if constexpr (sizeof(T) == 2) {
    const uint16_t bits = ld16(p);
    std::memcpy(&value, &bits, 2);
  } else {
    value = *p;
  }
  return value;
}

template <typename T>
__device__ __forceinline__ void store_element(T* p, T value) {
  if constexpr (sizeof(T) == 8) {
    uint2 bits;
    std::memcpy(&bits, &value, 8);
    st64(p, bits);
  } else if constexpr (sizeof(T) == 4) {
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    st32(p, bits);
  } else if constexpr (sizeof(T) == 2) {
    uint16_t bits;
    std::memcpy(&bits, &value, 2);
    st16(p, bits);
  } else {
    *p = value;
  }
}

// kCount elements to f32: by 16-byte accesses, by one of 8 bytes where they have no more, or one by
// one where kCount is 1.
template <int kCount, typename T>
__device__ __forceinline__ void load_values(const T* p, float* v) {
  if constexpr (kCount == 1) {
    v[0] = to_float(load_element(p));
  } else if constexpr (kCount * sizeof(T) == 8) {
    const uint2 words = ld64(p);
    constexpr int kEach = kCount / 2;
    float part[2][kEach];
    unpack(words.x, part[0], T());
    unpack(words.y, part[1], T());
    UNROLL for (int i = 0; i < kCount; ++i) v[i] = part[i / kEach][i % kEach];
  } else {
    static_assert(kCount % kVector<T> == 0, "a whole number of 16-byte accesses");
    UNROLL for (int i = 0; i < kCount; i += kVector<T>) unpack<T>(ld128(p + i), v + i);
  }
}

template <int kCount, typename T>
__device__ __forceinline__ void store_values(T* p, const float* v) {
  if constexpr (kCount == 1) {
    store_element(p, from_float<T>(v[0]));
  } else if constexpr (kCount * sizeof(T) == 8) {
    constexpr int kEach = kCount / 2;
    float part[2][kEach];
    UNROLL for (int i = 0; i < kCount; ++i) part[i / kEach][i % kEach] = v[i];
    st64(p, {pack(part[0], T()), pack(part[1], T())});
  } else {
    static_assert(kCount % kVector<T> == 0, "a whole number of 16-byte accesses");
    UNROLL for (int i = 0; i < kCount; i += kVector<T>) st128(p + i, pack<T>(v + i));
  }
}

// The value that a T would hold.
template <typename T>
__device__ __forceinline__ float rounded(float x) {
  return to_float(from_float<T>(x));
}

// ---- sums ----

// Every lane receives the sum over its warp, always added in the same tree.
template <typename V>
__device__ __forceinline__ V warp_sum(V v) {
  UNROLL for (int mask = 16; mask > 0; mask /= 2) v += shuffle_xor(v, mask);
  return v;
}

// The larger; of floats one that is NaN is passed over.
__device__ __forceinline__ float larger(float a, float b) { return fmaxf(a, b); }
__device__ __forceinline__ uint64_t larger(uint64_t a, uint64_t b) { return a > b ? a : b; }

template <typename V>
__device__ __forceinline__ V warp_max(V v) {
  UNROLL for (int mask = 16; mask > 0; mask /= 2) v = larger(v, shuffle_xor(v, mask));
  return v;
}

// Sums of kCount values over groups of kThreads threads: a warp, or the whole block. Successive
// sums alternate between two halves of `parts`, so each needs one barrier only: a thread writes a
// half again after a barrier that every reader of it has passed.
template <int kThreads, int kCount, typename V = float>
struct GroupParts {
  V part[2][kCount][kThreads / 32];
};

template <int kThreads, int kCount, typename V>
__device__ __forceinline__ void group_sum(V (&v)[kCount], GroupParts<kThreads, kCount, V>& parts,
                                          int& phase) {
  UNROLL for (int i = 0; i < kCount; ++i) v[i] = warp_sum(v[i]);
  if constexpr (kThreads > 32) {
    V(*part)[kThreads / 32] = parts.part[phase];
    phase ^= 1;
    if (threadIdx.x % 32 == 0)
      UNROLL for (int i = 0; i < kCount; ++i) part[i][threadIdx.x / 32] = v[i];
    __syncthreads();
    UNROLL for (int i = 0; i < kCount; ++i) {
      v[i] = V();
      UNROLL for (int warp = 0; warp < kThreads / 32; ++warp) v[i] += part[i][warp];
    }
  }
}

// The largest of the group; parts as for group_sum.
template <int kThreads, typename V>
__device__ __forceinline__ V group_max(V v, GroupParts<kThreads, 1, V>& parts, int& phase) {
  v = warp_max(v);
  if constexpr (kThreads > 32) {
    V* part = parts.part[phase][0];
    phase ^= 1;
    if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = v;
    __syncthreads();
    v = part[0];
    UNROLL for (int warp = 1; warp < kThreads / 32; ++warp) v = larger(v, part[warp]);
  }
  return v;
}

// ---- rows ----

// Offset in elements of a row of one operand.
template <int kOperands>
__device__ __forceinline__ int64_t row_offset(const RowLayout<kOperands>& layout, int operand,
                                              int64_t row) {
  if (layout.rank == 1) return row * layout.stride[operand][0];
  int64_t offset = 0;
  ROLLED for (int d = 0; d < layout.rank && row > 0; ++d) {
    offset += row % layout.shape[d] * layout.stride[operand][d];
    row /= layout.shape[d];
  }
  return offset;
}

// A row at any alignment of its elements: 16-byte words, and less than a word before and behind.
template <typename T>
struct WordRow {
  T* x;
  int head;  // elements before the first word
  int words;

  __device__ __forceinline__ WordRow(T* row, int columns) : x(row) {
    const int past = static_cast<int>(reinterpret_cast<uintptr_t>(row) % 16 / sizeof(T));
    head = past == 0 ? 0 : kVector<T> - past;
    if (head > columns) head = columns;
    words = (columns - head) / kVector<T>;
  }
  __device__ __forceinline__ T* word(int i) const { return x + head + int64_t{i} * kVector<T>; }
  // The word that holds the column; -1: none.
  __device__ __forceinline__ int word_of(int column) const {
    if (column < head) return -1;
    const int i = (column - head) / kVector<T>;
    return i < words ? i : -1;
  }
  // The column outside of words that belongs to the thread; -1: none.
  __device__ __forceinline__ int edge(int thread, int columns) const {
    if (thread < head) return thread;
    const int column = thread + words * kVector<T>;
    return column < columns ? column : -1;
  }
};

// ---- faults ----

// By any thread, any number of times; the first one of the device is kept. Values beyond those of
// the kind's sentence are 0.
__device__ __forceinline__ void report_fault(const FaultSink& sink, FaultKind kind, int64_t first,
                                             int64_t second, int64_t third, int64_t fourth) {
  if (atomic_exchange(sink.taken, 1) != 0) return;
  sink.record->value[0] = first;
  sink.record->value[1] = second;
  sink.record->value[2] = third;
  sink.record->value[3] = fourth;
  fence_system();
  *const_cast<volatile FaultKind*>(&sink.record->kind) = kind;
}

}  // namespace gatun::kernels
