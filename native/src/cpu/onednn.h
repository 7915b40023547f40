// Matrix products by oneDNN, for where it measures faster than our own (level/packed.cpp). It
// chooses its instructions by itself, from what the machine has. To be called by OpenMP's master.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>

namespace gatun::cpu {

// out[m, n] = alpha * a b, or out += where `add`; strides of rows as they lie in memory; a is
// [k, m] where transposed, b [n, k].
struct OneDnnProduct {
  int64_t m, n, k;
  float alpha;
  const void* a;
  int64_t a_stride;
  bool a_transposed;
  const void* b;
  int64_t b_stride;
  bool b_transposed;
  bool add;
  void* out;
  int64_t out_stride;
};

// Whether a device at this SIMD level (1 plain, 2 avx2, 3 avx512) may use oneDNN: only the
// machine's best, so that a lower one that was asked for is what runs.
bool onednn_serves(int simd);

// A product of f32. False: not computed, for example because oneDNN takes no such stride or found
// no memory for its transient copies.
bool onednn_f32_product(int threads, const OneDnnProduct& product);

// A product of bf16 into f32 or bf16 by the processor's instructions for it (AMX's tiles, or
// AVX512_BF16), which multiply bf16 exactly and add in f32, but take subnormal numbers for 0.
// Compiled for its shape at first, some milliseconds; the code of the kCompiled shapes used last is
// kept. None: there are no such instructions, or they take no such product. Otherwise the scratch
// that the call which computes it wants, aligned to 64.
constexpr int kCompiled = 64;
std::optional<size_t> onednn_bf16_scratch_bytes(int threads, const OneDnnProduct& product,
                                                bool bf16_out);
bool onednn_bf16_product(int threads, const OneDnnProduct& product, bool bf16_out, void* scratch);

}  // namespace gatun::cpu
