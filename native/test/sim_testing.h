// What the tests of the simulated device share: checks that go on after a failure, device memory,
// the outcome of a launch, the orders in which threads may run.
#pragma once

#include <cuda_runtime.h>

#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "launch.cuh"

// The sanitizer that watches the kernels. AddressSanitizer ends the process at what the plain
// simulator only notices at the end of the launch; ThreadSanitizer at each deliberate race.
#if defined(GATUN_SIM_ASAN)
constexpr bool kAddressSanitizer = true, kThreadSanitizer = false;
#elif defined(GATUN_SIM_TSAN)
constexpr bool kAddressSanitizer = false, kThreadSanitizer = true;
#else
constexpr bool kAddressSanitizer = false, kThreadSanitizer = false;
#endif

inline uint64_t seed = 20261125;
inline const char* order_name = "";
inline int failures = 0;
inline int checks = 0;

__attribute__((format(printf, 1, 2))) inline void report(const char* format, ...) {
  if (++failures > 20) return;
  std::fprintf(stderr, "FAILED (seed %llu, %s): ", static_cast<unsigned long long>(seed),
               order_name);
  va_list arguments;
  va_start(arguments, format);
  std::vfprintf(stderr, format, arguments);
  va_end(arguments);
  std::fputc('\n', stderr);
}

#define EXPECT(condition)                                                        \
  do {                                                                           \
    ++checks;                                                                    \
    if (!(condition)) report("line %d: %s does not hold", __LINE__, #condition); \
  } while (false)

template <typename T>
using DeviceVector = std::vector<T, simt::DeviceAllocator<T>>;

// Runs it and gives the sentence of its failure, "" if none.
template <typename Kernel, typename... Arguments>
std::string outcome(Kernel kernel, dim3 grid, dim3 block, size_t shared_bytes,
                    Arguments... arguments) {
  const cudaError_t launched = gatun::kernels::launch("test_kernel", kernel, grid, block,
                                                      shared_bytes, nullptr, arguments...);
  const cudaError_t error = launched != cudaSuccess ? launched : cudaDeviceSynchronize();
  return error == cudaSuccess ? "" : cudaGetErrorString(error);
}

inline bool contains(const std::string& text, const char* part) {
  return text.find(part) != std::string::npos;
}

template <typename Tests>
void in_all_orders(Tests tests) {
  struct {
    const char* name;
    simt::Order order;
  } constexpr kOrders[] = {{"forward", simt::Order::kForward},
                           {"reverse", simt::Order::kReverse},
                           {"random", simt::Order::kRandom}};
  for (const auto& [name, order] : kOrders)
    for (uint64_t more = 0; more < (order == simt::Order::kRandom ? 5 : 1); ++more) {
      order_name = name;
      simt::set_options({order, seed + more});
      tests();
    }
}

inline int summary() {
  std::printf("seed %llu: %d checks, %d failures\n", static_cast<unsigned long long>(seed), checks,
              failures);
  return failures == 0 ? 0 : 1;
}
