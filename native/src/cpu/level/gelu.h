// Both forms of GELU and their derivatives, on vectors: for the op and for matmul's epilogue.
#pragma once

#include "cpu/level/vec.h"

namespace gatun::cpu::GATUN_LEVEL {

// Both forms are x times a sigmoid-like function that is 0 or 1 in f32 outside of [-kGeluFlat,
// kGeluFlat]; clamping its argument keeps squares and cubes finite. NaN passes.
constexpr float kGeluFlat = 20.f;

inline vf gelu_clamp(vf x) { return min(splat(kGeluFlat), max(splat(-kGeluFlat), x)); }

// 1 / x within 2 ulp for 1 <= x < 1e37, 0 for larger x. The machine's estimate and a Newton step
// take less time than its division (tanh form on 512 x 3072, 2 threads: 0.50 to 0.40 ms).
inline vf reciprocal(vf x) {
#if defined(__AVX512F__)
  const vf r = (vf)_mm512_maskz_rcp14_ps(0xffff, (__m512)x);
  return select(x < 1e37f, r + r * (1.f - x * r), splat(0.f));
#else
  return 1.f / x;
#endif
}

struct GeluTanh {
  static constexpr float kScale = 1.59576912f;  // 2 sqrt(2 / pi)
  static constexpr float kCubic = 0.044715f;

  // 0.5 (1 + tanh(u)) = 1 / (1 + e^(-2u)), without the cancellation at u << 0
  static vf e_to_minus_2u(vf x) { return exp(x * (x * x * (-kScale * kCubic) - kScale)); }
  static vf forward(vf x) { return x * reciprocal(1.f + e_to_minus_2u(gelu_clamp(x))); }
  static vf derivative(vf x) {
    x = gelu_clamp(x);
    const vf e = min(splat(3e38f), e_to_minus_2u(x));
    const vf s = reciprocal(1.f + e);
    // 1 - s = e s, without the cancellation at u >> 0
    return s + x * s * (e * s) * (x * x * (3.f * kScale * kCubic) + kScale);
  }
};

struct GeluErf {
  // Phi(x) and e^(-x^2 / 2). With z = |x| / sqrt(2) and t = 1 / (1 + p z), erfc(z) = t P(t)
  // e^(-z^2) as Abramowitz & Stegun 7.1.26, but P of degree 7, fitted for relative error on z in
  // [0, 10] (1.4e-7; with f32 rounding Phi is within 4e-7).
  static vf phi(vf x, vf* gauss) {
    const vf magnitude = (vf)((vi)x & 0x7fffffff);
    const vf t = reciprocal(magnitude * (0.3275911f * 0.707106781f) + 1.f);
    *gauss = exp(x * x * -0.5f);
    vf p = splat(kFit[7]);
    for (int i = 6; i >= 0; --i) p = p * t + kFit[i];
    const vf tail = p * t * *gauss * 0.5f;
    return select(x > 0.f, 1.f - tail, tail);
  }
  static constexpr float kFit[8] = {0.18504123f, 0.18088605f,  0.2050343f,  0.027931178f,
                                    0.44902062f, -0.40177402f, 0.49450737f, -0.14064659f};

  static vf forward(vf x) {
    vf gauss;
    return x * phi(gelu_clamp(x), &gauss);
  }
  static vf derivative(vf x) {
    x = gelu_clamp(x);
    vf gauss;
    const vf cumulative = phi(x, &gauss);
    return cumulative + x * gauss * 0.398942280f;  // 1 / sqrt(2 pi)
  }
};

}  // namespace gatun::cpu::GATUN_LEVEL
