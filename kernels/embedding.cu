// Embedding: rows of a table by id, plus rows of the positions; and the gradients of both tables.
//
// math     out[token] = table[id] + positions[position]
//          dtable[row] (+)= sum of dout over the tokens with that id; dpositions likewise
// shapes   ids (batch, length), out and dout (batch, length, columns), tables (rows, columns);
//          storage f32, f16 or bf16, sums in f32
// tiling   forward: a warp a token, four 16-byte packs a lane in flight.
//          backward, for each table: (1) a key a token, clamped; (2) a stable sort of the tokens by
//          key: a warp owns 32 rows, walks over all keys, 128 at a time, to count its own and the
//          smaller ones, which gives every row its place, zeroes its rows that no token names, and
//          walks a second time to write its tokens in order; (3) blocks of 32 sorted tokens add up
//          their rows of dout in registers, a pack of columns a thread, and write the sum of each
//          row that begins and ends among them; of others a partial sum; (4) joins those in order.
//          No float atomics, and each sum is taken in token order: the same bits every time. No
//          token waits for another of the same row, so a batch that is mostly padding costs no more
//          than any other. Why no sort by digits or histogram of the vocabulary: 50257 rows against
//          16k tokens are 1571 warps that read 64 KiB of keys from L2 twice, hidden behind zeroing
//          the table (154 MB in f32), which has to be written once anyway.
// limits   2^31 - 257 tokens and rows; an id or position beyond its table is clamped and reported
// source   own; sums over sorted keys with partial sums at the borders as in any segmented
// reduction measured not yet on a GPU; compiled for sm_80 and sm_90a without spills
// (resources.txt), results
//          checked on the host (native/test/kernel/embedding_kernel_test.cpp).
#include <cuda_runtime.h>

#include <algorithm>
#include <climits>

#include "elementwise.cuh"
#include "embedding.h"

namespace gatun::kernels {

static_assert(kEmbeddingScan == 32 * 4, "a lane takes four keys of an access");
static_assert(kEmbeddingSegment == 32, "the first warp of a block loads its sorted tokens");

// ---- tokens ----

// The table row of a token, or its row of the positions; one that the table lacks becomes the
// nearest and is reported.
__device__ __forceinline__ int64_t row_of_token(const Tokens& tokens, int64_t token,
                                                bool by_position, int64_t rows) {
  int64_t b, t;
  divide(token, tokens.length, b, t);
  int64_t row;
  if (by_position) {
    row = t;
    if (tokens.start != nullptr)
      row += static_cast<int32_t>(ld32(tokens.start + b * tokens.start_step));
  } else {
    row = static_cast<int32_t>(ld32(tokens.ids + b * tokens.ids_step[0] + t * tokens.ids_step[1]));
  }
  if (row >= 0 && row < rows) return row;
  report_fault(tokens.faults, by_position ? FaultKind::kEmbeddingPosition : FaultKind::kEmbeddingId,
               row, b, t, rows);
  return row < 0 ? 0 : rows - 1;
}

// ---- forward ----

template <typename T, int kCount>
__global__ void __launch_bounds__(kEmbeddingThreads)
    embedding_forward_rows(const __grid_constant__ EmbeddingForward p) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  constexpr int kWarps = kEmbeddingThreads / 32;
  const int64_t token = blockIdx.x * kWarps + threadIdx.x / 32;
  if (token >= p.tokens.batch * p.tokens.length) return;  // whole warps
  int64_t id = 0, position = 0;
  if (lane == 0) {
    id = row_of_token(p.tokens, token, false, p.table_rows);
    if (p.positions != nullptr) position = row_of_token(p.tokens, token, true, p.position_rows);
  }
  id = shuffle(id, 0);
  position = shuffle(position, 0);
  int64_t b, t;
  divide(token, p.tokens.length, b, t);
  const T* row = static_cast<const T*>(p.table) + id * p.table_step;
  const T* added = static_cast<const T*>(p.positions) + position * p.positions_step;
  T* out = static_cast<T*>(p.out) + b * p.out_step[0] + t * p.out_step[1];
  for (int64_t first = lane * kCount; first < p.columns; first += 32 * kCount * kEmbeddingPacks) {
    Pack<T, kCount> value[kEmbeddingPacks], more[kEmbeddingPacks];
    UNROLL for (int k = 0; k < kEmbeddingPacks; ++k) {
      const int64_t column = first + k * 32 * kCount;
      if (column < p.columns) {
        value[k].load(row + column, kCount);
        if (p.positions != nullptr) more[k].load(added + column, kCount);
      }
    }
    UNROLL for (int k = 0; k < kEmbeddingPacks; ++k) {
      const int64_t column = first + k * 32 * kCount;
      if (column < p.columns) {
        if (p.positions != nullptr) {
          float sum[kCount];
          UNROLL for (int i = 0; i < kCount; ++i) sum[i] = value[k].get(i) + more[k].get(i);
          value[k].set(sum);
        }
        value[k].store(out + column, kCount);
      }
    }
  }
}

