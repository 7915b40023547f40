// The choice of a token from a row of logits: the largest, or one draw.
//
// math     argmax: the lowest column of the largest logit, NaN passed over.
//          sample: x = logit / temperature, w = e^(x - max). top-k keeps the x not below the k-th
//          largest; top-p drops the least, of equals the lower column first, for as long as their
//          sum stays within (1 - p) of the kept sum; min-p keeps w >= min_p. Drawn is the first
//          column at which the running sum of the kept passes u times their sum, u the uniform of
//          Philox element r of row r: the cpu device's choice but for the rounding of w.
// shapes   logits (rows, columns) f32, f16 or bf16, any alignment; arithmetic in f32, sums of w in
//          double, always added in the same tree.
// tiling   A block has a row: 1024 threads for argmax, 512 for sample, 16-byte words, four in
//          flight. The row is read from memory once, by the pass that finds the maximum; the others
//          (2 to 8) find it in the cache: 100 KB for 50257 columns of bf16.
//          No sort. A threshold is found by halving an interval of the bits of x (31 steps at most,
//          a count or a sum over the block each) among candidates in shared memory: for top-k the x
//          not below the k-th largest of the threads' maxima, which at least k reach; otherwise
//          steps that read the row, until at most 8192 are left between the bounds.
// source   Halving instead of sorting: idea from FlashInfer's sampling (Apache-2.0), which draws by
//          rejection; here the draw is one of the cumulative sum, so that devices agree.
// measured not yet on a GPU; compiled for sm_80 and sm_90a without spills (resources.txt), results
//          checked on the host (native/test/kernel/choose_kernel_test.cpp).
#include <cuda_runtime.h>

#include <climits>
#include <cmath>

#include "choose.h"
#include "tile.cuh"
#include "tiles.h"

namespace gatun::kernels {

// ---- device helpers ----

// Bits in the order of the values; -inf has the least, 0 has one pattern only.
__device__ __forceinline__ uint32_t ordered(float x) {
  const uint32_t bits = as_bits(x + 0.f);
  return bits >> 31 != 0 ? ~bits : bits | 0x80000000u;
}

// The thread's elements of a row, in ascending order but for those outside of words: f(value,
// column).
template <int kThreads, typename T, typename F>
__device__ __forceinline__ void each_element(const WordRow<T>& row, int columns, F f) {
  constexpr int kAtOnce = 4;
  const int lane = static_cast<int>(threadIdx.x);
  for (int64_t base = lane; base < row.words; base += kThreads * kAtOnce) {
    uint4 word[kAtOnce];
    UNROLL for (int k = 0; k < kAtOnce; ++k) {
      const int64_t i = base + k * kThreads;
      if (i < row.words) word[k] = ld128(row.word(static_cast<int>(i)));
    }
    UNROLL for (int k = 0; k < kAtOnce; ++k) {
      const int64_t i = base + k * kThreads;
      if (i >= row.words) continue;
      float v[kVector<T>];
      unpack<T>(word[k], v);
      const int first = row.head + static_cast<int>(i) * kVector<T>;
      UNROLL for (int j = 0; j < kVector<T>; ++j) f(v[j], first + j);
    }
  }
  const int edge = row.edge(lane, columns);
  if (edge >= 0) f(to_float(row.x[edge]), edge);
}

// ---- argmax ----

struct ArgMaxShared {
  GroupParts<kArgMaxThreads, 1, uint64_t> parts;
};

template <typename T>
__global__ void __launch_bounds__(kArgMaxThreads) argmax_rows(const __grid_constant__ ArgMax p) {
  SMEM(ArgMaxShared, shared);
  const int64_t index = blockIdx.x;
  const WordRow<const T> row(static_cast<const T*>(p.logits) + index * p.logits_stride, p.columns);
  float best = -INFINITY;
  int at = INT_MAX;  // none yet
  each_element<kArgMaxThreads>(row, p.columns, [&](float x, int column) {
    if (x > best || (x == best && column < at)) {
      best = x;
      at = column;
    }
  });
  // of equals the lower column is the larger key; 0: nothing but NaN
  uint64_t key =
      at == INT_MAX ? 0 : uint64_t{ordered(best)} << 32 | (0xffffffffu - static_cast<uint32_t>(at));
  int phase = 0;
  key = group_max<kArgMaxThreads>(key, shared.parts, phase);
  if (threadIdx.x != 0) return;
  if (key == 0) report_fault(p.faults, FaultKind::kArgMaxNan, p.columns, index, 0, 0);
  p.out[index * p.out_stride] =
      key == 0 ? 0 : static_cast<int32_t>(0xffffffffu - static_cast<uint32_t>(key));
}

// ---- sample ----

struct SampleShared {
  GroupParts<kSampleThreads, 1> max;
  GroupParts<kSampleThreads, 1, int> count;
  GroupParts<kSampleThreads, 1, double> sum;
  GroupParts<kSampleThreads, 1, uint64_t> found;
  float x[kSampleCandidates];
  int column[kSampleCandidates];
};

// Which of the row take part in the draw.
struct Kept {
  uint32_t least;  // ordered(x) of top-k's or top-p's threshold
  int first;       // of those at the threshold the columns from here
  float min_p;

