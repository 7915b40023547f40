// Both forms of GELU and their derivatives, for the ops and for matmul's epilogue. Each is x times
// a function that is 0 or 1 in f32 outside of [-kGeluFlat, kGeluFlat]; clamping its argument keeps
// squares and cubes finite, and a NaN passes as the factor x.
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

// s + x s (1 - s) 2 du/dx with s = 1 / (1 + e^(-2u)); 1 - s = e^(-2u) s, without the cancellation
// at u >> 0.
__device__ __forceinline__ float gelu_tanh_derivative(float x) {
  constexpr float kScale = 1.59576912f;  // 2 sqrt(2 / pi)
  constexpr float kCubic = 0.044715f;
  constexpr float kLog2e = 1.44269504f;
  const float y = gelu_clamp(x);
  const float e = fminf(3e38f, ex2(y * (y * y * (-kLog2e * kScale * kCubic) - kLog2e * kScale)));
  const float s = rcp(1.f + e);
  const float d = s + y * s * (e * s) * (y * y * (3.f * kScale * kCubic) + kScale);
  return x == x ? d : x;
}

// Phi(y) for a clamped y, and e^(-y^2 / 2). Phi(x) = 1 - tail(x) for x > 0, tail(-x) otherwise;
// tail(x) = erfc(z) / 2 with z = |x| / sqrt(2). erfc(z) = t P(t) e^(-z^2), t = 1 / (1 + p z), as
// Abramowitz & Stegun 7.1.26, P of degree 7 fitted for relative error on z in [0, 10] (1.4e-7).
__device__ __forceinline__ float gelu_phi(float y, float& gauss) {
  constexpr float kFit[8] = {0.18504123f, 0.18088605f,  0.2050343f,  0.027931178f,
                             0.44902062f, -0.40177402f, 0.49450737f, -0.14064659f};
  const float t = rcp(1.f + fabsf(y) * (0.3275911f * 0.707106781f));
  float p = kFit[7];
  UNROLL for (int i = 6; i >= 0; --i) p = p * t + kFit[i];
  gauss = ex2(y * y * (-0.5f * 1.44269504f));
  const float tail = p * t * gauss * 0.5f;
  return y > 0.f ? 1.f - tail : tail;
}

__device__ __forceinline__ float gelu_erf(float x) {
  float gauss;
  return x * gelu_phi(gelu_clamp(x), gauss);
}

// Phi(x) + x e^(-x^2 / 2) / sqrt(2 pi)
__device__ __forceinline__ float gelu_erf_derivative(float x) {
  const float y = gelu_clamp(x);
  float gauss;
  const float cumulative = gelu_phi(y, gauss);
  const float d = cumulative + y * gauss * 0.398942280f;
  return x == x ? d : x;
}

}  // namespace gatun::kernels
