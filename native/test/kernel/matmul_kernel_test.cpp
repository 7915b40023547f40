// Runs kernels/matmul.cu on the host (native/src/sim) against float64. Usage:
// matmul_kernel_test [seed [first|all]]   first: end at the first failure; all: the whole product
// of types, transposes, epilogues and sizes instead of a sample
#include <algorithm>
#include <cmath>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "../../../kernels/matmul.cu"
#include "../../../kernels/matmul_few_rows.cu"
#include "device_matrix.h"

namespace {

using namespace gatun::kernels;

struct Case {
  ElementType in, out;
  bool transpose_a, transpose_b;
  int64_t m, n, k;
  int64_t products = 1;
  bool one_b = false;      // the same b for all products
  int gap = 0, shift = 0;  // of a and b, elements
  int out_gap = 0, out_shift = 0;
  bool add = false;
  float alpha = 1;
  bool bias = false, bias_f32 = false, preactivation = false;
  Gelu gelu = Gelu::kNone;
  int sm_count = 4;

  std::string text() const {
    const auto number = [](int64_t i) { return std::to_string(i); };
    std::string s = std::string(name(in)) + " to " + name(out) + " " + number(products) + "x " +
                    number(m) + "x" + number(n) + "x" + number(k);
    if (transpose_a) s += " aT";
    if (transpose_b) s += " bT";
    if (one_b) s += " one b";
    s += " gap " + number(gap) + " shift " + number(shift);
    s += " out gap " + number(out_gap) + " shift " + number(out_shift);
    if (add) s += " add";
    s += " alpha " + std::to_string(alpha);
    if (bias) s += bias_f32 ? " bias f32" : " bias";
    if (gelu != Gelu::kNone) s += gelu == Gelu::kErf ? " erf" : " tanh";
    if (preactivation) s += " preactivation";
    return s + ", " + number(sm_count) + " multiprocessors";
  }
};

bool check(bool right, const Case& c, const char* format, ...)
    __attribute__((format(printf, 3, 4)));
bool check(bool right, const Case& c, const char* format, ...) {
  ++checks;
  if (right) return true;
  if (++failures > 20) return false;
  std::fprintf(stderr, "FAILED (seed %u) %s: ", seed, c.text().c_str());
  va_list arguments;
  va_start(arguments, format);
  std::vfprintf(stderr, format, arguments);
  va_end(arguments);
  std::fputc('\n', stderr);
  return false;
}

// The operands of a case in device memory, and its launch.
struct Problem {
  Case c;
  Matrix a, b, out, bias, preactivation;
  std::vector<double> old;

