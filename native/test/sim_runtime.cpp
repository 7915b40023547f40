// The simulated device itself: small kernels, right ones and broken ones. Whatever a broken one
// does, the launch must end with a sentence that names it, and the next launch must be right.
// Usage: sim_runtime [seed]
#include <atomic>
#include <cmath>
#include <cstring>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "sim_testing.h"

namespace {

using namespace gatun::kernels;

struct Shared {
  float value[1024];
  int word[64];
};

// ---- right kernels ----

// Sums 256 values by a tree in shared memory.
__global__ void block_sum(const float* x, float* total) {
  SMEM(Shared, shared);
  const unsigned i = threadIdx.x;
  shared.value[i] = x[blockIdx.x * blockDim.x + i];
  for (unsigned half = blockDim.x / 2; half > 0; half /= 2) {
    __syncthreads();
    if (i < half) shared.value[i] += shared.value[i + half];
  }
  if (i == 0) total[blockIdx.x] = shared.value[0];
}

void right_sum(const char* after) {
  constexpr unsigned kBlocks = 5, kThreads = 256;
  DeviceVector<float> x(kBlocks * kThreads), total(kBlocks, NAN);
  for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i % 97);
  const std::string error = outcome(block_sum, kBlocks, kThreads, sizeof(Shared),
                                    static_cast<const float*>(x.data()), total.data());
  ++checks;
  if (!error.empty()) report("a right kernel after %s: %s", after, error.c_str());
  for (unsigned b = 0; b < kBlocks; ++b) {
    float wanted = 0;
    for (unsigned i = 0; i < kThreads; ++i) wanted += x[b * kThreads + i];
    ++checks;
    if (total[b] != wanted)
      report("block_sum after %s: had %g, wanted %g", after, static_cast<double>(total[b]),
             static_cast<double>(wanted));
  }
}

// A column for each collective, a row for each thread.
constexpr int kCollectives = 9;
__global__ void collectives(int64_t* out) {
  const int i = static_cast<int>(threadIdx.x);
  int64_t* row = out + i * kCollectives;
  row[0] = static_cast<int64_t>(shuffle_xor(static_cast<float>(i), 5));
  row[1] = simt::shuffle_up(~0u, i, 3);
  row[2] = simt::shuffle_down(~0u, int64_t{i} << 40, 2, 8);
  row[3] = simt::shuffle_index(~0u, i, i % 7, 16);
  row[4] = simt::ballot(~0u, i % 3 == 0);
  row[5] = simt::any(~0u, i == 40);
  row[6] = simt::all(~0u, i < 32);
  // the halves of a warp apart, at places and times of their own
  if (i % 32 < 16) {
    row[7] = simt::shuffle_index(0x0000ffffu, i, 3);
  } else {
    simt::sync_warp(0xffff0000u);
    row[7] = simt::shuffle_index(0xffff0000u, i, 20);
  }
  simt::sync_warp();
  row[8] = i;
}

void test_collectives() {
  constexpr unsigned kThreads = 96;
  DeviceVector<int64_t> out(kThreads * kCollectives, -1);
  const std::string error = outcome(collectives, 1, kThreads, 0, out.data());
  ++checks;
  if (!error.empty()) report("collectives: %s", error.c_str());
  for (int i = 0; i < static_cast<int>(kThreads); ++i) {
    const int warp = i / 32 * 32, lane = i % 32;
    int64_t votes = 0;
    for (int other = 0; other < 32; ++other)
      if ((warp + other) % 3 == 0) votes |= int64_t{1} << other;
    const int64_t wanted[kCollectives] = {warp + (lane ^ 5),
                                          lane < 3 ? i : i - 3,
                                          int64_t{lane % 8 < 6 ? i + 2 : i} << 40,
                                          i / 16 * 16 + i % 7,
                                          votes,
                                          warp == 32,
                                          warp == 0,
                                          warp + (lane < 16 ? 3 : 20),
                                          i};
    for (int k = 0; k < kCollectives; ++k) {
      ++checks;
      const int64_t had = out[static_cast<size_t>(i * kCollectives + k)];
      if (had != wanted[k])
        report("collective %d of thread %d: had %lld, wanted %lld", k, i,
               static_cast<long long>(had), static_cast<long long>(wanted[k]));
    }
  }
}