// ---- backward ----

// The scratch of a backward pass.
struct Sorted {
  int32_t* key;    // of each token; kNoKey up to a multiple of kEmbeddingScan
  int32_t* row;    // sorted: the rows,
  int32_t* token;  // and their tokens
  float* partial;  // [segments][2][columns]: of the row that came from the segment before and
                   // ends here, of the one that goes on
  int64_t tokens, padded, segments;
};
constexpr int32_t kNoKey = INT32_MAX;

struct Scatter {
  EmbeddingBackward p;
  Sorted sorted;
};

__global__ void __launch_bounds__(kEmbeddingThreads)
    embedding_keys(const __grid_constant__ Scatter s) {
  const int64_t token = blockIdx.x * kEmbeddingThreads + threadIdx.x;
  if (token >= s.sorted.padded) return;
  const int64_t key =
      token < s.sorted.tokens ? row_of_token(s.p.tokens, token, s.p.by_position, s.p.rows) : kNoKey;
  st32(s.sorted.key + token, static_cast<uint32_t>(key));
}

// Calls found(token of this lane, row, lanes whose token has that row) for each row of lo … lo + 31
// that tokens name, in the order of tokens; the whole warp together. Each lane receives the number
// of keys below lo among those that it saw.
template <typename Found>
__device__ __forceinline__ int32_t walk_keys(const Sorted& sorted, int32_t lo, Found found) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const auto mine = [lo](int32_t key) { return static_cast<uint32_t>(key - lo) < 32u; };
  int32_t smaller = 0;
  for (int64_t first = 0; first < sorted.padded; first += kEmbeddingScan) {
    const uint4 bits = ld128(sorted.key + first + lane * 4);
    const int32_t key[4] = {static_cast<int32_t>(bits.x), static_cast<int32_t>(bits.y),
                            static_cast<int32_t>(bits.z), static_cast<int32_t>(bits.w)};
    bool any = false;
    UNROLL for (int i = 0; i < 4; ++i) {
      smaller += key[i] < lo ? 1 : 0;
      any = any || mine(key[i]);
    }
    if (ballot(any) == 0) continue;
    for (int i = 0; i < 4; ++i) {  // again, in the order of tokens
      const int64_t token = first + i * 32 + lane;
      const int32_t row = static_cast<int32_t>(ld32(sorted.key + token));
      uint32_t left = ballot(mine(row));
      while (left != 0) {
        const int32_t next = shuffle(row, lowest_bit(left));
        const uint32_t same = ballot(row == next);
        found(token, next, same);
        left &= ~same;
      }
    }
  }
  return smaller;
}

