// What ptx.cuh offers tensor-core kernels, on the simulated device: layouts against formulas
// written out here, asynchronous copies right and misused, bank conflicts counted. Usage:
// sim_tensor [seed]
#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "sim_testing.h"

namespace {

using namespace gatun::kernels;

struct Shared {
  unsigned short element[4096];
};

unsigned short bits_of(float x, __nv_bfloat16) {
  return static_cast<__nv_bfloat16_raw>(__float2bfloat16_rn(x)).x;
}
unsigned short bits_of(float x, __half) { return static_cast<__half_raw>(__float2half_rn(x)).x; }
float value_of(unsigned short bits, __nv_bfloat16) {
  return __bfloat162float(__nv_bfloat16_raw{bits});
}
float value_of(unsigned short bits, __half) { return __half2float(__half_raw{bits}); }

// ---- ldmatrix ----

// Element e of shared memory holds e; row i of the 32 starts at element 24 (31 - i): rows in no
// order that a wrong lane could share, 48 bytes apart.
__global__ void load_matrices(uint32_t* out) {
  SMEM(Shared, shared);
  const int lane = static_cast<int>(threadIdx.x) % 32;
  for (int i = static_cast<int>(threadIdx.x); i < 1024; i += static_cast<int>(blockDim.x))
    shared.element[i] = static_cast<unsigned short>(i);
  __syncthreads();
  const uint32_t row = shared_address(&shared.element[24 * (31 - lane)]);
  uint32_t x4[4], x4_transposed[4], x2[2], x2_transposed[2];
  ldmatrix_x4(x4, row);
  ldmatrix_x4_transposed(x4_transposed, row);
  // lanes 16 to 31 give addresses that nobody may follow
  ldmatrix_x2(x2, lane < 16 ? row : ~0u);
  ldmatrix_x2_transposed(x2_transposed, lane < 16 ? row : 3u);
  uint32_t* mine = out + threadIdx.x * 12;
  for (int m = 0; m < 4; ++m) {
    st32(mine + m, x4[m]);
    st32(mine + 4 + m, x4_transposed[m]);
  }
  for (int m = 0; m < 2; ++m) {
    st32(mine + 8 + m, x2[m]);
    st32(mine + 10 + m, x2_transposed[m]);
  }
}

void test_ldmatrix() {
  DeviceVector<uint32_t> out(64 * 12, 0);
  const std::string error = outcome(load_matrices, 1, 64, sizeof(Shared), out.data());
  ++checks;
  if (!error.empty()) return report("load_matrices: %s", error.c_str());
  // PTX ISA, ldmatrix: thread l has elements (l / 4, 2 (l % 4)) and the next of each matrix
  const auto element = [](int m, int row, int column) {
    return static_cast<uint32_t>(24 * (31 - (8 * m + row)) + column);
  };
  for (int thread = 0; thread < 64; ++thread)
    for (int m = 0; m < 4; ++m) {
      const int l = thread % 32, g = l / 4, t = l % 4;
      const uint32_t plain = element(m, g, 2 * t) | element(m, g, 2 * t + 1) << 16;
      const uint32_t transposed = element(m, 2 * t, g) | element(m, 2 * t + 1, g) << 16;
      const uint32_t* had = &out[static_cast<size_t>(thread) * 12];
      EXPECT(had[m] == plain);
      EXPECT(had[4 + m] == transposed);
      if (m >= 2) continue;
      EXPECT(had[8 + m] == plain);
      EXPECT(had[10 + m] == transposed);
    }
}

// ---- mma ----

// One warp: d (16 x 8) += a (16 x 16, row-major) b (8 x 16, so k is contiguous), fragments gathered
// element by element, as the PTX ISA numbers them.
template <typename T>
__global__ void multiply(const unsigned short* a, const unsigned short* b, float* d) {
  const int g = static_cast<int>(threadIdx.x) / 4, t = static_cast<int>(threadIdx.x) % 4;
  uint32_t fragment_a[4] = {}, fragment_b[2] = {};
  for (int i = 0; i < 8; ++i) {  // a0 … a7
    const int row = i % 4 < 2 ? g : g + 8;
    const int column = t * 2 + i % 2 + (i >= 4 ? 8 : 0);
    fragment_a[i / 2] |= static_cast<uint32_t>(a[row * 16 + column]) << (16 * (i % 2));
  }
  for (int i = 0; i < 4; ++i) {  // b0 … b3
    const int k = t * 2 + i % 2 + (i >= 2 ? 8 : 0);
    fragment_b[i / 2] |= static_cast<uint32_t>(b[g * 16 + k]) << (16 * (i % 2));
  }
  float c[4];
  for (int i = 0; i < 4; ++i) c[i] = d[(i < 2 ? g : g + 8) * 8 + t * 2 + i % 2];
  mma_m16n8k16(c, fragment_a, fragment_b, T());
  for (int i = 0; i < 4; ++i) d[(i < 2 ? g : g + 8) * 8 + t * 2 + i % 2] = c[i];
}

template <typename T>
void test_mma() {
  std::mt19937 generator(static_cast<unsigned>(seed));
  std::normal_distribution<float> normal;
  DeviceVector<unsigned short> a(16 * 16), b(8 * 16);
  DeviceVector<float> d(16 * 8);
  for (auto& x : a) x = bits_of(normal(generator), T());
  for (auto& x : b) x = bits_of(normal(generator), T());
  for (auto& x : d) x = normal(generator);
  const std::vector<float> before(d.begin(), d.end());
  const std::string error =
      outcome(multiply<T>, 1, 32, 0, static_cast<const unsigned short*>(a.data()),
              static_cast<const unsigned short*>(b.data()), d.data());
  ++checks;
  if (!error.empty()) return report("multiply: %s", error.c_str());
  for (size_t row = 0; row < 16; ++row)
    for (size_t column = 0; column < 8; ++column) {
      double wanted = static_cast<double>(before[row * 8 + column]);
      for (size_t k = 0; k < 16; ++k)
        wanted += static_cast<double>(value_of(a[row * 16 + k], T())) *
                  static_cast<double>(value_of(b[column * 16 + k], T()));
      EXPECT(std::fabs(static_cast<double>(d[row * 8 + column]) - wanted) < 1e-5);
    }
}

// ---- cp.async ----

constexpr int kThreads = 64;
constexpr int kStages = 3;
struct Ring {
  float stage[kStages][kThreads][4];
};

// How a kernel may misuse the copies.
enum class Misuse { kNone, kNoCommit, kNoWait, kWaitOffByOne, kNoBarrier, kEarlyRefill };

// Adds up `count` tiles through a ring of three stages; thread i reads what its neighbours copied.
template <Misuse kMisuse>
__global__ void pipeline(const float* x, float* sums, int count) {
  SMEM(Ring, shared);
  const int thread = static_cast<int>(threadIdx.x);
  const auto copy = [&](int tile) {
    if (tile < count)
      cp_async<16>(shared_address(shared.stage[tile % kStages][thread]),
                   x + (tile * kThreads + thread) * 4, 16);
    if (kMisuse != Misuse::kNoCommit) cp_async_commit();
  };
  for (int tile = 0; tile < kStages - 1; ++tile) copy(tile);
  float sum = 0.f;
  for (int tile = 0; tile < count; ++tile) {
    if (kMisuse == Misuse::kEarlyRefill) copy(tile + kStages - 1);
    if (kMisuse == Misuse::kEarlyRefill)
      cp_async_wait<kStages - 1>();
    else if (kMisuse == Misuse::kWaitOffByOne)
      cp_async_wait<kStages - 1>();
    else if (kMisuse != Misuse::kNoWait)
      cp_async_wait<kStages - 2>();
    if (kMisuse != Misuse::kNoBarrier) __syncthreads();
    if (kMisuse != Misuse::kEarlyRefill) copy(tile + kStages - 1);
    for (int i = 0; i < 4; ++i)
      sum += shared.stage[tile % kStages][(thread + 31 + i) % kThreads][i];
  }
  sums[thread] = sum;
  cp_async_commit();
  cp_async_wait<0>();  // or what is still in flight would be the fault
}

template <Misuse kMisuse>
void test_pipeline(const char* what) {
  constexpr int kTiles = 8;
  DeviceVector<float> x(kTiles * kThreads * 4), sums(kThreads, 0.f);
  for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i % 251);
  const std::string error = outcome(pipeline<kMisuse>, 1, kThreads, sizeof(Ring),
                                    static_cast<const float*>(x.data()), sums.data(), kTiles);
  ++checks;
  if (!error.empty()) return report("%s: %s", what, error.c_str());
  bool nan = false, right = true;
  for (int thread = 0; thread < kThreads; ++thread) {
    float wanted = 0.f;
    for (int tile = 0; tile < kTiles; ++tile)
      for (int i = 0; i < 4; ++i)
        wanted += x[static_cast<size_t>((tile * kThreads + (thread + 31 + i) % kThreads) * 4 + i)];
    const float had = sums[static_cast<size_t>(thread)];
    nan = nan || std::isnan(had);
    right = right && had == wanted;
  }
  ++checks;
  if (kMisuse == Misuse::kNone ? !right : !nan)
    report("%s: %s", what, right ? "right, which it cannot be" : nan ? "NaN" : "wrong");
}

