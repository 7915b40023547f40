// kv_append and attention_decode over a paged cache. A few queries a row read each key and value
// once, bound by memory; many (a prompt) take attention's tiles.
#include <cstring>

#include "core/backend.h"
#include "cpu/dispatch.h"
#include "cpu/level/attention.h"
#include "cpu/level/backend.h"

namespace gatun::cpu::GATUN_LEVEL {
namespace {

// Where the slots of a paged cache lie.
struct Pages {
  const View& k;
  const View& v;
  const View& table;

  int64_t pages() const { return k.shape[0]; }
  int64_t slots() const { return k.shape[2]; }
  // Slots that a row may hold.
  int64_t capacity() const { return table ? table.shape[1] * slots() : slots(); }
  // The page of a slot below the capacity; not checked.
  int64_t page(int64_t batch, int64_t slot) const {
    return table ? table.as<int32_t>()[batch * table.stride[0] + slot / slots()] : batch;
  }
  bool holds(int64_t page) const { return page >= 0 && page < pages(); }
  // Elements from the first of `view` to a slot's row.
  int64_t at(const View& view, int64_t page, int64_t head, int64_t slot) const {
    return page * view.stride[0] + head * view.stride[1] + slot % slots() * view.stride[2];
  }
};

void report_page(Context& context, const char* op, const Pages& pages, int64_t batch,
                 int64_t slot) {
  context.fault(GATUN_OUT_OF_RANGE, op, "page %lld of slot %lld of row %lld is not in [0, %lld)",
                static_cast<long long>(pages.page(batch, slot)), static_cast<long long>(slot),
                static_cast<long long>(batch), static_cast<long long>(pages.pages()));
}

void report_slot(Context& context, const char* op, const Pages& pages, int64_t batch,
                 int64_t slot) {
  context.fault(GATUN_OUT_OF_RANGE, op,
                "slot %lld of row %lld is not in [0, %lld), the slots of its pages",
                static_cast<long long>(slot), static_cast<long long>(batch),
                static_cast<long long>(pages.capacity()));
}

template <typename To, typename From>
void convert_row(To* to, const From* from, int64_t columns) {
  if constexpr (std::is_same_v<To, From>) {
    std::memcpy(to, from, sizeof(To) * static_cast<size_t>(columns));
  } else {
    each_vector(
        columns, [&](int64_t d) { store(to + d, load(from + d)); },
        [&](int64_t d, int n) { store_first(to + d, load_first(from + d, n), n); });
  }
}

template <typename To, typename From>
void append(Context& context, const KvAppend& op) {
  const Pages pages{op.k_pages, op.v_pages, op.page_table};
  const int64_t heads = op.k.shape[1], tokens = op.k.shape[2], columns = op.k.shape[3];
  const int64_t rows = op.k.shape[0] * heads * tokens;
#pragma omp parallel for num_threads(rows* columns < 32768 ? 1 : context.threads) schedule(static)
  for (int64_t row = 0; row < rows; ++row) {
    const int64_t t = row % tokens, h = row / tokens % heads, b = row / tokens / heads;
    const int64_t slot = int64_t{op.lengths.as<int32_t>()[b * op.lengths.stride[0]]} + t;
    if (slot < 0 || slot >= pages.capacity()) {
      report_slot(context, "kv_append", pages, b, slot);
      continue;
    }
    const int64_t page = pages.page(b, slot);
    if (!pages.holds(page)) {
      report_page(context, "kv_append", pages, b, slot);
      continue;
    }
    convert_row(op.k_pages.as<To>() + pages.at(op.k_pages, page, h, slot),
                op.k.as<From>() + b * op.k.stride[0] + h * op.k.stride[1] + t * op.k.stride[2],
                columns);
    convert_row(op.v_pages.as<To>() + pages.at(op.v_pages, page, h, slot),
                op.v.as<From>() + b * op.v.stride[0] + h * op.v.stride[1] + t * op.v.stride[2],
                columns);
  }
}

// ---- few queries ----

constexpr int kFewKeys = 64;  // keys a step; scores of one step stay in the first cache

// The running softmax of one query: peak and mass (in powers of 2) and the weighted sum of values.
struct Running {
  float* peak;
  float* mass;
  float* sums;  // [padded]
};

// Lane i of the result is the sum of rows[i]: a transpose that adds as it goes.
inline vf sums_of(vf (&rows)[kLanes]) {
#pragma GCC unroll 4
  for (int n = kLanes / 2; n >= 1; n /= 2)
#pragma GCC unroll 8
    for (int i = 0; i < n; ++i)
      rows[i] = interleave_low(rows[i], rows[i + n]) + interleave_high(rows[i], rows[i + n]);
  return rows[0];
}

// One query [padded] over n <= kFewKeys keys and values, rows of whole vectors.
template <typename P>
void attend_few(const Running& running, const float* q, const P* k, int64_t k_row, const P* v,
                int64_t v_row, int n, int64_t padded) {
  alignas(64) float scores[kFewKeys];
  vf highest = splat(-kInfinity);
  int j = 0;
  for (; j + kLanes <= n; j += kLanes) {
    vf products[kLanes] = {};
    for (int64_t d = 0; d < padded; d += kLanes) {
      const vf x = load(q + d);
#pragma GCC unroll 16
      for (int i = 0; i < kLanes; ++i) products[i] += x * load(k + (j + i) * k_row + d);
    }
    const vf s = sums_of(products);
    store(scores + j, s);
    highest = larger(highest, s);
  }
  if (j < n) {
    vf s = splat(-kInfinity);
    for (int i = 0; i < n - j; ++i) {
      vf product{};
      for (int64_t d = 0; d < padded; d += kLanes)
        product += load(q + d) * load(k + (j + i) * k_row + d);
      s[i] = sum(product);
    }
    store(scores + j, s);
    highest = larger(highest, s);
  }

  const float before = *running.peak;
  const float now = std::max(before, max_lane(highest));
  const vf base = splat(now == -kInfinity ? 0.f : now);
  vf mass{};
  for (j = 0; j < n; j += kLanes) {
    const vf p = exp2(load(scores + j) - base);
    store(scores + j, p);
    mass += p;
  }
  const float shrink = exp2(splat(before) - base)[0];
  *running.peak = now;
  *running.mass = *running.mass * shrink + sum(mass);

  constexpr int kWide = 4;
  int64_t d = 0;
  for (; d + kWide * kLanes <= padded; d += kWide * kLanes) {
    vf total[kWide];
#pragma GCC unroll 4
    for (int c = 0; c < kWide; ++c) total[c] = load(running.sums + d + c * kLanes) * shrink;
    for (j = 0; j < n; ++j) {
      const vf p = splat(scores[j]);
#pragma GCC unroll 4
      for (int c = 0; c < kWide; ++c) total[c] += p * load(v + j * v_row + d + c * kLanes);
    }
#pragma GCC unroll 4
    for (int c = 0; c < kWide; ++c) store(running.sums + d + c * kLanes, total[c]);
  }
  for (; d < padded; d += kLanes) {
    vf total = load(running.sums + d) * shrink;
    for (j = 0; j < n; ++j) total += splat(scores[j]) * load(v + j * v_row + d);
    store(running.sums + d, total);
  }
}

// The keys of row b that its last query sees, at most what its pages hold.
int64_t keys_of(const AttentionDecode& op, const Pages& pages, int64_t batch) {
  const int64_t length = op.lengths.as<int32_t>()[batch * op.lengths.stride[0]];
  return std::clamp<int64_t>(length + op.q.shape[2], 0, pages.capacity());
}

// Writes sums / mass of a finished query.
void finish(const View& out, int64_t at, const Running& running, int64_t columns) {
  const float inverse = *running.mass == 0.f ? 0.f : 1.f / *running.mass;
  with_float(out.dtype, [&]<typename T>() {
    T* const to = out.as<T>() + at;
    each_vector(
        columns, [&](int64_t d) { store(to + d, load(running.sums + d) * inverse); },
        [&](int64_t d, int n) { store_first(to + d, load(running.sums + d) * inverse, n); });
  });
}

template <typename P>
void decode_few(Context& context, const AttentionDecode& op) {
  const Pages pages{op.k_pages, op.v_pages, op.page_table};
  const int64_t batches = op.q.shape[0], heads = op.q.shape[1], queries = op.q.shape[2];
  const int64_t columns = op.q.shape[3], kv_heads = op.k_pages.shape[1];
  const int64_t group = heads / kv_heads, rows = group * queries;
  const int64_t padded = round_up(columns, kLanes);
  const float factor = static_cast<float>(scale_of(op.scale, columns) * kLog2E);

  int64_t longest = 0;
  for (int64_t b = 0; b < batches; ++b) longest = std::max(longest, keys_of(op, pages, b));
  const double work =
      static_cast<double>(batches * heads * queries * columns) * static_cast<double>(longest);
  const int most_threads = work < kParallelWork ? 1 : context.threads;
  // Spans of keys are worth joining only where heads alone leave threads idle.
  const int64_t all_heads = batches * kv_heads;
  int64_t spans = 1;
  if (most_threads > 1 && all_heads < 4 * most_threads && all_heads % most_threads != 0)
    spans = std::clamp<int64_t>((4 * most_threads + all_heads - 1) / all_heads, 1,
                                std::max<int64_t>(longest / 256, 1));
  const int64_t tasks = all_heads * spans;
  const int threads = tasks == 1 ? 1 : most_threads;

  // For each task and row: its running softmax, then its query. For each thread: a block of keys
  // and values where they cannot be read as they lie.
  const bool packs = columns % kLanes != 0 || (!std::is_same_v<P, float> && rows > 2);
  const int64_t row_floats = 2 * padded + kLanes;
  const int64_t block_floats = packs ? 2 * kFewKeys * padded : 0;
  auto* const workspace = static_cast<float*>(context.workspace(
      static_cast<size_t>(tasks * rows * row_floats + threads * block_floats) * sizeof(float)));
  const auto running_of = [&](int64_t task, int64_t row) {
    float* const at = workspace + (task * rows + row) * row_floats;
    return Running{at, at + 1, at + kLanes};
  };
  const auto out_of = [&](int64_t b, int64_t kv, int64_t row) {
    return b * op.out.stride[0] + (kv * group + row / queries) * op.out.stride[1] +
           row % queries * op.out.stride[2];
  };

#pragma omp parallel for num_threads(threads) schedule(dynamic)
  for (int64_t task = 0; task < tasks; ++task) {
    const int64_t part = task % spans, kv = task / spans % kv_heads, b = task / spans / kv_heads;
    const int64_t keys = keys_of(op, pages, b);
    const int64_t span = (keys + spans - 1) / spans;
    const int64_t from = std::min(part * span, keys), to = std::min(from + span, keys);
    float* const key_rows = workspace + tasks * rows * row_floats + thread_number() * block_floats;
    float* const value_rows = key_rows + kFewKeys * padded;
    for (int64_t row = 0; row < rows; ++row) {
      const Running running = running_of(task, row);
      *running.peak = -kInfinity;
      *running.mass = 0.f;
      std::memset(running.sums, 0, sizeof(float) * static_cast<size_t>(padded));
      float* const query = running.sums + padded;
      with_float(op.q.dtype, [&]<typename T>() {
        const T* const q = op.q.as<T>() + b * op.q.stride[0] +
                           (kv * group + row / queries) * op.q.stride[1] +
                           row % queries * op.q.stride[2];
        each_vector(
            columns, [&](int64_t d) { store(query + d, load(q + d) * factor); },
            [&](int64_t d, int n) { store(query + d, load_first(q + d, n) * factor); });
      });
    }
    for (int64_t slot = from; slot < to;) {
      const int64_t page_end = slot - slot % pages.slots() + pages.slots();
      const int n = static_cast<int>(std::min({slot + kFewKeys, page_end, to}) - slot);
      const int64_t page = pages.page(b, slot);
      if (!pages.holds(page)) {
        report_page(context, "attention_decode", pages, b, slot);
        slot += n;
        continue;
      }
      const P* const k = op.k_pages.as<P>() + pages.at(op.k_pages, page, kv, slot);
      const P* const v = op.v_pages.as<P>() + pages.at(op.v_pages, page, kv, slot);
      if (packs) {
        pack_rows(key_rows, padded, k, op.k_pages.stride[2], n, columns);
        pack_rows(value_rows, padded, v, op.v_pages.stride[2], n, columns);
      }
      for (int64_t row = 0; row < rows; ++row) {
        // Query t of the last `queries` sees all keys but those of the queries after it.
        const int64_t hidden = queries - 1 - row % queries;
        const int seen = static_cast<int>(std::min<int64_t>(n, keys - hidden - slot));
        if (seen <= 0) continue;
        const Running running = running_of(task, row);
        const float* const query = running.sums + padded;
        if (packs)
          attend_few(running, query, key_rows, padded, value_rows, padded, seen, padded);
        else
          attend_few(running, query, k, op.k_pages.stride[2], v, op.v_pages.stride[2], seen,
                     padded);
      }
      slot += n;
    }
    if (spans == 1)
      for (int64_t row = 0; row < rows; ++row)
        finish(op.out, out_of(b, kv, row), running_of(task, row), columns);
  }
  if (spans == 1) return;

  for (int64_t at = 0; at < all_heads * rows; ++at) {
    const int64_t head = at / rows, row = at % rows;
    const Running total = running_of(head * spans, row);
    for (int64_t part = 1; part < spans; ++part) {
      const Running more = running_of(head * spans + part, row);
      const float now = std::max(*total.peak, *more.peak);
      const vf base = splat(now == -kInfinity ? 0.f : now);
      const float ours = exp2(splat(*total.peak) - base)[0];
      const float theirs = exp2(splat(*more.peak) - base)[0];
      *total.peak = now;
      *total.mass = *total.mass * ours + *more.mass * theirs;
      for (int64_t d = 0; d < padded; d += kLanes)
        store(total.sums + d, load(total.sums + d) * ours + load(more.sums + d) * theirs);
    }
    finish(op.out, out_of(head / kv_heads, head % kv_heads, row), total, columns);
  }
}

// ---- many queries ----

// Rows slot .. slot + n of one head of a cache as f32, gathered where they do not lie together.
const float* gather(Context& context, float* scratch, const Pages& pages, const View& view,
                    int64_t batch, int64_t head, int64_t slot, int64_t n, int64_t columns,
                    int64_t* row) {
  return with_float(view.dtype, [&]<typename P>() -> const float* {
    const int64_t in_page = pages.slots() - slot % pages.slots();
    if (n <= in_page && pages.holds(pages.page(batch, slot)))
      return as_rows(scratch, view.as<P>() + pages.at(view, pages.page(batch, slot), head, slot),
                     view.stride[2], n, columns, row);
    *row = round_up(columns, kLanes);
    for (int64_t done = 0; done < n;) {
      const int64_t at = slot + done;
      const int64_t run = std::min(n - done, pages.slots() - at % pages.slots());
      float* const to = scratch + done * *row;
      if (pages.holds(pages.page(batch, at))) {
        pack_rows(to, *row, view.as<P>() + pages.at(view, pages.page(batch, at), head, at),
                  view.stride[2], run, columns);
      } else {
        report_page(context, "attention_decode", pages, batch, at);
        std::memset(to, 0, sizeof(float) * static_cast<size_t>(run * *row));
      }
      done += run;
    }
    return scratch;
  });
}

template <typename T>
void decode_many(Context& context, const AttentionDecode& op) {
  const Pages pages{op.k_pages, op.v_pages, op.page_table};
  const int64_t batches = op.q.shape[0], heads = op.q.shape[1], queries = op.q.shape[2];
  const int64_t columns = op.q.shape[3], group = heads / op.k_pages.shape[1];
  const float factor = static_cast<float>(scale_of(op.scale, columns) * kLog2E);
  const int64_t blocks = (queries + kQueries - 1) / kQueries;
  const int64_t tasks = batches * heads * blocks;
  const int threads = tasks == 1 ? 1 : context.threads;
  const int64_t floats = AttendScratch::floats(columns);
  auto* const workspace =
      static_cast<float*>(context.workspace(static_cast<size_t>(floats * threads) * sizeof(float)));

#pragma omp parallel for num_threads(threads) schedule(dynamic)
  for (int64_t task = 0; task < tasks; ++task) {
    const int64_t first = (blocks - 1 - task % blocks) * kQueries;
    const int64_t h = task / blocks % heads, b = task / blocks / heads;
    Carver carver(workspace + floats * thread_number());
    const AttendScratch scratch(carver, columns);
    const int rows = static_cast<int>(std::min<int64_t>(kQueries, queries - first));
    const int64_t keys = keys_of(op, pages, b);
    const Sight sight{keys, keys - queries + first + 1};
    attend<T>(
        scratch,
        op.out.as<T>() + b * op.out.stride[0] + h * op.out.stride[1] + first * op.out.stride[2],
        op.out.stride[2], nullptr,
        op.q.as<T>() + b * op.q.stride[0] + h * op.q.stride[1] + first * op.q.stride[2],
        op.q.stride[2], rows, columns, factor, sight, [&](int64_t j, int64_t n) {
          KeyBlock block;
          block.k = gather(context, scratch.keys, pages, op.k_pages, b, h / group, j, n, columns,
                           &block.k_row);
          block.v = gather(context, scratch.values, pages, op.v_pages, b, h / group, j, n, columns,
                           &block.v_row);
          return block;
        });
  }
}

// From so many queries a row on the tiles are faster, though they convert keys for each head and
// fill lanes without a query.
constexpr int64_t kManyQueries = 6;

}  // namespace

void kv_append(Context& context, const KvAppend& op) {
  if (op.k.elements() == 0) return;
  with_float(op.k_pages.dtype, [&]<typename To>() {
    with_float(op.k.dtype, [&]<typename From>() { append<To, From>(context, op); });
  });
}

void attention_decode(Context& context, const AttentionDecode& op) {
  if (op.q.elements() == 0) return;
  const Pages pages{op.k_pages, op.v_pages, op.page_table};
  for (int64_t b = 0; b < op.q.shape[0]; ++b) {
    const int64_t length = op.lengths.as<int32_t>()[b * op.lengths.stride[0]];
    if (length < 0)
      report_slot(context, "attention_decode", pages, b, length);
    else if (length + op.q.shape[2] > pages.capacity())
      report_slot(context, "attention_decode", pages, b, length + op.q.shape[2] - 1);
  }
  if (op.q.shape[2] >= kManyQueries)
    with_float(op.q.dtype, [&]<typename T>() { decode_many<T>(context, op); });
  else
    with_float(op.k_pages.dtype, [&]<typename P>() { decode_few<P>(context, op); });
}

}  // namespace gatun::cpu::GATUN_LEVEL
