// What the machine offers beyond C++: every inline-PTX wrapper and every warp collective that the
// kernels use, each with a device body and a host body, and nowhere else. Under g++ the host's SIMT
// runtime (simt.h, on the include path of whoever runs kernels without a GPU) gives the CUDA names
// (threadIdx, __syncthreads, …) their meaning; it checks and counts what goes through here.
//
// All lanes of a warp take part in whatever exchanges values between lanes.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime_api.h>
#include <vector_types.h>

#include <cstddef>
#include <cstdint>

namespace gatun::kernels {

// What a kernel with this SMEM struct is launched with, at most: its size, where nothing follows
// it.
template <typename Shared>
constexpr size_t kMostShared = sizeof(Shared);

// Every GPU since sm_80 gives a block that much.
template <typename Shared>
constexpr bool kSharedFits = kMostShared<Shared> <= 163 << 10;

}  // namespace gatun::kernels

#ifdef __CUDACC__

#define UNROLL _Pragma("unroll")
#define ROLLED _Pragma("unroll 1")

// The block's dynamic shared memory as one struct; launch() asks for sizeof(Type). Its first byte
// is aligned to the 1024 after which swizzles repeat. ptxas does not see how much it is: the build
// reads it from the comment in the kernel's PTX.
#define SMEM(Type, name)                                                               \
  static_assert(gatun::kernels::kSharedFits<Type>);                                    \
  extern __shared__ __align__(1024) unsigned char shared_bytes[];                      \
  asm volatile("// shared memory: %0 bytes" ::"n"(gatun::kernels::kMostShared<Type>)); \
  Type& name = *reinterpret_cast<Type*>(shared_bytes)

namespace gatun::kernels {

// ---- global memory ----
//
// Volatile: a row may be stored to the address that it was loaded from, and the two must keep their
// order. _once: data that nobody reads again soon, kept out of the caches' way.

__device__ __forceinline__ uint4 ld128(const void* address) {
  uint4 v;
  asm volatile("ld.global.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(__cvta_generic_to_global(address)));
  return v;
}
__device__ __forceinline__ uint4 ld128_once(const void* address) {
  uint4 v;
  asm volatile("ld.global.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(__cvta_generic_to_global(address)));
  return v;
}
__device__ __forceinline__ uint2 ld64(const void* address) {
  uint2 v;
  asm volatile("ld.global.v2.u32 {%0, %1}, [%2];"
               : "=r"(v.x), "=r"(v.y)
               : "l"(__cvta_generic_to_global(address)));
  return v;
}
__device__ __forceinline__ uint32_t ld32(const void* address) {
  uint32_t v;
  asm volatile("ld.global.u32 %0, [%1];" : "=r"(v) : "l"(__cvta_generic_to_global(address)));
  return v;
}
__device__ __forceinline__ uint16_t ld16(const void* address) {
  uint16_t v;
  asm volatile("ld.global.u16 %0, [%1];" : "=h"(v) : "l"(__cvta_generic_to_global(address)));
  return v;
}

__device__ __forceinline__ void st128(void* address, uint4 v) {
  asm volatile("st.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(__cvta_generic_to_global(address)),
               "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w)
               : "memory");
}
__device__ __forceinline__ void st128_once(void* address, uint4 v) {
  asm volatile(
      "st.global.cs.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(__cvta_generic_to_global(address)),
      "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w)
      : "memory");
}
__device__ __forceinline__ void st64(void* address, uint2 v) {
  asm volatile("st.global.v2.u32 [%0], {%1, %2};" ::"l"(__cvta_generic_to_global(address)),
               "r"(v.x), "r"(v.y)
               : "memory");
}
__device__ __forceinline__ void st32(void* address, uint32_t v) {
  asm volatile("st.global.u32 [%0], %1;" ::"l"(__cvta_generic_to_global(address)), "r"(v)
               : "memory");
}
__device__ __forceinline__ void st16(void* address, uint16_t v) {
  asm volatile("st.global.u16 [%0], %1;" ::"l"(__cvta_generic_to_global(address)), "h"(v)
               : "memory");
}

// float or int; the order of several is not defined.
template <typename T>
__device__ __forceinline__ T atomic_add(T* address, T value) {
  return atomicAdd(address, value);
}
// Stores `value` and returns what was there.
__device__ __forceinline__ uint32_t atomic_exchange(uint32_t* address, uint32_t value) {
  return atomicExch(address, value);
}

// What this thread wrote before is seen, by the host too, before what it writes after.
__device__ __forceinline__ void fence_system() { __threadfence_system(); }

// ---- shared memory ----
//
// By byte address, for accesses wider than an element and for what follows.

__device__ __forceinline__ uint32_t shared_address(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

__device__ __forceinline__ uint4 lds128(uint32_t address) {
  uint4 v;
  asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "r"(address));
  return v;
}
__device__ __forceinline__ uint2 lds64(uint32_t address) {
  uint2 v;
  asm volatile("ld.shared.v2.u32 {%0, %1}, [%2];" : "=r"(v.x), "=r"(v.y) : "r"(address));
  return v;
}
__device__ __forceinline__ uint32_t lds32(uint32_t address) {
  uint32_t v;
  asm volatile("ld.shared.u32 %0, [%1];" : "=r"(v) : "r"(address));
  return v;
}
__device__ __forceinline__ void sts128(uint32_t address, uint4 v) {
  asm volatile("st.shared.v4.u32 [%0], {%1, %2, %3, %4};" ::"r"(address), "r"(v.x), "r"(v.y),
               "r"(v.z), "r"(v.w)
               : "memory");
}
__device__ __forceinline__ void sts64(uint32_t address, uint2 v) {
  asm volatile("st.shared.v2.u32 [%0], {%1, %2};" ::"r"(address), "r"(v.x), "r"(v.y) : "memory");
}
__device__ __forceinline__ void sts32(uint32_t address, uint32_t v) {
  asm volatile("st.shared.u32 [%0], %1;" ::"r"(address), "r"(v) : "memory");
}

// ---- asynchronous copies ----
//
// cp_async copies the first `bytes` of kBytes (4, 8 or 16, to which both addresses are aligned) and
// fills the rest with zeros; nothing is read at `global` when `bytes` is 0. The data is there for
// the thread itself after cp_async_wait, for others after a barrier that follows it.

template <int kBytes>
__device__ __forceinline__ void cp_async(uint32_t shared, const void* global, int bytes) {
  static_assert(kBytes == 4 || kBytes == 8 || kBytes == 16);
  if constexpr (kBytes == 16)  // .cg: past L1
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared),
                 "l"(__cvta_generic_to_global(global)), "r"(bytes)
                 : "memory");
  else
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(shared),
                 "l"(__cvta_generic_to_global(global)), "n"(kBytes), "r"(bytes)
                 : "memory");
}
__device__ __forceinline__ void cp_async_commit() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}
// Leaves at most the kPending newest groups that this thread has committed.
template <int kPending>
__device__ __forceinline__ void cp_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

