// attention_backward: a task is one key/value head of one sequence, or a span of its keys where
// there are fewer heads than threads. It owns dk and dv of its keys; dq is its own too, or, with
// spans, a partial that a second loop adds up in the order of the spans. So no sum depends on
// timing.
#include <cstring>

#include "core/backend.h"
#include "cpu/dispatch.h"
#include "cpu/level/attention.h"
#include "cpu/level/backend.h"

namespace gatun::cpu::GATUN_LEVEL {
namespace {

struct BackwardScratch {
  float *queries, *douts;         // transposed [columns, kQueries]
  float *query_rows, *dout_rows;  // [kQueries, padded], unused where direct
  float *weights, *dscores;       // tiles [kKeys, kQueries]
  float *keys, *values;           // [kKeys, padded], unused where direct
  float* dq;                      // [kQueries, padded]
  float *dk, *dv;                 // [span, padded]

  BackwardScratch(Carver& carver, int64_t columns, int64_t span) {
    const int64_t padded = round_up(columns, kLanes);
    queries = carver.take(columns * kQueries);
    douts = carver.take(columns * kQueries);
    query_rows = carver.take(kQueries * padded);
    dout_rows = carver.take(kQueries * padded);
    weights = carver.take(kKeys * kQueries);
    dscores = carver.take(kKeys * kQueries);
    keys = carver.take(kKeys * padded);
    values = carver.take(kKeys * padded);
    dq = carver.take(kQueries * padded);
    dk = carver.take(span * padded);
    dv = carver.take(span * padded);
  }
  static int64_t floats(int64_t columns, int64_t span) {
    Carver carver(nullptr);
    BackwardScratch unused(carver, columns, span);
    return carver.used();
  }
};

// The rows of one tensor of gradients [rows, columns] (+)= factor * sums.
template <typename T>
void write_rows(T* out, int64_t out_row, const float* sums, int64_t sums_row, int64_t rows,
                int64_t columns, float factor, bool add) {
  for (int64_t i = 0; i < rows; ++i) {
    T* const to = out + i * out_row;
    const float* const from = sums + i * sums_row;
    each_vector(
        columns,
        [&](int64_t d) {
          const vf x = load(from + d) * factor;
          store(to + d, add ? load(to + d) + x : x);
        },
        [&](int64_t d, int n) {
          const vf x = load_first(from + d, n) * factor;
          store_first(to + d, add ? load_first(to + d, n) + x : x, n);
        });
  }
}

// delta_i = sum over d of dout_id out_id: what the softmax's normalisation takes back.
template <typename T>
float row_product(const T* a, const T* b, int64_t columns) {
  vf total{};
  each_vector(
      columns, [&](int64_t d) { total += load(a + d) * load(b + d); },
      [&](int64_t d, int n) { total += load_first(a + d, n) * load_first(b + d, n); });
  return sum(total);
}

// weights: scores (in powers of 2) become probabilities; dscores: their gradients dp become those
// of the scores but for the scale. `height` keys from `key` on, lanes from vector `skipped` on;
// lanes before it see none of these keys.
void differentiate(float* weights, float* dscores, int height, int64_t key, int skipped,
                   int vectors, const float* lse, const float* delta, const Sight& sight) {
  const vi lanes = lane_numbers();
  for (int c = 0; c < skipped; ++c)
    for (int j = 0; j < height; ++j) store(dscores + j * kQueries + c * kLanes, vf{});
  for (int c = skipped; c < vectors; ++c) {
    const vf base = load(lse + c * kLanes);
    const vf less = load(delta + c * kLanes);
    const bool whole = key + height <= sight.reach + c * kLanes;
    for (int j = 0; j < height; ++j) {
      float* const weight = weights + j * kQueries + c * kLanes;
      float* const dscore = dscores + j * kQueries + c * kLanes;
      vf p = exp2(load(weight) - base);
      vf ds = p * (load(dscore) - less);
      if (!whole) {
        const vi hidden = lanes < static_cast<int32_t>(std::clamp<int64_t>(
                                      key + j + 1 - sight.reach - c * kLanes, 0, kLanes));
        p = select(hidden, vf{}, p);
        ds = select(hidden, vf{}, ds);
      }
      store(weight, p);
      store(dscore, ds);
    }
  }
}

template <typename T>
void backward(Context& context, const AttentionBackward& op) {
  const int64_t batches = op.q.shape[0], heads = op.q.shape[1], all_queries = op.q.shape[2];
  const int64_t columns = op.q.shape[3], kv_heads = op.k.shape[1];
  if (batches * columns * kv_heads == 0) return;
  const Sequences sequences(context, op);
  const int64_t most_keys = sequences.longest_keys();
  const int64_t padded = round_up(columns, kLanes);
  const int wide = static_cast<int>(padded / kLanes);
  const int64_t group = heads / kv_heads;
  const float scale = static_cast<float>(scale_of(op.scale, columns));
  const float factor = static_cast<float>(scale_of(op.scale, columns) * kLog2E);
  const bool wants_dq = static_cast<bool>(op.dq);
  const bool wants_dk = static_cast<bool>(op.dk);
  const bool wants_dv = static_cast<bool>(op.dv);

  const double work = 2.0 * static_cast<double>(batches * heads * columns) *
                      static_cast<double>(all_queries) * static_cast<double>(op.k.shape[2]);
  const int most_threads = work < kParallelWork ? 1 : context.threads;
  // Spans are worth their partials only where heads alone leave threads idle.
  const int64_t all_heads = sequences.count() * kv_heads;
  int64_t spans = 1;
  if (most_threads > 1 && all_heads < 2 * most_threads && all_heads % most_threads != 0) {
    spans = std::min((4 * most_threads + all_heads - 1) / all_heads, most_keys / (2 * kKeys));
    spans = std::max<int64_t>(spans, 1);
  }
  const int64_t span = std::max<int64_t>(round_up((most_keys + spans - 1) / spans, kKeys), kKeys);
  const int64_t tasks = all_heads * spans;
  const int threads = tasks == 1 ? 1 : most_threads;
  const int64_t floats = BackwardScratch::floats(columns, std::min(span, most_keys));
  const int64_t partial = spans > 1 && wants_dq ? batches * heads * all_queries * padded : 0;
  auto* const partials = static_cast<float*>(
      context.workspace(static_cast<size_t>(partial * spans + floats * threads) * sizeof(float)));
  float* const workspace = partials + partial * spans;

#pragma omp parallel for num_threads(threads) schedule(dynamic)
  for (int64_t task = 0; task < tasks; ++task) {
    const int64_t part = task % spans;
    const int64_t kv = task / spans % kv_heads;
    const auto [b, first_query, queries, first_key, keys, visible] =
        sequences[task / spans / kv_heads];
    Carver carver(workspace + floats * thread_number());
    const BackwardScratch scratch(carver, columns, std::min(span, most_keys));
    const int64_t from = std::min(part * span, keys), to = std::min(from + span, keys);
    const T* const k = head_of<T>(op.k, b, kv, first_key);
    const T* const v = head_of<T>(op.v, b, kv, first_key);
    if (wants_dk) std::memset(scratch.dk, 0, sizeof(float) * (to - from) * padded);
    if (wants_dv) std::memset(scratch.dv, 0, sizeof(float) * (to - from) * padded);

    for (int64_t h = kv * group; h < (kv + 1) * group; ++h) {
      const T* const q = head_of<T>(op.q, b, h, first_query);
      const T* const dout = head_of<T>(op.dout, b, h, first_query);
      const T* const out = head_of<T>(op.out, b, h, first_query);
      const float* const lse =
          op.lse.as<float>() + b * op.lse.stride[0] + h * op.lse.stride[1] + first_query;
      for (int64_t first = 0; first < queries; first += kQueries) {
        const int rows = static_cast<int>(std::min<int64_t>(kQueries, queries - first));
        const int vectors = (rows + kLanes - 1) / kLanes;
        const Sight sight{std::min(visible, to), op.causal ? first + keys - queries + 1 : kSeesAll};
        const int64_t total = sight.of(rows - 1);
        if (total <= from) {
          if (wants_dq) std::memset(scratch.dq, 0, sizeof(float) * rows * padded);
        } else {
          pack_transposed(scratch.queries, kQueries, q + first * op.q.stride[2], op.q.stride[2],
                          rows, columns, factor);
          pack_transposed(scratch.douts, kQueries, dout + first * op.dout.stride[2],
                          op.dout.stride[2], rows, columns, 1.f);
        }
        int64_t query_row = 0, dout_row = 0;
        const float* query_rows = nullptr;
        const float* dout_rows = nullptr;
        alignas(64) float base[kQueries], delta[kQueries];
        if (total > from) {
          if (wants_dk)
            query_rows = as_rows(scratch.query_rows, q + first * op.q.stride[2], op.q.stride[2],
                                 rows, columns, &query_row);
          if (wants_dv)
            dout_rows = as_rows(scratch.dout_rows, dout + first * op.dout.stride[2],
                                op.dout.stride[2], rows, columns, &dout_row);
          for (int i = 0; i < kQueries; ++i) {
            base[i] = kInfinity;  // no weight at all, for lanes without a query or a key
            delta[i] = 0.f;
            if (i >= rows) continue;
            if (lse[first + i] != -kInfinity) base[i] = static_cast<float>(lse[first + i] * kLog2E);
            delta[i] = row_product(dout + (first + i) * op.dout.stride[2],
                                   out + (first + i) * op.out.stride[2], columns);
          }
        }

        for (int64_t start = from; start < total; start += kKeys) {
          const int n = static_cast<int>(std::min<int64_t>(kKeys, total - start));
          int64_t key_row = 0, value_row = 0;
          const float* const key_rows = as_rows(scratch.keys, k + start * op.k.stride[2],
                                                op.k.stride[2], n, columns, &key_row);
          const float* const value_rows = as_rows(scratch.values, v + start * op.v.stride[2],
                                                  op.v.stride[2], n, columns, &value_row);
          for (int r = 0; r < n; r += kTileRows) {
            const int height = std::min(kTileRows, n - r);
            const int64_t seer = sight.first_query(start + r);
            const int skipped = static_cast<int>(seer / kLanes);
            float* const weights = scratch.weights + r * kQueries;
            float* const dscores = scratch.dscores + r * kQueries;
            multiply_strip<Into::kSet>(
                height, vectors - skipped,
                {columns, key_rows + r * key_row, key_row, 1, scratch.queries + skipped * kLanes,
                 kQueries, weights + skipped * kLanes, kQueries});
            multiply_strip<Into::kSet>(
                height, vectors - skipped,
                {columns, value_rows + r * value_row, value_row, 1,
                 scratch.douts + skipped * kLanes, kQueries, dscores + skipped * kLanes, kQueries});
            differentiate(weights, dscores, height, start + r, skipped, vectors, base, delta,
                          sight);
            if (wants_dv)
              multiply_strip<Into::kAdd>(
                  height, wide,
                  {rows - seer, weights + seer, kQueries, 1, dout_rows + seer * dout_row, dout_row,
                   scratch.dv + (start - from + r) * padded, padded});
            if (wants_dk)
              multiply_strip<Into::kAdd>(
                  height, wide,
                  {rows - seer, dscores + seer, kQueries, 1, query_rows + seer * query_row,
                   query_row, scratch.dk + (start - from + r) * padded, padded});
          }
          if (!wants_dq) continue;
          for (int r = 0; r < rows; r += kTileRows) {
            const int height = std::min(kTileRows, rows - r);
            const int64_t seen = std::clamp<int64_t>(sight.of(r + height - 1) - start, 0, n);
            const Product product{seen,    scratch.dscores + r,     1,     kQueries, key_rows,
                                  key_row, scratch.dq + r * padded, padded};
            if (start == from)
              multiply_strip<Into::kSet>(height, wide, product);
            else if (seen > 0)
              multiply_strip<Into::kAdd>(height, wide, product);
          }
        }
        if (!wants_dq) continue;
        if (spans == 1)
          write_rows(head_of<T>(op.dq, b, h, first_query + first), op.dq.stride[2], scratch.dq,
                     padded, rows, columns, scale, adds(op.accumulate, 0));
        else
          std::memcpy(partials + part * partial +
                          ((b * heads + h) * all_queries + first_query + first) * padded,
                      scratch.dq, sizeof(float) * rows * padded);
      }
    }
    if (wants_dk)
      write_rows(head_of<T>(op.dk, b, kv, first_key + from), op.dk.stride[2], scratch.dk, padded,
                 to - from, columns, scale, adds(op.accumulate, 1));
    if (wants_dv)
      write_rows(head_of<T>(op.dv, b, kv, first_key + from), op.dv.stride[2], scratch.dv, padded,
                 to - from, columns, 1.f, adds(op.accumulate, 2));
  }

  if (partial == 0) return;
  const int64_t rows = batches * heads * all_queries;
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t row = 0; row < rows; ++row) {
    float* const total = partials + row * padded;
    for (int64_t part = 1; part < spans; ++part) {
      const float* const more = total + part * partial;
      for (int64_t d = 0; d < padded; d += kLanes)
        store(total + d, load(total + d) + load(more + d));
    }
    const int64_t i = row % all_queries, h = row / all_queries % heads;
    write_rows(head_of<T>(op.dq, row / all_queries / heads, h, i), op.dq.stride[2], total, padded,
               1, columns, scale, adds(op.accumulate, 0));
  }
}

}  // namespace

void attention_backward(Context& context, const AttentionBackward& op) {
  with_float(op.q.dtype, [&]<typename T>() { backward<T>(context, op); });
}

}  // namespace gatun::cpu::GATUN_LEVEL
