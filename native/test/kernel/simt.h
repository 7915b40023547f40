// Just enough of a GPU to check a kernel on the host: a fibre a thread, a block at a time, on the
// calling thread. Shared memory is poisoned (NaN) before each block; threads run in an order drawn
// from a seed; a barrier or shuffle that some thread never reaches is reported instead of waited
// for.
#pragma once

#include <cuda_runtime.h>
#include <ucontext.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <vector>

#undef __global__
#undef __device__
#undef __forceinline__
#undef __launch_bounds__
#undef __grid_constant__
#define __global__ static
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__

#define threadIdx (simt::running()->thread)
#define blockIdx (simt::block_index)
#define gridDim (simt::grid_size)
#define __syncthreads() simt::barrier()

namespace simt {

enum class State { kReady, kShuffle, kBarrier, kDone };

struct Fibre {
  ucontext_t context;
  std::unique_ptr<char[]> stack;
  uint3 thread;
  State state;
  float value;
  int mask;
};

inline uint3 block_index;
inline dim3 grid_size;
inline std::mt19937 order(1);
inline Fibre* current = nullptr;
inline ucontext_t scheduler;
inline std::vector<std::unique_ptr<Fibre>> fibres;  // kept: their stacks are reused
inline std::vector<unsigned char> shared_memory;
inline size_t shared_size;
inline const std::function<void()>* body;

inline Fibre* running() { return current; }

[[noreturn]] inline void die(const char* what) {
  std::fprintf(stderr, "simt: %s (block %u,%u, thread %u)\n", what, block_index.x, block_index.y,
               current == nullptr ? 0 : current->thread.x);
  std::_Exit(1);
}

inline void wait_as(State state) {
  current->state = state;
  swapcontext(&current->context, &scheduler);
}

inline void barrier() { wait_as(State::kBarrier); }

inline float shuffle_xor(float value, int mask) {
  current->value = value;
  current->mask = mask;
  wait_as(State::kShuffle);
  return current->value;
}

inline void check_aligned(const void* address, size_t bytes) {
  if (reinterpret_cast<uintptr_t>(address) % bytes != 0) die("misaligned access");
}

template <typename T>
T& shared() {
  if (sizeof(T) > shared_size) die("launched with too little shared memory");
  return *reinterpret_cast<T*>(shared_memory.data());
}

inline void start() {
  (*body)();
  wait_as(State::kDone);
}

// Lets the waiting lanes of a warp exchange, if all 32 have arrived.
inline bool exchange(std::vector<Fibre*>& threads, size_t first) {
  float values[32];
  for (size_t i = 0; i < 32; ++i) {
    const Fibre& lane = *threads[first + i];
    if (lane.state != State::kShuffle) return false;
    if (lane.mask != threads[first]->mask) die("lanes of a warp shuffle with different masks");
    values[i] = lane.value;
  }
  for (size_t i = 0; i < 32; ++i) {
    threads[first + i]->value = values[i ^ static_cast<size_t>(threads[first]->mask)];
    threads[first + i]->state = State::kReady;
  }
  return true;
}

inline void run_block(unsigned count) {
  std::memset(shared_memory.data(), 0xff, shared_memory.size());
  constexpr size_t kStack = 64 << 10;
  while (fibres.size() < count) {
    fibres.push_back(std::make_unique<Fibre>());
    fibres.back()->stack = std::make_unique<char[]>(kStack);
  }
  std::vector<Fibre*> threads(count), queue(count);
  for (unsigned i = 0; i < count; ++i) {
    Fibre& fibre = *fibres[i];
    getcontext(&fibre.context);
    fibre.context.uc_stack.ss_sp = fibre.stack.get();
    fibre.context.uc_stack.ss_size = kStack;
    fibre.context.uc_link = nullptr;
    makecontext(&fibre.context, &start, 0);
    fibre.thread = {i, 0, 0};
    fibre.state = State::kReady;
    threads[i] = queue[i] = &fibre;
  }
  while (true) {
    std::shuffle(queue.begin(), queue.end(), order);
    bool progress = false;
    size_t done = 0, at_barrier = 0;
    for (Fibre* fibre : queue) {
      if (fibre->state == State::kReady) {
        progress = true;
        current = fibre;
        swapcontext(&scheduler, &fibre->context);
        current = nullptr;
      }
      done += fibre->state == State::kDone;
      at_barrier += fibre->state == State::kBarrier;
    }
    if (done == count) return;
    for (size_t first = 0; first + 32 <= count; first += 32)
      if (exchange(threads, first)) progress = true;
    if (at_barrier > 0 && at_barrier + done == count) {
      for (Fibre* fibre : threads)
        if (fibre->state == State::kBarrier) fibre->state = State::kReady;
      progress = true;
    }
    if (!progress) die("deadlock: threads wait for others that never come");
  }
}

inline cudaError_t launch(cudaStream_t, dim3 grid, dim3 block, size_t shared_bytes,
                          const std::function<void()>& kernel) {
  if (block.x % 32 != 0 || block.y != 1 || block.z != 1) die("a block is whole warps along x");
  body = &kernel;
  grid_size = grid;
  shared_size = shared_bytes;
  shared_memory.resize(shared_bytes + 64);
  for (unsigned y = 0; y < grid.y; ++y)
    for (unsigned x = 0; x < grid.x; ++x) {
      block_index = {x, y, 0};
      run_block(block.x);
      for (size_t i = shared_bytes; i < shared_memory.size(); ++i)
        if (shared_memory[i] != 0xff) die("a write beyond shared memory");
    }
  return cudaSuccess;
}

}  // namespace simt
