// The simulator's half and bfloat16 against arithmetic: every value that they have, and the
// rounding of each float near the middle between two of them, and of random ones.
// Usage: sim_types [seed]
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <random>

namespace {

uint64_t seed = 20261125;
int failures = 0;
int64_t checks = 0;

// The nearest multiple of the type's unit at x, ties to even: what rounding means.
double rounded(double x, int digits, int least_exponent, double largest) {
  if (!std::isfinite(x) || x == 0) return x;
  const double unit = std::ldexp(1., std::max(std::ilogb(x), least_exponent) - digits + 1);
  const double y = std::nearbyint(x / unit) * unit;
  return std::fabs(y) > largest ? std::copysign(INFINITY, y) : std::copysign(y, x);
}

double value_of(unsigned bits, int exponent_bits, int mantissa_bits) {
  const int bias = (1 << (exponent_bits - 1)) - 1;
  const double sign = (bits >> 15) != 0 ? -1 : 1;
  const int exponent = static_cast<int>(bits >> mantissa_bits) & ((1 << exponent_bits) - 1);
  const int mantissa = static_cast<int>(bits) & ((1 << mantissa_bits) - 1);
  if (exponent == (1 << exponent_bits) - 1) return mantissa != 0 ? NAN : sign * INFINITY;
  return sign * std::ldexp(exponent == 0 ? mantissa : mantissa + (1 << mantissa_bits),
                           std::max(exponent, 1) - bias - mantissa_bits);
}

void expect(const char* what, uint32_t input, double had, double wanted) {
  ++checks;
  const bool same = std::isnan(wanted) ? std::isnan(had)
                                       : had == wanted && std::signbit(had) == std::signbit(wanted);
  if (!same && ++failures <= 20)
    std::fprintf(stderr, "FAILED (seed %llu) %s of %08x: had %.9g, wanted %.9g\n",
                 static_cast<unsigned long long>(seed), what, input, had, wanted);
}

void round_trip(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  const __half_raw half = __float2half_rn(x);
  const __nv_bfloat16_raw brain = __float2bfloat16_rn(x);
  const double value = static_cast<double>(x);
  expect("half", bits, value_of(half.x, 5, 10), rounded(value, 11, -14, 65504.));
  expect("bfloat16", bits, value_of(brain.x, 8, 7), rounded(value, 8, -126, 3.3895313892515355e38));
  if (std::isnan(x)) {
    expect("the NaN of half", bits, half.x, 0x7fff);
    expect("the NaN of bfloat16", bits, brain.x, 0x7fff);
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc > 1) seed = std::strtoull(argv[1], nullptr, 10);
  for (unsigned i = 0; i < 0x10000; ++i) {
    const unsigned short bits = static_cast<unsigned short>(i);
    const float half = __half2float(__half_raw{bits});
    const float brain = __bfloat162float(__nv_bfloat16_raw{bits});
    expect("float of half", i, static_cast<double>(half), value_of(i, 5, 10));
    expect("float of bfloat16", i, static_cast<double>(brain), value_of(i, 8, 7));
    // the value, the middle to the next one, and the neighbours of both
    for (uint32_t start : {std::bit_cast<uint32_t>(half), std::bit_cast<uint32_t>(brain)})
      for (uint32_t middle : {0u, 0x1000u, 0x8000u})
        for (uint32_t near : {0xffffffffu, 0u, 1u})
          round_trip(std::bit_cast<float>(start + middle + near));
    const float2 pair = __half22float2(__floats2half2_rn(half, -half));
    expect("pair", i, static_cast<double>(pair.x), static_cast<double>(half));
    expect("pair", i, static_cast<double>(pair.y), -static_cast<double>(half));
  }
  std::mt19937 generator(static_cast<unsigned>(seed));
  for (int i = 0; i < 2000000; ++i)
    round_trip(std::bit_cast<float>(static_cast<uint32_t>(generator())));
  // the middles between half's subnormal numbers
  for (int i = 0; i < 2048; ++i) {
    const float middle = std::ldexp(static_cast<float>(i) + 0.5f, -24);
    for (float x : {middle, std::nextafter(middle, 0.f), std::nextafter(middle, 1.f)})
      round_trip(x);
  }
  std::printf("%lld checks, %d failures\n", static_cast<long long>(checks), failures);
  return failures == 0 ? 0 : 1;
}
