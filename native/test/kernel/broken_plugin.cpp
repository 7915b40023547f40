// A plugin whose layer_norm breaks on demand, for the test that a fault inside a kernel becomes an
// exception of the JVM: eps above 100 says how. Any other eps is the right kernel.
#define layer_norm_forward right_layer_norm_forward
#include "../../../kernels/layer_norm.cu"
#undef layer_norm_forward

namespace gatun::kernels {

namespace {

__global__ void wild_write(const float*) {
  sync_warp();
  if (threadIdx.x == 3) *reinterpret_cast<volatile int*>(uintptr_t{8192}) = 1;
}
__attribute__((noinline)) int deep(volatile char* before, int depth) {
  volatile char frame[512];
  frame[0] = static_cast<char>(depth);
  return depth == 0 ? frame[0] + before[0] : deep(frame, depth - 1) + frame[0];
}
__global__ void stack_overflow(const float* weight) {
  volatile char start = 1;
  sync_warp();
  if (threadIdx.x == 37 && deep(&start, 1 << 20) == 1) ld32(weight);
}
__global__ void division(const float* weight) {
  volatile int zero = 0;
  sync_warp();
  if (threadIdx.x == 1 && 7 / zero == 1) ld32(weight);
}
__global__ void out_of_bounds(const float* weight) {
  if (threadIdx.x == 40) ld128(weight + 1024);
}
__global__ void past_the_end(const float* weight) {
  if (threadIdx.x == 0) const_cast<float*>(weight)[1024] = 1.f;
}
__global__ void deadlock(const float*) {
  if (threadIdx.x < 32) simt::barrier(1, 64, simt::Where::here());
}

__global__ void nothing(const float*) {}

constexpr void (*kFaults[])(const float*) = {wild_write,   stack_overflow, division, out_of_bounds,
                                             past_the_end, deadlock,       nothing};

}  // namespace

cudaError_t layer_norm_forward(cudaStream_t stream, ElementType type, ElementType parameter_type,
                               const LayerNormForward& p) {
  if (p.eps <= 100) return right_layer_norm_forward(stream, type, parameter_type, p);
  const auto kernel = kFaults[static_cast<int>(p.eps) - 101];
  const size_t shared_bytes = kernel == nothing ? 300 << 10 : 0;  // more than any GPU has
  return launch("broken", kernel, 3, 64, shared_bytes, stream, static_cast<const float*>(p.weight));
}

}  // namespace gatun::kernels
