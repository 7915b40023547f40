// The global norm, unscaling and AdamW of lists of tensors.
//
// math     norm = sqrt(sum of squares of all elements), factor = min(1, max_norm / (norm + 1e-6))
//          x = x inverse_scale, found_inf = 1 if an x was infinite or NaN
//          w = w (1 - lr decay) - lr mhat / (sqrt(vhat) + eps),  g = gradient clip,
//          m = b1 m + (1 - b1) g,  v = b2 v + (1 - b2) g^2,  mhat = m / (1 - b1^step),
//          vhat = v / (1 - b2^step)
// shapes   any number of tensors of any shapes; weight, m, v f32, gradient f32, f16 or bf16, copy
// of
//          the new weight f16 or bf16 or none. Squares are added in double, where no square of a
//          float overflows or vanishes; the update is f32, its bias corrections are double.
// tiling   Contiguous tensors travel by value in the kernel's arguments, as many as 4 KiB hold: no
//          table is uploaded. A block has one chunk of one tensor (8192 elements for AdamW, 16384
//          for the others) and finds it by halving a list of first blocks. 256 threads; a thread
//          moves 4 f32 by 16-byte accesses and the same 4 of a 16-bit operand by 8-byte ones, so
//          that each request of a warp covers whole sectors; two such packs of all operands are in
//          flight. What 16-byte accesses cannot reach goes element by element, strided tensors have
//          a kernel of their own. The norm writes one sum a chunk; one block adds these in a fixed
//          order. No atomics but that which sets found_inf: the same bits every time.
// bytes    AdamW: 28 an element with an f32 gradient; 24 + 2 with a 16-bit one, + 2 with a copy.
//          Norm: each element once, and 16 bytes a chunk. Unscaling: each element twice.
// source   Loshchilov & Hutter 2019 (arXiv:1711.05101); tensor lists as kernel arguments: idea from
//          Apex's multi_tensor_apply (BSD-3).
// measured not yet on a GPU; compiled for sm_80 and sm_90a without spills (resources.txt), results
//          and traffic checked on the host (native/test/kernel/optimizer_kernel_test.cpp).
#include <cuda_runtime.h>

#include <algorithm>
#include <cfloat>
#include <climits>
#include <cmath>

#include "optimizer.h"
#include "tile.cuh"
#include "tiles.h"

namespace gatun::kernels {

constexpr int kThreads = kListThreads;
constexpr int kVec = 4;  // elements of an access: 16 bytes of f32, 8 of a 16-bit type
constexpr int kAdamWPacks = 2;

static_assert(kAdamWChunk % (kThreads * kVec * kAdamWPacks) == 0, "whole steps of a block");

// A tensor without gaps.
struct ListRun {
  void* data;
  int64_t elements;
  ElementType type;
};

struct AdamWRun {
  float* weight;
  const void* gradient;
  float* m;
  float* v;
  void* copy;
  int64_t elements;
  float decay;
};

// The tensors of one launch; blocks first_block[i] … first_block[i + 1] - 1 work on the i-th.
template <typename Run, int kMost>
struct RunList {
  Run run[kMost];
  int first_block[kMost];
  int count;
};

using TensorList = RunList<ListRun, kListRuns>;
using AdamWList = RunList<AdamWRun, kAdamWRuns>;

constexpr size_t kArgumentBytes = 4096;  // of a kernel
static_assert(sizeof(TensorList) + sizeof(double*) <= kArgumentBytes, "a list is an argument");
static_assert(sizeof(AdamWList) + sizeof(AdamWStep*) <= kArgumentBytes, "a list is an argument");

// ---- device helpers ----

// The run that this block works on: the last whose first block is not after it.
template <typename List>
__device__ __forceinline__ int run_of(const List& list) {
  int low = 0, high = list.count;
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    if (list.first_block[middle] <= static_cast<int>(blockIdx.x))
      low = middle;
    else
      high = middle;
  }
  return low;
}

template <typename T>
__device__ __forceinline__ bool aligned_access(const T* p) {
  return reinterpret_cast<uintptr_t>(p) % (kVec * sizeof(T)) == 0;
}

__device__ __forceinline__ float load_as(ElementType type, const void* p, int64_t at) {
  switch (type) {
    case ElementType::kF16:
      return to_float(static_cast<const __half*>(p)[at]);
    case ElementType::kBf16:
      return to_float(static_cast<const __nv_bfloat16*>(p)[at]);
    default:
      return static_cast<const float*>(p)[at];
  }
}

