// Philox4x32-10, the counter-based generator of Salmon et al., "Parallel Random Numbers: As Easy
// as 1, 2, 3" (SC11), with the counter layout of gatun_philox (gatun.h): every element of every
// random op has a word of its own, whoever computes it and in whatever order. Plain C++, for the
// kernels and for the cpu device alike (cpu/level/random.h: the same on vectors).
#pragma once

#include <cstdint>

#ifdef __CUDACC__
#define GATUN_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define GATUN_HOST_DEVICE
#endif

namespace gatun {

// Ten rounds on a counter of four words under a key of two.
struct PhiloxBlock {
  uint32_t word[4];
};

GATUN_HOST_DEVICE constexpr PhiloxBlock philox4x32(PhiloxBlock counter, uint32_t key_low,
                                                   uint32_t key_high) {
  uint32_t* c = counter.word;
  for (int round = 0; round < 10; ++round) {
    const uint64_t a = uint64_t{0xD2511F53u} * c[0];
    const uint64_t b = uint64_t{0xCD9E8D57u} * c[2];
    const uint32_t c1 = c[1];
    const uint32_t c3 = c[3];
    c[0] = static_cast<uint32_t>(b >> 32) ^ c1 ^ key_low;
    c[1] = static_cast<uint32_t>(b);
    c[2] = static_cast<uint32_t>(a >> 32) ^ c3 ^ key_high;
    c[3] = static_cast<uint32_t>(a);
    key_low += 0x9E3779B9u;   // the golden ratio
    key_high += 0xBB67AE85u;  // sqrt(3) - 1
  }
  return counter;
}

// The random words of one op: words(i / 4).word[i % 4] belongs to element i of its output in
// logical (row-major) order.
struct PhiloxStream {
  uint64_t seed;
  uint32_t site;
  uint32_t step;  // the low half of the step scalar
  uint32_t micro_batch;

  GATUN_HOST_DEVICE constexpr PhiloxBlock words(uint64_t block) const {
    return philox4x32(
        {{static_cast<uint32_t>(block), (static_cast<uint32_t>(block >> 32) & 0xffffu) | site << 16,
          step, micro_batch}},
        static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32));
  }
  GATUN_HOST_DEVICE constexpr uint32_t word(uint64_t element) const {
    // chosen, not indexed: a GPU would index memory
    const PhiloxBlock block = words(element / 4);
    const uint32_t low = element % 2 == 0 ? block.word[0] : block.word[1];
    const uint32_t high = element % 2 == 0 ? block.word[2] : block.word[3];
    return element % 4 < 2 ? low : high;
  }
};

// A stream whose step is still on the device: what a kernel is launched with.
struct PhiloxSource {
  uint64_t seed;
  const int64_t* step;  // null: 0
  uint32_t site;
  uint32_t micro_batch;

  GATUN_HOST_DEVICE constexpr PhiloxStream stream() const {
    return {seed, site, step == nullptr ? 0u : static_cast<uint32_t>(*step), micro_batch};
  }
};

// Uniform in [0, 1), a multiple of 2^-24: exact in f32.
GATUN_HOST_DEVICE constexpr float philox_uniform(uint32_t word) {
  return static_cast<float>(word >> 8) * 0x1p-24f;
}

// Dropout keeps an element where its uniform is >= p, 0 <= p < 1, and scales it by 1 / (1 - p).
// Compared as integers, uniforms being multiples of 2^-24: word >> 8 >= threshold, and the
// threshold of every p is exact.
struct DropoutRule {
  uint32_t threshold;  // ceil(p 2^24)
  float scale;

  GATUN_HOST_DEVICE constexpr bool keeps(uint32_t word) const { return word >> 8 >= threshold; }
};

constexpr DropoutRule dropout_rule(double p) {
  const double scaled = p * 0x1p24;
  const uint32_t below = static_cast<uint32_t>(scaled);
  return {below < scaled ? below + 1 : below, static_cast<float>(1 / (1 - p))};
}
static_assert(dropout_rule(0).threshold == 0 && dropout_rule(0.5).threshold == 1u << 23);
static_assert(dropout_rule(1e-9).threshold == 1 && dropout_rule(1 - 1e-9).threshold == 1u << 24);

// The known answers that the authors publish with Random123 (kat_vectors).
namespace philox_known_answers {
constexpr bool gives(PhiloxBlock counter, uint32_t low, uint32_t high, PhiloxBlock want) {
  const PhiloxBlock had = philox4x32(counter, low, high);
  return had.word[0] == want.word[0] && had.word[1] == want.word[1] &&
         had.word[2] == want.word[2] && had.word[3] == want.word[3];
}
static_assert(gives({{0, 0, 0, 0}}, 0, 0, {{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}}));
static_assert(gives({{~0u, ~0u, ~0u, ~0u}}, ~0u, ~0u,
                    {{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}}));
static_assert(gives({{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}}, 0xa4093822, 0x299f31d0,
                    {{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}}));
}  // namespace philox_known_answers

}  // namespace gatun