// Where a thread is, in a grid and blocks of three dimensions.
__global__ void where_am_i(unsigned* out) {
  const unsigned block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
  const unsigned thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
  simt::atomic_add(&out[block * 60 + thread], 1u + block * 60 + thread);
}

void test_indices() {
  DeviceVector<unsigned> out(24 * 60, 0);
  const std::string error = outcome(where_am_i, dim3(2, 3, 4), dim3(5, 4, 3), 0, out.data());
  ++checks;
  if (!error.empty()) report("where_am_i: %s", error.c_str());
  for (unsigned i = 0; i < out.size(); ++i) EXPECT(out[i] == i + 1);
}

__global__ void add_to_one(float* sum, int* count) {
  simt::atomic_add(sum, 1.f);
  simt::atomic_add(count, 2);
}

void test_atomics() {
  DeviceVector<float> sum(1, 0.f);
  DeviceVector<int> count(1, 0);
  EXPECT(outcome(add_to_one, 100, 64, 0, sum.data(), count.data()).empty());
  EXPECT(sum[0] == 6400.f && count[0] == 12800);
}

// Two warps meet at barrier 1 while two others meet at barrier 2.
__global__ void named_barriers(int* out) {
  SMEM(Shared, shared);
  const int pair = static_cast<int>(threadIdx.x) / 64;
  if (threadIdx.x % 4 == 0) shared.word[threadIdx.x / 4] = static_cast<int>(threadIdx.x) / 4;
  simt::barrier(1 + pair, 64, simt::Where::here());
  out[threadIdx.x] = shared.word[pair * 16 + 15 - static_cast<int>(threadIdx.x) % 64 / 4];
}

void test_named_barriers() {
  DeviceVector<int> out(128, -1);
  EXPECT(outcome(named_barriers, 1, 128, sizeof(Shared), out.data()).empty());
  for (int i = 0; i < 128; ++i)
    EXPECT(out[static_cast<size_t>(i)] == i / 64 * 16 + 15 - i % 64 / 4);
}

// ---- broken kernels ----

__global__ void missing_barrier(float* out) {
  SMEM(Shared, shared);
  shared.value[threadIdx.x] = 1.f;
  out[threadIdx.x] = shared.value[(threadIdx.x + 32) % 64] + shared.value[63 - threadIdx.x];
}
__global__ void unwritten_shared(float* out) {
  SMEM(Shared, shared);
  out[threadIdx.x] = shared.value[threadIdx.x];
}

void test_poison() {
  DeviceVector<float> out(64, 0.f);
  EXPECT(outcome(missing_barrier, 1, 64, sizeof(Shared), out.data()).empty());
  bool found = false;
  for (float x : out) found = found || std::isnan(x);
  EXPECT(found);
  EXPECT(outcome(unwritten_shared, 1, 64, sizeof(Shared), out.data()).empty());
  for (float x : out) EXPECT(std::isnan(x));
}

