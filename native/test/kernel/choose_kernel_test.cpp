// Runs kernels/choose.cu on the host (native/src/sim) against a sort in float64: every type, flat,
// peaked, tied, unaligned rows. Usage: choose_kernel_test [seed]
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <string>

#include "../../../kernels/choose.cu"
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

enum class Shape { kNormal, kPeaked, kTied, kEqual, kNeighbours };

// Rows of logits, some of them NaN or -inf.
DeviceArray logits_of(ElementType type, int64_t rows, int64_t columns, Shape shape) {
  DeviceArray x(type, rows, columns, any({0, 3, 8}), any({0, 1, 5}));
  x.random(generator, shape == Shape::kPeaked ? 4 : 1);
  for (int64_t i = 0; i < x.elements(); ++i) {
    if (shape == Shape::kTied) x.set(i, std::round(x.get(i) * 2) / 2);
    if (shape == Shape::kEqual) x.set(i, 1.25);
    if (shape == Shape::kNeighbours) x.set(i, i % 3 == 0 ? 1.25f : std::nextafter(1.25f, 0.f));
    if (generator() % 16 == 0) x.set(i, generator() % 2 == 0 ? NAN : -INFINITY);
  }
  // never a row without a number
  for (int64_t r = 0; r < rows; ++r) x.set(r * columns + columns / 2, 1.25);
  return x;
}

// ---- argmax ----

void argmax_of(ElementType type, int64_t rows, int64_t columns, Shape shape) {
  DeviceArray x = logits_of(type, rows, columns, shape);
  if (rows > 1)  // nothing but -inf, then the first of them
    for (int64_t i = 0; i < columns; ++i)
      x.set(columns + i, i == 0 && columns > 1 ? NAN : -INFINITY);
  DeviceVector<int32_t> out(static_cast<size_t>(2 * rows + 1), -7);
  Faults faults;
  ArgMax p = {out.data(), x.data(), rows, 2, x.stride(), static_cast<int>(columns), faults.sink()};
  const std::string text = std::string("argmax ") + name_of(type) + " " + std::to_string(rows) +
                           "x" + std::to_string(columns);
  if (!expect.ran(text, argmax(nullptr, type, p))) return;
  expect(faults.record.kind == FaultKind::kNone, "%s: reported a fault", text.c_str());
  for (int64_t r = 0; r < rows; ++r) {
    int64_t best = -1;
    for (int64_t i = 0; i < columns; ++i) {
      const double v = x.get(r * columns + i);
      if (!std::isnan(v) && (best < 0 || v > x.get(r * columns + best))) best = i;
    }
    const int32_t had = out[static_cast<size_t>(2 * r)];
    expect(had == best && out[static_cast<size_t>(2 * r + 1)] == -7,
           "%s row %lld: had %d, wanted %lld", text.c_str(), static_cast<long long>(r), had,
           static_cast<long long>(best));
  }
}

void argmax_faults() {
  for (ElementType type : {kF32, kF16, kBf16}) {
    DeviceArray x(type, 3, 100);
    x.random(generator, 1);
    for (int64_t i = 100; i < 200; ++i) x.set(i, NAN);
    // 0 and -0 are equal, and the lower column wins
    for (int64_t i = 200; i < 300; ++i) x.set(i, -1);
    x.set(250, -0.0);
    x.set(260, 0.0);
    DeviceVector<int32_t> out(3, -7);
    Faults faults;
    if (!expect.ran("argmax",
                    argmax(nullptr, type, {out.data(), x.data(), 3, 1, 100, 100, faults.sink()})))
      return;
    expect(out[1] == 0 && faults.record.kind == FaultKind::kArgMaxNan &&
               faults.record.value[0] == 100 && faults.record.value[1] == 1,
           "a row of NaN: had %d", out[1]);
    expect(out[2] == 50, "zeros: had %d", out[2]);
  }
}

// ---- sample ----

struct Options {
  float temperature;
  int top_k;
  float top_p, min_p;
};

struct Choice {
  double weight;
  int64_t column;
};

