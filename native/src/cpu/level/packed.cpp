// Matrix products of any shape, dtype and orientation. Who owns what: the block of a (as many rows
// as keep it in L2) is packed by all threads together; then each thread takes the next panel of
// kPanel columns of b, packs it into L1, and runs down the rows of a. What differs between
// operands (orientation, dtype, alpha) ends in the packing; what differs between destinations ends
// in finish(); between the two there is one loop in registers.
#include <omp.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <utility>

#include "cpu/dispatch.h"
#include "cpu/level/product.h"
#include "cpu/level/rows.h"
#include "cpu/level/vec.h"

namespace gatun::cpu::GATUN_LEVEL {
namespace {

// A tile of kTile rows x 2 vectors of sums: 28 + 2 + 1 of avx512's 32 registers, 12 + 2 + 1 of 16;
// without FMA a product needs a register of its own.
#if defined(__AVX512F__)
constexpr int kTile = 14;
constexpr int64_t kBlockFloats = 400 * 1024;  // 1.6 MB of a 2 MB L2
#elif defined(__AVX2__)
constexpr int kTile = 6;
constexpr int64_t kBlockFloats = 96 * 1024;  // of a 512 KB L2
#else
constexpr int kTile = 4;
constexpr int64_t kBlockFloats = 48 * 1024;
#endif
constexpr int kPanel = 2 * kLanes;
constexpr int64_t kGroup = 16 * kTile;  // rows packed at once: whole cache lines of a transposed a
constexpr int64_t kSlice = 512;         // k of one pass; 192 to 384 measure 1 % slower
constexpr int64_t kDepth = 768;         // k that is packed of a at once
constexpr int64_t kWideFloats = 4 << 20;  // f32 sums kept beside a 16-bit destination, at most
constexpr double kSerialFlops = 200000;   // below: one thread, waking another costs as much

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }

// ---- packing ----

template <int S, int... J>
constexpr vi low_mask(std::integer_sequence<int, J...>) {
  return vi{(J & S ? kLanes + J - S : J)...};
}
template <int S, int... J>
constexpr vi high_mask(std::integer_sequence<int, J...>) {
  return vi{(J & S ? kLanes + J : J + S)...};
}

// Swaps bit S of row and lane number.
template <int S>
inline void exchange(vf (&r)[kLanes]) {
  constexpr auto lanes = std::make_integer_sequence<int, kLanes>();
  constexpr vi low = low_mask<S>(lanes);
  constexpr vi high = high_mask<S>(lanes);
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; ++i) {
    if (i & S) continue;
    const vf a = r[i];
    const vf b = r[i + S];
    r[i] = __builtin_shuffle(a, b, low);
    r[i + S] = __builtin_shuffle(a, b, high);
  }
}

inline void transpose(vf (&r)[kLanes]) {
  exchange<1>(r);
  exchange<2>(r);
  if constexpr (kLanes > 4) exchange<4>(r);
  if constexpr (kLanes > 8) exchange<8>(r);
}

// to[k * step + r] = factor * from[r * stride + k] for rows r < count <= kLanes, 0 for the rows
// above. Each k stores a whole vector, and the next k's store covers what was too much; the last
// one stores `step` lanes at most.
template <typename T>
void pack_transposed(const T* from, int64_t stride, int count, int64_t k, float factor, float* to,
                     int step) {
  for (int64_t at = 0; at < k; at += kLanes) {
    const int part = static_cast<int>(std::min<int64_t>(kLanes, k - at));
    vf r[kLanes];
    if (part == kLanes && count == kLanes) {
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i) r[i] = load(from + i * stride + at);
    } else {
      for (int i = 0; i < kLanes; ++i) {
        if (i >= count) {
          r[i] = vf{};
        } else {
          r[i] = part == kLanes ? load(from + i * stride + at)
                                : load_first(from + i * stride + at, part);
        }
      }
    }
    transpose(r);
    float* out = to + at * step;
    if (at + kLanes < k) {
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i) store(out + i * step, r[i] * factor);
    } else {
      for (int i = 0; i < part - 1; ++i) store(out + i * step, r[i] * factor);
      store_first(out + (part - 1) * step, r[part - 1] * factor, std::min(step, kLanes));
    }
  }
}