__device__ __forceinline__ void store_as(ElementType type, void* p, int64_t at, float value) {
  switch (type) {
    case ElementType::kF16:
      static_cast<__half*>(p)[at] = from_float<__half>(value);
      return;
    case ElementType::kBf16:
      static_cast<__nv_bfloat16*>(p)[at] = from_float<__nv_bfloat16>(value);
      return;
    default:
      static_cast<float*>(p)[at] = value;
  }
}

// ---- global norm ----

struct SquaresShared {
  GroupParts<kThreads, 1, double> parts;
};

struct SquaresFinishShared {
  GroupParts<kNormFinishSums, 1, double> parts;
};

// This thread's share of the squares of x[0 … count - 1].
template <typename T>
__device__ __forceinline__ double squares(const T* x, int count) {
  constexpr int kWide = kVector<T>;
  double total = 0;
  int whole = 0;
  if (reinterpret_cast<uintptr_t>(x) % 16 == 0) {
    whole = count / kWide * kWide;
    constexpr int kPacks = 4;
    for (int base = 0; base < whole; base += kThreads * kWide * kPacks) {
      float v[kPacks][kWide];
      UNROLL for (int k = 0; k < kPacks; ++k) {
        const int at = base + (k * kThreads + static_cast<int>(threadIdx.x)) * kWide;
        if (at < whole) {
          load_values<kWide>(x + at, v[k]);
        } else {
          UNROLL for (int i = 0; i < kWide; ++i) v[k][i] = 0.f;
        }
      }
      UNROLL for (int k = 0; k < kPacks; ++k) UNROLL for (int i = 0; i < kWide; ++i) {
        const double value = static_cast<double>(v[k][i]);
        total += value * value;
      }
    }
  }
  for (int i = whole + static_cast<int>(threadIdx.x); i < count; i += kThreads) {
    const double value = static_cast<double>(to_float(x[i]));
    total += value * value;
  }
  return total;
}

__device__ __forceinline__ void store_chunk_sum(double mine, double* sums, SquaresShared& shared) {
  double total[1] = {mine};
  int phase = 0;
  group_sum<kThreads>(total, shared.parts, phase);
  if (threadIdx.x == 0) sums[blockIdx.x] = total[0];
}

// sums[blockIdx.x]: the squares of one chunk.
__global__ void __launch_bounds__(kThreads)
    global_norm_squares(const __grid_constant__ TensorList list, double* sums) {
  SMEM(SquaresShared, shared);
  const int i = run_of(list);
  const ListRun& run = list.run[i];
  const int64_t begin = int64_t{static_cast<int>(blockIdx.x) - list.first_block[i]} * kListChunk;
  const int64_t left = run.elements - begin;
  const int count = static_cast<int>(left < kListChunk ? left : kListChunk);
  double total = 0;
  if (run.type == ElementType::kF32)
    total = squares(static_cast<const float*>(run.data) + begin, count);
  else if (run.type == ElementType::kF16)
    total = squares(static_cast<const __half*>(run.data) + begin, count);
  else
    total = squares(static_cast<const __nv_bfloat16*>(run.data) + begin, count);
  store_chunk_sum(total, sums, shared);
}

// The same of a tensor with gaps, in row-major order.
__global__ void __launch_bounds__(kThreads)
    global_norm_squares_strided(const __grid_constant__ ListTensor tensor, double* sums) {
  SMEM(SquaresShared, shared);
  const int64_t elements = tensor.layout.rows * tensor.columns;
  const int64_t begin = int64_t{blockIdx.x} * kListChunk;
  const int64_t end = elements - begin < kListChunk ? elements : begin + kListChunk;
  double total = 0;
  for (int64_t i = begin + threadIdx.x; i < end; i += kThreads) {
    const int64_t row = i / tensor.columns;
    const int64_t at = row_offset(tensor.layout, 0, row) + (i - row * tensor.columns);
    const double value = static_cast<double>(load_as(tensor.type, tensor.data, at));
    total += value * value;
  }
  store_chunk_sum(total, sums, shared);
}

