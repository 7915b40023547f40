// CUDA's half precision as storage: conversions only, bit for bit CUDA's (round to nearest even,
// every NaN becomes 0x7fff). Checked by native/test/sim_types_test.cpp.
#pragma once

#include <bit>
#include <cstdint>

#include "vector_types.h"

struct __half_raw {
  unsigned short x;
};
struct __half2_raw {
  unsigned short x, y;
};

struct __half {
  unsigned short bits;
  __half() = default;
  constexpr __half(__half_raw raw) : bits(raw.x) {}
  constexpr operator __half_raw() const { return {bits}; }
};
struct __half2 {
  __half x, y;
  __half2() = default;
  constexpr __half2(__half2_raw raw) : x(__half_raw{raw.x}), y(__half_raw{raw.y}) {}
  constexpr operator __half2_raw() const { return {x.bits, y.bits}; }
};

inline float __half2float(__half h) {
  const uint32_t sign = static_cast<uint32_t>(h.bits & 0x8000u) << 16;
  const uint32_t rest = h.bits & 0x7fffu;
  if (rest >= 0x7c00u) return std::bit_cast<float>(sign | 0x7f800000u | (rest & 0x3ffu) << 13);
  // 2^112 moves the exponent's bias from 15 to 127, subnormal numbers included
  const float value = std::bit_cast<float>(rest << 13) * 0x1p112f;
  return std::bit_cast<float>(sign | std::bit_cast<uint32_t>(value));
}

inline __half __float2half_rn(float f) {
  const uint32_t all = std::bit_cast<uint32_t>(f);
  const uint32_t sign = all >> 16 & 0x8000u;
  const uint32_t rest = all & 0x7fffffffu;
  uint32_t bits;
  if (rest > 0x7f800000u) return __half_raw{0x7fff};
  if (rest >= 0x477ff000u) {  // 65520 and above round to infinity
    bits = 0x7c00u;
  } else if (rest < 0x38800000u) {  // below 2^-14: the addition rounds to a multiple of 2^-24
    const float shifted = std::bit_cast<float>(rest) + 0.5f;
    bits = std::bit_cast<uint32_t>(shifted) - 0x3f000000u;
  } else {
    bits = (rest - 0x38000000u + 0xfffu + (rest >> 13 & 1)) >> 13;
  }
  return __half_raw{static_cast<unsigned short>(sign | bits)};
}

inline float2 __half22float2(__half2 h) { return {__half2float(h.x), __half2float(h.y)}; }

inline __half2 __floats2half2_rn(float a, float b) {
  return __half2_raw{__float2half_rn(a).bits, __float2half_rn(b).bits};
}
