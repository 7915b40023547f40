// What CUDA kernels find in cuda_runtime.h, for the host's compiler; the meaning of threadIdx,
// __syncthreads, … is simt.h's.
#pragma once

#include <cmath>

#include "cuda_runtime_api.h"

inline float rsqrtf(float x) { return 1.f / std::sqrt(x); }