// ---- tensor cores ----
//
// ldmatrix loads 8 x 8 matrices of 16-bit elements: lanes 8 m to 8 m + 7 give the addresses of the
// rows of matrix m, and lane l receives in r[m] elements 2 (l % 4) and the next of row l / 4;
// transposed, of column l / 4. An x2 ignores the addresses of lanes 16 to 31.

__device__ __forceinline__ void ldmatrix_x4(uint32_t (&r)[4], uint32_t row_address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(row_address));
}
__device__ __forceinline__ void ldmatrix_x4_transposed(uint32_t (&r)[4], uint32_t row_address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(row_address));
}
__device__ __forceinline__ void ldmatrix_x2(uint32_t (&r)[2], uint32_t row_address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
               : "=r"(r[0]), "=r"(r[1])
               : "r"(row_address));
}
__device__ __forceinline__ void ldmatrix_x2_transposed(uint32_t (&r)[2], uint32_t row_address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
               : "=r"(r[0]), "=r"(r[1])
               : "r"(row_address));
}

// d += a b, 16 x 8 += 16 x 16 times 16 x 8. With g = lane / 4 and t = lane % 4, each word two
// elements, the lower index in the low half:
//   a[0] (g, 2t), a[1] (g + 8, 2t), a[2] (g, 2t + 8), a[3] (g + 8, 2t + 8), along k
//   b[0] (2t, g), b[1] (2t + 8, g), along k
//   d[0], d[1] (g, 2t), (g, 2t + 1); d[2], d[3] the same of row g + 8
__device__ __forceinline__ void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4],
                                             const uint32_t (&b)[2], __nv_bfloat16) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
__device__ __forceinline__ void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4],
                                             const uint32_t (&b)[2], __half) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// ---- lanes ----

