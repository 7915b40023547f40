// Moving and making values: fill, copy, cast, transposing copy, random numbers, add, increment.
//
// math     out = value;  out = src, rounded to nearest even;  out = a + b;  out += by
//          uniform: low + u (high - low), kept inside of [low, high) as the type rounds it
//          normal (Box-Muller): elements 2k and 2k + 1 are mean + std r cos and mean + std r sin of
//          2 pi u(2k + 1), r = sqrt(-2 log(u(2k) + 2^-24)); u(i) is Philox word i (philox.h)
// shapes   any shape, any strides; arithmetic in f32, integers modulo 2^32 or 2^64
// tiling   elementwise.cuh: a thread has four packs of 16 bytes (of the widest type), loaded before
//          the first is stored. Operands that lie otherwise are walked element by element. A copy
//          whose source is contiguous in another dimension than its destination goes through a
//          32 x 33 tile of shared memory, so that both sides are read and written in whole sectors.
//          Random numbers: one Philox call (about 70 instructions) gives the words of four
//          elements.
// limits   none on sizes: offsets are 64 bits wide
// source   Salmon et al. 2011 (philox.h); Box and Muller 1958
// measured not yet on a GPU; compiled for sm_80 and sm_90a without spills (resources.txt), results
//          checked on the host (native/test/kernel/values_kernel_test.cpp).
#include <cuda_runtime.h>

#include <algorithm>
#include <climits>
#include <type_traits>

#include "elementwise.cuh"
#include "values.h"

namespace gatun::kernels {

// ---- fill, copy, cast ----

template <int kElements, typename Bits>
struct FillPack {
  using Arguments = Fill;
  static constexpr int kCount = kElements;

  __device__ __forceinline__ void load(const Fill&, const Place<1>&) {}
  __device__ __forceinline__ void store(const Fill& p, const Place<1>& place) {
    Pack<Bits, kCount> out;
    UNROLL for (int i = 0; i < kCount; ++i) out.at[i] = static_cast<Bits>(p.bits);
    out.store(static_cast<Bits*>(p.out) + place.offset[Fill::kOut], place.count);
  }
};

template <typename To, typename From>
__device__ __forceinline__ To convert(From x) {
  if constexpr (std::is_same_v<To, From>)
    return x;
  else if constexpr (std::is_integral_v<To>)
    return static_cast<To>(x);
  else
    return from_float<To>(to_float(x));
}

template <int kElements, typename To, typename From>
struct CopyPack {
  using Arguments = Copy;
  static constexpr int kCount = kElements;

  Pack<From, kCount> src;

  __device__ __forceinline__ void load(const Copy& p, const Place<2>& place) {
    src.load(static_cast<const From*>(p.src) + place.offset[Copy::kSrc], place.count);
  }
  __device__ __forceinline__ void store(const Copy& p, const Place<2>& place) {
    Pack<To, kCount> out;
    if constexpr (std::is_same_v<To, From> || std::is_integral_v<To>) {
      UNROLL for (int i = 0; i < kCount; ++i) out.at[i] = convert<To>(src.at[i]);
    } else {
      float v[kCount];
      UNROLL for (int i = 0; i < kCount; ++i) v[i] = src.get(i);
      out.set(v);
    }
    out.store(static_cast<To*>(p.out) + place.offset[Copy::kOut], place.count);
  }
};

// out[b, a] = src[a, b] in each of a batch of matrices: out has stride 1 along a, src along b.
struct Transposed {
  void* out;
  const void* src;
  int64_t a, b;                // sizes
  int64_t out_step, src_step;  // of out along b, of src along a
  RowLayout<Copy::kOperands> batch;
};

template <typename To>
struct TransposeShared {
  To tile[kTransposeTile][kTransposeTile + 1];  // one more: no two lanes of a column share a bank
};

template <typename To, typename From>
__global__ void __launch_bounds__(kTransposeTile* kTransposeRows)
    transposed_copy(const __grid_constant__ Transposed p) {
  SMEM(TransposeShared<To>, shared);
  const int lane = static_cast<int>(threadIdx.x) % kTransposeTile;
  const int first = static_cast<int>(threadIdx.x) / kTransposeTile;
  const int64_t a_tiles = (p.a + kTransposeTile - 1) / kTransposeTile;
  const int64_t b_tiles = (p.b + kTransposeTile - 1) / kTransposeTile;
  int64_t matrix, a_tile, b_tile, offset[Copy::kOperands];
  divide(int64_t{blockIdx.x}, a_tiles, matrix, a_tile);
  divide(matrix, b_tiles, matrix, b_tile);
  row_offsets(p.batch, matrix, offset);
  const From* src = static_cast<const From*>(p.src) + offset[Copy::kSrc];
  To* out = static_cast<To*>(p.out) + offset[Copy::kOut];
  constexpr int kEach = kTransposeTile / kTransposeRows;
  From mine[kEach] = {};
  UNROLL for (int i = 0; i < kEach; ++i) {
    const int64_t a = a_tile * kTransposeTile + first + i * kTransposeRows;
    const int64_t b = b_tile * kTransposeTile + lane;
    if (a < p.a && b < p.b) mine[i] = load_element(src + a * p.src_step + b);
  }
  UNROLL for (int i = 0; i < kEach; ++i) shared.tile[first + i * kTransposeRows][lane] =
      convert<To>(mine[i]);
  __syncthreads();
  UNROLL for (int i = 0; i < kEach; ++i) {
    const int64_t a = a_tile * kTransposeTile + lane;
    const int64_t b = b_tile * kTransposeTile + first + i * kTransposeRows;
    if (a < p.a && b < p.b)
      store_element(out + b * p.out_step + a, shared.tile[lane][first + i * kTransposeRows]);
  }
}

// ---- random numbers ----

template <int kElements, typename T>
struct UniformPack {
  using Arguments = Random;
  static constexpr int kCount = kElements;

