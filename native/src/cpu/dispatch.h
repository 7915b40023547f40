// From a dtype known at run time to a type known at compile time.
#pragma once

#include "core/error.h"
#include "cpu/types.h"
#include "gatun.h"

namespace gatun::cpu {

// Calls f.operator()<T>() with the storage type of a float dtype:
//   with_float(view.dtype, [&]<typename T>() { run(view.as<T>()); });
template <typename F>
decltype(auto) with_float(int32_t dtype, F&& f) {
  switch (dtype) {
    case GATUN_F32:
      return f.template operator()<float>();
    case GATUN_F16:
      return f.template operator()<f16>();
    case GATUN_BF16:
      return f.template operator()<bf16>();
  }
  fail(GATUN_INTERNAL, "dtype %d is not a float dtype", dtype);
}

}  // namespace gatun::cpu
