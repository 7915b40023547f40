// The ops that have kernels: functions that resolve views and launch. They throw what fails.
#pragma once

#include <cuda_runtime_api.h>

#include "core/backend.h"

namespace gatun::cuda {

void layer_norm_forward(Context& context, const LayerNormForward& args);
void layer_norm_backward(Context& context, const LayerNormBackward& args);

inline constexpr Backend kBackend = [] {
  Backend backend;
  backend.layer_norm_forward = layer_norm_forward;
  backend.layer_norm_backward = layer_norm_backward;
  return backend;
}();

// Multiprocessors of the current device.
int multiprocessors();

// Throws GATUN_DEVICE_FAULT with the op, CUDA's reason and the launch, if `error` is one.
void check_launch(const char* op, cudaError_t error);

}  // namespace gatun::cuda
