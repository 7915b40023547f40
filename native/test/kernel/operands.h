// What the tests of elementwise kernels share: strided tensors in device memory with canaries
// around every element that does not belong to them, read and written as double.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <random>
#include <string>
#include <type_traits>
#include <vector>

#include "../sim_testing.h"
#include "ops/args.h"
#include "tile.cuh"

inline std::mt19937_64 generator;

template <typename T>
T pick(std::initializer_list<T> from) {
  return from.begin()[generator() % from.size()];
}

// How a tensor lies in memory: dense; with a gap after each row that keeps its alignment; with one
// that does not, from a misaligned start; with its dimensions in reversed order.
enum class Form { kDense, kGaps, kRagged, kReversed };

inline Form any_form() {
  return pick({Form::kDense, Form::kDense, Form::kGaps, Form::kRagged, Form::kReversed});
}

template <typename T>
class Operand {
 public:
  std::vector<int64_t> shape, stride;

  Operand(std::vector<int64_t> sizes, Form form) : shape(std::move(sizes)), stride(shape.size()) {
    const int rank = static_cast<int>(shape.size());
    int64_t step = 1;
    for (int i = 0; i < rank; ++i) {
      const int d = form == Form::kReversed ? i : rank - 1 - i;
      stride[static_cast<size_t>(d)] = step;
      step *= shape[static_cast<size_t>(d)];
      if (i == 0 && form == Form::kGaps) step = (step + 15) / 16 * 16 + 16;
      if (i == 0 && form == Form::kRagged) step += 3;
    }
    count_ = 1;
    for (int64_t size : shape) count_ *= size;
    first_ = kMargin + (form == Form::kRagged ? 1 : 0);
    // ends with the last element: a read behind it is outside of the allocation
    memory_.resize(static_cast<size_t>(first_ + (count_ == 0 ? 0 : offset(count_ - 1) + 1)) *
                   sizeof(T));
    std::memset(memory_.data(), 0xA5, memory_.size());
    shadow_ = contents();
  }

  int64_t count() const { return count_; }
  T* data() { return reinterpret_cast<T*>(memory_.data()) + first_; }
  gatun::View view() {
    gatun::View v;
    v.data = data();
    v.dtype = GATUN_F32;  // any: that of the test's template
    v.rank = static_cast<int32_t>(shape.size());
    std::copy(shape.begin(), shape.end(), v.shape);
    std::copy(stride.begin(), stride.end(), v.stride);
    return v;
  }

  T& at(int64_t index) { return data()[offset(index)]; }
  double get(int64_t index) {
    if constexpr (std::is_arithmetic_v<T>)
      return static_cast<double>(at(index));
    else
      return gatun::kernels::to_float(at(index));
  }
  void set(int64_t index, double value) { at(index) = from(value); }
  // The element that holds the value, rounded as a device does it.
  static T from(double value) {
    if constexpr (std::is_integral_v<T>)
      return static_cast<T>(static_cast<int64_t>(value));
    else
      return gatun::kernels::from_float<T>(static_cast<float>(value));
  }
  std::vector<double> values() {
    std::vector<double> all(static_cast<size_t>(count_));
    for (int64_t i = 0; i < count_; ++i) all[static_cast<size_t>(i)] = get(i);
    return all;
  }
  Operand& random() {
    std::normal_distribution<double> normal(0, 2);
    for (int64_t i = 0; i < count_; ++i)
      set(i, std::is_integral_v<T> ? static_cast<double>(generator() % 100) : normal(generator));
    return *this;
  }

  // Whether only elements were written since the start.
  bool canaries() {
    std::vector<unsigned char> now = contents();
    for (int64_t i = 0; i < count_; ++i) {
      const auto place = static_cast<size_t>(first_ + offset(i)) * sizeof(T);
      std::copy_n(shadow_.begin() + static_cast<int64_t>(place), sizeof(T),
                  now.begin() + static_cast<int64_t>(place));
    }
    return now == shadow_;
  }
  std::vector<unsigned char> contents() const { return {memory_.begin(), memory_.end()}; }

 private:
  static constexpr int64_t kMargin = 64;

  DeviceVector<unsigned char> memory_;
  std::vector<unsigned char> shadow_;
  int64_t first_, count_;

  int64_t offset(int64_t index) const {
    int64_t at = 0;
    for (size_t d = shape.size(); d-- > 0; index /= std::max<int64_t>(1, shape[d]))
      at += index % std::max<int64_t>(1, shape[d]) * stride[d];
    return at;
  }
};

// Waits for what was launched.
inline bool ran(const char* what, cudaError_t launched) {
  ++checks;
  const cudaError_t error = launched != cudaSuccess ? launched : cudaDeviceSynchronize();
  if (error != cudaSuccess) report("%s: %s", what, cudaGetErrorString(error));
  return error == cudaSuccess;
}

// Compares with what truth(index) gives, within `tolerance` of it; NaN equals NaN.
template <typename T, typename Truth>
void compare(const std::string& what, Operand<T>& had, double tolerance, Truth truth) {
  ++checks;
  for (int64_t i = 0; i < had.count(); ++i) {
    const double wanted = truth(i), got = had.get(i);
    if (std::isnan(wanted) ? std::isnan(got)
                           : wanted == got || std::fabs(wanted - got) <= tolerance)
      continue;
    report("%s [%lld]: had %.9g, wanted %.9g within %.3g", what.c_str(), static_cast<long long>(i),
           got, wanted, tolerance);
    break;
  }
  ++checks;
  if (!had.canaries()) report("%s: wrote outside of its elements", what.c_str());
}

// The value that a T would hold.
template <typename T>
double rounded_to(double x) {
  return gatun::kernels::to_float(gatun::kernels::from_float<T>(static_cast<float>(x)));
}

template <typename T>
constexpr double kUlp = sizeof(T) == 4              ? 0x1p-23
                        : std::is_same_v<T, __half> ? 0x1p-10
                                                    : 0x1p-7;

template <typename F>
void for_each_float(F f) {
  f(float());
  f(__half());
  f(__nv_bfloat16());
}

// That what `run` launches moves these bytes through ptx.cuh, in whole sectors of 32 bytes.
template <typename Run>
void expect_traffic(const char* what, int64_t loaded, int64_t stored, Run run) {
  simt::reset_counters();
  simt::count_memory(true);
  const bool done = ran(what, run());
  simt::count_memory(false);
  if (!done) return;
  const simt::Counters had = simt::counters();
  std::printf("%s: loaded %lld bytes of %lld, stored %lld of %lld\n", what,
              static_cast<long long>(had.load.bytes), static_cast<long long>(loaded),
              static_cast<long long>(had.store.bytes), static_cast<long long>(stored));
  ++checks;
  if (had.load.bytes != loaded || had.store.bytes != stored ||
      had.load.sectors * 32 != had.load.bytes || had.store.sectors * 32 != had.store.bytes)
    report("%s: %lld sectors loaded, %lld stored", what, static_cast<long long>(had.load.sectors),
           static_cast<long long>(had.store.sectors));
}
