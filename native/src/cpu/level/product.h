// One matrix product as matmul.cpp hands it to whoever computes it: packed.cpp (any shape),
// few_rows.cpp (decode), cpu/onednn.cpp (16-bit operands where the machine multiplies them).
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/backend.h"

namespace gatun::cpu::GATUN_LEVEL {

enum class Gelu { kNone, kTanh, kErf };

// out[m, n] = finish(alpha * sum over k of a(m, k) b(k, n)) + residual; strides are those of the
// rows as they lie in memory, elements of a row are adjacent.
struct MatrixProduct {
  int64_t m, n, k;
  const void* a;  // a(m, k) = a[m * a_stride + k], transposed: a[k * a_stride + m]
  int64_t a_stride;
  bool a_transposed;
  const void* b;  // b(k, n) = b[k * b_stride + n], transposed: b[n * b_stride + k]
  int64_t b_stride;
  bool b_transposed;
  int32_t in_dtype;  // of a and b
  float alpha;
  void* out;
  int64_t out_stride;
  int32_t out_dtype;
  bool add;          // out += ., instead of out = .
  const void* bias;  // [n] or null
  int32_t bias_dtype;
  void* preactivation;  // receives . + bias, gelu_gradient: is read; null unless gelu is set
  int64_t preactivation_stride;
  const void* residual;  // [m, n] or null; out itself only with gelu, otherwise that is `add`
  int64_t residual_stride;
  Gelu gelu;
  bool gelu_gradient;  // . * gelu'(preactivation) instead of gelu(.)

  bool finishes() const { return bias != nullptr || gelu != Gelu::kNone || residual != nullptr; }
  // Whether f32 sums may wait in out until they are finished.
  bool sums_in_out() const { return out_dtype == GATUN_F32 && residual != out; }
};

// The products of a batch: the same but for where the operands start. Offsets are in bytes.
struct Batch {
  int64_t count = 1;
  int rank = 0;  // the innermost dimension first
  int64_t shape[GATUN_MAX_RANK] = {};
  int64_t a[GATUN_MAX_RANK] = {};
  int64_t b[GATUN_MAX_RANK] = {};
  int64_t out[GATUN_MAX_RANK] = {};
  int64_t preactivation[GATUN_MAX_RANK] = {};
  int64_t residual[GATUN_MAX_RANK] = {};

  MatrixProduct at(MatrixProduct product, int64_t index) const;
};

// Takes the sums of a tile at (row, column) of out on their way: adds the `sums` of earlier passes
// where add_sums, and keeps the total there unless this is the last pass; then adds what 16-bit out
// holds (p.add), bias, GELU or its gradient, and residual, and rounds to out.
void finish(const MatrixProduct& p, const float* tile, int64_t tile_stride, float* sums,
            int64_t sums_stride, bool add_sums, bool last, int64_t rows, int64_t columns,
            int64_t row, int64_t column);

// Products of at most kFewRows rows: reading b is all the work.
constexpr int64_t kFewRows = 8;
void few_rows_product(Context& context, const MatrixProduct& product);

// Products by packing both operands into panels that stream through the caches (Goto & van de
// Geijn, ACM TOMS 34(3), 2008). Sums over k are made in a fixed order, whatever the threads.
void packed_products(Context& context, const MatrixProduct& product, const Batch& batch);

}  // namespace gatun::cpu::GATUN_LEVEL