// Panels of a, one after the other, each of kTile rows as [k][kTile]: rows [row, row + count), k of
// [k0, k0 + k).
void pack_a(const MatrixProduct& p, int64_t row, int64_t count, int64_t k0, int64_t k, float* to) {
  with_float(p.in_dtype, [&]<typename T>() {
    const T* a = static_cast<const T*>(p.a);
    if (!p.a_transposed) {
      for (int64_t r = 0; r < count; r += kTile) {
        pack_transposed(a + (row + r) * p.a_stride + k0, p.a_stride,
                        static_cast<int>(std::min<int64_t>(kTile, count - r)), k, p.alpha,
                        to + r * k, kTile);
      }
      return;
    }
    for (int64_t i = 0; i < k; ++i) {
      const T* from = a + (k0 + i) * p.a_stride + row;
      float* out = to + i * kTile;
      for (int64_t r = 0; r < count; r += kTile, out += kTile * k) {
        const bool whole = row + r + kLanes <= p.m;
        const vf v =
            whole ? load(from + r)
                  : load_first(from + r, static_cast<int>(std::min<int64_t>(kTile, count - r)));
        if (i + 1 < k) {
          store(out, v * p.alpha);
        } else {
          store_first(out, v * p.alpha, kTile);
        }
      }
    }
  });
}

// The panel of b: k of [k0, k0 + k), columns [column, column + count), as [k][kPanel], 0 beyond
// count.
void pack_b(const MatrixProduct& p, int64_t column, int count, int64_t k0, int64_t k, float* to) {
  with_float(p.in_dtype, [&]<typename T>() {
    const T* b = static_cast<const T*>(p.b);
    if (p.b_transposed) {
      for (int c = 0; c < kPanel; c += kLanes) {
        pack_transposed(b + (column + std::min(c, count)) * p.b_stride + k0, p.b_stride,
                        std::clamp(count - c, 0, kLanes), k, 1.f, to + c, kPanel);
      }
      return;
    }
    const T* from = b + k0 * p.b_stride + column;
    if (count == kPanel) {
      for (int64_t i = 0; i < k; ++i, from += p.b_stride, to += kPanel) {
        store(to, load(from));
        store(to + kLanes, load(from + kLanes));
      }
      return;
    }
    const int second = count - kLanes;
    for (int64_t i = 0; i < k; ++i, from += p.b_stride, to += kPanel) {
      store(to, second >= 0 ? load(from) : load_first(from, count));
      store(to + kLanes, second > 0 ? load_first(from + kLanes, second) : vf{});
    }
  });
}

// ---- the loop in registers ----

// c[R, kPanel] = or += sum over k of a[k][R] b[k][kPanel].
template <int R>
void multiply(int64_t k, const float* a, const float* b, float* c, int64_t stride, bool add) {
  vf sum[R][2];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
    sum[r][0] = sum[r][1] = vf{};
    __builtin_prefetch(c + r * stride, 1);
    __builtin_prefetch(c + r * stride + kPanel - 1, 1);
  }
  for (int64_t i = 0; i < k; ++i, a += kTile, b += kPanel) {
    __builtin_prefetch(a + 32 * kTile);  // from L2; measured: 2 % over none
    const vf b0 = load(b);
    const vf b1 = load(b + kLanes);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const vf x = splat(a[r]);
      sum[r][0] += x * b0;
      sum[r][1] += x * b1;
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
    float* row = c + r * stride;
    if (add) {
      sum[r][0] += load(row);
      sum[r][1] += load(row + kLanes);
    }
    store(row, sum[r][0]);
    store(row + kLanes, sum[r][1]);
  }
}

using Multiply = void (*)(int64_t, const float*, const float*, float*, int64_t, bool);

template <int... R>
constexpr std::array<Multiply, kTile> multiply_table(std::integer_sequence<int, R...>) {
  return {multiply<R + 1>...};
}
constexpr std::array<Multiply, kTile> kMultiply =
    multiply_table(std::make_integer_sequence<int, kTile>());

// ---- blocks ----

struct Blocks {
  int64_t rows;     // of a packed at once, a multiple of kTile
  int64_t columns;  // of b in one sweep: all, unless wide sums bound them
  int64_t depth;    // k packed at once, a multiple of slice
  int64_t slice;    // k of one pass
  bool wide;        // sums between passes cannot stay in out: they are kept in f32 beside it

  explicit Blocks(const MatrixProduct& p) {
    slice = std::max<int64_t>(1, ceil_div(p.k, std::max<int64_t>(1, ceil_div(p.k, kSlice))));
    depth = slice * std::max<int64_t>(1, std::min(ceil_div(p.k, slice), kDepth / slice));
    const int64_t most = std::max<int64_t>(kTile, kBlockFloats / depth / kTile * kTile);
    rows = round_up(ceil_div(p.m, ceil_div(p.m, most)), kTile);
    wide = !p.sums_in_out() && p.k > slice;
    columns = wide ? std::max<int64_t>(kPanel, kWideFloats / rows / kPanel * kPanel) : p.n;
    columns = std::min(columns, round_up(p.n, kPanel));
  }
  int64_t a_floats() const { return round_up(rows * depth, 16) + 16; }
  int64_t b_floats() const { return slice * kPanel; }
  int64_t wide_floats() const { return wide ? rows * columns : 0; }
  int64_t floats(int threads) const { return a_floats() + wide_floats() + threads * b_floats(); }
};

