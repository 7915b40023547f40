// Attention of the last tokens over a paged cache of keys and values, and the append to it.
//
// math     as attention.cu, causal: query i of row b sees slots 0 … lengths[b] + i
// shapes   q, out (batch, heads, queries, columns); pages (pages, heads / group, slots, columns);
//          page table (batch, pages of a row), lengths (batch), i32, read on the device only
// tiling   The heads of a group and their queries are the rows of one product, 16 at a time, so
//          every key and value is read once for all of them. Tiles of 64 keys by cp.async, two in
//          flight; a thread looks up the pages of its rows one tile ahead. The keys of a row are
//          split over blocks by attention_decode_splits() (tiles.h), whose sums a second kernel
//          joins in their order: no atomics. 16-bit pages with queries of the same type on tensor
//          cores; everything else in f32 (attention_plain.cuh), elements converted as they are
//          read.
// limits   up to 256 columns
// source   split keys: Flash-Decoding (Dao, Haziza, Massa, Sizov 2023); pages: PagedAttention
//          (Kwon et al. 2023, arXiv:2309.06180)
// measured not yet on a GPU; compiled without spills (resources.txt), results checked on the host
//          (native/test/kernel/attention_decode_kernel_test.cpp).
#include <cuda_runtime.h>

#include "attention.h"
#include "attention_plain.cuh"
#include "attention_tiles.cuh"

namespace gatun::kernels {

using Append = KvAppend;
using Decode = AttentionDecode;

// ---- pages ----

// Where a slot lies: its page, not checked, and its place there.
struct Place {
  int page;
  int slot;
};

__device__ __forceinline__ Place place_of(const Pages& pages, int row, int slot) {
  const int page =
      static_cast<int>(static_cast<unsigned>(slot) / static_cast<unsigned>(pages.slots));
  return {pages.table == nullptr ? row
                                 : static_cast<int>(ld32(pages.table + row * pages.stride + page)),
          slot - page * pages.slots};
}

__device__ __forceinline__ bool holds(const Pages& pages, const Place& place) {
  return place.page >= 0 && place.page < pages.pages;
}

template <typename T>
__device__ __forceinline__ T* row_at(const HeadRows& cache, int head, const Place& place) {
  return head_of<T>(cache, place.page, head) + place.slot * cache.row;
}

__device__ __forceinline__ float load_as_float(const void* p, ElementType type, int64_t i) {
  switch (type) {
    case ElementType::kF32:
      return load_element(static_cast<const float*>(p) + i);
    case ElementType::kF16:
      return to_float(load_element(static_cast<const __half*>(p) + i));
    case ElementType::kBf16:
      return to_float(load_element(static_cast<const __nv_bfloat16*>(p) + i));
  }
  return 0.f;
}

__device__ __forceinline__ void store_as(void* p, ElementType type, int64_t i, float value) {
  switch (type) {
    case ElementType::kF32:
      store_element(static_cast<float*>(p) + i, value);
      break;
    case ElementType::kF16:
      store_element(static_cast<__half*>(p) + i, from_float<__half>(value));
      break;
    case ElementType::kBf16:
      store_element(static_cast<__nv_bfloat16*>(p) + i, from_float<__nv_bfloat16>(value));
      break;
  }
}

// ---- append ----

// A thread copies 16 bytes of a row of k, then of v, or one element of any type.
__global__ void __launch_bounds__(kAttentionThreads)
    kv_append_rows(const __grid_constant__ Append p, ElementType pages_type, ElementType type,
                   int each) {
  const int pieces = (p.columns + each - 1) / each;
  const int64_t index = int64_t{blockIdx.x} * kAttentionThreads + threadIdx.x;
  const int column = static_cast<int>(index % pieces) * each;
  const int64_t row = index / pieces;
  const int token = static_cast<int>(row % p.tokens);
  const int head = static_cast<int>(row / p.tokens % p.heads);
  const int64_t batch = row / p.tokens / p.heads;
  if (batch >= p.batch) return;
  const int b = static_cast<int>(batch);
  const int64_t slot = int64_t{p.lengths[b]} + token;
  if (slot < 0 || slot >= p.pages.capacity) {
    report_fault(p.faults, FaultKind::kAppendSlot, slot, b, p.pages.capacity, 0);
    return;
  }
  const Place place = place_of(p.pages, b, static_cast<int>(slot));
  if (!holds(p.pages, place)) {
    report_fault(p.faults, FaultKind::kAppendPage, place.page, slot, b, p.pages.pages);
    return;
  }
  const auto copy = [&](const HeadRows& from, const HeadRows& to) {
    const int64_t source = b * from.batch + head * from.head + token * from.row + column;
    const int64_t target = place.page * to.batch + head * to.head + place.slot * to.row + column;
    if (each > 1) {
      const int size = 16 / each;
      st128(static_cast<char*>(to.data) + target * size,
            ld128_once(static_cast<const char*>(from.data) + source * size));
    } else {
      store_as(to.data, pages_type, target, load_as_float(from.data, type, source));
    }
  };
  copy(p.k, p.k_pages);
  copy(p.v, p.v_pages);
}

// ---- decode: what both kernels share ----

// A block's rows of one group of heads, and its part of the keys.
struct DecodeBlock {
  int batch, kv_head, split;
  int first;     // row: head of the group * queries + query
  int rows;      // of the group
  int keys;      // of the batch row
  int from, to;  // tiles of this part that the block's rows can see