// The value of the lane whose number differs by `mask`.
template <typename T>
__device__ __forceinline__ T shuffle_xor(T value, int mask) {
  return __shfl_xor_sync(0xffffffffu, value, mask);
}
// The value of lane `lane`.
template <typename T>
__device__ __forceinline__ T shuffle(T value, int lane) {
  return __shfl_sync(0xffffffffu, value, lane);
}
// The value of the lane `by` before or behind; where there is none, the lane's own.
template <typename T>
__device__ __forceinline__ T shuffle_up(T value, int by) {
  return __shfl_up_sync(0xffffffffu, value, static_cast<unsigned>(by));
}
template <typename T>
__device__ __forceinline__ T shuffle_down(T value, int by) {
  return __shfl_down_sync(0xffffffffu, value, static_cast<unsigned>(by));
}
// Bit l: the vote of lane l.
__device__ __forceinline__ uint32_t ballot(bool vote) { return __ballot_sync(0xffffffffu, vote); }
// What a lane wrote before, all see behind.
__device__ __forceinline__ void sync_warp() { __syncwarp(); }

// ---- arithmetic ----
//
// The machine's approximations, subnormal numbers as zero: 2^x within 2 ulp, log2(x) within 2^-22
// (absolute, x in [0.5, 2]), 1 / x within 1 ulp.

__device__ __forceinline__ float ex2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
__device__ __forceinline__ float lg2(float x) {
  float y;
  asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
__device__ __forceinline__ float rcp(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// Sine and cosine of 2 pi `turns`.
__device__ __forceinline__ void sin_cos_turns(float turns, float& sine, float& cosine) {
  sincospif(2.f * turns, &sine, &cosine);
}

// The number of set bits, and the lowest one's, of a mask that has one.
__device__ __forceinline__ int bit_count(uint32_t mask) { return __popc(mask); }
__device__ __forceinline__ int lowest_bit(uint32_t mask) { return __ffs(mask) - 1; }

__device__ __forceinline__ float as_float(uint32_t bits) { return __uint_as_float(bits); }
__device__ __forceinline__ uint32_t as_bits(float value) { return __float_as_uint(value); }

}  // namespace gatun::kernels

#else

#include <bit>
#include <cmath>
#include <cstring>

#include "simt.h"

#define UNROLL
#define ROLLED
#define SMEM(Type, name)                            \
  static_assert(gatun::kernels::kSharedFits<Type>); \
  Type& name = simt::shared<Type>(gatun::kernels::kMostShared<Type>)

namespace gatun::kernels {

using simt::Where;

// ---- global memory ----

template <typename T>
T load_global(const void* address, Where where) {
  simt::check_global(address, sizeof(T), simt::Access::kLoad, where);
  T v;
  std::memcpy(&v, address, sizeof v);
  return v;
}
inline uint4 ld128(const void* address, Where where = Where::here()) {
  return load_global<uint4>(address, where);
}
inline uint4 ld128_once(const void* address, Where where = Where::here()) {
  return load_global<uint4>(address, where);
}
inline uint2 ld64(const void* address, Where where = Where::here()) {
  return load_global<uint2>(address, where);
}
inline uint32_t ld32(const void* address, Where where = Where::here()) {
  return load_global<uint32_t>(address, where);
}
inline uint16_t ld16(const void* address, Where where = Where::here()) {
  return load_global<uint16_t>(address, where);
}

template <typename T>
void store_global(void* address, T v, Where where) {
  simt::check_global(address, sizeof v, simt::Access::kStore, where);
  std::memcpy(address, &v, sizeof v);
}
inline void st128(void* address, uint4 v, Where where = Where::here()) {
  store_global(address, v, where);
}
inline void st128_once(void* address, uint4 v, Where where = Where::here()) {
  store_global(address, v, where);
}
inline void st64(void* address, uint2 v, Where where = Where::here()) {
  store_global(address, v, where);
}
inline void st32(void* address, uint32_t v, Where where = Where::here()) {
  store_global(address, v, where);
}
inline void st16(void* address, uint16_t v, Where where = Where::here()) {
  store_global(address, v, where);
}

template <typename T>
T atomic_add(T* address, T value, Where where = Where::here()) {
  return simt::atomic_add(address, value, where);
}
inline uint32_t atomic_exchange(uint32_t* address, uint32_t value, Where where = Where::here()) {
  simt::check_global(address, 4, simt::Access::kAtomic, where);
  return __atomic_exchange_n(address, value, __ATOMIC_RELAXED);
}

inline void fence_system() { __atomic_thread_fence(__ATOMIC_RELEASE); }

// ---- shared memory ----

inline uint32_t shared_address(const void* p, Where where = Where::here()) {
  return simt::shared_address(p, where);
}

template <typename T>
T load_shared(uint32_t address, Where where) {
  T v;
  std::memcpy(&v, simt::check_shared(address, sizeof v, simt::Access::kSharedLoad, where),
              sizeof v);
  return v;
}
inline uint4 lds128(uint32_t address, Where where = Where::here()) {
  return load_shared<uint4>(address, where);
}
inline uint2 lds64(uint32_t address, Where where = Where::here()) {
  return load_shared<uint2>(address, where);
}
inline uint32_t lds32(uint32_t address, Where where = Where::here()) {
  return load_shared<uint32_t>(address, where);
}

template <typename T>
void store_shared(uint32_t address, T v, Where where) {
  std::memcpy(simt::check_shared(address, sizeof v, simt::Access::kSharedStore, where), &v,
              sizeof v);
}
inline void sts128(uint32_t address, uint4 v, Where where = Where::here()) {
  store_shared(address, v, where);
}
inline void sts64(uint32_t address, uint2 v, Where where = Where::here()) {
  store_shared(address, v, where);
}
inline void sts32(uint32_t address, uint32_t v, Where where = Where::here()) {
  store_shared(address, v, where);
}

// ---- asynchronous copies ----

template <int kBytes>
void cp_async(uint32_t shared, const void* global, int bytes, Where where = Where::here()) {
  static_assert(kBytes == 4 || kBytes == 8 || kBytes == 16);
  simt::cp_async(shared, global, kBytes, bytes, where);
}
inline void cp_async_commit() { simt::cp_async_commit(); }
template <int kPending>
void cp_async_wait() {
  simt::cp_async_wait(kPending);
}

// ---- tensor cores ----

template <int kMatrices>
void load_matrices(uint32_t (&r)[kMatrices], uint32_t row_address, bool transposed, Where where) {
  uint4 row = {};
  if (simt::current->number % 32 < 8 * kMatrices)  // each lane reads for itself
    std::memcpy(&row, simt::check_shared(row_address, sizeof row, simt::Access::kMatrix, where),
                sizeof row);
  simt::exchange_matrices(r, kMatrices, transposed, row, where);
}
inline void ldmatrix_x4(uint32_t (&r)[4], uint32_t row_address, Where where = Where::here()) {
  load_matrices(r, row_address, false, where);
}
inline void ldmatrix_x4_transposed(uint32_t (&r)[4], uint32_t row_address,
                                   Where where = Where::here()) {
  load_matrices(r, row_address, true, where);
}
inline void ldmatrix_x2(uint32_t (&r)[2], uint32_t row_address, Where where = Where::here()) {
  load_matrices(r, row_address, false, where);
}
inline void ldmatrix_x2_transposed(uint32_t (&r)[2], uint32_t row_address,
                                   Where where = Where::here()) {
  load_matrices(r, row_address, true, where);
}

inline void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                         __nv_bfloat16, Where where = Where::here()) {
  simt::mma_m16n8k16(d, a, b, simt::Multiplicand::kBf16, where);
}
inline void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], __half,
                         Where where = Where::here()) {
  simt::mma_m16n8k16(d, a, b, simt::Multiplicand::kF16, where);
}