// One block adds up `count` sums: thread i those of i, i + 1024, …, then a tree.
__global__ void __launch_bounds__(kNormFinishSums)
    global_norm_finish(const __grid_constant__ GlobalNorm p, int64_t count) {
  SMEM(SquaresFinishShared, shared);
  double total[1] = {0};
  for (int64_t i = threadIdx.x; i < count; i += kNormFinishSums) total[0] += p.sums[i];
  int phase = 0;
  group_sum<kNormFinishSums>(total, shared.parts, phase);
  if (threadIdx.x != 0) return;
  const float norm = static_cast<float>(sqrt(total[0]));
  *p.norm = norm;
  double factor = 1;
  if (!(norm <= FLT_MAX)) {
    factor = NAN;
  } else if (p.max_norm > 0) {
    const double ratio = p.max_norm / (static_cast<double>(norm) + 1e-6);
    if (ratio < 1) factor = ratio;
  }
  *p.factor = static_cast<float>(factor);
}

// ---- unscaling ----

__global__ void unscale_begin(float* found_inf) {
  if (threadIdx.x == 0) *found_inf = 0.f;
}

// Called by whole warps: one exchange each, where every element of a step may have overflowed.
__device__ __forceinline__ void note_found(bool found, float* found_inf) {
  if (ballot(found) != 0 && threadIdx.x % 32 == 0)
    atomic_exchange(reinterpret_cast<uint32_t*>(found_inf), as_bits(1.f));
}

// x[0 … count - 1] *= scale; whether this thread met what is not finite.
template <typename T>
__device__ __forceinline__ bool scale_run(T* x, int count, float scale) {
  constexpr int kWide = kVector<T>;
  bool found = false;
  int whole = 0;
  if (reinterpret_cast<uintptr_t>(x) % 16 == 0) {
    whole = count / kWide * kWide;
    constexpr int kPacks = 4;
    for (int base = 0; base < whole; base += kThreads * kWide * kPacks) {
      float v[kPacks][kWide];
      UNROLL for (int k = 0; k < kPacks; ++k) {
        const int at = base + (k * kThreads + static_cast<int>(threadIdx.x)) * kWide;
        if (at < whole) load_values<kWide>(x + at, v[k]);
      }
      UNROLL for (int k = 0; k < kPacks; ++k) {
        const int at = base + (k * kThreads + static_cast<int>(threadIdx.x)) * kWide;
        if (at < whole) {
          UNROLL for (int i = 0; i < kWide; ++i) {
            found = found || !(fabsf(v[k][i]) <= FLT_MAX);
            v[k][i] *= scale;
          }
          store_values<kWide>(x + at, v[k]);
        }
      }
    }
  }
  for (int i = whole + static_cast<int>(threadIdx.x); i < count; i += kThreads) {
    const float value = to_float(x[i]);
    found = found || !(fabsf(value) <= FLT_MAX);
    x[i] = from_float<T>(value * scale);
  }
  return found;
}

__global__ void __launch_bounds__(kThreads)
    unscale_chunks(const __grid_constant__ TensorList list, const __grid_constant__ Unscale p) {
  const int i = run_of(list);
  const ListRun& run = list.run[i];
  const int64_t begin = int64_t{static_cast<int>(blockIdx.x) - list.first_block[i]} * kListChunk;
  const int64_t left = run.elements - begin;
  const int count = static_cast<int>(left < kListChunk ? left : kListChunk);
  const float scale = *p.inverse_scale;
  bool found = false;
  if (run.type == ElementType::kF32)
    found = scale_run(static_cast<float*>(run.data) + begin, count, scale);
  else if (run.type == ElementType::kF16)
    found = scale_run(static_cast<__half*>(run.data) + begin, count, scale);
  else
    found = scale_run(static_cast<__nv_bfloat16*>(run.data) + begin, count, scale);
  note_found(found, p.found_inf);
}

// The same of a tensor with gaps.
__global__ void __launch_bounds__(kThreads)
    unscale_strided(const __grid_constant__ ListTensor tensor, const __grid_constant__ Unscale p) {
  const int64_t elements = tensor.layout.rows * tensor.columns;
  const int64_t begin = int64_t{blockIdx.x} * kListChunk;
  const int64_t end = elements - begin < kListChunk ? elements : begin + kListChunk;
  const float scale = *p.inverse_scale;
  bool found = false;
  for (int64_t i = begin + threadIdx.x; i < end; i += kThreads) {
    const int64_t row = i / tensor.columns;
    const int64_t at = row_offset(tensor.layout, 0, row) + (i - row * tensor.columns);
    const float value = load_as(tensor.type, tensor.data, at);
    found = found || !(fabsf(value) <= FLT_MAX);
    store_as(tensor.type, tensor.data, at, value * scale);
  }
  note_found(found, p.found_inf);
}

