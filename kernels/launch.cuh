// The one way to launch a kernel: the same call on the GPU and in a host's SIMT runtime.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>

#include "last_launch.h"
#include "ptx.cuh"

namespace gatun::kernels {

// Enqueues kernel(arguments...); `shared_bytes` is sizeof its SMEM struct.
template <typename... Parameters, typename... Arguments>
cudaError_t launch(const char* name, void (*kernel)(Parameters...), dim3 grid, dim3 block,
                   size_t shared_bytes, cudaStream_t stream, const Arguments&... arguments) {
  last_launch = {name, {grid.x, grid.y, grid.z}, {block.x, block.y, block.z}, shared_bytes};
#ifdef __CUDACC__
  constexpr size_t kDefaultShared = 48 << 10;
  if (shared_bytes > kDefaultShared) {
    const cudaError_t error = cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                                                   cudaFuncAttributeMaxDynamicSharedMemorySize,
                                                   static_cast<int>(shared_bytes));
    if (error != cudaSuccess) return error;
  }
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  return cudaLaunchKernelEx(&config, kernel, Parameters(arguments)...);
#else
  return simt::launch(stream, grid, block, shared_bytes, [=] { kernel(Parameters(arguments)...); });
#endif
}

}  // namespace gatun::kernels
