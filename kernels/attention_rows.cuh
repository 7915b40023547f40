// What all attention kernels share: who sees whom, rows of heads, and the launchers' checks.
#pragma once

#include <climits>
#include <initializer_list>
#include <type_traits>

#include "attention.h"
#include "tile.cuh"
#include "tiles.h"

namespace gatun::kernels {

// ---- who sees whom ----

// Where one sequence's queries meet its keys: query i sees the keys below limit(i).
struct Sight {
  int keys;   // that exist
  int shift;  // query i sees keys up to i + shift

  __device__ __forceinline__ int limit(int query) const { return min_of(keys, query + shift + 1); }
  static __device__ __forceinline__ int min_of(int a, int b) { return a < b ? a : b; }
};

// A row of the batch, or a stretch of the only one: where its rows begin and how many there are.
struct Sequence {
  int batch;
  int first_query, first_key;
  int queries, keys;
  int padded;  // its first row among a head's padded queries
  Sight sight;
};

// Rows in tiles, each sequence with tiles of its own. Packed, sequence s has those from
// starts[s] / rows + s on: enough for its rows, and no table is needed to find them.
__device__ __forceinline__ int row_tiles(const PackedSequences& packed, int total, int rows) {
  return packed.q_starts == nullptr ? (total + rows - 1) / rows : total / rows + packed.count;
}
__device__ __forceinline__ int first_tile(const int32_t* starts, int sequence, int rows) {
  return static_cast<int>(ld32(starts + sequence)) / rows + sequence;
}

// The last sequence whose tiles begin at `tile` or before. The whole warp together: it looks at 32
// places at once.
__device__ __forceinline__ int sequence_of(const int32_t* starts, int count, int rows, int tile) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  int low = 0;
  while (count > 1) {
    const int step = (count + 31) / 32;
    const bool begun = lane * step < count && first_tile(starts, low + lane * step, rows) <= tile;
    const int last = (bit_count(ballot(begun)) - 1) * step;
    low += last;
    count = Sight::min_of(step, count - last);
  }
  return low;
}

__device__ __forceinline__ Sequence sequence_at(const AttentionShape& shape, int number) {
  Sequence sequence = {number, 0, 0, shape.queries, shape.keys, 0, {}};
  const PackedSequences& packed = shape.packed;
  bool blind = false;
  if (packed.q_starts != nullptr) {
    sequence.batch = 0;
    sequence.first_query = static_cast<int>(ld32(packed.q_starts + number));
    sequence.first_key = static_cast<int>(ld32(packed.k_starts + number));
    sequence.queries = static_cast<int>(ld32(packed.q_starts + number + 1)) - sequence.first_query;
    sequence.keys = static_cast<int>(ld32(packed.k_starts + number + 1)) - sequence.first_key;
    sequence.padded =
        (sequence.first_query / kAttentionStatisticRows + number) * kAttentionStatisticRows;
    blind = number == packed.count - 1;  // the rows that belong to none
  }
  sequence.sight = {blind ? 0 : sequence.keys,
                    shape.causal ? sequence.keys - sequence.queries : sequence.keys};
  if (shape.lengths != nullptr) {
    const int length = shape.lengths[number];
    sequence.sight.keys = length < 0 ? 0 : Sight::min_of(length, sequence.keys);
  }
  return sequence;
}

// What a block owns: the rows of one head from `first` on of one sequence, queries or keys.
struct Share {
  int head, first;
  Sequence sequence;
};

// Blocks of a head lie side by side, so that what passes by stays in the cache; of queries, the
// last come first: where causal, those take the longest.
__device__ __forceinline__ Share share_of_queries(const AttentionShape& shape, int rows,
                                                  int block) {
  const PackedSequences& packed = shape.packed;
  const int tiles = row_tiles(packed, shape.queries, rows);
  int tile = tiles - 1 - block % tiles;
  int number = block / tiles / shape.heads;
  if (packed.q_starts != nullptr) {
    number = sequence_of(packed.q_starts, packed.count, rows, tile);
    tile -= first_tile(packed.q_starts, number, rows);
  }
  return {block / tiles % shape.heads, tile * rows, sequence_at(shape, number)};
}
__device__ __forceinline__ Share share_of_keys(const AttentionShape& shape, int rows, int block) {
  const PackedSequences& packed = shape.packed;
  const int tiles = row_tiles(packed, shape.keys, rows), heads = shape.heads / shape.group;
  int tile = block % tiles;
  int number = block / tiles / heads;
  if (packed.k_starts != nullptr) {
    number = sequence_of(packed.k_starts, packed.count, rows, tile);
    tile -= first_tile(packed.k_starts, number, rows);
  }
  return {block / tiles % heads, tile * rows, sequence_at(shape, number)};
}

template <typename T>
__device__ __forceinline__ T* head_of(const HeadRows& rows, int batch, int head) {
  return static_cast<T*>(rows.data) + batch * rows.batch + head * rows.head;
}
template <typename T>
__device__ __forceinline__ T* queries_of(const HeadRows& rows, const Sequence& sequence, int head) {
  return head_of<T>(rows, sequence.batch, head) + sequence.first_query * rows.row;
}
template <typename T>
__device__ __forceinline__ T* keys_of(const HeadRows& rows, const Sequence& sequence, int head) {
  return head_of<T>(rows, sequence.batch, head) + sequence.first_key * rows.row;
}

