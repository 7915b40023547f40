// argmax and sample. A vocabulary is never sorted: lanes' maxima over runs of 16 values tell where
// the large logits are, the k-th largest and the tail beyond top-p come from partial selections of
// what those leave, and only the survivors are put in index order.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#if defined(_OPENMP)
#include <omp.h>
#endif

#include "core/backend.h"
#include "cpu/dispatch.h"
#include "cpu/level/backend.h"
#include "cpu/level/random.h"
#include "cpu/level/rows.h"
#include "cpu/level/vec.h"

namespace gatun::cpu::GATUN_LEVEL {
namespace {

constexpr float kLowest = -std::numeric_limits<float>::infinity();
constexpr int kRun = 16;                   // values of one lane's maximum
constexpr int kRunFloats = kRun * kLanes;  // values of one vector of maxima

// The larger; b where a is NaN. b is never NaN here.
inline vf larger_number(vf a, vf b) { return a > b ? a : b; }

// The largest of a row, -inf if there is none; NaN is passed over.
template <typename T>
float largest(const T* x, int64_t n) {
  vf best[4] = {splat(kLowest), splat(kLowest), splat(kLowest), splat(kLowest)};
  int64_t i = 0;
  for (; i + 4 * kLanes <= n; i += 4 * kLanes)
#pragma GCC unroll 4
    for (int u = 0; u < 4; ++u) best[u] = larger_number(load(x + i + u * kLanes), best[u]);
  float most = max_lane(max(max(best[0], best[1]), max(best[2], best[3])));
  for (; i < n; ++i) most = std::max(most, to_float(x[i]));  // keeps `most` where x is NaN
  return most;
}

template <typename T>
void argmax_rows(Context& context, const ArgMax& op) {
  const int64_t rows = op.logits.shape[0], n = op.logits.shape[1];
  parallel_parts(context, rows, 1, rows * n < kSerialElements, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const T* const x = op.logits.as<T>() + row * op.logits.stride[0];
      const float most = largest(x, n);
      int64_t at = 0;
      while (at < n && to_float(x[at]) != most) ++at;
      if (at == n) {
        context.fault(GATUN_OUT_OF_RANGE, "argmax", "all %lld logits of row %lld are NaN",
                      static_cast<long long>(n), static_cast<long long>(row));
        at = 0;
      }
      op.out.as<int32_t>()[row * op.out.stride[0]] = static_cast<int32_t>(at);
    }
  });
}

// ---- sampling ----

// A token and its logit, later its weight.
struct Choice {
  float value;
  int32_t token;
};

// Ascending; of equals the lower token is the lesser, as a stable ascending sort has it.
bool less(const Choice& a, const Choice& b) {
  return a.value < b.value || (a.value == b.value && a.token < b.token);
}

// Scratch of one row, [padded] each: n rounded up to whole runs.
struct Row {
  int64_t n;
  int64_t padded;
  float* x;        // logits / temperature; -inf where NaN and beyond n
  float* weights;  // exp(x - most)
  float* maxima;   // [padded / kRun]: lane i of vector r covers r * kRunFloats + i + {0..} * kLanes
  float* spare;
  Choice* choices;

  static int64_t padded_size(int64_t n) { return (n + kRunFloats - 1) / kRunFloats * kRunFloats; }
  static int64_t floats(int64_t n) { return 5 * padded_size(n) + padded_size(n) / kRun; }
  Row(float* base, int64_t count) : n(count), padded(padded_size(count)) {
    x = base;
    weights = x + padded;
    spare = weights + padded;
    choices = reinterpret_cast<Choice*>(spare + padded);
    maxima = spare + 3 * padded;
  }
};

void find_maxima(const float* values, int64_t padded, float* maxima) {
  for (int64_t i = 0; i < padded; i += kRunFloats) {
    vf most = load(values + i);
    for (int r = 1; r < kRun; ++r) most = max(most, load(values + i + r * kLanes));
    store(maxima + i / kRun, most);
  }
}

// The choices with value >= floor (> floor if `above`), in no order.
int64_t collect(const Row& row, const float* values, float floor, bool above) {
  int64_t count = 0;
  for (int64_t m = 0; m < row.padded / kRun; ++m) {
    if (row.maxima[m] < floor) continue;
    const int64_t first = m / kLanes * kRunFloats + m % kLanes;
    for (int64_t i = first; i < first + kRunFloats && i < row.n; i += kLanes)
      if (above ? values[i] > floor : values[i] >= floor)
        row.choices[count++] = {values[i], static_cast<int32_t>(i)};
  }
  return count;
}

