// Runs kernels/values.cu on the host (native/src/sim): every walk and element type, ragged,
// permuted and misaligned, against plain loops. Usage: values_kernel_test [seed]
#include <sys/mman.h>

#include "../../../kernels/values.cu"
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
                                     {5, 16},
                                     {3, 67},
                                     {2, 3, 40},
                                     {9, 33, 70},
                                     {2, 40, 8, 9},
                                     {64, 64},
                                     {3, 2, 5, 4, 24},
                                     {0, 5},
                                     {31, 33},
                                     {1023, 2}});
}

template <typename T>
void test_bits() {
  for (Form form : {Form::kDense, Form::kGaps, Form::kRagged, Form::kReversed}) {
    const std::vector<int64_t> shape = any_shape();
    Operand<T> out(shape, form), src(shape, any_form());
    src.random();
    const auto o = out.view(), s = src.view();
    Fill f = {};
    f.out = out.data();
    f.bits = 0x8182838485868788u;
    f.runs = run_layout({&o}, Order::kAny);
    if (!ran("fill", fill(nullptr, sizeof(T), f))) continue;
    compare("fill", out, 0, [&](int64_t) { return static_cast<double>(static_cast<T>(f.bits)); });

    Copy c = {};
    c.out = out.data();
    c.src = src.data();
    c.runs = run_layout({&o, &s}, Order::kAny);
    if (!ran("copy", copy(nullptr, sizeof(T), c))) continue;
    compare("copy of " + std::to_string(sizeof(T)) + " bytes", out, 0,
            [&](int64_t i) { return src.get(i); });
  }
}

template <typename To, typename From>
void test_cast(cudaError_t (*run)(const Copy&)) {
  const std::vector<int64_t> shape = any_shape();
  Operand<To> out(shape, any_form());
  Operand<From> src(shape, any_form());
  src.random();
  if (src.count() > 0) src.set(0, std::is_integral_v<From> ? -1 : 1e5);  // f16: infinity
  if (src.count() > 1 && !std::is_integral_v<From>) src.set(1, NAN);
  const auto o = out.view(), s = src.view();
  Copy c = {};
  c.out = out.data();
  c.src = src.data();
  c.runs = run_layout({&o, &s}, Order::kAny);
  if (!ran("cast", run(c))) return;
  compare("cast", out, 0, [&](int64_t i) {
    if constexpr (std::is_integral_v<To>)
      return static_cast<double>(static_cast<To>(src.at(i)));
    else
      return rounded_to<To>(src.get(i));
  });
}

// Rows with gaps, and tiles of columns that become rows, of each of a batch of matrices: few, as
// many as tiles have, one more, far more.
void test_rows() {
  using T = uint16_t;
  const auto copied = [](const std::vector<int64_t>& shape, Form out_form, Form src_form) {
    Operand<T> out(shape, out_form), src(shape, src_form);
    src.random();
    const auto o = out.view(), s = src.view();
    Copy c = {};
    c.out = out.data();
    c.src = src.data();
    c.runs = run_layout({&o, &s}, Order::kAny);
    std::string what = "copy of";
    for (int64_t size : shape) what += " " + std::to_string(size);
    if (ran(what.c_str(), copy(nullptr, sizeof(T), c)))
      compare(what, out, 0, [&](int64_t i) { return src.get(i); });
  };
  for (int64_t rows : {0, 1, 2, 31, 32, 33, 64, 1023, 65537}) {
    copied({rows, 9}, Form::kDense, Form::kGaps);
    copied({rows, 9}, Form::kRagged, Form::kDense);
    copied({rows, 9}, Form::kDense, Form::kReversed);
    if (rows < 65537) copied({rows, 3, 40}, Form::kDense, Form::kReversed);
    if (rows < 65537) copied({40, 3, rows}, Form::kDense, Form::kReversed);
  }
}

// A row repeated, and a column.
void test_repeated() {
  Operand<float> out({6, 40}, any_form()), row({1, 40}, Form::kDense), column({6, 1}, Form::kDense);
  row.random();
  column.random();
  for (bool repeats_row : {true, false}) {
    const auto o = out.view();
    auto s = (repeats_row ? row : column).view();
    s.shape[0] = 6;
    s.shape[1] = 40;
    s.stride[0] = repeats_row ? 0 : 1;
    s.stride[1] = repeats_row ? 1 : 0;
    Copy c = {};
    c.out = out.data();
    c.src = s.data;
    c.runs = run_layout({&o, &s}, Order::kAny);
    if (!ran("copy", copy(nullptr, 4, c))) return;
    compare("repeated", out, 0,
            [&](int64_t i) { return repeats_row ? row.get(i % 40) : column.get(i / 40); });
  }
}

