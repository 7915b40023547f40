#include "cpu/onednn.h"

#include <dnnl.h>
#include <omp.h>

#include <algorithm>

#include "cpu/machine.h"

namespace gatun::cpu {

bool onednn_serves(int simd) {
  static const int best = best_simd();
  return simd == best;
}

bool onednn_f32_product(int threads, int64_t m, int64_t n, int64_t k, float alpha, const float* a,
                        int64_t a_stride, bool a_transposed, const float* b, int64_t b_stride,
                        bool b_transposed, bool add, float* out, int64_t out_stride) {
  // the stride of a single row is never used, and may be anything
  const auto stride_of = [](int64_t stride, int64_t rows, int64_t columns) {
    return rows == 1 ? std::max<int64_t>(1, columns) : stride;
  };
  const int64_t a_columns = a_transposed ? m : k;
  const int64_t b_columns = b_transposed ? k : n;
  a_stride = stride_of(a_stride, a_transposed ? k : m, a_columns);
  b_stride = stride_of(b_stride, b_transposed ? n : k, b_columns);
  out_stride = stride_of(out_stride, m, n);
  if (a_stride < a_columns || b_stride < b_columns || out_stride < n) return false;
  omp_set_num_threads(threads);
  return dnnl_sgemm(a_transposed ? 'T' : 'N', b_transposed ? 'T' : 'N', m, n, k, alpha, a, a_stride,
                    b, b_stride, add ? 1.f : 0.f, out, out_stride) == dnnl_success;
}

}  // namespace gatun::cpu
