// Moving and making values: fill, copy and cast, random numbers, add, increment.
#include <immintrin.h>

#include <cstring>
#include <type_traits>

#include "cpu/dispatch.h"
#include "cpu/level/backend.h"
#include "cpu/level/random.h"
#include "cpu/level/rows.h"
#include "cpu/level/vec.h"
#include "ops/scalar.h"

namespace gatun::cpu::GATUN_LEVEL {
namespace {

template <typename T>
void fill_with(Context& context, const View& out, T value) {
  each_run(context, {&out}, [&](const int64_t(&at)[1], int64_t n, int64_t) {
    std::fill_n(out.as<T>() + at[0], n, value);
  });
}

size_t element_bytes(int32_t dtype) {
  switch (dtype) {
    case GATUN_F16:
    case GATUN_BF16:
      return 2;
    case GATUN_U8:
    case GATUN_I8:
      return 1;
    case GATUN_I64:
      return 8;
    default:
      return 4;
  }
}

bool is_float(int32_t dtype) {
  return dtype == GATUN_F32 || dtype == GATUN_F16 || dtype == GATUN_BF16;
}

void copy_bytes(Context& context, const View& out, const View& src) {
  const size_t size = element_bytes(out.dtype);
  each_run(context, {&out, &src}, [&](const int64_t(&at)[2], int64_t n, int64_t) {
    std::memcpy(out.as<char>() + at[0] * static_cast<int64_t>(size),
                src.as<const char>() + at[1] * static_cast<int64_t>(size),
                static_cast<size_t>(n) * size);
  });
}

template <typename To, typename From>
void copy_floats(Context& context, const View& out, const View& src) {
  each_run(context, {&out, &src}, [&](const int64_t(&at)[2], int64_t n, int64_t) {
    To* to = out.as<To>() + at[0];
    const From* from = src.as<From>() + at[1];
    each_vector(
        n, [&](int64_t i) { store(to + i, load(from + i)); },
        [&](int64_t i, int count) { store_first(to + i, load_first(from + i, count), count); });
  });
}

template <typename To, typename From>
void copy_integers(Context& context, const View& out, const View& src) {
  each_run(context, {&out, &src}, [&](const int64_t(&at)[2], int64_t n, int64_t) {
    To* to = out.as<To>() + at[0];
    const From* from = src.as<From>() + at[1];
    for (int64_t i = 0; i < n; ++i) to[i] = static_cast<To>(from[i]);
  });
}

inline vf sqrt(vf x) {
#if defined(__AVX512F__)
  return (vf)_mm512_maskz_sqrt_ps(0xffff, (__m512)x);
#elif defined(__AVX2__)
  return (vf)_mm256_sqrt_ps((__m256)x);
#else
  return (vf)_mm_sqrt_ps((__m128)x);
#endif
}

// Natural logarithm of normal x > 0, relative error below 1e-7 away from 1, absolute near it. The
// mantissa is brought into [sqrt(1/2), sqrt(2)); there log(1 + f) = f - f^2 / 2 + f^3 P(f), P the
// polynomial of Cephes (Moshier, logf).
inline vf log(vf x) {
  const vi bits = (vi)x;
  const vi exponent = (bits - 0x3f3504f3) >> 23;  // of x / sqrt(1/2), rounded down
  const vf f = (vf)(bits - (exponent << 23)) - 1.f;
  const vf e = __builtin_convertvector(exponent, vf);
  vf p = splat(7.0376836292e-2f);
  p = p * f - 1.1514610310e-1f;
  p = p * f + 1.1676998740e-1f;
  p = p * f - 1.2420140846e-1f;
  p = p * f + 1.4249322787e-1f;
  p = p * f - 1.6668057665e-1f;
  p = p * f + 2.0000714765e-1f;
  p = p * f - 2.4999993993e-1f;
  p = p * f + 3.3333331174e-1f;
  const vf square = f * f;
  return e * 0.693359375f + ((f * square * p - e * 2.12194440e-4f) - square * 0.5f + f);
}

// cos and sin of 2 pi u for u in [0, 1), absolute error below 2e-7: quadrants are taken off
// exactly, then the Taylor polynomials on [-pi/4, pi/4].
inline void cos_sin_turns(vf u, vf* cosine, vf* sine) {
  const vi quadrant = __builtin_convertvector(u * 4.f + 0.5f, vi);
  const vf angle = (u - __builtin_convertvector(quadrant, vf) * 0.25f) * 6.28318531f;
  const vf square = angle * angle;
  vf s = splat(2.75573192e-6f);
  s = s * square - 1.98412698e-4f;
  s = s * square + 8.33333333e-3f;
  s = s * square - 1.66666667e-1f;
  s = angle + angle * square * s;
  vf c = splat(2.48015873e-5f);
  c = c * square - 1.38888889e-3f;
  c = c * square + 4.16666667e-2f;
  c = c * square - 0.5f;
  c = c * square + 1.f;
  const vi swapped = -(quadrant & 1) != 0;
  const vi cosine_sign = ((quadrant + 1) & 2) << 30;
  const vi sine_sign = (quadrant & 2) << 30;
  *cosine = (vf)((vi)select(swapped, s, c) ^ cosine_sign);
  *sine = (vf)((vi)select(swapped, c, s) ^ sine_sign);
}

// Box-Muller: elements 2k and 2k + 1 are r cos and r sin of 2 pi u(2k + 1), where
// r = sqrt(-2 log(u(2k) + 2^-24)): uniforms lie in [0, 1), and log 0 must not be met. In place.
inline void normals(uint32_t* words, int count) {
  vi even, odd, low, high;
  for (int i = 0; i < kLanes; ++i) {
    even[i] = 2 * i;
    odd[i] = 2 * i + 1;
    low[i] = i / 2 + i % 2 * kLanes;
    high[i] = kLanes / 2 + i / 2 + i % 2 * kLanes;
  }
  for (int w = 0; w < count; w += 2 * kLanes) {
    const vf a = uniform(load_words(words + w));
    const vf b = uniform(load_words(words + w + kLanes));
    const vf radius = sqrt(max(splat(0.f), log(__builtin_shuffle(a, b, even) + 0x1p-24f) * -2.f));
    vf cosine, sine;
    cos_sin_turns(__builtin_shuffle(a, b, odd), &cosine, &sine);
    cosine *= radius;
    sine *= radius;
    const vf first = __builtin_shuffle(cosine, sine, low);
    const vf second = __builtin_shuffle(cosine, sine, high);
    std::memcpy(words + w, &first, sizeof first);
    std::memcpy(words + w + kLanes, &second, sizeof second);
  }
}
static_assert(kWordsAtOnce % (2 * kLanes) == 0);

template <typename T, typename F>
inline void store_mapped(T* to, const uint32_t* words, int64_t n, F f) {
  each_vector(
      n, [&](int64_t i) { store(to + i, f(load_words(words + i))); },
      [&](int64_t i, int count) {
        uint32_t rest[kLanes] = {};
        std::memcpy(rest, words + i, sizeof(uint32_t) * static_cast<size_t>(count));
        store_first(to + i, f(load_words(rest)), count);
      });
}

template <typename T>
void add_floats(Context& context, const Add& args) {
  each_run(context, {&args.out, &args.a, &args.b}, [&](const int64_t(&at)[3], int64_t n, int64_t) {
    T* out = args.out.as<T>() + at[0];
    const T* a = args.a.as<T>() + at[1];
    const T* b = args.b.as<T>() + at[2];
    each_vector(
        n, [&](int64_t i) { store(out + i, load(a + i) + load(b + i)); },
        [&](int64_t i, int count) {
          store_first(out + i, load_first(a + i, count) + load_first(b + i, count), count);
        });
  });
}

template <typename T>
void increment_integers(Context& context, const View& out, int64_t by) {
  using Bits = std::make_unsigned_t<T>;  // wraps where a signed sum would be undefined
  each_run(context, {&out}, [&](const int64_t(&at)[1], int64_t n, int64_t) {
    T* to = out.as<T>() + at[0];
    for (int64_t i = 0; i < n; ++i)
      to[i] = static_cast<T>(static_cast<Bits>(to[i]) + static_cast<Bits>(by));
  });
}

}  // namespace

void fill(Context& context, const Fill& args) {
  const double value = args.value;
  switch (args.out.dtype) {
    case GATUN_F32:
      return fill_with(context, args.out, static_cast<float>(value));
    case GATUN_F16:
      return fill_with(context, args.out, from_float<f16>(static_cast<float>(value)).bits);
    case GATUN_BF16:
      return fill_with(context, args.out, from_float<bf16>(static_cast<float>(value)).bits);
    case GATUN_U8:
      return fill_with(context, args.out, to_integer<uint8_t>(value));
    case GATUN_I8:
      return fill_with(context, args.out, to_integer<int8_t>(value));
    case GATUN_I32:
      return fill_with(context, args.out, to_integer<int32_t>(value));
    case GATUN_I64:
      return fill_with(context, args.out, to_integer<int64_t>(value));
  }
}

void copy(Context& context, const Copy& args) {
  const int32_t to = args.out.dtype;
  const int32_t from = args.src.dtype;
  if (to == from) return copy_bytes(context, args.out, args.src);
  if (to == GATUN_I32 && from == GATUN_I64)
    return copy_integers<int32_t, int64_t>(context, args.out, args.src);
  if (to == GATUN_I64 && from == GATUN_I32)
    return copy_integers<int64_t, int32_t>(context, args.out, args.src);
  if (!is_float(to) || !is_float(from)) return;  // refused by the checks
  with_float(to, [&]<typename To>() {
    with_float(from, [&]<typename From>() { copy_floats<To, From>(context, args.out, args.src); });
  });
}

void random_uniform(Context& context, const Random& args) {
  const PhiloxStream stream = philox_stream(args.philox);
  with_float(args.out.dtype, [&]<typename T>() {
    // rounding must not reach `high`, nor fall below `low`
    const float smallest = smallest_from<T>(args.a);
    const float largest = std::max(smallest, largest_below<T>(args.b));
    const float low = static_cast<float>(args.a);
    const float width = static_cast<float>(args.b - args.a);
    each_run(context, {&args.out}, [&](const int64_t(&at)[1], int64_t n, int64_t index) {
      T* out = args.out.as<T>() + at[0];
      each_word_run(stream, index, n, [&](int64_t i, int64_t count, uint32_t* words, int skipped) {
        store_mapped(out + i, words + skipped, count, [&](vu word) {
          return min(max(low + uniform(word) * width, splat(smallest)), splat(largest));
        });
      });
    });
  });
}

void random_normal(Context& context, const Random& args) {
  const PhiloxStream stream = philox_stream(args.philox);
  const float mean = static_cast<float>(args.a);
  const float std = static_cast<float>(args.b);
  with_float(args.out.dtype, [&]<typename T>() {
    each_run(context, {&args.out}, [&](const int64_t(&at)[1], int64_t n, int64_t index) {
      T* out = args.out.as<T>() + at[0];
      each_word_run(stream, index, n, [&](int64_t i, int64_t count, uint32_t* words, int skipped) {
        normals(words, skipped + static_cast<int>(count));
        store_mapped(out + i, words + skipped, count,
                     [&](vu normal) { return (vf)normal * std + mean; });
      });
    });
  });
}

void add(Context& context, const Add& args) {
  with_float(args.out.dtype, [&]<typename T>() { add_floats<T>(context, args); });
}

void increment(Context& context, const Increment& args) {
  if (args.out.dtype == GATUN_I32) return increment_integers<int32_t>(context, args.out, args.by);
  increment_integers<int64_t>(context, args.out, args.by);
}

}  // namespace gatun::cpu::GATUN_LEVEL