__global__ void divergent_shuffle(float* out) {
  if (threadIdx.x % 2 == 0) {
    out[threadIdx.x] = shuffle_xor(1.f, 1);
  } else {
    out[threadIdx.x] = shuffle_xor(2.f, 1);
  }
}
__global__ void other_collective(float* out) {
  if (threadIdx.x == 7)
    out[0] = static_cast<float>(simt::ballot(~0u, true));
  else
    out[0] = shuffle_xor(2.f, 1);
}
__global__ void shuffle_without_all(float* out) {
  if (threadIdx.x != 9) out[threadIdx.x] = shuffle_xor(1.f, 1);
}
__global__ void not_in_own_mask(float*) { simt::sync_warp(0x0000fffeu); }
__global__ void lanes_that_are_not(float* out) { out[0] = shuffle_xor(1.f, 1); }
__global__ void reads_outside_mask(float* out) {
  if (threadIdx.x < 16) out[threadIdx.x] = simt::shuffle_index(0xffffu, 1.f, 20);
}
__global__ void divergent_barrier(float*) {
  if (threadIdx.x < 32) {
    __syncthreads();
  } else {
    __syncthreads();
  }
}
__global__ void barrier_for_some(float*) {
  if (threadIdx.x != 33) __syncthreads();
}
__global__ void barrier_against_shuffle(float* out) {
  if (threadIdx.x % 32 == 5) __syncthreads();
  out[threadIdx.x] = shuffle_xor(1.f, 1);
}
__global__ void lonely_barrier(float*) {
  if (threadIdx.x < 32) simt::barrier(3, 64, simt::Where::here());
}
__global__ void barrier_counts(float*) {
  simt::barrier(3, threadIdx.x < 32 ? 64 : 96, simt::Where::here());
}
__global__ void too_far(float* out) { st128(out + 64, {}); }
__global__ void across_the_end(float* out) { st128(out + 60, {}); }
__global__ void misaligned(float* out) { st128(out + 1, ld128(out)); }
__global__ void host_memory(float* out) {
  uint4 mine = {};
  st128(out, ld128(&mine));
}
__global__ void scalar_past_the_end(float* out) { out[62 + threadIdx.x] = 1.f; }
__global__ void scalar_at_the_end_of_the_page(float* out) { out[(4096 - 256) / 4 - 1] = 1.f; }
__global__ void scalar_before_the_start(float* out) { out[-1] = 1.f; }
__global__ void wild_write(float* out) {
  out[threadIdx.x] = shuffle_xor(1.f, 1);
  if (threadIdx.x == 3) *reinterpret_cast<volatile int*>(uintptr_t{8192}) = 1;
}
__global__ void wild_jump(float* out) {
  reinterpret_cast<void (*)(float*)>(uintptr_t{4096 + threadIdx.x})(out);
}
__global__ void division_by_zero(float* out, int zero) {
  out[0] = static_cast<float>(static_cast<int>(threadIdx.x) / zero);
}
__attribute__((noinline)) int deep(volatile char* before, int depth) {
  volatile char frame[512];
  frame[0] = static_cast<char>(depth);
  return depth == 0 ? frame[0] + before[0] : deep(frame, depth - 1) + frame[0];
}
__global__ void endless_recursion(float* out) {
  volatile char start = 1;
  if (threadIdx.x == 37) out[0] = static_cast<float>(deep(&start, 1 << 20));
}
__global__ void huge_frame(float* out) {
  volatile char frame[1 << 20];
  for (size_t i = 0; i < sizeof frame; i += 999) frame[i] = 1;
  out[0] = static_cast<float>(frame[out[0] > 0 ? 1 : 0]);
}
__global__ void throwing(float*) {
  if (threadIdx.x == 2) throw std::runtime_error("thrown in a kernel");
}
__global__ void throwing_a_number(float*) { throw 7; }
__global__ void past_shared(float*) {
  SMEM(Shared, shared);
  if (threadIdx.x == 0) {
    volatile int* words = shared.word;
    words[64] = 1;
  }
}
__global__ void much_shared(float* out) {
  SMEM(Shared, shared);
  out[0] = shared.value[0];
}

struct Broken {
  const char* name;
  void (*kernel)(float*);
  unsigned threads;
  size_t shared_bytes;
  std::vector<const char*> wanted;  // in the sentence
};

