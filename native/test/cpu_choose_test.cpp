// argmax and sample of every SIMD level against a reference written here: a full sort and sums in
// float64, of logits divided in f32 as the library divides them. Where the reference itself hangs
// by a hair (a mass or a draw within 1e-6 of its limit) either side is right and the case is passed
// over; few may be. Usage: cpu_choose_test [seed]
#include <algorithm>
#include <cmath>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "core/backend.h"
#include "cpu/levels.h"
#include "cpu/types.h"
#include "philox.h"

namespace {

using namespace gatun;

uint64_t seed = 20261125;
std::mt19937_64 generator;
const char* level_name = "";
int failures = 0;
int64_t checks = 0, hairs = 0;

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

int64_t pick(int64_t low, int64_t high) {
  return std::uniform_int_distribution<int64_t>(low, high)(generator);
}
double uniform() { return std::uniform_real_distribution<double>()(generator); }
float normal() { return std::normal_distribution<float>()(generator); }

struct TestContext final : Context {
  std::vector<char> memory;
  gatun_status status = GATUN_OK;

  explicit TestContext(int count) { threads = count; }
  void* workspace(size_t bytes) override {
    memory.assign(bytes + 64, static_cast<char>(0xff));
    return reinterpret_cast<void*>((reinterpret_cast<uintptr_t>(memory.data()) + 63) &
                                   ~uintptr_t{63});
  }
  void fault(gatun_status which, const char*, const char*, ...) override {
#pragma omp critical
    status = which;
  }
};

// Rows of logits in a dtype, with a gap after each; the values as the library reads them.
struct Logits {
  int64_t rows, columns, stride;
  int32_t dtype;
  std::vector<unsigned char> memory;
  std::vector<float> values;