// Thread i copies `i % (kBytes + 1)` bytes and zeros into shared memory that holds something else.
template <int kBytes>
__global__ void ragged(const unsigned char* x, unsigned char* y) {
  SMEM(Shared, shared);
  auto* bytes = reinterpret_cast<unsigned char*>(shared.element);
  const int i = static_cast<int>(threadIdx.x), wanted = i % (kBytes + 1);
  for (int j = 0; j < kBytes; ++j) bytes[i * kBytes + j] = 0x55;
  cp_async<kBytes>(shared_address(bytes + i * kBytes), wanted == 0 ? nullptr : x + i * kBytes,
                   wanted);
  cp_async_commit();
  cp_async_wait<0>();
  for (int j = 0; j < kBytes; ++j) y[i * kBytes + j] = bytes[i * kBytes + j];
}

template <int kBytes>
void test_ragged() {
  constexpr size_t kCount = 64;
  // the last thread's copy ends with the allocation, though its 16 bytes do not
  constexpr size_t kLast = (kCount - 1) % (kBytes + 1);
  DeviceVector<unsigned char> x((kCount - 1) * kBytes + kLast), y(kCount * kBytes);
  for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<unsigned char>(i * 7 + 1);
  const std::string error = outcome(ragged<kBytes>, 1, kCount, sizeof(Shared),
                                    static_cast<const unsigned char*>(x.data()), y.data());
  ++checks;
  if (!error.empty()) return report("ragged: %s", error.c_str());
  for (size_t i = 0; i < kCount; ++i)
    for (size_t j = 0; j < kBytes; ++j)
      EXPECT(y[i * kBytes + j] == (j < i % (kBytes + 1) ? x[i * kBytes + j] : 0));
}

