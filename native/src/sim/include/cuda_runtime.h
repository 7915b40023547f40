// What CUDA kernels find in cuda_runtime.h, for the host's compiler; the meaning of threadIdx,
// __syncthreads, … is simt.h's.
#pragma once

#include <cmath>

#include "cuda_runtime_api.h"

inline float rsqrtf(float x) { return 1.f / std::sqrt(x); }
inline float __fmul_rn(float a, float b) { return a * b; }

template <typename T>
constexpr T min(T a, T b) {
  return b < a ? b : a;
}
template <typename T>
constexpr T max(T a, T b) {
  return a < b ? b : a;
}
