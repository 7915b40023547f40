// One element of a type that is known at run time, for tests of kernels against float64.
#pragma once

#include "rows.h"
#include "tile.cuh"

namespace gatun::kernels {

inline const char* name_of(ElementType type) {
  return type == ElementType::kF32 ? "f32" : type == ElementType::kF16 ? "f16" : "bf16";
}
// Half a unit in the last place, relative: what one rounding to the type may change.
inline double precision_of(ElementType type) {
  return type == ElementType::kF32 ? 0x1p-24 : type == ElementType::kF16 ? 0x1p-11 : 0x1p-8;
}

inline double value_at(ElementType type, const void* element) {
  switch (type) {
    case ElementType::kF32:
      return *static_cast<const float*>(element);
    case ElementType::kF16:
      return to_float(*static_cast<const __half*>(element));
    default:
      return to_float(*static_cast<const __nv_bfloat16*>(element));
  }
}
inline void set_value(ElementType type, void* element, float value) {
  switch (type) {
    case ElementType::kF32:
      *static_cast<float*>(element) = value;
      return;
    case ElementType::kF16:
      *static_cast<__half*>(element) = from_float<__half>(value);
      return;
    default:
      *static_cast<__nv_bfloat16*>(element) = from_float<__nv_bfloat16>(value);
  }
}

}  // namespace gatun::kernels