// ---- what is refused ----

__global__ void cp_async_far(float* x) {
  SMEM(Shared, shared);
  cp_async<16>(shared_address(shared.element), x + 64, 16);
}
__global__ void cp_async_ragged_far(float* x) {
  SMEM(Shared, shared);
  cp_async<16>(shared_address(shared.element), x + 60, 9);
}
__global__ void cp_async_skewed(float* x) {
  SMEM(Shared, shared);
  cp_async<16>(shared_address(shared.element), x + 2, 16);
}
__global__ void cp_async_skewed_shared(float* x) {
  SMEM(Shared, shared);
  cp_async<16>(shared_address(shared.element + 4), x, 16);
}
__global__ void cp_async_past_shared(float* x) {
  SMEM(Shared, shared);
  cp_async<8>(shared_address(shared.element + 4096), x, 8);
}
__global__ void cp_async_too_many(float* x) {
  SMEM(Shared, shared);
  cp_async<8>(shared_address(shared.element), x, 9);
}
__global__ void lds_skewed(float*) { lds128(8); }
__global__ void sts_past_shared(float*) { sts64(sizeof(Shared) - 4 + 4, {}); }
__global__ void lds_past_shared(float*) { lds32(1 << 20); }
__global__ void ldmatrix_skewed(float*) {
  uint32_t r[4];
  ldmatrix_x4(r, threadIdx.x == 21 ? 24 : 0);
}
__global__ void ldmatrix_past_shared(float*) {
  uint32_t r[2];
  ldmatrix_x2(r, sizeof(Shared) - 16 + (threadIdx.x == 5 ? 16 : 0));
}
__global__ void ldmatrix_for_some(float*) {
  uint32_t r[2];
  if (threadIdx.x < 16) ldmatrix_x2(r, 0);
}
__global__ void mma_at_two_places(float*) {
  float d[4] = {};
  const uint32_t a[4] = {}, b[2] = {};
  if (threadIdx.x < 16)
    mma_m16n8k16(d, a, b, __half());
  else
    mma_m16n8k16(d, a, b, __half());
}
__global__ void mma_of_two_types(float*) {
  float d[4] = {};
  const uint32_t a[4] = {}, b[2] = {};
  threadIdx.x == 3 ? mma_m16n8k16(d, a, b, __half()) : mma_m16n8k16(d, a, b, __nv_bfloat16());
}
__global__ void address_of_elsewhere(float* x) { lds32(shared_address(x)); }
__global__ void atomic_far(float* x) { atomic_add(x + 64, 1.f); }
__global__ void ld16_skewed(float* x) { ld16(reinterpret_cast<char*>(x) + 1); }
__global__ void st64_far(float* x) { st64(x + 62, {}); }

