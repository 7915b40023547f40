// Products of few rows, as decoding makes them: each byte of b is read once, straight into the
// sums, in either orientation; nothing is packed. What limits them is memory, so every loop asks
// for what it will need some way ahead: rows of b lie a page or more apart, where the hardware's
// prefetchers do not follow.
#include <algorithm>
#include <array>
#include <utility>

#include "cpu/dispatch.h"
#include "cpu/level/backend.h"
#include "cpu/level/product.h"
#include "cpu/level/rows.h"
#include "cpu/level/vec.h"

namespace gatun::cpu::GATUN_LEVEL {
namespace {

// Registers for sums (dots) or factors (add_rows): half of them.
constexpr int kSums = kLanes == 16 ? 16 : 8;

struct Operands {
  const float* a;  // [M][k]
  const void* b;
  int64_t b_stride;
  int64_t k;
  float* sums;  // [M][n]
  int64_t n;
};

// Adds R rows of b [K, N] from row k on to columns [begin, end) of M sums: a's factors stay in
// registers, the sums in L1, and b streams by, a row at a time.
template <int M, int R, typename T>
inline void add_rows(const Operands& o, int64_t k, int64_t begin, int64_t end) {
  const T* const b = static_cast<const T*>(o.b) + k * o.b_stride;
  vf a[M][R];
#pragma GCC unroll 8
  for (int m = 0; m < M; ++m) {
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) a[m][r] = splat(o.a[m * o.k + k + r]);
  }
  int64_t c = begin;
  for (; c + kLanes <= end; c += kLanes) {
    vf sums[M];
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m) sums[m] = load(o.sums + m * o.n + c);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      __builtin_prefetch(b + (R + r) * o.b_stride + c);
      const vf x = load(b + r * o.b_stride + c);
#pragma GCC unroll 8
      for (int m = 0; m < M; ++m) sums[m] += x * a[m][r];
    }
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m) store(o.sums + m * o.n + c, sums[m]);
  }
  if (c < end) {
    const int count = static_cast<int>(end - c);
    for (int m = 0; m < M; ++m) {
      vf sums = load_first(o.sums + m * o.n + c, count);
      for (int r = 0; r < R; ++r) sums += load_first(b + r * o.b_stride + c, count) * a[m][r];
      store_first(o.sums + m * o.n + c, sums, count);
    }
  }
}

// Columns [begin, end) of M sums, b [K, N].
template <int M, typename T>
void straight(const Operands& o, int64_t begin, int64_t end) {
  constexpr int kRows = kSums / M;
  constexpr int64_t kColumns = 4096 / M;  // of sums: half of L1
  for (int m = 0; m < M; ++m) std::fill(o.sums + m * o.n + begin, o.sums + m * o.n + end, 0.f);
  for (int64_t c = begin; c < end; c += kColumns) {
    const int64_t last = std::min(end, c + kColumns);
    int64_t k = 0;
    for (; k + kRows <= o.k; k += kRows) add_rows<M, kRows, T>(o, k, c, last);
    for (; k < o.k; ++k) add_rows<M, 1, T>(o, k, c, last);
  }
}

// R rows of b [N, K] against M rows of a: sums of columns [c, c + R).
template <int M, int R, typename T>
inline void dots(const Operands& o, int64_t c) {
  const T* const b = static_cast<const T*>(o.b) + c * o.b_stride;
  vf sums[M][R] = {};
  int64_t k = 0;
  for (; k + kLanes <= o.k; k += kLanes) {
    vf x[R];
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      __builtin_prefetch(b + (R + r) * o.b_stride + k);
      x[r] = load(b + r * o.b_stride + k);
    }
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m) {
      const vf y = load(o.a + m * o.k + k);
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) sums[m][r] += x[r] * y;
    }
  }
  if (k < o.k) {
    const int count = static_cast<int>(o.k - k);
    for (int m = 0; m < M; ++m) {
      const vf y = load_first(o.a + m * o.k + k, count);
      for (int r = 0; r < R; ++r) sums[m][r] += load_first(b + r * o.b_stride + k, count) * y;
    }
  }
  for (int m = 0; m < M; ++m)
    for (int r = 0; r < R; ++r) o.sums[m * o.n + c + r] = sum(sums[m][r]);
}

template <int M, typename T>
void transposed(const Operands& o, int64_t begin, int64_t end) {
  constexpr int kRows = std::min(4, kSums / M);
  int64_t c = begin;
  for (; c + kRows <= end; c += kRows) dots<M, kRows, T>(o, c);
  for (; c < end; ++c) dots<M, 1, T>(o, c);
}

using Columns = void (*)(const Operands&, int64_t, int64_t);

template <typename T, int... M>
constexpr std::array<std::array<Columns, 2>, kFewRows> table(std::integer_sequence<int, M...>) {
  return {std::array<Columns, 2>{straight<M + 1, T>, transposed<M + 1, T>}...};
}

}  // namespace

void few_rows_product(Context& context, const MatrixProduct& p) {
  const int64_t a_floats = (p.m * p.k + 15) / 16 * 16;
  float* const a = static_cast<float*>(
      context.workspace(static_cast<size_t>(a_floats + p.m * p.n) * sizeof(float)));
  const Operands operands{a, p.b, p.b_stride, p.k, a + a_floats, p.n};
  with_float(p.in_dtype, [&]<typename T>() {
    for (int64_t m = 0; m < p.m; ++m) {
      const T* from = static_cast<const T*>(p.a) + m * (p.a_transposed ? 1 : p.a_stride);
      const int64_t step = p.a_transposed ? p.a_stride : 1;
      for (int64_t k = 0; k < p.k; ++k) a[m * p.k + k] = to_float(from[k * step]) * p.alpha;
    }
    static constexpr auto kTable = table<T>(std::make_integer_sequence<int, kFewRows>());
    const Columns columns = kTable[static_cast<size_t>(p.m - 1)][p.b_transposed ? 1 : 0];
    const bool f32 = p.out_dtype == GATUN_F32;
    parallel_parts(
        context, p.n, 2 * kLanes, p.k * p.n < kSerialElements, [&](int64_t begin, int64_t end) {
          columns(operands, begin, end);
          finish(p, operands.sums + begin, p.n, f32 ? static_cast<float*>(p.out) + begin : nullptr,
                 p.out_stride, f32 && p.add, true, p.m, end - begin, 0, begin);
        });
  });
}

}  // namespace gatun::cpu::GATUN_LEVEL