// What may be drawn of a row, by column. budget_factor: top-p's budget moved by rounding.
std::vector<Choice> kept_of(const DeviceArray& logits, int64_t row, const Options& o,
                            double budget_factor) {
  std::vector<Choice> all;
  double max = -INFINITY;
  for (int64_t i = 0; i < logits.columns(); ++i) {
    const float x = static_cast<float>(logits.get(row * logits.columns() + i)) / o.temperature;
    all.push_back({std::isnan(x) ? -INFINITY : static_cast<double>(x), i});
    max = std::max(max, all.back().weight);
  }
  const auto ascending = [](const Choice& a, const Choice& b) {
    return a.weight < b.weight || (a.weight == b.weight && a.column < b.column);
  };
  std::sort(all.begin(), all.end(), ascending);
  if (o.top_k > 0 && o.top_k < static_cast<int>(all.size())) {
    const double least = all[all.size() - static_cast<size_t>(o.top_k)].weight;
    std::erase_if(all, [&](const Choice& c) { return c.weight < least; });
  }
  double total = 0;
  for (Choice& c : all) {
    c.weight = std::exp(c.weight - max);
    total += c.weight;
  }
  if (o.top_p < 1) {
    const double budget = (1 - static_cast<double>(o.top_p)) * total * budget_factor;
    double gone = 0;
    size_t dropped = 0;
    while (dropped + 1 < all.size() && gone + all[dropped].weight <= budget)
      gone += all[dropped++].weight;
    all.erase(all.begin(), all.begin() + static_cast<std::ptrdiff_t>(dropped));
  }
  std::erase_if(all, [&](const Choice& c) {
    return c.weight < static_cast<double>(o.min_p) * (2 - budget_factor);
  });
  std::sort(all.begin(), all.end(),
            [](const Choice& a, const Choice& b) { return a.column < b.column; });
  return all;
}

// Whether the draw of u may be the column, with this logprob.
bool agrees(const std::vector<Choice>& kept, double u, int64_t column, double logprob) {
  double total = 0, before = 0, own = -1;
  for (const Choice& c : kept) {
    if (c.column < column) before += c.weight;
    if (c.column == column) own = c.weight;
    total += c.weight;
  }
  const double slack = 1e-6 * total;
  return own > 0 && before <= u * total + slack && before + own >= u * total - slack &&
         std::fabs(logprob - std::log(own / total)) <= 2e-6 * (1 + std::fabs(logprob));
}

// A column of each row of x into `out`, one after another.
Sample sample_from(DeviceArray& x, DeviceVector<int32_t>& out, Faults& faults,
                   const Options& o = {1, 0, 1, 0}) {
  Sample p = {};
  p.out = out.data();
  p.logits = x.data();
  p.rows = x.rows();
  p.out_stride = p.logprobs_stride = 1;
  p.logits_stride = x.stride();
  p.columns = static_cast<int>(x.columns());
  p.top_k = o.top_k;
  p.temperature = o.temperature;
  p.top_p = o.top_p;
  p.min_p = o.min_p;
  p.faults = faults.sink();
  return p;
}

void sample_of(ElementType type, int64_t rows, int64_t columns, Shape shape, const Options& o) {
  DeviceArray x = logits_of(type, rows, columns, shape);
  DeviceVector<int32_t> out(static_cast<size_t>(2 * rows + 1), -7),
      again(static_cast<size_t>(2 * rows + 1), -7);
  DeviceVector<float> logprobs(static_cast<size_t>(3 * rows + 1), 7.f);
  Scalar<int64_t> step(static_cast<int64_t>(generator()));
  Faults faults;
  Sample p = sample_from(x, out, faults, o);
  p.logprobs = logprobs.data();
  p.out_stride = 2;
  p.logprobs_stride = 3;
  p.philox = {seed, step.at(), 3, 1};
  char text[200];
  std::snprintf(text, sizeof text, "sample %s %lldx%lld shape %d t=%g k=%d p=%g min=%g",
                name_of(type), static_cast<long long>(rows), static_cast<long long>(columns),
                static_cast<int>(shape), static_cast<double>(o.temperature), o.top_k,
                static_cast<double>(o.top_p), static_cast<double>(o.min_p));
  if (!expect.ran(text, sample(nullptr, type, p))) return;
  expect(faults.record.kind == FaultKind::kNone, "%s: reported a fault", text);
  const gatun::PhiloxStream stream = {seed, 3, static_cast<uint32_t>(step.value()), 1};
  for (int64_t r = 0; r < rows; ++r) {
    const int32_t had = out[static_cast<size_t>(2 * r)];
    const double logprob = static_cast<double>(logprobs[static_cast<size_t>(3 * r)]);
    const double u =
        static_cast<double>(gatun::philox_uniform(stream.word(static_cast<uint64_t>(r))));
    bool good = false;
    for (double factor : {1., 1 - 1e-6, 1 + 1e-6})
      good = good || agrees(kept_of(x, r, o, factor), u, had, logprob);
    const size_t kept = kept_of(x, r, o, 1).size();
    expect(good, "%s row %lld: had column %d (logprob %g) for u=%g among %zu", text,
           static_cast<long long>(r), had, logprob, u, kept);
    expect(out[static_cast<size_t>(2 * r + 1)] == -7, "%s: wrote beside its column", text);
  }
  p.out = again.data();
  p.logprobs = nullptr;
  if (!expect.ran(text, sample(nullptr, type, p))) return;
  expect(out == again, "%s: not the same twice", text);
}

