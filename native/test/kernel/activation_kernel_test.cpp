// Runs kernels/activation.cu on the host (native/src/sim) against float64: both forms of GELU and
// their gradients from -inf to inf, dropout against its rule on Philox words; ragged, permuted and
// misaligned. Usage: activation_kernel_test [seed]
#include "../../../kernels/activation.cu"
#include "cuda/layout.h"
#include "far_rows.h"
#include "operands.h"

namespace {

using namespace gatun::kernels;
using gatun::cuda::Order;
using gatun::cuda::run_layout;

template <typename T>
constexpr ElementType kType = sizeof(T) == 4              ? ElementType::kF32
                              : std::is_same_v<T, __half> ? ElementType::kF16
                                                          : ElementType::kBf16;

std::vector<int64_t> any_shape() {
  return pick<std::vector<int64_t>>({{1},
                                     {7},
                                     {1001},
                                     {4096},
                                     {3, 67},
                                     {2, 3, 40},
                                     {9, 33, 7},
                                     {3, 2, 5, 4, 8},
                                     {0, 5},
                                     {2, 33},
                                     {1023, 2}});
}

double gelu(double x, bool erf) {
  if (erf) return x * 0.5 * std::erfc(-x * M_SQRT1_2);
  return x / (1 + std::exp(-2 * std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
}
double derivative(double x, bool erf) {
  if (erf) return 0.5 * std::erfc(-x * M_SQRT1_2) + x * std::exp(-x * x / 2) / std::sqrt(2 * M_PI);
  const double c = std::sqrt(2 / M_PI);
  const double t = std::tanh(c * (x + 0.044715 * x * x * x));
  return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * c * (1 + 3 * 0.044715 * x * x);
}

// What both the arithmetic in f32 (a fit within 4e-7 for erf) and the rounding to T leave.
template <typename T>
double tolerance(double size) {
  return (1e-6 + kUlp<T>)*size;
}

template <typename T>
void test_gelu(bool erf) {
  const std::vector<int64_t> shape = any_shape();
  Operand<T> x(shape, any_form()), y(shape, any_form());
  x.random();
  constexpr double kExtremes[] = {0, -0., 30, -30, 1e4, -1e4, NAN, 1e-4, -1e-4, -5.5, 5.5};
  for (int64_t i = 0; i < x.count() && i < 11; ++i) x.set(i, kExtremes[i]);
  const std::vector<double> in = x.values();
  const auto at = [](const std::vector<double>& v, int64_t i) { return v[static_cast<size_t>(i)]; };
  Operand<T>& out = generator() % 2 ? x : y;
  const auto o = out.view(), v = x.view();
  GeluForward f = {out.data(), x.data(), run_layout({&o, &v}, Order::kAny)};
  if (!ran("gelu_forward", gelu_forward(nullptr, kType<T>, erf, f))) return;
  const std::string name = erf ? "erf" : "tanh";
  // relative to what is near 0, where the values are
  compare("gelu_forward " + name, out, tolerance<T>(8), [&](int64_t i) {
    return std::fabs(at(in, i)) > 8 ? std::max(0., at(in, i)) : gelu(at(in, i), erf);
  });

  Operand<T> dy(shape, any_form()), dx(shape, any_form()), saved(shape, any_form());
  dy.random();
  dx.random();
  for (int64_t i = 0; i < saved.count(); ++i) saved.set(i, at(in, i));
  const bool add = generator() % 2;
  const int place = add ? 0 : static_cast<int>(generator() % 3);
  const std::vector<double> upstream = dy.values(), old = dx.values();
  Operand<T>& into = place == 0 ? dx : place == 1 ? dy : saved;
  const auto d = into.view(), u = dy.view(), s = saved.view();
  GeluBackward b = {into.data(), dy.data(), saved.data(), add,
                    run_layout({&d, &u, &s}, Order::kAny)};
  if (!ran("gelu_backward", gelu_backward(nullptr, kType<T>, erf, b))) return;
  compare("gelu_backward " + name, into, tolerance<T>(16), [&](int64_t i) {
    const double slope =
        std::fabs(at(in, i)) > 20 ? (at(in, i) > 0 ? 1. : 0.) : derivative(at(in, i), erf);
    return (add ? at(old, i) : 0) + at(upstream, i) * slope;
  });
}

template <typename T>
void test_dropout(const std::vector<int64_t>& shape, Form x_form, Form y_form) {
  Operand<T> x(shape, x_form), y(shape, y_form);
  x.random();
  y.random();
  if (x.count() > 1) x.set(1, INFINITY);  // dropped or not, never NaN
  const bool add = generator() % 2;
  const std::vector<double> in = x.values(), old = y.values();
  Operand<T>& out = !add && generator() % 2 ? x : y;
  const auto o = out.view(), v = x.view();
  const double rate = pick({0., 0.1, 0.5, 0.999, 1e-9});
  DeviceVector<int64_t> step(1, static_cast<int64_t>(generator() >> 8));
  Dropout p = {};
  p.y = out.data();
  p.x = x.data();
  p.philox = {generator(), step.data(), static_cast<uint32_t>(generator() % 65536),
              static_cast<uint32_t>(generator() % 9)};
  p.rule = gatun::dropout_rule(rate);
  p.add = add;
  p.runs = run_layout({&o, &v}, Order::kRowMajor);
  if (!ran("dropout", dropout(nullptr, kType<T>, p))) return;
  const gatun::PhiloxStream stream = {p.philox.seed, p.philox.site, static_cast<uint32_t>(step[0]),
                                      p.philox.micro_batch};
  compare("dropout", out, 0, [&](int64_t i) {
    const size_t k = static_cast<size_t>(i);
    const double u =
        static_cast<double>(gatun::philox_uniform(stream.word(static_cast<uint64_t>(i))));
    const float kept =
        u >= rate ? static_cast<float>(in[k]) * static_cast<float>(1 / (1 - rate)) : 0.f;
    return rounded_to<T>(static_cast<double>(add ? kept + static_cast<float>(old[k]) : kept));
  });
}

// The same bits as with rows side by side.
void test_far() {
  using T = __nv_bfloat16;
  constexpr int64_t kRows = 2;
  for (int64_t columns : {33, 64}) {
    Operand<T> x({kRows, columns}, Form::kDense), y({kRows, columns}, Form::kDense),
        dy({kRows, columns}, Form::kDense);
    FarRows<T> far_x(kRows, columns), far_y(kRows, columns), far_dy(kRows, columns);
    x.random();
    dy.random();
    far_x.fill(x.data());
    far_dy.fill(dy.data());
    for (bool erf : {false, true}) {
      GeluForward f = {y.data(), x.data(), {}}, far_f = {far_y.data, far_x.data, {}};
      lay_rows(f.runs, kRows, columns, columns);
      lay_rows(far_f.runs, kRows, columns, far_x.kApart);
      if (ran("gelu_forward", gelu_forward(nullptr, kType<T>, erf, f)) &&
          ran("gelu_forward, far apart", gelu_forward(nullptr, kType<T>, erf, far_f)))
        EXPECT(far_y.equals(y.data()));
      GeluBackward b = {y.data(), dy.data(), x.data(), true, {}},
                   far_b = {far_y.data, far_dy.data, far_x.data, true, {}};
      lay_rows(b.runs, kRows, columns, columns);
      lay_rows(far_b.runs, kRows, columns, far_x.kApart);
      if (ran("gelu_backward", gelu_backward(nullptr, kType<T>, erf, b)) &&
          ran("gelu_backward, far apart", gelu_backward(nullptr, kType<T>, erf, far_b)))
        EXPECT(far_y.equals(y.data()));
    }
    Dropout d = {};
    d.y = y.data();
    d.x = x.data();
    d.philox = {1, nullptr, 2, 3};
    d.rule = gatun::dropout_rule(0.4);
    Dropout far_d = d;
    far_d.y = far_y.data;
    far_d.x = far_x.data;
    lay_rows(d.runs, kRows, columns, columns);
    lay_rows(far_d.runs, kRows, columns, far_x.kApart);
    if (ran("dropout", dropout(nullptr, kType<T>, d)) &&
        ran("dropout, far apart", dropout(nullptr, kType<T>, far_d)))
      EXPECT(far_y.equals(y.data()));
  }
}

void test_traffic() {
  constexpr int64_t kRows = 96, kColumns = 1024, kBytes = kRows * kColumns * 2;
  using T = __nv_bfloat16;
  Operand<T> x({kRows, kColumns}, Form::kDense), y({kRows, kColumns}, Form::kDense),
      dy({kRows, kColumns}, Form::kDense);
  x.random();
  dy.random();
  const auto a = x.view(), b = y.view(), c = dy.view();
  GeluForward f = {y.data(), x.data(), run_layout({&b, &a}, Order::kAny)};
  expect_traffic("gelu_forward bf16", kBytes, kBytes,
                 [&] { return gelu_forward(nullptr, kType<T>, false, f); });
  GeluBackward g = {y.data(), dy.data(), x.data(), false, run_layout({&b, &c, &a}, Order::kAny)};
  expect_traffic("gelu_backward bf16", 2 * kBytes, kBytes,
                 [&] { return gelu_backward(nullptr, kType<T>, false, g); });
  Dropout d = {};
  d.y = y.data();
  d.x = x.data();
  d.philox = {1, nullptr, 2, 3};
  d.rule = gatun::dropout_rule(0.1);
  d.runs = run_layout({&b, &a}, Order::kRowMajor);
  expect_traffic("dropout bf16", kBytes, kBytes, [&] { return dropout(nullptr, kType<T>, d); });
}

}  // namespace

int main(int argc, char** argv) {
  if (argc > 1) seed = std::strtoull(argv[1], nullptr, 10);
  in_all_orders([] {
    generator.seed(seed);
    for (int trial = 0; trial < 12; ++trial)
      for_each_float([]<typename T>(T) {
        test_gelu<T>(false);
        test_gelu<T>(true);
        test_dropout<T>(any_shape(), any_form(), any_form());
        // aligned rows whose packs would share the words of a counter
        test_dropout<T>({3, 67}, Form::kGaps, Form::kGaps);
      });
  });
  test_dropout<float>({65537, 2}, Form::kGaps, Form::kRagged);
  if (kFarRows) test_far();
  test_traffic();
  return summary();
}
