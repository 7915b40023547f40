// Runs kernels/loss.cu on the host (native/src/sim) against float64: every tile and type, ragged,
// strided, unaligned. Usage: loss_kernel_test [seed]
#include <cstdio>
#include <cstdlib>
#include <string>

#include "../../../kernels/loss.cu"
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

struct Case {
  ElementType type;
  int64_t rows, columns;
  double smoothing, scale;
  bool gradient, accumulate;
  std::string text() const {
    return std::string(name_of(type)) + " " + std::to_string(rows) + "x" + std::to_string(columns) +
           " e=" + std::to_string(smoothing) + (gradient ? " gradient" : "");
  }
};

constexpr int32_t kIgnored = -100;

struct Run {
  DeviceArray logits;
  DeviceVector<int32_t> targets;
  DeviceVector<float> row_losses;
  DeviceVector<double> sums;
  Scalar<float> factor{0.37f}, loss{2.5f};
  Faults faults;

  Run(const Case& c, int64_t gap, int64_t shift)
      : logits(c.type, c.rows, c.columns, gap, shift),
        targets(static_cast<size_t>(c.rows)),
        row_losses(static_cast<size_t>(c.rows) + 1, -1.f),
        sums(static_cast<size_t>(c.rows) + 1, -1.) {
    logits.random(generator, c.scale, generator() % 2 * 20.);
    for (int32_t& t : targets)
      t = generator() % 5 == 0
              ? kIgnored
              : static_cast<int32_t>(any({0, c.columns - 1, c.columns / 2,
                                          static_cast<int64_t>(generator()) % c.columns}));
  }
  CrossEntropy arguments(const Case& c) {
    CrossEntropy p = {};
    p.logits = logits.data();
    p.targets = targets.data();
    p.factor = factor.at();
    p.loss = loss.at();
    p.row_losses = row_losses.data();
    p.sums = sums.data();
    p.faults = faults.sink();
    p.columns = static_cast<int>(c.columns);
    p.ignore_index = kIgnored;
    p.smoothing = static_cast<float>(c.smoothing);
    p.write_gradient = c.gradient;
    p.accumulate = c.accumulate;
    logits.describe(p.layout, 0);
    return p;
  }
  bool operator()(const Case& c) {
    const CrossEntropy p = arguments(c);
    expect(cross_entropy_scratch_bytes(p) == static_cast<size_t>(c.rows) * 8, "scratch");
    return expect.ran(c.text(), cross_entropy(nullptr, c.type, p));
  }
};

void check(const Case& c, int64_t gap, int64_t shift) {
  Run run(c, gap, shift);
  const std::vector<double> x = run.logits.values();
  if (!run(c)) return;
  expect(run.row_losses.back() == -1.f && run.sums.back() == -1., "%s: wrote beyond its rows",
         c.text().c_str());
  expect(run.logits.intact(), "%s: wrote outside of the logits", c.text().c_str());
  expect(run.faults.record.kind == FaultKind::kNone, "%s: reported a fault", c.text().c_str());
  const double factor = static_cast<double>(0.37f),
               e = static_cast<double>(static_cast<float>(c.smoothing));
  double total = 0, size = 0;
  for (int64_t r = 0; r < c.rows; ++r) {
    const double* row = x.data() + r * c.columns;
    const int32_t target = run.targets[static_cast<size_t>(r)];
    const bool counts = target != kIgnored;
    double max = -INFINITY, exponentials = 0, sum = 0, magnitude = 1;
    for (int64_t i = 0; i < c.columns; ++i) {
      max = std::max(max, row[i]);
      sum += row[i];
      magnitude = std::max(magnitude, std::fabs(row[i]));
    }
    for (int64_t i = 0; i < c.columns; ++i) exponentials += std::exp(row[i] - max);
    const double lse = max + std::log(exponentials);
    const double loss =
        counts ? (1 - e) * (lse - row[target]) + e * (lse - sum / static_cast<double>(c.columns))
               : 0;
    total += loss;
    size += std::fabs(loss) + magnitude;
    const double had = static_cast<double>(run.row_losses[static_cast<size_t>(r)]);
    expect(std::fabs(had - loss) <= 8 * 0x1p-24 * (std::fabs(loss) + (counts ? magnitude : 0)),
           "%s row %lld: loss %.9g, wanted %.9g", c.text().c_str(), static_cast<long long>(r), had,
           loss);
    for (int64_t i = 0; i < c.columns; ++i) {
      const int64_t at = r * c.columns + i;
      if (!c.gradient) {
        if (run.logits.get(at) == row[i]) continue;
        expect(false, "%s: changed the logits", c.text().c_str());
        return;
      }
      double wanted = 0, error = 0;
      if (counts) {
        const double p = std::exp(row[i] - max) / exponentials,
                     uniform = e / static_cast<double>(c.columns);
        wanted = factor * (p - uniform - (i == target ? 1 - e : 0));
        // of the exponent, then of the sum's parts
        error =
            factor * 0x1p-24 * ((8 + 2 * (max - row[i])) * p + 4 * uniform + (i == target ? 4 : 0));
      }
      const double tolerance = error + precision_of(c.type) * 1.01 * std::fabs(wanted) +
                               (c.type == kF16 ? 0x1p-24 : 1e-37);
      if (std::fabs(run.logits.get(at) - wanted) <= tolerance) continue;
      expect(false, "%s [%lld,%lld] (target %d): gradient %.9g, wanted %.9g", c.text().c_str(),
             static_cast<long long>(r), static_cast<long long>(i), target, run.logits.get(at),
             wanted);
      return;
    }
  }
  expect.count();
  const double wanted = factor * total + (c.accumulate ? 2.5 : 0);
  expect(std::fabs(static_cast<double>(run.loss.value()) - wanted) <= 8 * 0x1p-24 * (size + 2.5),
         "%s: loss %.9g, wanted %.9g", c.text().c_str(), static_cast<double>(run.loss.value()),
         wanted);
}

