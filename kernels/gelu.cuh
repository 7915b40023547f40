// Both forms of GELU, for the op and for matmul's epilogue. Each is x times a function that is 0 or
// 1 in f32 outside of [-kGeluFlat, kGeluFlat]; clamping its argument keeps squares and cubes
// finite, and a NaN passes as the factor x.
#pragma once

#include <cuda_runtime.h>

#include "ptx.cuh"

namespace gatun::kernels {

constexpr float kGeluFlat = 20.f;

__device__ __forceinline__ float gelu_clamp(float x) {
  return fminf(kGeluFlat, fmaxf(-kGeluFlat, x));
}

// x (1 + tanh(u)) / 2 = x / (1 + e^(-2u)) with u = sqrt(2 / pi) (x + 0.044715 x^3), without the
// cancellation at u << 0.
__device__ __forceinline__ float gelu_tanh(float x) {
  constexpr float kScale = -2.30220818f;  // -2 sqrt(2 / pi) log2(e)
  constexpr float kCubic = 0.044715f;
  const float y = gelu_clamp(x);
  return x * rcp(1.f + ex2(y * (y * y * (kScale * kCubic) + kScale)));
}

// x Phi(x), Phi(x) = 1 - tail(x) for x > 0, tail(-x) otherwise; tail(x) = erfc(z) / 2 with z = |x|
// / sqrt(2). erfc(z) = t P(t) e^(-z^2), t = 1 / (1 + p z), as Abramowitz & Stegun 7.1.26, P of
// degree 7 fitted for relative error on z in [0, 10] (1.4e-7).
__device__ __forceinline__ float gelu_erf(float x) {
  constexpr float kFit[8] = {0.18504123f, 0.18088605f,  0.2050343f,  0.027931178f,
                             0.44902062f, -0.40177402f, 0.49450737f, -0.14064659f};
  const float y = gelu_clamp(x);
  const float t = rcp(1.f + fabsf(y) * (0.3275911f * 0.707106781f));
  float p = kFit[7];
  UNROLL for (int i = 6; i >= 0; --i) p = p * t + kFit[i];
  const float tail = p * t * ex2(y * y * (-0.5f * 1.44269504f)) * 0.5f;
  return x * (y > 0.f ? 1.f - tail : tail);
}

}  // namespace gatun::kernels