__device__ __forceinline__ float* lse_of(const HeadStatistic& lse, const Sequence& sequence,
                                         int head) {
  return lse.data + sequence.batch * lse.batch + head * lse.head + sequence.first_query;
}

// The rows of a tile: those of `rows` from `first` on, null from `end` on.
template <typename T>
struct TileRows {
  T* rows;
  int64_t stride;
  int first, end;
  __device__ __forceinline__ T* operator()(int row) const {
    return first + row < end ? rows + (first + row) * stride : nullptr;
  }
};
template <typename T>
TileRows(T*, int64_t, int, int) -> TileRows<T>;

constexpr float kLog2E = 1.44269504088896341f;
constexpr float kLn2 = 0.69314718055994531f;
constexpr float kInfinity = __builtin_huge_valf();

// ---- statistics of the backward pass ----

// Of one head's padded queries: the log-sum-exp in powers of 2 (+infinity where a row sees nothing
// or does not exist, so that its weights are 0), and delta = the row's sum of dout out.
struct Statistics {
  const float* base;
  const float* delta;
};

__device__ __forceinline__ int64_t padded_row(const AttentionBackward& p, const Sequence& sequence,
                                              int head) {
  return (int64_t{sequence.batch} * p.shape.heads + head) * p.padded_queries + sequence.padded;
}

__device__ __forceinline__ Statistics statistics_of(const AttentionBackward& p,
                                                    const Sequence& sequence, int head) {
  const float* base = p.statistics + padded_row(p, sequence, head);
  return {base, base + int64_t{p.shape.batch} * p.shape.heads * p.padded_queries};
}

// ---- results ----

// Four elements to or from memory, side by side.
__device__ __forceinline__ void load_four(const float* p, float (&v)[4]) {
  unpack<float>(ld128(p), v);
}
__device__ __forceinline__ void store_four(float* p, const float (&v)[4]) {
  st128(p, pack<float>(v));
}
template <typename T>
__device__ __forceinline__ void load_four(const T* p, float (&v)[4]) {
  const uint2 words = ld64(p);
  float low[2], high[2];
  unpack(words.x, low, T());
  unpack(words.y, high, T());
  v[0] = low[0], v[1] = low[1], v[2] = high[0], v[3] = high[1];
}
template <typename T>
__device__ __forceinline__ void store_four(T* p, const float (&v)[4]) {
  const float low[2] = {v[0], v[1]}, high[2] = {v[2], v[3]};
  st64(p, uint2{pack(low, T()), pack(high, T())});
}

// One row's four columns, `count` of them inside; added to what is there, if so wanted.
template <typename T>
__device__ __forceinline__ void put_four(T* p, float (&v)[4], int count, bool add, bool vectors) {
  if (vectors) {
    if (add) {
      float old[4];
      load_four(p, old);
      UNROLL for (int i = 0; i < 4; ++i) v[i] += old[i];
    }
    store_four(p, v);
  } else {
    for (int i = 0; i < 4 && i < count; ++i)
      p[i] = from_float<T>(add ? to_float(p[i]) + v[i] : v[i]);
  }
}

// ---- launchers ----

inline bool attention_aligned(const HeadRows& rows, size_t size) {
  const auto multiple = [&](int64_t stride) {
    return static_cast<size_t>(stride) * size % 16 == 0;
  };
  return reinterpret_cast<uintptr_t>(rows.data) % 16 == 0 && multiple(rows.batch) &&
         multiple(rows.head) && multiple(rows.row);
}

// Whether all rows can be read and written 16 bytes at a time. Data may be null: no operand.
inline bool attention_aligned(const AttentionShape& shape, size_t size,
                              std::initializer_list<const HeadRows*> all) {
  bool aligned = static_cast<size_t>(shape.columns) * size % 16 == 0;
  for (const HeadRows* rows : all)
    aligned = aligned && (rows->data == nullptr || attention_aligned(*rows, size));
  return aligned;
}

inline bool attention_valid(const AttentionShape& shape) {
  return shape.columns >= 1 && shape.columns <= kAttentionMostColumns && shape.group >= 1 &&
         shape.queries <= INT_MAX / 2 && shape.keys <= INT_MAX / 2 &&
         (shape.packed.q_starts == nullptr || (shape.batch == 1 && shape.lengths == nullptr));
}

// As row_tiles(): tiles of `each` of a head's rows.
inline int64_t attention_tiles(const PackedSequences& packed, int64_t rows, int each) {
  return packed.q_starts == nullptr ? (rows + each - 1) / each : rows / each + packed.count;
}

// Blocks of `each` rows over all heads; 0: none, or more than a grid can have.
inline int64_t attention_blocks(const PackedSequences& packed, int64_t rows, int each,
                                int64_t heads) {
  const int64_t blocks = attention_tiles(packed, rows, each) * heads;
  return blocks <= INT_MAX ? blocks : 0;
}

// f(the padded width of the columns, as a constant).
template <typename F>
cudaError_t with_attention_width(int columns, F f) {
  switch (attention_width(columns)) {
    case 32:
      return f(std::integral_constant<int, 32>());
    case 64:
      return f(std::integral_constant<int, 64>());
    case 96:
      return f(std::integral_constant<int, 96>());
    case 128:
      return f(std::integral_constant<int, 128>());
    case 256:
      return f(std::integral_constant<int, 256>());
  }
  return cudaErrorInvalidValue;
}

}  // namespace gatun::kernels
