// A GPU's execution model on the host, for kernels compiled by the host's compiler: what ptx.cuh
// and launch.cuh use under g++, and what tests ask of a run.
//
// A thread of a block is a fibre. Lanes run one at a time until they meet at a warp collective or a
// barrier; the last one to arrive does the exchange for all. Whatever would be undefined on a GPU
// (lanes that disagree, a barrier that some threads never reach, an address outside of device
// memory, a fault) ends the launch with a sentence that names kernel, block, thread and line.
#pragma once

#include <cuda_runtime_api.h>

#include <bit>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <new>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "sanitizer.h"

#define __global__ static
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__

#define threadIdx (simt::current->thread)
#define blockIdx (simt::current->block->index)
#define blockDim (simt::current->block->shape)
#define gridDim (simt::current->block->grid)
#define __syncthreads() simt::barrier(0, 0, simt::Where::here())

namespace simt {

// A place in a kernel's source; as a default argument, that of the caller.
struct Where {
  const char* file = "";
  int line = 0;
  static constexpr Where here(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    return {file, line};
  }
};

// What memory is asked for through ptx.cuh: by loads and stores of global memory, of shared memory,
// by ldmatrix, by both sides of cp.async.
enum class Access {
  kLoad,
  kStore,
  kAtomic,
  kCopyLoad,
  kSharedLoad,
  kSharedStore,
  kMatrix,
  kCopyStore
};
constexpr int kAccesses = 8;

// ---- the thread that runs ----

struct Worker;

// What the threads of a block share.
struct BlockState {
  uint3 index;
  dim3 grid;
  dim3 shape;
  unsigned char* shared;
  size_t shared_bytes;
  Worker* worker;
};

struct Fibre {
  void* stack_pointer;
  sanitizer::Side side;
  BlockState* block;
  uint3 thread;
  unsigned number;            // in its block
  unsigned epoch;             // of the next two, which begin anew after each meeting of the warp
  unsigned noted[kAccesses];  // requests that it took part in
  unsigned after[kAccesses];  // the last of them
  unsigned groups;            // of cp_async that it has committed
  Where where;                // where it last asked something of this runtime
};

// Null on a thread that runs no kernel. Initial-exec: a signal handler reads it.
extern __thread Fibre* current __attribute__((tls_model("initial-exec")));

// ---- what a kernel asks for ----

// Ends the launch with this sentence.
[[noreturn]] void fail_kernel(const char* format, ...) __attribute__((format(printf, 1, 2)));

// `count` threads meet at barrier `id`; 0: all of the block.
void barrier(int id, unsigned count, Where where);

// A lane's part in a warp collective.
struct Operand {
  uint64_t value = 0;
  int argument = 0;
  int width = 32;
  uint64_t result = 0;
};
using Exchange = void (*)(Operand* const (&lanes)[32], uint32_t mask);
void collective(const char* op, Exchange exchange, uint32_t mask, Operand& operand, Where where);

void exchange_xor(Operand* const (&lanes)[32], uint32_t mask);
void exchange_up(Operand* const (&lanes)[32], uint32_t mask);
void exchange_down(Operand* const (&lanes)[32], uint32_t mask);
void exchange_index(Operand* const (&lanes)[32], uint32_t mask);
void exchange_ballot(Operand* const (&lanes)[32], uint32_t mask);
void exchange_nothing(Operand* const (&lanes)[32], uint32_t mask);

constexpr uint32_t kWholeWarp = 0xffffffffu;

template <typename T>
T shuffle(const char* op, Exchange exchange, uint32_t mask, T value, int argument, int width,
          Where where) {
  static_assert(std::is_trivially_copyable_v<T> && (sizeof(T) == 4 || sizeof(T) == 8));
  using Bits = std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>;
  Operand operand;
  operand.value = std::bit_cast<Bits>(value);
  operand.argument = argument;
  operand.width = width;
  collective(op, exchange, mask, operand, where);
  return std::bit_cast<T>(static_cast<Bits>(operand.result));
}
template <typename T>
T shuffle_xor(T value, int lanes, Where where = Where::here()) {
  return shuffle("shuffle_xor", exchange_xor, kWholeWarp, value, lanes, 32, where);
}
template <typename T>
T shuffle_up(uint32_t mask, T value, int by, int width = 32, Where where = Where::here()) {
  return shuffle("shuffle_up", exchange_up, mask, value, by, width, where);
}
template <typename T>
T shuffle_down(uint32_t mask, T value, int by, int width = 32, Where where = Where::here()) {
  return shuffle("shuffle_down", exchange_down, mask, value, by, width, where);
}
template <typename T>
T shuffle_index(uint32_t mask, T value, int lane, int width = 32, Where where = Where::here()) {
  return shuffle("shuffle", exchange_index, mask, value, lane, width, where);
}
inline uint32_t ballot(uint32_t mask, bool vote, Where where = Where::here()) {
  Operand operand;
  operand.value = vote;
  collective("ballot", exchange_ballot, mask, operand, where);
  return static_cast<uint32_t>(operand.result);
}
inline bool any(uint32_t mask, bool vote, Where where = Where::here()) {
  return ballot(mask, vote, where) != 0;
}
inline bool all(uint32_t mask, bool vote, Where where = Where::here()) {
  return ballot(mask, vote, where) == mask;
}
inline void sync_warp(uint32_t mask = kWholeWarp, Where where = Where::here()) {
  Operand operand;
  collective("sync_warp", exchange_nothing, mask, operand, where);
}

// `bytes` of global memory, at an address aligned to them, are about to be read or written.
void check_global(const void* address, size_t bytes, Access access, Where where);

template <typename T>
T atomic_add(T* address, T value, Where where = Where::here()) {
  check_global(address, sizeof(T), Access::kAtomic, where);
  if constexpr (std::is_integral_v<T>) {
    return __atomic_fetch_add(address, value, __ATOMIC_RELAXED);
  } else {
    T old, sum;
    __atomic_load(address, &old, __ATOMIC_RELAXED);
    do sum = old + value;
    while (
        !__atomic_compare_exchange(address, &old, &sum, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
    return old;
  }
}

// Addresses of shared memory are offsets in the block's.
uint32_t shared_address(const void* p, Where where);
// The same for `bytes` of shared memory; gives the host's address of them.
void* check_shared(uint32_t address, size_t bytes, Access access, Where where);

// `size` bytes at the shared address become the `bytes` first of `global` and zeros, but only when
// the thread waits for the group; until then they are 0xFF.
void cp_async(uint32_t address, const void* global, int size, int bytes, Where where);
void cp_async_commit();
void cp_async_wait(unsigned pending);

// Four (or two) 8 x 8 matrices of 16-bit elements, row i % 8 of matrix i / 8 from lane i: lane l
// gets elements 2 (l % 4) and the next one of row l / 4, or of column l / 4.
void exchange_matrices(uint32_t* r, int count, bool transposed, const uint4& row, Where where);

// d += a b, 16 x 8 += 16 x 16 times 16 x 8, in PTX's layout of m16n8k16; sums in f32.
enum class Multiplicand { kBf16, kF16 };
void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], Multiplicand type,
                  Where where);

// The block's dynamic shared memory, all bytes 0xFF (NaN, -1) at its start; of a launch with `most`
// bytes of it at most.
template <typename T>
T& shared(size_t most) {
  const BlockState& block = *current->block;
  if (sizeof(T) > block.shared_bytes)
    fail_kernel("it needs %zu bytes of shared memory and was launched with %zu", sizeof(T),
                block.shared_bytes);
  if (block.shared_bytes > most)
    fail_kernel("it was launched with %zu bytes of shared memory and says that it uses %zu",
                block.shared_bytes, most);
  static_assert(alignof(T) <= 1024);
  return *reinterpret_cast<T*>(block.shared);
}

// ---- launch ----

// Enqueues the kernel. It runs when somebody waits for the stream.
cudaError_t launch(cudaStream_t stream, dim3 grid, dim3 block, size_t shared_bytes,
                   std::function<void()> kernel);

// ---- for tests and for the device ----

// Which of several threads that may run does so: the first, the last, any. The random order also
// draws the order of blocks and of streams.
enum class Order { kForward, kReverse, kRandom };

struct Options {
  Order order;
  uint64_t seed;
};
// From the environment: GATUN_SIM_ORDER=forward (default), reverse or random, GATUN_SIM_SEED=n.
Options options();
void set_options(const Options& options);

// What the kernels did. A request is one instruction of a warp; sectors are the 32-byte pieces of
// global memory that it touches. Shared memory serves 8 lanes of 16 bytes, 16 of 8 or 32 of 4 in
// one wavefront, if no two of them want different words of one of the 32 banks; `phases` counts the
// wavefronts that there would be without such conflicts.
struct Counters {
  int64_t launches, blocks, barriers, collectives, mma;
  struct Global {
    int64_t requests, bytes, sectors;
  } load, store, atomic, copy_load;
  struct Shared {
    int64_t requests, bytes, wavefronts, phases;
  } shared_load, shared_store, matrix, copy_store;
  // Bytes of global memory that a launch read, and wrote, at least once; of all launches.
  int64_t distinct_read, distinct_written;
};
// Accesses to memory are counted only while this is on (as from the start, where GATUN_SIM_COUNTERS
// is set and not 0); the rest always.
void count_memory(bool on);
Counters counters();
// The same for each launch name, sorted.
std::vector<std::pair<std::string, Counters>> kernel_counters();
void reset_counters();

// Device memory, all bytes 0xFF, with canaries around; null when the host has no more.
void* allocate(size_t bytes);
// The same with zeros, of which only the pages that are touched take memory of the host: for
// offsets beyond 2^31 elements.
void* allocate_sparse(size_t bytes);
// False if it is not the start of an allocation.
bool release(void* address);

// A std::vector with this allocator lives in device memory.
template <typename T>
struct DeviceAllocator {
  using value_type = T;
  DeviceAllocator() = default;
  template <typename U>
  DeviceAllocator(const DeviceAllocator<U>&) {}
  T* allocate(size_t count) {
    void* address = simt::allocate(count * sizeof(T));
    if (address == nullptr) throw std::bad_alloc();
    return static_cast<T*>(address);
  }
  void deallocate(T* address, size_t) { release(address); }
  bool operator==(const DeviceAllocator&) const = default;
};

// ---- between the sources of this folder ----

struct Range {
  uintptr_t first, last;  // bytes first … last - 1
};

// The live allocation that holds the byte; {0, 0}: none.
Range allocation_of(const void* address);
// All of them, sorted; for a launch.
std::vector<Range> allocations();
// The first allocation whose canaries were overwritten, as a sentence (once); empty if none.
std::string damage();
int64_t allocated_bytes();

struct Launch {
  const char* kernel;
  dim3 grid, block;
  size_t shared_bytes;
  std::function<void()> body;
};
// Runs all blocks on the workers and waits. The sentence of what went wrong, or "".
std::string run(const Launch& launch, const Options& options);

}  // namespace simt
