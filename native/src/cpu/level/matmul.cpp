// Matrix products, and the gradient of a bias: which code computes a product is decided here.
#include <algorithm>

#include "cpu/dispatch.h"
#include "cpu/level/backend.h"
#include "cpu/level/product.h"
#include "cpu/level/rows.h"
#include "cpu/level/vec.h"
#include "cpu/onednn.h"

namespace gatun::cpu::GATUN_LEVEL {
namespace {

// Below these oneDNN's own cost shows; the products of a batch rather run one a thread.
constexpr double kOneDnnFlops = 2e5;
constexpr double kOneDnnBatchFlops = 5e7;

int64_t element_bytes(int32_t dtype) { return dtype == GATUN_F32 ? 4 : 2; }

// Makes the batch dimensions of args, from the innermost, into rows of one product for as long as
// a, out, preactivation and residual walk through them as through their rows and b stays the same;
// what is left is the batch.
struct Shape {
  MatrixProduct product{};
  Batch batch;

  explicit Shape(const MatMul& args) {
    const View& a = args.a;
    const View& b = args.b;
    const View& out = args.out;
    const View& pre = args.preactivation;
    const View& residual = args.residual;
    MatrixProduct& p = product;
    p.m = out.size(1);
    p.n = out.size(0);
    p.k = args.transpose_a ? a.size(1) : a.size(0);
    p.a = a.data;
    p.a_stride = a.step(1);
    p.a_transposed = args.transpose_a;
    p.b = b.data;
    p.b_stride = b.step(1);
    p.b_transposed = args.transpose_b;
    p.in_dtype = a.dtype;
    p.alpha = args.alpha == 0 ? 1.f : args.alpha;
    p.out = out.data;
    p.out_stride = out.step(1);
    p.out_dtype = out.dtype;
    p.add = args.accumulate;
    p.bias = args.bias ? args.bias.data : nullptr;
    p.bias_dtype = args.bias.dtype;
    p.gelu_gradient = args.epilogue == GATUN_EPILOGUE_GELU_GRADIENT;
    if (args.epilogue == GATUN_EPILOGUE_BIAS_GELU || p.gelu_gradient)
      p.gelu = args.gelu_erf ? Gelu::kErf : Gelu::kTanh;
    if (pre && p.gelu != Gelu::kNone) {
      p.preactivation = pre.data;
      p.preactivation_stride = pre.step(1);
    }
    if (residual && residual.data == out.data && p.gelu == Gelu::kNone) {
      p.add = true;
    } else if (residual) {
      p.residual = residual.data;
      p.residual_stride = residual.step(1);
    }

    bool as_rows = !args.transpose_a;
    const int64_t in_bytes = element_bytes(a.dtype);
    const int64_t out_bytes = element_bytes(out.dtype);
    for (int d = 2; d < out.rank; ++d) {
      const int64_t size = out.size(d);
      if (size == 1) continue;
      const int64_t b_step = d < b.rank ? b.step(d) : 0;
      if (as_rows && b_step == 0 && p.m == 1) {  // a single row may have any stride
        p.a_stride = a.step(d);
        p.out_stride = out.step(d);
        p.preactivation_stride = pre.step(d);
        p.residual_stride = residual.step(d);
      }
      as_rows = as_rows && b_step == 0 && a.step(d) == p.m * p.a_stride &&
                out.step(d) == p.m * p.out_stride &&
                (p.preactivation == nullptr || pre.step(d) == p.m * p.preactivation_stride) &&
                (p.residual == nullptr || residual.step(d) == p.m * p.residual_stride);
      if (as_rows) {
        p.m *= size;
        continue;
      }
      batch.count *= size;
      const int i = batch.rank++;
      batch.shape[i] = size;
      batch.a[i] = a.step(d) * in_bytes;
      batch.b[i] = b_step * in_bytes;
      batch.out[i] = out.step(d) * out_bytes;
      batch.preactivation[i] = pre.step(d) * out_bytes;
      batch.residual[i] = residual.step(d) * out_bytes;
    }
  }
};

OneDnnProduct for_onednn(const MatrixProduct& p) {
  return {p.m,
          p.n,
          p.k,
          p.alpha,
          p.a,
          p.a_stride,
          p.a_transposed,
          p.b,
          p.b_stride,
          p.b_transposed,
          p.add,
          p.out,
          p.out_stride};
}

// Bias, GELU and residual in a pass of their own over f32 sums [m, n], which may be out itself.
void finish_rows(const Context& context, const MatrixProduct& p, const float* sums, int64_t stride,
                 int64_t row, int64_t rows) {
  parallel_parts(context, rows, 1, rows * p.n < kSerialElements, [&](int64_t begin, int64_t end) {
    finish(p, sums + begin * stride, stride, nullptr, 0, false, true, end - begin, p.n, row + begin,
           0);
  });
}

// In f32, where oneDNN's assembly measures 1.08 times as fast as packed.cpp on GPT-2's shapes.
void f32_by_onednn(Context& context, const MatrixProduct& p) {
  if (!p.sums_in_out() || !onednn_f32_product(context.threads, for_onednn(p))) {
    packed_products(context, p, Batch());
  } else if (p.finishes()) {
    finish_rows(context, p, static_cast<const float*>(p.out), p.out_stride, 0, p.m);
  }
}

// In bf16 by instructions for it: 5 to 9 times as fast as packed.cpp with AMX's tiles, twice with
// AVX512_BF16. What bias, GELU and residual work on is the unrounded sum, so with one of them the
// product goes through f32, some rows at a time.
void bf16_by_onednn(Context& context, const MatrixProduct& p) {
  constexpr int64_t kSumBytes = 16 << 20;
  const bool through_f32 = p.finishes() && !p.sums_in_out();
  const int64_t most = through_f32 ? std::max<int64_t>(64, kSumBytes / 4 / p.n / 64 * 64) : p.m;
  const auto part = [&](int64_t row) {
    OneDnnProduct product = for_onednn(p);
    product.m = std::min(most, p.m - row);
    product.a = static_cast<const char*>(p.a) + 2 * row * (p.a_transposed ? 1 : p.a_stride);
    product.out = static_cast<char*>(p.out) + element_bytes(p.out_dtype) * row * p.out_stride;
    if (through_f32) {
      product.out_stride = p.n;
      product.add = false;  // finish() does
    }
    return product;
  };
  const bool bf16_out = !through_f32 && p.out_dtype != GATUN_F32;
  const int64_t last = (p.m - 1) / most * most;
  const auto first_scratch = onednn_bf16_scratch_bytes(context.threads, part(0), bf16_out);
  const auto last_scratch = onednn_bf16_scratch_bytes(context.threads, part(last), bf16_out);
  if (!first_scratch || !last_scratch) return packed_products(context, p, Batch());
  const size_t sums_bytes =
      through_f32 ? (static_cast<size_t>(std::min(most, p.m) * p.n) * 4 + 63) / 64 * 64 : 0;
  char* const workspace =
      static_cast<char*>(context.workspace(sums_bytes + std::max(*first_scratch, *last_scratch)));
  for (int64_t row = 0; row < p.m; row += most) {
    OneDnnProduct product = part(row);
    if (through_f32) product.out = workspace;
    if (!onednn_bf16_product(context.threads, product, bf16_out, workspace + sums_bytes))
      fail(GATUN_INTERNAL, "matmul: oneDNN compiled a product and did not run it");
    if (p.finishes()) {
      finish_rows(context, p, static_cast<const float*>(product.out), product.out_stride, row,
                  product.m);
    }
  }
}

// Whether oneDNN computes this batch, one product after the other with all threads.
bool fits_onednn(const MatrixProduct& p, const Batch& batch) {
  constexpr int kLevel = kLanes == 16 ? 3 : kLanes == 8 ? 2 : 1;
  if (p.in_dtype == GATUN_F16 || p.k == 0 || !onednn_serves(kLevel)) return false;
  const double flops =
      2.0 * static_cast<double>(p.m) * static_cast<double>(p.n) * static_cast<double>(p.k);
  return flops >= (batch.count > 1 ? kOneDnnBatchFlops : kOneDnnFlops);
}

// Adds V vectors of `count` rows at column c to totals.
template <int V, typename T>
inline void add_columns(const T* const* rows, int64_t count, int64_t c, float* totals) {
  vf sums[V] = {};
  for (int64_t r = 0; r < count; ++r) {
#pragma GCC unroll 8
    for (int i = 0; i < V; ++i) sums[i] += load(rows[r] + c + i * kLanes);
  }
#pragma GCC unroll 8
  for (int i = 0; i < V; ++i) {
    float* total = totals + c + i * kLanes;
    store(total, load(total) + sums[i]);
  }
}

// Sums of columns [begin, end) over all rows, in blocks of kRows whose sums are added to `totals`
// (two levels keep the rounding error of long columns small).
template <typename T>
void column_sums(const View& dy, const Rows<1>& rows, int64_t begin, int64_t end, float* totals) {
  constexpr int64_t kRows = 64;
  const T* row_at[kRows];
  std::fill(totals + begin, totals + end, 0.f);
  for (int64_t first = 0; first < rows.count; first += kRows) {
    const int64_t count = std::min(kRows, rows.count - first);
    rows.walk_rows(first, first + count, [&](const int64_t(&at)[1], int64_t row) {
      row_at[row - first] = dy.as<T>() + at[0];
    });
    int64_t c = begin;
    for (; c + 8 * kLanes <= end; c += 8 * kLanes) add_columns<8>(row_at, count, c, totals);
    for (; c + 2 * kLanes <= end; c += 2 * kLanes) add_columns<2>(row_at, count, c, totals);
    for (; c + kLanes <= end; c += kLanes) add_columns<1>(row_at, count, c, totals);
    for (; c < end; ++c)
      for (int64_t r = 0; r < count; ++r) totals[c] += to_float(row_at[r][c]);
  }
}

}  // namespace

void matmul(Context& context, const MatMul& args) {
  if (args.out.elements() == 0) return;
  const Shape shape(args);
  const MatrixProduct& product = shape.product;
  const Batch& batch = shape.batch;
  if (product.m <= kFewRows && batch.count == 1) {
    few_rows_product(context, product);
  } else if (!fits_onednn(product, batch)) {
    packed_products(context, product, batch);
  } else {
    for (int64_t i = 0; i < batch.count; ++i) {
      const MatrixProduct p = batch.at(product, i);
      p.in_dtype == GATUN_F32 ? f32_by_onednn(context, p) : bf16_by_onednn(context, p);
    }
  }
}

void bias_backward(Context& context, const BiasBackward& args) {
  const int64_t n = args.dbias.size(0);
  if (n == 0) return;
  const bool add = adds(args.accumulate, 0);
  const Rows<1> rows({&args.dy}, Merge::kKeepLast);
  float* totals = static_cast<float*>(context.workspace(static_cast<size_t>(n) * sizeof(float)));
  parallel_parts(
      context, n, kLanes, rows.elements() < kSerialElements, [&](int64_t begin, int64_t end) {
        with_float(args.dy.dtype,
                   [&]<typename T>() { column_sums<T>(args.dy, rows, begin, end, totals); });
        with_float(args.dbias.dtype, [&]<typename T>() {
          T* dbias = args.dbias.as<T>();
          for (int64_t i = begin; i < end; ++i) {
            const float old = add ? to_float(dbias[i]) : 0.f;
            dbias[i] = from_float<T>(old + totals[i]);
          }
        });
      });
}

}  // namespace gatun::cpu::GATUN_LEVEL
