// What a test counts, and where its random numbers come from.
#pragma once

#include <random>

namespace gatun::kernels {

inline unsigned seed = 20261125;
inline std::mt19937 generator;
inline int failures = 0;
inline int checks = 0;

}  // namespace gatun::kernels
