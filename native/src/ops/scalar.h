// A scalar of the host as an element of some dtype holds it; for every device.
#pragma once

#include <bit>
#include <cstdint>
#include <limits>
#include <type_traits>

#include "cpu/types.h"
#include "gatun.h"

namespace gatun {

// Truncates towards zero; what the type cannot hold becomes its nearest end, NaN becomes 0.
template <typename T>
T to_integer(double value) {
  if (!(value == value)) return 0;
  if (value <= static_cast<double>(std::numeric_limits<T>::min()))
    return std::numeric_limits<T>::min();
  if (value >= static_cast<double>(std::numeric_limits<T>::max()))
    return std::numeric_limits<T>::max();
  return static_cast<T>(value);
}

// The next T above a finite x, as a float.
template <typename T>
float above(float x) {
  using Bits = std::conditional_t<sizeof(T) == 4, uint32_t, uint16_t>;
  Bits bits = std::bit_cast<Bits>(cpu::from_float<T>(x));
  constexpr Bits kSign = static_cast<Bits>(Bits{1} << (8 * sizeof(T) - 1));
  if (bits == kSign) bits = 0;  // -0
  bits = static_cast<Bits>(bits & kSign ? bits - 1 : bits + 1);
  return cpu::to_float(std::bit_cast<T>(bits));
}

// The values of T that are nearest to the two ends of [low, high) from inside.
template <typename T>
float smallest_from(double low) {
  const float x = cpu::to_float(cpu::from_float<T>(static_cast<float>(low)));
  return static_cast<double>(x) < low ? above<T>(x) : x;
}
template <typename T>
float largest_below(double high) {
  const float x = cpu::to_float(cpu::from_float<T>(static_cast<float>(high)));
  return static_cast<double>(x) >= high ? -above<T>(-x) : x;
}

}  // namespace gatun