// Those who compute one product together: a whole OpenMP team, or one thread of it alone.
struct Team {
  int thread = 0;
  int threads = 1;
  std::atomic<int64_t>* next = nullptr;  // two counters of tasks, taken in turns
  int phase = 0;                         // which is next

  void wait() const {
    if (threads > 1) {
#pragma omp barrier
    }
  }
};

// One product, block by block, as one member of its team.
class Sweep {
 public:
  Sweep(const MatrixProduct& product, const Blocks& blocks, Team& team, float* scratch)
      : p_(product),
        blocks_(blocks),
        team_(team),
        packed_a_(scratch),
        wide_(packed_a_ + blocks.a_floats()),
        panel_(wide_ + blocks.wide_floats() + team.thread * blocks.b_floats()) {}

  void run() {
    for (n0_ = 0; n0_ < p_.n; n0_ += blocks_.columns) {
      columns_ = std::min(blocks_.columns, p_.n - n0_);
      for (m0_ = 0; m0_ < p_.m; m0_ += blocks_.rows) {
        rows_ = std::min(blocks_.rows, p_.m - m0_);
        tiles_ = ceil_div(rows_, kTile);
        int64_t k0 = 0;
        do {  // once even when there is nothing to sum
          block(k0, std::min(blocks_.depth, p_.k - k0));
          k0 += blocks_.depth;
        } while (k0 < p_.k);
      }
    }
  }

 private:
  // k of [k0, k0 + depth) for the rows of a in hand and all panels of b.
  void block(int64_t k0, int64_t depth) {
    team_.wait();  // until nobody reads the last block of a
    const int64_t slices = std::max<int64_t>(1, ceil_div(depth, blocks_.slice));
    const int64_t groups = ceil_div(rows_, kGroup);
    for (int64_t i = team_.thread; i < groups * slices; i += team_.threads) {
      const int64_t s = i / groups * blocks_.slice;
      const int64_t k = std::min(blocks_.slice, depth - s);
      const int64_t row = i % groups * kGroup;
      pack_a(p_, m0_ + row, std::min(kGroup, rows_ - row), k0 + s, k, packed(s) + row * k);
    }
    std::atomic<int64_t>& next = team_.next[team_.phase];
    team_.phase ^= 1;
    if (team_.thread == 0) team_.next[team_.phase].store(0, std::memory_order_relaxed);
    team_.wait();  // until a is packed

    const int64_t panels = ceil_div(columns_, kPanel);
    // few panels for many threads: the rows are shared out as well
    const int64_t parts =
        team_.threads == 1 ? 1 : std::min(tiles_, ceil_div(4 * team_.threads, panels));
    const int64_t part = ceil_div(tiles_, parts);
    const int64_t tasks = panels * parts;
    // the next task is taken before this one is done, so that its b can be asked for
    int64_t upcoming = next.fetch_add(1, std::memory_order_relaxed);
    while (upcoming < tasks) {
      const int64_t task = upcoming;
      upcoming = next.fetch_add(1, std::memory_order_relaxed);
      const int64_t column = task / parts * kPanel;
      const int64_t first = task % parts * part;
      const int64_t last = std::min(tiles_, first + part);
      for (int64_t i = 0; i < slices; ++i) {
        const int64_t s = i * blocks_.slice;
        const int64_t k = std::min(blocks_.slice, depth - s);
        const int width = static_cast<int>(std::min<int64_t>(kPanel, columns_ - column));
        pack_b(p_, n0_ + column, width, k0 + s, k, panel_);
        const bool starts = k0 + s == 0;
        const bool ends = k0 + s + k >= p_.k;
        const bool within = i + 1 < slices;
        const int64_t next_k = k0 + (within ? s + blocks_.slice : 0);
        const int64_t next_column = within ? column : upcoming / parts * kPanel;
        for (int64_t t = first; t < last; ++t) {
          if (within || upcoming < tasks)
            ask_for_b(n0_ + next_column, next_k, k, t - first, last - first);
          tile(packed(s) + t * kTile * k, k, t * kTile, column, width, starts, ends);
        }
      }
    }
  }

  // Prefetches part i of n of the panel of b at (k0, column) into L2, where its rows lie apart.
  void ask_for_b(int64_t column, int64_t k0, int64_t k, int64_t i, int64_t n) const {
    if (p_.b_transposed) return;
    const int64_t bytes = p_.in_dtype == GATUN_F32 ? 4 : 2;
    const char* from = static_cast<const char*>(p_.b) + (k0 * p_.b_stride + column) * bytes;
    for (int64_t row = i * k / n; row < (i + 1) * k / n; ++row) {
      const char* at = from + row * p_.b_stride * bytes;
      for (int64_t byte = 0; byte < kPanel * bytes; byte += 64) __builtin_prefetch(at + byte, 0, 2);
    }
  }

