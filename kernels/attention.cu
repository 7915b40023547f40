// Scaled dot-product attention, forward and backward, on tensor cores; f32 in attention_f32.cu,
// paged caches in attention_decode.cu.
//
// math     s = scale q k^T, p = softmax(s) over the keys that a query sees, out = p v,
//          lse = log(sum(exp(s))); a row that sees nothing: out 0, lse -infinity
//          delta = row sum of dout out;  ds = p (dout v^T - delta), p from s and lse
//          dq = scale ds k;  dk = scale ds^T q;  dv = p^T dout, over all heads of a group
// shapes   q, out, dout, dq (batch, heads, queries, columns); k, v, dk, dv (batch, heads / group,
//          keys, columns), any strides; lse (batch, heads, queries) f32. Storage f16 or bf16,
//          products on tensor cores with f32 sums, softmax and statistics in f32.
// tiling   Four warps. Forward: 128 queries a block, 32 a warp; sums of out, the running softmax
//          and the weights stay in registers (the sums of q k^T are laid out as the left operand of
//          p v), keys pass by through one tile of k and one of v. Backward: one kernel whose blocks
//          own keys (dk, dv), one whose blocks own queries (dq); both compute the scores. Sizes and
//          reasons in tiles.h.
// data     cp.async of 16 bytes into swizzled tiles, ldmatrix without bank conflicts, results
//          through shared memory as f32, so that they leave in whole sectors. Unaligned rows are
//          read and written element by element.
// limits   up to 256 columns, padded to 32, 64, 96, 128 or 256. Bit for bit the same every time:
//          no atomics; two kernels in the backward pass instead, 7 products where 5 would do.
//          0 times a NaN is NaN: a NaN value of a causally hidden key in the tile of a seen one
//          spreads to the tile's rows; keys beyond a length, other heads and rows never do.
// source   FlashAttention-2 (Dao 2023, arXiv:2307.08691); online softmax of Milakov, Gimelshein
//          2018 (arXiv:1805.02867); tiles as FlashAttention-2's for sm_80 (BSD-3-Clause)
// measured not yet on a GPU; compiled for sm_80 and sm_90a without spills (resources.txt), results
//          and counters checked on the host (native/test/kernel/attention_kernel_test.cpp).
#include <cuda_runtime.h>

#include "attention.h"
#include "attention_tiles.cuh"
#include "tiles.h"

