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
//          own keys (dk, dv), one whose blocks own queries (dq); both compute the scores. Or, by
//          name (dq_atomic), the first adds dq, too, to sums in f32. Sizes and reasons in tiles.h.
// packed   Sequences in one row: tiles are of one sequence each, found from the starts alone.
// data     cp.async of 16 bytes into swizzled tiles, ldmatrix without bank conflicts, results
//          through shared memory as f32, so that they leave in whole sectors. Unaligned rows are
//          read and written element by element.
// limits   up to 256 columns, padded to 32, 64, 96, 128 or 256; dq_atomic up to 128. Without it bit
//          for bit the same every time: no atomics, 7 products in the backward pass instead of 5.
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

// ---- packed sequences ----

constexpr int kStartsThreads = 256;
using StartsShared = GroupParts<kStartsThreads, 1>;

// Block 0 the queries', block 1 the keys' starts: copied, with the number of rows behind them, so
// that the rows that belong to no sequence are one more. Where one is wrong a thread puts them
// right in their order.
__global__ void __launch_bounds__(kStartsThreads)
    attention_starts(const __grid_constant__ AttentionShape shape, int32_t* to) {
  SMEM(StartsShared, parts);
  const PackedSequences& packed = shape.packed;
  const bool keys = blockIdx.x == 1;
  const int32_t* const from = keys ? packed.k_starts : packed.q_starts;
  const int rows = keys ? shape.keys : shape.queries;
  if (keys) to += packed.count + 2;
  const auto start_of = [&](int i) { return static_cast<int>(ld32(from + i)); };
  const auto put = [&](int i, int start) { st32(to + i, static_cast<uint32_t>(start)); };
  float wrong[1] = {};
  for (int i = static_cast<int>(threadIdx.x); i <= packed.count; i += kStartsThreads) {
    const int start = start_of(i);
    if (i == 0 ? start != 0 : start < start_of(i - 1) || start > rows) wrong[0] = 1.f;
    put(i, start);
  }
  int phase = 0;
  group_sum<kStartsThreads>(wrong, parts, phase);
  if (threadIdx.x != 0) return;
  put(packed.count + 1, rows);
  if (wrong[0] == 0.f) return;
  for (int i = 0, least = 0; i <= packed.count; ++i) {
    const int most = i == 0 ? 0 : rows, start = start_of(i);
    const int right = start < least ? least : Sight::min_of(start, most);
    if (start != right)
      report_fault(packed.faults,
                   keys ? FaultKind::kAttentionKeyStart : FaultKind::kAttentionQueryStart, i, start,
                   least, most);
    put(i, right);
    least = right;
  }
}

// ---- forward ----