template <typename To, bool kWide>
__global__ void __launch_bounds__(kEmbeddingThreads)
    embedding_sort(const __grid_constant__ Scatter s) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  constexpr int kWarps = kEmbeddingThreads / 32;
  const int64_t first_row = (int64_t{blockIdx.x} * kWarps + threadIdx.x / 32) * 32;
  if (first_row >= s.p.rows) return;  // whole warps
  const int32_t lo = static_cast<int32_t>(first_row);
  int32_t count = 0;  // of row lo + lane
  int32_t before = walk_keys(s.sorted, lo, [&](int64_t, int32_t row, uint32_t same) {
    if (row - lo == lane) count += bit_count(same);
  });
  before = static_cast<int32_t>(warp_sum(static_cast<uint32_t>(before)));

  if (!s.p.add) {
    for (int i = 0; i < 32; ++i) {
      if (shuffle(count, i) != 0 || first_row + i >= s.p.rows) continue;
      To* row = static_cast<To*>(s.p.gradient) + (first_row + i) * s.p.gradient_step;
      constexpr int kCount = kWide ? kVector<To> : 1;
      const float zero[kCount] = {};
      for (int64_t column = lane * kCount; column < s.p.columns; column += 32 * kCount)
        store_values<kCount>(row + column, zero);
    }
  }

  int32_t place = count;  // of the next token of row lo + lane: the counts of the rows below it …
  UNROLL for (int by = 1; by < 32; by *= 2) {
    const int32_t below = shuffle_up(place, by);
    if (lane >= by) place += below;
  }
  if (shuffle(place, 31) == 0) return;
  place += before - count;  // … after the tokens of all smaller rows
  walk_keys(s.sorted, lo, [&](int64_t token, int32_t row, uint32_t same) {
    const int32_t at = shuffle(place, row - lo) + bit_count(same & ((1u << lane) - 1));
    if ((same >> lane & 1u) != 0) {
      st32(s.sorted.row + at, static_cast<uint32_t>(row));
      st32(s.sorted.token + at, static_cast<uint32_t>(token));
    }
    if (row - lo == lane) place += bit_count(same);
  });
}

// The sorted tokens of a segment.
struct Segment {
  int64_t first;
  int count;
  bool from_previous;  // its first row began in an earlier segment
  bool to_next;        // its last row goes on in the next one

  __device__ __forceinline__ Segment(const Sorted& sorted, int64_t index) {
    first = index * kEmbeddingSegment;
    const int64_t left = sorted.tokens - first;
    count = left < kEmbeddingSegment ? static_cast<int>(left) : kEmbeddingSegment;
    from_previous = first > 0 && sorted.row[first - 1] == sorted.row[first];
    const int64_t end = first + count;
    to_next = end < sorted.tokens && sorted.row[end - 1] == sorted.row[end];
  }
};

template <typename To, int kCount>
__device__ __forceinline__ void store_sum(const EmbeddingBackward& p, int32_t row, int64_t column,
                                          float (&sum)[kCount]) {
  To* to = static_cast<To*>(p.gradient) + row * p.gradient_step + column;
  if (p.add) {
    float old[kCount];
    load_values<kCount>(to, old);
    UNROLL for (int i = 0; i < kCount; ++i) sum[i] += old[i];
  }
  store_values<kCount>(to, sum);
}

struct SumShared {
  int32_t row[kEmbeddingSegment + 1];  // the last one is never a row
  int64_t offset[kEmbeddingSegment];   // of a token's row in dout
};

