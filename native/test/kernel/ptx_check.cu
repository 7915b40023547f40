// Every wrapper of kernels/ptx.cuh on random data, against a closed formula written here in plain
// C++. Built twice from this one file: by nvcc, so that the device bodies run on the GPU, and
// against the simulator, so that the host bodies run. Where both builds find nothing wrong, the two
// bodies agree: the bridge between kernels that were proven on the host and the silicon.
//
// Prints a line a check: "ok WRAPPER" or "WRONG WRAPPER: what". Usage: ptx_check [SEED]
#include <cuda_runtime.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "launch.cuh"
#include "ptx.cuh"

#ifndef __CUDACC__
#define __host__
#endif

namespace gatun::kernels {

namespace {

constexpr int kThreads = 64;  // two warps, so that a lane is not a thread
constexpr int kWords = 2048;  // of input, and of output

struct Shared {
  uint32_t word[kWords];
};

// ---- device side: one body a check ----

template <typename Body>
__global__ void __launch_bounds__(kThreads) check_kernel(const uint32_t* in, uint32_t* out) {
  SMEM(Shared, shared);
  Body::run(in, out, shared, static_cast<int>(threadIdx.x));
}

__device__ __forceinline__ void put(uint32_t* out, uint2 v) {
  out[0] = v.x;
  out[1] = v.y;
}
__device__ __forceinline__ void put(uint32_t* out, uint4 v) {
  out[0] = v.x;
  out[1] = v.y;
  out[2] = v.z;
  out[3] = v.w;
}
__device__ __forceinline__ void fill_shared(Shared& shared, const uint32_t* in, int t) {
  for (int i = t; i < kWords; i += kThreads) shared.word[i] = in[i];
  __syncthreads();
}
__device__ __forceinline__ void dump_shared(const Shared& shared, uint32_t* out, int t) {
  __syncthreads();
  for (int i = t; i < kWords; i += kThreads) out[i] = shared.word[i];
}
// A permutation of 0 … 63.
__host__ __device__ constexpr int scattered(int t) { return (t * 29 + 11) % kThreads; }

struct Ld128 {
  static __device__ void run(const uint32_t* in, uint32_t* out, Shared&, int t) {
    put(out + 4 * t, ld128(in + 4 * scattered(t)));
  }
};
struct Ld128Once {
  static __device__ void run(const uint32_t* in, uint32_t* out, Shared&, int t) {
    put(out + 4 * t, ld128_once(in + 4 * scattered(t)));
  }
};
struct Ld64 {
  static __device__ void run(const uint32_t* in, uint32_t* out, Shared&, int t) {
    put(out + 2 * t, ld64(in + 2 * scattered(t)));
  }
};
struct Ld32 {
  static __device__ void run(const uint32_t* in, uint32_t* out, Shared&, int t) {
    out[t] = ld32(in + scattered(t));
  }
};
struct Ld16 {
  static __device__ void run(const uint32_t* in, uint32_t* out, Shared&, int t) {
    out[t] = ld16(reinterpret_cast<const uint16_t*>(in) + scattered(t));
  }
};
struct St128 {
  static __device__ void run(const uint32_t* in, uint32_t* out, Shared&, int t) {
    st128(out + 4 * scattered(t), uint4{in[4 * t], in[4 * t + 1], in[4 * t + 2], in[4 * t + 3]});
  }
};
struct St128Once {
  static __device__ void run(const uint32_t* in, uint32_t* out, Shared&, int t) {
    st128_once(out + 4 * scattered(t),
               uint4{in[4 * t], in[4 * t + 1], in[4 * t + 2], in[4 * t + 3]});
  }
};
struct St64 {
  static __device__ void run(const uint32_t* in, uint32_t* out, Shared&, int t) {
    st64(out + 2 * scattered(t), uint2{in[2 * t], in[2 * t + 1]});
  }
};
struct St32 {
  static __device__ void run(const uint32_t* in, uint32_t* out, Shared&, int t) {
    st32(out + scattered(t), in[t]);
  }
};
struct St16 {
  static __device__ void run(const uint32_t* in, uint32_t* out, Shared&, int t) {
    st16(reinterpret_cast<uint16_t*>(out) + scattered(t), static_cast<uint16_t>(in[t]));
  }
};
struct AtomicAddInt {
  static __device__ void run(const uint32_t* in, uint32_t* out, Shared&, int t) {
    atomic_add(reinterpret_cast<int*>(out) + t % 3, static_cast<int>(in[t]));
  }
};
struct AtomicAddFloat {
  static __device__ void run(const uint32_t* in, uint32_t* out, Shared&, int t) {
    // small whole numbers: their sum is exact in any order
    atomic_add(reinterpret_cast<float*>(out) + t % 3, static_cast<float>(in[t] % 1000));
  }
};

struct AtomicExchange {
  static __device__ void run(const uint32_t* in, uint32_t* out, Shared&, int t) {
    out[t] = in[t];
    out[64 + t] = atomic_exchange(out + t, in[64 + t]);
  }
};
// That it runs, and keeps what was written before it.
struct FenceSystem {
  static __device__ void run(const uint32_t* in, uint32_t* out, Shared&, int t) {
    out[t] = in[t] ^ 1u;
    fence_system();
    __syncthreads();
    out[64 + t] = ld32(out + scattered(t));
  }
};

struct Lds128 {
  static __device__ void run(const uint32_t* in, uint32_t* out, Shared& shared, int t) {
    fill_shared(shared, in, t);
    put(out + 4 * t, lds128(shared_address(&shared.word[4 * scattered(t)])));
  }
};
struct Lds64 {
  static __device__ void run(const uint32_t* in, uint32_t* out, Shared& shared, int t) {
    fill_shared(shared, in, t);
    put(out + 2 * t, lds64(shared_address(&shared.word[0]) + 8 * scattered(t)));
  }
};
struct Lds32 {
  static __device__ void run(const uint32_t* in, uint32_t* out, Shared& shared, int t) {
    fill_shared(shared, in, t);
    out[t] = lds32(shared_address(&shared.word[0]) + 4 * scattered(t));
  }
};
struct Sts128 {
  static __device__ void run(const uint32_t* in, uint32_t* out, Shared& shared, int t) {
    fill_shared(shared, in, t);
    sts128(shared_address(&shared.word[4 * scattered(t)]),
           uint4{in[t], in[t + 64], in[t + 128], in[t + 192]});
    dump_shared(shared, out, t);
  }
};
struct Sts64 {
  static __device__ void run(const uint32_t* in, uint32_t* out, Shared& shared, int t) {
    fill_shared(shared, in, t);
    sts64(shared_address(&shared.word[2 * scattered(t)]), uint2{in[t + 512], in[t + 576]});
    dump_shared(shared, out, t);
  }
};
struct Sts32 {
  static __device__ void run(const uint32_t* in, uint32_t* out, Shared& shared, int t) {
    fill_shared(shared, in, t);
    sts32(shared_address(&shared.word[scattered(t)]), in[t + 512]);
    dump_shared(shared, out, t);
  }
};

// Thread t copies the first t % (kBytes + 1) bytes of its piece over what was there.
template <int kBytes>
struct CpAsync {
  static __device__ void run(const uint32_t* in, uint32_t* out, Shared& shared, int t) {
    fill_shared(shared, in, t);
    const char* from = reinterpret_cast<const char*>(in + 1024) + kBytes * t;
    cp_async<kBytes>(shared_address(&shared.word[0]) + kBytes * scattered(t), from,
                     t % (kBytes + 1));
    cp_async_commit();
    cp_async_wait<0>();
    dump_shared(shared, out, t);
  }
};
// Four groups; the first two are read while the last two may still be on their way.
struct CpAsyncGroups {
  static __device__ void run(const uint32_t* in, uint32_t* out, Shared& shared, int t) {
    for (int group = 0; group < 4; ++group) {
      cp_async<16>(shared_address(&shared.word[256 * group + 4 * t]),
                   in + 256 * group + 4 * scattered(t), 16);
      cp_async_commit();
    }
    cp_async_wait<2>();
    __syncthreads();
    for (int i = t; i < 512; i += kThreads) out[i] = shared.word[i];
    cp_async_wait<0>();
    __syncthreads();
    for (int i = 512 + t; i < 1024; i += kThreads) out[i] = shared.word[i];
  }
};

// The row that a lane points at: rows of 16 bytes, 32 a warp.
__host__ __device__ constexpr int matrix_row(int thread) {
  return thread / 32 * 32 + (thread % 32 * 13 + 5) % 32;
}
template <bool kTransposed>
struct LdmatrixX4 {
  static __device__ void run(const uint32_t* in, uint32_t* out, Shared& shared, int t) {
    fill_shared(shared, in, t);
    uint32_t r[4];
    const uint32_t address = shared_address(&shared.word[4 * matrix_row(t)]);
    if constexpr (kTransposed) {
      ldmatrix_x4_transposed(r, address);
    } else {
      ldmatrix_x4(r, address);
    }
    for (int m = 0; m < 4; ++m) out[4 * t + m] = r[m];
  }
};
template <bool kTransposed>
struct LdmatrixX2 {
  static __device__ void run(const uint32_t* in, uint32_t* out, Shared& shared, int t) {
    fill_shared(shared, in, t);
    uint32_t r[2];
    const uint32_t address = shared_address(&shared.word[4 * matrix_row(t)]);
    if constexpr (kTransposed) {
      ldmatrix_x2_transposed(r, address);
    } else {
      ldmatrix_x2(r, address);
    }
    for (int m = 0; m < 2; ++m) out[2 * t + m] = r[m];
  }
};

// in, a warp (512 words): a 16 x 16 row-major, two elements a word (128 words); b 8 x 16, row n
// holds column n (64 words); d 16 x 8 f32 (128 words). out: d as the lanes hold it.
template <typename T>
struct Mma {
  static __device__ void run(const uint32_t* in, uint32_t* out, Shared&, int t) {
    const uint32_t* a = in + t / 32 * 512;
    const uint32_t* b = a + 128;
    const uint32_t* d = a + 192;
    const int lane = t % 32, g = lane / 4, pair = lane % 4;
    const uint32_t fa[4] = {a[g * 8 + pair], a[(g + 8) * 8 + pair], a[g * 8 + pair + 4],
                            a[(g + 8) * 8 + pair + 4]};
    const uint32_t fb[2] = {b[g * 8 + pair], b[g * 8 + pair + 4]};
    float fd[4] = {as_float(d[g * 8 + 2 * pair]), as_float(d[g * 8 + 2 * pair + 1]),
                   as_float(d[(g + 8) * 8 + 2 * pair]), as_float(d[(g + 8) * 8 + 2 * pair + 1])};
    mma_m16n8k16(fd, fa, fb, T());
    for (int i = 0; i < 4; ++i) out[4 * t + i] = as_bits(fd[i]);
  }
};

struct ShuffleXorFloat {
  static __device__ void run(const uint32_t* in, uint32_t* out, Shared&, int t) {
    for (int i = 0; i < 32; ++i)
      out[32 * t + i] = as_bits(shuffle_xor(static_cast<float>(in[t] % 100000), i));
  }
};
struct ShuffleXorWord {
  static __device__ void run(const uint32_t* in, uint32_t* out, Shared&, int t) {
    for (int i = 0; i < 32; ++i) out[32 * t + i] = shuffle_xor(in[t], i);
  }
};
struct Shuffle {
  static __device__ void run(const uint32_t* in, uint32_t* out, Shared&, int t) {
    for (int i = 0; i < 32; ++i) out[32 * t + i] = shuffle(in[t], (t * 7 + i) % 32);
  }
};
struct ShuffleUp {
  static __device__ void run(const uint32_t* in, uint32_t* out, Shared&, int t) {
    for (int i = 0; i < 32; ++i) out[32 * t + i] = shuffle_up(in[t], i);
  }
};
struct ShuffleDown {
  static __device__ void run(const uint32_t* in, uint32_t* out, Shared&, int t) {
    for (int i = 0; i < 32; ++i) out[32 * t + i] = shuffle_down(in[t], i);
  }
};
struct Ballot {
  static __device__ void run(const uint32_t* in, uint32_t* out, Shared&, int t) {
    for (int i = 0; i < 32; ++i) out[32 * t + i] = ballot((in[t] >> i & 1) != 0);
  }
};
struct SyncWarp {
  static __device__ void run(const uint32_t* in, uint32_t* out, Shared& shared, int t) {
    for (int i = 0; i < 32; ++i) {
      shared.word[t] = in[t] + static_cast<uint32_t>(i);
      sync_warp();
      out[32 * t + i] = shared.word[t / 32 * 32 + (t + i) % 32];
      sync_warp();
    }
  }
};
struct Bits {
  static __device__ void run(const uint32_t* in, uint32_t* out, Shared&, int t) {
    for (int i = t; i < kWords; i += kThreads) {
      // twice through a register of the other kind; times 1 would quieten a signalling NaN
      out[i] = as_bits(as_float(in[i]));
    }
  }
};
struct Ex2 {
  static __device__ void run(const uint32_t* in, uint32_t* out, Shared&, int t) {
    for (int i = t; i < kWords; i += kThreads) out[i] = as_bits(ex2(as_float(in[i])));
  }
};
struct Lg2 {
  static __device__ void run(const uint32_t* in, uint32_t* out, Shared&, int t) {
    for (int i = t; i < kWords; i += kThreads) out[i] = as_bits(lg2(as_float(in[i])));
  }
};
struct Rcp {
  static __device__ void run(const uint32_t* in, uint32_t* out, Shared&, int t) {
    for (int i = t; i < kWords; i += kThreads) out[i] = as_bits(rcp(as_float(in[i])));
  }
};

struct Sine {
  static __device__ void run(const uint32_t* in, uint32_t* out, Shared&, int t) {
    for (int i = t; i < kWords; i += kThreads) {
      float sine, cosine;
      sin_cos_turns(as_float(in[i]), sine, cosine);
      out[i] = as_bits(sine);
    }
  }
};
struct Cosine {
  static __device__ void run(const uint32_t* in, uint32_t* out, Shared&, int t) {
    for (int i = t; i < kWords; i += kThreads) {
      float sine, cosine;
      sin_cos_turns(as_float(in[i]), sine, cosine);
      out[i] = as_bits(cosine);
    }
  }
};
struct BitCount {
  static __device__ void run(const uint32_t* in, uint32_t* out, Shared&, int t) {
    for (int i = t; i < kWords; i += kThreads) out[i] = static_cast<uint32_t>(bit_count(in[i]));
  }
};
struct LowestBit {
  static __device__ void run(const uint32_t* in, uint32_t* out, Shared&, int t) {
    for (int i = t; i < kWords; i += kThreads)
      out[i] = static_cast<uint32_t>(lowest_bit(in[i] | 0x80000000u));
  }
};

// ---- host side ----

using Words = std::vector<uint32_t>;

std::mt19937 generator;
int failures = 0;
cudaStream_t stream;
uint32_t* device_in;
uint32_t* device_out;

float to_float(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}
uint32_t to_bits(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}

void must(const char* what, cudaError_t error) {
  if (error == cudaSuccess) return;
  std::printf("WRONG %s: %s (%s)\n", what, cudaGetErrorString(error), cudaGetErrorName(error));
  std::exit(1);  // after a fault the GPU serves this process no longer
}

Words random_words() {
  Words words(kWords);
  for (uint32_t& w : words) w = static_cast<uint32_t>(generator());
  return words;
}

void wrong(const char* wrapper, const std::string& what) {
  ++failures;
  std::printf("WRONG %s: %s\n", wrapper, what.c_str());
}

template <typename Body>
Words run(const char* wrapper, const Words& in) {
  Words out(kWords, 0);
  constexpr size_t kBytes = kWords * 4;
  must(wrapper, cudaMemcpyAsync(device_in, in.data(), kBytes, cudaMemcpyHostToDevice, stream));
  must(wrapper, cudaMemcpyAsync(device_out, out.data(), kBytes, cudaMemcpyHostToDevice, stream));
  must(wrapper, launch(wrapper, check_kernel<Body>, dim3(1), dim3(kThreads), sizeof(Shared), stream,
                       static_cast<const uint32_t*>(device_in), device_out));
  must(wrapper, cudaMemcpyAsync(out.data(), device_out, kBytes, cudaMemcpyDeviceToHost, stream));
  must(wrapper, cudaStreamSynchronize(stream));
  return out;
}

// The same bits in every word; words that the formula does not set stay 0.
template <typename Body>
void exact(const char* wrapper, const std::function<void(const Words&, Words&)>& formula) {
  const Words in = random_words();
  Words want(kWords, 0);
  formula(in, want);
  const Words had = run<Body>(wrapper, in);
  for (size_t i = 0; i < had.size(); ++i)
    if (had[i] != want[i]) {
      char text[96];
      std::snprintf(text, sizeof text, "word %zu is %08x, wanted %08x", i, had[i], want[i]);
      return wrong(wrapper, text);
    }
  std::printf("ok %s\n", wrapper);
}

// A function of one float within max(relative |truth|, absolute); infinities exactly.
template <typename Body>
void near(const char* wrapper, const std::vector<float>& x, double (*truth)(double),
          double relative, double absolute) {
  Words in(kWords);
  for (size_t i = 0; i < in.size(); ++i) in[i] = to_bits(x[i % x.size()]);
  const Words out = run<Body>(wrapper, in);
  double worst = 0;
  for (size_t i = 0; i < in.size(); ++i) {
    const double wanted = truth(static_cast<double>(to_float(in[i])));
    const double had = static_cast<double>(to_float(out[i]));
    const double limit = std::fmax(relative * std::fabs(wanted), absolute);
    const bool same = std::isfinite(wanted)
                          ? std::fabs(had - wanted) <= limit
                          : had == wanted || (std::isnan(had) && std::isnan(wanted));
    if (!same) {
      char text[128];
      std::snprintf(text, sizeof text, "of %.9g is %.9g, wanted %.9g within %.3g",
                    static_cast<double>(to_float(in[i])), had, wanted, limit);
      return wrong(wrapper, text);
    }
    if (std::isfinite(wanted) && wanted != 0) worst = std::fmax(worst, std::fabs(had / wanted - 1));
  }
  std::printf("ok %s: largest relative error %.2g\n", wrapper, worst);
}

// 16-bit element `i` of words.
uint16_t half_of(const Words& words, size_t first, int i) {
  const uint32_t w = words[first + static_cast<size_t>(i / 2)];
  return static_cast<uint16_t>(i % 2 == 0 ? w & 0xffffu : w >> 16);
}

void matrices(bool transposed, int count, const Words& in, Words& want) {
  for (int t = 0; t < kThreads; ++t)
    for (int m = 0; m < count; ++m) {
      const int lane = t % 32, warp = t / 32;
      uint32_t word = 0;
      for (int e = 0; e < 2; ++e) {
        const int row = transposed ? lane % 4 * 2 + e : lane / 4;
        const int column = transposed ? lane / 4 : lane % 4 * 2 + e;
        const int at = matrix_row(warp * 32 + 8 * m + row);  // the address that this lane gave
        word |= static_cast<uint32_t>(half_of(in, static_cast<size_t>(4 * at), column)) << 16 * e;
      }
      want[static_cast<size_t>(count * t + m)] = word;
    }
}

double value_of(uint16_t bits, __nv_bfloat16) {
  return static_cast<double>(to_float(static_cast<uint32_t>(bits) << 16));
}
double value_of(uint16_t bits, __half) {
  const int exponent = bits >> 10 & 31, fraction = bits & 1023;
  const double size =
      exponent == 0 ? std::ldexp(fraction, -24) : std::ldexp(1024 + fraction, exponent - 25);
  return bits & 0x8000 ? -size : size;
}
// Of a value that the type can hold.
uint16_t bits_of(float x, __nv_bfloat16) { return static_cast<uint16_t>(to_bits(x) >> 16); }
uint16_t bits_of(float x, __half) {
  const uint32_t f = to_bits(x);
  if ((f & 0x7fffffffu) == 0) return static_cast<uint16_t>(f >> 16);
  return static_cast<uint16_t>((f >> 16 & 0x8000u) | ((f >> 13 & 0x3ffffu) - (112u << 10)));
}

// Whole numbers, whose sums are exact, then random ones: those within what f32 sums of 17 terms in
// any order, each rounded towards zero, can differ by.
template <typename T>
void product(const char* wrapper) {
  double worst = 0;
  for (bool whole : {true, false}) {
    Words in = random_words();
    const auto element = [&] {
      const float x = whole ? static_cast<float>(static_cast<int>(generator() % 17) - 8)
                            : static_cast<float>(static_cast<int>(generator() % 255) - 127) / 64.f;
      return static_cast<uint32_t>(bits_of(x, T()));
    };
    for (int warp = 0; warp < 2; ++warp) {
      uint32_t* at = in.data() + warp * 512;
      for (int i = 0; i < 192; ++i) {
        const uint32_t low = element();
        at[i] = low | element() << 16;
      }
      for (int i = 192; i < 320; ++i)
        at[i] = to_bits(static_cast<float>(static_cast<int>(generator() % 2001) - 1000) /
                        (whole ? 1.f : 77.f));
    }
    const Words out = run<Mma<T>>(wrapper, in);
    for (int t = 0; t < kThreads; ++t)
      for (int i = 0; i < 4; ++i) {
        const int lane = t % 32, row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
        const size_t base = static_cast<size_t>(t / 32 * 512);
        double wanted =
            static_cast<double>(to_float(in[base + 192 + static_cast<size_t>(row * 8 + column)]));
        double size = std::fabs(wanted);
        for (int k = 0; k < 16; ++k) {
          const double p = value_of(half_of(in, base, row * 16 + k), T()) *
                           value_of(half_of(in, base + 128, column * 16 + k), T());
          wanted += p;
          size += std::fabs(p);
        }
        const double had = static_cast<double>(to_float(out[static_cast<size_t>(4 * t + i)]));
        const double limit = whole ? 0 : 17 * size * std::ldexp(1, -23);
        if (!(std::fabs(had - wanted) <= limit)) {
          char text[128];
          std::snprintf(text, sizeof text, "d[%d][%d] of warp %d is %.9g, wanted %.9g within %.3g",
                        row, column, t / 32, had, wanted, limit);
          return wrong(wrapper, text);
        }
        worst = std::fmax(worst, std::fabs(had - wanted) / size);
      }
  }
  std::printf("ok %s: largest error %.2g of the sum of sizes\n", wrapper, worst);
}

void global_memory() {
  const auto pieces = [](int words, bool store) {
    return [=](const Words& in, Words& want) {
      for (int t = 0; t < kThreads; ++t)
        for (int i = 0; i < words; ++i) {
          const size_t far = static_cast<size_t>(words * scattered(t) + i);
          const size_t near = static_cast<size_t>(words * t + i);
          want[store ? far : near] = in[store ? near : far];
        }
    };
  };
  exact<Ld128>("ld128", pieces(4, false));
  exact<Ld128Once>("ld128_once", pieces(4, false));
  exact<Ld64>("ld64", pieces(2, false));
  exact<Ld32>("ld32", pieces(1, false));
  exact<Ld16>("ld16", [](const Words& in, Words& want) {
    for (int t = 0; t < kThreads; ++t) want[static_cast<size_t>(t)] = half_of(in, 0, scattered(t));
  });
  exact<St128>("st128", pieces(4, true));
  exact<St128Once>("st128_once", pieces(4, true));
  exact<St64>("st64", pieces(2, true));
  exact<St32>("st32", pieces(1, true));
  exact<St16>("st16", [](const Words& in, Words& want) {
    for (int t = 0; t < kThreads; ++t)
      want[static_cast<size_t>(scattered(t) / 2)] |= (in[static_cast<size_t>(t)] & 0xffffu)
                                                     << 16 * (scattered(t) % 2);
  });
  exact<AtomicAddInt>("atomic_add (int)", [](const Words& in, Words& want) {
    for (int t = 0; t < kThreads; ++t)
      want[static_cast<size_t>(t % 3)] += in[static_cast<size_t>(t)];
  });
  exact<AtomicAddFloat>("atomic_add (float)", [](const Words& in, Words& want) {
    for (int t = 0; t < kThreads; ++t) {
      uint32_t& w = want[static_cast<size_t>(t % 3)];
      w = to_bits(to_float(w) + static_cast<float>(in[static_cast<size_t>(t)] % 1000));
    }
  });
}

void fences() {
  exact<AtomicExchange>("atomic_exchange", [](const Words& in, Words& want) {
    for (size_t t = 0; t < kThreads; ++t) {
      want[t] = in[64 + t];
      want[64 + t] = in[t];
    }
  });
  exact<FenceSystem>("fence_system", [](const Words& in, Words& want) {
    for (int t = 0; t < kThreads; ++t) {
      want[static_cast<size_t>(t)] = in[static_cast<size_t>(t)] ^ 1u;
      want[static_cast<size_t>(64 + t)] = in[static_cast<size_t>(scattered(t))] ^ 1u;
    }
  });
}

void shared_memory() {
  const auto read = [](int words) {
    return [=](const Words& in, Words& want) {
      for (int i = 0; i < words * kThreads; ++i)
        want[static_cast<size_t>(i)] =
            in[static_cast<size_t>(words * scattered(i / words) + i % words)];
    };
  };
  exact<Lds128>("shared_address, lds128", read(4));
  exact<Lds64>("lds64", read(2));
  exact<Lds32>("lds32", read(1));
  const auto written = [](int words, int first) {
    return [=](const Words& in, Words& want) {
      want = in;
      for (int t = 0; t < kThreads; ++t)
        for (int i = 0; i < words; ++i)
          want[static_cast<size_t>(words * scattered(t) + i)] =
              in[static_cast<size_t>(first + t + 64 * i)];
    };
  };
  exact<Sts128>("sts128", written(4, 0));
  exact<Sts64>("sts64", written(2, 512));
  exact<Sts32>("sts32", written(1, 512));
}

void asynchronous_copies() {
  const auto copied = [](int bytes) {
    return [=](const Words& in, Words& want) {
      want = in;
      auto* to = reinterpret_cast<char*>(want.data());
      const auto* from = reinterpret_cast<const char*>(in.data() + 1024);
      for (int t = 0; t < kThreads; ++t)
        for (int i = 0; i < bytes; ++i)
          to[bytes * scattered(t) + i] = i < t % (bytes + 1) ? from[bytes * t + i] : 0;
    };
  };
  exact<CpAsync<4>>("cp_async<4>", copied(4));
  exact<CpAsync<8>>("cp_async<8>", copied(8));
  exact<CpAsync<16>>("cp_async<16>", copied(16));
  exact<CpAsyncGroups>("cp_async_commit, cp_async_wait", [](const Words& in, Words& want) {
    for (int i = 0; i < 1024; ++i)
      want[static_cast<size_t>(i)] =
          in[static_cast<size_t>(i / 256 * 256 + 4 * scattered(i % 256 / 4) + i % 4)];
  });
}

void tensor_cores() {
  const auto loaded = [](bool transposed, int count) {
    return [=](const Words& in, Words& want) { matrices(transposed, count, in, want); };
  };
  exact<LdmatrixX4<false>>("ldmatrix_x4", loaded(false, 4));
  exact<LdmatrixX4<true>>("ldmatrix_x4_transposed", loaded(true, 4));
  exact<LdmatrixX2<false>>("ldmatrix_x2", loaded(false, 2));
  exact<LdmatrixX2<true>>("ldmatrix_x2_transposed", loaded(true, 2));
  product<__nv_bfloat16>("mma_m16n8k16 (bf16)");
  product<__half>("mma_m16n8k16 (f16)");
}

void lanes() {
  // out[32 t + i] of thread t from the input of thread `from(t, i)`
  const auto exchanged = [](int (*from)(int lane, int i), bool as_number) {
    return [=](const Words& in, Words& want) {
      for (int t = 0; t < kThreads; ++t)
        for (int i = 0; i < 32; ++i) {
          const uint32_t w = in[static_cast<size_t>(t / 32 * 32 + from(t % 32, i))];
          want[static_cast<size_t>(32 * t + i)] =
              as_number ? to_bits(static_cast<float>(w % 100000)) : w;
        }
    };
  };
  const auto across = [](int lane, int i) { return lane ^ i; };
  exact<ShuffleXorFloat>("shuffle_xor (float)", exchanged(across, true));
  exact<ShuffleXorWord>("shuffle_xor (word)", exchanged(across, false));
  exact<Shuffle>("shuffle", [](const Words& in, Words& want) {
    for (int t = 0; t < kThreads; ++t)
      for (int i = 0; i < 32; ++i)
        want[static_cast<size_t>(32 * t + i)] =
            in[static_cast<size_t>(t / 32 * 32 + (t * 7 + i) % 32)];
  });
  exact<ShuffleUp>("shuffle_up", exchanged([](int l, int i) { return l < i ? l : l - i; }, false));
  exact<ShuffleDown>("shuffle_down",
                     exchanged([](int l, int i) { return l + i > 31 ? l : l + i; }, false));
  exact<Ballot>("ballot", [](const Words& in, Words& want) {
    for (int t = 0; t < kThreads; ++t)
      for (int i = 0; i < 32; ++i)
        for (int lane = 0; lane < 32; ++lane)
          want[static_cast<size_t>(32 * t + i)] |=
              (in[static_cast<size_t>(t / 32 * 32 + lane)] >> i & 1) << lane;
  });
  exact<SyncWarp>("sync_warp", [](const Words& in, Words& want) {
    for (int t = 0; t < kThreads; ++t)
      for (int i = 0; i < 32; ++i)
        want[static_cast<size_t>(32 * t + i)] =
            in[static_cast<size_t>(t / 32 * 32 + (t + i) % 32)] + static_cast<uint32_t>(i);
  });
}

void arithmetic() {
  exact<Bits>("as_float, as_bits", [](const Words& in, Words& want) { want = in; });
  const auto uniform = [](float low, float high) {
    std::vector<float> x;
    std::uniform_real_distribution<float> draw(low, high);
    for (int i = 0; i < kWords - 8; ++i) x.push_back(draw(generator));
    return x;
  };
  exact<BitCount>("bit_count", [](const Words& in, Words& want) {
    for (size_t i = 0; i < in.size(); ++i)
      for (int bit = 0; bit < 32; ++bit) want[i] += in[i] >> bit & 1;
  });
  exact<LowestBit>("lowest_bit", [](const Words& in, Words& want) {
    for (size_t i = 0; i < in.size(); ++i)
      while (want[i] < 31 && (in[i] >> want[i] & 1) == 0) ++want[i];
  });
  // beyond the PTX manual's bounds by the rounding of the result
  std::vector<float> x = uniform(-125.f, 127.f);
  for (float special : {0.f, 1.f, -1.f, 200.f, -200.f, INFINITY, -INFINITY, NAN})
    x.push_back(special);
  near<Ex2>(
      "ex2", x, [](double v) { return v >= 128   ? INFINITY
                                      : v < -149 ? 0.
                                                 : std::exp2(v); },
      2.5 * std::ldexp(1, -22), 0);
  x = uniform(0.5f, 2.f);
  for (size_t i = 0; i < 1000; ++i) x[i] *= std::ldexp(1.f, static_cast<int>(i % 200) - 100);
  for (float special : {1.f, 2.f, 0.5f, 0.f, INFINITY, -1.f, 1024.f, NAN}) x.push_back(special);
  near<Lg2>(
      "lg2", x, [](double v) { return std::log2(v); }, std::ldexp(1, -22),
      1.5 * std::ldexp(1, -22));
  x = uniform(-1000.f, 1000.f);
  for (size_t i = 0; i < 1000; ++i) x[i] *= std::ldexp(1.f, static_cast<int>(i % 200) - 100);
  for (float special : {1.f, -1.f, 3.f, 0.f, INFINITY, -INFINITY, 1e30f, NAN}) x.push_back(special);
  near<Rcp>(
      "rcp", x, [](double v) { return 1 / v; }, 1.5 * std::ldexp(1, -23), 0);
  x = uniform(0.f, 1.f);
  for (float special : {0.f, 0.25f, 0.5f, 0.75f, 0.125f, 1e-6f, 0.999f, 0.001f})
    x.push_back(special);
  constexpr double kTurn = 6.283185307179586;
  near<Sine>(
      "sin_cos_turns (sine)", x, [](double v) { return std::sin(kTurn * v); }, std::ldexp(1, -21),
      std::ldexp(1, -23));
  near<Cosine>(
      "sin_cos_turns (cosine)", x, [](double v) { return std::cos(kTurn * v); }, std::ldexp(1, -21),
      std::ldexp(1, -23));
}

int check(unsigned seed) {
  generator.seed(seed);
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error != cudaSuccess || count == 0) {
    std::printf("SKIPPED ptx_check: %s: no GPU\n", cudaGetErrorString(error));
    return 0;
  }
  cudaDeviceProp properties;
  must("cudaGetDeviceProperties", cudaGetDeviceProperties(&properties, 0));
  std::printf("on %s, seed %u\n", properties.name, seed);
  must("cudaStreamCreate", cudaStreamCreateWithFlags(&stream, 0));
  cudaMemPoolProps asked = {};
  asked.allocType = cudaMemAllocationTypePinned;
  asked.location.type = cudaMemLocationTypeDevice;
  cudaMemPool_t pool;
  must("cudaMemPoolCreate", cudaMemPoolCreate(&pool, &asked));
  for (uint32_t** p : {&device_in, &device_out}) {
    void* address = nullptr;
    must("cudaMallocFromPoolAsync", cudaMallocFromPoolAsync(&address, kWords * 4, pool, stream));
    *p = static_cast<uint32_t*>(address);
  }
  global_memory();
  fences();
  shared_memory();
  asynchronous_copies();
  tensor_cores();
  lanes();
  arithmetic();
  for (uint32_t* p : {device_in, device_out}) must("cudaFreeAsync", cudaFreeAsync(p, stream));
  must("cudaStreamSynchronize", cudaStreamSynchronize(stream));
  must("cudaMemPoolDestroy", cudaMemPoolDestroy(pool));
  must("cudaStreamDestroy", cudaStreamDestroy(stream));
  std::printf("%d wrong\n", failures);
  return failures == 0 ? 0 : 1;
}

}  // namespace

}  // namespace gatun::kernels

int main(int argc, char** argv) {
  return gatun::kernels::check(argc > 1 ? static_cast<unsigned>(std::strtoul(argv[1], nullptr, 10))
                                        : 20261125u);
}
