// Small kernels, each broken in one way, and what must notice: the plain simulator (an error with
// its sentence, or a wrong result by poison), AddressSanitizer with UndefinedBehaviorSanitizer, or
// ThreadSanitizer. This program is built three times; each build runs every kernel in a process of
// its own and compares with its column of the table. No kernel may pass all three.
// Usage: sim_broken [case]
#include <sys/wait.h>
#include <unistd.h>

#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "sim_testing.h"

namespace {

using namespace gatun::kernels;

constexpr int kThreads = 64;
constexpr int kBlocks = 4;
constexpr int kValues = 1024;  // of `out`; the right result is 1 in each of its first kThreads

struct Shared {
  float value[256];
  int word[64];
  float after[64];
};

struct Twice {
  Shared first, second;
};

__device__ int lane() { return static_cast<int>(threadIdx.x); }

// The result; of one block only, or they would race.
__device__ void put(float* out, float value) {
  if (blockIdx.x == 0) out[lane()] = value;
}

// ---- barriers and shuffles ----

__global__ void missing_barrier(float* out) {
  SMEM(Shared, s);
  s.value[lane()] = 1.f;
  put(out, s.value[kThreads - 1 - lane()]);
}
__global__ void refill_before_barrier(float* out) {
  SMEM(Shared, s);
  float sum = 0.f;
  for (int round = 0; round < 3; ++round) {
    s.value[lane()] = static_cast<float>(round);
    __syncthreads();
    sum += s.value[kThreads - 1 - lane()];  // and the next round writes while others still read
  }
  put(out, sum - 2.f);
}
__global__ void barrier_for_half(float* out) {
  if (lane() < 32) __syncthreads();
  put(out, 1.f);
}
__global__ void two_barriers(float* out) {
  if (lane() < 32) {
    __syncthreads();
  } else {
    __syncthreads();
  }
  put(out, 1.f);
}
__global__ void return_before_barrier(float* out) {
  put(out, 1.f);
  if (lane() == 63) return;
  __syncthreads();
}
__global__ void named_barrier_for_too_few(float* out) {
  if (lane() < 32) simt::barrier(1, 64, simt::Where::here());
  put(out, 1.f);
}
__global__ void divergent_shuffle(float* out) {
  if (lane() % 2 == 0) {
    put(out, shuffle_xor(1.f, 1));
  } else {
    put(out, shuffle_xor(1.f, 1));
  }
}
__global__ void shuffle_against_ballot(float* out) {
  put(out, lane() == 40 ? static_cast<float>(gatun::kernels::ballot(true)) : shuffle_xor(1.f, 1));
}
__global__ void lane_leaves(float* out) {
  if (lane() == 33) return;
  put(out, shuffle_xor(1.f, 1));
}
__global__ void missing_sync_warp(float* out) {
  SMEM(Shared, s);
  s.value[lane()] = 1.f;
  put(out, s.value[lane() ^ 1]);
}
__global__ void shuffle_as_fence(float* out) {
  SMEM(Shared, s);
  s.value[lane()] = 1.f;
  const float one = shuffle_xor(1.f, 1);
  put(out, s.value[lane() ^ 1] * one);
}
__global__ void barrier_of_another_block(float* out) {
  // waits for its own block and reads what another one wrote
  out[static_cast<int>(blockIdx.x) * kThreads + lane()] = 1.f;
  __syncthreads();
  out[512 + static_cast<int>(blockIdx.x) * kThreads + lane()] =
      out[static_cast<int>(blockIdx.x + 1) % kBlocks * kThreads + lane()];
}

// ---- races ----

__global__ void blocks_add_up(float* out) {
  put(out, 1.f);
  if (lane() == 0) out[700] += 1.f;
}
__global__ void threads_count(float* out) {
  SMEM(Shared, s);
  if (lane() == 0) s.word[0] = 0;
  __syncthreads();
  ++s.word[0];
  __syncthreads();
  put(out, static_cast<float>(s.word[0]) / kThreads);
}

// ---- memory ----

__global__ void past_shared(float* out) {
  SMEM(Shared, s);
  volatile float* end = s.after;
  if (lane() == 63) end[64] = 0.f;
  put(out, 1.f);
}
__global__ void past_a_member(float* out) {
  SMEM(Shared, s);
  s.word[lane() + 1] = 1;
  put(out, 1.f);
}
__global__ void reads_past_the_end(float* out) { put(out, out[kValues + lane()] * 0.f + 1.f); }
__global__ void writes_past_the_end(float* out) {
  put(out, 1.f);
  if (blockIdx.x == 0 && lane() == 7) out[kValues] = 1.f;
}
__global__ void writes_far_past_the_end(float* out) {
  put(out, 1.f);
  if (blockIdx.x == 0 && lane() == 7) out[kValues + 500] = 1.f;
}
__global__ void vector_past_the_end(float* out) { st128(out + kValues + 4 * lane(), {}); }
__global__ void shared_vector_past_the_end(float*) {
  lds128(static_cast<uint32_t>(sizeof(Shared)));
}
__global__ void misaligned_vector(float* out) { st128(out + 1, ld128(out)); }
__global__ void misaligned_cast(float* out) {
  if (blockIdx.x != 0) return;
  put(out, 1.f);
  if (lane() == 0) *reinterpret_cast<float4*>(out + 801) = {};
}
__global__ void uninitialised_shared(float* out) {
  SMEM(Shared, s);
  put(out, 1.f + 0.f * s.value[lane()]);
}
__global__ void uninitialised_global(float* out) { put(out, 1.f + 0.f * out[512 + lane()]); }
__global__ void offset_of_32_bits(float* out) {
  const int rows = 50000 + static_cast<int>(blockIdx.x);
  const int offset = rows * (50000 + lane());
  put(out, offset != 1 ? 1.f : 0.f);
}
__global__ void wild_write(float* out) {
  if (lane() == 3) *reinterpret_cast<volatile int*>(uintptr_t{8192}) = 1;
  put(out, 1.f);
}
__global__ void much_shared(float* out) {
  SMEM(Twice, s);
  put(out, s.second.value[0]);
}
__attribute__((noinline)) int deep(volatile char* before, int depth) {
  volatile char frame[512];
  frame[0] = static_cast<char>(depth);
  return depth == 0 ? frame[0] + before[0] : deep(frame, depth - 1) + frame[0];
}
__global__ void recursion(float* out) {
  volatile char start = 1;
  put(out, static_cast<float>(deep(&start, 1 << 20)));
}

// ---- asynchronous copies, tensor cores ----

enum class Misuse { kNoWait, kNoCommit, kNoBarrier, kWaitOffByOne, kEarlyRefill, kNoLastWait };

// Tiles of ones through two stages of shared memory.
template <Misuse kMisuse>
__global__ void copies(float* out) {
  SMEM(Shared, s);
  constexpr int kTiles = 4;
  const float* x = out + 512;
  const auto copy = [&](int tile) {
    if (tile < kTiles)
      cp_async<4>(shared_address(&s.value[tile % 2 * kThreads + lane()]), x + lane(), 4);
    if (kMisuse != Misuse::kNoCommit) cp_async_commit();
  };
  float sum = 0.f;
  copy(0);
  for (int tile = 0; tile < kTiles; ++tile) {
    copy(tile + 1);
    if (kMisuse == Misuse::kWaitOffByOne)
      cp_async_wait<2>();
    else if (kMisuse != Misuse::kNoWait)
      cp_async_wait<1>();
    if (kMisuse != Misuse::kNoBarrier) __syncthreads();
    sum += s.value[tile % 2 * kThreads + kThreads - 1 - lane()];
    if (kMisuse != Misuse::kEarlyRefill) __syncthreads();
  }
  if (kMisuse == Misuse::kNoLastWait)
    copy(0);
  else
    cp_async_wait<0>();
  put(out, sum / kTiles);
}
__global__ void ldmatrix_for_half(float* out) {
  uint32_t r[4];
  if (lane() < 16) ldmatrix_x4(r, 0);
  put(out, 1.f);
}
__global__ void mma_in_a_branch(float* out) {
  float d[4] = {};
  const uint32_t a[4] = {}, b[2] = {};
  if (lane() % 4 != 0) mma_m16n8k16(d, a, b, __half());
  put(out, 1.f);
}

// ---- the table ----

// What the program of a case prints, or a part of the sanitizer's report.
constexpr const char* kRight = "right";  // unnoticed
constexpr const char* kWrong = "wrong";
constexpr const char* kRace = "data race";
constexpr const char* kAny = "";  // by chance

struct Broken {
  const char* name;
  void (*kernel)(float*);
  const char *plain, *address, *thread;
};
const Broken kAll[] = {
    {"missing barrier", missing_barrier, kWrong, kWrong, kRace},
    {"refill before the barrier", refill_before_barrier, kWrong, kWrong, kRace},
    {"barrier for half", barrier_for_half, "__syncthreads", "__syncthreads", "__syncthreads"},
    {"two barriers", two_barriers, "another one", "another one", "another one"},
    {"return before the barrier", return_before_barrier, "__syncthreads", "__syncthreads",
     "__syncthreads"},
    {"named barrier for too few", named_barrier_for_too_few, "DEADLOCK", "DEADLOCK", "DEADLOCK"},
    {"divergent shuffle", divergent_shuffle, "while lanes", "while lanes", "while lanes"},
    {"shuffle against ballot", shuffle_against_ballot, "ballot", "ballot", "ballot"},
    {"lane leaves", lane_leaves, "shuffle_xor", "shuffle_xor", "shuffle_xor"},
    {"missing sync_warp", missing_sync_warp, kWrong, kWrong, kRace},
    {"shuffle as a fence", shuffle_as_fence, kRight, kRight, kRace},
    {"barrier of another block", barrier_of_another_block, kAny, kAny, kRace},
    {"blocks add up", blocks_add_up, kAny, kAny, kRace},
    {"threads count", threads_count, kAny, kAny, kRace},
    {"past shared memory", past_shared, "byte 0 behind", "use-after-poison", kAny},
    {"past a member", past_a_member, kRight, "index 64 out of bounds", kAny},
    {"reads past the end", reads_past_the_end, kAny, "use-after-poison", kAny},
    {"writes past the end", writes_past_the_end, "wrote byte 4096", "use-after-poison", kAny},
    {"writes far past the end", writes_far_past_the_end, "wrote byte 6096", "use-after-poison",
     kAny},
    {"vector past the end", vector_past_the_end, "byte 4096 of an", "byte 4096 of an",
     "byte 4096 of an"},
    {"shared vector past the end", shared_vector_past_the_end, "of shared memory",
     "of shared memory", "of shared memory"},
    {"misaligned vector", misaligned_vector, "not aligned", "not aligned", "not aligned"},
    {"misaligned cast", misaligned_cast, kAny, "misaligned address", kAny},
    {"uninitialised shared memory", uninitialised_shared, kWrong, kWrong, kWrong},
    {"uninitialised global memory", uninitialised_global, kWrong, kWrong, kWrong},
    {"offset of 32 bits", offset_of_32_bits, kRight, "signed integer overflow", kAny},
    {"wild write", wild_write, "SIGSEGV at address 0x2000", "SIGSEGV", kAny},
    {"too little shared memory", much_shared, "bytes of shared memory and was launched with",
     "was launched with", "was launched with"},
    {"recursion", recursion, "STACK OVERFLOW", "STACK OVERFLOW", "STACK OVERFLOW"},
    {"copy without a wait", copies<Misuse::kNoWait>, kWrong, kWrong, kWrong},
    {"copy without a commit", copies<Misuse::kNoCommit>, "without waiting", "without waiting",
     "without waiting"},
    {"copy without a barrier", copies<Misuse::kNoBarrier>, kWrong, kWrong, kRace},
    {"copy with a wait off by one", copies<Misuse::kWaitOffByOne>, kWrong, kWrong, kWrong},
    {"copy into what is read", copies<Misuse::kEarlyRefill>, kWrong, kWrong, kRace},
    {"copy in flight at the end", copies<Misuse::kNoLastWait>, "without waiting", "without waiting",
     "without waiting"},
    {"ldmatrix for half", ldmatrix_for_half, "ldmatrix_x4", "ldmatrix_x4", "ldmatrix_x4"},
    {"mma in a branch", mma_in_a_branch, "mma f16", "mma f16", "mma f16"},
};

constexpr const char* Broken::*kColumn = kAddressSanitizer  ? &Broken::address
                                         : kThreadSanitizer ? &Broken::thread
                                                            : &Broken::plain;

// Prints what became of the kernel.
void run_case(const Broken& broken) {
  DeviceVector<float> out(kValues);
  std::memset(out.data(), 0xff, kValues * sizeof(float));
  if (std::strncmp(broken.name, "copy", 4) == 0)
    for (int i = 512; i < kValues; ++i) out[static_cast<size_t>(i)] = 1.f;
  const std::string error = outcome(broken.kernel, kBlocks, kThreads, sizeof(Shared), out.data());
  bool right = true;
  for (int i = 0; i < kThreads; ++i) right = right && out[static_cast<size_t>(i)] == 1.f;
  std::printf("%s\n", !error.empty() ? error.c_str() : right ? kRight : kWrong);
}

// The same in a process of its own: all that it says.
std::string run_alone(const char* program, const Broken& broken) {
  int ends[2];
  if (pipe(ends) != 0) return "pipe failed";
  const pid_t child = fork();
  if (child == 0) {
    dup2(ends[1], 1);
    dup2(ends[1], 2);
    close(ends[0]);
    setenv("TSAN_OPTIONS", "halt_on_error=1:history_size=0", 1);
    setenv("ASAN_OPTIONS", "detect_leaks=0", 1);
    execl(program, program, broken.name, static_cast<char*>(nullptr));
    _exit(127);
  }
  close(ends[1]);
  std::string said;
  char part[4096];
  for (ssize_t n; (n = read(ends[0], part, sizeof part)) > 0;)
    said.append(part, static_cast<size_t>(n));
  close(ends[0]);
  waitpid(child, nullptr, 0);
  return said;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc > 1) {
    for (const Broken& broken : kAll)
      if (std::strcmp(broken.name, argv[1]) == 0) {
        run_case(broken);
        return 0;
      }
    std::fprintf(stderr, "no case is called %s\n", argv[1]);
    return 2;
  }
  for (const Broken& broken : kAll) {
    const std::string said = run_alone("/proc/self/exe", broken);
    ++checks;
    if (said.empty() || !contains(said, broken.*kColumn))
      report("%s: wanted \"%s\", had \"%.300s\"", broken.name, broken.*kColumn, said.c_str());
    ++checks;
    const auto notices = [](const char* by) { return by != kRight && by != kAny; };
    if (!notices(broken.plain) && !notices(broken.address) && !notices(broken.thread))
      report("%s: nothing must notice it", broken.name);
  }
  return summary();
}
