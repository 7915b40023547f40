// matmul and bias_backward of every SIMD level against float64 products, on random ragged shapes,
// strides, batches, transposes, dtypes and epilogues. An element may be off by what f32 sums of its
// own terms can lose: gamma times the sum of the terms' magnitudes, with gamma far below the worst
// case n u but above the random one sqrt(n) u. Usage: cpu_matmul_test [seed]
#include "cpu_tensors.h"

namespace {

using namespace gatun;
using namespace gatun::test;

struct Case {
  int64_t m, n, k;
  bool transpose_a, transpose_b, accumulate, gelu_erf, shared_b, gaps;
  int32_t in, out, bias, epilogue;
  bool preactivation, residual, in_place;  // in_place: the residual is out
  float alpha;
  std::vector<int64_t> batch;

  std::string text() const {
    char s[200];
    std::snprintf(s, sizeof s, "matmul m %lld n %lld k %lld%s%s%s%s%s in %s epilogue %d%s batch",
                  static_cast<long long>(m), static_cast<long long>(n), static_cast<long long>(k),
                  transpose_a ? " aT" : "", transpose_b ? " bT" : "",
                  accumulate ? " accumulate" : "", shared_b ? " shared b" : "", gaps ? " gaps" : "",
                  name(in), epilogue,
                  !residual  ? ""
                  : in_place ? " residual in out"
                             : " residual");
    std::string all = s;
    for (int64_t size : batch) all.append(" ").append(std::to_string(size));
    return all;
  }
};

double gelu(double x, bool erf) {
  if (erf) return 0.5 * x * std::erfc(-x / std::sqrt(2.));
  return x / (1 + std::exp(-2 * std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
}

// By differences of gelu itself, right to 1e-9.
double gelu_slope(double x, bool erf) {
  constexpr double kStep = 1e-4;
  return (8 * (gelu(x + kStep, erf) - gelu(x - kStep, erf)) -
          (gelu(x + 2 * kStep, erf) - gelu(x - 2 * kStep, erf))) /
         (12 * kStep);
}

std::vector<int64_t> with(std::vector<int64_t> shape, int64_t rows, int64_t columns) {
  shape.push_back(rows);
  shape.push_back(columns);
  return shape;
}

void run(const Backend& backend, int threads, const Case& c) {
  TestContext context(threads);
  Tensor a(c.in, with(c.batch, c.transpose_a ? c.k : c.m, c.transpose_a ? c.m : c.k), c.gaps);
  Tensor b(c.in,
           with(c.shared_b ? std::vector<int64_t>{} : c.batch, c.transpose_b ? c.n : c.k,
                c.transpose_b ? c.k : c.n),
           c.gaps);
  Tensor out(c.out, with(c.batch, c.m, c.n), c.gaps);
  Tensor pre(c.out, with(c.batch, c.m, c.n), c.gaps);
  Tensor residual(c.out, with(c.batch, c.m, c.n), c.gaps);
  Tensor bias(c.bias, {c.n});
  const bool gradient = c.epilogue == GATUN_EPILOGUE_GELU_GRADIENT;
  a.random();
  b.random();
  if (c.accumulate || c.in_place) out.random(3);
  if (gradient) pre.random(2);
  residual.random(3);
  bias.random();

  const std::vector<double> av = a.values(), bv = b.values(), old = out.values(),
                            pres = pre.values(), biases = bias.values(),
                            added = c.in_place ? old : residual.values();
  const int64_t batches = c.m * c.n == 0 ? 0 : out.size() / (c.m * c.n);
  std::vector<double> truth(static_cast<size_t>(out.size())), truth_pre = truth, off = truth;
  for (int64_t i = 0; i < batches; ++i) {
    const double* pa = av.data() + i * c.m * c.k;
    const double* pb = bv.data() + (c.shared_b ? 0 : i * c.k * c.n);
    for (int64_t m = 0; m < c.m; ++m) {
      for (int64_t n = 0; n < c.n; ++n) {
        double sum = 0, magnitude = 0;
        for (int64_t k = 0; k < c.k; ++k) {
          const double term = static_cast<double>(c.alpha == 0 ? 1.f : c.alpha) *
                              pa[c.transpose_a ? k * c.m + m : m * c.k + k] *
                              pb[c.transpose_b ? n * c.k + k : k * c.n + n];
          sum += term;
          magnitude += std::fabs(term);
        }
        const size_t at = static_cast<size_t>((i * c.m + m) * c.n + n);
        if (c.accumulate) sum += old[at];
        if (c.epilogue == GATUN_EPILOGUE_BIAS || c.epilogue == GATUN_EPILOGUE_BIAS_GELU)
          sum += biases[static_cast<size_t>(n)];
        magnitude += std::fabs(sum);
        truth_pre[at] = sum;
        truth[at] = c.epilogue == GATUN_EPILOGUE_BIAS_GELU ? gelu(sum, c.gelu_erf)
                    : gradient                             ? sum * gelu_slope(pres[at], c.gelu_erf)
                                                           : sum;
        if (c.residual) {
          truth[at] += added[at];
          magnitude += std::fabs(added[at]);
        }
        // gelu has slopes up to 1.13 and an error of its own
        off[at] = (4 + std::sqrt(static_cast<double>(c.k))) * 0x1p-24 * magnitude + 1e-6;
      }
    }
  }

  MatMul args{};
  args.out = out.view();
  args.a = a.view();
  args.b = b.view();
  if (c.epilogue == GATUN_EPILOGUE_BIAS || c.epilogue == GATUN_EPILOGUE_BIAS_GELU)
    args.bias = bias.view();
  if (c.preactivation) args.preactivation = pre.view();
  if (c.residual) args.residual = c.in_place ? out.view() : residual.view();
  args.transpose_a = c.transpose_a;
  args.transpose_b = c.transpose_b;
  args.accumulate = c.accumulate;
  args.gelu_erf = c.gelu_erf;
  args.epilogue = c.epilogue;
  args.alpha = c.alpha;
  backend.matmul(context, args);
  check(c.text(), out, truth, off);
  if (c.preactivation && !gradient) check(c.text() + ", preactivation", pre, truth_pre, off);
  if (gradient && pre.values() != pres)
    report("%s: wrote to the preactivation of a gradient", c.text().c_str());
  if (c.residual && !c.in_place && residual.values() != added)
    report("%s: wrote to the residual", c.text().c_str());
  a.check_canaries(c.text() + ", a");
  b.check_canaries(c.text() + ", b");
  if (context.status != GATUN_OK) report("%s: %s", c.text().c_str(), context.sentence.c_str());

  std::vector<unsigned char> first = out.memory;
  for (int64_t i = 0; i < out.size(); ++i) out.set(i, old[static_cast<size_t>(i)]);
  backend.matmul(context, args);
  if (out.memory != first) report("%s: a second run gave other bits", c.text().c_str());
}

Case any_case() {
  Case c{};
  const int size = static_cast<int>(generator() % 12);
  // few rows have code of their own; the rest straddles tiles, panels and slices of every level
  c.m = size < 5 ? pick({1, 1, 2, 3, 5, 8, 9}) : pick({13, 14, 15, 31, 64, 113});
  c.n = pick({1, 7, 15, 16, 17, 31, 32, 33, 64, 65, 97, 130, 300});
  c.k = pick({1, 2, 15, 16, 17, 33, 64, 129, 383, 384, 385, 500, 769, 1200});
  if (size == 0) c.k = pick({0, 1});
  if (size == 11) (flip() ? c.m : c.n) = pick({0, 1});
  c.transpose_a = generator() % 3 == 0;
  c.transpose_b = flip();
  c.in = kFloats[generator() % 3];
  c.out = flip() ? c.in : GATUN_F32;
  c.bias = flip() ? c.out : GATUN_F32;
  c.epilogue = static_cast<int32_t>(generator() % 4);
  c.accumulate = c.epilogue == GATUN_EPILOGUE_NONE && flip();
  c.gelu_erf = flip();
  c.preactivation = c.epilogue == GATUN_EPILOGUE_GELU_GRADIENT ||
                    (c.epilogue == GATUN_EPILOGUE_BIAS_GELU && flip());
  c.residual = !c.accumulate && flip();
  c.in_place = c.residual && flip();
  constexpr float kAlphas[] = {0.f, 1.f, 0.125f, -1.7f};
  c.alpha = kAlphas[generator() % 4];
  c.gaps = flip();
  c.shared_b = true;
  const int rank = static_cast<int>(generator() % 4);
  for (int d = 0; d < rank; ++d) c.batch.push_back(pick({1, 2, 3, 5}));
  if (rank == 3 || (rank > 0 && c.k > 400)) c.batch[0] = 1;
  if (rank > 0) c.shared_b = flip();
  return c;
}

void test_bias_backward(const Backend& backend, int threads) {
  for (int trial = 0; trial < 60; ++trial) {
    const std::vector<int64_t> shape = {pick({1, 2, 3}), pick({0, 1, 63, 64, 65, 200, 700}),
                                        pick({1, 5, 16, 33, 128, 129, 257, 300})};
    const int64_t n = shape[2];
    Tensor dy(kFloats[generator() % 3], shape, flip());
    Tensor dbias(flip() ? dy.dtype : static_cast<int32_t>(GATUN_F32), {n});
    dy.random();
    dbias.random();
    const bool add = flip();
    const std::vector<double> rows = dy.values(), old = dbias.values();
    std::vector<double> truth(static_cast<size_t>(n)), off(truth.size());
    for (int64_t c = 0; c < n; ++c) {
      double sum = add ? old[static_cast<size_t>(c)] : 0, magnitude = std::fabs(sum);
      for (int64_t r = 0; r < dy.size() / n; ++r) {
        sum += rows[static_cast<size_t>(r * n + c)];
        magnitude += std::fabs(rows[static_cast<size_t>(r * n + c)]);
      }
      truth[static_cast<size_t>(c)] = sum;
      off[static_cast<size_t>(c)] = 8 * 0x1p-24 * magnitude;
    }
    TestContext context(threads);
    backend.bias_backward(context, {dbias.view(), dy.view(), add ? 1u : 0u});
    check("bias_backward", dbias, truth, off);
  }
}

// NaN and infinity must come out where the definition has them, even beside padding.
void test_special(const Backend& backend, int threads) {
  for (int64_t m : {1, 5, 40}) {
    for (bool transpose_b : {false, true}) {
      const int64_t n = 37, k = 50;
      Tensor a(GATUN_F32, {m, k}),
          b(GATUN_F32, transpose_b ? std::vector<int64_t>{n, k} : std::vector<int64_t>{k, n});
      Tensor out(GATUN_F32, {m, n});
      a.random();
      b.random();
      a.set(3, INFINITY);
      b.set(transpose_b ? 36 * k + 5 : 5 * n + 36, NAN);
      MatMul args{};
      args.out = out.view();
      args.a = a.view();
      args.b = b.view();
      args.transpose_b = transpose_b;
      args.alpha = 1;
      TestContext context(threads);
      backend.matmul(context, args);
      ++checks;
      for (int64_t r = 0; r < m; ++r) {
        for (int64_t c = 0; c < n; ++c) {
          const double x = out.get(r * n + c);
          const bool fits = c == 36 ? std::isnan(x) : r == 0 ? std::isinf(x) : std::isfinite(x);
          if (!fits)
            return report("matmul with NaN and infinity: [%lld, %lld] is %g",
                          static_cast<long long>(r), static_cast<long long>(c), x);
        }
      }
    }
  }
}

// Shapes at which a device at the machine's best level turns to oneDNN: bf16 with and without
// epilogues, more shapes than it keeps code for, and sums that do not fit beside out at once.
void test_many_shapes(const Backend& backend, int threads) {
  Case c{};
  c.out = c.bias = c.in = GATUN_BF16;
  c.shared_b = true;
  c.alpha = 1;
  c.n = 64;
  c.k = 96;
  for (int64_t i = 0; i < 75; ++i) {
    c.m = 17 + i % 70;
    constexpr int32_t kEpilogues[] = {GATUN_EPILOGUE_NONE, GATUN_EPILOGUE_BIAS,
                                      GATUN_EPILOGUE_GELU_GRADIENT, GATUN_EPILOGUE_NONE,
                                      GATUN_EPILOGUE_BIAS_GELU};
    c.epilogue = kEpilogues[i % 5];
    c.preactivation = i % 5 == 4 || i % 5 == 2;
    c.accumulate = i % 5 == 3;
    c.residual = !c.accumulate && i % 4 < 2;
    c.in_place = c.residual && i % 4 == 0;
    c.transpose_a = i % 3 == 1;
    c.transpose_b = i % 2 == 1;
    c.alpha = i % 7 == 0 ? -1.5f : 1.f;
    c.gaps = i % 11 == 0;
    run(backend, threads, c);
  }
  if (threads != 2) return;
  c = Case{};
  c.in = c.out = c.bias = GATUN_BF16;
  c.shared_b = true;
  c.epilogue = GATUN_EPILOGUE_BIAS_GELU;
  c.preactivation = true;
  c.alpha = 1;
  c.m = 150;
  c.n = 33000;
  c.k = 16;
  run(backend, threads, c);
}

}  // namespace

int main(int argc, char** argv) {
  return run_levels(argc, argv, [](const Backend& backend, int threads) {
    for (int trial = 0; trial < 120; ++trial) run(backend, threads, any_case());
    test_many_shapes(backend, threads);
    test_bias_backward(backend, threads);
    test_special(backend, threads);
  });
}
