// Cross entropy of rows of logits, its gradient written over them.
//
// math     lse = max + log(sum e^(x - max));  nll = lse - x[target]
//          row loss = (1 - e) nll + e (lse - mean(x));  loss (+)= factor sum of the row losses
//          dx = factor (softmax(x) - e / columns - [column is target] (1 - e))
// shapes   logits (rows, columns), f32, f16 or bf16, any strides between rows and any alignment of
//          an element: 50257 columns of bf16 start each row elsewhere. targets, row losses (rows).
//          Arithmetic in f32, the row losses are added in double.
// tiling   A row belongs to a warp, or to a block of 128, 512 or 1024 threads (loss_tile() of
//          tiles.h), and stays on the chip between the passes, as it came, in 16-byte words: 7 or 8
//          a thread in registers, the others in shared memory, brought by cp.async. So each logit
//          is read once and its gradient written once: up to 81920 columns of bf16, or 40960 of
//          f32, with two blocks a multiprocessor, up to 106496 or 53248 with one. A thread reads
//          back only its own words, so the row needs no barrier but those of its two or three sums.
//          Less than a word at either end of a row is one element for each of the first threads.
//          Longer rows: one pass with a running maximum for each thread, then, for the gradient,
//          a second pass from the end of the row, where the cache still has it.
//          A second kernel, one block, adds up the rows in a fixed order. No atomics.
// limits   rows, columns < 2^31
// source   Online sums: Milakov & Gimelshein 2018 (arXiv:1805.02867); gradient in place: idea from
//          llm.c (MIT); rows kept on the chip: idea from QuACK (Dao-AILab, Apache-2.0).
// measured not yet on a GPU; compiled for sm_80 and sm_90a without spills (resources.txt), results
//          and traffic checked on the host (native/test/kernel/loss_kernel_test.cpp).
#include <cuda_runtime.h>

#include <algorithm>
#include <climits>

#include "loss.h"
#include "tile.cuh"
#include "tiles.h"

namespace gatun::kernels {

constexpr float kLog2E = 1.4426950408889634f;

// ---- device helpers ----

// What the passes over a row find.
struct RowSums {
  float max;
  float exponentials;  // of x - max
  float logits;
};

__device__ __forceinline__ float exponential(float x, float max) { return ex2((x - max) * kLog2E); }

// dx = e^(x - max) scale - uniform, but for the target.
struct Slope {
  float max;
  float scale;    // factor / sum of exponentials
  float uniform;  // factor e / columns
  float at_target;