// ---- AdamW ----

__global__ void adamw_step(const __grid_constant__ AdamW p) {
  if (threadIdx.x != 0) return;
  const int64_t step = *p.step;
  AdamWStep s;
  s.valid = step >= 1;
  if (!s.valid) report_fault(p.faults, FaultKind::kAdamWStep, step, 0, 0, 0);
  s.learning_rate = static_cast<double>(*p.learning_rate);
  s.beta1 = static_cast<float>(p.beta1);
  s.one_minus_beta1 = static_cast<float>(1 - p.beta1);
  s.beta2 = static_cast<float>(p.beta2);
  s.one_minus_beta2 = static_cast<float>(1 - p.beta2);
  s.rate = static_cast<float>(s.learning_rate / (1 - pow(p.beta1, static_cast<double>(step))));
  s.root_bias = static_cast<float>(1 / sqrt(1 - pow(p.beta2, static_cast<double>(step))));
  s.eps = static_cast<float>(p.eps);
  s.clip = p.clip == nullptr ? 1.f : *p.clip;
  *p.scratch = s;
}

__device__ __forceinline__ void adamw_element(const AdamWStep& s, float keep, float g, float& w,
                                              float& m, float& v) {
  g *= s.clip;
  m = m * s.beta1 + g * s.one_minus_beta1;
  v = v * s.beta2 + g * g * s.one_minus_beta2;
  w = w * keep - m / (sqrtf(v) * s.root_bias + s.eps) * s.rate;
}

__device__ __forceinline__ float kept_share(const AdamWStep& s, float decay) {
  return static_cast<float>(1 - s.learning_rate * static_cast<double>(decay));
}

// C: the type of the copies.
template <typename G, typename C>
__global__ void __launch_bounds__(kThreads, kAdamWMinBlocks)
    adamw_update(const __grid_constant__ AdamWList list, const AdamWStep* step) {
  const AdamWStep s = *step;
  if (!s.valid) return;
  const int index = run_of(list);
  const AdamWRun& run = list.run[index];
  const int64_t begin =
      int64_t{static_cast<int>(blockIdx.x) - list.first_block[index]} * kAdamWChunk;
  const int64_t left = run.elements - begin;
  const int count = static_cast<int>(left < kAdamWChunk ? left : kAdamWChunk);
  float* const weight = run.weight + begin;
  const G* const gradient = static_cast<const G*>(run.gradient) + begin;
  float* const moment = run.m + begin;
  float* const square = run.v + begin;
  C* const copy = run.copy == nullptr ? nullptr : static_cast<C*>(run.copy) + begin;
  const float keep = kept_share(s, run.decay);
  int whole = 0;
  if (aligned_access(weight) && aligned_access(gradient) && aligned_access(moment) &&
      aligned_access(square) && aligned_access(copy)) {
    whole = count / kVec * kVec;
    for (int base = 0; base < whole; base += kThreads * kVec * kAdamWPacks) {
      float w[kAdamWPacks][kVec], g[kAdamWPacks][kVec], m[kAdamWPacks][kVec], v[kAdamWPacks][kVec];
      // all loads before the arithmetic, so that they are in flight together
      UNROLL for (int k = 0; k < kAdamWPacks; ++k) {
        const int at = base + (k * kThreads + static_cast<int>(threadIdx.x)) * kVec;
        if (at < whole) {
          load_values<kVec>(weight + at, w[k]);
          load_values<kVec>(gradient + at, g[k]);
          load_values<kVec>(moment + at, m[k]);
          load_values<kVec>(square + at, v[k]);
        }
      }
      UNROLL for (int k = 0; k < kAdamWPacks; ++k) {
        const int at = base + (k * kThreads + static_cast<int>(threadIdx.x)) * kVec;
        if (at < whole) {
          UNROLL for (int i = 0; i < kVec; ++i)
              adamw_element(s, keep, g[k][i], w[k][i], m[k][i], v[k][i]);
          store_values<kVec>(weight + at, w[k]);
          store_values<kVec>(moment + at, m[k]);
          store_values<kVec>(square + at, v[k]);
          if (copy != nullptr) store_values<kVec>(copy + at, w[k]);
        }
      }
    }
  }
  for (int at = whole + static_cast<int>(threadIdx.x); at < count; at += kThreads) {
    float w = weight[at], m = moment[at], v = square[at];
    adamw_element(s, keep, to_float(gradient[at]), w, m, v);
    weight[at] = w;
    moment[at] = m;
    square[at] = v;
    if (copy != nullptr) copy[at] = from_float<C>(w);
  }
}

