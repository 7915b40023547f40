// Rows more than 2^31 elements apart, in a mapping of which only what is touched takes memory.
#pragma once

#include <cstdint>
#include <cstring>

#include "simt.h"

// Sanitizers keep a map of all address space.
#if defined(GATUN_SIM_ASAN) || defined(GATUN_SIM_TSAN)
constexpr bool kFarRows = false;
#else
constexpr bool kFarRows = true;
#endif

// Of an elementwise or a norm kernel: all operands have these rows, `stride` elements apart.
template <typename Runs>
void lay_rows(Runs& runs, int64_t rows, decltype(Runs::columns) columns, int64_t stride) {
  runs.columns = columns;
  runs.layout.rows = runs.layout.shape[0] = rows;
  runs.layout.rank = 1;
  for (auto& step : runs.layout.stride) step[0] = stride;
}

template <typename T>
struct FarRows {
  static constexpr int64_t kApart = (int64_t{1} << 31) + 24;
  const int64_t rows, columns;
  T* const data;

  FarRows(int64_t r, int64_t c)
      : rows(r),
        columns(c),
        data(static_cast<T*>(
            simt::allocate_sparse(static_cast<size_t>((r - 1) * kApart + c) * sizeof(T)))) {}
  FarRows(const FarRows&) = delete;
  ~FarRows() { simt::release(data); }
  // From and against rows that lie one after another.
  void fill(const T* from) {
    for (int64_t r = 0; r < rows; ++r)
      std::memcpy(data + r * kApart, from + r * columns, static_cast<size_t>(columns) * sizeof(T));
  }
  bool equals(const T* other) const {
    for (int64_t r = 0; r < rows; ++r)
      if (std::memcmp(data + r * kApart, other + r * columns,
                      static_cast<size_t>(columns) * sizeof(T)) != 0)
        return false;
    return true;
  }
};