  Logits(int64_t r, int64_t v, int32_t type, const std::vector<float>& x)
      : rows(r), columns(v), stride(v + pick(0, 5)), dtype(type), values(x) {
    const size_t bytes = dtype == GATUN_F32 ? 4 : 2;
    // A huge number follows each row: whoever reads it, chooses it.
    memory.resize(static_cast<size_t>(rows * stride) * bytes);
    for (int64_t row = 0; row < rows; ++row)
      for (int64_t i = 0; i < stride; ++i) {
        float f = i < columns ? x[static_cast<size_t>(row * columns + i)] : 6e4f;
        unsigned char* to = memory.data() + static_cast<size_t>(row * stride + i) * bytes;
        if (dtype == GATUN_F32) {
          std::memcpy(to, &f, 4);
        } else if (dtype == GATUN_F16) {
          const auto h = cpu::from_float<cpu::f16>(f);
          std::memcpy(to, &h.bits, 2);
          f = cpu::to_float(h);
        } else {
          const auto h = cpu::from_float<cpu::bf16>(f);
          std::memcpy(to, &h.bits, 2);
          f = cpu::to_float(h);
        }
        if (i < columns) values[static_cast<size_t>(row * columns + i)] = f;
      }
  }
  View view() {
    View v;
    v.data = memory.data();
    v.dtype = dtype;
    v.rank = 2;
    v.shape[0] = rows;
    v.shape[1] = columns;
    v.stride[0] = stride;
    v.stride[1] = 1;
    return v;
  }
  const float* row(int64_t r) const { return values.data() + r * columns; }
};

template <typename T>
View vector_view(std::vector<T>& x, int32_t dtype) {
  View v;
  v.data = x.data();
  v.dtype = dtype;
  v.rank = 1;
  v.shape[0] = static_cast<int64_t>(x.size());
  v.stride[0] = 1;
  return v;
}

int32_t any_float() {
  constexpr int32_t kFloats[] = {GATUN_F32, GATUN_F32, GATUN_F16, GATUN_BF16};
  return kFloats[pick(0, 3)];
}
int64_t any_size() {
  constexpr int64_t kSizes[] = {1, 2, 3, 7, 16, 17, 97, 255, 256, 257, 1000, 4099, 50257};
  return kSizes[pick(0, 12)];
}

std::vector<float> any_logits(int64_t n) {
  std::vector<float> x(static_cast<size_t>(n));
  const double size = std::exp(4 * uniform() - 2);
  const int64_t kind = pick(0, 4);
  for (float& value : x) {
    value = static_cast<float>(size) * normal();
    if (kind == 1) value = static_cast<float>(pick(-3, 3));  // many ties
    if (kind == 2 && pick(0, 9) == 0) value = pick(0, 1) ? -INFINITY : NAN;
    if (kind == 3) value = 1.5f;
  }
  if (kind == 4) x[static_cast<size_t>(pick(0, n - 1))] += 12;
  return x;
}

void check_argmax(const Backend& backend) {
  const int64_t rows = pick(1, 5), n = any_size();
  std::vector<float> x;
  for (int64_t r = 0; r < rows; ++r) {
    const auto row = any_logits(n);
    x.insert(x.end(), row.begin(), row.end());
  }
  const bool blank = pick(0, 5) == 0;
  if (blank) std::fill(x.end() - n, x.end(), NAN);
  Logits logits(rows, n, any_float(), x);
  std::vector<int32_t> out(static_cast<size_t>(rows), -7);
  TestContext context(static_cast<int>(pick(1, 3)));
  backend.argmax(context, {vector_view(out, GATUN_I32), logits.view()});
  ++checks;
  bool nothing = false;
  for (int64_t r = 0; r < rows; ++r) {
    int64_t best = -1;
    for (int64_t i = 0; i < n; ++i) {
      const float value = logits.row(r)[i];
      if (!std::isnan(value) && (best < 0 || value > logits.row(r)[best])) best = i;
    }
    nothing = nothing || best < 0;
    best = std::max<int64_t>(best, 0);
    if (out[static_cast<size_t>(r)] != best)
      report("argmax row %lld of %lld logits: wanted %lld, had %d", (long long)r, (long long)n,
             (long long)best, out[static_cast<size_t>(r)]);
  }
  if (nothing != (context.status == GATUN_OUT_OF_RANGE))
    report("argmax: all NaN must be reported, and nothing else");
}

// What sampling keeps, and with which probabilities; `hair` if a limit is too close to tell.
struct Kept {
  std::vector<double> probability;  // 0: dropped
  bool hair = false;
};

Kept reference(const float* logits, int64_t n, const Sample& op) {
  Kept kept;
  std::vector<float> x(static_cast<size_t>(n));
  for (int64_t i = 0; i < n; ++i) {
    x[i] = logits[i] / op.temperature;
    if (std::isnan(x[i])) x[i] = -INFINITY;
  }
  std::vector<bool> alive(static_cast<size_t>(n));
  for (int64_t i = 0; i < n; ++i) alive[i] = x[i] > -INFINITY;
  if (op.top_k > 0 && op.top_k < n) {
    std::vector<float> sorted = x;
    std::sort(sorted.begin(), sorted.end(), std::greater<float>());
    for (int64_t i = 0; i < n; ++i) alive[i] = alive[i] && x[i] >= sorted[op.top_k - 1];
  }
  const double most = *std::max_element(x.begin(), x.end());
  kept.probability.assign(static_cast<size_t>(n), 0);
  const auto normalise = [&] {
    double total = 0;
    for (int64_t i = 0; i < n; ++i) {
      kept.probability[i] =
          alive[i] ? (std::isinf(most) ? x[i] == most : std::exp(x[i] - most)) : 0;
      total += kept.probability[i];
    }
    for (double& p : kept.probability) p /= total;
  };
  normalise();
  if (op.top_p < 1) {
    std::vector<int64_t> order(static_cast<size_t>(n));
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return x[a] < x[b]; });
    double mass = 0;
    const double limit = 1 - static_cast<double>(op.top_p);
    for (int64_t at = 0; at + 1 < n; ++at) {
      if (kept.probability[order[at]] == 0) {
        alive[order[at]] = false;
        continue;
      }
      mass += kept.probability[order[at]];
      if (std::fabs(mass - limit) < 1e-6) kept.hair = true;
      if (mass <= limit) alive[order[at]] = false;
    }
    normalise();
  }
  if (op.min_p > 0) {
    const double peak = *std::max_element(kept.probability.begin(), kept.probability.end());
    for (int64_t i = 0; i < n; ++i) {
      const double share = kept.probability[i] / peak;
      if (alive[i] && std::fabs(share / op.min_p - 1) < 2e-6) kept.hair = true;
      if (share < op.min_p) alive[i] = false;
    }
    normalise();
  }
  return kept;
}