namespace gatun::kernels {

using Forward = AttentionForward;
using Backward = AttentionBackward;

// ---- forward ----

template <int kWidth>
union ForwardShared {
  static constexpr AttentionTile kTile = kAttentionForward<kWidth>;
  struct {
    Tile<kTile.rows, kWidth> q;
    Tile<kTile.other, kWidth> k, v;
  } tiles;
  Stage<kTile.rows, kWidth> stage;
};

// Scores that nobody may see become -inf. first_key: of the tile; query(m, half): this lane's rows.
template <int kStrips, int kN, typename Query>
__device__ __forceinline__ void hide(float (&scores)[kStrips][kN][4], const Sight& sight,
                                     int first_key, float sign, Query query) {
  const int column = first_key + static_cast<int>(threadIdx.x) % 4 * 2;
  UNROLL for (int m = 0; m < kStrips; ++m) UNROLL for (int half = 0; half < 2; ++half) {
    const int limit = sight.limit(query(m, half)) - column;
    UNROLL for (int n = 0; n < kN; ++n) UNROLL for (int i = 0; i < 2; ++i) {
      float& score = scores[m][n][half * 2 + i];
      score = n * 8 + i < limit ? score * sign : -kInfinity;
    }
  }
}

// A block owns rows() queries of one head. Keys pass by from the last tile to the first, so that
// the tiles with hidden keys come first. While k of a tile is multiplied its v is on the way, and
// while v is multiplied, k of the next.
template <typename T, int kWidth>
__global__ void __launch_bounds__(kAttentionThreads, kAttentionForward<kWidth>.min_blocks)
    attention_forward_tiles(const __grid_constant__ Forward p, bool vectors) {
  constexpr AttentionTile kTile = kAttentionForward<kWidth>;
  constexpr int kRows = kTile.rows, kKeys = kTile.other, kStrips = kTile.strips;
  constexpr bool kInRegisters = kAttentionQueriesInRegisters<kWidth>;
  SMEM(ForwardShared<kWidth>, shared);
  auto& [q, k, v] = shared.tiles;
  const AttentionShape& shape = p.shape;
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;

  // blocks of a head side by side, so that its keys stay in the cache; the longest come first
  const int blocks = (shape.queries + kRows - 1) / kRows;
  const int first = (blocks - 1 - static_cast<int>(blockIdx.x) % blocks) * kRows;
  const int head = static_cast<int>(blockIdx.x) / blocks % shape.heads;
  const int batch = static_cast<int>(blockIdx.x) / blocks / shape.heads;
  const Sight sight = sight_of(shape, batch);
  const T* const q_rows = head_of<const T>(p.q, batch, head);
  const T* const k_rows = head_of<const T>(p.k, batch, head / shape.group);
  const T* const v_rows = head_of<const T>(p.v, batch, head / shape.group);

  const auto load_keys = [&](auto& tile, const T* rows, int64_t stride, int key) {
    load_tile<T>(tile, shape.columns, vectors, [&](int row) {
      return key + row < sight.keys ? rows + (key + row) * stride : nullptr;
    });
  };
  const int last = Sight::min_of(first + kRows, shape.queries) - 1;
  const int tiles = (sight.limit(last) + kKeys - 1) / kKeys;  // 0 or less: nothing is seen
  load_tile<T>(q, shape.columns, vectors, [&](int row) {
    return first + row < shape.queries ? q_rows + (first + row) * p.q.row : nullptr;
  });
  if (tiles > 0) load_keys(k, k_rows, p.k.row, (tiles - 1) * kKeys);
  cp_async_commit();

  const int first_of_warp = first + warp * kStrips * 16;
  const auto query = [&](int m, int half) { return first_of_warp + m * 16 + half * 8 + lane / 4; };
  const uint32_t q_lanes = moved<kRows>(lanes_by_row(q), warp * kStrips * 16, 0);
  const uint32_t k_lanes = lanes_by_chunk(k), v_lanes = lanes_by_row(v);
  const float factor = fabsf(shape.scale) * kLog2E, sign = shape.scale < 0 ? -1.f : 1.f;
  float out[kStrips][kWidth / 8][4] = {};
  Softmax<kStrips> softmax;
  uint32_t queries[kInRegisters ? kWidth / 16 : 1][kStrips][4];

  for (int tile = tiles - 1; tile >= 0; --tile) {
    const int key = tile * kKeys;
    cp_async_wait<0>();
    __syncthreads();  // k is there, and v of the tile before was read
    load_keys(v, v_rows, p.v.row, key);
    cp_async_commit();
    if (kInRegisters && tile == tiles - 1)
      UNROLL for (int step = 0; step < kWidth / 16; ++step) UNROLL for (int m = 0; m < kStrips; ++m)
          ldmatrix_x4(queries[kInRegisters ? step : 0][m], moved<kRows>(q_lanes, m * 16, step));
    const auto next_keys = [&] {
      cp_async_wait<0>();
      __syncthreads();  // v is there, and k was read
      if (tile > 0) load_keys(k, k_rows, p.k.row, key - kKeys);
      cp_async_commit();
    };
    if (key >= sight.limit(first_of_warp + kStrips * 16 - 1)) {  // causal: beyond all of this warp
      next_keys();
      continue;
    }
    float scores[kStrips][kKeys / 8][4] = {};
    multiply_rows<T, kWidth, kKeys>(
        scores,
        [&](uint32_t(&a)[4], int m, int step) {
          if constexpr (kInRegisters)
            UNROLL for (int i = 0; i < 4; ++i) a[i] = queries[step][m][i];
          else
            ldmatrix_x4(a, moved<kRows>(q_lanes, m * 16, step));
        },
        k_lanes);
    next_keys();
    if (key + kKeys > sight.limit(first_of_warp) || sign < 0.f)
      hide(scores, sight, key, sign, query);
    softmax.update(scores, out, factor);
    multiply_weights<T, kKeys>(out, scores, v_lanes);
  }
  cp_async_wait<0>();

  softmax.finish();
  UNROLL for (int m = 0; m < kStrips; ++m) UNROLL for (int half = 0; half < 2; ++half) {
    const float mass = softmax.mass[m][half];
    const bool blind = mass == 0.f;
    const float inverse = blind ? 0.f : 1.f / mass;
    UNROLL for (int n = 0; n < kWidth / 8; ++n) UNROLL for (int i = 0; i < 2; ++i)
        out[m][n][half * 2 + i] *= inverse;
    if (p.lse.data != nullptr && lane % 4 == 0 && query(m, half) < shape.queries)
      p.lse.data[batch * p.lse.batch + head * p.lse.head + query(m, half)] =
          blind ? -kInfinity : (softmax.peak[m][half] * factor + lg2(mass)) * kLn2;
  }
  T* const out_rows = head_of<T>(p.out, batch, head);
  store_rows<T, kRows>(shared.stage, out, shape.columns, false, vectors, [&](int row) {
    return first + row < shape.queries ? out_rows + (first + row) * p.out.row : nullptr;
  });
}

// ---- backward ----

// The statistics: eight lanes a row.
template <typename T>
__global__ void __launch_bounds__(kAttentionThreads)
    attention_backward_rows(const __grid_constant__ Backward p, bool vectors) {
  constexpr int kLanes = 8;
  const int64_t padded = padded_queries(p.shape);
  const int64_t row =
      (int64_t{blockIdx.x} * kAttentionThreads + threadIdx.x) / kLanes;  // of all heads
  const int lane = static_cast<int>(threadIdx.x) % kLanes;
  const int64_t rows = int64_t{p.shape.batch} * p.shape.heads * padded;
  const int query = static_cast<int>(row % padded);
  const bool exists = row < rows && query < p.shape.queries;
  const int head = static_cast<int>(row / padded % p.shape.heads);
  const int batch = static_cast<int>(row / padded / p.shape.heads);
  float delta = 0.f;
  if (exists) {
    const T* const dout = head_of<const T>(p.dout, batch, head) + query * p.dout.row;
    const T* const out = head_of<const T>(p.out, batch, head) + query * p.out.row;
    const auto add = [&](auto count) {
      constexpr int kCount = decltype(count)::value;
      for (int column = lane * kCount; column < p.shape.columns; column += kLanes * kCount) {
        float a[kCount], b[kCount];
        load_values<kCount>(dout + column, a);
        load_values<kCount>(out + column, b);
        UNROLL for (int i = 0; i < kCount; ++i) delta += a[i] * b[i];
      }
    };
    if (vectors)
      add(std::integral_constant<int, kVector<T>>());
    else
      add(std::integral_constant<int, 1>());
  }
  UNROLL for (int mask = kLanes / 2; mask > 0; mask /= 2) delta += shuffle_xor(delta, mask);
  if (lane != 0 || row >= rows) return;
  const float lse =
      exists ? p.lse.data[batch * p.lse.batch + head * p.lse.head + query] : -kInfinity;
  p.statistics[row] = lse == -kInfinity ? kInfinity : lse * kLog2E;
  p.statistics[rows + row] = delta;
}

template <int kWidth>
union KeyGradientShared {
  static constexpr AttentionTile kTile = kAttentionKeyGradient<kWidth>;
  struct Passing {
    Tile<kTile.other, kWidth> q, dout;
    alignas(16) float base[kTile.other];
    alignas(16) float delta[kTile.other];
  };
  struct {
    Tile<kTile.rows, kWidth> k, v;
    Passing passing[2];
  } tiles;
  Stage<kTile.rows, kAttentionKeyGradientColumns<kWidth>> stage;
};

// dk and dv of the keys that a block owns: the scores stand transposed, a row is a key, so that
// weights and their gradients are in place for the products with dout and q. Queries of all heads
// of the group pass by, two tiles in flight.
template <typename T, int kWidth>
__global__ void __launch_bounds__(kAttentionThreads, kAttentionKeyGradient<kWidth>.min_blocks)
    attention_backward_keys(const __grid_constant__ Backward p, bool vectors) {
  constexpr AttentionTile kTile = kAttentionKeyGradient<kWidth>;
  constexpr int kRows = kTile.rows, kQueries = kTile.other, kStrips = kTile.strips;
  constexpr int kColumns = kAttentionKeyGradientColumns<kWidth>, kParts = kWidth / kColumns;
  SMEM(KeyGradientShared<kWidth>, shared);
  auto& [k, v, passing] = shared.tiles;
  const AttentionShape& shape = p.shape;
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;

  const int part = static_cast<int>(blockIdx.x) % kParts;
  const int blocks = (shape.keys + kRows - 1) / kRows, heads = shape.heads / shape.group;
  const int first = static_cast<int>(blockIdx.x) / kParts % blocks * kRows;
  const int kv_head = static_cast<int>(blockIdx.x) / kParts / blocks % heads;
  const int batch = static_cast<int>(blockIdx.x) / kParts / blocks / heads;
  const Sight sight = sight_of(shape, batch);

  // the tiles of queries that see the first of these keys, of each head of the group
  const int from = first - sight.shift > 0 ? (first - sight.shift) / kQueries : 0;
  const int tiles = (shape.queries + kQueries - 1) / kQueries - from;
  const int steps = first < sight.keys && tiles > 0 ? tiles * shape.group : 0;
  const auto load_queries = [&](int step) {
    auto& [q, dout, base, delta] = passing[step % 2];
    const int head = kv_head * shape.group + step / tiles;
    const int query = (from + step % tiles) * kQueries;
    const T* const q_rows = head_of<const T>(p.q, batch, head);
    const T* const dout_rows = head_of<const T>(p.dout, batch, head);
    load_tile<T>(q, shape.columns, vectors, [&](int row) {
      return query + row < shape.queries ? q_rows + (query + row) * p.q.row : nullptr;
    });
    load_tile<T>(dout, shape.columns, vectors, [&](int row) {
      return query + row < shape.queries ? dout_rows + (query + row) * p.dout.row : nullptr;
    });
    const int at = static_cast<int>(threadIdx.x) * 4;
    if (at < kQueries) {
      const Statistics statistics = statistics_of(p, batch, head);
      cp_async<16>(shared_address(base + at), statistics.base + query + at, 16);
      cp_async<16>(shared_address(delta + at), statistics.delta + query + at, 16);
    }
    cp_async_commit();
  };
  if (steps > 0) {
    const T* const k_rows = head_of<const T>(p.k, batch, kv_head);
    const T* const v_rows = head_of<const T>(p.v, batch, kv_head);
    load_tile<T>(k, shape.columns, vectors, [&](int row) {
      return first + row < sight.keys ? k_rows + (first + row) * p.k.row : nullptr;
    });
    load_tile<T>(v, shape.columns, vectors, [&](int row) {
      return first + row < sight.keys ? v_rows + (first + row) * p.v.row : nullptr;
    });
    load_queries(0);
  }

  const int first_of_warp = first + warp * kStrips * 16;
  const auto key = [&](int m, int half) { return first_of_warp + m * 16 + half * 8 + lane / 4; };
  const uint32_t k_lanes = moved<kRows>(lanes_by_row(k), warp * kStrips * 16, 0);
  const uint32_t v_lanes = k_lanes + sizeof k;
  const float factor = shape.scale * kLog2E;
  float dk[kStrips][kColumns / 8][4] = {}, dv[kStrips][kColumns / 8][4] = {};

  for (int step = 0; step < steps; ++step) {
    cp_async_wait<0>();
    __syncthreads();  // this tile is there, and the one before was read
    if (step + 1 < steps) load_queries(step + 1);
    const int query = (from + step % tiles) * kQueries;
    // causal: the tile may lie before what sees any key of this warp
    if (query + kQueries - 1 + sight.shift < first_of_warp) continue;
    const auto& [q, dout, base, delta] = passing[step % 2];
    float weights[kStrips][kQueries / 8][4] = {}, dscores[kStrips][kQueries / 8][4] = {};
    multiply_rows<T, kWidth, kQueries>(
        weights,
        [&](uint32_t(&a)[4], int m, int column) {
          ldmatrix_x4(a, moved<kRows>(k_lanes, m * 16, column));
        },
        lanes_by_chunk(q));
    multiply_rows<T, kWidth, kQueries>(
        dscores,
        [&](uint32_t(&a)[4], int m, int column) {
          ldmatrix_x4(a, moved<kRows>(v_lanes, m * 16, column));
        },
        lanes_by_chunk(dout));
    // keys beyond the length are rows of their own, zeroed at the end
    const int reach = query + sight.shift - first_of_warp;
    const bool whole = reach >= kStrips * 16 - 1;
    UNROLL for (int n = 0; n < kQueries / 8; ++n) {
      const int column = n * 8 + lane % 4 * 2;
      const uint2 two_base = lds64(shared_address(base + column));
      const uint2 two_delta = lds64(shared_address(delta + column));
      UNROLL for (int m = 0; m < kStrips; ++m) UNROLL for (int i = 0; i < 4; ++i) {
        float& weight = weights[m][n][i];
        float& dscore = dscores[m][n][i];
        weight = ex2(weight * factor - as_float(i % 2 == 0 ? two_base.x : two_base.y));
        dscore = weight * (dscore - as_float(i % 2 == 0 ? two_delta.x : two_delta.y));
        if (!whole && m * 16 + i / 2 * 8 + lane / 4 > reach + column + i % 2) weight = dscore = 0.f;
      }
    }
    multiply_weights<T, kQueries>(dv, weights, lanes_by_row(dout), part * (kColumns / 16));
    multiply_weights<T, kQueries>(dk, dscores, lanes_by_row(q), part * (kColumns / 16));
  }

  // a key beyond the length has no gradient, whatever 0 times a NaN has added
  UNROLL for (int m = 0; m < kStrips; ++m) UNROLL for (int n = 0; n < kColumns / 8; ++n)
      UNROLL for (int i = 0; i < 4; ++i) {
    const bool seen = key(m, i / 2) < sight.keys;
    dk[m][n][i] = seen ? dk[m][n][i] * shape.scale : 0.f;
    dv[m][n][i] = seen ? dv[m][n][i] : 0.f;
  }
  const auto store = [&](const HeadRows& to, const auto& sums, bool add) {
    if (to.data == nullptr) return;
    T* const rows = head_of<T>(to, batch, kv_head) + part * kColumns;
    store_rows<T, kRows>(
        shared.stage, sums, shape.columns - part * kColumns, add, vectors, [&](int row) {
          return first + row < shape.keys ? rows + (first + row) * to.row : nullptr;
        });
  };
  store(p.dk, dk, p.add_dk);
  store(p.dv, dv, p.add_dv);
}

template <int kWidth>
union QueryGradientShared {
  static constexpr AttentionTile kTile = kAttentionQueryGradient<kWidth>;
  struct Passing {
    Tile<kTile.other, kWidth> k, v;
  };
  struct {
    Tile<kTile.rows, kWidth> q, dout;
    Passing passing[2];
  } tiles;
  Stage<kTile.rows, kWidth> stage;
};

// dq of the queries that a block owns: scores once more, 7 products in all where atomic additions
// to dq would need 5, but every sum has one order and no f32 copy of dq is needed.
template <typename T, int kWidth>
__global__ void __launch_bounds__(kAttentionThreads, kAttentionQueryGradient<kWidth>.min_blocks)
    attention_backward_queries(const __grid_constant__ Backward p, bool vectors) {
  constexpr AttentionTile kTile = kAttentionQueryGradient<kWidth>;
  constexpr int kRows = kTile.rows, kKeys = kTile.other, kStrips = kTile.strips;
  SMEM(QueryGradientShared<kWidth>, shared);
  auto& [q, dout, passing] = shared.tiles;
  const AttentionShape& shape = p.shape;
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;

  const int blocks = (shape.queries + kRows - 1) / kRows;
  const int first = (blocks - 1 - static_cast<int>(blockIdx.x) % blocks) * kRows;
  const int head = static_cast<int>(blockIdx.x) / blocks % shape.heads;
  const int batch = static_cast<int>(blockIdx.x) / blocks / shape.heads;
  const Sight sight = sight_of(shape, batch);
  const int last = Sight::min_of(first + kRows, shape.queries) - 1;
  const int tiles = (sight.limit(last) + kKeys - 1) / kKeys;  // 0 or less: nothing is seen

  const T* const k_rows = head_of<const T>(p.k, batch, head / shape.group);
  const T* const v_rows = head_of<const T>(p.v, batch, head / shape.group);
  const auto load_keys = [&](int tile) {
    const int key = tile * kKeys;
    load_tile<T>(passing[tile % 2].k, shape.columns, vectors, [&](int row) {
      return key + row < sight.keys ? k_rows + (key + row) * p.k.row : nullptr;
    });
    load_tile<T>(passing[tile % 2].v, shape.columns, vectors, [&](int row) {
      return key + row < sight.keys ? v_rows + (key + row) * p.v.row : nullptr;
    });
    cp_async_commit();
  };
  if (tiles > 0) {
    const T* const q_rows = head_of<const T>(p.q, batch, head);
    const T* const dout_rows = head_of<const T>(p.dout, batch, head);
    load_tile<T>(q, shape.columns, vectors, [&](int row) {
      return first + row < shape.queries ? q_rows + (first + row) * p.q.row : nullptr;
    });
    load_tile<T>(dout, shape.columns, vectors, [&](int row) {
      return first + row < shape.queries ? dout_rows + (first + row) * p.dout.row : nullptr;
    });
    load_keys(0);
  }

  const int first_of_warp = first + warp * kStrips * 16;
  const auto query = [&](int m, int half) { return first_of_warp + m * 16 + half * 8 + lane / 4; };
  const uint32_t q_lanes = moved<kRows>(lanes_by_row(q), warp * kStrips * 16, 0);
  const uint32_t dout_lanes = moved<kRows>(lanes_by_row(dout), warp * kStrips * 16, 0);
  const float factor = shape.scale * kLog2E;
  const Statistics statistics = statistics_of(p, batch, head);
  float base[kStrips][2], delta[kStrips][2];
  UNROLL for (int m = 0; m < kStrips; ++m) UNROLL for (int half = 0; half < 2; ++half) {
    base[m][half] = statistics.base[query(m, half)];
    delta[m][half] = statistics.delta[query(m, half)];
  }
  float dq[kStrips][kWidth / 8][4] = {};

  for (int tile = 0; tile < tiles; ++tile) {
    const int key = tile * kKeys;
    cp_async_wait<0>();
    __syncthreads();  // this tile is there, and the one before was read
    if (tile + 1 < tiles) load_keys(tile + 1);
    if (key >= sight.limit(first_of_warp + kStrips * 16 - 1)) continue;  // beyond all of this warp
    const auto& [k, v] = passing[tile % 2];
    float weights[kStrips][kKeys / 8][4] = {}, dscores[kStrips][kKeys / 8][4] = {};
    multiply_rows<T, kWidth, kKeys>(
        weights,
        [&](uint32_t(&a)[4], int m, int column) {
          ldmatrix_x4(a, moved<kRows>(q_lanes, m * 16, column));
        },
        lanes_by_chunk(k));
    multiply_rows<T, kWidth, kKeys>(
        dscores,
        [&](uint32_t(&a)[4], int m, int column) {
          ldmatrix_x4(a, moved<kRows>(dout_lanes, m * 16, column));
        },
        lanes_by_chunk(v));
    const bool whole = key + kKeys <= sight.limit(first_of_warp);
    UNROLL for (int m = 0; m < kStrips; ++m) UNROLL for (int n = 0; n < kKeys / 8; ++n)
        UNROLL for (int i = 0; i < 4; ++i) {
      const float weight = ex2(weights[m][n][i] * factor - base[m][i / 2]);
      float& dscore = dscores[m][n][i];
      dscore = weight * (dscore - delta[m][i / 2]);
      if (!whole && key + n * 8 + lane % 4 * 2 + i % 2 >= sight.limit(query(m, i / 2)))
        dscore = 0.f;
    }
    multiply_weights<T, kKeys>(dq, dscores, lanes_by_row(k));
  }

  UNROLL for (int m = 0; m < kStrips; ++m) UNROLL for (int n = 0; n < kWidth / 8; ++n)
      UNROLL for (int i = 0; i < 4; ++i) dq[m][n][i] *= shape.scale;
  T* const rows = head_of<T>(p.dq, batch, head);
  store_rows<T, kRows>(shared.stage, dq, shape.columns, p.add_dq, vectors, [&](int row) {
    return first + row < shape.queries ? rows + (first + row) * p.dq.row : nullptr;
  });
}

// ---- launchers ----

namespace {

template <typename T, int kWidth>
cudaError_t forward(cudaStream_t stream, const Forward& p) {
  constexpr AttentionTile kTile = kAttentionForward<kWidth>;
  const int64_t blocks =
      attention_blocks(p.shape.queries, kTile.rows, int64_t{p.shape.batch} * p.shape.heads);
  if (blocks == 0) return cudaErrorInvalidConfiguration;
  const bool vectors = attention_aligned(p.shape, sizeof(T), {&p.q, &p.k, &p.v, &p.out});
  return launch("attention_forward", attention_forward_tiles<T, kWidth>,
                static_cast<unsigned>(blocks), kAttentionThreads, sizeof(ForwardShared<kWidth>),
                stream, p, vectors);
}

template <typename T>
cudaError_t statistics(cudaStream_t stream, const Backward& p) {
  constexpr int kRows = kAttentionThreads / 8;
  const int64_t blocks =
      attention_padded_queries(p.shape.queries) / kRows * p.shape.batch * p.shape.heads;
  if (blocks > INT_MAX) return cudaErrorInvalidConfiguration;
  return launch("attention_backward_rows", attention_backward_rows<T>,
                static_cast<unsigned>(blocks), kAttentionThreads, 0, stream, p,
                attention_aligned(p.shape, sizeof(T), {&p.dout, &p.out}));
}

template <typename T, int kWidth>
cudaError_t backward(cudaStream_t stream, const Backward& p) {
  const bool vectors =
      attention_aligned(p.shape, sizeof(T), {&p.q, &p.k, &p.v, &p.dout, &p.dq, &p.dk, &p.dv});
  const int64_t batch = p.shape.batch;
  if (p.dk.data != nullptr || p.dv.data != nullptr) {
    constexpr int kParts = kWidth / kAttentionKeyGradientColumns<kWidth>;
    const int64_t blocks = attention_blocks(p.shape.keys, kAttentionKeyGradient<kWidth>.rows,
                                            batch * p.shape.heads / p.shape.group * kParts);
    if (blocks == 0) return cudaErrorInvalidConfiguration;
    const cudaError_t error = launch("attention_backward_keys", attention_backward_keys<T, kWidth>,
                                     static_cast<unsigned>(blocks), kAttentionThreads,
                                     sizeof(KeyGradientShared<kWidth>), stream, p, vectors);
    if (error != cudaSuccess) return error;
  }
  if (p.dq.data == nullptr) return cudaSuccess;
  const int64_t blocks = attention_blocks(p.shape.queries, kAttentionQueryGradient<kWidth>.rows,
                                          batch * p.shape.heads);
  if (blocks == 0) return cudaErrorInvalidConfiguration;
  return launch("attention_backward_queries", attention_backward_queries<T, kWidth>,
                static_cast<unsigned>(blocks), kAttentionThreads,
                sizeof(QueryGradientShared<kWidth>), stream, p, vectors);
}

}  // namespace

cudaError_t attention_forward(cudaStream_t stream, ElementType type, const AttentionForward& p) {
  if (!attention_valid(p.shape)) return cudaErrorInvalidValue;
  if (int64_t{p.shape.batch} * p.shape.heads * p.shape.queries == 0) return cudaSuccess;
  if (type == ElementType::kF32) return attention_forward_f32(stream, p);
  return with_attention_width(p.shape.columns, [&](auto width) {
    constexpr int kWidth = decltype(width)::value;
    return type == ElementType::kF16 ? forward<__half, kWidth>(stream, p)
                                     : forward<__nv_bfloat16, kWidth>(stream, p);
  });
}

size_t attention_backward_scratch_bytes(const AttentionShape& shape) {
  return static_cast<size_t>(shape.batch) * static_cast<size_t>(shape.heads) *
         static_cast<size_t>(attention_padded_queries(shape.queries)) * 2 * sizeof(float);
}

cudaError_t attention_backward(cudaStream_t stream, ElementType type,
                               const AttentionBackward& args) {
  Backward p = args;
  if (!attention_valid(p.shape)) return cudaErrorInvalidValue;
  const int64_t heads = int64_t{p.shape.batch} * p.shape.heads;
  if (heads * p.shape.queries == 0) p.dq.data = nullptr;
  if (heads * p.shape.keys == 0) p.dk.data = p.dv.data = nullptr;
  if (p.dq.data == nullptr && p.dk.data == nullptr && p.dv.data == nullptr) return cudaSuccess;
  if (heads * p.shape.queries > 0) {
    const cudaError_t error = type == ElementType::kF32   ? statistics<float>(stream, p)
                              : type == ElementType::kF16 ? statistics<__half>(stream, p)
                                                          : statistics<__nv_bfloat16>(stream, p);
    if (error != cudaSuccess) return error;
  }
  if (type == ElementType::kF32) return attention_backward_f32(stream, p);
  return with_attention_width(p.shape.columns, [&](auto width) {
    constexpr int kWidth = decltype(width)::value;
    return type == ElementType::kF16 ? backward<__half, kWidth>(stream, p)
                                     : backward<__nv_bfloat16, kWidth>(stream, p);
  });
}

}  // namespace gatun::kernels