void test_broken() {
  const Broken all[] = {
      {"divergent shuffle",
       divergent_shuffle,
       32,
       0,
       {"shuffle_xor", "while lanes", "sim_runtime.cpp:"}},
      {"other collective", other_collective, 32, 0, {"ballot", "shuffle_xor", "sim_runtime.cpp:"}},
      {"shuffle without all", shuffle_without_all, 32, 0, {"the kernel", "shuffle_xor"}},
      {"not in own mask", not_in_own_mask, 32, 0, {"lacks the calling lane"}},
      {"lanes that are not", lanes_that_are_not, 20, 0, {"000fffff"}},
      {"reads outside mask", reads_outside_mask, 32, 0, {"lane 20", "takes no part"}},
      {"divergent barrier", divergent_barrier, 64, 0, {"__syncthreads", "another one"}},
      {"barrier for some", barrier_for_some, 64, 0, {"__syncthreads", "the kernel"}},
      {"barrier against shuffle", barrier_against_shuffle, 64, 0, {"barrier", "await"}},
      {"lonely barrier",
       lonely_barrier,
       64,
       0,
       {"DEADLOCK", "32 of 64 threads at barrier 3", "sim_runtime.cpp:"}},
      {"barrier counts", barrier_counts, 128, 0, {"barrier 3"}},
      {"too far", too_far, 32, 0, {"16-byte store", "byte 256 of an allocation of 248 bytes"}},
      {"across the end",
       across_the_end,
       32,
       0,
       {"16-byte store", "byte 240 of an allocation of 248 bytes"}},
      {"misaligned", misaligned, 32, 0, {"not aligned to 16", "sim_runtime.cpp:"}},
      {"host memory", host_memory, 32, 0, {"not device memory"}},
      {"scalar past the end",
       scalar_past_the_end,
       32,
       0,
       {"wrote byte 248 of an allocation of 248 bytes, the first of 128 changed behind it"}},
      {"scalar at the end of the page",
       scalar_at_the_end_of_the_page,
       32,
       0,
       {"wrote byte 3836 of an allocation of 248 bytes, the first of 4 changed behind it"}},
      {"scalar before the start",
       scalar_before_the_start,
       32,
       0,
       {"wrote byte -4 of an allocation of 248 bytes, the first of 4 changed before it"}},
      {"wild write",
       wild_write,
       32,
       0,
       {"SIGSEGV at address 0x2000", "thread (3,0,0)", "sim_runtime.cpp:"}},
      {"wild jump", wild_jump, 32, 0, {"SIGSEGV"}},
      {"endless recursion",
       endless_recursion,
       64,
       0,
       {"STACK OVERFLOW", "thread (37,0,0) (warp 1 lane 5)"}},
      {"huge frame", huge_frame, 64, 0, {"STACK OVERFLOW"}},
      {"exception", throwing, 32, 0, {"thrown in a kernel", "thread (2,0,0)"}},
      {"exception of no class", throwing_a_number, 32, 0, {"unknown exception"}},
      {"past shared memory", past_shared, 32, sizeof(Shared), {"byte 0 behind its 4352 bytes"}},
      {"too little shared memory", much_shared, 32, 100, {"needs 4352 bytes", "launched with 100"}},
      {"more shared memory than said",
       much_shared,
       32,
       sizeof(Shared) + 16,
       {"launched with 4368 bytes", "uses 4352"}},
      {"too many threads", much_shared, 2048, sizeof(Shared), {"invalid configuration"}},
      {"too much shared memory", much_shared, 32, 1 << 20, {"invalid configuration"}},
  };
  for (const Broken& broken : all) {
    if (kAddressSanitizer &&
        (contains(broken.wanted[0], "wrote byte") || contains(broken.wanted[0], "behind its")))
      continue;
    DeviceVector<float> out(62, 0.f);
    const std::string had =
        outcome(broken.kernel, 3, broken.threads, broken.shared_bytes, out.data());
    for (const char* part : broken.wanted) {
      ++checks;
      if (!contains(had, part)) report("%s: \"%s\" lacks \"%s\"", broken.name, had.c_str(), part);
    }
    ++checks;
    if (!contains(had, "kernel test_kernel") && !contains(had, "invalid configuration"))
      report("%s: \"%s\" does not name the kernel", broken.name, had.c_str());
    right_sum(broken.name);
  }
  if (kAddressSanitizer) return;  // its companion ends the process
  DeviceVector<float> out(64, 0.f);
  const std::string had = outcome(division_by_zero, 1, 32, 0, out.data(), 0);
  ++checks;
  if (!contains(had, "SIGFPE")) report("division by zero: \"%s\"", had.c_str());
  right_sum("division by zero");
}

// ---- streams ----