void test_refused() {
  const struct {
    const char* name;
    void (*kernel)(float*);
    std::vector<const char*> wanted;
  } all[] = {
      {"cp_async far", cp_async_far, {"16-byte cp_async", "byte 256 of an allocation of 248"}},
      {"cp_async of a few bytes far",
       cp_async_ragged_far,
       {"9-byte cp_async", "byte 240 of an allocation of 248"}},
      {"cp_async skewed", cp_async_skewed, {"16-byte cp_async", "is not aligned to 16"}},
      {"cp_async to skewed", cp_async_skewed_shared, {"byte 8 is not aligned to 16"}},
      {"cp_async past shared", cp_async_past_shared, {"byte 8192 of 8192 bytes of shared"}},
      {"cp_async of too many", cp_async_too_many, {"9 of 8 bytes"}},
      {"lds skewed", lds_skewed, {"16-byte load of shared", "byte 8 is not aligned to 16"}},
      {"sts past shared", sts_past_shared, {"8-byte store to shared", "byte 8192 of 8192"}},
      {"lds past shared", lds_past_shared, {"4-byte load of shared", "byte 1048576 of 8192"}},
      {"ldmatrix skewed", ldmatrix_skewed, {"row of ldmatrix", "lane 21", "byte 24 is not"}},
      {"ldmatrix past shared", ldmatrix_past_shared, {"lane 5", "byte 8192 of 8192"}},
      {"ldmatrix for some", ldmatrix_for_some, {"ldmatrix_x2", "the kernel"}},
      {"mma at two places", mma_at_two_places, {"mma f16", "while lanes"}},
      {"mma of two types", mma_of_two_types, {"mma f16", "mma bf16"}},
      {"address of elsewhere", address_of_elsewhere, {"is not in the block's 8192 bytes"}},
      {"atomic far", atomic_far, {"4-byte atomic", "byte 256 of an allocation of 248"}},
      {"ld16 skewed", ld16_skewed, {"2-byte load", "is not aligned to 2"}},
      {"st64 far", st64_far, {"8-byte store", "byte 248 of an allocation of 248"}},
  };
  for (const auto& refused : all) {
    DeviceVector<float> x(62, 0.f);
    const std::string had = outcome(refused.kernel, 2, 32, sizeof(Shared), x.data());
    for (const char* part : refused.wanted) {
      ++checks;
      if (!contains(had, part)) report("%s: \"%s\" lacks \"%s\"", refused.name, had.c_str(), part);
    }
    ++checks;
    if (!contains(had, "kernel test_kernel, block (") || !contains(had, "sim_tensor.cpp:"))
      report("%s: \"%s\" does not say where", refused.name, had.c_str());
  }
}

