// Runs kernels/optimizer.cu on the host (native/src/sim) against float64: lists of tensors of all
// types and sizes, ragged, strided, unaligned, empty. Usage: optimizer_kernel_test [seed]
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <string>

#include "../../../kernels/optimizer.cu"
#include "device_array.h"
#include "repeat.h"

namespace {

using namespace gatun::kernels;
using enum ElementType;

unsigned seed = 20261125;
std::mt19937 generator;
Expectations expect;

int64_t any(std::initializer_list<int64_t> values) {
  return values.begin()[generator() % values.size()];
}
int64_t any_size() { return any({0, 1, 2, 3, 31, 33, 100, 1023, 8192, 8195, 16384, 16388, 65537}); }

// ---- global norm ----

struct Norm {
  float norm, factor;
};

Norm norm_of(std::deque<DeviceArray>& arrays, double max_norm) {
  std::vector<ListTensor> tensors;
  for (DeviceArray& a : arrays) {
    ListTensor t = {a.data(), a.type(), a.columns(), {}};
    a.describe(t.layout, 0);
    tensors.push_back(t);
  }
  const int64_t count = static_cast<int64_t>(tensors.size());
  Scalar<float> norm(-1), factor(-1);
  DeviceVector<double> sums(global_norm_scratch_bytes(tensors.data(), count) / sizeof(double) + 1,
                            NAN);
  sums.back() = 12345;
  expect.ran("global_norm", global_norm(nullptr, tensors.data(), count,
                                        {norm.at(), factor.at(), max_norm, sums.data()}));
  expect(sums.back() == 12345, "wrote beyond its scratch");
  return {norm.value(), factor.value()};
}

void global_norms() {
  for (int round = 0; round < 20; ++round) {
    std::deque<DeviceArray> arrays;
    // the last: more sums than the block that adds them up has threads
    const int count = round == 19 ? 2000 : static_cast<int>(any({0, 1, 3, 20, 300}));
    double squares = 0;
    // beyond what the square of an f32 can hold
    const double scale = round % 3 == 0 ? 1e25 : round % 3 == 1 ? 1e-25 : 1;
    for (int i = 0; i < count; ++i) {
      const ElementType type =
          scale == 1 ? (ElementType[]){kF32, kF16, kBf16}[generator() % 3] : kF32;
      const int64_t rows = any({1, 1, 1, 3});
      const int64_t columns = count > 100 ? any({0, 1, 5, 64, 700}) : any_size();
      arrays.emplace_back(type, rows, columns, rows > 1 ? any({0, 3, 8}) : 0, any({0, 0, 1, 8}));
      arrays.back().random(generator, scale);
      for (double v : arrays.back().values()) squares += v * v;
    }
    const double wanted = std::sqrt(squares), max_norm = any({0, 1}) * 0.5 * wanted;
    const Norm had = norm_of(arrays, max_norm);
    expect(std::fabs(had.norm - wanted) <= 0x1p-23 * wanted,
           "norm of %d tensors: had %g, wanted %g", count, had.norm, wanted);
    const double factor = max_norm > 0 ? std::min(1.0, max_norm / (wanted + 1e-6)) : 1;
    expect(std::fabs(had.factor - factor) <= 0x1p-22, "factor: had %g, wanted %g", had.factor,
           factor);
    const Norm again = norm_of(arrays, max_norm);
    expect(std::memcmp(&had, &again, sizeof had) == 0, "not the same twice");
  }
  for (double bad : {static_cast<double>(NAN), static_cast<double>(INFINITY)}) {
    std::deque<DeviceArray> arrays;
    for (int i = 0; i < 3; ++i) arrays.emplace_back(kF32, 1, 1000).random(generator, 1);
    arrays[1].set(999, bad);
    const Norm had = norm_of(arrays, 1);
    expect(!std::isfinite(had.norm) && std::isnan(had.factor), "of %g: norm %g, factor %g", bad,
           had.norm, had.factor);
  }
  // the largest norm that is one
  std::deque<DeviceArray> largest;
  largest.emplace_back(kF32, 1, 1).set(0, FLT_MAX);
  const Norm had = norm_of(largest, 1);
  expect(had.norm == FLT_MAX && had.factor == static_cast<float>(1 / (FLT_MAX + 1e-6)),
         "of the largest: norm %g, factor %g", had.norm, had.factor);
}

void norms_same_bits() {
  std::deque<DeviceArray> arrays;
  for (int i = 0; i < 140; ++i)  // two launches
    arrays.emplace_back((ElementType[]){kF32, kF16, kBf16}[i % 3], 1, i == 5 ? 20000 : 64 + i)
        .random(generator, 1);
  const int other = other_bits(seed, [&] {
    const Norm had = norm_of(arrays, 1);
    Bits bits;
    append(bits, &had, sizeof had);
    return bits;
  });
  expect(other < 0, "global_norm: other bits in run %d", other);
}

// ---- unscaling ----

float found_in(std::deque<DeviceArray>& arrays, float inverse_scale) {
  std::vector<ListTensor> tensors;
  for (DeviceArray& a : arrays) {
    ListTensor t = {a.data(), a.type(), a.columns(), {}};
    a.describe(t.layout, 0);
    tensors.push_back(t);
  }
  Scalar<float> found(-1), inverse(inverse_scale);
  expect.ran("unscale", unscale(nullptr, tensors.data(), static_cast<int64_t>(tensors.size()),
                                {found.at(), inverse.at()}));
  return found.value();
}

// What a type holds of an element's product, which is exact in double.
double product(ElementType type, double x, float scale) {
  const float value = static_cast<float>(x * static_cast<double>(scale));
  return type == kF32   ? static_cast<double>(value)
         : type == kF16 ? rounded<__half>(value)
                        : rounded<__nv_bfloat16>(value);
}

void unscalings() {
  for (int round = 0; round < 20; ++round) {
    std::deque<DeviceArray> arrays;
    const int count = static_cast<int>(any({0, 1, 3, 20, 300}));
    for (int i = 0; i < count; ++i) {
      const int64_t rows = any({1, 1, 1, 3});
      const int64_t columns = count > 100 ? any({0, 1, 5, 64, 700}) : any_size();
      arrays.emplace_back((ElementType[]){kF32, kF16, kBf16}[generator() % 3], rows, columns,
                          rows > 1 ? any({0, 3, 8}) : 0, any({0, 0, 1, 8}));
      arrays.back().random(generator, 100);
    }
    // at most one element of all is not finite: each of them must be looked at
    const double bad =
        std::initializer_list<double>{0, NAN, INFINITY, -INFINITY}.begin()[round % 4];
    bool broken = false;
    if (bad != 0 && count > 0) {
      DeviceArray& array = arrays[generator() % arrays.size()];
      if (array.elements() > 0) {
        array.set(static_cast<int64_t>(generator() % static_cast<uint64_t>(array.elements())), bad);
        broken = true;
      }
    }
    std::vector<std::vector<double>> before;
    for (const DeviceArray& a : arrays) before.push_back(a.values());
    const float scale = round % 2 == 0 ? 0x1p-16f : 0.3f;
    const float found = found_in(arrays, scale);
    expect(found == (broken ? 1.f : 0.f), "%d tensors with %g: found %g", count, broken ? bad : 0.,
           static_cast<double>(found));
    for (size_t i = 0; i < arrays.size(); ++i) {
      const DeviceArray& a = arrays[i];
      int64_t at = 0;
      for (; at < a.elements(); ++at) {
        const double wanted = product(a.type(), before[i][static_cast<size_t>(at)], scale);
        if (!(a.get(at) == wanted || (std::isnan(a.get(at)) && std::isnan(wanted)))) break;
      }
      expect(at == a.elements(), "tensor %zu of %d (%lldx%lld %s) at %lld", i, count,
             static_cast<long long>(a.rows()), static_cast<long long>(a.columns()),
             name_of(a.type()), static_cast<long long>(at));
      expect(a.intact(), "wrote outside of tensor %zu", i);
    }
  }
  // the largest numbers are finite: in vectors, in what is left of them, in rows with gaps
  std::deque<DeviceArray> largest;
  largest.emplace_back(kF32, 1, 1027);
  largest.emplace_back(kF32, 3, 5, 3);
  for (DeviceArray& a : largest)
    for (int64_t i = 0; i < a.elements(); ++i) a.set(i, i % 2 == 0 ? FLT_MAX : -FLT_MAX);
  expect(found_in(largest, 0.5f) == 0.f, "the largest numbers count as infinite");
}

// ---- AdamW ----

struct Parameter {
  DeviceArray weight, gradient, m, v, copy;
  bool copied;
  float decay;