template <int kWidth>
union ForwardShared {
  static constexpr AttentionTile kTile = kAttentionForward<kWidth>;
  struct {
    Tile<kTile.rows, kWidth> q;
    KeyTiles<kTile.other, kWidth> passing[2];
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

// A block owns queries of one head. Keys pass by in two tiles in flight, from the last to the
// first, so that the tiles with hidden keys come first.
template <typename T, int kWidth>
__global__ void __launch_bounds__(kAttentionThreads, kAttentionForward<kWidth>.min_blocks)
    attention_forward_tiles(const __grid_constant__ Forward p, bool vectors) {
  constexpr AttentionTile kTile = kAttentionForward<kWidth>;
  constexpr int kRows = kTile.rows, kKeys = kTile.other, kStrips = kTile.strips;
  constexpr bool kInRegisters = kAttentionQueriesInRegisters<kWidth>;
  SMEM(ForwardShared<kWidth>, shared);
  auto& [q, passing] = shared.tiles;
  const AttentionShape& shape = p.shape;
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;

  const Share share = share_of_queries(shape, kRows, static_cast<int>(blockIdx.x));
  const auto& [head, first, sequence] = share;
  if (first >= sequence.queries) return;  // packed
  const Sight sight = sequence.sight;
  const T* const k_rows = keys_of<const T>(p.k, sequence, head / shape.group);
  const T* const v_rows = keys_of<const T>(p.v, sequence, head / shape.group);
  const auto load_keys = [&](int tile) {
    load_pair<T>(passing[tile % 2], shape.columns, vectors,
                 TileRows{k_rows, p.k.row, tile * kKeys, sight.keys},
                 TileRows{v_rows, p.v.row, tile * kKeys, sight.keys});
  };
  const int last = Sight::min_of(first + kRows, sequence.queries) - 1;
  const int tiles = (sight.limit(last) + kKeys - 1) / kKeys;  // 0 or less: nothing is seen
  if (tiles > 0) {
    load_tile<T>(
        q, shape.columns, vectors,
        TileRows{queries_of<const T>(p.q, sequence, head), p.q.row, first, sequence.queries});
    load_keys(tiles - 1);
  }

  const int first_of_warp = first + warp * kStrips * 16;
  const auto query = [&](int m, int half) { return first_of_warp + m * 16 + half * 8 + lane / 4; };
  const uint32_t q_lanes = moved<kRows>(lanes_by_row(q), warp * kStrips * 16, 0);
  const float factor = fabsf(shape.scale) * kLog2E, sign = shape.scale < 0 ? -1.f : 1.f;
  float out[kStrips][kWidth / 8][4] = {};
  Softmax<kStrips> softmax;
  uint32_t queries[kInRegisters ? kWidth / 16 : 1][kStrips][4];

  for (int tile = tiles - 1; tile >= 0; --tile) {
    const int key = tile * kKeys;
    cp_async_wait<0>();
    __syncthreads();  // this tile is there, and the one before was read
    if (tile > 0) load_keys(tile - 1);
    if (kInRegisters && tile == tiles - 1)
      UNROLL for (int step = 0; step < kWidth / 16; ++step) UNROLL for (int m = 0; m < kStrips; ++m)
          ldmatrix_x4(queries[kInRegisters ? step : 0][m], moved<kRows>(q_lanes, m * 16, step));
    if (key >= sight.limit(first_of_warp + kStrips * 16 - 1)) continue;  // beyond all of this warp
    const auto& [k, v] = passing[tile % 2];
    float scores[kStrips][kKeys / 8][4] = {};
    multiply_rows<T, kWidth, kKeys>(
        scores,
        [&](uint32_t(&a)[4], int m, int step) {
          if constexpr (kInRegisters)
            UNROLL for (int i = 0; i < 4; ++i) a[i] = queries[step][m][i];
          else
            ldmatrix_x4(a, moved<kRows>(q_lanes, m * 16, step));
        },
        lanes_by_chunk(k));
    if (key + kKeys > sight.limit(first_of_warp) || sign < 0.f)
      hide(scores, sight, key, sign, query);
    softmax.update(scores, out, factor);
    multiply_weights<T, kKeys>(out, scores, lanes_by_row(v));
  }

  softmax.finish();
  UNROLL for (int m = 0; m < kStrips; ++m) UNROLL for (int half = 0; half < 2; ++half) {
    const float mass = softmax.mass[m][half];
    const bool blind = mass == 0.f;
    const float inverse = blind ? 0.f : 1.f / mass;
    UNROLL for (int n = 0; n < kWidth / 8; ++n) UNROLL for (int i = 0; i < 2; ++i)
        out[m][n][half * 2 + i] *= inverse;
    if (p.lse.data != nullptr && lane % 4 == 0 && query(m, half) < sequence.queries)
      lse_of(p.lse, sequence, head)[query(m, half)] =
          blind ? -kInfinity : (softmax.peak[m][half] * factor + lg2(mass)) * kLn2;
  }
  store_rows<T, kRows>(
      shared.stage, out, shape.columns, false, vectors,
      TileRows{queries_of<T>(p.out, sequence, head), p.out.row, first, sequence.queries});
}

// ---- backward ----

// Sixteen padded queries, a block's in what passes over them before and after the products.
constexpr int kBlockQueries = kAttentionThreads / kAttentionRowLanes;
static_assert(kBlockQueries == 16 && kAttentionStatisticRows % kBlockQueries == 0,
              "a strip of a product, of one sequence");

__device__ __forceinline__ Share share_of_padded(const Backward& p) {
  const AttentionShape& shape = p.shape;
  const int64_t row = int64_t{blockIdx.x} * kBlockQueries;
  const int at = static_cast<int>(row % p.padded_queries);
  const int head = static_cast<int>(row / p.padded_queries);
  int number = head / shape.heads;
  if (shape.packed.q_starts != nullptr)
    number = sequence_of(shape.packed.q_starts, shape.packed.count, kAttentionStatisticRows,
                         at / kAttentionStatisticRows);
  const Sequence sequence = sequence_at(shape, number);
  return {head % shape.heads, at - sequence.padded, sequence};
}

// The statistics: eight lanes a row. The sums of dq become 0.
template <typename T>
__global__ void __launch_bounds__(kAttentionThreads)
    attention_backward_rows(const __grid_constant__ Backward p, bool vectors) {
  constexpr int kLanes = kAttentionRowLanes;
  const int thread = static_cast<int>(threadIdx.x), lane = thread % kLanes;
  const auto [head, first, sequence] = share_of_padded(p);
  const int query = first + thread / kLanes;
  const bool exists = query < sequence.queries;
  float delta = 0.f;
  if (exists) {
    const T* const dout = queries_of<const T>(p.dout, sequence, head) + query * p.dout.row;
    const T* const out = queries_of<const T>(p.out, sequence, head) + query * p.out.row;
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
  const int64_t row = int64_t{blockIdx.x} * kBlockQueries + thread / kLanes;
  if (p.dq_sums != nullptr)
    for (int column = lane * 4; column < p.padded_columns; column += kLanes * 4)
      st128(p.dq_sums + row * p.padded_columns + column, uint4{});
  if (lane != 0) return;
  const float lse = exists ? lse_of(p.lse, sequence, head)[query] : -kInfinity;
  p.statistics[row] = lse == -kInfinity ? kInfinity : lse * kLog2E;
  p.statistics[int64_t{gridDim.x} * kBlockQueries + row] = delta;
}

// dq from its sums, which lie as the products left them: 16 rows and 8 columns are 128 numbers,
// [element of a lane][lane]. A warp takes 8 rows and 16 columns, four columns a lane.
template <typename T>
__global__ void __launch_bounds__(kAttentionThreads)
    attention_backward_dq(const __grid_constant__ Backward p, bool vectors) {
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const auto [head, first, sequence] = share_of_padded(p);
  const int half = warp % 2;
  const int query = first + half * 8 + lane / 4;
  if (query >= sequence.queries) return;
  T* const dq = queries_of<T>(p.dq, sequence, head) + query * p.dq.row;
  const float* const sums = p.dq_sums + int64_t{blockIdx.x} * kBlockQueries * p.padded_columns;
  for (int column = warp / 2 * 16 + lane % 4 * 4; column < p.shape.columns; column += 32) {
    const float* const from = sums + column / 8 * 128 + half * 64 + lane / 4 * 4 + lane % 2 * 2;
    const uint2 even = ld64(from), odd = ld64(from + 32);
    float v[4] = {as_float(even.x), as_float(odd.x), as_float(even.y), as_float(odd.y)};
    UNROLL for (int i = 0; i < 4; ++i) v[i] *= p.shape.scale;
    put_four(dq + column, v, p.shape.columns - column, p.add_dq, vectors);
  }
}

struct Nothing {};

template <int kWidth, bool kAtomic>
struct KeyGradientShared {
  static constexpr AttentionTile kTile = kAttentionKeyGradient<kWidth>;
  struct Passing {
    Tile<kTile.other, kWidth> q, dout;
    alignas(16) float base[kTile.other];
    alignas(16) float delta[kTile.other];
  };
  struct Tiles {
    Tile<kTile.rows, kWidth> k, v;
    Passing passing[2];
    // gradients of the scores, [key][query], for dq
    [[no_unique_address]] std::conditional_t<kAtomic, Tile<kTile.rows, kTile.other>, Nothing> ds;
  };
  union {
    Tiles tiles;
    Stage<kTile.rows, kAttentionKeyGradientColumns<kWidth>> stage;
  };
  Share share;  // here, since registers are short
};

// dq of one tile of queries from the first `keys` of a block: each warp multiplies 16 of its rows
// with all of those keys and adds to 16 rows of sums, where its lanes' elements lie side by side.
template <typename T, int kKeys, int kQueries, int kWidth>
__device__ __forceinline__ void add_dq(float* sums, const Tile<kKeys, kQueries>& ds,
                                       const Tile<kKeys, kWidth>& k, int keys) {
  constexpr int kStrips = kQueries / 16, kGroups = kWidth / 8 * kStrips / kAttentionWarps;
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int strip = warp % kStrips, group = warp / kStrips * kGroups;
  const uint32_t ds_lanes = moved<kKeys>(lanes_by_chunk(ds), 0, strip);
  const uint32_t k_lanes = moved<kKeys>(lanes_by_row(k), 0, group / 2);
  float dq[kGroups][4] = {};
  const auto multiply = [&](int key) {
    uint32_t a[4];
    ldmatrix_x4_transposed(a, moved<kKeys>(ds_lanes, key, 0));
    UNROLL for (int n = 0; n < kGroups; n += 2) {
      uint32_t b[4];
      ldmatrix_x4_transposed(b, moved<kKeys>(k_lanes, key, n / 2));
      const uint32_t left[2] = {b[0], b[1]}, right[2] = {b[2], b[3]};
      mma_m16n8k16(dq[n], a, left, T());
      mma_m16n8k16(dq[n + 1], a, right, T());
    }
  };
  if (keys == kKeys)
    UNROLL for (int key = 0; key < kKeys; key += 16) multiply(key);
  else
    ROLLED for (int key = 0; key < keys; key += 16) multiply(key);
  float* const to = sums + strip * 16 * kWidth + group * 128 + lane;
  UNROLL for (int n = 0; n < kGroups; ++n) UNROLL for (int i = 0; i < 4; ++i)
      atomic_add(to + n * 128 + i * 32, dq[n][i]);
}

// dk and dv of the keys that a block owns: the scores stand transposed, a row is a key, so that
// weights and their gradients are in place for the products with dout and q. Queries of all heads
// of the group pass by, two tiles in flight. Atomic: dq of a tile that passes by is a fifth
// product, for which all warps' gradients of scores meet in shared memory.
template <typename T, int kWidth, bool kAtomic>
__global__ void __launch_bounds__(kAttentionThreads, kAttentionKeyGradient<kWidth>.min_blocks)
    attention_backward_keys(const __grid_constant__ Backward p, bool vectors) {
  constexpr AttentionTile kTile = kAttentionKeyGradient<kWidth>;
  constexpr int kRows = kTile.rows, kQueries = kTile.other, kStrips = kTile.strips;
  constexpr int kColumns = kAttentionKeyGradientColumns<kWidth>, kParts = kWidth / kColumns;
  static_assert(!kAtomic || kParts == 1, "each query's gradient is added once");
  using Shared = KeyGradientShared<kWidth, kAtomic>;
  SMEM(Shared, shared);
  auto& [k, v, passing, ds] = shared.tiles;
  const AttentionShape& shape = p.shape;
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;

  const int part = static_cast<int>(blockIdx.x) % kParts;
  if (threadIdx.x < 32) {
    const Share share = share_of_keys(shape, kRows, static_cast<int>(blockIdx.x) / kParts);
    if (lane == 0) shared.share = share;
  }
  __syncthreads();
  const auto& [kv_head, first, sequence] = shared.share;
  if (first >= sequence.keys) return;  // packed
  const Sight& sight = sequence.sight;

  // tiles of queries pass by from the first that sees one of these keys, of each head of the group
  const auto from = [&] {
    return first - sight.shift > 0 ? (first - sight.shift) / kQueries * kQueries : 0;
  };
  const auto end = [&] { return (kv_head + 1) * shape.group; };
  struct Step {
    int head, query;
  };
  const auto after = [&](Step step) {
    step.query += kQueries;
    return step.query < sequence.queries ? step : Step{step.head + 1, from()};
  };
  const auto load_queries = [&](const Step& step, int buffer) {
    auto& [q, dout, base, delta] = passing[buffer];
    const auto load = [&](auto& tile, const HeadRows& rows) {
      load_tile<T>(tile, shape.columns, vectors,
                   TileRows{queries_of<const T>(rows, sequence, step.head), rows.row, step.query,
                            sequence.queries});
    };
    load(q, p.q);
    load(dout, p.dout);
    const int at = static_cast<int>(threadIdx.x) * 4;
    if (at < kQueries) {
      const Statistics statistics = statistics_of(p, sequence, step.head);
      cp_async<16>(shared_address(base + at), statistics.base + step.query + at, 16);
      cp_async<16>(shared_address(delta + at), statistics.delta + step.query + at, 16);
    }
    cp_async_commit();
  };
  Step step = {end(), from()};
  if (first < sight.keys && step.query < sequence.queries) {
    step.head = kv_head * shape.group;
    const auto load = [&](auto& tile, const HeadRows& rows) {
      load_tile<T>(
          tile, shape.columns, vectors,
          TileRows{keys_of<const T>(rows, sequence, kv_head), rows.row, first, sight.keys});
    };
    load(k, p.k);
    load(v, p.v);
    load_queries(step, 0);
  }

  const int first_of_warp = first + warp * kStrips * 16;
  const auto key = [&](int m, int half) { return first_of_warp + m * 16 + half * 8 + lane / 4; };
  const uint32_t k_lanes = moved<kRows>(lanes_by_row(k), warp * kStrips * 16, 0);
  const uint32_t v_lanes = k_lanes + sizeof k;
  const float factor = shape.scale * kLog2E;
  float dk[kStrips][kColumns / 8][4] = {}, dv[kStrips][kColumns / 8][4] = {};

  for (int buffer = 0; step.head < end(); buffer ^= 1) {
    cp_async_wait<0>();
    __syncthreads();  // this tile is there, and the one before was read
    const Step next = after(step);
    if (next.head < end()) load_queries(next, buffer ^ 1);
    const int query = step.query;
    // causal: the tile may lie before what sees any key of this warp
    if (query + kQueries - 1 + sight.shift >= first_of_warp) {
      const auto& [q, dout, base, delta] = passing[buffer];
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
      // The first columns, of queries, do not see a row's key. Keys beyond the length are rows of
      // their own, zeroed at the end; but dq has all in one sum.
      int hidden[kStrips][2];
      UNROLL for (int m = 0; m < kStrips; ++m) UNROLL for (int half = 0; half < 2; ++half) {
        const bool beyond = kAtomic && key(m, half) >= sight.keys;
        hidden[m][half] = (beyond ? kQueries : key(m, half) - query - sight.shift) - lane % 4 * 2;
      }
      UNROLL for (int n = 0; n < kQueries / 8; ++n) {
        const int column = n * 8 + lane % 4 * 2;
        const uint2 two_base = lds64(shared_address(base + column));
        const uint2 two_delta = lds64(shared_address(delta + column));
        UNROLL for (int m = 0; m < kStrips; ++m) UNROLL for (int i = 0; i < 4; ++i) {
          float& weight = weights[m][n][i];
          float& dscore = dscores[m][n][i];
          weight = ex2(weight * factor - as_float(i % 2 == 0 ? two_base.x : two_base.y));
          dscore = weight * (dscore - as_float(i % 2 == 0 ? two_delta.x : two_delta.y));
          if (n * 8 + i % 2 < hidden[m][i / 2]) weight = dscore = 0.f;
        }
      }
      if constexpr (kAtomic) {
        const uint32_t to = shared_address(&ds) + chunk_offset(warp * kStrips * 16 + lane / 4, 0) +
                            static_cast<uint32_t>(lane % 4 * 4);
        UNROLL for (int m = 0; m < kStrips; ++m) UNROLL for (int half = 0; half < 2; ++half)
            UNROLL for (int n = 0; n < kQueries / 8; ++n) {
          const float pair[2] = {dscores[m][n][half * 2], dscores[m][n][half * 2 + 1]};
          sts32((to ^ static_cast<uint32_t>(n % 4 * 16)) +
                    static_cast<uint32_t>((n / 4 * kRows + m * 16 + half * 8) * 64),
                pack(pair, T()));
        }
      }
      multiply_weights<T, kQueries>(dv, weights, lanes_by_row(dout), part * (kColumns / 16));
      multiply_weights<T, kQueries>(dk, dscores, lanes_by_row(q), part * (kColumns / 16));
    }
    if constexpr (kAtomic) {
      __syncthreads();  // ds is there
      // of the warps whose keys some query of the tile sees
      constexpr int kEach = kStrips * 16;
      const int seen = (query + kQueries - 1 + sight.shift - first) / kEach * kEach + kEach;
      const int64_t row = padded_row(p, sequence, step.head) + query;
      add_dq<T>(p.dq_sums + row * kWidth, ds, k, Sight::min_of(seen, kRows));
    }
    step = next;
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
    store_rows<T, kRows>(shared.stage, sums, shape.columns - part * kColumns, add, vectors,
                         TileRows{keys_of<T>(to, sequence, kv_head) + part * kColumns, to.row,
                                  first, sequence.keys});
  };
  store(p.dk, dk, p.add_dk);
  store(p.dv, dv, p.add_dv);
}

template <int kWidth>
union QueryGradientShared {
  static constexpr AttentionTile kTile = kAttentionQueryGradient<kWidth>;
  struct {
    Tile<kTile.rows, kWidth> q, dout;
    KeyTiles<kTile.other, kWidth> passing[2];
  } tiles;
  Stage<kTile.rows, kWidth> stage;
};

// dq of the queries that a block owns: scores once more, but every sum has one order and no f32
// copy of dq is needed.
template <typename T, int kWidth>
__global__ void __launch_bounds__(kAttentionThreads, kAttentionQueryGradient<kWidth>.min_blocks)
    attention_backward_queries(const __grid_constant__ Backward p, bool vectors) {
  constexpr AttentionTile kTile = kAttentionQueryGradient<kWidth>;
  constexpr int kRows = kTile.rows, kKeys = kTile.other, kStrips = kTile.strips;
  SMEM(QueryGradientShared<kWidth>, shared);
  auto& [q, dout, passing] = shared.tiles;
  const AttentionShape& shape = p.shape;
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;

  const Share share = share_of_queries(shape, kRows, static_cast<int>(blockIdx.x));
  const auto& [head, first, sequence] = share;
  if (first >= sequence.queries) return;  // packed
  const Sight sight = sequence.sight;
  const int last = Sight::min_of(first + kRows, sequence.queries) - 1;
  const int tiles = (sight.limit(last) + kKeys - 1) / kKeys;  // 0 or less: nothing is seen

  const T* const k_rows = keys_of<const T>(p.k, sequence, head / shape.group);
  const T* const v_rows = keys_of<const T>(p.v, sequence, head / shape.group);
  const auto load_keys = [&](int tile) {
    load_pair<T>(passing[tile % 2], shape.columns, vectors,
                 TileRows{k_rows, p.k.row, tile * kKeys, sight.keys},
                 TileRows{v_rows, p.v.row, tile * kKeys, sight.keys});
  };
  if (tiles > 0) {
    const auto load = [&](auto& tile, const HeadRows& rows) {
      load_tile<T>(
          tile, shape.columns, vectors,
          TileRows{queries_of<const T>(rows, sequence, head), rows.row, first, sequence.queries});
    };
    load(q, p.q);
    load(dout, p.dout);
    load_keys(0);
  }

  const int first_of_warp = first + warp * kStrips * 16;
  const auto query = [&](int m, int half) { return first_of_warp + m * 16 + half * 8 + lane / 4; };
  const uint32_t q_lanes = moved<kRows>(lanes_by_row(q), warp * kStrips * 16, 0);
  const uint32_t dout_lanes = moved<kRows>(lanes_by_row(dout), warp * kStrips * 16, 0);
  const float factor = shape.scale * kLog2E;
  const Statistics statistics = statistics_of(p, sequence, head);
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
    UNROLL for (int m = 0; m < kStrips; ++m) UNROLL for (int half = 0; half < 2; ++half) {
      const int limit = sight.limit(query(m, half)) - key - lane % 4 * 2;
      UNROLL for (int n = 0; n < kKeys / 8; ++n) UNROLL for (int i = 0; i < 2; ++i) {
        const float weight = ex2(weights[m][n][half * 2 + i] * factor - base[m][half]);
        float& dscore = dscores[m][n][half * 2 + i];
        dscore = n * 8 + i < limit ? weight * (dscore - delta[m][half]) : 0.f;
      }
    }
    multiply_weights<T, kKeys>(dq, dscores, lanes_by_row(k));
  }

  UNROLL for (int m = 0; m < kStrips; ++m) UNROLL for (int n = 0; n < kWidth / 8; ++n)
      UNROLL for (int i = 0; i < 4; ++i) dq[m][n][i] *= shape.scale;
  store_rows<T, kRows>(
      shared.stage, dq, shape.columns, p.add_dq, vectors,
      TileRows{queries_of<T>(p.dq, sequence, head), p.dq.row, first, sequence.queries});
}

// ---- launchers ----

namespace {

size_t starts_bytes(const PackedSequences& packed) {
  if (packed.q_starts == nullptr) return 0;
  return (static_cast<size_t>(packed.count) + 2) * 2 * sizeof(int32_t) / 16 * 16 + 16;
}

// From the caller's starts to those that the kernels go by, in scratch.
cudaError_t pack(cudaStream_t stream, AttentionShape& shape, void* scratch) {
  PackedSequences& packed = shape.packed;
  if (packed.q_starts == nullptr) return cudaSuccess;
  auto* const starts = static_cast<int32_t*>(scratch);
  const cudaError_t error = launch("attention_starts", attention_starts, 2, kStartsThreads,
                                   sizeof(StartsShared), stream, shape, starts);
  ++packed.count;
  packed.q_starts = starts;
  packed.k_starts = starts + packed.count + 1;
  return error;
}

template <typename T, int kWidth>
cudaError_t forward(cudaStream_t stream, const Forward& p) {
  constexpr AttentionTile kTile = kAttentionForward<kWidth>;
  static_assert(shared_fits(sizeof(ForwardShared<kWidth>), kTile.min_blocks,
                            kWidth == 256 ? kSharedOfH100 : kSharedOfA100),
                "at 256 columns, an A100 has room for one block");
  const int64_t blocks = attention_blocks(p.shape.packed, p.shape.queries, kTile.rows,
                                          int64_t{p.shape.batch} * p.shape.heads);
  if (blocks == 0) return cudaErrorInvalidConfiguration;
  const bool vectors = attention_aligned(p.shape, sizeof(T), {&p.q, &p.k, &p.v, &p.out});
  return launch("attention_forward", attention_forward_tiles<T, kWidth>,
                static_cast<unsigned>(blocks), kAttentionThreads, sizeof(ForwardShared<kWidth>),
                stream, p, vectors);
}

// Blocks of what passes over all padded queries.
int64_t padded_blocks(const Backward& p) {
  return p.padded_queries / kBlockQueries * p.shape.batch * p.shape.heads;
}

template <typename T>
cudaError_t statistics(cudaStream_t stream, const Backward& p) {
  const int64_t blocks = padded_blocks(p);
  if (blocks > INT_MAX) return cudaErrorInvalidConfiguration;
  return launch("attention_backward_rows", attention_backward_rows<T>,
                static_cast<unsigned>(blocks), kAttentionThreads, 0, stream, p,
                attention_aligned(p.shape, sizeof(T), {&p.dout, &p.out}));
}

template <typename T, int kWidth, bool kAtomic>
cudaError_t backward_keys(cudaStream_t stream, const Backward& p, bool vectors) {
  constexpr AttentionTile kTile = kAttentionKeyGradient<kWidth>;
  constexpr int kParts = kWidth / kAttentionKeyGradientColumns<kWidth>;
  using Shared = KeyGradientShared<kWidth, kAtomic>;
  static_assert(shared_fits(sizeof(Shared), kTile.min_blocks,
                            kAtomic && kWidth == 96 ? kSharedOfH100 : kSharedOfA100),
                "atomic at 96 columns, an A100 has room for one block");
  const int64_t blocks =
      attention_blocks(p.shape.packed, p.shape.keys, kTile.rows,
                       int64_t{p.shape.batch} * p.shape.heads / p.shape.group * kParts);
  if (blocks == 0) return cudaErrorInvalidConfiguration;
  return launch(kAtomic ? "attention_backward_keys_atomic" : "attention_backward_keys",
                attention_backward_keys<T, kWidth, kAtomic>, static_cast<unsigned>(blocks),
                kAttentionThreads, sizeof(Shared), stream, p, vectors);
}

template <typename T, int kWidth>
cudaError_t backward(cudaStream_t stream, const Backward& p) {
  const bool vectors =
      attention_aligned(p.shape, sizeof(T), {&p.q, &p.k, &p.v, &p.dout, &p.dq, &p.dk, &p.dv});
  if constexpr (kWidth <= kAttentionAtomicColumns)
    if (p.dq_sums != nullptr) {
      const cudaError_t error = backward_keys<T, kWidth, true>(stream, p, vectors);
      if (error != cudaSuccess) return error;
      return launch("attention_backward_dq", attention_backward_dq<T>,
                    static_cast<unsigned>(padded_blocks(p)), kAttentionThreads, 0, stream, p,
                    vectors);
    }
  if (p.dk.data != nullptr || p.dv.data != nullptr) {
    const cudaError_t error = backward_keys<T, kWidth, false>(stream, p, vectors);
    if (error != cudaSuccess) return error;
  }
  if (p.dq.data == nullptr) return cudaSuccess;
  const int64_t blocks =
      attention_blocks(p.shape.packed, p.shape.queries, kAttentionQueryGradient<kWidth>.rows,
                       int64_t{p.shape.batch} * p.shape.heads);
  if (blocks == 0) return cudaErrorInvalidConfiguration;
  static_assert(
      shared_fits(sizeof(QueryGradientShared<kWidth>), kAttentionQueryGradient<kWidth>.min_blocks));
  return launch("attention_backward_queries", attention_backward_queries<T, kWidth>,
                static_cast<unsigned>(blocks), kAttentionThreads,
                sizeof(QueryGradientShared<kWidth>), stream, p, vectors);
}

// Gradients of nothing are not computed; the rest of the launcher's part is laid out in scratch,
// behind the starts. Returns its end.
size_t lay_out(ElementType type, Backward& p) {
  const int64_t heads = int64_t{p.shape.batch} * p.shape.heads;
  if (heads * p.shape.queries == 0) p.dq.data = nullptr;
  if (heads * p.shape.keys == 0) p.dk.data = p.dv.data = nullptr;
  PackedSequences packed = p.shape.packed;
  ++packed.count;  // as pack() leaves it
  p.padded_queries =
      attention_tiles(packed, p.shape.queries, kAttentionStatisticRows) * kAttentionStatisticRows;
  const auto rows = static_cast<size_t>(heads * p.padded_queries);
  const bool atomic = p.dq_atomic && type != ElementType::kF32 &&
                      p.shape.columns <= kAttentionAtomicColumns && p.dq.data != nullptr &&
                      (p.dk.data != nullptr || p.dv.data != nullptr);
  p.padded_columns = atomic ? attention_width(p.shape.columns) : 0;
  const size_t first = starts_bytes(packed), second = first + rows * 2 * sizeof(float);
  const auto start = reinterpret_cast<uintptr_t>(p.scratch);
  p.statistics = reinterpret_cast<float*>(start + first);
  p.dq_sums = atomic ? reinterpret_cast<float*>(start + second) : nullptr;
  return second + rows * static_cast<size_t>(p.padded_columns) * sizeof(float);
}

}  // namespace

size_t attention_forward_scratch_bytes(const AttentionShape& shape) {
  return starts_bytes(shape.packed);
}

cudaError_t attention_forward(cudaStream_t stream, ElementType type, const AttentionForward& args) {
  Forward p = args;
  if (!attention_valid(p.shape)) return cudaErrorInvalidValue;
  if (int64_t{p.shape.batch} * p.shape.heads * p.shape.queries == 0) return cudaSuccess;
  const cudaError_t error = pack(stream, p.shape, p.scratch);
  if (error != cudaSuccess) return error;
  if (type == ElementType::kF32) return attention_forward_f32(stream, p);
  return with_attention_width(p.shape.columns, [&](auto width) {
    constexpr int kWidth = decltype(width)::value;
    return type == ElementType::kF16 ? forward<__half, kWidth>(stream, p)
                                     : forward<__nv_bfloat16, kWidth>(stream, p);
  });
}

size_t attention_backward_scratch_bytes(ElementType type, const AttentionBackward& args) {
  Backward p = args;
  return lay_out(type, p);
}

cudaError_t attention_backward(cudaStream_t stream, ElementType type,
                               const AttentionBackward& args) {
  Backward p = args;
  if (!attention_valid(p.shape)) return cudaErrorInvalidValue;
  lay_out(type, p);
  if (p.dq.data == nullptr && p.dk.data == nullptr && p.dv.data == nullptr) return cudaSuccess;
  cudaError_t error = pack(stream, p.shape, p.scratch);
  if (error != cudaSuccess) return error;
  if (int64_t{p.shape.batch} * p.shape.heads * p.shape.queries > 0) {
    error = type == ElementType::kF32   ? statistics<float>(stream, p)
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