  __device__ __forceinline__ void load(const Random&, const Place<1>&) {}
  __device__ __forceinline__ void store(const Random& p, const Place<1>& place) {
    uint32_t word[kCount];
    random_words(p.philox.stream(), place.index, word);
    float v[kCount];
    UNROLL for (int i = 0; i < kCount; ++i) {
      const float x = p.shift + philox_uniform(word[i]) * p.scale;
      v[i] = fminf(fmaxf(x, p.smallest), p.largest);
    }
    Pack<T, kCount> out;
    out.set(v);
    out.store(static_cast<T*>(p.out) + place.offset[Random::kOut], place.count);
  }
};

// A pair of normals from a pair of words.
__device__ __forceinline__ void box_muller(uint32_t first, uint32_t second, float& even,
                                           float& odd) {
  // uniforms lie in [0, 1), and log 0 must not be met
  const float radius = sqrtf(fmaxf(0.f, -2.f * logf(philox_uniform(first) + 0x1p-24f)));
  float sine, cosine;
  sin_cos_turns(philox_uniform(second), sine, cosine);
  even = radius * cosine;
  odd = radius * sine;
}

template <int kElements, typename T>
struct NormalPack {
  using Arguments = Random;
  static constexpr int kCount = kElements;

  __device__ __forceinline__ void load(const Random&, const Place<1>&) {}
  __device__ __forceinline__ void store(const Random& p, const Place<1>& place) {
    const PhiloxStream stream = p.philox.stream();
    float v[kCount];
    if constexpr (kCount == 1) {
      const PhiloxBlock block = stream.words(static_cast<uint64_t>(place.index) / 4);
      const bool upper = (place.index & 2) != 0;
      float even, odd;
      box_muller(upper ? block.word[2] : block.word[0], upper ? block.word[3] : block.word[1], even,
                 odd);
      v[0] = (place.index & 1) != 0 ? odd : even;
    } else {
      uint32_t word[kCount];
      random_words(stream, place.index, word);
      UNROLL for (int i = 0; i < kCount; i += 2) box_muller(word[i], word[i + 1], v[i], v[i + 1]);
    }
    UNROLL for (int i = 0; i < kCount; ++i) v[i] = v[i] * p.scale + p.shift;
    Pack<T, kCount> out;
    out.set(v);
    out.store(static_cast<T*>(p.out) + place.offset[Random::kOut], place.count);
  }
};

// ---- add, increment ----

template <int kElements, typename T>
struct AddPack {
  using Arguments = Add;
  static constexpr int kCount = kElements;

  Pack<T, kCount> a, b;

  __device__ __forceinline__ void load(const Add& p, const Place<3>& place) {
    a.load(static_cast<const T*>(p.a) + place.offset[Add::kA], place.count);
    b.load(static_cast<const T*>(p.b) + place.offset[Add::kB], place.count);
  }
  __device__ __forceinline__ void store(const Add& p, const Place<3>& place) {
    float v[kCount];
    UNROLL for (int i = 0; i < kCount; ++i) v[i] = a.get(i) + b.get(i);
    a.set(v);
    a.store(static_cast<T*>(p.out) + place.offset[Add::kOut], place.count);
  }
};

template <int kElements, typename Bits>
struct IncrementPack {
  using Arguments = Increment;
  static constexpr int kCount = kElements;

  Pack<Bits, kCount> value;

