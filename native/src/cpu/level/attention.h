// What attention's passes share. Their tiles stand transposed: a row is a key, a lane is a query.
// So the softmax of a query never leaves its lane, scores come from k as it lies in memory, and
// only the queries are ever transposed, once for each block of them.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <type_traits>
#include <vector>

#if defined(_OPENMP)
#include <omp.h>
#endif

#include "core/backend.h"
#include "cpu/level/gemm.h"
#include "cpu/level/vec.h"
#include "ops/args.h"

namespace gatun::cpu::GATUN_LEVEL {

constexpr int kQueries = 64;  // lanes of a tile; with head size 64 its five operands fit 80 KB
constexpr int kKeys = 96;     // rows of a tile: whole strips of 6 and of 4
static_assert(kQueries % kLanes == 0 && kKeys % kTileRows == 0);

// In double, so that a conversion between e and 2 rounds once.
constexpr double kLog2E = 1.4426950408889634;
constexpr double kLn2 = 0.69314718055994531;
constexpr float kInfinity = std::numeric_limits<float>::infinity();

inline int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

// The larger; b where either is NaN. One instruction, which the compiler finds only on its own
// terms.
inline vf larger(vf a, vf b) {
#if defined(__AVX512F__)
  return (vf)_mm512_maskz_max_ps(0xffff, (__m512)a, (__m512)b);
#elif defined(__AVX2__)
  return (vf)_mm256_max_ps((__m256)a, (__m256)b);
#else
  return a > b ? a : b;
#endif
}

// 2^x for x <= 127: relative error below 2 ulp (a minimax polynomial of degree 5 on [-1/2, 1/2]).
// Below 2^-126 exactly 0, so that no sum meets a subnormal; NaN kept.
inline vf exp2(vf x) {
  const vf shifter = splat(12582912.f);  // 1.5 * 2^23: adding it rounds to an integer
  const vf shifted = x + shifter;
  const vf r = x - (shifted - shifter);
  vf p = splat(1.32647273e-3f);
  p = p * r + 9.67151299e-3f;
  p = p * r + 5.55073358e-2f;
  p = p * r + 2.40222424e-1f;
  p = p * r + 6.93147004e-1f;
  p = p * r + 1.f;
  const vf y = (vf)((vu)p + ((vu)shifted << 23));
  return x >= splat(-126.f) ? y : larger(vf{}, x);
}

inline vi lane_numbers() {
  vi v{};
  for (int i = 0; i < kLanes; ++i) v[i] = i;
  return v;
}

// A block of keys and values as f32 rows.
struct KeyBlock {
  const float* k;
  int64_t k_row;
  const float* v;  // rows readable up to a whole vector
  int64_t v_row;
};

// f32 rows that vectors may read as they lie; anything else is converted into scratch.
template <typename T>
inline const float* as_rows(float* scratch, const T* x, int64_t x_row, int64_t rows,
                            int64_t columns, int64_t* row) {
  if constexpr (std::is_same_v<T, float>) {
    if (columns % kLanes == 0) {
      *row = x_row;
      return x;
    }
  }
  *row = round_up(columns, kLanes);
  pack_rows(scratch, *row, x, x_row, rows, columns);
  return scratch;
}

// Who sees whom in one block of queries: query i (of the block) sees the keys
// j < min(keys, reach + i).
struct Sight {
  int64_t keys;
  int64_t reach;

  int64_t of(int64_t query) const {
    return std::clamp<int64_t>(reach + query, 0, std::max<int64_t>(keys, 0));
  }
  // The first query that sees key j, if only reach matters.
  int64_t first_query(int64_t j) const { return std::max<int64_t>(0, j + 1 - reach); }
};

// A reach that hides nothing, small enough to add to.
constexpr int64_t kSeesAll = std::numeric_limits<int64_t>::max() / 4;

// Carves a thread's scratch into float arrays; with base null it only counts.
class Carver {
 public:
  explicit Carver(float* base) : base_(base) {}
  float* take(int64_t floats) {
    float* at = base_ == nullptr ? nullptr : base_ + used_;
    used_ += round_up(floats, 16);  // 64 bytes
    return at;
  }
  int64_t used() const { return used_; }

 private:
  float* base_;
  int64_t used_ = 0;
};

struct AttendScratch {
  float *queries, *scores, *sums, *keys, *values;