template <typename To, typename From, int kCount>
__global__ void __launch_bounds__(kEmbeddingSumThreads)
    embedding_sum(const __grid_constant__ Scatter s) {
  SMEM(SumShared, shared);
  const Segment segment(s.sorted, blockIdx.x);
  if (static_cast<int>(threadIdx.x) < segment.count) {
    const int64_t at = segment.first + threadIdx.x;
    int64_t b, t;
    divide(static_cast<int32_t>(ld32(s.sorted.token + at)), s.p.tokens.length, b, t);
    shared.row[threadIdx.x] = static_cast<int32_t>(ld32(s.sorted.row + at));
    shared.offset[threadIdx.x] = b * s.p.dout_step[0] + t * s.p.dout_step[1];
  }
  if (threadIdx.x == 0) shared.row[segment.count] = kNoKey;
  __syncthreads();
  const int64_t column = (blockIdx.y * blockDim.x + threadIdx.x) * kCount;
  if (column >= s.p.columns) return;
  float sum[kCount] = {};
  bool from_previous = segment.from_previous;
  for (int first = 0; first < segment.count; first += kEmbeddingPacks) {
    float v[kEmbeddingPacks][kCount];
    UNROLL for (int k = 0; k < kEmbeddingPacks; ++k) if (first + k < segment.count)
        load_values<kCount>(static_cast<const From*>(s.p.dout) + shared.offset[first + k] + column,
                            v[k]);
    UNROLL for (int k = 0; k < kEmbeddingPacks; ++k) {
      if (first + k >= segment.count) break;
      UNROLL for (int i = 0; i < kCount; ++i) sum[i] += v[k][i];
      const int32_t row = shared.row[first + k];
      if (shared.row[first + k + 1] == row) continue;
      const bool to_next = first + k + 1 == segment.count && segment.to_next;
      if (from_previous || to_next) {
        float* partial =
            s.sorted.partial + (int64_t{blockIdx.x} * 2 + (to_next ? 1 : 0)) * s.p.columns + column;
        store_values<kCount>(partial, sum);
      } else {
        store_sum<To>(s.p, row, column, sum);
      }
      from_previous = false;
      UNROLL for (int i = 0; i < kCount; ++i) sum[i] = 0.f;
    }
  }
}

// The rows that begin in a segment and go on: their partial sums, in order.
template <typename To, int kCount>
__global__ void __launch_bounds__(kEmbeddingSumThreads)
    embedding_join(const __grid_constant__ Scatter s) {
  int64_t index = blockIdx.x;
  Segment segment(s.sorted, index);
  if (!segment.to_next) return;
  const int32_t row = s.sorted.row[segment.first + segment.count - 1];
  if (segment.from_previous && s.sorted.row[segment.first] == row) return;  // began earlier
  const int64_t column = (blockIdx.y * blockDim.x + threadIdx.x) * kCount;
  if (column >= s.p.columns) return;
  float sum[kCount];
  load_values<kCount>(s.sorted.partial + (index * 2 + 1) * s.p.columns + column, sum);
  bool goes_on = true;
  while (goes_on) {
    segment = Segment(s.sorted, ++index);
    goes_on = segment.to_next && s.sorted.row[segment.first + segment.count - 1] == row;
    float v[kCount];
    load_values<kCount>(s.sorted.partial + (index * 2 + (goes_on ? 1 : 0)) * s.p.columns + column,
                        v);
    UNROLL for (int i = 0; i < kCount; ++i) sum[i] += v[i];
  }
  store_sum<To>(s.p, row, column, sum);
}

// ---- launchers ----