void sample_same_bits(ElementType type, const Options& o) {
  constexpr int64_t kRows = 2, kColumns = 1001;
  DeviceArray x(type, kRows, kColumns);
  x.random(generator, 2);
  DeviceVector<int32_t> out(kRows);
  DeviceVector<float> logprobs(kRows);
  Faults faults;
  Sample p = sample_from(x, out, faults, o);
  p.logprobs = logprobs.data();
  p.philox = {seed, nullptr, 3, 1};
  const int other = other_bits(seed, [&] {
    Bits bits;
    if (!expect.ran("sample", sample(nullptr, type, p))) return bits;
    append(bits, out.data(), sizeof(int32_t) * kRows);
    append(bits, logprobs.data(), sizeof(float) * kRows);
    return bits;
  });
  expect(other < 0, "sample %s k=%d p=%g: other bits in run %d", name_of(type), o.top_k,
         static_cast<double>(o.top_p), other);
}

void sample_extremes() {
  for (ElementType type : {kF32, kF16, kBf16}) {
    constexpr int64_t kColumns = 3000;
    DeviceArray x(type, 3, kColumns);
    x.random(generator, 1);
    for (int64_t i = 0; i < kColumns; ++i) x.set(i, i % 2 == 0 ? NAN : -INFINITY);
    x.set(kColumns + 77, INFINITY);  // takes all
    DeviceVector<int32_t> out(3, -7);
    DeviceVector<float> logprobs(3, 7.f);
    Faults faults;
    Sample p = sample_from(x, out, faults, {1, static_cast<int>(any({0, 5})), 0.9f, 0});
    p.logprobs = logprobs.data();
    if (!expect.ran("sample", sample(nullptr, type, p))) return;
    expect(out[0] == 0 && std::isnan(logprobs[0]) &&
               faults.record.kind == FaultKind::kSampleNothing && faults.record.value[0] == 0 &&
               faults.record.value[1] == kColumns,
           "a row without a choice: had %d", out[0]);
    expect(out[1] == 77 && logprobs[1] == 0.f, "an infinite logit: had %d, %g", out[1],
           static_cast<double>(logprobs[1]));
  }
}

// A running sum that is exactly the wanted one has not passed it: the draw is the next column.
void exact_draw() {
  constexpr int kColumns = 1024;  // of weight 1
  DeviceArray x(kF32, 1, kColumns);
  for (int i = 0; i < kColumns; ++i) x.set(i, 0);
  DeviceVector<int32_t> out(1, -7);
  Faults faults;
  Sample p = sample_from(x, out, faults);
  p.philox = {seed, nullptr, 3, 1};
  uint32_t uniform = 1;  // of 2^24
  for (; uniform == 0 || uniform % ((1 << 24) / kColumns) != 0; ++p.philox.seed)
    uniform = p.philox.stream().word(0) >> 8;
  --p.philox.seed;
  if (!expect.ran("sample", sample(nullptr, kF32, p))) return;
  const int wanted = static_cast<int>(uniform / ((1 << 24) / kColumns));
  expect(out[0] == wanted, "an exact draw: had column %d, wanted %d", out[0], wanted);
}

// Rows more than 2^31 elements apart.
void far_apart() {
  constexpr int64_t kApart = (int64_t{1} << 31) + 24, kColumns = 1000;
  auto* const x = static_cast<__nv_bfloat16*>(
      simt::allocate_sparse(static_cast<size_t>(kApart + kColumns) * sizeof(__nv_bfloat16)));
  for (int64_t i = 0; i < kColumns; ++i)
    x[i] = x[kApart + i] = from_float<__nv_bfloat16>(static_cast<float>(i % 100));
  x[7] = x[kApart + 9] = from_float<__nv_bfloat16>(200.f);
  DeviceVector<int32_t> out(4, -7);
  Faults faults;
  expect.ran("far apart",
             argmax(nullptr, kBf16, {out.data(), x, 2, 1, kApart, kColumns, faults.sink()}));
  Sample p = {};
  p.out = out.data() + 2;
  p.logits = x;
  p.rows = 2;
  p.out_stride = 1;
  p.logits_stride = kApart;
  p.columns = kColumns;
  p.top_k = 1;
  p.temperature = p.top_p = 1;
  p.faults = faults.sink();
  expect.ran("far apart", sample(nullptr, kBf16, p));
  expect(out[0] == 7 && out[1] == 9 && out[2] == 7 && out[3] == 9, "far apart: %d %d %d %d", out[0],
         out[1], out[2], out[3]);
  simt::release(x);
}

