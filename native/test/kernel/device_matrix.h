// What tests of kernels share: random matrices in device memory that show who reads or writes
// around them.
#pragma once

#include <cstdint>
#include <cstring>
#include <random>
#include <vector>

#include "element.h"
#include "rows.h"
#include "simt.h"
#include "tally.h"
#include "tile.cuh"

namespace gatun::kernels {

inline int pick(int count) { return static_cast<int>(generator() % static_cast<unsigned>(count)); }

// `products` matrices in device memory. What lies before and between their elements is NaN: whoever
// reads it shows it, whoever writes it is seen by untouched(). Behind the last the allocation ends.
struct Matrix {
  ElementType type;
  int64_t products, rows, columns, stride, product_stride;
  std::vector<unsigned char, simt::DeviceAllocator<unsigned char>> memory;
  char* data;
  std::vector<unsigned char> before;

  // shift: elements between data and an address aligned to 64
  Matrix(ElementType t, int64_t p, int64_t r, int64_t c, int64_t gap, int64_t shift)
      : type(t),
        products(p),
        rows(r),
        columns(c),
        stride(c + gap),
        product_stride(r * stride + 2 * gap) {
    const int64_t behind =  // the last element
        products * rows * columns == 0
            ? 0
            : (products - 1) * product_stride + (rows - 1) * stride + columns;
    memory.assign(static_cast<size_t>(64 + (shift + behind) * size()), 0xff);
    data = bytes() + 64 + shift * size();
  }
  Matrix(const Matrix&) = delete;
  char* bytes() { return reinterpret_cast<char*>(memory.data()); }
  int64_t size() const { return static_cast<int64_t>(size_of(type)); }
  void* at(int64_t p, int64_t r, int64_t c) const {
    return data + (p * product_stride + r * stride + c) * size();
  }
  double get(int64_t p, int64_t r, int64_t c) const { return value_at(type, at(p, r, c)); }
  void set(int64_t p, int64_t r, int64_t c, float value) { set_value(type, at(p, r, c), value); }
  template <typename F>
  void fill(F value) {
    for (int64_t p = 0; p < products; ++p)
      for (int64_t r = 0; r < rows; ++r)
        for (int64_t c = 0; c < columns; ++c) set(p, r, c, static_cast<float>(value(p, r, c)));
  }
  void random() {
    std::normal_distribution<float> normal;
    fill([&](int64_t, int64_t, int64_t) { return normal(generator); });
  }
  // All elements as doubles, [product][row][column].
  std::vector<double> values() const {
    std::vector<double> all;
    for (int64_t p = 0; p < products; ++p)
      for (int64_t r = 0; r < rows; ++r)
        for (int64_t c = 0; c < columns; ++c) all.push_back(get(p, r, c));
    return all;
  }
  std::vector<unsigned char> outside() {
    std::vector<unsigned char> copy(bytes(), bytes() + memory.size());
    for (int64_t p = 0; p < products; ++p)
      for (int64_t r = 0; r < rows; ++r)
        std::memset(copy.data() + (static_cast<char*>(at(p, r, 0)) - bytes()), 0,
                    static_cast<size_t>(columns * size()));
    return copy;
  }
  void remember() { before = outside(); }
  bool untouched() { return outside() == before; }
};

}  // namespace gatun::kernels
