// Elements of one type in the simulator's device memory, for tests of kernels against float64.
#pragma once

#include <cmath>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "element.h"
#include "rows.h"
#include "simt.h"
#include "tile.cuh"

namespace gatun::kernels {

template <typename T>
using DeviceVector = std::vector<T, simt::DeviceAllocator<T>>;

// A scalar on the device.
template <typename T>
struct Scalar {
  DeviceVector<T> memory{1};
  explicit Scalar(T value) { memory[0] = value; }
  T* at() { return memory.data(); }
  T value() const { return memory[0]; }
};

// Memory before and between the elements is 0xA5 and must stay so: intact(). Behind the last one
// the allocation ends.
class DeviceArray {
 public:
  // `rows` of `columns`, `gap` elements apart; `shift` elements past an address aligned to 16.
  DeviceArray(ElementType type, int64_t rows, int64_t columns, int64_t gap = 0, int64_t shift = 0)
      : type_(type), rows_(rows), columns_(columns), stride_(columns + gap), shift_(shift) {
    const int64_t behind = rows * columns == 0 ? 0 : (rows - 1) * stride_ + columns;
    memory_.assign(kMargin + static_cast<size_t>(offset(behind + shift)), 0xA5);
  }
  char* data() { return reinterpret_cast<char*>(memory_.data() + kMargin) + offset(shift_); }
  const char* data() const { return const_cast<DeviceArray*>(this)->data(); }
  ElementType type() const { return type_; }
  int64_t rows() const { return rows_; }
  int64_t columns() const { return columns_; }
  int64_t stride() const { return stride_; }
  int64_t elements() const { return rows_ * columns_; }

  // By logical index.
  double get(int64_t i) const { return value_at(type_, at(i)); }
  void set(int64_t i, double value) {
    set_value(type_, const_cast<char*>(at(i)), static_cast<float>(value));
  }
  template <typename Generator>
  DeviceArray& random(Generator& generator, double scale, double mean = 0) {
    std::normal_distribution<double> normal(mean, scale);
    for (int64_t i = 0; i < elements(); ++i) set(i, normal(generator));
    return *this;
  }
  std::vector<double> values() const {
    std::vector<double> all;
    for (int64_t i = 0; i < elements(); ++i) all.push_back(get(i));
    return all;
  }
  template <int kOperands>
  void describe(RowLayout<kOperands>& layout, int operand) const {
    layout.rows = rows_;
    layout.rank = rows_ == 1 ? 0 : 1;
    layout.shape[0] = rows_;
    layout.stride[operand][0] = stride_;
  }
  bool intact() const {
    std::vector<unsigned char> bytes(memory_.begin(), memory_.end());
    for (int64_t i = 0; i < elements(); ++i)
      std::memset(bytes.data() + (at(i) - reinterpret_cast<const char*>(memory_.data())), 0xA5,
                  size_of(type_));
    for (unsigned char byte : bytes)
      if (byte != 0xA5) return false;
    return true;
  }

 private:
  int64_t offset(int64_t element) const { return element * static_cast<int64_t>(size_of(type_)); }
  const char* at(int64_t i) const { return data() + offset(i / columns_ * stride_ + i % columns_); }

  static constexpr size_t kMargin = 128;  // a line

  ElementType type_;
  int64_t rows_, columns_, stride_, shift_;
  DeviceVector<unsigned char> memory_;
};

// Where the kernels of one launch report.
struct Faults {
  DeviceVector<uint32_t> taken{0};
  FaultRecord record = {};
  FaultSink sink() { return {taken.data(), &record}; }
};

// Counts checks and says what failed.
class Expectations {
 public:
  __attribute__((format(printf, 3, 4))) void operator()(bool holds, const char* format, ...) {
    ++checks_;
    if (holds || ++failures_ > 20) return;
    std::fprintf(stderr, "FAILED: ");
    va_list arguments;
    va_start(arguments, format);
    std::vfprintf(stderr, format, arguments);
    va_end(arguments);
    std::fprintf(stderr, "\n");
  }
  void count() { ++checks_; }
  // Waits for what was launched.
  bool ran(const std::string& what, cudaError_t launched) {
    const cudaError_t error = launched != cudaSuccess ? launched : cudaDeviceSynchronize();
    (*this)(error == cudaSuccess, "%s: %s", what.c_str(), cudaGetErrorString(error));
    return error == cudaSuccess;
  }
  // For main to return.
  int report() const {
    std::printf("%d checks, %d failures\n", checks_, failures_);
    return failures_ == 0 ? 0 : 1;
  }

 private:
  int checks_ = 0, failures_ = 0;
};

}  // namespace gatun::kernels