__global__ void plus_one(float* x, int count) {
  for (int i = static_cast<int>(threadIdx.x); i < count; i += static_cast<int>(blockDim.x))
    x[i] += 1.f;
}

void test_streams() {
  constexpr int kCount = 100;
  constexpr size_t kBytes = kCount * sizeof(float);
  cudaStream_t first, second;
  cudaEvent_t written;
  EXPECT(cudaStreamCreateWithFlags(&first, cudaStreamNonBlocking) == cudaSuccess);
  EXPECT(cudaStreamCreateWithFlags(&second, cudaStreamNonBlocking) == cudaSuccess);
  EXPECT(cudaEventCreate(&written) == cudaSuccess);
  void* memory = nullptr;
  EXPECT(cudaMallocFromPoolAsync(&memory, kBytes, nullptr, first) == cudaSuccess);
  float* device = static_cast<float*>(memory);
  EXPECT(std::isnan(device[0]) && std::isnan(device[kCount - 1]));  // fresh memory is poison
  std::vector<float> source(kCount, 41.f), destination(kCount, 0.f);

  for (int waits = 0; waits < 2; ++waits) {
    int wrong = 0;
    for (int i = 0; i < 40; ++i) {
      simt::set_options({simt::Order::kRandom, seed + static_cast<uint64_t>(i)});
      EXPECT(cudaMemsetAsync(device, 0, kBytes, first) == cudaSuccess);
      EXPECT(cudaStreamSynchronize(first) == cudaSuccess);
      EXPECT(cudaMemcpyAsync(device, source.data(), kBytes, cudaMemcpyHostToDevice, first) ==
             cudaSuccess);
      source.assign(kCount, 7.f);  // it was staged
      EXPECT(launch("plus_one", plus_one, 1, 64, 0, first, device, kCount) == cudaSuccess);
      EXPECT(cudaEventRecord(written, first) == cudaSuccess);
      if (waits != 0) EXPECT(cudaStreamWaitEvent(second, written, 0) == cudaSuccess);
      EXPECT(cudaMemcpyAsync(destination.data(), device, kBytes, cudaMemcpyDeviceToHost, second) ==
             cudaSuccess);
      EXPECT(std::isnan(destination[0]) && std::isnan(destination[kCount - 1]));
      EXPECT(cudaStreamSynchronize(second) == cudaSuccess);
      for (float x : destination)
        if (x != 42.f) {
          ++wrong;
          break;
        }
      EXPECT(cudaDeviceSynchronize() == cudaSuccess);
      source.assign(kCount, 41.f);
    }
    ++checks;
    // a missing wait must show, and a present one must help
    if (waits == 0 ? wrong < 4 : wrong != 0)
      report("two streams %s a wait: %d of 40 wrong", waits == 0 ? "without" : "with", wrong);
  }
  EXPECT(cudaMemcpyAsync(device + 1, source.data(), kBytes, cudaMemcpyHostToDevice, first) ==
         cudaErrorInvalidValue);
  EXPECT(cudaFreeAsync(device + 1, first) == cudaErrorInvalidValue);
  EXPECT(cudaFreeAsync(device, first) == cudaSuccess);
  EXPECT(cudaStreamDestroy(first) == cudaSuccess && cudaStreamDestroy(second) == cudaSuccess);
  EXPECT(cudaEventDestroy(written) == cudaSuccess);
  cudaPointerAttributes attributes;
  EXPECT(cudaPointerGetAttributes(&attributes, device) == cudaSuccess &&
         attributes.type == cudaMemoryTypeUnregistered);
}

