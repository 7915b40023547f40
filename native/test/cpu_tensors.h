// For tests of a SIMD level's functions (cpu/levels.h): a context, random float tensors with gaps
// and canaries, and a comparison with the truth. Dtypes are rounded by arithmetic, not by the
// library's bit tricks.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "core/backend.h"
#include "cpu/levels.h"

namespace gatun::test {

inline uint64_t seed = 20261125;
inline std::mt19937_64 generator;
inline const char* level_name = "";
inline int failures = 0;
inline int64_t checks = 0;

__attribute__((format(printf, 1, 2))) inline void report(const char* format, ...) {
  if (++failures > 20) return;
  std::fprintf(stderr, "FAILED (seed %llu, level %s): ", static_cast<unsigned long long>(seed),
               level_name);
  va_list arguments;
  va_start(arguments, format);
  std::vfprintf(stderr, format, arguments);
  va_end(arguments);
  std::fputc('\n', stderr);
}

inline int64_t pick(std::initializer_list<int64_t> values) {
  return values.begin()[generator() % values.size()];
}
inline bool flip() { return generator() % 2 != 0; }

struct TestContext final : Context {
  std::vector<char> memory;
  gatun_status status = GATUN_OK;
  std::string sentence;

  explicit TestContext(int count) { threads = count; }
  void* workspace(size_t bytes) override {
    memory.assign(bytes + 64, static_cast<char>(0xff));  // NaN: a read before a write shows
    return reinterpret_cast<void*>((reinterpret_cast<uintptr_t>(memory.data()) + 63) &
                                   ~uintptr_t{63});
  }
  void fault(gatun_status which, const char* op, const char* format, ...) override {
    char text[256];
    va_list arguments;
    va_start(arguments, format);
    std::vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
#pragma omp critical
    if (status == GATUN_OK) {
      status = which;
      sentence = std::string(op) + ": " + text;
    }
  }
};

constexpr int32_t kFloats[] = {GATUN_F32, GATUN_F16, GATUN_BF16};

inline const char* name(int32_t dtype) {
  return dtype == GATUN_F32    ? "f32"
         : dtype == GATUN_F16  ? "f16"
         : dtype == GATUN_BF16 ? "bf16"
                               : "integer";
}
inline double ulp(int32_t dtype, double x) {
  const int digits = dtype == GATUN_F32 ? 24 : dtype == GATUN_F16 ? 11 : 8;
  int exponent = dtype == GATUN_F16 ? -14 : -126;
  if (x != 0 && std::isfinite(x)) exponent = std::max(exponent, std::ilogb(x));
  return std::ldexp(1., exponent - digits + 1);
}
// The nearest value of the dtype, ties to even.
inline double rounded(int32_t dtype, double x) {
  if (!std::isfinite(x)) return x;
  const double unit = ulp(dtype, x);
  const double y = std::nearbyint(x / unit) * unit;
  const double largest = dtype == GATUN_F32   ? 3.4028234663852886e38
                         : dtype == GATUN_F16 ? 65504.
                                              : 3.3895313892515355e38;
  return std::fabs(y) > largest ? std::copysign(INFINITY, y) : y;
}
inline int64_t bytes_of(int32_t dtype) {
  return dtype == GATUN_I64 ? 8 : dtype == GATUN_F32 || dtype == GATUN_I32 ? 4 : 2;
}

// Canaries stand before, after and between the rows.
struct Tensor {
  int32_t dtype;
  std::vector<int64_t> shape, stride;
  std::vector<unsigned char> memory, before;
  static constexpr int64_t kMargin = 64;