  __device__ __forceinline__ void load(const Increment& p, const Place<1>& place) {
    value.load(static_cast<const Bits*>(p.out) + place.offset[Increment::kOut], place.count);
  }
  __device__ __forceinline__ void store(const Increment& p, const Place<1>& place) {
    UNROLL for (int i = 0; i < kCount; ++i) value.at[i] += static_cast<Bits>(p.by);
    value.store(static_cast<Bits*>(p.out) + place.offset[Increment::kOut], place.count);
  }
};

// ---- launchers ----

namespace {

// The dimension of a copy, other than the one in which `out` has stride 1, in which src has; 0:
// none, or it does not pay.
int transposed_dimension(const Copy& p) {
  const auto& layout = p.runs.layout;
  if (p.runs.columns != 1 || layout.rank < 2 || layout.stride[Copy::kOut][0] != 1 ||
      layout.stride[Copy::kSrc][0] == 1)
    return 0;
  for (int d = 1; d < layout.rank; ++d)
    if (layout.stride[Copy::kSrc][d] == 1)
      return transpose_pays(layout.shape[0], layout.shape[d]) ? d : 0;
  return 0;
}

template <typename To, typename From>
cudaError_t copy_transposed(cudaStream_t stream, const Copy& p, int dimension) {
  const auto& layout = p.runs.layout;
  Transposed t = {p.out,
                  p.src,
                  layout.shape[0],
                  layout.shape[dimension],
                  layout.stride[Copy::kOut][dimension],
                  layout.stride[Copy::kSrc][0],
                  {}};
  t.batch.rows = 1;
  for (int d = 1; d < layout.rank; ++d) {
    if (d == dimension) continue;
    t.batch.rows *= layout.shape[d];
    t.batch.shape[t.batch.rank] = layout.shape[d];
    for (int i = 0; i < Copy::kOperands; ++i) t.batch.stride[i][t.batch.rank] = layout.stride[i][d];
    ++t.batch.rank;
  }
  const int64_t tiles = (t.a + kTransposeTile - 1) / kTransposeTile *
                        ((t.b + kTransposeTile - 1) / kTransposeTile) * t.batch.rows;
  if (tiles > INT_MAX) return cudaErrorInvalidValue;  // 2^41 elements
  return launch("transposed_copy", transposed_copy<To, From>, static_cast<unsigned>(tiles),
                kTransposeTile * kTransposeRows, sizeof(TransposeShared<To>), stream, t);
}

template <typename To, typename From>
cudaError_t copy_as(const char* name, cudaStream_t stream, const Copy& p) {
  if (const int dimension = transposed_dimension(p); dimension > 0)
    return copy_transposed<To, From>(stream, p, dimension);
  constexpr int kCount = static_cast<int>(16 / std::max(sizeof(To), sizeof(From)));
  return launch_elementwise<CopyPack<kCount, To, From>, CopyPack<1, To, From>>(
      name, stream, p, {{p.out, sizeof(To)}, {p.src, sizeof(From)}});
}

// Calls f(Bits()) with an unsigned type of that size.
template <typename F>
cudaError_t with_bits(int bytes, F f) {
  switch (bytes) {
    case 1:
      return f(uint8_t());
    case 2:
      return f(uint16_t());
    case 4:
      return f(uint32_t());
    case 8:
      return f(uint64_t());
  }
  return cudaErrorInvalidValue;
}

}  // namespace

cudaError_t fill(cudaStream_t stream, int element_bytes, const Fill& p) {
  return with_bits(element_bytes, [&]<typename Bits>(Bits) {
    return launch_elementwise<FillPack<16 / sizeof(Bits), Bits>, FillPack<1, Bits>>(
        "fill", stream, p, {{p.out, sizeof(Bits)}});
  });
}

cudaError_t copy(cudaStream_t stream, int element_bytes, const Copy& p) {
  return with_bits(element_bytes,
                   [&]<typename Bits>(Bits) { return copy_as<Bits, Bits>("copy", stream, p); });
}

cudaError_t cast(cudaStream_t stream, ElementType to, ElementType from, const Copy& p) {
  return with_type(to, [&]<typename To>(To) {
    return with_type(from, [&]<typename From>(From) {
      if constexpr (std::is_same_v<To, From>)
        return cudaErrorInvalidValue;  // a copy
      else
        return copy_as<To, From>("cast", stream, p);
    });
  });
}

cudaError_t cast_integers(cudaStream_t stream, bool widen, const Copy& p) {
  return widen ? copy_as<int64_t, int32_t>("cast_integers", stream, p)
               : copy_as<int32_t, int64_t>("cast_integers", stream, p);
}

cudaError_t random_uniform(cudaStream_t stream, ElementType type, const Random& p) {
  return with_type(type, [&]<typename T>(T) {
    return launch_elementwise<UniformPack<kVector<T>, T>, UniformPack<1, T>>(
        "random_uniform", stream, p, {{p.out, sizeof(T)}}, words_fit(p.runs));
  });
}

cudaError_t random_normal(cudaStream_t stream, ElementType type, const Random& p) {
  return with_type(type, [&]<typename T>(T) {
    return launch_elementwise<NormalPack<kVector<T>, T>, NormalPack<1, T>>(
        "random_normal", stream, p, {{p.out, sizeof(T)}}, words_fit(p.runs));
  });
}

cudaError_t add(cudaStream_t stream, ElementType type, const Add& p) {
  return with_type(type, [&]<typename T>(T) {
    return launch_elementwise<AddPack<kVector<T>, T>, AddPack<1, T>>(
        "add", stream, p, {{p.out, sizeof(T)}, {p.a, sizeof(T)}, {p.b, sizeof(T)}});
  });
}

cudaError_t increment(cudaStream_t stream, bool wide, const Increment& p) {
  const auto run = [&]<typename Bits>(Bits) {
    return launch_elementwise<IncrementPack<16 / sizeof(Bits), Bits>, IncrementPack<1, Bits>>(
        "increment", stream, p, {{p.out, sizeof(Bits)}});
  };
  return wide ? run(uint64_t()) : run(uint32_t());
}

}  // namespace gatun::kernels