  __device__ __forceinline__ bool has(float x, float weight, int column) const {
    const uint32_t key = ordered(x);
    return (key > least || (key == least && column >= first)) && weight >= min_p;
  }
};

// What a block knows of its row.
template <typename T>
struct SampleRow {
  static constexpr int kThreads = kSampleThreads;

  const Sample& p;
  const WordRow<const T> row;
  SampleShared& shared;
  float max;
  int candidates;  // in shared memory; -1: there are too many
  int max_phase, count_phase, sum_phase, found_phase;

  __device__ __forceinline__ SampleRow(const Sample& args, const T* logits, SampleShared& memory)
      : p(args),
        row(logits, args.columns),
        shared(memory),
        max(-INFINITY),
        candidates(-1),
        max_phase(0),
        count_phase(0),
        sum_phase(0),
        found_phase(0) {}

  __device__ __forceinline__ float scaled(float logit) const {
    const float x = logit / p.temperature;
    return x == x ? x : -INFINITY;
  }
  __device__ __forceinline__ float weight(float x) const {
    // an infinite logit takes all: infinity - infinity would be NaN
    if (max == INFINITY) return x == max ? 1.f : 0.f;
    return expf(x - max);
  }
  // f(x, column) for the thread's elements of the row,
  template <typename F>
  __device__ __forceinline__ void each(F f) const {
    each_element<kThreads>(row, p.columns, [&](float v, int column) { f(scaled(v), column); });
  }
  // or of the candidates where there are few enough.
  template <typename F>
  __device__ __forceinline__ void each_candidate(F f) const {
    if (candidates < 0) {
      each(f);
      return;
    }
    for (int i = static_cast<int>(threadIdx.x); i < candidates; i += kThreads)
      f(shared.x[i], shared.column[i]);
  }

  __device__ __forceinline__ int total(int mine) {
    int v[1] = {mine};
    group_sum<kThreads>(v, shared.count, count_phase);
    return v[0];
  }
  __device__ __forceinline__ double total(double mine) {
    double v[1] = {mine};
    group_sum<kThreads>(v, shared.sum, sum_phase);
    return v[0];
  }