double uniform_of(const Philox& philox, int64_t step, int64_t r) {
  const PhiloxBlock words =
      philox4x32({{static_cast<uint32_t>(r / 4), philox.site << 16, static_cast<uint32_t>(step),
                   philox.micro_batch}},
                 static_cast<uint32_t>(philox.seed), static_cast<uint32_t>(philox.seed >> 32));
  return (words.word[r % 4] >> 8) / 16777216.0;
}

void check_sample(const Backend& backend) {
  const int64_t n = any_size();
  const int64_t rows = n > 10000 ? pick(1, 2) : pick(1, 9);
  std::vector<float> x;
  for (int64_t r = 0; r < rows; ++r) {
    const auto row = any_logits(n);
    x.insert(x.end(), row.begin(), row.end());
  }
  if (pick(0, 20) == 0) x[0] = INFINITY;
  const bool blank = pick(0, 20) == 0;
  if (blank) std::fill(x.end() - n, x.end(), pick(0, 1) ? -INFINITY : NAN);
  Logits logits(rows, n, any_float(), x);
  std::vector<int32_t> out(static_cast<size_t>(rows), -7);
  std::vector<float> logprobs(static_cast<size_t>(rows), 7);
  std::vector<int64_t> step{pick(0, 1000000)};
  View step_view = vector_view(step, GATUN_I64);
  const bool stepped = pick(0, 1) == 1;
  Sample op{};
  op.out = vector_view(out, GATUN_I32);
  op.logprobs = vector_view(logprobs, GATUN_F32);
  op.logits = logits.view();
  op.temperature = pick(0, 1) ? 1.f : static_cast<float>(0.2 + 2 * uniform());
  op.top_k = pick(0, 1) ? 0 : static_cast<int32_t>(pick(1, pick(0, 1) ? 60 : n + 2));
  op.top_p = pick(0, 1) ? 1.f : static_cast<float>(1 - std::pow(uniform(), 3) * 0.999);
  op.min_p = pick(0, 2) ? 0.f : static_cast<float>(std::pow(uniform(), 3) * 0.99);
  op.philox = {generator(), static_cast<uint32_t>(pick(0, 65535)),
               static_cast<uint32_t>(pick(0, 9)), stepped ? step_view : View{}};
  TestContext context(static_cast<int>(pick(1, 3)));
  backend.sample(context, op);

  bool nothing = false;
  for (int64_t r = 0; r < rows; ++r) {
    ++checks;
    const int32_t token = out[static_cast<size_t>(r)];
    bool any = false;
    for (int64_t i = 0; i < n; ++i) any = any || logits.row(r)[i] > -INFINITY;
    if (!any) {
      nothing = true;
      if (token != 0) report("sample: nothing to draw gave %d", token);
      continue;
    }
    const Kept kept = reference(logits.row(r), n, op);
    const double u = uniform_of(op.philox, stepped ? step[0] : 0, r);
    double mass = 0;
    int64_t want = -1;
    bool hair = kept.hair;
    for (int64_t i = 0; i < n; ++i) {
      if (kept.probability[i] == 0) continue;
      mass += kept.probability[i];
      if (std::fabs(mass - u) < 1e-6) hair = true;
      if (want < 0 && mass > u) want = i;
    }
    if (hair) {
      ++hairs;
      continue;
    }
    char text[200];
    std::snprintf(text, sizeof text,
                  "sample V=%lld T=%g top_k=%d top_p=%.9g min_p=%.9g u=%.9g row %lld", (long long)n,
                  op.temperature, op.top_k, op.top_p, op.min_p, u, (long long)r);
    if (token != want) {
      report("%s: wanted %lld, had %d", text, (long long)want, token);
      continue;
    }
    const double logprob = std::log(kept.probability[token]);
    if (std::fabs(logprobs[static_cast<size_t>(r)] - logprob) > 4e-6 * (1 + std::fabs(logprob)))
      report("%s: wanted log-probability %.9g, had %.9g", text, logprob,
             logprobs[static_cast<size_t>(r)]);
  }
  if (nothing != (context.status == GATUN_OUT_OF_RANGE))
    report("sample: rows without a logit must be reported, and nothing else");

  const std::vector<int32_t> before = out;
  TestContext alone(1);
  op.logprobs = View{};
  backend.sample(alone, op);
  if (out != before) report("sample: one thread chose other tokens");
}