  __device__ __forceinline__ float of(float x) const {
    return exponential(x, max) * scale - uniform;
  }
};

__device__ __forceinline__ Slope slope_of(const CrossEntropy& p, const RowSums& sums,
                                          float x_target) {
  const float factor = p.factor == nullptr ? 1.f : *p.factor;
  const float uniform =
      p.smoothing == 0.f ? 0.f : factor * p.smoothing / static_cast<float>(p.columns);
  const float probability = exponential(x_target, sums.max) / sums.exponentials;
  return {sums.max, factor / sums.exponentials, uniform,
          (probability - (1.f - p.smoothing)) * factor - uniform};
}

__device__ __forceinline__ void store_loss(const CrossEntropy& p, int64_t row, float loss) {
  p.sums[row] = static_cast<double>(loss);
  if (p.row_losses != nullptr) p.row_losses[row] = loss;
}

__device__ __forceinline__ float loss_of(const CrossEntropy& p, const RowSums& sums,
                                         float x_target) {
  // differences of logits first: the log-sum-exp itself may be large
  const float log_sum = logf(sums.exponentials);
  const float nll = (sums.max - x_target) + log_sum;
  if (p.smoothing == 0.f) return nll;
  const float mean = sums.logits / static_cast<float>(p.columns);
  return (1.f - p.smoothing) * nll + p.smoothing * ((sums.max - mean) + log_sum);
}

// A row that does not count; true if it is one. A target beyond the vocabulary is reported.
template <int kThreads, typename T>
__device__ __forceinline__ bool skipped(const CrossEntropy& p, const WordRow<T>& row, int64_t index,
                                        int32_t target, int lane) {
  const bool ignored = target == p.ignore_index;
  if (!ignored && target >= 0 && target < p.columns) return false;
  if (lane == 0) {
    if (!ignored)
      report_fault(p.faults, FaultKind::kCrossEntropyTarget, target, index, p.columns,
                   p.ignore_index);
    store_loss(p, index, 0.f);
  }
  if (!p.write_gradient) return true;
  for (int i = lane; i < row.words; i += kThreads) st128(row.word(i), {0, 0, 0, 0});
  const int edge = row.edge(lane, p.columns);
  if (edge >= 0) row.x[edge] = from_float<T>(0.f);
  return true;
}

template <typename T>
__device__ __forceinline__ void store_slope(const WordRow<T>& row, int i, uint4 held,
                                            const Slope& slope, int target_word, int32_t target) {
  float v[kVector<T>];
  unpack<T>(held, v);
  UNROLL for (int j = 0; j < kVector<T>; ++j) v[j] = slope.of(v[j]);
  st128(row.word(i), pack<T>(v));
  // after its word, by the same thread
  if (i == target_word) row.x[target] = from_float<T>(slope.at_target);
}

// ---- rows on the chip ----

template <int kTile>
struct alignas(16) LossShared {
  GroupParts<kLossTiles[kTile].threads, 1> max;
  GroupParts<kLossTiles[kTile].threads, 2> sum;
  // then the words beyond those in registers
};
template <int kTile>
constexpr size_t kMostShared<LossShared<kTile>> =
    sizeof(LossShared<kTile>) + kLossTiles[kTile].shared_words * sizeof(uint4);

// Thread `lane` of a row owns the words k kThreads + lane.
template <typename T, int kTile>
__global__ void __launch_bounds__(kLossTiles[kTile].threads* kLossTiles[kTile].rows,
                                  kLossTiles[kTile].min_blocks)
    cross_entropy_rows(const __grid_constant__ CrossEntropy p) {
  constexpr int kThreads = kLossTiles[kTile].threads;
  constexpr int kRows = kLossTiles[kTile].rows;
  constexpr bool kSpills = kLossTiles[kTile].shared_words > 0;
  constexpr int kWords = kLossTiles[kTile].words;
  constexpr int kHeld = kThreads * kWords;
  static_assert(sizeof(LossShared<kTile>) % sizeof(uint4) == 0, "words follow it");
  SMEM(LossShared<kTile>, shared);
  uint4* const spilled = reinterpret_cast<uint4*>(&shared + 1);
  const int lane = static_cast<int>(threadIdx.x) % kThreads;
  const int64_t index = blockIdx.x * kRows + threadIdx.x / kThreads;  // rows are an int
  if (index >= p.layout.rows) return;
  const WordRow<T> row(static_cast<T*>(p.logits) + row_offset(p.layout, 0, index), p.columns);
  const int32_t target = p.targets[index];
  if (skipped<kThreads>(p, row, index, target, lane)) return;  // all of the row agree
  if constexpr (kSpills) {
    for (int i = kHeld + lane; i < row.words; i += kThreads)
      cp_async<16>(shared_address(spilled + (i - kHeld)), row.word(i), 16);
    cp_async_commit();
  }
  uint4 held[kWords];
  UNROLL for (int k = 0; k < kWords; ++k) {
    const int i = k * kThreads + lane;
    if (i < row.words) held[k] = ld128(row.word(i));
  }
  const float x_target = to_float(row.x[target]);
  if constexpr (kSpills) cp_async_wait<0>();
  // a thread's words, one after the other: f(index, word)
  const auto each_word = [&](auto f) {
    UNROLL for (int k = 0; k < kWords; ++k) {
      const int i = k * kThreads + lane;
      if (i < row.words) f(i, held[k]);
    }
    if constexpr (kSpills)
      for (int i = kHeld + lane; i < row.words; i += kThreads)
        f(i, lds128(shared_address(spilled + (i - kHeld))));
  };
  // read again where it is needed: it costs a register to keep
  const auto with_edge = [&](auto f) {
    const int edge = row.edge(lane, p.columns);
    if (edge >= 0) f(row.x + edge, edge);
  };

  int phase = 0;
  RowSums sums;
  sums.max = -INFINITY;
  with_edge([&](T* x, int) { sums.max = to_float(*x); });
  each_word([&](int, uint4 word) {
    float v[kVector<T>];
    unpack<T>(word, v);
    UNROLL for (int j = 0; j < kVector<T>; ++j) sums.max = fmaxf(sums.max, v[j]);
  });
  sums.max = group_max<kThreads>(sums.max, shared.max, phase);
  float total[2] = {0.f, 0.f};
  with_edge([&](T* x, int) {
    total[0] = exponential(to_float(*x), sums.max);
    total[1] = to_float(*x);
  });
  each_word([&](int, uint4 word) {
    float v[kVector<T>];
    unpack<T>(word, v);
    UNROLL for (int j = 0; j < kVector<T>; ++j) {
      total[0] += exponential(v[j], sums.max);
      total[1] += v[j];
    }
  });
  group_sum<kThreads>(total, shared.sum, phase);
  sums.exponentials = total[0];
  sums.logits = total[1];
  if (lane == 0) store_loss(p, index, loss_of(p, sums, x_target));
  if (!p.write_gradient) return;
  if constexpr (kThreads == 32) sync_warp();  // all have read x[target]; others met at a barrier
  const Slope slope = slope_of(p, sums, x_target);
  const int target_word = row.word_of(target);
  each_word([&](int i, uint4 word) { store_slope(row, i, word, slope, target_word, target); });
  with_edge([&](T* x, int column) {
    *x = from_float<T>(column == target ? slope.at_target : slope.of(to_float(*x)));
  });
}

// ---- rows of any length ----

struct LossLoopShared {
  GroupParts<kLossLoopThreads, 1> max;
  GroupParts<kLossLoopThreads, 2> sum;
};

template <typename T>
__global__ void __launch_bounds__(kLossLoopThreads)
    cross_entropy_loop(const __grid_constant__ CrossEntropy p) {
  constexpr int kThreads = kLossLoopThreads;
  constexpr int kAtOnce = 4;  // words in flight
  SMEM(LossLoopShared, shared);
  int phase = 0;
  const int lane = static_cast<int>(threadIdx.x);
  const int64_t index = blockIdx.x;
  const WordRow<T> row(static_cast<T*>(p.logits) + row_offset(p.layout, 0, index), p.columns);
  const int32_t target = p.targets[index];
  if (skipped<kThreads>(p, row, index, target, lane)) return;
  const float x_target = to_float(row.x[target]);
  const int edge = row.edge(lane, p.columns);
  const float x_edge = edge < 0 ? 0.f : to_float(row.x[edge]);
  // steps of the block; the last one is ragged
  constexpr int kStep = kThreads * kAtOnce;
  const int steps = row.words / kStep + (row.words % kStep != 0);
  const auto load = [&](int step, uint4(&word)[kAtOnce]) {
    UNROLL for (int k = 0; k < kAtOnce; ++k) {
      const int i = step * kStep + k * kThreads + lane;
      if (i < row.words) word[k] = ld128(row.word(i));
    }
  };
  const auto each_word = [&](int step, const uint4(&word)[kAtOnce], auto f) {
    UNROLL for (int k = 0; k < kAtOnce; ++k) {
      const int i = step * kStep + k * kThreads + lane;
      if (i < row.words) f(i, word[k]);
    }
  };

  float mine = -INFINITY;  // the maximum so far
  float total[2] = {0.f, 0.f};
  const auto grow = [&](float most) {
    if (!(most > mine)) return;
    total[0] *= exponential(mine, most);
    mine = most;
  };
  const auto add = [&](float x) {
    total[0] += exponential(x, mine == -INFINITY ? 0.f : mine);  // -inf - -inf would be NaN
    total[1] += x;
  };
  if (edge >= 0) {
    grow(x_edge);
    add(x_edge);
  }
  for (int step = 0; step < steps; ++step) {
    uint4 word[kAtOnce];
    load(step, word);
    float most = mine;
    each_word(step, word, [&](int, uint4 w) {
      float v[kVector<T>];
      unpack<T>(w, v);
      UNROLL for (int j = 0; j < kVector<T>; ++j) most = fmaxf(most, v[j]);
    });
    grow(most);
    each_word(step, word, [&](int, uint4 w) {
      float v[kVector<T>];
      unpack<T>(w, v);
      UNROLL for (int j = 0; j < kVector<T>; ++j) add(v[j]);
    });
  }
  RowSums sums;
  sums.max = group_max<kThreads>(mine, shared.max, phase);
  total[0] *= mine == sums.max ? 1.f : exponential(mine, sums.max);
  group_sum<kThreads>(total, shared.sum, phase);
  sums.exponentials = total[0];
  sums.logits = total[1];
  if (lane == 0) store_loss(p, index, loss_of(p, sums, x_target));
  if (!p.write_gradient) return;
  const Slope slope = slope_of(p, sums, x_target);
  const int target_word = row.word_of(target);
  for (int step = steps - 1; step >= 0; --step) {
    uint4 word[kAtOnce];
    load(step, word);
    each_word(step, word,
              [&](int i, uint4 w) { store_slope(row, i, w, slope, target_word, target); });
  }
  if (edge >= 0) row.x[edge] = from_float<T>(edge == target ? slope.at_target : slope.of(x_edge));
}

struct LossFinishShared {
  GroupParts<kLossFinishThreads, 1, double> parts;
};

// One block adds up the losses of the rows: thread i those of i, i + 1024, …, then a tree.
__global__ void __launch_bounds__(kLossFinishThreads)
    cross_entropy_finish(const __grid_constant__ CrossEntropy p) {
  SMEM(LossFinishShared, shared);
  double total[1] = {0};
  for (int64_t row = threadIdx.x; row < p.layout.rows; row += kLossFinishThreads)
    total[0] += p.sums[row];
  int phase = 0;
  group_sum<kLossFinishThreads>(total, shared.parts, phase);
  if (threadIdx.x != 0) return;
  const double scaled = total[0] * (p.factor == nullptr ? 1. : static_cast<double>(*p.factor));
  *p.loss = static_cast<float>(p.accumulate ? static_cast<double>(*p.loss) + scaled : scaled);
}

// ---- launchers ----

namespace {

template <typename T, int kTile>
cudaError_t loss_rows(cudaStream_t stream, const CrossEntropy& p) {
  constexpr LossTile kShape = kLossTiles[kTile];
  static_assert(shared_fits(kMostShared<LossShared<kTile>>, kShape.min_blocks,
                            kTile == 2 ? kSharedOfH100 : kSharedOfA100),
                "of the longest rows of tile 2, an A100 has room for one block");
  const int64_t words = p.columns / kVector<T> - kShape.threads * kShape.words;
  const size_t spilled = static_cast<size_t>(std::max<int64_t>(words, 0)) * sizeof(uint4);
  const int64_t blocks = (p.layout.rows + kShape.rows - 1) / kShape.rows;
  return launch("cross_entropy_rows", cross_entropy_rows<T, kTile>, static_cast<unsigned>(blocks),
                kShape.threads * kShape.rows, sizeof(LossShared<kTile>) + spilled, stream, p);
}

template <typename T>
cudaError_t losses(cudaStream_t stream, const CrossEntropy& p) {
  switch (loss_tile(p.columns / kVector<T>)) {
    case 0:
      return loss_rows<T, 0>(stream, p);
    case 1:
      return loss_rows<T, 1>(stream, p);
    case 2:
      return loss_rows<T, 2>(stream, p);
    case 3:
      return loss_rows<T, 3>(stream, p);
    default:
      return launch("cross_entropy_loop", cross_entropy_loop<T>,
                    static_cast<unsigned>(p.layout.rows), kLossLoopThreads, sizeof(LossLoopShared),
                    stream, p);
  }
}

}  // namespace

size_t cross_entropy_scratch_bytes(const CrossEntropy& p) {
  return static_cast<size_t>(p.layout.rows) * sizeof(double);
}

cudaError_t cross_entropy(cudaStream_t stream, ElementType type, const CrossEntropy& p) {
  if (p.layout.rank > kMaxLeading || p.layout.rows > INT_MAX) return cudaErrorInvalidValue;
  if (p.layout.rows > 0) {
    if (p.columns < 1) return cudaErrorInvalidValue;
    const cudaError_t error = type == ElementType::kF32   ? losses<float>(stream, p)
                              : type == ElementType::kF16 ? losses<__half>(stream, p)
                                                          : losses<__nv_bfloat16>(stream, p);
    if (error != cudaSuccess) return error;
  }
  return launch("cross_entropy_finish", cross_entropy_finish, 1, kLossFinishThreads,
                sizeof(LossFinishShared), stream, p);
}

}  // namespace gatun::kernels