// Top-k: the choices not below the k-th largest, 0 < k < n; ties with it survive.
int64_t keep_top_k(const Row& row, int64_t k) {
  const int64_t runs = row.padded / kRun;
  find_maxima(row.x, row.padded, row.maxima);
  float floor = kLowest;
  if (k <= runs / 2) {
    // k runs have a maximum of at least this, so k values do.
    std::memcpy(row.spare, row.maxima, sizeof(float) * static_cast<size_t>(runs));
    std::nth_element(row.spare, row.spare + (runs - k), row.spare + runs);
    floor = row.spare[runs - k];
  }
  const int64_t count = collect(row, row.x, floor, false);
  std::nth_element(row.choices, row.choices + (count - k), row.choices + count, less);
  const float least = row.choices[count - k].value;
  return std::partition(row.choices, row.choices + count,
                        [&](const Choice& c) { return c.value >= least; }) -
         row.choices;
}

typedef double vd __attribute__((vector_size(kLanes * 8)));

double add_up(const float* values, int64_t n) {  // n: whole vectors
  vd total{};
  for (int64_t i = 0; i < n; i += kLanes) total += __builtin_convertvector(load(values + i), vd);
  double result = 0;
  for (int i = 0; i < kLanes; ++i) result += total[i];
  return result;
}

vf weight(vf x, float most) {
  // an infinite logit takes all: infinity - infinity would be NaN
  if (most == -kLowest) return x == splat(most) ? splat(1.f) : vf{};
  return exp(x - most);
}

// Replaces logits by weights.
void weigh(const Row& row, int64_t count, float most) {
  for (int64_t i = 0; i < count; ++i) row.spare[i] = row.choices[i].value;
  for (int64_t i = 0; i < count; i += kLanes)
    store(row.spare + i, weight(load(row.spare + i), most));
  for (int64_t i = 0; i < count; ++i) row.choices[i].value = row.spare[i];
}

double add_up(const Choice* choices, int64_t count) {
  double total = 0;
  for (int64_t i = 0; i < count; ++i) total += choices[i].value;
  return total;
}

// Top-p: drops the least choices for as long as their mass, with `gone` that is dropped already,
// stays within the budget; at least one is kept. A selection by halves: what lies below the middle
// goes as a whole or holds the boundary.
int64_t keep_top_p(Choice* choices, int64_t count, double gone, double budget) {
  int64_t low = 0, high = count;
  while (high - low > 1) {
    const int64_t middle = low + (high - low) / 2;
    std::nth_element(choices + low, choices + middle, choices + high, less);
    const double mass = add_up(choices + low, middle - low);
    if (gone + mass <= budget) {
      gone += mass;
      low = middle;
    } else {
      high = middle;
    }
  }
  if (low + 1 < count && gone + choices[low].value <= budget) ++low;
  std::copy(choices + low, choices + count, choices);
  return count - low;
}

struct Drawn {
  int64_t token;
  float logprob;
};

float logprob_of(float weight, double total) {
  return static_cast<float>(std::log(static_cast<double>(weight) / total));
}

// The first choice, by token, at which the mass passes u times the total.
Drawn draw(Choice* choices, int64_t count, double u) {
  std::sort(choices, choices + count,
            [](const Choice& a, const Choice& b) { return a.token < b.token; });
  const double total = add_up(choices, count);
  double mass = 0;
  int64_t last = 0;
  for (int64_t i = 0; i < count; ++i) {
    if (choices[i].value == 0.f) continue;
    last = i;
    mass += choices[i].value;
    if (mass > u * total) break;
  }
  return {choices[last].token, logprob_of(choices[last].value, total)};
}

// The same over all tokens: whole runs first, then within one.
Drawn draw(const Row& row, double total, double u) {
  double mass = 0;
  int64_t last = 0;
  for (int64_t run = 0; run < row.padded; run += kRunFloats) {
    const double more = add_up(row.weights + run, kRunFloats);
    if (mass + more <= u * total && run + kRunFloats < row.padded) {
      mass += more;
      continue;
    }
    for (int64_t i = run; i < run + kRunFloats; ++i) {
      if (row.weights[i] == 0.f) continue;
      last = i;
      mass += row.weights[i];
      if (mass > u * total) return {i, logprob_of(row.weights[i], total)};
    }
  }
  // Rounding only: the sums of runs and of values differ in their last places.
  while (row.weights[last] == 0.f) ++last;
  return {last, logprob_of(row.weights[last], total)};
}