template <typename T>
void test_floats() {
  const std::vector<int64_t> shape = any_shape();
  Operand<T> a(shape, any_form()), b(shape, any_form()), other(shape, any_form());
  a.random();
  b.random();
  const std::vector<double> before = a.values();
  Operand<T>& out = generator() % 2 ? a : other;
  const auto o = out.view(), x = a.view(), y = b.view();
  Add p = {};
  p.out = out.data();
  p.a = a.data();
  p.b = b.data();
  p.runs = run_layout({&o, &x, &y}, Order::kAny);
  if (!ran("add", add(nullptr, kType<T>, p))) return;
  compare("add", out, 0,
          [&](int64_t i) { return rounded_to<T>(before[static_cast<size_t>(i)] + b.get(i)); });

  DeviceVector<int64_t> step(1, static_cast<int64_t>(generator() >> 8));
  const bool stepped = generator() % 2;
  Operand<T> drawn(shape, any_form());
  const auto d = drawn.view();
  Random r = {};
  r.out = drawn.data();
  r.philox = {generator(), stepped ? step.data() : nullptr,
              static_cast<uint32_t>(generator() % 65536), static_cast<uint32_t>(generator() % 9)};
  const gatun::PhiloxStream stream = {r.philox.seed, r.philox.site,
                                      stepped ? static_cast<uint32_t>(step[0]) : 0u,
                                      r.philox.micro_batch};
  r.runs = run_layout({&d}, Order::kRowMajor);
  r.shift = -1;
  r.scale = 3;
  r.smallest = -1;
  r.largest = static_cast<float>(rounded_to<T>(2 * (1 - kUlp<T> / 2)));
  if (!ran("random_uniform", random_uniform(nullptr, kType<T>, r))) return;
  const auto u = [&](int64_t i) {
    return static_cast<double>(gatun::philox_uniform(stream.word(static_cast<uint64_t>(i))));
  };
  compare("random_uniform", drawn, 2 * kUlp<T>,
          [&](int64_t i) { return std::min(-1 + u(i) * 3, static_cast<double>(r.largest)); });
  if (!ran("random_normal", random_normal(nullptr, kType<T>, r))) return;
  compare("random_normal", drawn, 1e-5 + 10 * kUlp<T>, [&](int64_t i) {
    const double radius = std::sqrt(std::max(0., -2 * std::log(u(i / 2 * 2) + 0x1p-24)));
    const double angle = 2 * M_PI * u(i / 2 * 2 + 1);
    return radius * (i % 2 ? std::sin(angle) : std::cos(angle)) * 3 - 1;
  });
}

template <typename T>
void test_increment() {
  Operand<T> out(any_shape(), any_form());
  out.random();
  if (out.count() > 0) out.set(0, static_cast<double>(INT32_MAX));
  const std::vector<double> before = out.values();
  const auto o = out.view();
  Increment p = {};
  p.out = out.data();
  p.by = 5;
  p.runs = run_layout({&o}, Order::kAny);
  if (!ran("increment", increment(nullptr, sizeof(T) == 8, p))) return;
  compare("increment", out, 0, [&](int64_t i) {  // wraps in 32 bits
    return static_cast<double>(
        static_cast<T>(static_cast<int64_t>(before[static_cast<size_t>(i)]) + 5));
  });
}