  Parameter(int64_t rows, int64_t columns, ElementType g, ElementType c, bool copied, bool plain)
      : weight(kF32, rows, columns, gap(rows, plain), shift(plain)),
        gradient(g, rows, columns, gap(rows, plain), shift(plain)),
        m(kF32, rows, columns, gap(rows, plain), shift(plain)),
        v(kF32, rows, columns, gap(rows, plain), shift(plain)),
        copy(c, rows, columns, gap(rows, plain), shift(plain)),
        copied(copied),
        decay(static_cast<float>(generator() % 3) * 0.05f) {
    weight.random(generator, 1);
    gradient.random(generator, 0.1);
    m.random(generator, 0.1);
    v.random(generator, 0.01);
    for (int64_t i = 0; i < v.elements(); ++i) v.set(i, std::fabs(v.get(i)));
    for (int64_t i = 0; i < copy.elements(); ++i) copy.set(i, 0);
  }
  static int64_t gap(int64_t rows, bool plain) { return rows == 1 || plain ? 0 : any({0, 3, 8}); }
  static int64_t shift(bool plain) { return plain ? 0 : any({0, 0, 0, 1, 4}); }
  AdamWTensor tensor() {
    AdamWTensor t = {};
    t.weight = reinterpret_cast<float*>(weight.data());
    t.gradient = gradient.data();
    t.m = reinterpret_cast<float*>(m.data());
    t.v = reinterpret_cast<float*>(v.data());
    if (copied) t.copy = copy.data();
    t.gradient_type = gradient.type();
    t.copy_type = copy.type();
    t.decay = decay;
    t.columns = weight.columns();
    weight.describe(t.layout, AdamWTensor::kWeight);
    gradient.describe(t.layout, AdamWTensor::kGradient);
    m.describe(t.layout, AdamWTensor::kM);
    v.describe(t.layout, AdamWTensor::kV);
    copy.describe(t.layout, AdamWTensor::kCopy);
    return t;
  }
};

bool near(double had, double wanted, double size) {
  return std::fabs(had - wanted) <= 8 * 0x1p-24 * (size + std::fabs(wanted));
}

void updates() {
  for (int round = 0; round < 12; ++round) {
    std::deque<Parameter> parameters;
    const int count = static_cast<int>(any({0, 1, 5, 150}));
    for (int i = 0; i < count; ++i) {
      const int64_t rows = any({1, 1, 1, 1, 3});
      parameters.emplace_back(rows, count > 100 ? any({0, 1, 5, 64, 700}) : any_size(),
                              (ElementType[]){kF32, kF16, kBf16}[generator() % 3],
                              (ElementType[]){kF16, kBf16}[generator() % 2], generator() % 2 == 0,
                              false);
    }
    const double beta1 = 0.9, beta2 = 0.95, eps = 1e-8;
    Scalar<float> rate(0.01f), clip(0.5f);
    Scalar<int64_t> step(any({1, 2, 1000, 5'000'000'000}));
    const bool clipped = generator() % 2 == 0;
    std::vector<AdamWTensor> tensors;
    std::deque<Parameter> before = {};
    std::vector<std::vector<double>> w, m, v;
    for (Parameter& p : parameters) {
      tensors.push_back(p.tensor());
      w.push_back(p.weight.values());
      m.push_back(p.m.values());
      v.push_back(p.v.values());
    }
    DeviceVector<AdamWStep> scratch(1);
    Faults faults;
    if (!expect.ran("adamw", adamw(nullptr, tensors.data(), count,
                                   {rate.at(), step.at(), clipped ? clip.at() : nullptr, beta1,
                                    beta2, eps, scratch.data(), faults.sink()})))
      return;
    expect(faults.record.kind == FaultKind::kNone, "reported a fault");
    const double bias1 = 1 - std::pow(beta1, static_cast<double>(step.value()));
    const double bias2 = 1 - std::pow(beta2, static_cast<double>(step.value()));
    const double lr = rate.value();
    for (size_t i = 0; i < parameters.size(); ++i) {
      const Parameter& p = parameters[i];
      bool good = true;
      int64_t at = 0;
      for (; at < p.weight.elements(); ++at) {
        const size_t j = static_cast<size_t>(at);
        const double g = p.gradient.get(at) * (clipped ? clip.value() : 1);
        const double new_m = beta1 * m[i][j] + (1 - beta1) * g;
        const double new_v = beta2 * v[i][j] + (1 - beta2) * g * g;
        const double ratio = (new_m / bias1) / (std::sqrt(new_v / bias2) + eps);
        const double new_w = w[i][j] * (1 - lr * p.decay) - lr * ratio;
        // m may cancel: its error is that of its parts
        const double m_size = std::fabs(m[i][j]) + std::fabs(g);
        good =
            near(p.m.get(at), new_m, m_size) && near(p.v.get(at), new_v, 0) &&
            near(p.weight.get(at), new_w,
                 std::fabs(w[i][j]) + lr * m_size / bias1 / (std::sqrt(new_v / bias2) + eps)) &&
            (!p.copied || p.copy.get(at) ==
                              (p.copy.type() == kF16
                                   ? rounded<__half>(static_cast<float>(p.weight.get(at)))
                                   : rounded<__nv_bfloat16>(static_cast<float>(p.weight.get(at)))));
        if (!good) break;
      }
      expect(good, "tensor %zu of %d (%lldx%lld, gradient %s) at %lld", i, count,
             static_cast<long long>(p.weight.rows()), static_cast<long long>(p.weight.columns()),
             name_of(p.gradient.type()), static_cast<long long>(at));
      expect(p.weight.intact() && p.gradient.intact() && p.m.intact() && p.v.intact() &&
                 p.copy.intact(),
             "wrote outside of tensor %zu", i);
    }
  }
}

// A step that was not counted up changes nothing.
void no_step() {
  Parameter p(1, 1000, kF32, kF16, true, true);
  const std::vector<double> weight = p.weight.values(), m = p.m.values(), v = p.v.values();
  Scalar<float> rate(0.01f);
  Scalar<int64_t> step(0);
  DeviceVector<AdamWStep> scratch(1);
  Faults faults;
  const AdamWTensor tensor = p.tensor();
  expect.ran("adamw", adamw(nullptr, &tensor, 1,
                            {rate.at(), step.at(), nullptr, 0.9, 0.95, 1e-8, scratch.data(),
                             faults.sink()}));
  expect(faults.record.kind == FaultKind::kAdamWStep && faults.record.value[0] == 0,
         "not reported");
  expect(p.weight.values() == weight && p.m.values() == m && p.v.values() == v, "updated");
}

// Rows of a gradient more than 2^31 elements apart.
void far_apart() {
  constexpr int64_t kApart = (int64_t{1} << 31) + 24, kColumns = 100;
  auto* const g = static_cast<__nv_bfloat16*>(
      simt::allocate_sparse(static_cast<size_t>(kApart + kColumns) * sizeof(__nv_bfloat16)));
  for (int64_t i = 0; i < kColumns; ++i) g[i] = g[kApart + i] = from_float<__nv_bfloat16>(2.f);
  ListTensor norm = {g, kBf16, kColumns, {2, 1, {2}, {{kApart}}}};
  Scalar<float> length(-1), factor(-1), rate(0.25f);
  DeviceVector<double> sums(1);
  expect.ran("far apart",
             global_norm(nullptr, &norm, 1, {length.at(), factor.at(), 0, sums.data()}));
  expect(std::fabs(length.value() - std::sqrt(800.f)) < 1e-5f, "far apart: norm %g",
         static_cast<double>(length.value()));
  Scalar<float> found(-1), inverse(0.5f);
  expect.ran("far apart", unscale(nullptr, &norm, 1, {found.at(), inverse.at()}));
  expect(found.value() == 0.f && to_float(g[0]) == 1.f && to_float(g[kApart]) == 1.f,
         "far apart: not halved");
  Parameter p(2, kColumns, kF32, kF16, false, true);
  const std::vector<double> weight = p.weight.values();
  for (int64_t i = 0; i < p.m.elements(); ++i) {
    p.m.set(i, 0);
    p.v.set(i, 0);
  }
  AdamWTensor t = p.tensor();
  t.gradient = g;
  t.gradient_type = kBf16;
  t.decay = 0;
  t.layout.stride[AdamWTensor::kGradient][0] = kApart;
  Scalar<int64_t> step(1);
  DeviceVector<AdamWStep> scratch(1);
  Faults faults;
  expect.ran("far apart", adamw(nullptr, &t, 1,
                                {rate.at(), step.at(), nullptr, 0.9, 0.95, 1e-8, scratch.data(),
                                 faults.sink()}));
  for (int64_t i = 0; i < p.weight.elements(); ++i)
    expect(std::fabs(p.weight.get(i) - (weight[static_cast<size_t>(i)] - 0.25)) < 1e-5,
           "far apart: weight %lld", static_cast<long long>(i));
  simt::release(g);
}

// ---- traffic ----

// Bytes that the definitions ask for; every request's sectors are used whole.
void traffic() {
  constexpr int64_t kElements = 3 * 128 * 1024;
  const auto check = [](const char* what, int64_t load, int64_t store) {
    const simt::Counters had = simt::counters();
    std::printf("%s of %lld elements: loaded %lld bytes, stored %lld, %lld blocks\n", what,
                static_cast<long long>(kElements), static_cast<long long>(had.load.bytes),
                static_cast<long long>(had.store.bytes), static_cast<long long>(had.blocks));
    expect(had.load.bytes == load && had.store.bytes == store, "%s: wanted %lld and %lld", what,
           static_cast<long long>(load), static_cast<long long>(store));
    expect(had.load.sectors * 32 == load && had.store.sectors * 32 == store, "%s: sectors in part",
           what);
  };
  for (ElementType type : {kF32, kBf16}) {
    const int64_t size = static_cast<int64_t>(size_of(type));
    std::deque<DeviceArray> arrays;
    for (int i = 0; i < 3; ++i) arrays.emplace_back(type, 1, kElements / 3).random(generator, 1);
    simt::reset_counters();
    norm_of(arrays, 1);
    check(type == kF32 ? "global_norm f32" : "global_norm bf16", size * kElements, 0);
    simt::reset_counters();
    found_in(arrays, 0.5f);
    check(type == kF32 ? "unscale f32" : "unscale bf16", size * kElements, size * kElements);

    std::deque<Parameter> parameters;
    std::vector<AdamWTensor> tensors;
    for (int i = 0; i < 3; ++i) {
      parameters.emplace_back(1, kElements / 3, type, kBf16, type != kF32, true);
      tensors.push_back(parameters.back().tensor());
    }
    Scalar<float> rate(0.01f);
    Scalar<int64_t> step(1);
    DeviceVector<AdamWStep> scratch(1);
    Faults faults;
    simt::reset_counters();
    expect.ran("adamw", adamw(nullptr, tensors.data(), 3,
                              {rate.at(), step.at(), nullptr, 0.9, 0.95, 1e-8, scratch.data(),
                               faults.sink()}));
    check(type == kF32 ? "adamw f32" : "adamw bf16 with copies", (12 + size) * kElements,
          (12 + (type == kF32 ? 0 : 2)) * kElements);
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc > 1) seed = static_cast<unsigned>(std::strtoul(argv[1], nullptr, 10));
  std::printf("seed %u\n", seed);
  for (simt::Order order : {simt::Order::kForward, simt::Order::kReverse, simt::Order::kRandom}) {
    simt::set_options({order, seed});
    generator.seed(seed + static_cast<unsigned>(order));
    global_norms();
    unscalings();
    updates();
    no_step();
  }
  norms_same_bits();
  far_apart();
  simt::count_memory(true);
  traffic();
  return expect.report();
}