// A kernel that runs after its memory was freed on another stream.
void test_use_after_free() {
  simt::set_options({simt::Order::kReverse, seed});  // the second stream runs first
  cudaStream_t first, second;
  EXPECT(cudaStreamCreateWithFlags(&first, cudaStreamNonBlocking) == cudaSuccess);
  EXPECT(cudaStreamCreateWithFlags(&second, cudaStreamNonBlocking) == cudaSuccess);
  for (bool copy : {false, true}) {
    void* memory = nullptr;
    EXPECT(cudaMallocFromPoolAsync(&memory, 1000, nullptr, first) == cudaSuccess);
    if (copy)
      EXPECT(cudaMemsetAsync(memory, 0, 1000, first) == cudaSuccess);
    else
      EXPECT(launch("plus_one", plus_one, 1, 64, 0, first, static_cast<float*>(memory), 250) ==
             cudaSuccess);
    EXPECT(cudaFreeAsync(memory, second) == cudaSuccess);
    EXPECT(cudaStreamSynchronize(second) == cudaSuccess);
    EXPECT(cudaStreamSynchronize(first) == cudaErrorLaunchFailure);
    const std::string had = cudaGetErrorString(cudaErrorLaunchFailure);
    EXPECT(contains(had, copy ? "freed on another stream" : "SIGSEGV"));
    right_sum("a use after free");
  }
  EXPECT(cudaStreamDestroy(first) == cudaSuccess && cudaStreamDestroy(second) == cudaSuccess);
}

// ---- what CUDA promises of pinned memory and of devices, and no more ----

void test_pinned() {
  simt::set_options({simt::Order::kForward, seed});
  constexpr size_t kBytes = 1000;
  cudaStream_t stream;
  EXPECT(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking) == cudaSuccess);
  void *pinned = nullptr, *device = nullptr;
  EXPECT(cudaHostAlloc(&pinned, kBytes, cudaHostAllocDefault) == cudaSuccess);
  EXPECT(cudaMallocFromPoolAsync(&device, kBytes, nullptr, stream) == cudaSuccess);
  for (bool waits : {false, true}) {
    unsigned char result[kBytes];
    std::memset(pinned, 1, kBytes);
    EXPECT(cudaMemcpyAsync(device, pinned, kBytes, cudaMemcpyHostToDevice, stream) == cudaSuccess);
    if (waits) EXPECT(cudaStreamSynchronize(stream) == cudaSuccess);
    std::memset(pinned, 2, kBytes);
    EXPECT(cudaMemcpyAsync(result, device, kBytes, cudaMemcpyDeviceToHost, stream) == cudaSuccess);
    EXPECT(cudaStreamSynchronize(stream) == cudaSuccess);
    EXPECT(result[kBytes - 1] == (waits ? 1 : 2));  // read when the copy runs
  }
  cudaPointerAttributes attributes;
  const auto is_host = [&](size_t at) {
    EXPECT(cudaPointerGetAttributes(&attributes, static_cast<char*>(pinned) + at) == cudaSuccess);
    return attributes.type == cudaMemoryTypeHost;
  };
  EXPECT(is_host(0) && is_host(kBytes - 1) && !is_host(kBytes));
  EXPECT(cudaFreeHost(static_cast<char*>(pinned) + 1) == cudaErrorInvalidValue);
  EXPECT(cudaFreeHost(pinned) == cudaSuccess);
  EXPECT(cudaFreeAsync(device, stream) == cudaSuccess);
  EXPECT(cudaStreamDestroy(stream) == cudaSuccess);
}