// Offsets beyond 2^31 elements, in a mapping that is never filled (bytes are not checked to be
// device memory).
void test_far() {
  constexpr int64_t kStep = (int64_t{1} << 33) + 5;
  constexpr size_t kBytes = static_cast<size_t>(2 * kStep + 64);
  void* far = mmap(nullptr, kBytes, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  EXPECT(far != MAP_FAILED);
  if (far == MAP_FAILED) return;
  auto* bytes = static_cast<uint8_t*>(far);
  uint8_t near[3 * 2] = {1, 2, 3, 4, 5, 6};
  gatun::View o, s;
  o.data = far;
  s.data = near;
  for (gatun::View* v : {&o, &s}) {
    v->dtype = GATUN_U8;
    v->rank = 2;
    v->shape[0] = 3;
    v->shape[1] = 2;
    v->stride[0] = v == &o ? kStep : 2;
    v->stride[1] = 1;
  }
  Copy c = {};
  c.out = far;
  c.src = near;
  c.runs = run_layout({&o, &s}, Order::kAny);
  if (ran("copy", copy(nullptr, 1, c)))
    for (int64_t i = 0; i < 6; ++i) EXPECT(bytes[i / 2 * kStep + i % 2] == near[i]);
  munmap(far, kBytes);
}

// Rows of floats: the same bits as side by side.
void test_far_floats() {
  using T = __nv_bfloat16;
  constexpr int64_t kRows = 2;
  for (int64_t columns : {33, 64}) {
    Operand<T> a({kRows, columns}, Form::kDense), sum({kRows, columns}, Form::kDense);
    Operand<float> wide({kRows, columns}, Form::kDense);
    FarRows<T> far_a(kRows, columns), far_out(kRows, columns);
    FarRows<float> far_wide(kRows, columns);
    a.random();
    far_a.fill(a.data());
    Copy c = {far_out.data, far_a.data, {}};
    lay_rows(c.runs, kRows, columns, far_a.kApart);
    if (ran("copy, far apart", copy(nullptr, 2, c))) EXPECT(far_out.equals(a.data()));
    Copy near_cast = {wide.data(), a.data(), {}}, far_cast = {far_wide.data, far_a.data, {}};
    lay_rows(near_cast.runs, kRows, columns, columns);
    lay_rows(far_cast.runs, kRows, columns, far_a.kApart);
    if (ran("cast", cast(nullptr, ElementType::kF32, kType<T>, near_cast)) &&
        ran("cast, far apart", cast(nullptr, ElementType::kF32, kType<T>, far_cast)))
      EXPECT(far_wide.equals(wide.data()));
    Add near_add = {sum.data(), a.data(), a.data(), {}},
        far_add = {far_out.data, far_a.data, far_a.data, {}};
    lay_rows(near_add.runs, kRows, columns, columns);
    lay_rows(far_add.runs, kRows, columns, far_a.kApart);
    if (ran("add", add(nullptr, kType<T>, near_add)) &&
        ran("add, far apart", add(nullptr, kType<T>, far_add)))
      EXPECT(far_out.equals(sum.data()));
  }
}

void test_traffic() {
  constexpr int64_t kRows = 96, kColumns = 1024, kCount = kRows * kColumns;
  Operand<float> a({kRows, kColumns}, Form::kDense), b({kRows, kColumns}, Form::kDense);
  Operand<__nv_bfloat16> half({kRows, kColumns}, Form::kDense);
  a.random();
  b.random();
  const auto x = a.view(), y = b.view(), h = half.view();
  Copy c = {half.data(), a.data(), run_layout({&h, &x}, Order::kAny)};
  expect_traffic("cast f32 to bf16", 4 * kCount, 2 * kCount,
                 [&] { return cast(nullptr, ElementType::kBf16, ElementType::kF32, c); });
  Add p = {a.data(), a.data(), b.data(), run_layout({&x, &x, &y}, Order::kAny)};
  expect_traffic("add f32", 8 * kCount, 4 * kCount,
                 [&] { return add(nullptr, ElementType::kF32, p); });
  Operand<__nv_bfloat16> across({kRows, kColumns}, Form::kReversed);
  const auto t = across.view();
  c = {half.data(), across.data(), run_layout({&h, &t}, Order::kAny)};
  expect_traffic("transposing copy bf16", 2 * kCount, 2 * kCount,
                 [&] { return copy(nullptr, 2, c); });
  Random r = {};
  r.scale = r.largest = 1;
  r.out = half.data();
  r.runs = run_layout({&h}, Order::kRowMajor);
  expect_traffic("random_uniform bf16", 0, 2 * kCount,
                 [&] { return random_uniform(nullptr, ElementType::kBf16, r); });
  r.out = a.data();
  r.runs = run_layout({&x}, Order::kRowMajor);
  expect_traffic("random_normal f32", 0, 4 * kCount,
                 [&] { return random_normal(nullptr, ElementType::kF32, r); });
  Fill f = {half.data(), 0, run_layout({&h}, Order::kAny)};
  expect_traffic("fill bf16", 0, 2 * kCount, [&] { return fill(nullptr, 2, f); });
}

}  // namespace

int main(int argc, char** argv) {
  if (argc > 1) seed = std::strtoull(argv[1], nullptr, 10);
  in_all_orders([] {
    generator.seed(seed);
    for (int trial = 0; trial < 6; ++trial) {
      test_bits<uint8_t>();
      test_bits<uint16_t>();
      test_bits<uint32_t>();
      test_bits<uint64_t>();
      for_each_float([]<typename To>(To) {
        for_each_float([]<typename From>(From) {
          if constexpr (!std::is_same_v<To, From>)
            test_cast<To, From>(
                [](const Copy& c) { return cast(nullptr, kType<To>, kType<From>, c); });
        });
        test_floats<To>();
      });
      test_cast<int64_t, int32_t>([](const Copy& c) { return cast_integers(nullptr, true, c); });
      test_cast<int32_t, int64_t>([](const Copy& c) { return cast_integers(nullptr, false, c); });
      test_increment<int32_t>();
      test_increment<int64_t>();
    }
    test_repeated();
    test_far();
  });
  test_rows();
  if (kFarRows) test_far_floats();
  test_traffic();
  return summary();
}
