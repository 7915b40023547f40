// The ops that have kernels: functions that resolve views and launch. They throw what fails.
#pragma once

#include <cuda_runtime_api.h>

#include "core/backend.h"
#include "fault.h"

namespace gatun::cuda {

void matmul(Context& context, const MatMul& args);
void bias_backward(Context& context, const BiasBackward& args);
void layer_norm_forward(Context& context, const LayerNormForward& args);
void layer_norm_backward(Context& context, const LayerNormBackward& args);
void argmax(Context& context, const ArgMax& args);
void sample(Context& context, const Sample& args);
void cross_entropy(Context& context, const CrossEntropy& args);
void global_norm(Context& context, const GlobalNorm& args);
void adamw(Context& context, const AdamW& args);
void attention_forward(Context& context, const AttentionForward& args);
void attention_backward(Context& context, const AttentionBackward& args);
void kv_append(Context& context, const KvAppend& args);
void attention_decode(Context& context, const AttentionDecode& args);

inline constexpr Backend kBackend = [] {
  Backend backend;
  backend.matmul = matmul;
  backend.bias_backward = bias_backward;
  backend.layer_norm_forward = layer_norm_forward;
  backend.layer_norm_backward = layer_norm_backward;
  backend.argmax = argmax;
  backend.sample = sample;
  backend.cross_entropy = cross_entropy;
  backend.global_norm = global_norm;
  backend.adamw = adamw;
  backend.attention_forward = attention_forward;
  backend.attention_backward = attention_backward;
  backend.kv_append = kv_append;
  backend.attention_decode = attention_decode;
  return backend;
}();

inline cudaStream_t stream_of(const Context& context) {
  return static_cast<cudaStream_t>(context.native_stream);
}
// Where kernels report what they find wrong in their data.
inline const kernels::FaultSink& faults_of(const Context& context) {
  return *static_cast<const kernels::FaultSink*>(context.native_faults);
}

// Multiprocessors of the current device.
int multiprocessors();

// Throws GATUN_DEVICE_FAULT with the op, CUDA's reason and the launch, if `error` is one.
void check_launch(const char* op, cudaError_t error);

}  // namespace gatun::cuda