// A target beyond the vocabulary counts nothing, has no gradient and is reported.
void beyond() {
  for (int32_t target : {-1, 1000, INT_MAX}) {
    const Case c = {kF32, 3, 1000, 0, 1, true, false};
    Run run(c, 0, 0);
    run.targets = {1, target, 2};
    run(c);
    const FaultRecord& fault = run.faults.record;
    expect(fault.kind == FaultKind::kCrossEntropyTarget && fault.value[0] == target &&
               fault.value[1] == 1 && fault.value[2] == 1000 && fault.value[3] == kIgnored,
           "target %d: had report %d of %lld", target, static_cast<int>(fault.kind),
           static_cast<long long>(fault.value[0]));
    expect(run.row_losses[1] == 0.f, "loss of a row with target %d", target);
    bool zero = true;
    for (int64_t i = 1000; i < 2000; ++i) zero = zero && run.logits.get(i) == 0;
    expect(zero, "gradient of a row with target %d", target);
  }
}

// What is not finite stays in its row; -inf is a logit like others.
void extremes(ElementType type, int64_t columns) {
  const Case c = {type, 5, columns, 0, 1, true, false};
  Run run(c, 3, 1);
  run.targets = {0, 0, 0, 0, 0};
  run.logits.set(0 * columns + columns - 1, NAN);
  run.logits.set(1 * columns + columns / 2, INFINITY);
  for (int64_t i = 0; i < columns; ++i) run.logits.set(2 * columns + i, -INFINITY);
  for (int64_t i = 1; i < columns; ++i) run.logits.set(3 * columns + i, -INFINITY);
  if (!run(c)) return;
  const std::vector<float, simt::DeviceAllocator<float>>& had = run.row_losses;
  expect(std::isnan(had[0]) && std::isnan(had[1]) && std::isnan(had[2]), "%s: %g %g %g",
         c.text().c_str(), had[0], had[1], had[2]);
  expect(had[3] == 0.f && std::isfinite(had[4]), "%s: %g %g", c.text().c_str(), had[3], had[4]);
  for (int64_t i = 0; i < columns; ++i) {
    if (run.logits.get(3 * columns + i) == 0 && std::isnan(run.logits.get(columns + i))) continue;
    expect(false, "%s: gradient %lld", c.text().c_str(), static_cast<long long>(i));
    return;
  }
}

// Each logit is loaded once and its gradient stored once, 8 columns at either end apart; rows that
// do not stay on the chip are loaded twice.
void traffic(ElementType type, int64_t columns, bool gradient, int times) {
  const Case c = {type, 8, columns, 0, 1, gradient, false};
  Run run(c, 0, 0);
  for (int32_t& t : run.targets) t = 1;
  simt::reset_counters();
  simt::count_memory(true);
  if (!run(c)) return;
  simt::count_memory(false);
  const simt::Counters had = simt::counters();
  const double bytes = static_cast<double>(c.rows * columns) * static_cast<double>(size_of(type));
  const double loaded = static_cast<double>(had.load.bytes + had.copy_load.bytes);
  const double sectors = static_cast<double>(had.load.sectors + had.copy_load.sectors) * 32;
  std::printf("cross_entropy %s: loaded %.0f bytes, stored %lld, of %.0f; sectors used %.1f %%\n",
              c.text().c_str(), loaded, static_cast<long long>(had.store.bytes), bytes,
              100 * loaded / sectors);
  expect(std::fabs(loaded - times * bytes) <= 0.05 * bytes, "%s loads", c.text().c_str());
  expect(std::fabs(static_cast<double>(had.store.bytes) - (gradient ? bytes : 0)) <= 0.05 * bytes,
         "%s stores", c.text().c_str());
  expect(loaded >= 0.9 * sectors && static_cast<double>(had.store.bytes) >=
                                        0.9 * 32 * static_cast<double>(had.store.sectors),
         "%s: sectors in part", c.text().c_str());
}

