// Matrix products by oneDNN, for where it measures faster than our own (level/packed.cpp). It
// chooses its instructions by itself, from what the machine has.
#pragma once

#include <cstdint>

namespace gatun::cpu {

// Whether a device at this SIMD level (1 plain, 2 avx2, 3 avx512) may use oneDNN: only the
// machine's best, so that a lower one that was asked for is what runs.
bool onednn_serves(int simd);

// out[m, n] = alpha * a b, or out += where `add`; f32, strides of rows as they lie in memory; a is
// [k, m] where transposed, b [n, k]. To be called by OpenMP's master. False: not computed, for
// example because oneDNN takes no such stride or found no memory for its transient copies.
bool onednn_f32_product(int threads, int64_t m, int64_t n, int64_t k, float alpha, const float* a,
                        int64_t a_stride, bool a_transposed, const float* b, int64_t b_stride,
                        bool b_transposed, bool add, float* out, int64_t out_stride);

}  // namespace gatun::cpu
