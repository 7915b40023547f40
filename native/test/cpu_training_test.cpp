// cross_entropy, global_norm, unscale and adamw of every SIMD level against float64 references, on
// random ragged shapes, strides and dtypes. Usage: cpu_training_test [seed]
#include "cpu_tensors.h"

namespace {

using namespace gatun;
using namespace gatun::test;

// ---- cross entropy ----

void test_cross_entropy(const Backend& backend, int threads) {
  for (int trial = 0; trial < 120; ++trial) {
    const std::vector<int64_t> batch = {pick({1, 2, 3}), pick({0, 1, 5, 17})};
    const int64_t rows = batch[0] * batch[1];
    const int64_t v = pick({1, 2, 15, 16, 17, 100, 2047, 2048, 2049, 5000});
    const size_t classes = static_cast<size_t>(v);
    Tensor logits(kFloats[generator() % 3], {batch[0], batch[1], v}, flip());
    Tensor targets(GATUN_I32, flip() ? batch : std::vector<int64_t>{rows}, flip());
    Tensor row_losses(GATUN_F32, {rows}, flip()), loss(GATUN_F32, {}), factor(GATUN_F32, {});
    const double scale = static_cast<double>(pick({1, 1, 30, 1000}));
    logits.random(logits.dtype == GATUN_F16 ? std::min(scale, 30.) : scale);
    const int32_t ignored = static_cast<int32_t>(pick({-100, -1, 0}));
    int64_t bad = -1;
    for (int64_t r = 0; r < rows; ++r) {
      int64_t target = static_cast<int64_t>(generator()) & 0xffff;
      target = generator() % 5 == 0 ? ignored : target % v;
      if (trial % 10 == 9 && generator() % 4 == 0) {
        target = flip() ? v + 3 : -7;
        if (bad < 0) bad = r;
      }
      targets.set(r, static_cast<double>(target));
      // masked classes, over a whole chunk of the first pass where there is one
      if (trial % 4 == 0) {
        for (int64_t i = 0; i < v; ++i)
          if (i != target && (i < 2048 || flip())) logits.set(r * v + i, -INFINITY);
      }
    }
    const bool masked = trial % 4 == 0;
    const float smoothing = masked || flip() ? 0.f : 0.1f;
    const bool gradient = flip() || flip(), accumulate = flip(), with_rows = flip();
    const bool with_factor = flip();
    factor.set(0, with_factor ? 0.37 : 1.);
    loss.set(0, 5.);
    const double f = factor.get(0);

    const std::vector<double> x = logits.values();
    std::vector<double> truth_rows(static_cast<size_t>(rows)), off_rows(truth_rows);
    std::vector<double> gradients(x.size()), off(x.size());
    double total = 0, magnitude = 0;
    for (int64_t r = 0; r < rows; ++r) {
      const double* row = x.data() + r * v;
      const int32_t target = targets.raw<int32_t>(r);
      if (target == ignored || target < 0 || target >= v) continue;
      const double peak = *std::max_element(row, row + v);
      double sum = 0, sum_logits = 0, largest = 0;
      for (size_t i = 0; i < classes; ++i) {
        sum += std::exp(row[i] - peak);
        sum_logits += row[i];
        if (std::isfinite(row[i])) largest = std::max(largest, std::fabs(row[i]));
      }
      const double lse = peak + std::log(sum);
      double value = (1. - smoothing) * (lse - row[target]);
      if (smoothing != 0.f) value += smoothing * (lse - sum_logits / static_cast<double>(v));
      truth_rows[static_cast<size_t>(r)] = value;
      off_rows[static_cast<size_t>(r)] = 1e-6 * (1 + largest);
      total += value;
      magnitude += 1e-6 * (1 + largest);
      for (size_t i = 0; i < classes; ++i) {
        const double p = std::exp(row[i] - peak) / sum;
        double g = p - static_cast<double>(smoothing) / static_cast<double>(v);
        if (static_cast<int32_t>(i) == target) g -= 1. - smoothing;
        gradients[static_cast<size_t>(r) * classes + i] = g * f;
        // x - max is rounded in f32, which e^ makes a relative error
        off[static_cast<size_t>(r) * classes + i] =
            p * f * (2e-6 + 0x1p-23 * (peak - std::max(row[i], peak - 110))) + 1e-9;
      }
    }

    CrossEntropy args{};
    args.loss = loss.view();
    if (with_rows) args.row_losses = row_losses.view();
    args.logits = logits.view();
    args.targets = targets.view();
    if (with_factor) args.factor = factor.view();
    args.ignore_index = ignored;
    args.label_smoothing = smoothing;
    args.write_gradient = gradient;
    args.accumulate = accumulate;
    TestContext context(threads);
    backend.cross_entropy(context, args);
    const std::string what = "cross_entropy trial " + std::to_string(trial);
    check(what + ", loss", loss, {total * f + (accumulate ? 5. : 0.)}, {magnitude * f + 1e-6});
    if (with_rows) check(what + ", row losses", row_losses, truth_rows, off_rows);
    if (gradient) {
      check(what + ", gradient", logits, gradients, off);
    } else {
      check(what + ", logits", logits, x, std::vector<double>(x.size()));
    }
    ++checks;
    if (bad < 0
            ? context.status != GATUN_OK
            : context.status != GATUN_OUT_OF_RANGE ||
                  context.sentence.find("row " + std::to_string(bad) + " ") == std::string::npos) {
      report("%s: first bad row %lld, status %d, sentence \"%s\"", what.c_str(),
             static_cast<long long>(bad), static_cast<int>(context.status),
             context.sentence.c_str());
    }
  }
}

// A NaN among the logits must reach the loss: training stops on it.
void test_cross_entropy_nan(const Backend& backend, int threads) {
  for (int64_t at : {0, 7, 2047, 2048, 2999}) {
    for (bool rest_masked : {false, true}) {
      Tensor logits(GATUN_F32, {2, 3000}), targets(GATUN_I32, {2}), loss(GATUN_F32, {});
      logits.random();
      targets.set(0, 1);
      targets.set(1, 2);
      if (rest_masked)
        for (int64_t i = 0; i < 3000; ++i) logits.set(3000 + i, -INFINITY);
      logits.set(3000 + at, NAN);
      CrossEntropy args{};
      args.loss = loss.view();
      args.logits = logits.view();
      args.targets = targets.view();
      args.ignore_index = -100;
      TestContext context(threads);
      backend.cross_entropy(context, args);
      ++checks;
      if (!std::isnan(loss.get(0)))
        report("cross_entropy: a NaN at class %lld gave loss %g", static_cast<long long>(at),
               loss.get(0));
    }
  }
}

// ---- global norm ----

void test_global_norm(const Backend& backend, int threads) {
  for (int trial = 0; trial < 40; ++trial) {
    std::vector<Tensor> tensors;
    const int count = static_cast<int>(generator() % 6);
    double squares = 0;
    const double scale = trial == 0 ? 1e25 : trial == 1 ? 1e-30 : 1;  // squares beyond f32
    for (int i = 0; i < count; ++i) {
      const int32_t dtype = trial < 2 ? static_cast<int32_t>(GATUN_F32) : kFloats[generator() % 3];
      tensors.emplace_back(dtype, std::vector<int64_t>{pick({0, 1, 3, 300}), pick({1, 31, 129})},
                           flip());
      tensors.back().random(scale);
      for (double x : tensors.back().values()) squares += x * x;
    }
    Tensor norm(GATUN_F32, {}), factor(GATUN_F32, {1});
    GlobalNorm args{};
    args.norm = norm.view();
    args.factor = factor.view();
    args.max_norm = trial % 5 == 0 ? 0. : static_cast<double>(pick({1, 100}));
    for (Tensor& tensor : tensors) args.tensors.push_back(tensor.view());
    TestContext context(threads);
    backend.global_norm(context, args);
    const double truth = std::sqrt(squares);
    check("global_norm", norm, {truth}, {0});
    const double wanted = args.max_norm > 0 ? std::min(1., args.max_norm / (truth + 1e-6)) : 1.;
    check("global_norm, factor", factor, {wanted}, {1e-7 * wanted});
    if (count > 0 && tensors[0].size() > 0) {
      for (double broken : {static_cast<double>(NAN), static_cast<double>(INFINITY)}) {
        tensors[0].set(tensors[0].size() - 1, broken);
        args.tensors[0] = tensors[0].view();
        backend.global_norm(context, args);
        ++checks;
        if (!std::isnan(factor.get(0)))
          report("global_norm: a gradient of %g gave factor %g", broken, factor.get(0));
      }
    }
  }
}

// The norm must not depend on how many threads made it.
void test_norm_of_threads(const Backend& backend) {
  Tensor big(GATUN_F32, {211, 1021}), norm(GATUN_F32, {}), factor(GATUN_F32, {});
  big.random();
  float first = 0;
  for (int threads : {1, 2, 3, 7}) {
    TestContext context(threads);
    backend.global_norm(context, {norm.view(), factor.view(), {big.view()}, 1.});
    if (threads == 1) first = norm.raw<float>(0);
    ++checks;
    if (norm.raw<float>(0) != first) report("global_norm: %d threads gave other bits", threads);
  }
}

// ---- unscaling ----

void test_unscale(const Backend& backend, int threads) {
  for (int trial = 0; trial < 40; ++trial) {
    std::vector<Tensor> tensors;
    const int count = static_cast<int>(generator() % 6);
    for (int i = 0; i < count; ++i) {
      tensors.emplace_back(kFloats[generator() % 3],
                           std::vector<int64_t>{pick({0, 1, 3, 300}), pick({1, 31, 129})}, flip());
      tensors.back().random(100);
    }
    // at most one element of all is not finite: each of them must be looked at
    const double bad =
        std::initializer_list<double>{0, NAN, INFINITY, -INFINITY}.begin()[trial % 4];
    bool broken = false;
    if (bad != 0 && count > 0) {
      Tensor& tensor = tensors[generator() % tensors.size()];
      if (tensor.size() > 0) {
        tensor.set(static_cast<int64_t>(generator() % static_cast<uint64_t>(tensor.size())), bad);
        broken = true;
      }
    }
    Tensor found(GATUN_F32, {}), inverse(GATUN_F32, {1});
    const float scale = trial % 2 == 0 ? 0x1p-16f : 0.3f;
    inverse.set(0, static_cast<double>(scale));
    Unscale args{};
    args.found_inf = found.view();
    args.inverse_scale = inverse.view();
    std::vector<std::vector<double>> truth;
    for (Tensor& tensor : tensors) {
      truth.push_back(tensor.values());
      for (double& x : truth.back())  // the product is exact in double
        x = static_cast<double>(static_cast<float>(x * static_cast<double>(scale)));
      args.tensors.push_back(tensor.view());
    }
    TestContext context(threads);
    backend.unscale(context, args);
    check("unscale, found_inf", found, {broken ? 1. : 0.}, {0});
    for (size_t i = 0; i < tensors.size(); ++i)
      check("unscale", tensors[i], truth[i], std::vector<double>(truth[i].size()));
  }
}

// ---- AdamW ----

void test_adamw(const Backend& backend, int threads) {
  for (int trial = 0; trial < 40; ++trial) {
    const int count = 1 + static_cast<int>(generator() % 4);
    std::vector<Tensor> w, g, m, v, copy;
    Tensor rate(GATUN_F32, {}), step(GATUN_I64, {1}), clip(GATUN_F32, {});
    rate.set(0, 0.02);
    step.set(0, static_cast<double>(pick({1, 2, 1000})));
    clip.set(0, 0.5);
    const bool with_clip = flip(), with_copies = flip();
    AdamW args{};
    for (int i = 0; i < count; ++i) {
      const std::vector<int64_t> shape = {pick({0, 1, 3, 130}), pick({1, 17, 129, 300})};
      w.emplace_back(GATUN_F32, shape, flip());
      g.emplace_back(kFloats[generator() % 3], shape, flip());
      m.emplace_back(GATUN_F32, shape, flip());
      v.emplace_back(GATUN_F32, shape, flip());
      copy.emplace_back(flip() ? GATUN_BF16 : GATUN_F16, shape, flip());
      w.back().random();
      g.back().random();
      m.back().random(0.1);
      v.back().random(0.1);
      for (int64_t k = 0; k < v.back().size(); ++k) v.back().set(k, std::fabs(v.back().get(k)));
      args.decay.push_back(flip() ? 0.f : 0.1f);
    }
    for (size_t i = 0; i < w.size(); ++i) {
      args.weights.push_back(w[i].view());
      args.gradients.push_back(g[i].view());
      args.m.push_back(m[i].view());
      args.v.push_back(v[i].view());
      if (with_copies) args.copies.push_back(i == 1 ? View() : copy[i].view());
    }
    args.learning_rate = rate.view();
    args.step = step.view();
    if (with_clip) args.clip = clip.view();
    args.beta1 = 0.9;
    args.beta2 = 0.95;
    args.eps = 1e-8;

    std::vector<std::vector<double>> tw, tm, tv, to;
    const double lr = rate.get(0), t = step.get(0);
    for (size_t i = 0; i < w.size(); ++i) {
      tw.push_back(w[i].values());
      tm.push_back(m[i].values());
      tv.push_back(v[i].values());
      to.emplace_back(tw[i].size());
      for (size_t k = 0; k < tw[i].size(); ++k) {
        const double grad = g[i].get(static_cast<int64_t>(k)) * (with_clip ? clip.get(0) : 1.);
        double x = tw[i][k] - lr * static_cast<double>(args.decay[i]) * tw[i][k];
        tm[i][k] = args.beta1 * tm[i][k] + (1 - args.beta1) * grad;
        tv[i][k] = args.beta2 * tv[i][k] + (1 - args.beta2) * grad * grad;
        const double change = lr * (tm[i][k] / (1 - std::pow(args.beta1, t))) /
                              (std::sqrt(tv[i][k] / (1 - std::pow(args.beta2, t))) + args.eps);
        tw[i][k] = x - change;
        to[i][k] = 4e-7 * (std::fabs(x) + std::fabs(change) + 0.2);
      }
    }
    TestContext context(threads);
    backend.adamw(context, args);
    for (size_t i = 0; i < w.size(); ++i) {
      check("adamw, m", m[i], tm[i], to[i]);
      check("adamw, v", v[i], tv[i], to[i]);
      if (with_copies && i != 1) {
        for (int64_t k = 0; k < w[i].size(); ++k) {
          const double wanted = rounded(copy[i].dtype, w[i].get(k));
          if (copy[i].get(k) != wanted) {
            report("adamw: copy %g of weight %g", copy[i].get(k), w[i].get(k));
            break;
          }
        }
        copy[i].check_canaries("adamw, copy");
      }
      check("adamw, weights", w[i], tw[i], to[i]);
    }
    if (context.status != GATUN_OK) report("adamw: %s", context.sentence.c_str());
  }

  Tensor w(GATUN_F32, {5}), g(GATUN_F32, {5}), m(GATUN_F32, {5}), v(GATUN_F32, {5});
  Tensor rate(GATUN_F32, {}), step(GATUN_I64, {});
  w.random();
  step.set(0, 0);
  const std::vector<double> before = w.values();
  TestContext context(threads);
  backend.adamw(context, {{w.view()},
                          {g.view()},
                          {m.view()},
                          {v.view()},
                          {},
                          {0.f},
                          rate.view(),
                          step.view(),
                          View(),
                          0.9,
                          0.999,
                          1e-8});
  check("adamw at step 0", w, before, std::vector<double>(5));
  if (context.status != GATUN_OUT_OF_RANGE) report("adamw: step 0 was not reported");
}

}  // namespace

int main(int argc, char** argv) {
  return run_levels(argc, argv, [](const Backend& backend, int threads) {
    test_cross_entropy(backend, threads);
    test_cross_entropy_nan(backend, threads);
    test_global_norm(backend, threads);
    test_norm_of_threads(backend);
    test_unscale(backend, threads);
    test_adamw(backend, threads);
  });
}
