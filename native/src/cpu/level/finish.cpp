// What happens to the sums of a product before they are its result.
#include <algorithm>

#include "cpu/dispatch.h"
#include "cpu/level/gelu.h"
#include "cpu/level/product.h"
#include "cpu/level/vec.h"

namespace gatun::cpu::GATUN_LEVEL {
namespace {

template <typename T>
inline vf load_part(const T* p, int n) {
  return n == kLanes ? load(p) : load_first(p, n);
}
template <typename T>
inline void store_part(T* p, vf v, int n) {
  if (n == kLanes) {
    store(p, v);
  } else {
    store_first(p, v, n);
  }
}

}  // namespace

void finish(const MatrixProduct& p, const float* tile, int64_t tile_stride, float* sums,
            int64_t sums_stride, bool add_sums, bool last, int64_t rows, int64_t columns,
            int64_t row, int64_t column) {
  with_float(p.out_dtype, [&]<typename T>() {
    for (int64_t r = 0; r < rows; ++r, tile += tile_stride, sums += sums_stride) {
      T* out = static_cast<T*>(p.out) + (row + r) * p.out_stride + column;
      T* pre = p.preactivation == nullptr
                   ? nullptr
                   : static_cast<T*>(p.preactivation) + (row + r) * p.preactivation_stride + column;
      const T* residual = p.residual == nullptr ? nullptr
                                                : static_cast<const T*>(p.residual) +
                                                      (row + r) * p.residual_stride + column;
      for (int64_t c = 0; c < columns; c += kLanes) {
        const int n = static_cast<int>(std::min<int64_t>(kLanes, columns - c));
        vf x = load_part(tile + c, n);
        if (add_sums) x += load_part(sums + c, n);
        if (!last) {
          store_part(sums + c, x, n);
          continue;
        }
        if (p.add && sizeof(T) != sizeof(float)) x += load_part(out + c, n);
        if (p.bias != nullptr) {
          x += p.bias_dtype == GATUN_F32
                   ? load_part(static_cast<const float*>(p.bias) + column + c, n)
                   : load_part(static_cast<const T*>(p.bias) + column + c, n);
        }
        if (p.gelu_gradient) {
          const vf before = load_part(pre + c, n);
          x *= p.gelu == Gelu::kErf ? GeluErf::derivative(before) : GeluTanh::derivative(before);
        } else {
          if (pre != nullptr) store_part(pre + c, x, n);
          if (p.gelu != Gelu::kNone)
            x = p.gelu == Gelu::kErf ? GeluErf::forward(x) : GeluTanh::forward(x);
        }
        if (residual != nullptr) x += load_part(residual + c, n);
        store_part(out + c, x, n);
      }
    }
  });
}

}  // namespace gatun::cpu::GATUN_LEVEL