template <typename T>
Drawn sample_row(const Row& row, const T* logits, const Sample& op, double u) {
  each_vector(
      row.n,
      [&](int64_t i) {
        const vf x = load(logits + i) / op.temperature;
        store(row.x + i, x == x ? x : splat(kLowest));
      },
      [&](int64_t i, int n) {
        const vf x = load_first(logits + i, n) / op.temperature;
        store_first(row.x + i, x == x ? x : splat(kLowest), n);
      });
  for (int64_t i = row.n; i < row.padded; ++i) row.x[i] = kLowest;
  const float most = largest(row.x, row.padded);
  if (most == kLowest) return {-1, std::numeric_limits<float>::quiet_NaN()};

  int64_t count = -1;  // of choices; -1: all tokens, in row.weights
  if (op.top_k > 0 && op.top_k < row.n) {
    count = keep_top_k(row, op.top_k);
    weigh(row, count, most);
  }
  double total = 0;
  if (count < 0) {
    for (int64_t i = 0; i < row.padded; i += kLanes)
      store(row.weights + i, weight(load(row.x + i), most));
    total = add_up(row.weights, row.padded);
  }
  if (op.top_p < 1.f) {
    const double keep = 1.0 - static_cast<double>(op.top_p);
    if (count < 0) {
      // Values of at most budget / n are within the budget, however many they are.
      const double budget = keep * total;
      const float floor = static_cast<float>(budget / static_cast<double>(row.n));
      find_maxima(row.weights, row.padded, row.maxima);
      count = collect(row, row.weights, floor, true);
      const double gone = std::max(0.0, total - add_up(row.choices, count));
      count = keep_top_p(row.choices, count, gone, budget);
    } else {
      const double budget = keep * add_up(row.choices, count);
      count = keep_top_p(row.choices, count, 0.0, budget);
    }
  }
  if (op.min_p > 0.f) {
    // The largest weight is 1, so a weight is its part of the largest probability.
    if (count < 0) {
      find_maxima(row.weights, row.padded, row.maxima);
      count = collect(row, row.weights, op.min_p, false);
    } else {
      count = std::partition(row.choices, row.choices + count,
                             [&](const Choice& c) { return c.value >= op.min_p; }) -
              row.choices;
    }
  }
  return count < 0 ? draw(row, total, u) : draw(row.choices, count, u);
}

template <typename T>
void sample_rows(Context& context, const Sample& op) {
  const int64_t rows = op.logits.shape[0], n = op.logits.shape[1];
  const int64_t floats = Row::floats(n);
  const bool serial = rows * n < kSerialElements || rows == 1;
  const int64_t threads = serial ? 1 : context.threads;
  auto* const workspace =
      static_cast<float*>(context.workspace(static_cast<size_t>(threads * floats) * sizeof(float)));
  const PhiloxStream stream = philox_stream(op.philox);
  parallel_parts(context, rows, 1, serial, [&](int64_t begin, int64_t end) {
#if defined(_OPENMP)
    const int thread = serial ? 0 : omp_get_thread_num();
#else
    const int thread = 0;
#endif
    const Row row(workspace + thread * floats, n);
    for (int64_t r = begin; r < end; ++r) {
      const double u = philox_uniform(stream.word(static_cast<uint64_t>(r)));
      Drawn drawn = sample_row(row, op.logits.as<T>() + r * op.logits.stride[0], op, u);
      if (drawn.token < 0) {
        context.fault(GATUN_OUT_OF_RANGE, "sample",
                      "row %lld has no logit above -infinity to draw from (%lld logits)",
                      static_cast<long long>(r), static_cast<long long>(n));
        drawn.token = 0;
      }
      op.out.as<int32_t>()[r * op.out.stride[0]] = static_cast<int32_t>(drawn.token);
      if (op.logprobs) op.logprobs.as<float>()[r * op.logprobs.stride[0]] = drawn.logprob;
    }
  });
}

}  // namespace

void argmax(Context& context, const ArgMax& op) {
  if (op.logits.elements() == 0) return;
  with_float(op.logits.dtype, [&]<typename T>() { argmax_rows<T>(context, op); });
}

void sample(Context& context, const Sample& op) {
  if (op.logits.elements() == 0) return;
  with_float(op.logits.dtype, [&]<typename T>() { sample_rows<T>(context, op); });
}

}  // namespace gatun::cpu::GATUN_LEVEL
