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
void unscale(Context& context, const Unscale& args);
void adamw(Context& context, const AdamW& args);
void attention_forward(Context& context, const AttentionForward& args);
void attention_backward(Context& context, const AttentionBackward& args);
void kv_append(Context& context, const KvAppend& args);
void attention_decode(Context& context, const AttentionDecode& args);
void fill(Context& context, const Fill& args);
void copy(Context& context, const Copy& args);
void random_uniform(Context& context, const Random& args);
void random_normal(Context& context, const Random& args);
void add(Context& context, const Add& args);
void increment(Context& context, const Increment& args);
void embedding_forward(Context& context, const EmbeddingForward& args);
void embedding_backward(Context& context, const EmbeddingBackward& args);
void gelu_forward(Context& context, const GeluForward& args);
void gelu_backward(Context& context, const GeluBackward& args);
void dropout(Context& context, const Dropout& args);

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
  backend.unscale = unscale;
  backend.adamw = adamw;
  backend.attention_forward = attention_forward;
  backend.attention_backward = attention_backward;
  backend.kv_append = kv_append;
  backend.attention_decode = attention_decode;
  backend.fill = fill;
  backend.copy = copy;
  backend.random_uniform = random_uniform;
  backend.random_normal = random_normal;
  backend.add = add;
  backend.increment = increment;
  backend.embedding_forward = embedding_forward;
  backend.embedding_backward = embedding_backward;
  backend.gelu_forward = gelu_forward;
  backend.gelu_backward = gelu_backward;
  backend.dropout = dropout;
  return backend;
}();

inline cudaStream_t stream_of(const Context& context) {
  return static_cast<cudaStream_t>(context.native_stream);
}
// Where kernels report what they find wrong in their data.
inline const kernels::FaultSink& faults_of(const Context& context) {
  return *static_cast<const kernels::FaultSink*>(context.native_faults);
}

// The stream's workspace, null where the kernel wants none of it.
template <typename T>
T* scratch(Context& context, size_t bytes) {
  return bytes == 0 ? nullptr : static_cast<T*>(context.workspace(bytes));
}

// Multiprocessors of the current device.
int multiprocessors();

// Throws GATUN_DEVICE_FAULT with the op, CUDA's reason and the launch, if `error` is one.
void check_launch(const char* op, cudaError_t error);

}  // namespace gatun::cuda