  template <int kRows>
  static __device__ __forceinline__ DecodeBlock of(const Decode& p) {
    DecodeBlock block;
    const int kv_heads = p.heads / p.group;
    block.rows = p.group * p.queries;
    const int blocks = (block.rows + kRows - 1) / kRows;
    int index = static_cast<int>(blockIdx.x);
    block.split = index % p.splits;
    index /= p.splits;
    block.first = index % blocks * kRows;
    index /= blocks;
    block.kv_head = index % kv_heads;
    block.batch = index / kv_heads;
    const int64_t length = int64_t{p.lengths[block.batch]} + p.queries;
    block.keys = length < 0                  ? 0
                 : length < p.pages.capacity ? static_cast<int>(length)
                                             : p.pages.capacity;
    if (block.first == 0 && block.kv_head == 0 && block.split == 0 && threadIdx.x == 0 &&
        (length < p.queries || length > p.pages.capacity))
      report_fault(p.faults, FaultKind::kDecodeSlot,
                   length < p.queries ? length - p.queries : length - 1, block.batch,
                   p.pages.capacity, 0);
    // rows of one head: up to what the last of them sees
    const int last = Sight::min_of(block.first + kRows, block.rows) - 1;
    const int seen =
        block.first / p.queries == last / p.queries ? block.limit(p, last) : block.keys;
    const int tiles = (block.keys + kAttentionDecodeKeys - 1) / kAttentionDecodeKeys;
    const int each = (tiles + p.splits - 1) / p.splits;
    block.from = block.split * each;
    block.to =
        Sight::min_of(block.from + each, (seen + kAttentionDecodeKeys - 1) / kAttentionDecodeKeys);
    return block;
  }

  // A row sees the slots below this.
  __device__ __forceinline__ int limit(const Decode& p, int row) const {
    return keys - (p.queries - 1 - row % p.queries);
  }
  // A row of q or out.
  __device__ __forceinline__ int64_t offset(const Decode& p, const HeadRows& rows_of,
                                            int row) const {
    return batch * rows_of.batch + (kv_head * p.group + row / p.queries) * rows_of.head +
           row % p.queries * rows_of.row;
  }
  // The row's number among all of q.
  __device__ __forceinline__ int64_t number(const Decode& p, int row) const {
    return (int64_t{batch} * p.heads + kv_head * p.group) * p.queries + row;
  }
};

// Partial results: of each part, for all rows of q, sums [width]; then peak (a power of 2) and
// mass.
struct Partials {
  float* sums;
  float* statistics;