  // The sum over the threads before this one; `all` receives that over all.
  template <typename V>
  __device__ __forceinline__ V before(V mine, V (&part)[2][1][kThreads / 32], int& phase, V& all) {
    const int lane = static_cast<int>(threadIdx.x) % 32, own = static_cast<int>(threadIdx.x) / 32;
    V sum = mine;
    UNROLL for (int by = 1; by < 32; by *= 2) {
      const V lower = shuffle_up(sum, by);
      if (lane >= by) sum += lower;
    }
    const V lower = shuffle_up(sum, 1);
    V* const warps = part[phase][0];
    phase ^= 1;
    if (lane == 31) warps[own] = sum;
    __syncthreads();
    V result = V();
    all = V();
    UNROLL for (int warp = 0; warp < kThreads / 32; ++warp) {
      if (warp < own) result += warps[warp];
      all += warps[warp];
    }
    return lane == 0 ? result : result + lower;
  }

  __device__ __forceinline__ static uint32_t middle(uint32_t low, uint32_t high) {
    return low + (high - low - 1) / 2 + 1;
  }

  // What a search has found: the largest key at which its condition holds, and the weights of the
  // candidates in its range below that key.
  struct Threshold {
    uint32_t key;
    double below;
  };

  // Halves [low, high] until one key is left; holds(weights below a key, number from it on) is true
  // at low, and at all keys below one where it is. Tries `guess` first, if that lies inside.
  // Without candidates the steps read the row, until what is left of the range fits: that then are
  // the candidates. kWeights: whether holds() asks for weights.
  template <bool kWeights, typename Holds>
  __device__ __forceinline__ Threshold search(uint32_t low, uint32_t high, uint32_t guess,
                                              Holds holds) {
    double below = 0;
    int beyond = 0;  // number above high
    while (low < high) {
      const uint32_t pivot = guess > low && guess <= high ? guess : middle(low, high);
      guess = 0;
      double mass = 0;
      int lower = 0, upper = 0;
      each_candidate([&](float x, int) {
        const uint32_t key = ordered(x);
        if (key < low || key > high) return;
        if (key >= pivot) {
          ++upper;
        } else {
          ++lower;
          if constexpr (kWeights) mass += static_cast<double>(weight(x));
        }
      });
      if constexpr (kWeights) mass = total(mass);
      const bool reads_row = candidates < 0;
      if (!kWeights || reads_row) upper = total(upper);
      if (reads_row) lower = total(lower);
      if (holds(below + mass, beyond + upper)) {
        low = pivot;
        below += mass;
        lower = upper;
      } else {
        high = pivot - 1;
        beyond += upper;
      }
      if (reads_row && lower <= kSampleCandidates)
        collect([&](float x) { return ordered(x) >= low && ordered(x) <= high; });
    }
    return {low, below};
  }

  // Moves the elements that are wanted(x) to shared memory, in the order of the threads.
  template <typename Wanted>
  __device__ __forceinline__ void collect(Wanted wanted) {
    int mine = 0;
    each([&](float x, int) { mine += wanted(x) ? 1 : 0; });
    int all;
    int at = before(mine, shared.count.part, count_phase, all);
    if (all > kSampleCandidates) return;
    each([&](float x, int column) {
      if (!wanted(x)) return;
      shared.x[at] = x;
      shared.column[at++] = column;
    });
    __syncthreads();
    candidates = all;
  }

  // ordered() of the k-th largest x. The candidates then are all from there on, or too many.
  __device__ __forceinline__ uint32_t kth_largest(float thread_max) {
    const uint32_t high = ordered(max);
    uint32_t floor = ordered(-INFINITY);
    if (p.top_k <= kThreads) {
      // k threads have a maximum of at least this, so k elements are
      const uint32_t mine = ordered(thread_max);
      uint32_t end = high;
      while (floor < end) {
        const uint32_t pivot = middle(floor, end);
        if (total(mine >= pivot ? 1 : 0) >= p.top_k)
          floor = pivot;
        else
          end = pivot - 1;
      }
    }
    collect([&](float x) { return ordered(x) >= floor; });
    const bool complete = candidates >= 0;
    const uint32_t least =
        search<false>(floor, high, 0, [&](double, int from) { return from >= p.top_k; }).key;
    if (!complete) {
      candidates = -1;
      collect([&](float x) { return ordered(x) >= least; });
    }
    return least;
  }