// ---- lanes and arithmetic ----

constexpr int kLaneValues = 6;
__global__ void lanes(float* out) {
  const int lane = static_cast<int>(threadIdx.x);
  float* mine = out + lane * kLaneValues;
  mine[0] = static_cast<float>(shuffle_xor(static_cast<uint32_t>(lane) << 20, 3) >> 20);
  mine[1] = shuffle(static_cast<float>(lane), (lane + 7) % 32);
  mine[2] = static_cast<float>(shuffle_up(lane, 4));
  mine[3] = shuffle_down(static_cast<float>(lane), 9);
  mine[4] = static_cast<float>(ballot(lane % 3 == 0) >> lane & 1);
  sync_warp();
  mine[5] = out[(31 - lane) * kLaneValues];
}

void test_lanes() {
  DeviceVector<float> out(32 * kLaneValues, -1.f);
  EXPECT(outcome(lanes, 1, 32, 0, out.data()).empty());
  for (int lane = 0; lane < 32; ++lane) {
    const float* had = &out[static_cast<size_t>(lane * kLaneValues)];
    EXPECT(had[0] == static_cast<float>(lane ^ 3));
    EXPECT(had[1] == static_cast<float>((lane + 7) % 32));
    EXPECT(had[2] == static_cast<float>(lane < 4 ? lane : lane - 4));
    EXPECT(had[3] == static_cast<float>(lane < 23 ? lane + 9 : lane));
    EXPECT(had[4] == (lane % 3 == 0 ? 1.f : 0.f));
    EXPECT(had[5] == static_cast<float>((31 - lane) ^ 3));
  }
}

void test_arithmetic() {
  EXPECT(ex2(3.f) == 8.f && ex2(-INFINITY) == 0.f && ex2(-127.f) == 0.f && std::isnan(ex2(NAN)));
  EXPECT(lg2(8.f) == 3.f && lg2(0.f) == -INFINITY && lg2(1e-40f) == -INFINITY);
  EXPECT(std::isnan(lg2(-1.f)) && lg2(INFINITY) == INFINITY);
  EXPECT(rcp(4.f) == 0.25f && rcp(1e-40f) == INFINITY && rcp(-INFINITY) == 0.f);
  EXPECT(rcp(0x1p127f) == 0.f);
}

// ---- counters ----

// 16 rows of `stride` bytes, each row's 16-byte pieces moved by `row % 8` if `swizzled`: all of
// them written by cp.async, 16 x 16 tiles read by ldmatrix, all of it by lds128, lds64 and lds32.
__global__ void tiles(const float* x, float* y, int stride, int swizzled) {
  SMEM(Shared, shared);
  const uint32_t base = shared_address(shared.element);
  const int lane = static_cast<int>(threadIdx.x);
  const auto address = [&](int row, int piece) {
    return base + static_cast<uint32_t>(row * stride + 16 * (swizzled ? piece ^ row % 8 : piece));
  };
  for (int i = lane; i < 16 * 8; i += 32)
    cp_async<16>(address(i / 8, i % 8), x + i * 4, i % 8 == 7 ? 8 : 16);
  cp_async_commit();
  cp_async_wait<0>();
  __syncthreads();
  uint32_t r[4];
  for (int k = 0; k < 4; ++k) ldmatrix_x4(r, address(lane % 16, 2 * k + lane / 16));
  float sum = as_float(r[0]);
  for (int k = 0; k < 8; ++k) sum += as_float(lds128(address(lane % 16, k)).x);
  sum += as_float(lds64(base + static_cast<uint32_t>(8 * lane)).x);
  sum += as_float(lds32(base + static_cast<uint32_t>(stride * (lane % 16))));
  st32(y + lane, as_bits(sum));
}

