// Attention in f32 without tensor cores: the same passes as attention.cu on f32 arithmetic.
//
// math     as attention.cu
// shapes   as attention.cu, f32
// tiling   16 x 16 threads. Thread (y, x) of a block owns a square of the scores, rows y edge … and
//          columns x edge …, and of the results the same rows and every 16th group of four columns.
//          Both products read their operands from swizzled tiles in shared memory, 16 bytes at a
//          time: 64 multiplications for 8 reads at edge 4. Weights go through shared memory.
// limits   up to 256 columns, padded to 64, 128 or 256.
// source   the tiling of FlashAttention (Dao et al. 2022, arXiv:2205.14135)
// measured not yet on a GPU; compiled without spills, results checked on the host
//          (native/test/kernel/attention_kernel_test.cpp).
#include <cuda_runtime.h>

#include "attention.h"
#include "attention_plain.cuh"

namespace gatun::kernels {

// ---- forward ----

template <int kWidth>
struct PlainForwardShared {
  PlainTile<4, kWidth> q, keys;  // keys: k, then v
  PlainTile<4, 64> weights;
};

// A block owns 64 queries of one head, 64 keys pass by.
template <int kWidth>
__global__ void __launch_bounds__(kAttentionPlainThreads, 1)
    attention_forward_plain(const __grid_constant__ AttentionForward p, bool vectors) {
  constexpr int kRows = 64, kEdge = 4;
  SMEM(PlainForwardShared<kWidth>, shared);
  const PlainThread thread;
  const AttentionShape& shape = p.shape;
  const Share share = share_of_queries(shape, kRows, static_cast<int>(blockIdx.x));
  const auto& [head, first, sequence] = share;
  if (first >= sequence.queries) return;  // packed
  const Sight sight = sequence.sight;
  const float* const k_rows = keys_of<const float>(p.k, sequence, head / shape.group);
  const float* const v_rows = keys_of<const float>(p.v, sequence, head / shape.group);
  const auto query = [&](int i) { return first + thread.y * kEdge + i; };

  load_plain(
      shared.q, shape.columns, vectors,
      TileRows{queries_of<const float>(p.q, sequence, head), p.q.row, first, sequence.queries});
  const float factor = shape.scale * kLog2E;
  float sums[kEdge][kWidth / 64][4] = {};
  float peak[kEdge], mass[kEdge];
  UNROLL for (int i = 0; i < kEdge; ++i) {
    peak[i] = -kInfinity;
    mass[i] = 0.f;
  }
  const int last = Sight::min_of(first + kRows, sequence.queries) - 1;
  for (int key = 0; key < sight.limit(last); key += kRows) {
    __syncthreads();  // v of the tile before was read
    load_plain(shared.keys, shape.columns, vectors, TileRows{k_rows, p.k.row, key, sight.keys});
    plain_loaded();
    float scores[kEdge][kEdge];
    plain_scores(scores, shared.q, shared.keys);
    __syncthreads();  // k was read
    load_plain(shared.keys, shape.columns, vectors, TileRows{v_rows, p.v.row, key, sight.keys});
    UNROLL for (int i = 0; i < kEdge; ++i) {
      const int limit = sight.limit(query(i)) - key - thread.x * kEdge;
      float now = peak[i];
      UNROLL for (int j = 0; j < kEdge; ++j) {
        scores[i][j] = j < limit ? scores[i][j] * factor : -kInfinity;
        now = fmaxf(now, scores[i][j]);
      }
      UNROLL for (int mask = 8; mask > 0; mask /= 2) now = fmaxf(now, shuffle_xor(now, mask));
      const float base = now == -kInfinity ? 0.f : now;
      const float shrink = ex2(peak[i] - base);
      peak[i] = now;
      mass[i] *= shrink;
      UNROLL for (int j = 0; j < kEdge; ++j) {
        scores[i][j] = ex2(scores[i][j] - base);
        mass[i] += scores[i][j];
      }
      UNROLL for (int n = 0; n < kWidth / 64; ++n) UNROLL for (int c = 0; c < 4; ++c)
          sums[i][n][c] *= shrink;
    }
    plain_put(shared.weights, scores);
    plain_loaded();
    plain_sums(sums, shared.weights, shared.keys);
  }

  plain_landed();  // q, where nothing is seen
  UNROLL for (int i = 0; i < kEdge; ++i) {
    UNROLL for (int mask = 8; mask > 0; mask /= 2) mass[i] += shuffle_xor(mass[i], mask);
    const bool blind = mass[i] == 0.f;
    const float inverse = blind ? 0.f : 1.f / mass[i];
    UNROLL for (int n = 0; n < kWidth / 64; ++n) UNROLL for (int c = 0; c < 4; ++c) sums[i][n][c] *=
        inverse;
    if (p.lse.data != nullptr && thread.x == 0 && query(i) < sequence.queries)
      lse_of(p.lse, sequence, head)[query(i)] =
          blind ? -kInfinity : (peak[i] + lg2(mass[i])) * kLn2;
  }
  plain_store(
      sums, 1.f, shape.columns, false, vectors,
      TileRows{queries_of<float>(p.out, sequence, head), p.out.row, first, sequence.queries});
}

// ---- backward ----

template <int kWidth>
struct PlainBackwardShared {
  static constexpr int kEdge = kAttentionPlainEdge<kWidth>;
  PlainTile<kEdge, kWidth> own[2], passing[2];  // k and v, q and dout
  PlainTile<kEdge, 16 * kEdge> weights, dscores;
};

// The walk of both passes: two tiles that a block owns, two that pass by, and the products of their
// rows. Where keys are owned, scores stand transposed.
template <int kWidth>
struct PlainWalk {
  static constexpr int kEdge = kAttentionPlainEdge<kWidth>, kRows = 16 * kEdge;
  PlainBackwardShared<kWidth>& shared;
  int columns;
  bool vectors;
  float weights[kEdge][kEdge], dscores[kEdge][kEdge];