void same_bits(ElementType type, int64_t columns) {
  const Case c = {type, 40, columns, 0.1, 4, true, true};
  Run run(c, 0, 0);
  const std::vector<double> logits = run.logits.values();
  const int other = other_bits(seed, [&] {
    for (int64_t i = 0; i < run.logits.elements(); ++i)
      run.logits.set(i, logits[static_cast<size_t>(i)]);
    *run.loss.at() = 2.5f;
    Bits bits;
    if (!run(c)) return bits;
    append(bits, run.logits.data(), static_cast<size_t>(c.rows * columns) * size_of(type));
    append(bits, run.row_losses.data(), static_cast<size_t>(c.rows) * sizeof(float));
    append(bits, run.loss.at(), sizeof(float));
    return bits;
  });
  expect(other < 0, "%s: other bits in run %d", c.text().c_str(), other);
}

// Two equal rows more than 2^31 elements apart have equal losses and gradients.
void far_apart(int64_t columns) {
  constexpr int64_t kApart = (int64_t{1} << 31) + 24;
  const Case c = {kBf16, 2, columns, 0, 1, true, false};
  Run run(c, 0, 0);
  run.targets = {1, 1};
  auto* const x = static_cast<__nv_bfloat16*>(
      simt::allocate_sparse(static_cast<size_t>(kApart + columns) * sizeof(__nv_bfloat16)));
  for (int64_t i = 0; i < columns; ++i)
    x[i] = x[kApart + i] = from_float<__nv_bfloat16>(static_cast<float>(run.logits.get(i)));
  CrossEntropy p = run.arguments(c);
  p.logits = x;
  p.layout.stride[0][0] = kApart;
  if (expect.ran("far apart", cross_entropy(nullptr, kBf16, p))) {
    expect(run.row_losses[0] > 0 && run.row_losses[0] == run.row_losses[1], "far apart: %g and %g",
           static_cast<double>(run.row_losses[0]), static_cast<double>(run.row_losses[1]));
    expect(to_float(x[1]) < 0 && std::memcmp(x, x + kApart, static_cast<size_t>(columns) * 2) == 0,
           "far apart: gradients");
  }
  simt::release(x);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc > 1) seed = static_cast<unsigned>(std::strtoul(argv[1], nullptr, 10));
  std::printf("seed %u\n", seed);
  for (simt::Order order : {simt::Order::kForward, simt::Order::kReverse, simt::Order::kRandom}) {
    simt::set_options({order, seed});
    generator.seed(seed + static_cast<unsigned>(order));
    for (ElementType type : {kF32, kF16, kBf16}) {
      for (int64_t columns : {1, 2, 7, 8, 31, 33, 257, 1023, 2047, 2049, 8195, 16384})
        for (bool gradient : {false, true})
          check({type, any({0, 1, 2, 5, 9}), columns, static_cast<double>(any({0, 1})) * 0.1,
                 static_cast<double>(any({1, 4, 20})), gradient, generator() % 2 == 0},
                any({0, 3, 8}), any({0, 1, 5}));
      // words in shared memory, in 512 and in 1024 threads, and rows read again
      for (int64_t columns : {34000, 50257, 65537, 120011})
        check({type, 2, columns, static_cast<double>(any({0, 1})) * 0.1, 4, true, false},
              any({0, 3}), any({0, 1}));
      // more rows than the threads that add them up
      check({type, any({1025, 2500}), 3, 0, 4, generator() % 2 == 0, false}, 0, 0);
      extremes(type, any({2, 100, 3000}));
      extremes(type, any({34000, 120011}));
    }
    beyond();
  }
  for (int64_t rows : {1, 2, 31, 33, 1023, 65537})
    check({kBf16, rows, 3, 0.1, 4, true, rows == 33}, 0, 0);
  for (ElementType type : {kF32, kF16, kBf16})
    for (int64_t columns : {33, 257, 3000}) same_bits(type, columns);
  far_apart(1000);
  far_apart(120011);
  traffic(kBf16, 768, true, 1);
  traffic(kBf16, 50257, true, 1);
  traffic(kF32, 50257, true, 1);
  traffic(kBf16, 50257, false, 1);
  traffic(kF32, 120011, false, 1);
  traffic(kF32, 120011, true, 2);
  return expect.report();
}