namespace {

int64_t blocks_of(int64_t count, int64_t each) { return (count + each - 1) / each; }

unsigned grid_of(int64_t count, int64_t each) {
  return static_cast<unsigned>(blocks_of(count, each));
}

// Whether rows at these steps, from this address, can be read and written 16 bytes at a time.
bool wide(const void* address, size_t element_bytes, std::initializer_list<int64_t> steps) {
  if (reinterpret_cast<uintptr_t>(address) % 16 != 0) return false;
  for (int64_t step : steps)
    if (static_cast<size_t>(step) * element_bytes % 16 != 0) return false;
  return true;
}

Sorted sorted_in(void* scratch, int64_t tokens, int64_t columns, size_t* bytes) {
  Sorted sorted = {};
  sorted.tokens = tokens;
  sorted.padded = blocks_of(tokens, kEmbeddingScan) * kEmbeddingScan;
  sorted.segments = blocks_of(tokens, kEmbeddingSegment);
  sorted.key = static_cast<int32_t*>(scratch);
  sorted.row = sorted.key + sorted.padded;
  sorted.token = sorted.row + sorted.padded;
  sorted.partial = reinterpret_cast<float*>(sorted.token + sorted.padded);
  *bytes = static_cast<size_t>(3 * sorted.padded) * sizeof(int32_t) +
           static_cast<size_t>(sorted.segments * 2 * columns) * sizeof(float);
  return sorted;
}

template <typename To, typename From, int kCount>
cudaError_t scatter(cudaStream_t stream, const Scatter& s) {
  const Sorted& sorted = s.sorted;
  cudaError_t error = cudaSuccess;
  if (sorted.tokens > 0)
    error = launch("embedding_keys", embedding_keys, grid_of(sorted.padded, kEmbeddingThreads),
                   kEmbeddingThreads, 0, stream, s);
  if (error == cudaSuccess && s.p.rows > 0)
    error = launch("embedding_sort", embedding_sort<To, (kCount > 1)>,
                   grid_of(s.p.rows, kEmbeddingThreads), kEmbeddingThreads, 0, stream, s);
  if (error != cudaSuccess || sorted.tokens == 0) return error;
  const int64_t packs = blocks_of(s.p.columns, kCount);
  const unsigned threads = embedding_sum_threads(packs);
  const dim3 grid(static_cast<unsigned>(sorted.segments),
                  static_cast<unsigned>(blocks_of(packs, threads)));
  error = launch("embedding_sum", embedding_sum<To, From, kCount>, grid, threads, sizeof(SumShared),
                 stream, s);
  if (error != cudaSuccess || sorted.segments == 1) return error;
  return launch("embedding_join", embedding_join<To, kCount>, grid, threads, 0, stream, s);
}

}  // namespace

cudaError_t embedding_forward(cudaStream_t stream, ElementType type, const EmbeddingForward& p) {
  const int64_t tokens = p.tokens.batch * p.tokens.length;
  if (tokens > kEmbeddingMost) return cudaErrorInvalidValue;
  if (tokens == 0 || p.columns == 0) return cudaSuccess;
  return with_type(type, [&]<typename T>(T) {
    const bool packs = wide(p.out, sizeof(T), {p.columns, p.out_step[0], p.out_step[1]}) &&
                       wide(p.table, sizeof(T), {p.table_step}) &&
                       (p.positions == nullptr || wide(p.positions, sizeof(T), {p.positions_step}));
    return launch("embedding_forward",
                  packs ? embedding_forward_rows<T, kVector<T>> : embedding_forward_rows<T, 1>,
                  grid_of(tokens, kEmbeddingThreads / 32), kEmbeddingThreads, 0, stream, p);
  });
}

size_t embedding_backward_scratch_bytes(int64_t tokens, int64_t columns) {
  size_t bytes;
  sorted_in(nullptr, tokens, columns, &bytes);
  return bytes;
}

cudaError_t embedding_backward(cudaStream_t stream, ElementType gradient_type,
                               ElementType dout_type, const EmbeddingBackward& p) {
  const int64_t tokens = p.tokens.batch * p.tokens.length;
  if (tokens > kEmbeddingMost || p.rows > kEmbeddingMost) return cudaErrorInvalidValue;
  if (gradient_type != dout_type && gradient_type != ElementType::kF32)
    return cudaErrorInvalidValue;
  size_t bytes;
  const Scatter s = {p, sorted_in(p.scratch, tokens, p.columns, &bytes)};
  return with_type(dout_type, [&]<typename From>(From) {
    const auto run = [&]<typename To>(To) {
      const bool packs = wide(p.dout, sizeof(From), {p.columns, p.dout_step[0], p.dout_step[1]}) &&
                         wide(p.gradient, sizeof(To), {p.gradient_step});
      return packs ? scatter<To, From, kVector<From>>(stream, s) : scatter<To, From, 1>(stream, s);
    };
    return gradient_type == ElementType::kF32 ? run(float()) : run(From());
  });
}

}  // namespace gatun::kernels
