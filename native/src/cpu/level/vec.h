// One vector of floats, as wide as the level allows. The files of this folder are compiled once for
// each level (plain, avx2, avx512: GATUN_LEVEL) into a namespace of that name, and one of them is
// chosen when the device opens. They are written with GCC's vector extensions, so one source serves
// all. A level's objects are linked apart, so that no inline function of a wide level can stand in
// for one of a narrow level (native/CMakeLists.txt).
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "cpu/types.h"

namespace gatun::cpu::GATUN_LEVEL {

#if defined(__AVX512F__)
constexpr int kLanes = 16;
#elif defined(__AVX2__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif

typedef float vf __attribute__((vector_size(kLanes * 4)));
typedef int32_t vi __attribute__((vector_size(kLanes * 4)));
typedef uint32_t vu __attribute__((vector_size(kLanes * 4)));
typedef uint16_t vh __attribute__((vector_size(kLanes * 2)));

inline vf splat(float x) { return x - vf{}; }
inline vi splat_int(int32_t x) { return x - vi{}; }

// ---- loads and stores: unaligned, whole or the first n lanes (the others 0) ----

inline vf load(const float* p) {
  vf v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
inline void store(float* p, vf v) { std::memcpy(p, &v, sizeof v); }

inline vf load(const bf16* p) {
#if defined(__AVX512F__)  // GCC 12 would widen the two halves apart
  return (vf)((vu)_mm512_maskz_cvtepu16_epi32(
                  0xffff, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))
              << 16);
#elif defined(__AVX2__)
  return (vf)((vu)_mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))
              << 16);
#else
  vh h;
  std::memcpy(&h, p, sizeof h);
  return (vf)(__builtin_convertvector(h, vu) << 16);
#endif
}
inline void store(bf16* p, vf v) {
  const vu u = (vu)v;
  const vu rounded = (u + 0x7fffu + (u >> 16 & 1u)) >> 16;
  const vu nan = u >> 16 | 0x40u;
  const vu bits = (vu)((u & 0x7fffffffu) > 0x7f800000u ? nan : rounded);
  const vh h = __builtin_convertvector(bits, vh);
  std::memcpy(p, &h, sizeof h);
}

inline vf load(const f16* p) {
#if defined(__AVX512F__)
  return (vf)_mm512_maskz_cvtph_ps(0xffff, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
#elif defined(__AVX2__)
  return (vf)_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
#else
  vf v;
  for (int i = 0; i < kLanes; ++i) v[i] = to_float(p[i]);
  return v;
#endif
}
inline void store(f16* p, vf v) {
#if defined(__AVX512F__)
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                      _mm512_maskz_cvtps_ph(0xffff, (__m512)v, _MM_FROUND_TO_NEAREST_INT));
#elif defined(__AVX2__)
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p),
                   _mm256_cvtps_ph((__m256)v, _MM_FROUND_TO_NEAREST_INT));
#else
  for (int i = 0; i < kLanes; ++i) p[i] = from_float<f16>(v[i]);
#endif
}

template <typename T>
inline vf load_first(const T* p, int n) {
  T lanes[kLanes] = {};
  std::memcpy(lanes, p, sizeof(T) * static_cast<size_t>(n));
  return load(lanes);
}
template <typename T>
inline void store_first(T* p, vf v, int n) {
  T lanes[kLanes];
  store(lanes, v);
  std::memcpy(p, lanes, sizeof(T) * static_cast<size_t>(n));
}

// Calls whole(i) for each full vector of [0, n) and rest(i, count) for what is left.
template <typename Whole, typename Rest>
inline void each_vector(int64_t n, Whole whole, Rest rest) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) whole(i);
  if (i < n) rest(i, static_cast<int>(n - i));
}

// ---- arithmetic ----

// a > b ? a : b and a < b ? a : b: where one is NaN, b. (GCC 12 would compare and blend.)
inline vf max(vf a, vf b) {
#if defined(__AVX512F__)
  return (vf)_mm512_maskz_max_ps(0xffff, (__m512)a, (__m512)b);
#elif defined(__AVX2__)
  return (vf)_mm256_max_ps((__m256)a, (__m256)b);
#else
  return (vf)_mm_max_ps((__m128)a, (__m128)b);
#endif
}
inline vf min(vf a, vf b) {
#if defined(__AVX512F__)
  return (vf)_mm512_maskz_min_ps(0xffff, (__m512)a, (__m512)b);
#elif defined(__AVX2__)
  return (vf)_mm256_min_ps((__m256)a, (__m256)b);
#else
  return (vf)_mm_min_ps((__m128)a, (__m128)b);
#endif
}
inline vf select(vi mask, vf a, vf b) { return mask ? a : b; }

inline float sum(vf v) {
  float lanes[kLanes];
  store(lanes, v);
  for (int width = kLanes / 2; width > 0; width /= 2)
    for (int i = 0; i < width; ++i) lanes[i] += lanes[i + width];
  return lanes[0];
}
inline float max_lane(vf v) {
  float lanes[kLanes];
  store(lanes, v);
  float m = lanes[0];
  for (int i = 1; i < kLanes; ++i) m = lanes[i] > m ? lanes[i] : m;
  return m;
}

// e^x, error below 2.2 ulp on [-87.3, 88] (measured); 0 below -87.3, where results would be
// subnormal and cost a hundred cycles each; infinity above 88.8, NaN kept.
// Cody-Waite reduction by ln 2 in two parts, then a polynomial of degree 6 on
// [-ln 2 / 2, ln 2 / 2].
inline vf exp(vf x) {
  const vf clamped = min(max(x, splat(-87.3f)), splat(88.8f));
  const vf shifter = splat(12582912.f);  // 1.5 * 2^23: adding it rounds to an integer
  const vf n = (clamped * 1.44269504f + shifter) - shifter;
  const vf r = (clamped - n * 0.693145752f) - n * 1.42860677e-6f;
  vf p = splat(1.38888891e-3f);
  p = p * r + 8.33333377e-3f;
  p = p * r + 4.16666679e-2f;
  p = p * r + 1.66666672e-1f;
  p = p * r + 0.5f;
  p = p * r + 1.f;
  p = p * r + 1.f;
  // 2^n in two factors, so that 2^128 is reached
  const vi exponent = __builtin_convertvector(n, vi);
  const vi half = exponent >> 1;
  const vf first = (vf)((half + 127) << 23);
  const vf second = (vf)((exponent - half + 127) << 23);
  const vf y = select(x < -87.3f, splat(0.f), p * first * second);
  return x == x ? y : x;
}

// tanh by e^-2|x|; absolute error below 2e-7.
inline vf tanh(vf x) {
  const vf magnitude = (vf)((vi)x & 0x7fffffff);
  const vf e = exp(magnitude * -2.f);
  const vf t = (1.f - e) / (1.f + e);
  const vf small = magnitude * (1.f - magnitude * magnitude * 0.333333333f);
  const vf y = select(magnitude < 0.01f, small, t);
  return (vf)((vi)y | ((vi)x & static_cast<int32_t>(0x80000000)));
}

}  // namespace gatun::cpu::GATUN_LEVEL