void test_counters() {
  for (const auto& [stride, swizzled, conflicts] :
       {std::tuple(128, 0, 8), std::tuple(128, 1, 1), std::tuple(144, 0, 1)}) {
    DeviceVector<float> x(512, 1.f), y(32, 0.f);
    simt::reset_counters();
    simt::count_memory(true);
    EXPECT(outcome(tiles, 3, 32, sizeof(Shared), static_cast<const float*>(x.data()), y.data(),
                   stride, swizzled)
               .empty());
    simt::count_memory(false);
    const std::vector<std::pair<std::string, simt::Counters>> all = simt::kernel_counters();
    EXPECT(all.size() == 1 && all[0].first == "test_kernel");
    const simt::Counters had = all[0].second;
    EXPECT(had.launches == 1 && had.blocks == 3 && had.barriers == 3);
    // 4 requests of 32 lanes; of every eighth piece only 8 bytes are read
    EXPECT(had.copy_load.requests == 3 * 4);
    EXPECT(had.copy_load.bytes == 3 * 16 * (7 * 16 + 8));
    EXPECT(had.copy_load.sectors == 3 * 16 * 128 / 32);
    EXPECT(had.copy_store.requests == 3 * 4 && had.copy_store.bytes == 3 * 16 * 128);
    EXPECT(had.copy_store.wavefronts == 3 * 16 && had.copy_store.phases == 3 * 16);
    // rows 128 bytes apart start in the same bank: each phase of eight rows takes eight wavefronts
    EXPECT(had.matrix.requests == 3 * 4 && had.matrix.bytes == 3 * 4 * 512);
    EXPECT(had.matrix.phases == 3 * 16 && had.matrix.wavefronts == 3 * 16 * conflicts);
    // lds128: lanes 16 to 31 read what lanes 0 to 15 read, in phases of their own. lds64: 256
    // bytes in a row. lds32: 16 rows, in one bank, in all 8 pieces of it, or in 8 banks.
    const int column = stride == 144 ? 2 : 16;
    EXPECT(had.shared_load.requests == 3 * 10);
    EXPECT(had.shared_load.phases == 3 * (8 * 4 + 2 + 1));
    EXPECT(had.shared_load.wavefronts == 3 * (8 * 4 * conflicts + 2 + column));
    EXPECT(had.store.requests == 3 && had.store.bytes == 3 * 128 && had.store.sectors == 3 * 4);
    EXPECT(had.load.requests == 0 && had.shared_store.requests == 0 && had.mma == 0);
    // three blocks read and write the same
    EXPECT(had.distinct_read == 16 * (7 * 16 + 8) && had.distinct_written == 128);
  }
  simt::reset_counters();
  test_mma<__half>();
  EXPECT(simt::counters().mma == 1 && simt::counters().copy_load.requests == 0);
}

// The lanes of a warp may take different ways to the same access.
__global__ void uneven(const float* x, float* y) {
  uint32_t v = 0;
  if (threadIdx.x >= 16) v += ld32(x + 64 + threadIdx.x);
  v += ld32(x + threadIdx.x);
  st32(y + threadIdx.x, v);
}

void test_uneven() {
  DeviceVector<float> x(128, 0.f), y(32, 0.f);
  simt::reset_counters();
  simt::count_memory(true);
  EXPECT(outcome(uneven, 1, 32, 0, static_cast<const float*>(x.data()), y.data()).empty());
  simt::count_memory(false);
  const simt::Counters had = simt::counters();
  EXPECT(had.load.requests == 2 && had.load.bytes == 192 && had.load.sectors == 2 + 4);
  EXPECT(had.distinct_read == 192 && had.distinct_written == 128);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc > 1) seed = std::strtoull(argv[1], nullptr, 10);
  in_all_orders([] {
    test_ldmatrix();
    test_mma<__nv_bfloat16>();
    test_mma<__half>();
    test_pipeline<Misuse::kNone>("a pipeline");
    test_ragged<4>();
    test_ragged<8>();
    test_ragged<16>();
    test_refused();
    test_lanes();
    test_uneven();
    if (kThreadSanitizer) return;  // what follows races
    test_pipeline<Misuse::kNoCommit>("no commit");
    test_pipeline<Misuse::kNoWait>("no wait");
    test_pipeline<Misuse::kWaitOffByOne>("a wait off by one");
    test_pipeline<Misuse::kNoBarrier>("no barrier after the wait");
    test_pipeline<Misuse::kEarlyRefill>("a refill before the barrier");
    test_counters();
  });
  test_arithmetic();
  return summary();
}