  // Contiguous, or with gaps between rows where `gaps`.
  Tensor(int32_t type, std::vector<int64_t> dims, bool gaps = false)
      : dtype(type), shape(std::move(dims)), stride(shape.size()) {
    int64_t extent = 1;
    for (size_t d = shape.size(); d-- > 0;) {
      stride[d] = extent;
      extent *= shape[d];
      if (gaps) extent += static_cast<int64_t>(generator() % 5);
    }
    memory.assign(static_cast<size_t>(2 * kMargin + extent * bytes_of(dtype)), 0xA5);
  }
  int64_t size() const {
    int64_t n = 1;
    for (int64_t s : shape) n *= s;
    return n;
  }
  View view() {
    View v;
    v.data = memory.data() + kMargin;
    v.dtype = dtype;
    v.rank = static_cast<int32_t>(shape.size());
    for (size_t d = 0; d < shape.size(); ++d) {
      v.shape[d] = shape[d];
      v.stride[d] = stride[d];
    }
    before = memory;
    return v;
  }
  unsigned char* address(int64_t index) {
    int64_t at = 0;
    for (size_t d = shape.size(); d-- > 0;) {
      at += index % shape[d] * stride[d];
      index /= shape[d];
    }
    return memory.data() + kMargin + at * bytes_of(dtype);
  }
  template <typename T>
  T raw(int64_t index) {
    T x;
    std::memcpy(&x, address(index), sizeof x);
    return x;
  }
  template <typename T>
  void set_raw(int64_t index, T x) {
    std::memcpy(address(index), &x, sizeof x);
  }
  double get(int64_t index) {
    switch (dtype) {
      case GATUN_F32:
        return raw<float>(index);
      case GATUN_F16:
        return static_cast<double>(raw<_Float16>(index));
      case GATUN_BF16: {
        const uint32_t bits = static_cast<uint32_t>(raw<uint16_t>(index)) << 16;
        float x;
        std::memcpy(&x, &bits, sizeof x);
        return x;
      }
      case GATUN_I32:
        return raw<int32_t>(index);
      default:
        return static_cast<double>(raw<int64_t>(index));
    }
  }
  void set(int64_t index, double value) {
    switch (dtype) {
      case GATUN_F32:
        return set_raw(index, static_cast<float>(value));
      case GATUN_F16:
        return set_raw(index, static_cast<_Float16>(rounded(dtype, value)));
      case GATUN_BF16: {
        const float x = static_cast<float>(rounded(dtype, value));
        uint32_t bits;
        std::memcpy(&bits, &x, sizeof bits);
        return set_raw(index, static_cast<uint16_t>(bits >> 16));
      }
      case GATUN_I32:
        return set_raw(index, static_cast<int32_t>(value));
      default:
        return set_raw(index, static_cast<int64_t>(value));
    }
  }
  Tensor& random(double scale = 1) {
    std::normal_distribution<double> normal;
    for (int64_t i = 0; i < size(); ++i) set(i, normal(generator) * scale);
    return *this;
  }
  std::vector<double> values() {
    std::vector<double> v(static_cast<size_t>(size()));
    for (int64_t i = 0; i < size(); ++i) v[static_cast<size_t>(i)] = get(i);
    return v;
  }
  // Nothing but the elements may have changed since view().
  void check_canaries(const std::string& what) {
    ++checks;
    std::vector<bool> element(memory.size());
    for (int64_t i = 0; i < size(); ++i)
      for (int64_t b = 0; b < bytes_of(dtype); ++b)
        element[static_cast<size_t>(address(i) - memory.data() + b)] = true;
    for (size_t i = 0; i < memory.size(); ++i) {
      if (!element[i] && memory[i] != before[i])
        return report("%s: byte %lld outside of the elements was written", what.c_str(),
                      static_cast<long long>(i) - static_cast<long long>(kMargin));
    }
  }
};

// Element i may be off by its own tolerance, made by the caller from what was added up for it, and
// half a unit of the dtype's last place (two of them near a tie).
inline void check(const std::string& what, Tensor& result, const std::vector<double>& truth,
                  const std::vector<double>& tolerance) {
  ++checks;
  for (size_t i = 0; i < truth.size(); ++i) {
    const double had = result.get(static_cast<int64_t>(i));
    const double off = tolerance[i] + 1.01 * ulp(result.dtype, truth[i]);
    const bool same = std::isfinite(truth[i]) ? std::fabs(had - truth[i]) <= off
                      : std::isnan(truth[i])  ? std::isnan(had)
                                              : had == truth[i];
    if (!same) {
      report("%s, %s, element %zu: had %.9g, wanted %.9g within %.3g", what.c_str(),
             name(result.dtype), i, had, truth[i], off);
      break;
    }
  }
  result.check_canaries(what);
}

// Runs the test on every SIMD level that this machine has, with 1 and more threads.
template <typename F>
int run_levels(int argc, char** argv, F test) {
  if (argc > 1) seed = std::strtoull(argv[1], nullptr, 10);
  struct Level {
    const char* name;
    const Backend* backend;
    bool here;
  };
  const Level levels[] = {
      {"plain", &gatun_backend_plain, true},
      {"avx2", &gatun_backend_avx2,
       __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")},
      {"avx512", &gatun_backend_avx512,
       __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl")},
  };
  for (const Level& level : levels) {
    if (!level.here) {
      std::printf("%s: skipped, this processor lacks it\n", level.name);
      continue;
    }
    level_name = level.name;
    for (int threads : {1, 2, 5}) {
      generator.seed(seed);
      test(*level.backend, threads);
    }
  }
  std::printf("seed %llu: %lld checks, %d failures\n", static_cast<unsigned long long>(seed),
              static_cast<long long>(checks), failures);
  return failures == 0 && checks > 0 ? 0 : 1;
}

}  // namespace gatun::test
