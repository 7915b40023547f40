// Elementwise kernels: operands of one shape and any strides, each element read once and written
// once. An op is a struct of what one thread keeps of one pack of elements; the walk is here.
#pragma once

#include <algorithm>
#include <climits>
#include <cstring>

#include "philox.h"
#include "tile.cuh"
#include "tiles.h"

namespace gatun::kernels {

// How a kernel walks its operands: contiguous ones by packs of 16 bytes; rows by packs; or element
// by element, whatever the strides and the alignment.
enum class Walk { kFlat, kRows, kElements };

// Where a pack lies in each operand, in elements, and in row-major order.
template <int kOperands>
struct Place {
  int64_t offset[kOperands];
  int64_t index;
  int count;  // elements of the pack; the last one of a row may be shorter
};

// ---- packs ----

// kCount consecutive elements as they are stored: 8 or 16 bytes by one access, or single elements.
template <typename T, int kCount>
struct Pack {
  static constexpr int kBytes = kCount * static_cast<int>(sizeof(T));
  static_assert(kCount == 1 || kBytes == 8 || kBytes == 16);

  T at[kCount];

  __device__ __forceinline__ void load(const T* p, int count) {
    if (kCount == 1 || count < kCount) {
      UNROLL for (int i = 0; i < kCount; ++i) if (i < count) at[i] = load_element(p + i);
    } else if constexpr (kBytes == 16) {
      const uint4 bits = ld128(p);
      std::memcpy(at, &bits, 16);
    } else {
      const uint2 bits = ld64(p);
      std::memcpy(at, &bits, kBytes);
    }
  }
  __device__ __forceinline__ void store(T* p, int count) const {
    if (kCount == 1 || count < kCount) {
      UNROLL for (int i = 0; i < kCount; ++i) if (i < count) store_element(p + i, at[i]);
    } else if constexpr (kBytes == 16) {
      uint4 bits;
      std::memcpy(&bits, at, 16);
      st128(p, bits);
    } else {
      uint2 bits;
      std::memcpy(&bits, at, kBytes);
      st64(p, bits);
    }
  }
  __device__ __forceinline__ float get(int i) const { return to_float(at[i]); }
  __device__ __forceinline__ void set(const float (&v)[kCount]) {
    if constexpr (sizeof(T) == 2 && kCount > 1) {
      UNROLL for (int i = 0; i < kCount; i += 2) {
        const float pair[2] = {v[i], v[i + 1]};
        const uint32_t bits = pack(pair, T());
        std::memcpy(at + i, &bits, 4);
      }
    } else {
      UNROLL for (int i = 0; i < kCount; ++i) at[i] = from_float<T>(v[i]);
    }
  }
};

// ---- the walk ----

__device__ __forceinline__ void divide(int64_t value, int64_t by, int64_t& quotient,
                                       int64_t& rest) {
  if ((value | by) >> 32 == 0) {  // a 64-bit division takes about four times as long
    quotient = static_cast<uint32_t>(value) / static_cast<uint32_t>(by);
    rest = static_cast<uint32_t>(value) % static_cast<uint32_t>(by);
  } else {
    quotient = value / by;
    rest = value % by;
  }
}

template <int kOperands>
__device__ __forceinline__ void row_offsets(const RowLayout<kOperands>& layout, int64_t row,
                                            int64_t (&offset)[kOperands]) {
  UNROLL for (int i = 0; i < kOperands; ++i) offset[i] = 0;
  ROLLED for (int d = 0; d < layout.rank; ++d) {
    int64_t digit = row;
    if (d + 1 < layout.rank) divide(row, layout.shape[d], row, digit);
    UNROLL for (int i = 0; i < kOperands; ++i) offset[i] += digit * layout.stride[i][d];
  }
}

template <Walk kWalk, int kCount, int kOperands>
__device__ __forceinline__ Place<kOperands> place_of(const Runs<kOperands>& runs, int64_t packs,
                                                     int64_t pack) {
  Place<kOperands> place;
  int64_t row = 0, column = pack;
  if constexpr (kWalk == Walk::kFlat) {
    UNROLL for (int i = 0; i < kOperands; ++i) place.offset[i] = 0;
  } else {
    divide(pack, packs, row, column);
    row_offsets(runs.layout, row, place.offset);
  }
  column *= kCount;
  UNROLL for (int i = 0; i < kOperands; ++i) place.offset[i] += column;
  place.index = row * runs.columns + column;
  const int64_t left = runs.columns - column;
  place.count = left < kCount ? static_cast<int>(left) : kCount;
  return place;
}

// Op: Arguments with `runs`; kCount, elements of a pack; load(arguments, place), which reads what
// the op needs, and store(arguments, place), which computes and writes. A thread loads all of its
// packs before it stores the first, so that the loads are in flight together; an operand may
// therefore be written where another was read.
template <typename Op, Walk kWalk>
__global__ void __launch_bounds__(kElementwiseThreads)
    elementwise(const __grid_constant__ typename Op::Arguments p) {
  const int64_t packs = (p.runs.columns + Op::kCount - 1) / Op::kCount;
  const int64_t total = packs * p.runs.layout.rows;
  constexpr int kTile = kElementwiseThreads * kElementwisePacks;
  for (int64_t first = int64_t{blockIdx.x} * kTile + threadIdx.x; first < total;
       first += int64_t{gridDim.x} * kTile) {
    Op op[kElementwisePacks];
    UNROLL for (int k = 0; k < kElementwisePacks; ++k) {
      const int64_t pack = first + k * kElementwiseThreads;
      if (pack < total) op[k].load(p, place_of<kWalk, Op::kCount>(p.runs, packs, pack));
    }
    UNROLL for (int k = 0; k < kElementwisePacks; ++k) {
      const int64_t pack = first + k * kElementwiseThreads;
      if (pack < total) op[k].store(p, place_of<kWalk, Op::kCount>(p.runs, packs, pack));
    }
  }
}

// ---- random words ----

// Those of a pack that starts at element `index`, a multiple of 4 unless kCount is 1.
template <int kCount>
__device__ __forceinline__ void random_words(const PhiloxStream& stream, int64_t index,
                                             uint32_t (&word)[kCount]) {
  if constexpr (kCount == 1) {
    word[0] = stream.word(static_cast<uint64_t>(index));
  } else {
    static_assert(kCount % 4 == 0);
    UNROLL for (int i = 0; i < kCount; i += 4) {
      const PhiloxBlock block = stream.words(static_cast<uint64_t>(index + i) / 4);
      UNROLL for (int j = 0; j < 4; ++j) word[i + j] = block.word[j];
    }
  }
}

// ---- launchers ----

namespace {

// Whether packs start at multiples of 4, so that no two share the words of one counter.
template <int kOperands>
bool words_fit(const Runs<kOperands>& runs) {
  return runs.layout.rows == 1 || runs.columns % 4 == 0;
}

struct Memory {
  const void* address;  // null: absent
  size_t element_bytes;
};

// The best walk for packs of `count` elements.
template <int kOperands>
Walk walk_of(const Runs<kOperands>& runs, int count, const Memory (&operands)[kOperands]) {
  const bool flat = runs.layout.rows == 1;
  if (!flat && runs.columns < count) return Walk::kElements;
  for (int i = 0; i < kOperands; ++i) {
    if (operands[i].address == nullptr) continue;
    const size_t bytes =
        std::min<size_t>(16, static_cast<size_t>(count) * operands[i].element_bytes);
    if (reinterpret_cast<uintptr_t>(operands[i].address) % bytes != 0) return Walk::kElements;
    for (int d = 0; d < runs.layout.rank && !flat; ++d)
      if (runs.layout.stride[i][d] % count != 0) return Walk::kElements;
  }
  return flat ? Walk::kFlat : Walk::kRows;
}

template <typename Op>
cudaError_t launch_walk(const char* name, Walk walk, cudaStream_t stream,
                        const typename Op::Arguments& p) {
  const int64_t packs = (p.runs.columns + Op::kCount - 1) / Op::kCount * p.runs.layout.rows;
  if (packs == 0) return cudaSuccess;
  constexpr int64_t kTile = kElementwiseThreads * kElementwisePacks;
  const unsigned blocks =
      static_cast<unsigned>(std::min<int64_t>((packs + kTile - 1) / kTile, INT_MAX));
  if constexpr (Op::kCount == 1)
    return launch(name, elementwise<Op, Walk::kElements>, blocks, kElementwiseThreads, 0, stream,
                  p);
  else
    return launch(name,
                  walk == Walk::kFlat ? elementwise<Op, Walk::kFlat> : elementwise<Op, Walk::kRows>,
                  blocks, kElementwiseThreads, 0, stream, p);
}

// Launches the op by the best walk: `Packs`, or `Elements` where the packs do not fit.
template <typename Packs, typename Elements, int kOperands>
cudaError_t launch_elementwise(const char* name, cudaStream_t stream,
                               const typename Packs::Arguments& p,
                               const Memory (&operands)[kOperands], bool packs_fit = true) {
  static_assert(Elements::kCount == 1);
  const Walk walk = packs_fit ? walk_of(p.runs, Packs::kCount, operands) : Walk::kElements;
  if (walk == Walk::kElements) return launch_walk<Elements>(name, walk, stream, p);
  return launch_walk<Packs>(name, walk, stream, p);
}

// Calls f(T()) with the element type.
template <typename F>
cudaError_t with_type(ElementType type, F f) {
  switch (type) {
    case ElementType::kF32:
      return f(float());
    case ElementType::kF16:
      return f(__half());
    case ElementType::kBf16:
      return f(__nv_bfloat16());
  }
  return cudaErrorInvalidValue;
}

}  // namespace

}  // namespace gatun::kernels