  // Narrows `kept` to top-p.
  __device__ __forceinline__ void keep_top_p(Kept& kept) {
    const uint32_t floor = kept.least;
    double sum = 0;
    each_candidate([&](float x, int) {
      if (ordered(x) >= floor) sum += static_cast<double>(weight(x));
    });
    sum = total(sum);
    const double budget = (1.0 - static_cast<double>(p.top_p)) * sum;
    const bool complete = candidates >= 0;
    // w of at most budget / columns are within the budget, however many they are
    const float light = max + logf(static_cast<float>(budget / static_cast<double>(p.columns)));
    const Threshold threshold = search<true>(floor, ordered(max), complete ? 0 : ordered(light),
                                             [&](double below, int) { return below <= budget; });
    kept.least = threshold.key;
    // of those at the threshold, as many of the lowest columns as still fit, but one
    int equal = 0;
    float each_weight = 0.f;
    each_candidate([&](float x, int) {
      if (ordered(x) != kept.least) return;
      ++equal;
      each_weight = weight(x);
    });
    equal = total(equal);
    each_weight = group_max<kThreads>(each_weight, shared.max, max_phase);
    const double fit = (budget - threshold.below) / static_cast<double>(each_weight);
    int dropped = fit < static_cast<double>(equal) ? static_cast<int>(fit) : equal;
    if (kept.least == ordered(max) && dropped >= equal) dropped = equal - 1;
    if (dropped > 0) {
      uint32_t low = 0, high = INT_MAX;
      while (low < high) {
        const uint32_t pivot = middle(low, high);
        int before_pivot = 0;
        each_candidate([&](float x, int column) {
          const bool lower = ordered(x) == kept.least && static_cast<uint32_t>(column) < pivot;
          before_pivot += lower ? 1 : 0;
        });
        if (total(before_pivot) <= dropped)
          low = pivot;
        else
          high = pivot - 1;
      }
      kept.first = static_cast<int>(low);
    }
    if (!complete) candidates = -1;
  }

  // The draw among what is kept, whose weights add up to `sum`, in the order of the columns.
  __device__ __forceinline__ void draw(const Kept& kept, double sum, double u, int64_t index) {
    const double wanted = u * sum;
    double passed = 0;
    int chosen = -1, last_column = -1;
    float chosen_weight = 0.f, last_weight = 0.f;
    const int parts = row.words + 2;  // with what lies before and behind
    const int behind = row.head + row.words * kVector<T>;
    for (int64_t base = 0; base < parts; base += kThreads) {
      const int64_t part = base + threadIdx.x;
      float v[kVector<T>];
      int first = 0, count = 0;
      if (part == 0 || part == parts - 1) {
        first = part == 0 ? 0 : behind;
        count = part == 0 ? row.head : p.columns - behind;
        UNROLL for (int j = 0; j < kVector<T>; ++j) v[j] =
            j < count ? to_float(row.x[first + j]) : 0.f;
      } else if (part < parts) {
        first = row.head + static_cast<int>(part - 1) * kVector<T>;
        count = kVector<T>;
        unpack<T>(ld128(row.word(static_cast<int>(part - 1))), v);
      }
      double mine = 0;
      UNROLL for (int j = 0; j < kVector<T>; ++j) {
        if (j < count) {
          const float x = scaled(v[j]);
          const float w = weight(x);
          v[j] = kept.has(x, w, first + j) ? w : 0.f;
          mine += static_cast<double>(v[j]);
        }
      }
      double all;
      double mass = passed + before(mine, shared.sum.part, sum_phase, all);
      UNROLL for (int j = 0; j < kVector<T>; ++j) {
        if (j < count && v[j] > 0.f) {
          last_column = first + j;
          last_weight = v[j];
          mass += static_cast<double>(v[j]);
          if (chosen < 0 && mass > wanted) {
            chosen = first + j;
            chosen_weight = v[j];
          }
        }
      }
      passed += all;
      if (passed > wanted && finish(chosen, chosen_weight, false, sum, index)) return;
    }
    // rounding only: the sums of parts and of all differ in their last places
    finish(last_column, last_weight, true, sum, index);
  }