// One tensor whose operands have gaps.
__global__ void __launch_bounds__(kThreads)
    adamw_update_strided(const __grid_constant__ AdamWTensor t, const AdamWStep* step) {
  using Tensor = AdamWTensor;
  const AdamWStep s = *step;
  if (!s.valid) return;
  const float keep = kept_share(s, t.decay);
  const int64_t elements = t.layout.rows * t.columns;
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < elements;
       i += int64_t{gridDim.x} * kThreads) {
    const int64_t row = i / t.columns;
    const int64_t column = i - row * t.columns;
    float& weight = t.weight[row_offset(t.layout, Tensor::kWeight, row) + column];
    float& moment = t.m[row_offset(t.layout, Tensor::kM, row) + column];
    float& square = t.v[row_offset(t.layout, Tensor::kV, row) + column];
    const float g =
        load_as(t.gradient_type, t.gradient, row_offset(t.layout, Tensor::kGradient, row) + column);
    float w = weight, m = moment, v = square;
    adamw_element(s, keep, g, w, m, v);
    weight = w;
    moment = m;
    square = v;
    if (t.copy == nullptr) continue;
    store_as(t.copy_type, t.copy, row_offset(t.layout, Tensor::kCopy, row) + column, w);
  }
}

// ---- launchers ----

namespace {

int64_t chunks(int64_t elements, int64_t chunk) { return (elements + chunk - 1) / chunk; }

// Collects runs and launches them when a list is full: `start(list, blocks)`.
template <typename Run, int kMost, typename Start>
class Batches {
 public:
  explicit Batches(Start start) : start_(start) {}
  cudaError_t add(const Run& run, int64_t blocks) {
    if (blocks > INT_MAX) return cudaErrorInvalidValue;
    if (list_.count == kMost || blocks_ + blocks > INT_MAX) {
      const cudaError_t error = flush();
      if (error != cudaSuccess) return error;
    }
    list_.run[list_.count] = run;
    list_.first_block[list_.count++] = static_cast<int>(blocks_);
    blocks_ += blocks;
    return cudaSuccess;
  }
  cudaError_t flush() {
    if (list_.count == 0) return cudaSuccess;
    const cudaError_t error = start_(list_, static_cast<unsigned>(blocks_));
    list_ = {};
    blocks_ = 0;
    return error;
  }

 private:
  Start start_;
  RunList<Run, kMost> list_ = {};
  int64_t blocks_ = 0;
};

template <typename G, typename C>
cudaError_t update_runs(cudaStream_t stream, const AdamWTensor* tensors, int64_t count,
                        ElementType gradient_type, ElementType copy_type, const AdamWStep* step) {
  const auto start = [&](const AdamWList& list, unsigned blocks) {
    return launch("adamw_update", adamw_update<G, C>, blocks, kThreads, 0, stream, list, step);
  };
  Batches<AdamWRun, kAdamWRuns, decltype(start)> batches(start);
  for (int64_t i = 0; i < count; ++i) {
    const AdamWTensor& t = tensors[i];
    // a tensor without a copy goes with either type
    const ElementType its_copy = t.copy == nullptr ? ElementType::kBf16 : t.copy_type;
    if (t.layout.rows != 1 || t.columns == 0 || t.gradient_type != gradient_type ||
        its_copy != copy_type)
      continue;
    const cudaError_t error =
        batches.add({t.weight, t.gradient, t.m, t.v, t.copy, t.columns, t.decay},
                    chunks(t.columns, kAdamWChunk));
    if (error != cudaSuccess) return error;
  }
  return batches.flush();
}

}  // namespace

size_t global_norm_scratch_bytes(const ListTensor* tensors, int64_t count) {
  int64_t sums = 0;
  for (int64_t i = 0; i < count; ++i)
    sums += chunks(tensors[i].layout.rows * tensors[i].columns, kListChunk);
  return static_cast<size_t>(sums) * sizeof(double);
}

