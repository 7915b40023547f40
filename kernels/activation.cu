// Activations and dropout: GELU in both forms and their gradients; dropout, which is its own
// gradient.
//
// math     y = gelu(x) and dx (+)= dy gelu'(x) (gelu.cuh)
//          y (+)= x / (1 - p) where Philox word i, of element i in row-major order, keeps it, else
//          0
// shapes   any shape, any strides; storage f32, f16 or bf16, arithmetic in f32
// tiling   elementwise.cuh: a thread has four packs of 16 bytes of each operand, loaded before the
//          first is stored. Dropout keeps no mask: one Philox call (about 70 instructions) decides
//          on four elements, in the forward and again in the backward pass.
// limits   none on sizes: offsets are 64 bits wide
// source   Hendrycks and Gimpel 2016 (arXiv:1606.08415); Srivastava et al. 2014
// measured not yet on a GPU; compiled for sm_80 and sm_90a without spills (resources.txt), results
//          checked on the host (native/test/kernel/activation_kernel_test.cpp).
#include <cuda_runtime.h>

#include "activation.h"
#include "elementwise.cuh"
#include "gelu.cuh"

namespace gatun::kernels {

// ---- gelu ----

struct TanhForm {
  static __device__ __forceinline__ float value(float x) { return gelu_tanh(x); }
  static __device__ __forceinline__ float derivative(float x) { return gelu_tanh_derivative(x); }
};
struct ErfForm {
  static __device__ __forceinline__ float value(float x) { return gelu_erf(x); }
  static __device__ __forceinline__ float derivative(float x) { return gelu_erf_derivative(x); }
};

template <int kElements, typename T, typename Form>
struct GeluForwardPack {
  using Arguments = GeluForward;
  static constexpr int kCount = kElements;

  Pack<T, kCount> x;

  __device__ __forceinline__ void load(const Arguments& p, const Place<2>& place) {
    x.load(static_cast<const T*>(p.x) + place.offset[Arguments::kX], place.count);
  }
  __device__ __forceinline__ void store(const Arguments& p, const Place<2>& place) {
    float v[kCount];
    UNROLL for (int i = 0; i < kCount; ++i) v[i] = Form::value(x.get(i));
    x.set(v);
    x.store(static_cast<T*>(p.y) + place.offset[Arguments::kY], place.count);
  }
};

template <int kElements, typename T, typename Form>
struct GeluBackwardPack {
  using Arguments = GeluBackward;
  static constexpr int kCount = kElements;

  Pack<T, kCount> dy, x;

  __device__ __forceinline__ void load(const Arguments& p, const Place<3>& place) {
    dy.load(static_cast<const T*>(p.dy) + place.offset[Arguments::kDy], place.count);
    x.load(static_cast<const T*>(p.x) + place.offset[Arguments::kX], place.count);
  }
  __device__ __forceinline__ void store(const Arguments& p, const Place<3>& place) {
    T* dx = static_cast<T*>(p.dx) + place.offset[Arguments::kDx];
    float v[kCount];
    UNROLL for (int i = 0; i < kCount; ++i) v[i] = dy.get(i) * Form::derivative(x.get(i));
    if (p.add) {
      dy.load(dx, place.count);
      UNROLL for (int i = 0; i < kCount; ++i) v[i] += dy.get(i);
    }
    dy.set(v);
    dy.store(dx, place.count);
  }
};

// ---- dropout ----

template <int kElements, typename T>
struct DropoutPack {
  using Arguments = Dropout;
  static constexpr int kCount = kElements;

  Pack<T, kCount> x;

  __device__ __forceinline__ void load(const Arguments& p, const Place<2>& place) {
    x.load(static_cast<const T*>(p.x) + place.offset[Arguments::kX], place.count);
  }
  __device__ __forceinline__ void store(const Arguments& p, const Place<2>& place) {
    T* y = static_cast<T*>(p.y) + place.offset[Arguments::kY];
    uint32_t word[kCount];
    random_words(p.philox.stream(), place.index, word);
    float v[kCount];
    UNROLL for (int i = 0; i < kCount; ++i) v[i] =
        p.rule.keeps(word[i]) ? x.get(i) * p.rule.scale : 0.f;
    if (p.add) {
      x.load(y, place.count);
      UNROLL for (int i = 0; i < kCount; ++i) v[i] += x.get(i);
    }
    x.set(v);
    x.store(y, place.count);
  }
};

// ---- launchers ----

cudaError_t gelu_forward(cudaStream_t stream, ElementType type, bool erf, const GeluForward& p) {
  return with_type(type, [&]<typename T>(T) {
    const auto run = [&]<typename Form>(Form) {
      return launch_elementwise<GeluForwardPack<kVector<T>, T, Form>, GeluForwardPack<1, T, Form>>(
          "gelu_forward", stream, p, {{p.y, sizeof(T)}, {p.x, sizeof(T)}});
    };
    return erf ? run(ErfForm()) : run(TanhForm());
  });
}

cudaError_t gelu_backward(cudaStream_t stream, ElementType type, bool erf, const GeluBackward& p) {
  return with_type(type, [&]<typename T>(T) {
    const auto run = [&]<typename Form>(Form) {
      return launch_elementwise<GeluBackwardPack<kVector<T>, T, Form>,
                                GeluBackwardPack<1, T, Form>>(
          "gelu_backward", stream, p, {{p.dx, sizeof(T)}, {p.dy, sizeof(T)}, {p.x, sizeof(T)}});
    };
    return erf ? run(ErfForm()) : run(TanhForm());
  });
}

cudaError_t dropout(cudaStream_t stream, ElementType type, const Dropout& p) {
  return with_type(type, [&]<typename T>(T) {
    return launch_elementwise<DropoutPack<kVector<T>, T>, DropoutPack<1, T>>(
        "dropout", stream, p, {{p.y, sizeof(T)}, {p.x, sizeof(T)}}, words_fit(p.runs));
  });
}

}  // namespace gatun::kernels
