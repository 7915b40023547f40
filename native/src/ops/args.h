// The arguments of each op as a device sees them: checked, resolved to addresses, copied by value,
// so that they outlive the caller's structs while the op waits in a queue.
#pragma once

#include <cstdint>
#include <vector>

#include "gatun.h"

namespace gatun {

// A resolved tensor. An optional one that was not given has dtype kAbsent; a present one with no
// elements may have null data.
struct View {
  static constexpr int32_t kAbsent = -1;

  void* data = nullptr;
  int32_t dtype = kAbsent;
  int32_t rank = 0;
  int64_t shape[GATUN_MAX_RANK] = {};
  int64_t stride[GATUN_MAX_RANK] = {};  // elements

  explicit operator bool() const { return dtype != kAbsent; }
  template <typename T>
  T* as() const {
    return static_cast<T*>(data);
  }
  int64_t elements() const {
    int64_t n = 1;
    for (int i = 0; i < rank; ++i) n *= shape[i];
    return n;
  }
  // Size and stride of the i-th dimension from the end (0: the last); 1 and 0 beyond the rank.
  int64_t size(int from_end) const { return from_end < rank ? shape[rank - 1 - from_end] : 1; }
  int64_t step(int from_end) const { return from_end < rank ? stride[rank - 1 - from_end] : 0; }
  // Elements before the last dimension.
  int64_t rows() const { return rank == 0 ? 1 : elements() / (size(0) == 0 ? 1 : size(0)); }
  bool contiguous() const {
    int64_t expected = 1;
    for (int i = rank - 1; i >= 0; --i) {
      if (shape[i] > 1 && stride[i] != expected) return false;
      expected *= shape[i];
    }
    return true;
  }
};

struct Philox {
  uint64_t seed;
  uint32_t site;
  uint32_t micro_batch;
  View step;  // i64 scalar, or absent: 0
};

// Whether the i-th gradient destination is added to.
inline bool adds(uint32_t accumulate, int i) { return (accumulate >> i & 1u) != 0; }

struct Fill {
  View out;
  double value;
};
struct Copy {
  View out, src;
};
struct Random {
  View out;
  double a, b;  // uniform: low, high; normal: mean, std
  Philox philox;
};
struct Add {
  View out, a, b;
};
struct Increment {
  View out;
  int64_t by;
};

struct MatMul {
  View out, a, b, bias, preactivation, residual;
  bool transpose_a, transpose_b, accumulate, gelu_erf;
  int32_t epilogue, precision;
  float alpha;
};
struct BiasBackward {
  View dbias, dy;
  uint32_t accumulate;
};

struct LayerNormForward {
  View y, sum, mean, rstd, x, residual, weight, bias;
  double eps;
  double p;  // 0: no dropout, and no philox
  Philox philox;
};
struct LayerNormBackward {
  View dx, dweight, dbias, ddropped, dy, x, mean, rstd, weight;
  double p;  // of ddropped
  Philox philox;
  uint32_t accumulate;
};

struct EmbeddingForward {
  View out, ids, table, positions, start;
};
struct EmbeddingBackward {
  View dtable, dpositions, dout, ids, start;
  uint32_t accumulate;
};

struct GeluForward {
  View y, x;
  bool erf;
};
struct GeluBackward {
  View dx, dy, x;
  bool erf;
  uint32_t accumulate;
};
struct Dropout {
  View y, x;
  double p;
  Philox philox;
  uint32_t accumulate;
};

struct AttentionForward {
  View out, lse, q, k, v, lengths, q_starts, k_starts;
  bool causal;
  float scale;
};
struct AttentionBackward {
  View dq, dk, dv, dout, out, lse, q, k, v, lengths, q_starts, k_starts;
  bool causal;
  float scale;
  bool dq_atomic;
  uint32_t accumulate;
};
struct KvAppend {
  View k_pages, v_pages, k, v, page_table, lengths;
};
struct AttentionDecode {
  View out, q, k_pages, v_pages, page_table, lengths;
  float scale;
};

struct CrossEntropy {
  View loss, row_losses, logits, targets, factor;
  int32_t ignore_index;
  float label_smoothing;
  bool write_gradient, accumulate;
};

struct GlobalNorm {
  View norm, factor;
  std::vector<View> tensors;
  double max_norm;
};
struct Unscale {
  View found_inf, inverse_scale;
  std::vector<View> tensors;
};
struct AdamW {
  std::vector<View> weights, gradients, m, v, copies;  // copies: empty, or one each (maybe absent)
  std::vector<float> decay;
  View learning_rate, step, clip;
  double beta1, beta2, eps;
};

struct ArgMax {
  View out, logits;
};
struct Sample {
  View out, logprobs, logits;
  float temperature, top_p, min_p;
  int32_t top_k;
  Philox philox;
};

}  // namespace gatun
