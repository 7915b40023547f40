// Values, norms, embedding, activations and dropout of every SIMD level against float64 references
// written here, on ragged and strided random tensors. Tolerance: twice the largest error of a plain
// computation in f32, rounded to the same dtype, plus two units in the last place of the largest
// truth. Usage: cpu_rows_test [seed]
#include <algorithm>
#include <cmath>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "core/backend.h"
#include "cpu/levels.h"
#include "philox.h"

namespace {

using namespace gatun;

uint64_t seed = 20261125;
std::mt19937_64 generator;
const char* level_name = "";
int failures = 0;
int64_t checks = 0;

__attribute__((format(printf, 1, 2))) void report(const char* format, ...) {
  if (++failures > 20) return;
  std::fprintf(stderr, "FAILED (seed %llu, level %s): ", static_cast<unsigned long long>(seed),
               level_name);
  va_list arguments;
  va_start(arguments, format);
  std::vfprintf(stderr, format, arguments);
  va_end(arguments);
  std::fputc('\n', stderr);
}

struct TestContext final : Context {
  std::vector<char> memory;
  gatun_status status = GATUN_OK;
  std::string sentence;

  explicit TestContext(int count) { threads = count; }
  void* workspace(size_t bytes) override {
    memory.assign(bytes + 64, static_cast<char>(0xff));  // NaN, -1: what is not written shows
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

// ---- dtypes, by arithmetic instead of the library's bit tricks ----

constexpr int32_t kFloats[] = {GATUN_F32, GATUN_F16, GATUN_BF16};

const char* name(int32_t dtype) {
  constexpr const char* kNames[] = {"f32", "f16", "bf16", "u8", "i8", "i32", "i64"};
  return kNames[dtype];
}
int digits(int32_t dtype) { return dtype == GATUN_F32 ? 24 : dtype == GATUN_F16 ? 11 : 8; }
int least_exponent(int32_t dtype) { return dtype == GATUN_F16 ? -14 : -126; }
double largest(int32_t dtype) {
  return dtype == GATUN_F32   ? std::numeric_limits<float>::max()
         : dtype == GATUN_F16 ? 65504.
                              : 3.3895313892515355e38;
}
double ulp(int32_t dtype, double x) {
  int exponent = least_exponent(dtype);
  if (x != 0) exponent = std::max(exponent, std::ilogb(x));
  return std::ldexp(1., exponent - digits(dtype) + 1);
}
// The nearest value of the dtype, ties to even.
double rounded(int32_t dtype, double x) {
  if (!std::isfinite(x)) return x;
  const double unit = ulp(dtype, x);
  const double y = std::nearbyint(x / unit) * unit;
  return std::fabs(y) > largest(dtype) ? std::copysign(INFINITY, y) : y;
}

int bytes_of(int32_t dtype) {
  constexpr int kBytes[] = {4, 2, 2, 1, 1, 4, 8};
  return kBytes[dtype];
}

// ---- tensors with canaries before, after and between their rows ----

struct Tensor {
  int32_t dtype;
  std::vector<int64_t> shape, stride;
  std::vector<unsigned char> memory, before;
  static constexpr int64_t kMargin = 64;

  // Contiguous, or with gaps between rows where `gaps`.
  Tensor(int32_t type, std::vector<int64_t> dims, bool gaps = false)
      : dtype(type), shape(std::move(dims)), stride(shape.size()) {
    int64_t extent = 1;
    for (int d = static_cast<int>(shape.size()) - 1; d >= 0; --d) {
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
  int64_t offset(int64_t index) const {
    int64_t at = 0;
    for (int d = static_cast<int>(shape.size()) - 1; d >= 0; --d) {
      at += index % shape[d] * stride[d];
      index /= shape[d];
    }
    return at;
  }
  unsigned char* address(int64_t index) {
    return memory.data() + kMargin + offset(index) * bytes_of(dtype);
  }
  double get(int64_t index) {
    const unsigned char* p = address(index);
    switch (dtype) {
      case GATUN_F32: {
        float x;
        std::memcpy(&x, p, 4);
        return x;
      }
      case GATUN_F16: {
        _Float16 x;
        std::memcpy(&x, p, 2);
        return static_cast<double>(x);
      }
      case GATUN_BF16: {
        unsigned char wide[4] = {0, 0, p[0], p[1]};
        float x;
        std::memcpy(&x, wide, 4);
        return x;
      }
      case GATUN_U8:
        return *p;
      case GATUN_I8:
        return static_cast<signed char>(*p);
      case GATUN_I32: {
        int32_t x;
        std::memcpy(&x, p, 4);
        return x;
      }
      default: {
        int64_t x;
        std::memcpy(&x, p, 8);
        return static_cast<double>(x);
      }
    }
  }
  void set(int64_t index, double value) {
    unsigned char* p = address(index);
    switch (dtype) {
      case GATUN_F32: {
        const float x = static_cast<float>(value);
        std::memcpy(p, &x, 4);
        return;
      }
      case GATUN_F16: {
        const _Float16 x = static_cast<_Float16>(rounded(GATUN_F16, value));
        std::memcpy(p, &x, 2);
        return;
      }
      case GATUN_BF16: {
        const float x = static_cast<float>(rounded(GATUN_BF16, value));
        std::memcpy(p, reinterpret_cast<const unsigned char*>(&x) + 2, 2);
        return;
      }
      case GATUN_U8:
      case GATUN_I8:
        *p = static_cast<unsigned char>(static_cast<int>(value));
        return;
      case GATUN_I32: {
        const int32_t x = static_cast<int32_t>(value);
        std::memcpy(p, &x, 4);
        return;
      }
      default: {
        const int64_t x = static_cast<int64_t>(value);
        std::memcpy(p, &x, 8);
        return;
      }
    }
  }
  Tensor& random(double scale = 1, double shift = 0) {
    std::normal_distribution<double> normal;
    for (int64_t i = 0; i < size(); ++i) set(i, normal(generator) * scale + shift);
    return *this;
  }
  std::vector<double> values() {
    std::vector<double> v(static_cast<size_t>(size()));
    for (int64_t i = 0; i < size(); ++i) v[static_cast<size_t>(i)] = get(i);
    return v;
  }
  // Nothing but the elements may have changed since view().
  void check_canaries(const char* what) {
    ++checks;
    std::vector<bool> element(memory.size());
    for (int64_t i = 0; i < size(); ++i)
      for (int b = 0; b < bytes_of(dtype); ++b)
        element[static_cast<size_t>(address(i) - memory.data() + b)] = true;
    for (size_t i = 0; i < memory.size(); ++i)
      if (!element[i] && memory[i] != before[i])
        return report("%s: byte %zd outside of the elements was written", what,
                      static_cast<ssize_t>(i) - kMargin);
  }
};

std::string text(const std::vector<int64_t>& shape) {
  std::string s = "[";
  for (size_t i = 0; i < shape.size(); ++i) s += (i ? "," : "") + std::to_string(shape[i]);
  return s + "]";
}

// Compares a result with the truth; `plain` is the same computed plainly in f32, `magnitude` the
// largest of the numbers that are added up on the way.
void check(const std::string& what, Tensor& result, const std::vector<double>& truth,
           const std::vector<float>& plain, double magnitude = 0) {
  ++checks;
  double peak = 0, plain_error = 0;
  for (size_t i = 0; i < truth.size(); ++i) {
    if (!std::isfinite(truth[i])) continue;
    peak = std::max(peak, std::fabs(truth[i]));
    plain_error = std::max(
        plain_error, std::fabs(rounded(result.dtype, static_cast<double>(plain[i])) - truth[i]));
  }
  const double tolerance =
      2 * plain_error + 2 * ulp(result.dtype, peak) + 4 * std::ldexp(magnitude, -24);
  for (size_t i = 0; i < truth.size(); ++i) {
    const double had = result.get(static_cast<int64_t>(i));
    const bool same = std::isfinite(truth[i]) ? std::fabs(had - truth[i]) <= tolerance
                      : std::isnan(truth[i])  ? std::isnan(had)
                                              : had == truth[i];
    if (!same)
      return report("%s %s %s element %zu: had %.9g, wanted %.9g within %.3g", what.c_str(),
                    name(result.dtype), text(result.shape).c_str(), i, had, truth[i], tolerance);
  }
  result.check_canaries(what.c_str());
}
void check_exact(const std::string& what, Tensor& result, const std::vector<double>& truth) {
  ++checks;
  for (size_t i = 0; i < truth.size(); ++i) {
    const double had = result.get(static_cast<int64_t>(i));
    if (had != truth[i] && !(std::isnan(had) && std::isnan(truth[i])))
      return report("%s %s %s element %zu: had %.17g, wanted %.17g", what.c_str(),
                    name(result.dtype), text(result.shape).c_str(), i, had, truth[i]);
  }
  result.check_canaries(what.c_str());
}

template <typename A>
std::vector<A> as(const std::vector<double>& v) {
  return std::vector<A>(v.begin(), v.end());
}
std::vector<double> zeros(const std::vector<double>& v) { return std::vector<double>(v.size()); }

int64_t pick(std::initializer_list<int64_t> sizes) {
  return sizes.begin()[generator() % sizes.size()];
}

// ---- values ----

std::vector<int64_t> any_shape() {
  switch (generator() % 7) {
    case 0:
      return {};
    case 1:
      return {pick({0, 1, 2, 15, 17, 63, 64, 65, 1000, 40000})};
    case 2:
      return {pick({1, 3, 200}), pick({1, 2, 31, 33, 300})};
    case 3:
      return {pick({1, 3, 5}), pick({0, 1, 7}), pick({1, 16, 29})};
    case 4:
      return {2, pick({1, 3}), pick({1, 5}), pick({8, 33})};
    case 5:
      return {2, 3, 1, pick({1, 2}), 2, pick({1, 5, 64})};
    default:
      return {pick({1, 100, 999}), 1};
  }
}

void test_values(const Backend& backend, int threads) {
  for (int trial = 0; trial < 120; ++trial) {
    const bool gaps = generator() % 2 != 0;
    for (int32_t dtype :
         {GATUN_F32, GATUN_F16, GATUN_BF16, GATUN_U8, GATUN_I8, GATUN_I32, GATUN_I64}) {
      TestContext context(threads);
      Tensor out(dtype, any_shape(), gaps);
      const double value = dtype == GATUN_U8 ? 200.9 : -97.3;
      backend.fill(context, {out.view(), value});
      const double wanted = dtype <= GATUN_BF16 ? rounded(dtype, value) : std::trunc(value);
      check_exact("fill", out, std::vector<double>(static_cast<size_t>(out.size()), wanted));
      if (dtype == GATUN_I32 || dtype == GATUN_I64) {
        backend.increment(context, {out.view(), 12345});
        check_exact("increment", out,
                    std::vector<double>(static_cast<size_t>(out.size()), wanted + 12345));
      }
    }
    for (int32_t to : kFloats)
      for (int32_t from : kFloats) {
        TestContext context(threads);
        const std::vector<int64_t> shape = any_shape();
        Tensor src(from, shape, gaps), out(to, shape, generator() % 2 != 0);
        src.random(std::exp2(static_cast<double>(generator() % 60) - 30));
        if (shape.size() >= 2 && generator() % 3 == 0) src.stride[0] = 0;  // a repeated row
        constexpr double kSpecial[] = {NAN,   INFINITY, -INFINITY, -0.,    65519.99, 65520,
                                       1e-40, 5.9e-8,   2.9e-8,    6.1e-5, 3.4e38,   1e-45};
        for (int64_t i = 0; i < src.size(); i += 7)
          src.set(i, kSpecial[static_cast<size_t>(i / 7) % std::size(kSpecial)]);
        std::vector<double> wanted = src.values();
        for (double& x : wanted) x = rounded(to, x);
        backend.copy(context, {out.view(), src.view()});
        check_exact("copy", out, wanted);
      }
    for (int32_t to : {GATUN_U8, GATUN_I8, GATUN_I32, GATUN_I64})
      for (int32_t from : {GATUN_U8, GATUN_I8, GATUN_I32, GATUN_I64}) {
        if (to != from && (to < GATUN_I32 || from < GATUN_I32)) continue;
        TestContext context(threads);
        const std::vector<int64_t> shape = any_shape();
        Tensor src(from, shape, gaps), out(to, shape, generator() % 2 != 0);
        for (int64_t i = 0; i < src.size(); ++i)
          src.set(i, static_cast<double>(generator() % 251) - (from == GATUN_U8 ? 0 : 125));
        backend.copy(context, {out.view(), src.view()});
        check_exact("copy", out, src.values());
      }
    for (int32_t dtype : kFloats) {
      TestContext context(threads);
      const std::vector<int64_t> shape = any_shape();
      Tensor a(dtype, shape, gaps), b(dtype, shape, !gaps), out(dtype, shape, gaps);
      a.random(3);
      b.random();
      std::vector<double> wanted = a.values();
      for (size_t i = 0; i < wanted.size(); ++i)
        wanted[i] =
            rounded(dtype, static_cast<double>(static_cast<float>(wanted[i]) +
                                               static_cast<float>(b.get(static_cast<int64_t>(i)))));
      backend.add(context, {out.view(), a.view(), b.view()});
      check_exact("add", out, wanted);
      backend.add(context, {a.view(), a.view(), b.view()});
      check_exact("add in place", a, wanted);
    }
  }
}

// ---- random numbers ----

double word_uniform(const Philox& philox, int64_t step, uint64_t element) {
  const PhiloxStream stream{philox.seed, philox.site, static_cast<uint32_t>(step),
                            philox.micro_batch};
  return static_cast<double>(stream.word(element) >> 8) / 16777216;
}

void test_random(const Backend& backend, int threads) {
  for (int trial = 0; trial < 60; ++trial) {
    Tensor step(GATUN_I64, {});
    step.set(0, static_cast<double>(generator() % 100000));
    Philox philox{generator(),
                  static_cast<uint32_t>(generator() % 65536),
                  static_cast<uint32_t>(generator() % 8),
                  {}};
    if (trial % 2) philox.step = step.view();
    const int64_t step_value = trial % 2 ? static_cast<int64_t>(step.get(0)) : 0;
    for (int32_t dtype : kFloats) {
      TestContext context(threads);
      Tensor out(dtype, any_shape(), generator() % 2 != 0);
      const double low = trial % 3 ? -0.7 : 0, high = trial % 3 ? 2.3 : 1;
      backend.random_uniform(context, {out.view(), low, high, philox});
      std::vector<double> truth(static_cast<size_t>(out.size()));
      std::vector<float> plain(truth.size());
      for (size_t i = 0; i < truth.size(); ++i) {
        const double u = word_uniform(philox, step_value, i);
        truth[i] = low + (high - low) * u;
        plain[i] = static_cast<float>(low) + static_cast<float>(high - low) * static_cast<float>(u);
        const double had = out.get(static_cast<int64_t>(i));
        if (!(had >= low && had < high))
          return report("random_uniform %s: %.9g is not in [%g, %g)", name(dtype), had, low, high);
      }
      check("random_uniform", out, truth, plain);

      Tensor normal(dtype, any_shape(), generator() % 2 != 0);
      backend.random_normal(context, {normal.view(), 0.5, 0.02, philox});
      truth.resize(static_cast<size_t>(normal.size()));
      plain.resize(truth.size());
      for (size_t i = 0; i < truth.size(); ++i) {
        const double u = word_uniform(philox, step_value, i / 2 * 2) + 1. / 16777216;
        const double angle = 2 * M_PI * word_uniform(philox, step_value, i / 2 * 2 + 1);
        truth[i] =
            0.5 + 0.02 * std::sqrt(-2 * std::log(u)) * (i % 2 ? std::sin(angle) : std::cos(angle));
        const float a = static_cast<float>(angle);
        plain[i] = 0.5f + 0.02f * std::sqrt(-2 * std::log(static_cast<float>(u))) *
                              (i % 2 ? std::sin(a) : std::cos(a));
      }
      check("random_normal", normal, truth, plain);
    }
  }
  TestContext context(threads);
  Tensor out(GATUN_F32, {1000003});
  backend.random_normal(context, {out.view(), 0, 1, {seed, 3, 0, {}}});
  double moment[5] = {};
  for (double x : out.values())
    for (int k = 1; k <= 4; ++k) moment[k] += std::pow(x, k) / 1000003;
  ++checks;
  if (std::fabs(moment[1]) > 5e-3 || std::fabs(moment[2] - 1) > 8e-3 ||
      std::fabs(moment[3]) > 2e-2 || std::fabs(moment[4] - 3) > 5e-2)
    report("random_normal: moments %g %g %g %g", moment[1], moment[2], moment[3], moment[4]);

  for (int32_t dtype : kFloats)
    for (double p : {0., 0.1, 0.5, 0.999}) {
      for (int trial = 0; trial < 6; ++trial) {
        const std::vector<int64_t> shape = any_shape();
        const Philox philox{generator(), 11, 2, {}};
        Tensor x(dtype, shape, trial % 2 != 0), y(dtype, shape, trial % 3 != 0);
        x.random();
        y.random();
        const bool add = trial % 2 != 0;
        std::vector<double> wanted = x.values();
        const float scale = static_cast<float>(1 / (1 - p));
        for (size_t i = 0; i < wanted.size(); ++i) {
          float value = word_uniform(philox, 0, i) >= p ? static_cast<float>(wanted[i]) * scale : 0;
          // in f64, so that it is one rounding whether or not the machine fuses the addition
          wanted[i] = add ? y.get(static_cast<int64_t>(i)) +
                                (value == 0 ? 0 : wanted[i] * static_cast<double>(scale))
                          : static_cast<double>(value);
        }
        std::vector<float> plain = as<float>(wanted);
        backend.dropout(context, {y.view(), x.view(), p, philox, add ? 1u : 0u});
        check("dropout", y, wanted, plain);
        if (!add) {
          backend.dropout(context, {x.view(), x.view(), p, philox, 0});
          check("dropout in place", x, wanted, plain);
        }
      }
    }
}

// ---- layer norm ----

template <typename A>
struct Norm {
  std::vector<A> y, mean, rstd, dx, dweight, dbias;
  // the largest intermediates of each
  double y_size = 0, mean_size = 0, rstd_size = 0, dx_size = 0, parameter_size = 0;
};

template <typename A>
Norm<A> layer_norm(const std::vector<A>& x, const std::vector<A>& weight,
                   const std::vector<A>& bias, const std::vector<A>& dy, int64_t rows, int64_t n,
                   double eps) {
  Norm<A> r;
  r.y.resize(x.size());
  r.dx.resize(x.size());
  r.mean.resize(static_cast<size_t>(rows));
  r.rstd.resize(static_cast<size_t>(rows));
  r.dweight.resize(static_cast<size_t>(n));
  r.dbias.resize(static_cast<size_t>(n));
  const A count = static_cast<A>(n);
  std::vector<double> column(static_cast<size_t>(n));
  for (int64_t row = 0; row < rows; ++row) {
    const A* p = x.data() + row * n;
    A mean = 0, variance = 0;
    for (int64_t i = 0; i < n; ++i) mean += p[i];
    mean /= count;
    for (int64_t i = 0; i < n; ++i) variance += (p[i] - mean) * (p[i] - mean);
    const A rstd = 1 / std::sqrt(variance / count + static_cast<A>(eps));
    r.mean[static_cast<size_t>(row)] = mean;
    r.rstd[static_cast<size_t>(row)] = rstd;
    A g_mean = 0, gx_mean = 0;
    for (int64_t i = 0; i < n; ++i) {
      const size_t at = static_cast<size_t>(row * n + i), j = static_cast<size_t>(i);
      const A hat = (p[i] - mean) * rstd;
      r.y[at] = hat * weight[j] + (bias.empty() ? 0 : bias[j]);
      const double size = std::fabs(p[i]) + std::fabs(mean);
      r.mean_size = std::max(r.mean_size, size);
      r.rstd_size = std::max<double>(r.rstd_size, rstd * (1 + size * rstd));
      r.y_size = std::max<double>(r.y_size, size * rstd * std::fabs(weight[j]) + 1);
      r.dx_size = std::max<double>(r.dx_size, rstd * std::fabs(dy[at] * weight[j]) *
                                                  (1 + size * rstd) * (1 + std::fabs(hat)));
      column[j] += std::fabs(dy[at]) * (1 + std::fabs(hat) + size * rstd);
      r.parameter_size = std::max(r.parameter_size, column[j]);
      g_mean += dy[at] * weight[j];
      gx_mean += dy[at] * weight[j] * hat;
      r.dweight[j] += dy[at] * hat;
      r.dbias[j] += dy[at];
    }
    g_mean /= count;
    gx_mean /= count;
    for (int64_t i = 0; i < n; ++i) {
      const size_t at = static_cast<size_t>(row * n + i);
      r.dx[at] = rstd * (dy[at] * weight[static_cast<size_t>(i)] - g_mean -
                         (p[i] - mean) * rstd * gx_mean);
    }
  }
  return r;
}

// The float64 backward is itself checked against differences of the float64 forward.
void test_layer_norm_reference() {
  const int64_t rows = 3, n = 7;
  std::normal_distribution<double> normal;
  auto draw = [&](int64_t count) {
    std::vector<double> v(static_cast<size_t>(count));
    for (double& x : v) x = normal(generator);
    return v;
  };
  std::vector<double> x = draw(rows * n), weight = draw(n), bias = draw(n), dy = draw(rows * n);
  const auto loss = [&] {
    const Norm<double> r = layer_norm(x, weight, bias, dy, rows, n, 1e-5);
    double total = 0;
    for (size_t i = 0; i < dy.size(); ++i) total += r.y[i] * dy[i];
    return total;
  };
  const Norm<double> r = layer_norm(x, weight, bias, dy, rows, n, 1e-5);
  const auto compare = [&](std::vector<double>& v, const std::vector<double>& gradient,
                           const char* what) {
    for (size_t i = 0; i < v.size(); ++i) {
      const double kept = v[i], h = 1e-5;
      v[i] = kept + h;
      const double up = loss();
      v[i] = kept - h;
      const double difference = (up - loss()) / (2 * h);
      v[i] = kept;
      ++checks;
      if (std::fabs(difference - gradient[i]) > 1e-7 * (1 + std::fabs(difference)))
        report("layer_norm reference %s[%zu]: %.9g by differences %.9g", what, i, gradient[i],
               difference);
    }
  };
  compare(x, r.dx, "dx");
  compare(weight, r.dweight, "dweight");
  compare(bias, r.dbias, "dbias");
}

void test_layer_norm(const Backend& backend, int threads) {
  for (int trial = 0; trial < 90; ++trial) {
    const int32_t dtype = kFloats[trial % 3];
    const int32_t weight_dtype = generator() % 2 ? dtype : static_cast<int32_t>(GATUN_F32);
    const int64_t n = pick({1, 2, 3, 7, 15, 16, 17, 31, 33, 64, 100, 257, 768, 4097, 9001});
    std::vector<int64_t> leading;
    switch (generator() % 4) {
      case 0:
        break;
      case 1:
        leading = {pick({0, 1, 5, 130, n < 300 ? 700 : 40})};
        break;
      case 2:
        leading = {pick({1, 2, 5}), pick({1, 3, 33})};
        break;
      default:
        leading = {2, pick({1, 3}), pick({1, 4})};
    }
    std::vector<int64_t> shape = leading;
    shape.push_back(n);
    const bool gaps = generator() % 2 != 0, with_residual = generator() % 2 != 0,
               with_bias = generator() % 4 != 0, with_statistics = generator() % 4 != 0;
    const double eps = generator() % 2 ? 1e-5 : 1e-12;
    Tensor x(dtype, shape, gaps), residual(dtype, shape, gaps), sum(dtype, shape, !gaps),
        y(dtype, shape, gaps), weight(weight_dtype, {n}), bias(weight_dtype, {n}),
        mean(GATUN_F32, leading, gaps), rstd(GATUN_F32, leading, gaps);
    const double shift = generator() % 3 == 0 ? 100 : 0;  // |mean| >> std
    x.random(1.5, shift);
    residual.random();
    weight.random(0.3, 1);
    bias.random(0.3);
    const int64_t rows = x.size() / n;
    const int alias = static_cast<int>(generator() % 3);  // sum is x, residual, or neither
    const double p = with_residual && generator() % 2 ? 0.3 : 0;
    const Philox philox{generator(), 7, 1, {}};
    const auto dropped = [&](size_t i, double value) {
      return word_uniform(philox, 0, i) >= p
                 ? static_cast<double>(static_cast<float>(value) * static_cast<float>(1 / (1 - p)))
                 : 0;
    };
    std::vector<double> input = x.values();
    if (with_residual)
      for (size_t i = 0; i < input.size(); ++i) {
        const double value = p > 0 ? rounded(dtype, dropped(i, input[i])) : input[i];
        input[i] = rounded(
            dtype, static_cast<double>(static_cast<float>(value) +
                                       static_cast<float>(residual.get(static_cast<int64_t>(i)))));
      }
    Tensor dy(dtype, shape, gaps);
    dy.random(0.5);
    const std::vector<double> no_bias;
    const Norm<double> truth = layer_norm<double>(
        input, weight.values(), with_bias ? bias.values() : no_bias, dy.values(), rows, n, eps);
    const Norm<float> plain = layer_norm<float>(as<float>(input), as<float>(weight.values()),
                                                as<float>(with_bias ? bias.values() : no_bias),
                                                as<float>(dy.values()), rows, n, eps);
    TestContext context(threads);
    Tensor& total = alias == 0 ? x : alias == 1 ? residual : sum;
    const View none;
    const View total_view = with_residual ? total.view() : none;
    backend.layer_norm_forward(context, {y.view(), total_view, with_statistics ? mean.view() : none,
                                         with_statistics ? rstd.view() : none, x.view(),
                                         with_residual ? residual.view() : none, weight.view(),
                                         with_bias ? bias.view() : none, eps, p, philox});
    check("layer_norm_forward y", y, truth.y, plain.y, truth.y_size);
    if (with_residual) check_exact("layer_norm_forward sum", total, input);
    if (with_statistics) {
      check("layer_norm_forward mean", mean, truth.mean, plain.mean, truth.mean_size);
      check("layer_norm_forward rstd", rstd, truth.rstd, plain.rstd, truth.rstd_size);
    }

    for (int64_t i = 0; i < rows; ++i) {
      mean.set(i, truth.mean[static_cast<size_t>(i)]);
      rstd.set(i, truth.rstd[static_cast<size_t>(i)]);
    }
    Tensor in(dtype, shape, gaps);
    for (int64_t i = 0; i < in.size(); ++i) in.set(i, input[static_cast<size_t>(i)]);
    const uint32_t accumulate = static_cast<uint32_t>(generator() % 16);
    const bool in_place = !(accumulate & 1) && generator() % 2;
    Tensor dx(dtype, shape, gaps), dweight(weight_dtype, {n}),
        dbias(generator() % 2 ? weight_dtype : static_cast<int32_t>(GATUN_F32), {n}),
        ddropped(dtype, shape, !gaps);
    dx.random();
    ddropped.random();
    dweight.random();
    dbias.random();
    const auto plus = [](auto gradient, const std::vector<double>& old) {
      for (size_t i = 0; i < gradient.size(); ++i)
        gradient[i] += static_cast<std::decay_t<decltype(gradient[i])>>(old[i]);
      return gradient;
    };
    const auto start = [&](Tensor& t, uint32_t bit) {
      return accumulate & bit ? t.values() : zeros(t.values());
    };
    const std::vector<double> dx0 = start(dx, 1), dweight0 = start(dweight, 2),
                              dbias0 = start(dbias, 4);
    Tensor dx_again = dx, dweight_again = dweight, dbias_again = dbias, ddropped_again = ddropped,
           dy_kept = dy;
    const int missing = static_cast<int>(generator() % 6);
    const bool drops = p > 0 && missing != 0;
    const auto backward = [&](Tensor& into, Tensor& dw, Tensor& db, Tensor& dd, Tensor& upstream) {
      backend.layer_norm_backward(
          context,
          {missing == 0 ? none : into.view(), missing == 1 ? none : dw.view(),
           missing == 2 ? none : db.view(), drops ? dd.view() : none, upstream.view(), in.view(),
           mean.view(), rstd.view(), weight.view(), drops ? p : 0, philox, accumulate});
    };
    Tensor& into = in_place ? dy : dx;
    const std::vector<double> ddropped0 = start(ddropped, 8);
    backward(into, dweight, dbias, ddropped, dy);
    if (drops) {
      std::vector<double> wanted = into.values();
      for (size_t i = 0; i < wanted.size(); ++i) wanted[i] = dropped(i, wanted[i]) + ddropped0[i];
      check("layer_norm_backward ddropped", ddropped, wanted, as<float>(wanted));
    }
    if (missing != 0)
      check("layer_norm_backward dx", into, plus(truth.dx, dx0), plus(plain.dx, dx0),
            truth.dx_size);
    if (missing != 1)
      check("layer_norm_backward dweight", dweight, plus(truth.dweight, dweight0),
            plus(plain.dweight, dweight0), truth.parameter_size);
    if (missing != 2)
      check("layer_norm_backward dbias", dbias, plus(truth.dbias, dbias0),
            plus(plain.dbias, dbias0), truth.parameter_size);
    backward(in_place ? dy_kept : dx_again, dweight_again, dbias_again, ddropped_again, dy_kept);
    ++checks;
    if ((in_place ? dy_kept : dx_again).memory != into.memory ||
        ddropped_again.memory != ddropped.memory || dweight_again.memory != dweight.memory ||
        dbias_again.memory != dbias.memory)
      report("layer_norm_backward: a second run gave other bits");
  }
}

// ---- embedding ----

void test_embedding(const Backend& backend, int threads) {
  for (int trial = 0; trial < 90; ++trial) {
    const int32_t dtype = kFloats[trial % 3];
    const int64_t b = pick({1, 2, 5}), t = pick({0, 1, 3, 17, 300}), v = pick({1, 2, 50, 1000}),
                  d = pick({1, 3, 16, 33, 64, 257, 300}), p = t + pick({1, 4});
    const bool flat = b == 1 && generator() % 2, with_positions = generator() % 3 != 0,
               with_start = with_positions && generator() % 2, wrong = generator() % 3 == 0,
               gaps = generator() % 2;
    Tensor ids(GATUN_I32, flat ? std::vector<int64_t>{t} : std::vector<int64_t>{b, t}, gaps);
    std::vector<int64_t> shape = flat ? std::vector<int64_t>{t, d} : std::vector<int64_t>{b, t, d};
    Tensor table(dtype, {v, d}, gaps), positions(dtype, {p, d}, gaps), start(GATUN_I32, {b}),
        out(dtype, shape, gaps), dout(dtype, shape, gaps);
    table.random();
    positions.random();
    dout.random();
    for (int64_t i = 0; i < ids.size(); ++i)
      ids.set(i, static_cast<double>(generator() % 2 ? generator() % static_cast<uint64_t>(v) : 0));
    for (int64_t i = 0; i < b; ++i) start.set(i, static_cast<double>(generator() % 2));
    std::string sentence;
    if (wrong && t > 0) {
      const int64_t at = static_cast<int64_t>(generator() % static_cast<uint64_t>(b * t));
      const int64_t id = generator() % 2 ? v : -3;
      ids.set(at, static_cast<double>(id));
      sentence = "embedding: id " + std::to_string(id) + " at [" + std::to_string(at / t) + "," +
                 std::to_string(at % t) + "] is not in [0, " + std::to_string(v) + ")";
    }
    std::vector<double> wanted(static_cast<size_t>(b * t * d));
    const int32_t to = generator() % 2 ? dtype : static_cast<int32_t>(GATUN_F32);
    Tensor dtable(to, {v, d}, gaps), dpositions(to, {p, d}, gaps);
    dtable.random();
    dpositions.random();
    const uint32_t accumulate = static_cast<uint32_t>(generator() % 4);
    std::vector<double> dtable_truth = accumulate & 1 ? dtable.values() : zeros(dtable.values());
    std::vector<double> dpositions_truth =
        accumulate & 2 ? dpositions.values() : zeros(dpositions.values());
    std::vector<float> dtable_plain = as<float>(dtable_truth),
                       dpositions_plain = as<float>(dpositions_truth);
    std::vector<double> size(static_cast<size_t>(v * d));
    for (int64_t token = 0; token < b * t; ++token) {
      const int64_t id = std::clamp<int64_t>(static_cast<int64_t>(ids.get(token)), 0, v - 1);
      const int64_t position =
          (with_start ? static_cast<int64_t>(start.get(token / t)) : 0) + token % t;
      for (int64_t i = 0; i < d; ++i) {
        const size_t at = static_cast<size_t>(token * d + i);
        wanted[at] = table.get(id * d + i);
        if (with_positions)
          wanted[at] = rounded(dtype, static_cast<double>(static_cast<float>(
                                          wanted[at] + positions.get(position * d + i))));
        const double g = dout.get(token * d + i);
        dtable_truth[static_cast<size_t>(id * d + i)] += g;
        size[static_cast<size_t>(id * d + i)] += std::fabs(g);
        dtable_plain[static_cast<size_t>(id * d + i)] += static_cast<float>(g);
        dpositions_truth[static_cast<size_t>(position * d + i)] += g;
        dpositions_plain[static_cast<size_t>(position * d + i)] += static_cast<float>(g);
      }
    }
    const View none;
    TestContext context(threads);
    const auto check_fault = [&](const char* what) {
      ++checks;
      if (context.sentence != sentence ||
          context.status != (sentence.empty() ? GATUN_OK : GATUN_OUT_OF_RANGE))
        report("%s fault: had \"%s\", wanted \"%s\"", what, context.sentence.c_str(),
               sentence.c_str());
    };
    backend.embedding_forward(
        context, {out.view(), ids.view(), table.view(), with_positions ? positions.view() : none,
                  with_start ? start.view() : none});
    check_exact("embedding_forward", out, wanted);
    check_fault("embedding_forward");
    context.status = GATUN_OK;
    context.sentence.clear();
    Tensor one_thread = dtable;
    backend.embedding_backward(
        context, {dtable.view(), with_positions ? dpositions.view() : none, dout.view(), ids.view(),
                  with_start ? start.view() : none, accumulate});
    check("embedding_backward dtable", dtable, dtable_truth, dtable_plain,
          *std::max_element(size.begin(), size.end()));
    if (with_positions)
      check("embedding_backward dpositions", dpositions, dpositions_truth, dpositions_plain);
    check_fault("embedding_backward");
    TestContext single(1);
    backend.embedding_backward(single, {one_thread.view(), none, dout.view(), ids.view(),
                                        with_start ? start.view() : none, accumulate});
    ++checks;
    if (one_thread.memory != dtable.memory)
      report("embedding_backward: %d threads gave other bits than one", threads);
  }
  // positions beyond the table
  TestContext context(threads);
  Tensor ids(GATUN_I32, {2, 3}), start(GATUN_I32, {2}), table(GATUN_F32, {4, 5}),
      positions(GATUN_F32, {6, 5}), out(GATUN_F32, {2, 3, 5});
  for (int i = 0; i < 6; ++i) ids.set(i, 1);
  start.set(0, 0);
  start.set(1, 4);
  table.random();
  positions.random();
  backend.embedding_forward(context,
                            {out.view(), ids.view(), table.view(), positions.view(), start.view()});
  ++checks;
  if (context.sentence != "embedding: position 6 at [1,2] is not in [0, 6)")
    report("embedding_forward: position fault was \"%s\"", context.sentence.c_str());
}

// ---- gelu ----

template <typename A>
A gelu(A x, bool erf_form) {
  if (erf_form) return x * A{0.5} * std::erfc(-x * A{M_SQRT1_2});
  const A u = std::sqrt(A{2} / A{M_PI}) * (x + A{0.044715} * x * x * x);
  return A{0.5} * x * (1 + std::tanh(u));
}
template <typename A>
A gelu_slope(A x, bool erf_form) {
  if (erf_form)
    return A{0.5} * std::erfc(-x * A{M_SQRT1_2}) +
           x * std::exp(A{-0.5} * x * x) / std::sqrt(A{2} * A{M_PI});
  const A c = std::sqrt(A{2} / A{M_PI});
  const A t = std::tanh(c * (x + A{0.044715} * x * x * x));
  return A{0.5} * (1 + t) + A{0.5} * x * (1 - t * t) * c * (1 + A{3} * A{0.044715} * x * x);
}

void test_gelu(const Backend& backend, int threads) {
  for (double x = -6; x < 6; x += 0.37)
    for (bool erf_form : {false, true}) {
      const double difference = (gelu(x + 1e-5, erf_form) - gelu(x - 1e-5, erf_form)) / 2e-5;
      ++checks;
      if (std::fabs(difference - gelu_slope(x, erf_form)) > 1e-8)
        report("gelu reference slope at %g: %.9g, by differences %.9g", x, gelu_slope(x, erf_form),
               difference);
    }
  for (int trial = 0; trial < 120; ++trial) {
    const int32_t dtype = kFloats[trial % 3];
    const bool erf_form = generator() % 2, add = generator() % 2, gaps = generator() % 2;
    const std::vector<int64_t> shape = any_shape();
    Tensor x(dtype, shape, gaps), dy(dtype, shape, !gaps), y(dtype, shape, gaps),
        dx(dtype, shape, gaps);
    x.random(trial % 5 == 0 ? 30 : 2);
    dy.random();
    dx.random();
    std::vector<double> truth, slope, old = dx.values();
    double x_size = 1, g_size = 0;
    std::vector<float> plain, plain_slope;
    for (int64_t i = 0; i < x.size(); ++i) {
      const double value = x.get(i), g = dy.get(i), start = add ? old[static_cast<size_t>(i)] : 0;
      x_size = std::max(x_size, std::fabs(value));
      g_size = std::max(g_size, 4 * std::fabs(g) + std::fabs(start));
      truth.push_back(gelu(value, erf_form));
      plain.push_back(gelu(static_cast<float>(value), erf_form));
      slope.push_back(start + g * gelu_slope(value, erf_form));
      plain_slope.push_back(static_cast<float>(start) +
                            static_cast<float>(g) *
                                gelu_slope(static_cast<float>(value), erf_form));
    }
    TestContext context(threads);
    backend.gelu_forward(context, {y.view(), x.view(), erf_form});
    check("gelu_forward", y, truth, plain, x_size);
    backend.gelu_backward(context, {dx.view(), dy.view(), x.view(), erf_form, add ? 1u : 0u});
    check("gelu_backward", dx, slope, plain_slope, g_size);
    if (!add) {
      Tensor& alias = trial % 2 ? x : dy;
      backend.gelu_backward(context, {alias.view(), dy.view(), x.view(), erf_form, 0});
      check("gelu_backward in place", alias, slope, plain_slope, g_size);
    }
  }
  // absolute error of the curves themselves, and the ends of the range
  for (bool erf_form : {false, true}) {
    const int64_t n = 200001;
    TestContext context(threads);
    Tensor x(GATUN_F32, {n}), one(GATUN_F32, {n}), y(GATUN_F32, {n}), dx(GATUN_F32, {n});
    for (int64_t i = 0; i < n; ++i) {
      x.set(i, (static_cast<double>(i) - 100000) / 8000);
      one.set(i, 1);
    }
    const double special[] = {NAN, INFINITY, 1e38, -1e38, -30, 0};
    for (int64_t i = 0; i < 6; ++i) x.set(i, special[i]);
    backend.gelu_forward(context, {y.view(), x.view(), erf_form});
    backend.gelu_backward(context, {dx.view(), one.view(), x.view(), erf_form, 0});
    double error = 0, slope_error = 0;
    for (int64_t i = 6; i < n; ++i) {
      error = std::max(error, std::fabs(y.get(i) - gelu(x.get(i), erf_form)));
      slope_error = std::max(slope_error, std::fabs(dx.get(i) - gelu_slope(x.get(i), erf_form)));
    }
    ++checks;
    if (error > 1e-6 || slope_error > 1e-6)
      report("gelu %s: error %.3g, of the slope %.3g", erf_form ? "erf" : "tanh", error,
             slope_error);
    if (!std::isnan(y.get(0)) || !std::isnan(dx.get(0)) || y.get(1) != INFINITY || dx.get(1) != 1 ||
        y.get(2) != x.get(2) || dx.get(2) != 1 || y.get(3) != 0 || std::fabs(dx.get(3)) > 1e-30 ||
        std::fabs(y.get(4)) > 1e-30 || std::fabs(dx.get(4)) > 1e-30 || y.get(5) != 0 ||
        std::fabs(dx.get(5) - 0.5) > 1e-7)
      report("gelu %s: wrong at NaN, infinity, 1e38, -1e38, -30 or 0", erf_form ? "erf" : "tanh");
  }
}

void test(const Backend& backend, const char* level) {
  level_name = level;
  for (int threads : {1, 2, 3}) {
    generator.seed(seed);
    test_values(backend, threads);
    test_random(backend, threads);
    test_layer_norm(backend, threads);
    test_embedding(backend, threads);
    test_gelu(backend, threads);
  }
  std::printf("level %s: %lld checks so far, %d failures\n", level, static_cast<long long>(checks),
              failures);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc > 1) seed = std::strtoull(argv[1], nullptr, 10);
  std::printf("seed %llu\n", static_cast<unsigned long long>(seed));
  generator.seed(seed);
  test_layer_norm_reference();
  test(gatun_backend_plain, "plain");
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
      __builtin_cpu_supports("f16c"))
    test(gatun_backend_avx2, "avx2");
  else
    std::puts("level avx2: skipped, this machine lacks it");
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
    test(gatun_backend_avx512, "avx512");
  else
    std::puts("level avx512: skipped, this machine lacks it");
  return failures == 0 ? 0 : 1;
}