  explicit Problem(const Case& of)
      : c(of),
        a(c.in, c.products, c.transpose_a ? c.k : c.m, c.transpose_a ? c.m : c.k, c.gap, c.shift),
        b(c.in, c.one_b ? 1 : c.products, c.transpose_b ? c.n : c.k, c.transpose_b ? c.k : c.n,
          c.gap, c.shift),
        out(c.out, c.products, c.m, c.n, c.out_gap, c.out_shift),
        bias(c.bias_f32 ? ElementType::kF32 : c.out, 1, 1, c.n, 0, c.out_shift),
        preactivation(c.out, c.products, c.m, c.n, c.out_gap, c.out_shift) {
    a.random();
    b.random();
    bias.random();
    if (c.add) out.random();
    old = out.values();
    for (Matrix* m : {&a, &b, &out, &bias, &preactivation}) m->remember();
  }
  MatMul arguments() {
    MatMul p = {};
    p.a = a.data;
    p.b = b.data;
    p.out = out.data;
    p.a_stride = a.stride;
    p.b_stride = b.stride;
    p.out_stride = out.stride;
    p.preactivation_stride = preactivation.stride;
    p.m = static_cast<int>(c.m);
    p.n = static_cast<int>(c.n);
    p.k = static_cast<int>(c.k);
    p.alpha = c.alpha;
    p.transpose_a = c.transpose_a;
    p.transpose_b = c.transpose_b;
    p.add = c.add;
    p.gelu = c.gelu;
    if (c.bias) p.bias = bias.data;
    p.bias_type = bias.type;
    if (c.preactivation) p.preactivation = preactivation.data;
    p.batch.rows = c.products;
    if (c.products != 1) {
      p.batch.rank = 1;
      p.batch.shape[0] = c.products;
      p.batch.stride[MatMul::kA][0] = a.product_stride;
      p.batch.stride[MatMul::kB][0] = c.one_b ? 0 : b.product_stride;
      p.batch.stride[MatMul::kOut][0] = out.product_stride;
      p.batch.stride[MatMul::kPreactivation][0] = preactivation.product_stride;
    }
    return p;
  }
  bool launch() {
    MatMul p = arguments();
    const size_t bytes = matmul_scratch_bytes(c.in, c.out, p, c.sm_count);
    std::vector<uint4, simt::DeviceAllocator<uint4>> scratch(bytes / 16 + 1);
    std::memset(scratch.data(), 0xff, scratch.size() * 16);
    if (bytes > 0) p.partials = reinterpret_cast<float*>(scratch.data());
    cudaError_t error = matmul(nullptr, c.in, c.out, p, c.sm_count);
    if (error == cudaSuccess) error = cudaDeviceSynchronize();
    const bool ran = check(error == cudaSuccess, c, "%s", cudaGetErrorString(error));
    const auto* last = reinterpret_cast<const unsigned char*>(scratch.data()) + bytes;
    return check(std::all_of(last, last + 16, [](unsigned char x) { return x == 0xff; }), c,
                 "wrote beyond its scratch") &&
           ran;
  }
};

double gelu(Gelu form, double x) {
  switch (form) {
    case Gelu::kTanh:
      return x / (1 + std::exp(-2 * std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
    case Gelu::kErf:
      return 0.5 * x * std::erfc(-x / std::sqrt(2.0));
    default:
      return x;
  }
}

void compare(Problem& problem) {
  const Case& c = problem.c;
  const std::vector<double> a = problem.a.values(), b = problem.b.values();
  for (int64_t p = 0; p < c.products; ++p)
    for (int64_t i = 0; i < c.m; ++i)
      for (int64_t j = 0; j < c.n; ++j) {
        double sum = 0, size = 0;
        for (int64_t k = 0; k < c.k; ++k) {
          const double x =
              a[static_cast<size_t>(p * c.m * c.k + (c.transpose_a ? k * c.m + i : i * c.k + k))];
          const double y = b[static_cast<size_t>((c.one_b ? 0 : p) * c.n * c.k +
                                                 (c.transpose_b ? j * c.k + k : k * c.n + j))];
          sum += x * y;
          size += std::fabs(x * y);
        }
        const double old = c.add ? problem.old[static_cast<size_t>((p * c.m + i) * c.n + j)] : 0;
        const double bias = c.bias ? problem.bias.get(0, 0, j) : 0;
        const double before = static_cast<double>(c.alpha) * sum + old + bias;
        const double wanted = gelu(c.gelu, before);
        // f32 sums of exact products, alpha, old and bias, GELU (whose slope is below 1.13)
        const double steps = 4 + std::sqrt(static_cast<double>(c.k));
        const double tolerance = 0x1p-24 * (steps * size * std::fabs(static_cast<double>(c.alpha)) +
                                            2 * (std::fabs(old) + std::fabs(bias))) +
                                 1e-30;
        const double had = problem.out.get(p, i, j);
        const double approximation = c.gelu == Gelu::kNone ? 0 : 1e-6 * std::fabs(before);
        const bool right =
            std::fabs(had - wanted) <= 1.13 * tolerance + approximation +
                                           rounding(c.out) * (std::fabs(wanted) + tolerance) +
                                           (c.out == ElementType::kF16 ? 0x1p-25 : 0);
        if (!check(right, c, "out[%lld, %lld, %lld] is %.9g, wanted %.9g within %.3g",
                   static_cast<long long>(p), static_cast<long long>(i), static_cast<long long>(j),
                   had, wanted, tolerance))
          return;
        if (!c.preactivation) continue;
        const double kept = problem.preactivation.get(p, i, j);
        if (!check(std::fabs(kept - before) <=
                       tolerance + rounding(c.out) * (std::fabs(before) + tolerance),
                   c, "preactivation[%lld, %lld, %lld] is %.9g, wanted %.9g",
                   static_cast<long long>(p), static_cast<long long>(i), static_cast<long long>(j),
                   kept, before))
          return;
      }
}

void run(const Case& c) {
  Problem problem(c);
  if (!problem.launch()) return;
  compare(problem);
  check(problem.out.untouched(), c, "wrote outside of out");
  check(problem.preactivation.untouched(), c, "wrote outside of preactivation");
  check(problem.a.untouched() && problem.b.untouched() && problem.bias.untouched(), c,
        "wrote to an operand");
}

Case random_case(ElementType in, int64_t m, int64_t n, int64_t k) {
  Case c = {in, pick(2) ? ElementType::kF32 : in, pick(2) == 0, pick(2) == 0, m, n, k};
  if (pick(4) == 0) {
    c.products = 1 + pick(3);
    c.one_b = pick(2) == 0;
  }
  // aligned to 16 bytes more often than not
  const int kGaps[] = {0, 8, 16, 3, 2}, kShifts[] = {0, 8, 0, 1, 2};
  c.gap = kGaps[pick(5)];
  c.shift = kShifts[pick(5)];
  c.out_gap = kGaps[pick(5)];
  c.out_shift = kShifts[pick(5)];
  c.alpha = pick(2) ? 1.f : -0.375f;
  switch (pick(4)) {
    case 0:
      c.add = true;
      break;
    case 1:
      c.bias = true;
      break;
    case 2:
      c.bias = true;
      c.gelu = pick(2) ? Gelu::kTanh : Gelu::kErf;
      c.preactivation = pick(2) == 0;
      break;
    default:
      break;
  }
  c.bias_f32 = pick(2) == 0;
  const int kCounts[] = {1, 4, 16, 132};
  c.sm_count = kCounts[pick(4)];
  return c;
}

constexpr ElementType kTypes[] = {ElementType::kF32, ElementType::kF16, ElementType::kBf16};

}  // namespace

int main(int argc, char** argv) {
  if (argc > 1) seed = static_cast<unsigned>(std::strtoul(argv[1], nullptr, 10));
  const bool first = argc > 2 && std::strcmp(argv[2], "first") == 0;
  std::printf("seed %u\n", seed);
  constexpr int64_t kSizes[][3] = {{1, 1, 1},     {1, 8, 8},      {8, 64, 64},   {9, 33, 17},
                                   {16, 16, 16},  {31, 33, 65},   {64, 64, 64},  {65, 63, 129},
                                   {3, 200, 300}, {128, 256, 32}, {130, 70, 96}, {17, 300, 1023},
                                   {0, 3, 4},     {3, 0, 4},      {3, 4, 0},     {70, 520, 40}};
  for (simt::Order order : {simt::Order::kForward, simt::Order::kReverse, simt::Order::kRandom}) {
    simt::set_options({order, seed});
    generator.seed(seed + static_cast<unsigned>(order));
    for (ElementType in : kTypes)
      for (const auto& s : kSizes) {
        run(random_case(in, s[0], s[1], s[2]));
        if (first && failures > 0) return 1;
      }
  }
  std::printf("%d checks, %d failures\n", checks, failures);
  return failures == 0 ? 0 : 1;
}