void test_devices() {
  int count = 0;
  EXPECT(cudaGetDeviceCount(&count) == cudaSuccess && count == 2);
  EXPECT(cudaSetDevice(2) == cudaErrorInvalidDevice);
  cudaStream_t stream[2];
  cudaEvent_t event[2];
  void* memory[2];
  for (int d = 0; d < 2; ++d) {
    EXPECT(cudaSetDevice(d) == cudaSuccess);
    EXPECT(cudaStreamCreateWithFlags(&stream[d], cudaStreamNonBlocking) == cudaSuccess);
    EXPECT(cudaEventCreate(&event[d]) == cudaSuccess);
    EXPECT(cudaMallocFromPoolAsync(&memory[d], 1000, nullptr, stream[d]) == cudaSuccess);
    cudaPointerAttributes attributes;
    EXPECT(cudaPointerGetAttributes(&attributes, memory[d]) == cudaSuccess &&
           attributes.device == d);
  }
  // the current device is 1
  EXPECT(launch("plus_one", plus_one, 1, 64, 0, stream[0], static_cast<float*>(memory[0]), 250) ==
         cudaErrorInvalidResourceHandle);
  EXPECT(cudaEventRecord(event[0], stream[1]) == cudaErrorInvalidResourceHandle);
  EXPECT(cudaEventRecord(event[0], stream[0]) == cudaSuccess);
  EXPECT(cudaStreamWaitEvent(stream[1], event[0], 0) == cudaSuccess);
  // a fault is its device's, and so is a wait
  EXPECT(launch("wild_write", wild_write, 1, 32, 0, stream[1], static_cast<float*>(memory[1])) ==
         cudaSuccess);
  EXPECT(cudaSetDevice(0) == cudaSuccess);
  EXPECT(launch("plus_one", plus_one, 1, 64, 0, stream[0], static_cast<float*>(memory[0]), 250) ==
         cudaSuccess);
  EXPECT(cudaDeviceSynchronize() == cudaSuccess);
  EXPECT(cudaStreamSynchronize(stream[1]) == cudaErrorLaunchFailure);
  for (int d = 0; d < 2; ++d) {
    EXPECT(cudaSetDevice(d) == cudaSuccess);
    EXPECT(cudaFreeAsync(memory[d], stream[d]) == cudaSuccess);
    EXPECT(cudaEventDestroy(event[d]) == cudaSuccess);
    EXPECT(cudaStreamDestroy(stream[d]) == cudaSuccess);
  }
  EXPECT(cudaSetDevice(0) == cudaSuccess);
}

// ---- counters ----

// Each thread moves 16 bytes, `step` pieces of 16 bytes apart.
__global__ void move16(const float* x, float* y, int step) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x) * step * 4;
  const uint4 v = ld128(x + i);
  __syncthreads();
  st128(y + i, v);
}

void test_counters() {
  for (int step : {1, 2, 3}) {
    constexpr int kBlocks = 6, kThreads = 64;
    DeviceVector<float> x(static_cast<size_t>(kBlocks * kThreads * step * 4 + 8), 1.f), y = x;
    simt::reset_counters();
    simt::count_memory(true);
    EXPECT(
        outcome(move16, kBlocks, kThreads, 0, static_cast<const float*>(x.data()), y.data(), step)
            .empty());
    simt::count_memory(false);
    const simt::Counters had = simt::counters();
    EXPECT(had.launches == 1 && had.blocks == kBlocks && had.barriers == kBlocks);
    for (const simt::Counters::Global& global : {had.load, had.store}) {
      EXPECT(global.requests == kBlocks * kThreads / 32);
      EXPECT(global.bytes == kBlocks * kThreads * 16);
      // neighbours share a sector; 32 bytes apart or more, each has one of its own
      EXPECT(global.sectors == (step == 1 ? kBlocks * kThreads / 2 : kBlocks * kThreads));
    }
  }
}

// ---- many callers ----

void test_threads() {
  std::vector<std::thread> threads;
  std::atomic<int> wrong{0};
  for (int t = 0; t < 32; ++t)
    threads.emplace_back([t, &wrong] {
      cudaStream_t stream;
      cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
      for (int i = 0; i < 10; ++i) {
        DeviceVector<float> x(200, static_cast<float>(t));
        launch("plus_one", plus_one, 1, 64, 0, stream, x.data(), 200);
        if (cudaStreamSynchronize(stream) != cudaSuccess) ++wrong;
        for (float value : x)
          if (value != static_cast<float>(t + 1)) ++wrong;
      }
      cudaStreamDestroy(stream);
    });
  for (std::thread& thread : threads) thread.join();
  EXPECT(wrong == 0);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc > 1) seed = std::strtoull(argv[1], nullptr, 10);
  in_all_orders([] {
    right_sum("nothing");
    test_collectives();
    test_indices();
    test_atomics();
    test_named_barriers();
    if (!kThreadSanitizer) {
      test_poison();
      test_broken();
    }
    test_counters();
    test_threads();
  });
  test_streams();
  test_use_after_free();
  test_pinned();
  test_devices();
  return summary();
}