  AttendScratch(Carver& carver, int64_t columns) {
    const int64_t padded = round_up(columns, kLanes);
    queries = carver.take(columns * kQueries);
    scores = carver.take(kKeys * kQueries);
    sums = carver.take(kQueries * padded);
    keys = carver.take(kKeys * padded);
    values = carver.take(kKeys * padded);
  }
  static int64_t floats(int64_t columns) {
    Carver carver(nullptr);
    AttendScratch unused(carver, columns);
    return carver.used();
  }
};

// Up to kQueries queries [rows, columns] over the keys they see: online softmax (Milakov &
// Gimelshein 2018, arXiv:1805.02867) over blocks of keys (FlashAttention, arXiv:2205.14135).
// fetch(j, n) gives the KeyBlock of keys j .. j + n. `factor` is the scale times log2 e: the
// softmax works with powers of 2. lse may be null.
template <typename T, typename Fetch>
void attend(const AttendScratch& scratch, T* out, int64_t out_row, float* lse, const T* q,
            int64_t q_row, int rows, int64_t columns, float factor, Sight sight, Fetch fetch) {
  const int64_t padded = round_up(columns, kLanes);
  const int vectors = static_cast<int>((rows + kLanes - 1) / kLanes);
  const int wide = static_cast<int>(padded / kLanes);
  const int64_t total = sight.of(rows - 1);
  const vi lanes = lane_numbers();
  alignas(64) float most[kQueries], mass[kQueries], rescale[kQueries];
  for (int i = 0; i < kQueries; ++i) {
    most[i] = -kInfinity;
    mass[i] = 0.f;
  }
  if (total > 0) pack_transposed(scratch.queries, kQueries, q, q_row, rows, columns, factor);

  for (int64_t start = 0; start < total; start += kKeys) {
    const int n = static_cast<int>(std::min<int64_t>(kKeys, total - start));
    const KeyBlock block = fetch(start, n);
    float* const scores = scratch.scores;
    for (int r = 0; r < n; r += kTileRows) {
      const int height = std::min(kTileRows, n - r);
      const int skipped = static_cast<int>(sight.first_query(start + r) / kLanes);
      multiply_strip<Into::kSet>(
          height, vectors - skipped,
          {columns, block.k + r * block.k_row, block.k_row, 1, scratch.queries + skipped * kLanes,
           kQueries, scores + r * kQueries + skipped * kLanes, kQueries});
    }
    for (int c = 0; c < vectors; ++c) {
      // Keys before `whole` are seen by all lanes, from `end` on by none.
      const int whole =
          static_cast<int>(std::clamp<int64_t>(sight.reach + c * kLanes - start, 0, n));
      const int end = static_cast<int>(
          std::clamp<int64_t>(sight.reach + c * kLanes + kLanes - 1 - start, 0, n));
      float* const column = scores + c * kLanes;
      const vf before = load(most + c * kLanes);
      vf peak[4] = {before, before, before, before};
      int j = 0;
      for (; j + 4 <= whole; j += 4)
#pragma GCC unroll 4
        for (int u = 0; u < 4; ++u) peak[u] = larger(peak[u], load(column + (j + u) * kQueries));
      for (; j < whole; ++j) peak[0] = larger(peak[0], load(column + j * kQueries));
      for (; j < end; ++j) {
        const vi hidden = lanes < static_cast<int32_t>(start + j + 1 - sight.reach - c * kLanes);
        const vf s = select(hidden, splat(-kInfinity), load(column + j * kQueries));
        store(column + j * kQueries, s);
        peak[0] = larger(peak[0], s);
      }
      const vf now = larger(larger(peak[0], peak[1]), larger(peak[2], peak[3]));
      const vf base = now == splat(-kInfinity) ? vf{} : now;
      const vf shrink = exp2(before - base);
      vf sums[2] = {};
      for (j = 0; j + 2 <= end; j += 2)
#pragma GCC unroll 2
        for (int u = 0; u < 2; ++u) {
          const vf p = exp2(load(column + (j + u) * kQueries) - base);
          store(column + (j + u) * kQueries, p);
          sums[u] += p;
        }
      if (j < end) {
        const vf p = exp2(load(column + j * kQueries) - base);
        store(column + j * kQueries, p);
        sums[0] += p;
      }
      for (j = end; j < n; ++j) store(column + j * kQueries, vf{});
      store(most + c * kLanes, now);
      store(mass + c * kLanes, load(mass + c * kLanes) * shrink + (sums[0] + sums[1]));
      store(rescale + c * kLanes, shrink);
    }
    for (int r = 0; r < rows; r += kTileRows) {
      const int height = std::min(kTileRows, rows - r);
      const int64_t seen = std::min<int64_t>(n, sight.of(r + height - 1) - start);
      const Product product{
          std::max<int64_t>(seen, 0), scores + r, 1,          kQueries, block.v, block.v_row,
          scratch.sums + r * padded,  padded,     rescale + r};
      if (start == 0)
        multiply_strip<Into::kSet>(height, wide, product);
      else if (seen > 0)
        multiply_strip<Into::kRescale>(height, wide, product);
    }
  }

  for (int i = 0; i < rows; ++i) {
    const bool blind = mass[i] == 0.f || total <= 0;
    if (lse != nullptr)
      lse[i] = blind ? -kInfinity
                     : static_cast<float>(most[i] * kLn2 + std::log(static_cast<double>(mass[i])));
    T* const to = out + i * out_row;
    const float* const from = scratch.sums + i * padded;
    const float inverse = blind ? 0.f : 1.f / mass[i];
    each_vector(
        columns, [&](int64_t d) { store(to + d, blind ? vf{} : load(from + d) * inverse); },
        [&](int64_t d, int count) {
          store_first(to + d, blind ? vf{} : load(from + d) * inverse, count);
        });
  }
}

// The number of this thread within an op's parallel loop.
inline int thread_number() {
#if defined(_OPENMP)
  return omp_get_thread_num();
#else
  return 0;
#endif
}

// A row of the batch, or a stretch of the only one: where its rows begin and how many there are.
struct Sequence {
  int64_t batch, first_query, queries, first_key, keys;
  int64_t visible;  // keys, from the first on
};

// The sequences of an op. Packed ones have starts, which are put right and reported where they do
// not ascend from 0 to the number of rows at most; the rows behind them are one more sequence, of
// which nothing is visible.
class Sequences {
 public:
  template <typename Op>
  Sequences(Context& context, const Op& op)
      : lengths_(op.lengths),
        count_(op.q.shape[0]),
        queries_(op.q.shape[2]),
        keys_(op.k.shape[2]),
        longest_keys_(keys_) {
    if (!op.q_starts) return;
    q_starts_ = right(context, "q_starts", op.q_starts, queries_);
    k_starts_ = right(context, "k_starts", op.k_starts, keys_);
    count_ = op.q_starts.shape[0];
    longest_keys_ = 0;
    for (int64_t s = 0; s < count_; ++s)
      longest_keys_ = std::max(longest_keys_, k_starts_[s + 1] - k_starts_[s]);
  }