cudaError_t global_norm(cudaStream_t stream, const ListTensor* tensors, int64_t count,
                        const GlobalNorm& p) {
  int64_t sums = 0;
  const auto start = [&](const TensorList& list, unsigned blocks) {
    double* const into = p.sums + sums;
    sums += blocks;
    return launch("global_norm_squares", global_norm_squares, blocks, kThreads,
                  sizeof(SquaresShared), stream, list, into);
  };
  Batches<ListRun, kListRuns, decltype(start)> batches(start);
  for (int64_t i = 0; i < count; ++i) {
    const ListTensor& t = tensors[i];
    const int64_t blocks = chunks(t.layout.rows * t.columns, kListChunk);
    if (blocks == 0) continue;
    cudaError_t error = cudaSuccess;
    if (t.layout.rows == 1) {
      error = batches.add({t.data, t.columns, t.type}, blocks);
    } else {
      if (blocks > INT_MAX || t.layout.rank > kMaxLeading) return cudaErrorInvalidValue;
      double* const into = p.sums + sums;
      sums += blocks;
      error =
          launch("global_norm_squares_strided", global_norm_squares_strided,
                 static_cast<unsigned>(blocks), kThreads, sizeof(SquaresShared), stream, t, into);
    }
    if (error != cudaSuccess) return error;
  }
  const cudaError_t error = batches.flush();
  if (error != cudaSuccess) return error;
  return launch("global_norm_finish", global_norm_finish, 1, kNormFinishSums,
                sizeof(SquaresFinishShared), stream, p, sums);
}

cudaError_t unscale(cudaStream_t stream, const ListTensor* tensors, int64_t count,
                    const Unscale& p) {
  cudaError_t error = launch("unscale_begin", unscale_begin, 1, 32, 0, stream, p.found_inf);
  const auto start = [&](const TensorList& list, unsigned blocks) {
    return launch("unscale_chunks", unscale_chunks, blocks, kThreads, 0, stream, list, p);
  };
  Batches<ListRun, kListRuns, decltype(start)> batches(start);
  for (int64_t i = 0; i < count && error == cudaSuccess; ++i) {
    const ListTensor& t = tensors[i];
    const int64_t blocks = chunks(t.layout.rows * t.columns, kListChunk);
    if (blocks == 0) continue;
    if (t.layout.rows == 1) {
      error = batches.add({t.data, t.columns, t.type}, blocks);
    } else {
      if (blocks > INT_MAX || t.layout.rank > kMaxLeading) return cudaErrorInvalidValue;
      error = launch("unscale_strided", unscale_strided, static_cast<unsigned>(blocks), kThreads, 0,
                     stream, t, p);
    }
  }
  return error == cudaSuccess ? batches.flush() : error;
}

cudaError_t adamw(cudaStream_t stream, const AdamWTensor* tensors, int64_t count, const AdamW& p) {
  cudaError_t error = launch("adamw_step", adamw_step, 1, 32, 0, stream, p);
  const auto runs = [&]<typename G, typename C>(G, C, ElementType gradient, ElementType copy) {
    if (error == cudaSuccess)
      error = update_runs<G, C>(stream, tensors, count, gradient, copy, p.scratch);
  };
  using enum ElementType;
  runs(float(), __nv_bfloat16(), kF32, kBf16);
  runs(__nv_bfloat16(), __nv_bfloat16(), kBf16, kBf16);
  runs(__half(), __nv_bfloat16(), kF16, kBf16);
  runs(float(), __half(), kF32, kF16);
  runs(__nv_bfloat16(), __half(), kBf16, kF16);
  runs(__half(), __half(), kF16, kF16);
  for (int64_t i = 0; i < count && error == cudaSuccess; ++i) {
    const AdamWTensor& t = tensors[i];
    const int64_t elements = t.layout.rows * t.columns;
    if (t.layout.rows == 1 || elements == 0) continue;
    if (t.layout.rank > kMaxLeading) return cudaErrorInvalidValue;
    error = launch("adamw_update_strided", adamw_update_strided,
                   static_cast<unsigned>(std::min<int64_t>(chunks(elements, kThreads), INT_MAX)),
                   kThreads, 0, stream, t, p.scratch);
  }
  return error;
}

}  // namespace gatun::kernels