  static __device__ __forceinline__ Partials of(const Decode& p, int width, int split) {
    const int64_t rows = int64_t{p.batch} * p.heads * p.queries;
    return {p.partials + split * rows * width,
            p.partials + p.splits * rows * width + split * rows * 2};
  }
};

// Four columns of the row of out at `row`: their sums by the row's mass.
__device__ __forceinline__ void put_decoded(const Decode& p, int64_t row, int column,
                                            float (&sums)[4], float mass, ElementType type,
                                            bool vectors) {
  const float inverse = mass == 0.f ? 0.f : 1.f / mass;
  UNROLL for (int c = 0; c < 4; ++c) sums[c] *= inverse;
  const auto put = [&](auto* out) {
    put_four(out + row + column, sums, p.columns - column, false, vectors);
  };
  if (type == ElementType::kF32) put(static_cast<float*>(p.out.data));
  if (type == ElementType::kF16) put(static_cast<__half*>(p.out.data));
  if (type == ElementType::kBf16) put(static_cast<__nv_bfloat16*>(p.out.data));
}

// The same for kSlices sets of rows in shared memory, joined on their way out: to `out`, or to the
// partial results where the keys are split. sums(slice, row, four) gives four columns.
template <int kRows, int kSlices, int kWidth, int kThreads, typename Sums>
__device__ __forceinline__ void store_decoded(const Decode& p, const DecodeBlock& block,
                                              const float* peaks, const float* masses,
                                              ElementType type, bool vectors, Sums sums) {
  for (int i = static_cast<int>(threadIdx.x); i < kRows * (kWidth / 4); i += kThreads) {
    const int local = i / (kWidth / 4), four = i % (kWidth / 4), row = block.first + local;
    if (row >= block.rows || four * 4 >= p.columns) continue;
    float peak = peaks[local];
    UNROLL for (int s = 1; s < kSlices; ++s) peak = fmaxf(peak, peaks[s * kRows + local]);
    const float base = peak == -kInfinity ? 0.f : peak;
    float mass = 0.f, total[4] = {};
    UNROLL for (int s = 0; s < kSlices; ++s) {
      const float shrink = ex2(peaks[s * kRows + local] - base);
      float v[4];
      sums(s, local, four, v);
      mass += masses[s * kRows + local] * shrink;
      UNROLL for (int c = 0; c < 4; ++c) total[c] += v[c] * shrink;
    }
    if (p.splits > 1) {
      const Partials partials = Partials::of(p, kWidth, block.split);
      const int64_t number = block.number(p, row);
      store_four(partials.sums + number * kWidth + four * 4, total);
      if (four == 0) st64(partials.statistics + number * 2, uint2{as_bits(peak), as_bits(mass)});
      continue;
    }
    put_decoded(p, block.offset(p, p.out, row), four * 4, total, mass, type, vectors);
  }
}

// ---- decode on tensor cores ----

template <int kWidth, bool kFew>
struct DecodeShared {
  static constexpr int kQueries = kFew ? 32 : 64;  // a tile has at least 32 rows
  union {
    struct {
      Tile<kQueries, kWidth> q;
      KeyTiles<kAttentionDecodeKeys, kWidth> passing[2];
    } tiles;
    Stage<64, kWidth> stage;  // of each warp, its 16 rows
  };
  float peak[64], mass[64];
};

// kFew: the four warps share 16 rows and each takes a quarter of every tile's keys.
template <typename T, int kWidth, bool kFew>
__global__ void __launch_bounds__(kAttentionThreads)
    attention_decode_tiles(const __grid_constant__ Decode p, ElementType type, bool vectors) {
  constexpr int kRows = kFew ? 16 : 64, kTile = kAttentionDecodeKeys;
  constexpr int kKeys = kFew ? kTile / kAttentionWarps : kTile;  // of a tile, for one warp
  constexpr int kQueries = DecodeShared<kWidth, kFew>::kQueries;
  using Shared = DecodeShared<kWidth, kFew>;
  SMEM(Shared, shared);
  auto& [q, passing] = shared.tiles;
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const DecodeBlock block = DecodeBlock::of<kRows>(p);

  load_tile<T>(q, p.columns, vectors, [&](int row) {
    return row < kRows && block.first + row < block.rows
               ? static_cast<const T*>(p.q.data) + block.offset(p, p.q, block.first + row)
               : nullptr;
  });
  // this thread's two rows of a tile
  constexpr int kPass = kAttentionThreads / 4;
  static_assert(kTile == 2 * kPass);
  Place place[2];
  const auto find = [&](int tile) {
    UNROLL for (int i = 0; i < 2; ++i) {
      const int slot = tile * kTile + i * kPass + static_cast<int>(threadIdx.x) / 4;
      place[i] = slot < block.keys ? place_of(p.pages, block.batch, slot) : Place{0, -1};
    }
  };
  const auto load_keys = [&](int tile) {
    UNROLL for (int i = 0; i < 2; ++i) if (place[i].slot >= 0 && !holds(p.pages, place[i])) {
      const int slot = tile * kTile + i * kPass + static_cast<int>(threadIdx.x) / 4;
      report_fault(p.faults, FaultKind::kDecodePage, place[i].page, slot, block.batch,
                   p.pages.pages);
      place[i].slot = -1;  // zeros
    }
    const auto rows_of = [&](const HeadRows& cache) {
      return [&](int row) {
        const Place at = {row < kPass ? place[0].page : place[1].page,
                          row < kPass ? place[0].slot : place[1].slot};
        return at.slot >= 0 ? row_at<const T>(cache, block.kv_head, at) : nullptr;
      };
    };
    load_pair<T>(passing[tile % 2], p.columns, vectors, rows_of(p.k_pages), rows_of(p.v_pages));
  };
  if (block.from < block.to) {
    find(block.from);
    load_keys(block.from);
    find(block.from + 1);
  }

  const int first_of_warp = kFew ? 0 : warp * 16;
  const uint32_t q_lanes = moved<kQueries>(lanes_by_row(q), first_of_warp, 0);
  const float factor = fabsf(p.scale) * kLog2E, sign = p.scale < 0 ? -1.f : 1.f;
  const int key_of_warp = kFew ? warp * kKeys : 0;
  const auto limit = [&](int half) {
    return block.limit(p, block.first + first_of_warp + half * 8 + lane / 4);
  };
  float out[1][kWidth / 8][4] = {};
  Softmax<1> softmax;

  for (int tile = block.from; tile < block.to; ++tile) {
    cp_async_wait<0>();
    __syncthreads();  // this tile is there, and the one before was read
    if (tile + 1 < block.to) {
      load_keys(tile + 1);
      find(tile + 2);
    }
    const auto& [k, v] = passing[tile % 2];
    float scores[1][kKeys / 8][4] = {};
    multiply_rows<T, kWidth, kTile>(
        scores,
        [&](uint32_t(&a)[4], int, int step) { ldmatrix_x4(a, moved<kQueries>(q_lanes, 0, step)); },
        moved<kTile>(lanes_by_chunk(k), key_of_warp, 0));
    const int column = tile * kTile + key_of_warp + lane % 4 * 2;
    UNROLL for (int half = 0; half < 2; ++half) {
      const int left = limit(half) - column;
      UNROLL for (int n = 0; n < kKeys / 8; ++n) UNROLL for (int i = 0; i < 2; ++i) {
        float& score = scores[0][n][half * 2 + i];
        score = n * 8 + i < left ? score * sign : -kInfinity;
      }
    }
    softmax.update(scores, out, factor);
    multiply_weights<T, kTile>(out, scores, moved<kTile>(lanes_by_row(v), key_of_warp, 0));
  }
  cp_async_commit();
  cp_async_wait<0>();  // of q, where nothing is seen

  softmax.finish();
  __syncthreads();  // the tiles were read
  const uint32_t base = shared_address(&shared.stage);
  UNROLL for (int half = 0; half < 2; ++half) {
    const int row = warp * 16 + half * 8 + lane / 4;
    UNROLL for (int n = 0; n < kWidth / 8; ++n)
        sts64(base + stage_offset<kWidth>(row, n, lane % 4 * 2),
              uint2{as_bits(out[0][n][half * 2]), as_bits(out[0][n][half * 2 + 1])});
    if (lane % 4 == 0) {
      // -inf times a factor of 0 would be NaN
      const float peak = softmax.peak[0][half];
      shared.peak[row] = peak == -kInfinity ? peak : peak * factor;
      shared.mass[row] = softmax.mass[0][half];
    }
  }
  __syncthreads();
  store_decoded<kRows, 64 / kRows, kWidth, kAttentionThreads>(
      p, block, shared.peak, shared.mass, type, vectors,
      [&](int slice, int local, int four, float* v) {
        unpack<float>(
            lds128(base + stage_offset<kWidth>(slice * kRows + local, four / 2, four % 2 * 4)), v);
      });
}

// ---- decode in f32 ----

template <int kWidth>
struct PlainDecodeShared {
  PlainTile<1, kWidth> q;
  PlainTile<4, kWidth> keys;  // k, then v
  PlainTile<1, 64> weights;
  PlainTile<1, kWidth> sums;
  float peak[16], mass[16];
};

// Rows of any type to f32, element by element.
template <int kEdge, int kColumns, typename Load>
__device__ __forceinline__ void convert_plain(PlainTile<kEdge, kColumns>& tile, Load load) {
  const uint32_t to = shared_address(&tile);
  for (int i = static_cast<int>(threadIdx.x); i < 16 * kEdge * kColumns;
       i += kAttentionPlainThreads) {
    const int row = i / kColumns, column = i % kColumns;
    sts32(
        to + plain_offset<kEdge, kColumns>(row, column / 4) + static_cast<uint32_t>(column % 4 * 4),
        as_bits(load(row, column)));
  }
}

// 16 rows a block, P the type of the pages.
template <typename P, int kWidth>
__global__ void __launch_bounds__(kAttentionPlainThreads, 1)
    attention_decode_plain(const __grid_constant__ Decode p, ElementType type, bool vectors) {
  constexpr int kTile = kAttentionDecodeKeys;
  SMEM(PlainDecodeShared<kWidth>, shared);
  const PlainThread thread;
  const DecodeBlock block = DecodeBlock::of<16>(p);
  convert_plain(shared.q, [&](int row, int column) {
    return block.first + row < block.rows && column < p.columns
               ? load_as_float(p.q.data, type, block.offset(p, p.q, block.first + row) + column)
               : 0.f;
  });
  // null for a slot that nobody has, or whose page does not exist
  const auto find = [&](const HeadRows& cache, int slot) -> const P* {
    if (slot >= block.keys) return nullptr;
    const Place place = place_of(p.pages, block.batch, slot);
    if (holds(p.pages, place)) return row_at<const P>(cache, block.kv_head, place);
    report_fault(p.faults, FaultKind::kDecodePage, place.page, slot, block.batch, p.pages.pages);
    return nullptr;
  };
  const auto load = [&](const HeadRows& cache, int key) {
    if constexpr (std::is_same_v<P, float>) {
      load_plain(shared.keys, p.columns, vectors, [&](int row) { return find(cache, key + row); });
    } else {
      convert_plain(shared.keys, [&](int row, int column) {
        const P* from = column < p.columns ? find(cache, key + row) : nullptr;
        return from == nullptr ? 0.f : to_float(load_element(from + column));
      });
    }
  };

  const float factor = p.scale * kLog2E;
  float sums[1][kWidth / 64][4] = {};
  float peak = -kInfinity, mass = 0.f;
  const int limit = block.limit(p, block.first + thread.y);
  for (int tile = block.from; tile < block.to; ++tile) {
    const int key = tile * kTile;
    __syncthreads();  // v of the tile before was read
    load(p.k_pages, key);
    plain_loaded();
    float scores[1][4];
    plain_scores(scores, shared.q, shared.keys);
    __syncthreads();  // k was read
    load(p.v_pages, key);
    float now = peak;
    UNROLL for (int j = 0; j < 4; ++j) {
      scores[0][j] = key + thread.x * 4 + j < limit ? scores[0][j] * factor : -kInfinity;
      now = fmaxf(now, scores[0][j]);
    }
    UNROLL for (int mask = 8; mask > 0; mask /= 2) now = fmaxf(now, shuffle_xor(now, mask));
    const float base = now == -kInfinity ? 0.f : now;
    const float shrink = ex2(peak - base);
    peak = now;
    mass *= shrink;
    UNROLL for (int j = 0; j < 4; ++j) {
      scores[0][j] = ex2(scores[0][j] - base);
      mass += scores[0][j];
    }
    UNROLL for (int n = 0; n < kWidth / 64; ++n) UNROLL for (int c = 0; c < 4; ++c) sums[0][n][c] *=
        shrink;
    plain_put(shared.weights, scores);
    plain_loaded();
    plain_sums(sums, shared.weights, shared.keys);
  }

  UNROLL for (int mask = 8; mask > 0; mask /= 2) mass += shuffle_xor(mass, mask);
  const uint32_t base = shared_address(&shared.sums);
  UNROLL for (int n = 0; n < kWidth / 64; ++n)
      sts128(base + plain_offset<1, kWidth>(thread.y, thread.x + 16 * n), pack<float>(sums[0][n]));
  if (thread.x == 0) {
    shared.peak[thread.y] = peak;
    shared.mass[thread.y] = mass;
  }
  __syncthreads();
  store_decoded<16, 1, kWidth, kAttentionPlainThreads>(
      p, block, shared.peak, shared.mass, type, vectors, [&](int, int local, int four, float* v) {
        unpack<float>(lds128(base + plain_offset<1, kWidth>(local, four)), v);
      });
}

// ---- the parts of the keys, joined ----

// A thread has four columns of one row.
__global__ void __launch_bounds__(kAttentionThreads)
    attention_decode_join(const __grid_constant__ Decode p, int width, ElementType type,
                          bool vectors) {
  const int64_t index = int64_t{blockIdx.x} * kAttentionThreads + threadIdx.x;
  const int64_t number = index / (width / 4);
  const int column = static_cast<int>(index % (width / 4)) * 4;
  const int head = static_cast<int>(number / p.queries % p.heads);
  const int64_t batch = number / p.queries / p.heads;
  if (batch >= p.batch || column >= p.columns) return;
  const auto peak_and_mass = [&](const Partials& partials) {
    return ld64(partials.statistics + number * 2);
  };
  float peak = -kInfinity;
  for (int split = 0; split < p.splits; ++split)
    peak = fmaxf(peak, as_float(peak_and_mass(Partials::of(p, width, split)).x));
  const float base = peak == -kInfinity ? 0.f : peak;
  float mass = 0.f, total[4] = {};
  for (int split = 0; split < p.splits; ++split) {
    const Partials partials = Partials::of(p, width, split);
    const uint2 statistics = peak_and_mass(partials);
    const float shrink = ex2(as_float(statistics.x) - base);
    mass += as_float(statistics.y) * shrink;
    float v[4];
    load_four(partials.sums + number * width + column, v);
    UNROLL for (int c = 0; c < 4; ++c) total[c] += v[c] * shrink;
  }
  put_decoded(p, batch * p.out.batch + head * p.out.head + number % p.queries * p.out.row, column,
              total, mass, type, vectors);
}

// ---- launchers ----

namespace {

bool on_tensor_cores(ElementType type, ElementType pages_type) {
  return type == pages_type && type != ElementType::kF32;
}

int64_t decode_blocks(const Decode& p, bool tensor_cores) {
  const int64_t rows = int64_t{p.group} * p.queries;
  const int each = attention_decode_rows(rows, tensor_cores);
  return (rows + each - 1) / each * (p.heads / p.group) * p.batch;
}

int width_of(const Decode& p, bool tensor_cores) {
  if (tensor_cores) return attention_width(p.columns);
  return p.columns <= 64 ? 64 : p.columns <= 128 ? 128 : 256;
}

int splits_of(const Decode& p, bool tensor_cores, int sm_count) {
  return attention_decode_splits(decode_blocks(p, tensor_cores), p.pages.capacity, sm_count);
}

template <typename T, int kWidth, bool kFew>
cudaError_t decode_tiles(cudaStream_t stream, ElementType type, const Decode& p, unsigned blocks,
                         bool vectors) {
  return launch("attention_decode", attention_decode_tiles<T, kWidth, kFew>, blocks,
                kAttentionThreads, sizeof(DecodeShared<kWidth, kFew>), stream, p, type, vectors);
}

template <typename P>
cudaError_t decode_plain(cudaStream_t stream, ElementType type, const Decode& p, unsigned blocks,
                         bool vectors) {
  return with_attention_plain_width(p.columns, [&](auto width) {
    constexpr int kWidth = decltype(width)::value;
    return launch("attention_decode_f32", attention_decode_plain<P, kWidth>, blocks,
                  kAttentionPlainThreads, sizeof(PlainDecodeShared<kWidth>), stream, p, type,
                  vectors);
  });
}

}  // namespace

cudaError_t kv_append(cudaStream_t stream, ElementType pages_type, ElementType type,
                      const KvAppend& p) {
  const int64_t rows = int64_t{p.batch} * p.heads * p.tokens;
  if (rows * p.columns == 0) return cudaSuccess;
  const size_t size = size_of(type);
  const bool vectors = type == pages_type && static_cast<size_t>(p.columns) * size % 16 == 0 &&
                       attention_aligned(p.k, size) && attention_aligned(p.v, size) &&
                       attention_aligned(p.k_pages, size) && attention_aligned(p.v_pages, size);
  const int each = vectors ? static_cast<int>(16 / size) : 1;
  const int64_t blocks =
      (rows * ((p.columns + each - 1) / each) + kAttentionThreads - 1) / kAttentionThreads;
  if (blocks > INT_MAX) return cudaErrorInvalidConfiguration;
  return launch("kv_append", kv_append_rows, static_cast<unsigned>(blocks), kAttentionThreads, 0,
                stream, p, pages_type, type, each);
}

size_t attention_decode_scratch_bytes(ElementType type, ElementType pages_type,
                                      const AttentionDecode& p, int sm_count) {
  const bool tensor_cores = on_tensor_cores(type, pages_type);
  const int splits = splits_of(p, tensor_cores, sm_count);
  if (splits == 1) return 0;
  const size_t rows =
      static_cast<size_t>(p.batch) * static_cast<size_t>(p.heads) * static_cast<size_t>(p.queries);
  return static_cast<size_t>(splits) * rows * (static_cast<size_t>(width_of(p, tensor_cores)) + 2) *
         sizeof(float);
}

cudaError_t attention_decode(cudaStream_t stream, ElementType type, ElementType pages_type,
                             const AttentionDecode& args, int sm_count) {
  Decode p = args;
  if (p.columns < 1 || p.columns > kAttentionMostColumns) return cudaErrorInvalidValue;
  const int64_t all_rows = int64_t{p.batch} * p.heads * p.queries;
  if (all_rows == 0) return cudaSuccess;
  const bool tensor_cores = on_tensor_cores(type, pages_type);
  p.splits = splits_of(p, tensor_cores, sm_count);
  const int64_t all_blocks = decode_blocks(p, tensor_cores) * p.splits;
  const int width = width_of(p, tensor_cores);
  const int64_t join_blocks = (all_rows * (width / 4) + kAttentionThreads - 1) / kAttentionThreads;
  if (all_blocks > INT_MAX || join_blocks > INT_MAX) return cudaErrorInvalidConfiguration;
  const auto blocks = static_cast<unsigned>(all_blocks);
  // both types, as either may be of 4 bytes
  const bool vectors = static_cast<size_t>(p.columns) * size_of(pages_type) % 16 == 0 &&
                       static_cast<size_t>(p.columns) * size_of(type) % 16 == 0 &&
                       attention_aligned(p.q, size_of(type)) &&
                       attention_aligned(p.out, size_of(type)) &&
                       attention_aligned(p.k_pages, size_of(pages_type)) &&
                       attention_aligned(p.v_pages, size_of(pages_type));
  cudaError_t error;
  if (tensor_cores) {
    const bool few = attention_decode_rows(int64_t{p.group} * p.queries, true) == 16;
    error = with_attention_width(p.columns, [&](auto chosen) {
      constexpr int kWidth = decltype(chosen)::value;
      if (type == ElementType::kF16)
        return few ? decode_tiles<__half, kWidth, true>(stream, type, p, blocks, vectors)
                   : decode_tiles<__half, kWidth, false>(stream, type, p, blocks, vectors);
      return few ? decode_tiles<__nv_bfloat16, kWidth, true>(stream, type, p, blocks, vectors)
                 : decode_tiles<__nv_bfloat16, kWidth, false>(stream, type, p, blocks, vectors);
    });
  } else {
    error = pages_type == ElementType::kF32 ? decode_plain<float>(stream, type, p, blocks, vectors)
            : pages_type == ElementType::kF16
                ? decode_plain<__half>(stream, type, p, blocks, vectors)
                : decode_plain<__nv_bfloat16>(stream, type, p, blocks, vectors);
  }
  if (error != cudaSuccess || p.splits == 1) return error;
  return launch("attention_decode_join", attention_decode_join, static_cast<unsigned>(join_blocks),
                kAttentionThreads, 0, stream, p, width, type, vectors);
}

}  // namespace gatun::kernels