// ---- lanes ----

template <typename T>
T shuffle_xor(T value, int mask, Where where = Where::here()) {
  return simt::shuffle_xor(value, mask, where);
}
template <typename T>
T shuffle(T value, int lane, Where where = Where::here()) {
  return simt::shuffle_index(simt::kWholeWarp, value, lane, 32, where);
}
template <typename T>
T shuffle_up(T value, int by, Where where = Where::here()) {
  return simt::shuffle_up(simt::kWholeWarp, value, by, 32, where);
}
template <typename T>
T shuffle_down(T value, int by, Where where = Where::here()) {
  return simt::shuffle_down(simt::kWholeWarp, value, by, 32, where);
}
inline uint32_t ballot(bool vote, Where where = Where::here()) {
  return simt::ballot(simt::kWholeWarp, vote, where);
}
inline void sync_warp(Where where = Where::here()) { simt::sync_warp(simt::kWholeWarp, where); }

// ---- arithmetic ----

inline float flush(float x) { return std::fabs(x) < 0x1p-126f ? std::copysign(0.f, x) : x; }
inline float ex2(float x) { return flush(std::exp2(flush(x))); }
inline float lg2(float x) { return std::log2(flush(x)); }
inline float rcp(float x) { return flush(1.f / flush(x)); }

inline void sin_cos_turns(float turns, float& sine, float& cosine) {
  const double angle = 6.283185307179586 * static_cast<double>(turns);
  sine = static_cast<float>(std::sin(angle));
  cosine = static_cast<float>(std::cos(angle));
}

inline int bit_count(uint32_t mask) { return std::popcount(mask); }
inline int lowest_bit(uint32_t mask) { return std::countr_zero(mask); }

inline float as_float(uint32_t bits) { return std::bit_cast<float>(bits); }
inline uint32_t as_bits(float value) { return std::bit_cast<uint32_t>(value); }

}  // namespace gatun::kernels

#endif
