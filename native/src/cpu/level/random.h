// Philox words for runs of elements, many counters at once. The generator and its counter layout
// are those of philox.h (kernels/); here each 64-bit lane holds one 32-bit word of one counter, so
// that the widening multiply of the machine does a round's products.
#pragma once

#include <immintrin.h>

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "cpu/level/vec.h"
#include "ops/args.h"
#include "philox.h"

namespace gatun::cpu::GATUN_LEVEL {

constexpr int kCounters = kLanes / 2;  // counters a vector holds
typedef uint64_t vq __attribute__((vector_size(kCounters * 8)));

// The low halves of a times m, to 64 bits.
inline vq multiply_low_halves(vq a, uint64_t m) {
#if defined(__AVX512F__)
  return (vq)_mm512_maskz_mul_epu32(0xff, (__m512i)a, (__m512i)(vq{} + m));
#elif defined(__AVX2__)
  return (vq)_mm256_mul_epu32((__m256i)a, (__m256i)(vq{} + m));
#else
  return (vq)_mm_mul_epu32((__m128i)a, (__m128i)(vq{} + m));
#endif
}

inline PhiloxStream philox_stream(const Philox& philox) {
  return PhiloxSource{philox.seed, philox.step.as<int64_t>(), philox.site, philox.micro_batch}
      .stream();
}

// The 4 * kCounters words of the counters block .. block + kCounters - 1.
inline void philox_words(const PhiloxStream& stream, uint64_t block, uint32_t* out) {
  // Lane 2j holds counter j and lane 2j + 1 counter kCounters / 2 + j, so that interleaving pairs
  // of words below leaves each half of the counters in order.
  vq lane;
  for (int i = 0; i < kCounters; ++i) lane[i] = i % 2 == 0 ? i / 2 : kCounters / 2 + i / 2;
  vq c0 = lane + block;
  vq c1 = (c0 >> 32 & 0xffffu) | static_cast<uint64_t>(stream.site) << 16;
  vq c2 = vq{} + stream.step;
  vq c3 = vq{} + stream.micro_batch;
  uint32_t key_low = static_cast<uint32_t>(stream.seed);
  uint32_t key_high = static_cast<uint32_t>(stream.seed >> 32);
  // the upper halves of the lanes collect rubbish that no multiply reads
  for (int round = 0; round < 10; ++round) {
    const vq a = multiply_low_halves(c0, 0xD2511F53u);
    const vq b = multiply_low_halves(c2, 0xCD9E8D57u);
    c0 = (b >> 32) ^ c1 ^ key_low;
    c1 = b;
    c2 = (a >> 32) ^ c3 ^ key_high;
    c3 = a;
    key_low += 0x9E3779B9u;
    key_high += 0xBB67AE85u;
  }
  const vq first = (c0 & 0xffffffffu) | c1 << 32;
  const vq second = (c2 & 0xffffffffu) | c3 << 32;
  vq even, odd;
  for (int i = 0; i < kCounters; i += 2) {
    even[i] = i;
    even[i + 1] = kCounters + i;
    odd[i] = i + 1;
    odd[i + 1] = kCounters + i + 1;
  }
  const vq low = __builtin_shuffle(first, second, even);
  const vq high = __builtin_shuffle(first, second, odd);
  std::memcpy(out, &low, sizeof low);
  std::memcpy(out + 2 * kCounters, &high, sizeof high);
}

constexpr int kWordsAtOnce = 512;
static_assert(kWordsAtOnce % (4 * kCounters) == 0);

// Calls f(i, count, words, skipped) for consecutive parts [i, i + count) of the n elements that
// start at logical index `index`: words[skipped] belongs to element index + i, and words[0] to
// the first element of its counter. All kWordsAtOnce words may be read and overwritten.
template <typename F>
inline void each_word_run(const PhiloxStream& stream, int64_t index, int64_t n, F f) {
  alignas(64) uint32_t words[kWordsAtOnce];
  for (int64_t i = 0; i < n;) {
    const uint64_t element = static_cast<uint64_t>(index + i);
    const int skipped = static_cast<int>(element % 4);
    const int64_t count = std::min<int64_t>(n - i, kWordsAtOnce - skipped);
    for (int w = 0; w < skipped + count; w += 4 * kCounters)
      philox_words(stream, element / 4 + static_cast<uint64_t>(w / 4), words + w);
    f(i, count, words, skipped);
    i += count;
  }
}

inline vu load_words(const uint32_t* p) {
  vu v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
inline vu load_first_words(const uint32_t* p, int n) {
  uint32_t words[kLanes] = {};
  std::memcpy(words, p, sizeof(uint32_t) * static_cast<size_t>(n));
  return load_words(words);
}
inline vf uniform(vu words) { return __builtin_convertvector((vi)(words >> 8), vf) * 0x1p-24f; }

// Dropout by the words of the elements.
inline vf dropped(const DropoutRule& rule, vu words, vf x) {
  return select((vi)(words >> 8) >= static_cast<int32_t>(rule.threshold), x * rule.scale,
                splat(0.f));
}

// y (+)= dropout of the n elements of x that start at logical index `index`. y may be x.
template <typename T>
inline void drop_run(const PhiloxStream& stream, const DropoutRule& rule, int64_t index, int64_t n,
                     const T* x, T* y, bool add) {
  each_word_run(stream, index, n, [&](int64_t begin, int64_t count, uint32_t* words, int skipped) {
    const T* from = x + begin;
    T* to = y + begin;
    words += skipped;
    each_vector(
        count,
        [&](int64_t i) {
          const vf value = dropped(rule, load_words(words + i), load(from + i));
          store(to + i, add ? load(to + i) + value : value);
        },
        [&](int64_t i, int rest) {
          const vf value =
              dropped(rule, load_first_words(words + i, rest), load_first(from + i, rest));
          store_first(to + i, add ? load_first(to + i, rest) + value : value, rest);
        });
  });
}

}  // namespace gatun::cpu::GATUN_LEVEL
