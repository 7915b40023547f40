// That a kernel gives the same bits whatever the order of its blocks and threads.
#pragma once

#include <cstddef>
#include <vector>

#include "simt.h"

using Bits = std::vector<unsigned char>;

inline void append(Bits& bits, const void* from, size_t bytes) {
  const auto* first = static_cast<const unsigned char*>(from);
  bits.insert(bits.end(), first, first + bytes);
}

// The first of 20 runs in the three orders by turns whose results have other bits than those of the
// first, or -1. `run` starts from the same inputs every time and gives all bits of its results,
// none if it failed.
template <typename Run>
int other_bits(unsigned seed, Run run) {
  const simt::Options before = simt::options();
  Bits first;
  int other = -1;
  for (int i = 0; i < 20 && other < 0; ++i) {
    simt::set_options({static_cast<simt::Order>(i % 3), seed + static_cast<unsigned>(i)});
    Bits bits = run();
    if (bits.empty() || (i > 0 && bits != first)) other = i;
    if (i == 0) first = std::move(bits);
  }
  simt::set_options(before);
  return other;
}