// The drawn frequencies of probabilities .4 .2 .2 .1 .1 after each filter.
void check_frequencies(const Backend& backend) {
  struct Golden {
    int32_t top_k;
    float top_p, min_p;
    double want[5];
  };
  constexpr Golden kGolden[] = {
      {0, 1, 0, {.4, .2, .2, .1, .1}},
      {2, 1, 0, {.5, .25, .25, 0, 0}},         // ties with the second survive
      {0, .5f, 0, {2. / 3, 0, 1. / 3, 0, 0}},  // the token that crosses one half is kept
      {0, 1, .5f * (1 - 1e-6f), {.5, .25, .25, 0, 0}},
      {1, .9f, .9f, {1, 0, 0, 0, 0}},
      {4, .7f, .3f, {.5, .25, .25, 0, 0}},  // top-k keeps all: two tie with the fourth
  };
  const int64_t rows = 40000;
  std::vector<float> x;
  for (int64_t r = 0; r < rows; ++r)
    for (double p : {.4, .2, .2, .1, .1}) x.push_back(static_cast<float>(std::log(p)));
  Logits logits(rows, 5, GATUN_F32, x);
  std::vector<int32_t> out(static_cast<size_t>(rows));
  for (const Golden& golden : kGolden) {
    TestContext context(2);
    Sample op{};
    op.out = vector_view(out, GATUN_I32);
    op.logits = logits.view();
    op.temperature = 1;
    op.top_k = golden.top_k;
    op.top_p = golden.top_p;
    op.min_p = golden.min_p;
    op.philox = {generator(), 3, 0, View{}};
    backend.sample(context, op);
    int64_t counts[5] = {};
    for (int32_t token : out) ++counts[token];
    ++checks;
    for (int i = 0; i < 5; ++i) {
      const double p = golden.want[i];
      const double deviation = std::sqrt(p * (1 - p) * static_cast<double>(rows));
      if (std::fabs(static_cast<double>(counts[i]) - p * static_cast<double>(rows)) > 5 * deviation)
        report("sample top_k=%d top_p=%g min_p=%g: token %d drawn %lld times of %lld, p=%g",
               golden.top_k, golden.top_p, golden.min_p, i, (long long)counts[i], (long long)rows,
               p);
    }
  }
}

void check_level(const Backend& backend, const char* name) {
  level_name = name;
  generator.seed(seed);
  const int failed = failures;
  const int64_t before = checks, passed_over = hairs;
  for (int i = 0; i < 300; ++i) check_argmax(backend);
  check_frequencies(backend);
  for (int i = 0; i < 500; ++i) check_sample(backend);
  std::printf("%s: %lld checks, %lld too close to tell, %d failures\n", name,
              static_cast<long long>(checks - before), static_cast<long long>(hairs - passed_over),
              failures - failed);
  if ((hairs - passed_over) * 10 > checks - before) report("too many cases were too close to tell");
}

}  // namespace

int main(int argc, char** argv) {
  if (argc > 1) seed = std::strtoull(argv[1], nullptr, 10);
  std::printf("seed %llu\n", static_cast<unsigned long long>(seed));
  check_level(gatun_backend_plain, "plain");
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
    check_level(gatun_backend_avx2, "avx2");
  else
    std::printf("skipped avx2: this processor has none\n");
  if (__builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw"))
    check_level(gatun_backend_avx512, "avx512");
  else
    std::printf("skipped avx512: this processor has none\n");
  return failures == 0 ? 0 : 1;
}