  __device__ __forceinline__ PlainWalk(PlainBackwardShared<kWidth>& shared, int columns,
                                       bool vectors)
      : shared(shared), columns(columns), vectors(vectors) {}

  using Rows = TileRows<const float>;
  __device__ __forceinline__ void own(const Rows& first, const Rows& second) {
    load_plain(shared.own[0], columns, vectors, first);
    load_plain(shared.own[1], columns, vectors, second);
  }
  __device__ __forceinline__ void pass(const Rows& first, const Rows& second) {
    __syncthreads();  // the tile before was read
    load_plain(shared.passing[0], columns, vectors, first);
    load_plain(shared.passing[1], columns, vectors, second);
    plain_loaded();
    plain_scores(weights, shared.own[0], shared.passing[0]);
    plain_scores(dscores, shared.own[1], shared.passing[1]);
  }
  // A pair's score and its gradient become the weight and the gradient of the score.
  __device__ __forceinline__ void differentiate(int i, int j, bool seen, float factor, float base,
                                                float delta) {
    weights[i][j] = seen ? ex2(weights[i][j] * factor - base) : 0.f;
    dscores[i][j] = seen ? weights[i][j] * (dscores[i][j] - delta) : 0.f;
  }
};

// dk and dv: a block owns keys, queries of all heads of the group pass by.
template <int kWidth>
__global__ void __launch_bounds__(kAttentionPlainThreads, 1)
    attention_backward_keys_plain(const __grid_constant__ AttentionBackward p, bool vectors) {
  constexpr int kEdge = kAttentionPlainEdge<kWidth>, kRows = 16 * kEdge;
  SMEM(PlainBackwardShared<kWidth>, shared);
  const PlainThread thread;
  const AttentionShape& shape = p.shape;
  const Share share = share_of_keys(shape, kRows, static_cast<int>(blockIdx.x));
  const auto& [kv_head, first, sequence] = share;
  if (first >= sequence.keys) return;  // packed
  const Sight sight = sequence.sight;
  const auto key = [&](int i) { return first + thread.y * kEdge + i; };

  PlainWalk<kWidth> walk(shared, shape.columns, vectors);
  const auto keys = [&](const HeadRows& rows) {
    return TileRows{keys_of<const float>(rows, sequence, kv_head), rows.row, first, sight.keys};
  };
  walk.own(keys(p.k), keys(p.v));
  const float factor = shape.scale * kLog2E;
  float dk[kEdge][kWidth / 64][4] = {}, dv[kEdge][kWidth / 64][4] = {};
  const int from = first - sight.shift > 0 ? (first - sight.shift) / kRows * kRows : 0;
  for (int head = kv_head * shape.group; head < (kv_head + 1) * shape.group; ++head) {
    const Statistics statistics = statistics_of(p, sequence, head);
    for (int query = from; first < sight.keys && query < sequence.queries; query += kRows) {
      const auto queries = [&](const HeadRows& rows) {
        return TileRows{queries_of<const float>(rows, sequence, head), rows.row, query,
                        sequence.queries};
      };
      walk.pass(queries(p.q), queries(p.dout));
      UNROLL for (int j = 0; j < kEdge; ++j) {
        const int row = query + thread.x * kEdge + j;
        const float base = statistics.base[row], delta = statistics.delta[row];
        UNROLL for (int i = 0; i < kEdge; ++i)
            walk.differentiate(i, j, key(i) < sight.limit(row), factor, base, delta);
      }
      plain_put(shared.weights, walk.weights);
      plain_put(shared.dscores, walk.dscores);
      __syncthreads();
      plain_sums(dv, shared.weights, shared.passing[1]);
      plain_sums(dk, shared.dscores, shared.passing[0]);
    }
  }

  plain_landed();  // k and v, where nobody sees them
  UNROLL for (int i = 0; i < kEdge; ++i) UNROLL for (int n = 0; n < kWidth / 64; ++n)
      UNROLL for (int c = 0; c < 4; ++c) if (key(i) >= sight.keys) dk[i][n][c] = dv[i][n][c] = 0.f;
  const auto store = [&](const HeadRows& to, auto& sums, float scale, bool add) {
    if (to.data == nullptr) return;
    plain_store(sums, scale, shape.columns, add, vectors,
                TileRows{keys_of<float>(to, sequence, kv_head), to.row, first, sequence.keys});
  };
  store(p.dk, dk, shape.scale, p.add_dk);
  store(p.dv, dv, 1.f, p.add_dv);
}

// dq: a block owns queries, keys pass by.
template <int kWidth>
__global__ void __launch_bounds__(kAttentionPlainThreads, 1)
    attention_backward_queries_plain(const __grid_constant__ AttentionBackward p, bool vectors) {
  constexpr int kEdge = kAttentionPlainEdge<kWidth>, kRows = 16 * kEdge;
  SMEM(PlainBackwardShared<kWidth>, shared);
  const PlainThread thread;
  const AttentionShape& shape = p.shape;
  const Share share = share_of_queries(shape, kRows, static_cast<int>(blockIdx.x));
  const auto& [head, first, sequence] = share;
  if (first >= sequence.queries) return;  // packed
  const Sight sight = sequence.sight;
  const auto query = [&](int i) { return first + thread.y * kEdge + i; };

  PlainWalk<kWidth> walk(shared, shape.columns, vectors);
  const auto queries = [&](const HeadRows& rows) {
    return TileRows{queries_of<const float>(rows, sequence, head), rows.row, first,
                    sequence.queries};
  };
  walk.own(queries(p.q), queries(p.dout));
  const float factor = shape.scale * kLog2E;
  const Statistics statistics = statistics_of(p, sequence, head);
  float dq[kEdge][kWidth / 64][4] = {};
  const int last = Sight::min_of(first + kRows, sequence.queries) - 1;
  for (int key = 0; key < sight.limit(last); key += kRows) {
    const auto keys = [&](const HeadRows& rows) {
      return TileRows{keys_of<const float>(rows, sequence, head / shape.group), rows.row, key,
                      sight.keys};
    };
    walk.pass(keys(p.k), keys(p.v));
    UNROLL for (int i = 0; i < kEdge; ++i) {
      const float base = statistics.base[query(i)], delta = statistics.delta[query(i)];
      const int limit = sight.limit(query(i)) - key - thread.x * kEdge;
      UNROLL for (int j = 0; j < kEdge; ++j)
          walk.differentiate(i, j, j < limit, factor, base, delta);
    }
    plain_put(shared.dscores, walk.dscores);
    __syncthreads();
    plain_sums(dq, shared.dscores, shared.passing[0]);
  }

  plain_landed();  // q and dout, where nothing is seen
  plain_store(dq, shape.scale, shape.columns, p.add_dq, vectors,
              TileRows{queries_of<float>(p.dq, sequence, head), p.dq.row, first, sequence.queries});
}

// ---- launchers ----

cudaError_t attention_forward_f32(cudaStream_t stream, const AttentionForward& p) {
  const int64_t blocks =
      attention_blocks(p.shape.packed, p.shape.queries, 64, int64_t{p.shape.batch} * p.shape.heads);
  if (blocks == 0) return cudaErrorInvalidConfiguration;
  const bool vectors = attention_aligned(p.shape, sizeof(float), {&p.q, &p.k, &p.v, &p.out});
  return with_attention_plain_width(p.shape.columns, [&](auto width) {
    constexpr int kWidth = decltype(width)::value;
    return launch("attention_forward_f32", attention_forward_plain<kWidth>,
                  static_cast<unsigned>(blocks), kAttentionPlainThreads,
                  sizeof(PlainForwardShared<kWidth>), stream, p, vectors);
  });
}

cudaError_t attention_backward_f32(cudaStream_t stream, const AttentionBackward& p) {
  const bool vectors =
      attention_aligned(p.shape, sizeof(float), {&p.q, &p.k, &p.v, &p.dout, &p.dq, &p.dk, &p.dv});
  return with_attention_plain_width(p.shape.columns, [&](auto width) {
    constexpr int kWidth = decltype(width)::value, kRows = 16 * kAttentionPlainEdge<kWidth>;
    const int64_t heads = int64_t{p.shape.batch} * p.shape.heads;
    if (p.dk.data != nullptr || p.dv.data != nullptr) {
      const int64_t blocks =
          attention_blocks(p.shape.packed, p.shape.keys, kRows, heads / p.shape.group);
      if (blocks == 0) return cudaErrorInvalidConfiguration;
      const cudaError_t error =
          launch("attention_backward_keys_f32", attention_backward_keys_plain<kWidth>,
                 static_cast<unsigned>(blocks), kAttentionPlainThreads,
                 sizeof(PlainBackwardShared<kWidth>), stream, p, vectors);
      if (error != cudaSuccess) return error;
    }
    if (p.dq.data == nullptr) return cudaSuccess;
    const int64_t blocks = attention_blocks(p.shape.packed, p.shape.queries, kRows, heads);
    if (blocks == 0) return cudaErrorInvalidConfiguration;
    return launch("attention_backward_queries_f32", attention_backward_queries_plain<kWidth>,
                  static_cast<unsigned>(blocks), kAttentionPlainThreads,
                  sizeof(PlainBackwardShared<kWidth>), stream, p, vectors);
  });
}

}  // namespace gatun::kernels
