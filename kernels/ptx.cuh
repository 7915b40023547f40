// What the machine offers beyond C++: every inline-PTX wrapper and every warp collective that the
// kernels use, each with a device body and a host body, and nowhere else. Under g++ the host's SIMT
// runtime (simt.h, on the include path of whoever runs kernels without a GPU) gives the CUDA names
// (threadIdx, __syncthreads, …) their meaning.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime_api.h>
#include <vector_types.h>

#include <cstdint>

#ifdef __CUDACC__

#define UNROLL _Pragma("unroll")

// The block's dynamic shared memory as one struct; launch() asks for sizeof(Type).
#define SMEM(Type, name)                                        \
  extern __shared__ __align__(16) unsigned char shared_bytes[]; \
  Type& name = *reinterpret_cast<Type*>(shared_bytes)

namespace gatun::kernels {

// 16 bytes of global memory at an address aligned to 16. Volatile: a row may be stored to the
// address that it was loaded from, and the two must keep their order.
__device__ __forceinline__ uint4 ld128(const void* address) {
  uint4 v;
  asm volatile("ld.global.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(__cvta_generic_to_global(address)));
  return v;
}

__device__ __forceinline__ void st128(void* address, uint4 v) {
  asm volatile("st.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(__cvta_generic_to_global(address)),
               "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w)
               : "memory");
}

// The value of the lane whose number differs by `mask`; all 32 lanes take part.
__device__ __forceinline__ float shuffle_xor(float value, int mask) {
  return __shfl_xor_sync(0xffffffffu, value, mask);
}

// Stores `value` and returns what was there.
__device__ __forceinline__ uint32_t atomic_exchange(uint32_t* address, uint32_t value) {
  return atomicExch(address, value);
}

// What this thread wrote before is seen, by the host too, before what it writes after.
__device__ __forceinline__ void fence_system() { __threadfence_system(); }

__device__ __forceinline__ float as_float(uint32_t bits) { return __uint_as_float(bits); }
__device__ __forceinline__ uint32_t as_bits(float value) { return __float_as_uint(value); }

}  // namespace gatun::kernels

#else

#include <bit>
#include <cstring>

#include "simt.h"

#define UNROLL
#define SMEM(Type, name) Type& name = simt::shared<Type>()

namespace gatun::kernels {

inline uint4 ld128(const void* address, simt::Where where = simt::Where::here()) {
  simt::check_global(address, 16, false, where);
  uint4 v;
  std::memcpy(&v, address, sizeof v);
  return v;
}

inline void st128(void* address, uint4 v, simt::Where where = simt::Where::here()) {
  simt::check_global(address, 16, true, where);
  std::memcpy(address, &v, sizeof v);
}

inline float shuffle_xor(float value, int mask, simt::Where where = simt::Where::here()) {
  return simt::shuffle_xor(value, mask, where);
}

inline uint32_t atomic_exchange(uint32_t* address, uint32_t value,
                                simt::Where where = simt::Where::here()) {
  simt::check_global(address, 4, true, where);
  return __atomic_exchange_n(address, value, __ATOMIC_RELAXED);
}

inline void fence_system() { __atomic_thread_fence(__ATOMIC_RELEASE); }

inline float as_float(uint32_t bits) { return std::bit_cast<float>(bits); }
inline uint32_t as_bits(float value) { return std::bit_cast<uint32_t>(value); }

}  // namespace gatun::kernels

#endif