  int64_t count() const { return count_; }
  int64_t longest_keys() const { return longest_keys_; }

  Sequence operator[](int64_t s) const {
    if (!packed()) {
      const int64_t visible =
          lengths_ ? std::clamp<int64_t>(lengths_.as<int32_t>()[s * lengths_.step(0)], 0, keys_)
                   : keys_;
      return {s, 0, queries_, 0, keys_, visible};
    }
    const int64_t keys = k_starts_[s + 1] - k_starts_[s];
    return {0,
            q_starts_[s],
            q_starts_[s + 1] - q_starts_[s],
            k_starts_[s],
            keys,
            s == count_ - 1 ? 0 : keys};
  }

  // Blocks of so many queries of a head of one row of the batch, each of one sequence. Packed,
  // sequence s has those from its start / rows + s on, which are enough.
  int64_t blocks(int64_t rows) const {
    return packed() ? queries_ / rows + count_ : (queries_ + rows - 1) / rows;
  }
  struct Block {
    Sequence sequence;
    int64_t first;  // query; maybe beyond the last
  };
  Block block(int64_t batch, int64_t number, int64_t rows) const {
    if (!packed()) return {(*this)[batch], number * rows};
    int64_t low = 0, high = count_;  // the last one whose blocks begin at `number` or before
    while (high - low > 1) {
      const int64_t middle = (low + high) / 2;
      (q_starts_[middle] / rows + middle <= number ? low : high) = middle;
    }
    return {(*this)[low], (number - q_starts_[low] / rows - low) * rows};
  }

 private:
  bool packed() const { return !q_starts_.empty(); }

  static std::vector<int64_t> right(Context& context, const char* name, const View& starts,
                                    int64_t rows) {
    std::vector<int64_t> all;
    for (int64_t s = 0, least = 0; s < starts.shape[0]; ++s) {
      const int64_t start = starts.as<int32_t>()[s * starts.step(0)], most = s == 0 ? 0 : rows;
      if (start < least || start > most)
        context.fault(GATUN_OUT_OF_RANGE, "attention",
                      "%s[%lld] is %lld, wanted %lld to %lld: starts ascend from 0 and end within "
                      "the rows",
                      name, static_cast<long long>(s), static_cast<long long>(start),
                      static_cast<long long>(least), static_cast<long long>(most));
      all.push_back(least = std::clamp(start, least, most));
    }
    all.push_back(rows);
    return all;
  }

  View lengths_;
  int64_t count_, queries_, keys_, longest_keys_;
  std::vector<int64_t> q_starts_, k_starts_;  // empty: not packed
};

template <typename T>
T* head_of(const View& view, int64_t b, int64_t h, int64_t row) {
  return view.as<T>() + b * view.stride[0] + h * view.stride[1] + row * view.stride[2];
}

inline double scale_of(float scale, int64_t columns) {
  return scale != 0.f || columns == 0 ? scale : 1.0 / std::sqrt(static_cast<double>(columns));
}

// Below this many multiplications a second thread costs more than it brings. A team is always one
// thread or all of them: libgomp ends and starts threads when its size changes.
constexpr double kParallelWork = 65536;

}  // namespace gatun::cpu::GATUN_LEVEL
