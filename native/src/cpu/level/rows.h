// Walks operands of one shape together, in row-major order, in the longest runs in which all of
// them have stride 1; and hands equal parts of a range to the threads.
#pragma once

#include <algorithm>
#include <cstdint>

#include "core/backend.h"
#include "ops/args.h"

namespace gatun::cpu::GATUN_LEVEL {

// Work below this many elements is done by one thread: waking the others costs some microseconds.
constexpr int64_t kSerialElements = 32768;

// Calls f(begin, end) for equal consecutive parts of [0, n), one a thread, each but the last a
// multiple of `multiple`. The team is always context.threads or one: libgomp ends and starts
// threads when the team's size changes.
template <typename F>
inline void parallel_parts(const Context& context, int64_t n, int64_t multiple, bool serial, F f) {
  const int threads = context.threads;
  if (serial || threads <= 1) {
    if (n > 0) f(int64_t{0}, n);
    return;
  }
  const int64_t each = ((n + threads - 1) / threads + multiple - 1) / multiple * multiple;
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int t = 0; t < threads; ++t) {
    const int64_t begin = std::min(n, t * each);
    const int64_t end = std::min(n, begin + each);
    if (begin < end) f(begin, end);
  }
}

enum class Merge { kAll, kKeepLast };

template <int N>
struct Rows {
  int64_t length = 1;  // elements of a row: stride 1 in every operand
  int64_t count = 1;   // rows
  int rank = 0;        // of the dimensions above the row, the innermost first
  int64_t shape[GATUN_MAX_RANK];
  int64_t stride[N][GATUN_MAX_RANK];

  // kAll makes rows as long as the strides allow. kKeepLast keeps the last dimension as the row;
  // an operand with one dimension less than the first (a statistic of each row) is then walked by
  // its whole shape, one element a row.
  Rows(const View* const (&views)[N], Merge merge) {
    const View& first = *views[0];
    int d = first.rank - 1;
    if (merge == Merge::kKeepLast) {
      length = first.size(0);
      --d;
    }
    bool grows = merge == Merge::kAll;
    for (; d >= 0; --d) {
      const int64_t size = first.shape[d];
      count *= size;
      if (size == 1) continue;
      int64_t step[N];
      bool extends_row = grows;
      bool extends_outer = rank > 0;
      for (int i = 0; i < N; ++i) {
        step[i] = views[i]->stride[d];
        extends_row = extends_row && step[i] == length;
        extends_outer = extends_outer && step[i] == stride[i][rank - 1] * shape[rank - 1];
      }
      if (extends_row) {
        length *= size;
        count /= size == 0 ? 1 : size;
        continue;
      }
      grows = false;
      if (extends_outer) {
        shape[rank - 1] *= size;
        continue;
      }
      shape[rank] = size;
      for (int i = 0; i < N; ++i) stride[i][rank] = step[i];
      ++rank;
    }
  }

  int64_t elements() const { return length * count; }

  // Calls f(offset of each operand in elements, run length, logical index of the run's start) for
  // the runs of the elements [begin, end).
  template <typename F>
  void walk(int64_t begin, int64_t end, F f) const {
    if (begin >= end) return;
    int64_t row = begin / length;
    int64_t column = begin % length;
    int64_t digit[GATUN_MAX_RANK];
    int64_t offset[N] = {};
    for (int d = 0; d < rank; ++d) {
      digit[d] = row % shape[d];
      row /= shape[d];
      for (int i = 0; i < N; ++i) offset[i] += digit[d] * stride[i][d];
    }
    while (true) {
      const int64_t n = std::min(length - column, end - begin);
      int64_t at[N];
      for (int i = 0; i < N; ++i) at[i] = offset[i] + column;
      f(at, n, begin);
      begin += n;
      if (begin >= end) return;
      column = 0;
      for (int d = 0; d < rank; ++d) {
        for (int i = 0; i < N; ++i) offset[i] += stride[i][d];
        if (++digit[d] < shape[d]) break;
        for (int i = 0; i < N; ++i) offset[i] -= shape[d] * stride[i][d];
        digit[d] = 0;
      }
    }
  }

  // The offsets of the rows [begin, end): f(offset of each operand, row).
  template <typename F>
  void walk_rows(int64_t begin, int64_t end, F f) const {
    walk(begin * length, end * length,
         [&](const int64_t(&at)[N], int64_t, int64_t index) { f(at, index / length); });
  }
};

// An elementwise op: f(offsets, run length, logical index of its start) over all elements, in
// parallel where that pays.
template <int N, typename F>
inline void each_run(const Context& context, const View* const (&views)[N], F f) {
  const Rows<N> rows(views, Merge::kAll);
  const int64_t n = rows.elements();
  parallel_parts(context, n, 64, n < kSerialElements,
                 [&](int64_t begin, int64_t end) { rows.walk(begin, end, f); });
}

}  // namespace gatun::cpu::GATUN_LEVEL