// Bytes of logits that are read: once for argmax, once a pass for sample.
void traffic() {
  constexpr int64_t kRows = 2, kColumns = 50257;
  DeviceArray x(kBf16, kRows, kColumns);
  x.random(generator, 3);
  DeviceVector<int32_t> out(kRows);
  Faults faults;
  const double bytes = kRows * kColumns * 2.;
  const auto passes = [&](const char* what, cudaError_t launched, double most) {
    if (!expect.ran(what, launched)) return;
    const simt::Counters::Global& load = simt::counters().load;
    const double loaded = static_cast<double>(load.bytes);
    std::printf("%s bf16 %lldx%lld: loaded %.0f bytes of %.0f, %.2f times; %lld barriers a row\n",
                what, static_cast<long long>(kRows), static_cast<long long>(kColumns), loaded,
                bytes, loaded / bytes, static_cast<long long>(simt::counters().barriers / kRows));
    expect(loaded >= 0.99 * bytes && loaded <= (most + 0.01) * bytes, "%s: more than %g times",
           what, most);
    expect(load.bytes * 10 >= load.sectors * 32 * 9, "%s: %lld bytes of %lld sectors", what,
           static_cast<long long>(load.bytes), static_cast<long long>(load.sectors));
    simt::reset_counters();
  };
  simt::count_memory(true);
  simt::reset_counters();
  passes(
      "argmax",
      argmax(nullptr, kBf16, {out.data(), x.data(), kRows, 1, kColumns, kColumns, faults.sink()}),
      1);
  Sample p = sample_from(x, out, faults);
  passes("sample", sample(nullptr, kBf16, p), 3);
  p.top_k = 50;
  passes("sample, top-k 50", sample(nullptr, kBf16, p), 4);
  p.top_p = 0.9f;
  passes("sample, top-k 50, top-p 0.9", sample(nullptr, kBf16, p), 4);
  p.top_k = 0;
  passes("sample, top-p 0.9", sample(nullptr, kBf16, p), 9);
  simt::count_memory(false);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc > 1) seed = static_cast<unsigned>(std::strtoul(argv[1], nullptr, 10));
  std::printf("seed %u\n", seed);
  for (simt::Order order : {simt::Order::kForward, simt::Order::kReverse, simt::Order::kRandom}) {
    simt::set_options({order, seed});
    generator.seed(seed + static_cast<unsigned>(order));
    for (ElementType type : {kF32, kF16, kBf16}) {
      for (int64_t columns : {1, 2, 31, 33, 1023, 65537})
        argmax_of(type, columns > 60000 ? 1 : any({0, 1, 3}), columns,
                  static_cast<Shape>(generator() % 4));
      for (int64_t columns : {1, 2, 31, 33, 1023, 9000})
        for (int i = 0; i < 6; ++i)
          sample_of(type, columns > 5000 ? 1 : any({0, 1, 3}), columns,
                    static_cast<Shape>(generator() % 4),
                    {static_cast<float>(any({1, 2, 3})) * 0.5f,
                     static_cast<int>(any({0, 0, 1, 2, 50, 600, 2000})),
                     static_cast<float>(any({100, 90, 50, 1})) * 0.01f,
                     static_cast<float>(any({0, 0, 5})) * 0.01f});
      // a p that rounds to nothing still keeps one
      for (Shape shape : {Shape::kTied, Shape::kEqual})
        sample_of(type, 2, 100, shape, {1.f, 0, 1e-30f, 0.f});
      // a weight of exactly min-p is kept
      for (Shape shape : {Shape::kTied, Shape::kNormal})
        sample_of(type, 2, 100, shape, {1.f, 0, 1.f, 1.f});
      // beyond the candidates: all equal, more than 512 of the largest
      sample_of(type, 1, 20011, Shape::kEqual, {1.f, 0, 0.9f, 0.f});
      sample_of(type, 1, 20011, Shape::kTied, {1.f, 2000, 0.5f, 0.f});
      sample_of(type, 1, 20011, Shape::kNormal, {0.7f, 50, 0.9f, 0.02f});
    }
    // a bound of the search meets the threshold before the candidates are few
    sample_of(kF32, 1, 20011, Shape::kNeighbours, {1.f, 0, 0.2f, 0.f});
    argmax_faults();
    sample_extremes();
  }
  for (ElementType type : {kF32, kF16, kBf16}) {
    sample_same_bits(type, {1.f, 0, 1.f, 0.f});
    sample_same_bits(type, {0.7f, 50, 0.9f, 0.02f});
  }
  for (int64_t rows : {0, 2, 31, 33, 1023}) {
    argmax_of(kBf16, rows, 31, Shape::kNormal);
    sample_of(kBf16, rows, 31, Shape::kNormal, {1.f, 0, 1.f, 0.f});
  }
  sample_of(kBf16, 33, 31, Shape::kNormal, {1.f, 5, 0.9f, 0.f});
  exact_draw();
  far_apart();
  traffic();
  return expect.report();
}