  void tile(const float* a, int64_t k, int64_t row, int64_t column, int width, bool starts,
            bool ends) {
    const int count = tile_rows(row);
    const Multiply multiply_rows = kMultiply[count - 1];
    const bool in_out = p_.sums_in_out();
    float* sums = nullptr;  // of the passes before: out itself or f32 beside it
    int64_t stride = 0;
    if (in_out) {
      stride = p_.out_stride;
      sums = static_cast<float*>(p_.out) + (m0_ + row) * stride + n0_ + column;
    } else if (blocks_.wide) {
      stride = blocks_.columns;
      sums = wide_ + row * stride + column;
    }
    const bool add = !starts || (in_out && p_.add);
    if (ends ? in_out && width == kPanel && !p_.finishes() : !in_out || width == kPanel) {
      multiply_rows(k, a, panel_, sums, stride, add);
      return;
    }
    alignas(64) float out[kTile * kPanel];
    multiply_rows(k, a, panel_, out, kPanel, false);
    finish(p_, out, kPanel, sums, stride, add, ends, count, width, m0_ + row, n0_ + column);
  }

  int tile_rows(int64_t row) const {
    return static_cast<int>(std::min<int64_t>(kTile, rows_ - row));
  }
  // a's panels for k from s on, one after the other: [tile][k][kTile].
  float* packed(int64_t s) const { return packed_a_ + tiles_ * kTile * s; }

  const MatrixProduct& p_;
  const Blocks& blocks_;
  Team& team_;
  float* const packed_a_;
  float* const wide_;
  float* const panel_;
  int64_t n0_ = 0, m0_ = 0, columns_ = 0, rows_ = 0, tiles_ = 0;
};

}  // namespace

void packed_products(Context& context, const MatrixProduct& product, const Batch& batch) {
  const Blocks blocks(product);
  const double flops = 2.0 * static_cast<double>(product.m) * static_cast<double>(product.n) *
                       static_cast<double>(std::max<int64_t>(1, product.k));
  const int threads = flops * static_cast<double>(batch.count) < kSerialFlops ? 1 : context.threads;
  if (threads == 1 || batch.count >= 2 * threads) {  // each thread its own products
    const int64_t floats = round_up(blocks.floats(1), 16);
    float* scratch = static_cast<float*>(
        context.workspace(static_cast<size_t>(floats * threads) * sizeof(float)));
    const auto work = [&](int64_t index, int thread) {
      std::atomic<int64_t> next[2] = {0, 0};
      Team alone{0, 1, next};
      const MatrixProduct p = batch.at(product, index);
      Sweep(p, blocks, alone, scratch + floats * thread).run();
    };
    if (threads == 1) {
      for (int64_t i = 0; i < batch.count; ++i) work(i, 0);
      return;
    }
#pragma omp parallel for num_threads(threads) schedule(dynamic)
    for (int64_t i = 0; i < batch.count; ++i) work(i, omp_get_thread_num());
    return;
  }
  float* scratch = static_cast<float*>(
      context.workspace(static_cast<size_t>(blocks.floats(threads)) * sizeof(float)));
  std::atomic<int64_t> next[2] = {0, 0};
#pragma omp parallel num_threads(threads)
  {
    Team team{omp_get_thread_num(), omp_get_num_threads(), next};
    for (int64_t i = 0; i < batch.count; ++i) {
      const MatrixProduct p = batch.at(product, i);
      Sweep(p, blocks, team, scratch).run();
    }
  }
}

MatrixProduct Batch::at(MatrixProduct product, int64_t index) const {
  int64_t a_at = 0, b_at = 0, out_at = 0, pre_at = 0, residual_at = 0;
  for (int d = 0; d < rank; ++d) {
    const int64_t i = index % shape[d];
    index /= shape[d];
    a_at += i * a[d];
    b_at += i * b[d];
    out_at += i * out[d];
    pre_at += i * preactivation[d];
    residual_at += i * residual[d];
  }
  product.a = static_cast<const char*>(product.a) + a_at;
  product.b = static_cast<const char*>(product.b) + b_at;
  product.out = static_cast<char*>(product.out) + out_at;
  if (product.preactivation != nullptr)
    product.preactivation = static_cast<char*>(product.preactivation) + pre_at;
  if (product.residual != nullptr)
    product.residual = static_cast<const char*>(product.residual) + residual_at;
  return product;
}

}  // namespace gatun::cpu::GATUN_LEVEL