  // The lowest (or highest) of the threads' columns becomes the choice; false if none has one.
  __device__ __forceinline__ bool finish(int column, float its_weight, bool highest, double sum,
                                         int64_t index) {
    const uint64_t key =
        column < 0 ? 0 : (highest ? uint64_t{1} + column : (uint64_t{1} << 32) - column);
    const uint64_t best = group_max<kThreads>(key, shared.found, found_phase);
    if (best == 0) return false;
    if (key != best) return true;
    p.out[index * p.out_stride] = column;
    if (p.logprobs != nullptr)
      p.logprobs[index * p.logprobs_stride] =
          static_cast<float>(log(static_cast<double>(its_weight) / sum));
    return true;
  }
};

template <typename T>
__global__ void __launch_bounds__(kSampleThreads, 1) sample_rows(const __grid_constant__ Sample p) {
  SMEM(SampleShared, shared);
  const int64_t index = blockIdx.x;
  SampleRow<T> row(p, static_cast<const T*>(p.logits) + index * p.logits_stride, shared);
  float mine = -INFINITY;
  row.each([&](float x, int) { mine = fmaxf(mine, x); });
  row.max = group_max<kSampleThreads>(mine, shared.max, row.max_phase);
  if (row.max == -INFINITY) {
    if (threadIdx.x != 0) return;
    report_fault(p.faults, FaultKind::kSampleNothing, index, p.columns, 0, 0);
    p.out[index * p.out_stride] = 0;
    if (p.logprobs != nullptr) p.logprobs[index * p.logprobs_stride] = NAN;
    return;
  }
  Kept kept = {0, 0, p.min_p};
  if (p.top_k > 0 && p.top_k < p.columns) kept.least = row.kth_largest(mine);
  if (p.top_p < 1.f) row.keep_top_p(kept);
  double sum = 0;
  row.each_candidate([&](float x, int column) {
    const float w = row.weight(x);
    if (kept.has(x, w, column)) sum += static_cast<double>(w);
  });
  sum = row.total(sum);
  const double u =
      static_cast<double>(philox_uniform(p.philox.stream().word(static_cast<uint64_t>(index))));
  row.draw(kept, sum, u, index);
}

// ---- launchers ----

namespace {

template <typename Kernel, typename Args>
cudaError_t start(const char* name, Kernel kernel, int threads, size_t shared, cudaStream_t stream,
                  const Args& p) {
  if (p.rows == 0) return cudaSuccess;
  if (p.rows > INT_MAX || p.columns < 1) return cudaErrorInvalidValue;
  return launch(name, kernel, static_cast<unsigned>(p.rows), threads, shared, stream, p);
}

}  // namespace

cudaError_t argmax(cudaStream_t stream, ElementType type, const ArgMax& p) {
  const auto kernel = type == ElementType::kF32   ? argmax_rows<float>
                      : type == ElementType::kF16 ? argmax_rows<__half>
                                                  : argmax_rows<__nv_bfloat16>;
  return start("argmax_rows", kernel, kArgMaxThreads, sizeof(ArgMaxShared), stream, p);
}

cudaError_t sample(cudaStream_t stream, ElementType type, const Sample& p) {
  const auto kernel = type == ElementType::kF32   ? sample_rows<float>
                      : type == ElementType::kF16 ? sample_rows<__half>
                                                  : sample_rows<__nv_bfloat16>;
  return start("sample_rows", kernel, kSampleThreads, sizeof(SampleShared), stream, p);
}

}  // namespace gatun::kernels
