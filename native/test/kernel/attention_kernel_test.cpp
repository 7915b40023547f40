// Runs kernels/attention.cu and attention_f32.cu on the host (native/src/sim) against float64: a
// sample of dtypes, head sizes, masks, groups, ragged lengths and strides. Usage:
// attention_kernel_test [seed [first]] (first: end at the first failure)
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "../../../kernels/attention.cu"
#include "../../../kernels/attention_f32.cu"
#include "far_rows.h"
#include "heads.h"
#include "repeat.h"

namespace {

using namespace gatun::kernels;

template <typename T>
using Device = std::vector<T, simt::DeviceAllocator<T>>;

struct Case {
  ElementType type;
  int batch, heads, group, queries, keys, columns;
  bool causal;
  std::vector<int32_t> lengths;  // empty: none
  Layout layout;
  double scale;
  std::vector<int32_t> q_starts = {}, k_starts = {};  // empty: not packed
  bool atomic = false;
  std::string text() const {
    char line[200];
    std::snprintf(line, sizeof line, "%s b%d h%d/%d q%d k%d d%d%s layout %d scale %.3g",
                  name_of(type), batch, heads, group, queries, keys, columns,
                  causal ? " causal" : "", static_cast<int>(layout), scale);
    std::string all = line;
    if (!lengths.empty()) all += " lengths";
    for (int32_t length : lengths) all += " " + std::to_string(length);
    if (!q_starts.empty()) all += " packed";
    for (size_t i = 0; i < q_starts.size(); ++i)
      all += " " + std::to_string(q_starts[i]) + "/" + std::to_string(k_starts[i]);
    return all + (atomic ? " atomic" : "");
  }
  // The keys that a query sees.
  struct Range {
    int64_t from, to;
  };
  Range seen(int64_t b, int64_t query) const {
    int64_t there = keys, from = 0, shift = keys - queries;
    if (!lengths.empty()) there = std::clamp<int64_t>(lengths[static_cast<size_t>(b)], 0, keys);
    if (!q_starts.empty()) {
      size_t s = 0;
      while (s + 1 < q_starts.size() && query >= q_starts[s + 1]) ++s;
      if (s + 1 == q_starts.size()) return {0, 0};
      from = k_starts[s];
      there = k_starts[s + 1] - from;
      shift = there - (q_starts[s + 1] - q_starts[s]);
      query -= q_starts[s];
    }
    return {from, from + (causal ? std::clamp<int64_t>(query + shift + 1, 0, there) : there)};
  }
};

// All tensors of a case, and what float64 makes of them.
struct Problem {
  const Case& c;
  Heads q, k, v, out;
  Heads lse;
  Device<int32_t> lengths, q_starts, k_starts;
  Device<uint32_t> taken;
  Device<FaultRecord> record;
  Device<float> forward_scratch, backward_scratch;
  std::vector<double> weights;  // [batch][heads][queries][keys]

  explicit Problem(const Case& c)
      : c(c),
        q(c.type, c.batch, c.heads, c.queries, c.columns, c.layout),
        k(c.type, c.batch, c.heads / c.group, c.keys, c.columns, c.layout),
        v(c.type, c.batch, c.heads / c.group, c.keys, c.columns, c.layout),
        out(c.type, c.batch, c.heads, c.queries, c.columns, c.layout),
        lse(ElementType::kF32, c.batch, 1, c.heads, c.queries, Layout::kUnaligned),
        lengths(c.lengths.begin(), c.lengths.end()),
        q_starts(c.q_starts.begin(), c.q_starts.end()),
        k_starts(c.k_starts.begin(), c.k_starts.end()),
        taken(1, 0),
        record(1, FaultRecord{}) {
    q.random(1);
    k.random(1);
    v.random(1);
  }
  AttentionShape shape() {
    AttentionShape shape = {c.batch,
                            c.heads,
                            c.group,
                            c.queries,
                            c.keys,
                            c.columns,
                            c.lengths.empty() ? nullptr : lengths.data(),
                            c.causal,
                            static_cast<float>(c.scale),
                            {}};
    if (!c.q_starts.empty())
      shape.packed = {q_starts.data(),
                      k_starts.data(),
                      static_cast<int>(c.q_starts.size()) - 1,
                      {taken.data(), record.data()}};
    return shape;
  }
  // Scratch of so many bytes and a guard behind it.
  static void* sized(Device<float>& scratch, size_t bytes) {
    scratch.assign(bytes / sizeof(float) + 1, NAN);
    scratch.back() = 12345.f;
    return scratch.data();
  }
  void compare_guard(const Device<float>& scratch) {
    ++checks;
    if (scratch.back() != 12345.f) fail(c, "wrote beyond its scratch");
  }
  AttentionForward forward() {
    return {shape(),
            q.view(),
            k.view(),
            v.view(),
            out.view(),
            {reinterpret_cast<float*>(lse.bytes() + lse.start), lse.batch_stride, lse.row_stride},
            sized(forward_scratch, attention_forward_scratch_bytes(shape()))};
  }
  // Overwrites. `missing`: bits of the destinations that are not wanted.
  AttentionBackward backward(Heads& dq, Heads& dk, Heads& dv, Heads& dout, unsigned missing = 0) {
    AttentionBackward p = {};
    p.shape = shape();
    p.dq = dq.view();
    p.dk = dk.view();
    p.dv = dv.view();
    HeadRows* const to[3] = {&p.dq, &p.dk, &p.dv};
    for (int i = 0; i < 3; ++i)
      if (missing >> i & 1) to[i]->data = nullptr;
    p.dout = dout.view();
    p.out = out.view();
    p.q = q.view();
    p.k = k.view();
    p.v = v.view();
    p.lse = forward().lse;
    p.dq_atomic = c.atomic;
    p.scratch = sized(backward_scratch, attention_backward_scratch_bytes(c.type, p));
    return p;
  }
  size_t row(int64_t b, int64_t h, int64_t i) const {
    return static_cast<size_t>((b * c.heads + h) * c.queries + i);
  }
  double* weight_row(int64_t b, int64_t h, int64_t i) {
    return weights.data() + row(b, h, i) * static_cast<size_t>(c.keys);
  }

  // Fills `weights`; out and lse are compared.
  void compare_forward() {
    checks += 2;
    bool out_reported = false, lse_reported = false;
    weights.assign(row(c.batch, 0, 0) * static_cast<size_t>(c.keys), 0);
    const double eps = precision_of(c.type);
    for (int64_t b = 0; b < c.batch; ++b)
      for (int64_t h = 0; h < c.heads; ++h) {
        const auto queries = q.head(b, h), keys = k.head(b, h / c.group),
                   values = v.head(b, h / c.group);
        const auto d = static_cast<size_t>(c.columns);
        for (int64_t i = 0; i < c.queries; ++i) {
          const auto [from, to] = c.seen(b, i);
          double* const p = weight_row(b, h, i);
          double peak = -INFINITY, mass = 0, size = 0;
          for (int64_t j = from; j < to; ++j) {
            double s = 0, terms = 0;
            for (size_t e = 0; e < d; ++e) {
              const double term = queries[static_cast<size_t>(i) * d + e] *
                                  keys[static_cast<size_t>(j) * d + e] * c.scale;
              s += term;
              terms += std::fabs(term);
            }
            p[j] = s;
            size = std::max(size, terms);
            peak = std::max(peak, s);
          }
          for (int64_t j = from; j < to; ++j) mass += p[j] = std::exp(p[j] - peak);
          for (int64_t j = from; j < to; ++j) p[j] /= mass;
          // scores are f32 sums of such terms, weights are rounded to the type
          const double score_error = 0x1p-22 * (size + 4);
          check(c, "lse", b, h, i, 0, lse.get(b, 0, h, i),
                from == to ? -INFINITY : peak + std::log(mass),
                2 * score_error + 0x1p-22 * std::fabs(peak), lse_reported);
          for (int64_t e = 0; e < c.columns; ++e) {
            double wanted = 0, terms = 0;
            for (int64_t j = from; j < to; ++j) {
              const double value = values[static_cast<size_t>(j) * d + static_cast<size_t>(e)];
              wanted += p[j] * value;
              terms += p[j] * std::fabs(value);
            }
            check(c, "out", b, h, i, e, out.get(b, h, i, e), wanted,
                  terms * (eps + 4 * score_error) + eps * std::fabs(wanted) + 1e-7, out_reported);
          }
        }
      }
  }
};

// Gradients by float64 from the weights of compare_forward(), which must have run. `missing`: bits
// of the destinations that are not wanted. Gives the largest error of dq, to the largest of dq.
double compare_backward(Problem& problem, unsigned add, unsigned missing) {
  const Case& c = problem.c;
  Heads dout(c.type, c.batch, c.heads, c.queries, c.columns, c.layout);
  dout.random(1);
  Heads d[3] = {Heads(c.type, c.batch, c.heads, c.queries, c.columns, c.layout),
                Heads(c.type, c.batch, c.heads / c.group, c.keys, c.columns, c.layout),
                Heads(c.type, c.batch, c.heads / c.group, c.keys, c.columns, c.layout)};
  constexpr const char* kNames[3] = {"dq", "dk", "dv"};
  std::vector<char> before[3];
  for (int i = 0; i < 3; ++i) {
    if (add >> i & 1)
      d[i].random(1);
    else
      d[i].each([&](int64_t b, int64_t h, int64_t r, int64_t e) { d[i].set(b, h, r, e, NAN); });
    before[i] = d[i].outside();
  }
  AttentionBackward p = problem.backward(d[0], d[1], d[2], dout, missing);
  p.add_dq = add & 1;
  p.add_dk = add >> 1 & 1;
  p.add_dv = add >> 2 & 1;
  std::vector<std::vector<double>> wanted(3), terms(3);
  for (int i = 0; i < 3; ++i) {
    d[i].each([&](int64_t b, int64_t h, int64_t r, int64_t e) {
      wanted[i].push_back(add >> i & 1 ? d[i].get(b, h, r, e) : 0);
    });
    terms[i].assign(wanted[i].size(), 0);
  }
  if (!ran(c, "backward", attention_backward(nullptr, c.type, p))) return INFINITY;
  problem.compare_guard(problem.backward_scratch);

  const auto width = static_cast<size_t>(c.columns);
  const double eps = precision_of(c.type);
  for (int64_t b = 0; b < c.batch; ++b)
    for (int64_t h = 0; h < c.heads; ++h) {
      const auto q = problem.q.head(b, h), o = problem.out.head(b, h), g = dout.head(b, h);
      const auto k = problem.k.head(b, h / c.group), v = problem.v.head(b, h / c.group);
      const size_t q_head = static_cast<size_t>((b * c.heads + h) * c.queries) * width;
      const size_t k_head =
          static_cast<size_t>((b * (c.heads / c.group) + h / c.group) * c.keys) * width;
      for (int64_t i = 0; i < c.queries; ++i) {
        const double* const weights = problem.weight_row(b, h, i);
        const size_t row = static_cast<size_t>(i) * width;
        double delta = 0, delta_terms = 0;
        for (size_t e = 0; e < width; ++e) {
          delta += g[row + e] * o[row + e];
          delta_terms += std::fabs(g[row + e] * o[row + e]);
        }
        const auto [from, to] = c.seen(b, i);
        for (int64_t j = from; j < to; ++j) {
          const size_t at = static_cast<size_t>(j) * width;
          double dp = 0, dp_terms = 0, score_terms = 0;
          for (size_t e = 0; e < width; ++e) {
            dp += g[row + e] * v[at + e];
            dp_terms += std::fabs(g[row + e] * v[at + e]);
            score_terms += std::fabs(q[row + e] * k[at + e] * c.scale);
          }
          const double weight = weights[j];
          const double ds = weight * (dp - delta) * c.scale;
          // f32 sums and powers; out was rounded, which moves delta; then one rounding to the type
          const double ds_error =
              weight * std::fabs(c.scale) *
              (eps * std::fabs(dp - delta) + 0x1p-20 * (dp_terms + delta_terms) * 4);
          for (size_t e = 0; e < width; ++e) {
            wanted[0][q_head + row + e] += ds * k[at + e];
            wanted[1][k_head + at + e] += ds * q[row + e];
            wanted[2][k_head + at + e] += weight * g[row + e];
            terms[0][q_head + row + e] += ds_error * std::fabs(k[at + e]);
            terms[1][k_head + at + e] += ds_error * std::fabs(q[row + e]);
            terms[2][k_head + at + e] +=
                (eps + 0x1p-18 + 0x1p-22 * score_terms) * weight * std::fabs(g[row + e]);
          }
        }
      }
    }
  double error = 0, largest = 0;
  for (int i = 0; i < 3; ++i) {
    if (missing >> i & 1) continue;
    ++checks;
    bool reported = false;
    size_t at = 0;
    d[i].each([&](int64_t b, int64_t h, int64_t r, int64_t e) {
      const double had = d[i].get(b, h, r, e);
      check(c, kNames[i], b, h, r, e, had, wanted[i][at],
            terms[i][at] + 2 * eps * std::fabs(wanted[i][at]) + 1e-6, reported);
      if (i == 0) {
        error = std::max(error, std::fabs(had - wanted[i][at]));
        largest = std::max(largest, std::fabs(wanted[i][at]));
      }
      ++at;
    });
    unchanged(c, kNames[i], d[i], before[i]);
  }
  return error / largest;
}

void run(const Case& c) {
  Problem problem(c);
  const auto out_before = problem.out.outside(), lse_before = problem.lse.outside();
  if (!ran(c, "forward", attention_forward(nullptr, c.type, problem.forward()))) return;
  problem.compare_forward();
  problem.compare_guard(problem.forward_scratch);
  unchanged(c, "out", problem.out, out_before);
  unchanged(c, "lse", problem.lse, lse_before);
  const unsigned add = generator() % 8, missing = generator() % 4 ? 0 : generator() % 7;
  compare_backward(problem, add, missing);
  ++checks;
  if (problem.record[0].kind != FaultKind::kNone) fail(c, "a fault was reported");
}

// So many sequences instead of a batch, and some rows behind them.
void pack(Case& c, int sequences) {
  c.batch = 1;
  c.lengths.clear();
  c.q_starts = c.k_starts = {0};
  for (int s = 0; s < sequences; ++s) {
    const int queries = sequences > 30 ? pick({0, 1, 7}) : pick({0, 1, 31, 64, 100, 129});
    c.q_starts.push_back(c.q_starts.back() + queries);
    c.k_starts.push_back(c.k_starts.back() + (generator() % 2 ? queries : pick({0, 1, 5, 65})));
  }
  c.queries = c.q_starts.back() + pick({0, 0, 3, 70});
  c.keys = c.k_starts.back() + pick({0, 0, 3, 70});
}

Case some_case(ElementType type) {
  Case c;
  c.type = type;
  c.batch = pick({1, 1, 2, 3});
  c.group = pick({1, 1, 2, 3});
  c.heads = c.group * pick({1, 2});
  c.columns = pick({1, 13, 16, 32, 40, 64, 64, 72, 80, 96, 128, 128, 160, 256});
  c.queries = pick({1, 2, 31, 33, 64, 65, 127, 129, 200});
  c.keys = generator() % 2 ? c.queries : pick({0, 1, 3, 31, 33, 63, 64, 65, 100, 130, 257});
  c.causal = generator() % 2;
  if (generator() % 2)
    for (int b = 0; b < c.batch; ++b)
      c.lengths.push_back(pick({-1, 0, 1, c.keys / 2, c.keys - 1, c.keys, c.keys + 5}));
  c.layout = static_cast<Layout>(generator() % 3);
  c.scale = some_scale(c.columns);
  c.atomic = generator() % 3 == 0;
  if (generator() % 3 == 0) pack(c, pick({0, 1, 2, 5, 5, 40}));
  return c;
}

// ---- counters against ideals ----

// Rows with a mask of their own: a row of the batch, a packed sequence, or the rows behind the last
// of those, which see nothing.
struct Stretch {
  int64_t queries, keys;
  int64_t there;  // keys that exist
  int64_t shift;  // query i sees the keys up to i + shift
};

std::vector<Stretch> stretches(const Case& c) {
  std::vector<Stretch> all;
  const auto add = [&](int64_t queries, int64_t keys, int64_t there) {
    all.push_back({queries, keys, there, c.causal ? keys - queries : keys});
  };
  if (c.q_starts.empty())
    for (int b = 0; b < c.batch; ++b)
      add(c.queries, c.keys, c.lengths.empty() ? c.keys : c.lengths[static_cast<size_t>(b)]);
  for (size_t s = 0; s + 1 < c.q_starts.size(); ++s) {
    const int32_t keys = c.k_starts[s + 1] - c.k_starts[s];
    add(c.q_starts[s + 1] - c.q_starts[s], keys, keys);
  }
  if (!c.q_starts.empty()) add(c.queries - c.q_starts.back(), c.keys - c.k_starts.back(), 0);
  return all;
}

// What a kernel meets whose blocks own `tile.rows` rows of one side of a head, while tiles of
// `tile.other` rows of the other side pass by, as far as a row of the block sees one of a tile.
struct Walk {
  int64_t owned = 0;    // rows in blocks that something passes by
  int64_t passing = 0;  // rows, each as often as it passes
  int64_t tiles = 0;    // that pass
  int64_t pairs = 0;  // of rows, in those tiles of which a warp's rows, to the padded end, see one
};

Walk walk(const Case& c, const AttentionTile& tile, bool own_keys) {
  Walk walk;
  for (const Stretch& s : stretches(c)) {
    const int64_t own = own_keys ? s.there : s.queries, pass = own_keys ? s.queries : s.there;
    const auto sees = [&](int64_t first, int64_t last, int64_t passing_first,
                          int64_t passing_last) {
      return own_keys ? first <= passing_last + s.shift : passing_first <= last + s.shift;
    };
    for (int64_t first = 0; first < own; first += tile.rows) {
      const int64_t end = std::min(first + tile.rows, own), before = walk.tiles;
      for (int64_t at = 0; at < pass; at += tile.other) {
        const int64_t last = at + tile.other - 1;
        if (!sees(first, end - 1, at, last)) continue;
        ++walk.tiles;
        walk.passing += std::min<int64_t>(tile.other, pass - at);
        const int64_t each = tile.strips * 16;
        for (int64_t warp = first; warp < first + tile.rows; warp += each)
          if (sees(warp, warp + each - 1, at, last)) walk.pairs += each * tile.other;
      }
      if (walk.tiles > before) walk.owned += end - first;
    }
  }
  return walk;
}

// Counters of the passes over a case's rows, which lie in whole sectors.
struct Traffic {
  simt::Counters forward, keys, queries, rows, dq;
};

Traffic traffic_of(const Case& c) {
  const bool f32 = c.type == ElementType::kF32;
  Problem problem(c);
  simt::count_memory(true);
  simt::reset_counters();
  if (ran(c, "forward", attention_forward(nullptr, c.type, problem.forward()))) {
    problem.compare_forward();
    compare_backward(problem, 0, 0);
  }
  simt::count_memory(false);
  const Traffic had = {
      counters_of(f32 ? "attention_forward_f32" : "attention_forward"),
      counters_of(f32        ? "attention_backward_keys_f32"
                  : c.atomic ? "attention_backward_keys_atomic"
                             : "attention_backward_keys"),
      counters_of(f32 ? "attention_backward_queries_f32" : "attention_backward_queries"),
      counters_of("attention_backward_rows"), counters_of("attention_backward_dq")};
  for (const simt::Counters* each : {&had.forward, &had.keys, &had.queries}) {
    no_conflicts(c, *each, c.columns == attention_width(c.columns));
    whole_sectors(c, "sectors of copies", each->copy_load);
    whole_sectors(c, "sectors of stores", each->store);
  }
  return had;
}

// Every product of tiles of which something is seen, once; q, k, v (and dout) as often as the
// tiling says, results once, all in whole sectors, and shared memory without conflicts.
template <int kWidth>
void traffic(Case c) {
  const Traffic had = traffic_of(c);
  // multiplications of one head for one product; an mma has 16 x 8 x 16
  const auto products = [&](const Walk& w) { return c.heads * w.pairs * kWidth / (16 * 8 * 16); };
  const int64_t row = c.columns * 2, kv_heads = c.heads / c.group;
  const int64_t all_queries = int64_t{c.batch} * c.queries, all_keys = int64_t{c.batch} * c.keys;

  const Walk forward = walk(c, kAttentionForward<kWidth>, false);
  expect(c, "mma of forward", had.forward.mma, 2 * products(forward));
  expect(c, "bytes loaded by forward", had.forward.copy_load.bytes,
         c.heads * row * (forward.owned + 2 * forward.passing));
  expect(c, "bytes stored by forward", had.forward.store.bytes, c.heads * all_queries * row);

  // wide heads are split: each part computes the scores and their gradients
  constexpr int kParts = kWidth / kAttentionKeyGradientColumns<kWidth>;
  const Walk keys = walk(c, kAttentionKeyGradient<kWidth>, true);
  // rows that pass by bring 8 bytes of statistics, to the end of the tile
  const int64_t keys_loaded =
      kParts *
      (kv_heads * 2 * row * keys.owned +
       c.heads * (2 * row * keys.passing + 8 * keys.tiles * kAttentionKeyGradient<kWidth>.other));
  expect(c, "mma of backward_keys", had.keys.mma,
         (2 * kParts + (c.atomic ? 3 : 2)) * products(keys));
  expect(c, "bytes loaded by backward_keys", had.keys.copy_load.bytes, keys_loaded);
  expect(c, "bytes stored by backward_keys", had.keys.store.bytes, 2 * kv_heads * all_keys * row);

  if (!c.atomic) {
    const Walk queries = walk(c, kAttentionQueryGradient<kWidth>, false);
    expect(c, "mma of backward_queries", had.queries.mma, 3 * products(queries));
    expect(c, "bytes loaded by backward_queries", had.queries.copy_load.bytes,
           c.heads * 2 * row * (queries.owned + queries.passing));
    expect(c, "bytes stored by backward_queries", had.queries.store.bytes,
           c.heads * all_queries * row);
    return;
  }
  // five products, and f32 sums of each tile that passes a block of keys
  expect(c, "launches of backward_queries", had.queries.launches, 0);
  expect(c, "bytes of atomic additions", had.keys.atomic.bytes,
         c.heads * kWidth * 4 * keys.tiles * kAttentionKeyGradient<kWidth>.other);
  whole_sectors(c, "sectors of atomic additions", had.keys.atomic);
  if (c.q_starts.empty())  // packed, every thread looks for its sequence as well
    expect(c, "bytes loaded by backward_dq", had.dq.load.bytes,
           c.heads * all_queries * c.columns * 4);
  expect(c, "bytes stored by backward_dq", had.dq.store.bytes, c.heads * all_queries * row);
  whole_sectors(c, "sectors stored by backward_dq", had.dq.store);
  // the sums of rows that do not exist as well
  const int64_t padded = c.q_starts.empty()
                             ? c.batch * ((c.queries + 127) / 128 * 128)
                             : (c.queries / 128 + static_cast<int64_t>(c.q_starts.size())) * 128;
  expect(c, "bytes zeroed by backward_rows", had.rows.store.bytes, c.heads * padded * kWidth * 4);
}

// The same in f32, without tensor cores.
template <int kWidth>
void plain_traffic(const Case& c) {
  const Traffic had = traffic_of(c);
  const int64_t row = c.columns * 4, kv_heads = c.heads / c.group;
  const int64_t all_queries = int64_t{c.batch} * c.queries, all_keys = int64_t{c.batch} * c.keys;
  const auto square = [](int edge) { return AttentionTile{1, 16 * edge, 1, 16 * edge}; };
  const Walk forward = walk(c, square(4), false);
  expect(c, "bytes loaded by forward", had.forward.copy_load.bytes,
         c.heads * row * (all_queries + 2 * forward.passing));
  expect(c, "bytes stored by forward", had.forward.store.bytes, c.heads * all_queries * row);
  const AttentionTile tile = square(kAttentionPlainEdge<kWidth>);
  const Walk keys = walk(c, tile, true), queries = walk(c, tile, false);
  int64_t there = 0;
  for (const Stretch& s : stretches(c)) there += s.there;
  expect(c, "bytes loaded by backward_keys", had.keys.copy_load.bytes,
         2 * row * (kv_heads * there + c.heads * keys.passing));
  expect(c, "bytes stored by backward_keys", had.keys.store.bytes, 2 * kv_heads * all_keys * row);
  expect(c, "bytes loaded by backward_queries", had.queries.copy_load.bytes,
         2 * row * c.heads * (all_queries + queries.passing));
  expect(c, "bytes stored by backward_queries", had.queries.store.bytes,
         c.heads * all_queries * row);
  for (const simt::Counters* each : {&had.forward, &had.keys, &had.queries})
    expect(c, "mma", each->mma, 0);
}

void all_traffic() {
  using enum ElementType;
  // whole tiles, ragged ones, lengths, a head size that is padded
  std::vector<Case> cases;
  const auto add = [&](int batch, int group, int queries, int keys, int columns, bool causal,
                       std::vector<int32_t> lengths = {}) {
    cases.push_back({kBf16, batch, 2 * group, group, queries, keys, columns, causal, lengths,
                     Layout::kContiguous, 0.125});
  };
  add(1, 1, 256, 256, 64, true);
  add(1, 1, 128, 128, 32, false);
  add(1, 1, 128, 128, 96, true);
  add(1, 1, 256, 256, 128, true);
  add(1, 1, 128, 128, 256, true);
  add(2, 2, 131, 203, 64, true, {203, 77});
  add(2, 1, 100, 33, 80, false, {33, 1});
  add(1, 2, 203, 131, 128, true);
  for (int columns : {64, 96}) {
    add(1, 2, 0, 0, columns, true);
    Case& packed = cases.back();
    packed.q_starts = {0, 30, 31, 160, 170};
    packed.k_starts = {0, 40, 40, 169, 200};
    packed.queries = 180;
    packed.keys = 205;
  }
  for (Case& c : cases) {
    for (bool atomic : {false, true}) {
      if (atomic && c.columns > kAttentionAtomicColumns) continue;
      c.atomic = atomic;
      with_attention_width(c.columns, [&](auto width) {
        traffic<decltype(width)::value>(c);
        return cudaSuccess;
      });
    }
    c.atomic = false;
    c.type = kF32;
    with_attention_plain_width(c.columns, [&](auto width) {
      plain_traffic<decltype(width)::value>(c);
      return cudaSuccess;
    });
  }
}

// ---- the same bits, and NaNs that stay where they are ----

void same_bits(ElementType type, bool packed) {
  Case c = {type, 2, 2, 2, 65, 130, 64, true, {130, 77}, Layout::kInterleaved, 0.125};
  if (packed) {
    c.batch = 1;
    c.lengths.clear();
    c.q_starts = {0, 20, 20, 62};
    c.k_starts = {0, 20, 85, 129};
  }
  const int other = other_bits(seed, [&] {
    generator.seed(seed + 7);
    Problem problem(c);
    Bits bits;
    if (!ran(c, "forward", attention_forward(nullptr, c.type, problem.forward()))) return bits;
    Heads dout = problem.q, dq = problem.q, dk = problem.k, dv = problem.v;
    const AttentionBackward p = problem.backward(dq, dk, dv, dout);
    if (!ran(c, "backward", attention_backward(nullptr, c.type, p))) return bits;
    for (Heads* heads : {&problem.out, &problem.lse, &dq, &dk, &dv})
      append(bits, heads->bytes(), heads->memory.size() * 16);
    return bits;
  });
  expect(c, "the first run with other bits", other, -1);
}

// dq added atomically is as near to float64 as with one order: docs/numerics.md has the figures.
void errors_of_dq(ElementType type) {
  Case c = {type, 1, 2, 1, 0, 0, 0, true, {}, Layout::kContiguous, 0.125};
  double error[2] = {};
  for (bool atomic : {false, true}) {
    generator.seed(seed);
    c.atomic = atomic;
    for (const auto& [queries, keys, columns] :
         {std::array{129, 129, 64}, {64, 1000, 64}, {200, 300, 128}, {65, 257, 32}}) {
      c.queries = queries;
      c.keys = keys;
      c.columns = columns;
      Problem problem(c);
      if (!ran(c, "forward", attention_forward(nullptr, type, problem.forward()))) return;
      problem.compare_forward();
      error[atomic] = std::max(error[atomic], compare_backward(problem, 0, 0));
    }
  }
  std::printf("dq in %s, largest error to the largest: %.3g, atomic %.3g\n", name_of(type),
              error[0], error[1]);
  ++checks;
  if (!(error[1] <= 1.5 * error[0])) fail(c, "dq is less exact than with one order");
}

// One batch row, one head and all keys past a length are NaN: nobody else's results are.
void nan_stays(ElementType type, bool atomic) {
  Case c = {type, 2, 4, 2, 40, 300, 64, false, {300, 70}, Layout::kContiguous, 0.125};
  c.atomic = atomic;
  Problem problem(c);
  // head 1 of keys of row 0 (queries' heads 2 and 3); query head 0 of row 1; keys past the length
  for (Heads* heads : {&problem.k, &problem.v}) {
    heads->each([&](int64_t b, int64_t h, int64_t r, int64_t e) {
      if ((b == 0 && h == 1) || (b == 1 && r >= 70)) heads->set(b, h, r, e, NAN);
    });
  }
  problem.q.each([&](int64_t b, int64_t h, int64_t r, int64_t e) {
    if (b == 1 && h == 0 && r == 3) problem.q.set(b, h, r, e, NAN);
  });
  const auto poisoned = [&](int64_t b, int64_t h, int64_t r) {
    return (b == 0 && h >= 2) || (b == 1 && h == 0 && r == 3);
  };
  if (!ran(c, "forward", attention_forward(nullptr, c.type, problem.forward()))) return;
  Heads dout(type, c.batch, c.heads, c.queries, c.columns, c.layout), dq = dout;
  Heads dk(type, c.batch, c.heads / c.group, c.keys, c.columns, c.layout), dv = dk;
  dout.random(1);
  const AttentionBackward p = problem.backward(dq, dk, dv, dout);
  if (!ran(c, "backward", attention_backward(nullptr, c.type, p))) return;
  int64_t wrong = 0;
  for (Heads* heads : {&problem.out, &dq})
    heads->each([&](int64_t b, int64_t h, int64_t r, int64_t e) {
      wrong += std::isnan(heads->get(b, h, r, e)) != poisoned(b, h, r);
    });
  for (Heads* heads : {&dk, &dv})
    heads->each([&](int64_t b, int64_t h, int64_t r, int64_t e) {
      // the NaN query reaches the keys that it sees
      const bool wanted = (b == 0 && h == 1) || (b == 1 && h == 0 && r < 70);
      wrong += std::isnan(heads->get(b, h, r, e)) != wanted;
      if (b == 1 && r >= 70) wrong += heads->get(b, h, r, e) != 0;
    });
  expect(c, "NaNs that spread or vanished", wrong, 0);
}

// ---- packed sequences ----

// All of one sequence is NaN: its results are, nobody else's. Rows that belong to no sequence see
// nothing, whatever is in them.
void nan_stays_packed(ElementType type, bool atomic) {
  Case c = {type, 1, 4, 2, 0, 0, 64, true, {}, Layout::kContiguous, 0.125};
  c.q_starts = {0, 30, 37, 100};
  c.k_starts = {0, 40, 47, 110};
  c.queries = 111;
  c.keys = 120;
  c.atomic = atomic;
  Problem problem(c);
  Heads dout(type, 1, c.heads, c.queries, c.columns, c.layout), dq = dout;
  Heads dk(type, 1, c.heads / c.group, c.keys, c.columns, c.layout), dv = dk;
  dout.random(1);
  const auto poisoned = [](int64_t r, int from, int to, int end) {
    return (r >= from && r < to) || r >= end;
  };
  for (Heads* heads : {&problem.q, &dout})
    heads->each([&](int64_t b, int64_t h, int64_t r, int64_t e) {
      if (poisoned(r, 30, 37, 100)) heads->set(b, h, r, e, NAN);
    });
  for (Heads* heads : {&problem.k, &problem.v})
    heads->each([&](int64_t b, int64_t h, int64_t r, int64_t e) {
      if (poisoned(r, 40, 47, 110)) heads->set(b, h, r, e, NAN);
    });
  if (!ran(c, "forward", attention_forward(nullptr, c.type, problem.forward()))) return;
  const AttentionBackward p = problem.backward(dq, dk, dv, dout);
  if (!ran(c, "backward", attention_backward(nullptr, c.type, p))) return;
  int64_t wrong = 0;
  const auto count = [&](Heads& heads, int from, int to, int end) {
    heads.each([&](int64_t b, int64_t h, int64_t r, int64_t e) {
      const double had = heads.get(b, h, r, e);
      wrong += r >= end ? had != 0 : std::isnan(had) != (r >= from && r < to);
    });
  };
  count(problem.out, 30, 37, 100);
  count(dq, 30, 37, 100);
  count(dk, 40, 47, 110);
  count(dv, 40, 47, 110);
  for (int64_t h = 0; h < c.heads; ++h)
    for (int64_t r = 100; r < c.queries; ++r) wrong += problem.lse.get(0, 0, h, r) != -INFINITY;
  expect(c, "packed: NaNs that spread or vanished", wrong, 0);
}

// Starts that do not ascend from 0 to the rows at most are put right, and the first is reported.
void wrong_starts(ElementType type) {
  struct Wrong {
    std::vector<int32_t> q, k, right_q, right_k;
    FaultKind kind;
    int64_t value[4];
  };
  constexpr FaultKind kQ = FaultKind::kAttentionQueryStart, kK = FaultKind::kAttentionKeyStart;
  for (const Wrong& wrong :
       {Wrong{
            {0, 20, 10, 50}, {0, 9, 10, 60}, {0, 20, 20, 50}, {0, 9, 10, 60}, kQ, {2, 10, 20, 50}},
        Wrong{
            {0, 20, 30, 51}, {0, 9, 10, 60}, {0, 20, 30, 50}, {0, 9, 10, 60}, kQ, {3, 51, 30, 50}},
        Wrong{{1, 20, 30, 50}, {0, 9, 10, 60}, {0, 20, 30, 50}, {0, 9, 10, 60}, kQ, {0, 1, 0, 0}},
        Wrong{{-7, 20, 30, 50}, {0, 9, 10, 60}, {0, 20, 30, 50}, {0, 9, 10, 60}, kQ, {0, -7, 0, 0}},
        Wrong{
            {0, 20, 30, 40}, {0, 70, -5, 60}, {0, 20, 30, 40}, {0, 60, 60, 60}, kK, {1, 70, 0, 60}},
        Wrong{{0, INT32_MIN, INT32_MAX, 3},
              {0, 9, 10, 60},
              {0, 0, 50, 50},
              {0, 9, 10, 60},
              kQ,
              {1, INT32_MIN, 0, 50}}}) {
    Case c = {type, 1, 2, 1, 50, 60, 32, true, {}, Layout::kContiguous, 0.2};
    c.q_starts = wrong.right_q;
    c.k_starts = wrong.right_k;
    Problem problem(c);
    std::copy(wrong.q.begin(), wrong.q.end(), problem.q_starts.begin());
    std::copy(wrong.k.begin(), wrong.k.end(), problem.k_starts.begin());
    if (!ran(c, "forward", attention_forward(nullptr, c.type, problem.forward()))) continue;
    problem.compare_forward();
    const auto reported = [&](const char* what) {
      const FaultRecord& had = problem.record[0];
      ++checks;
      if (had.kind != wrong.kind || !std::equal(wrong.value, wrong.value + 4, had.value))
        fail(c, std::string(what) + ": another fault, of kind " +
                    std::to_string(static_cast<int>(had.kind)) + " with " +
                    std::to_string(had.value[0]) + ", " + std::to_string(had.value[1]) + ", " +
                    std::to_string(had.value[2]) + ", " + std::to_string(had.value[3]));
      problem.record[0] = {};
      problem.taken[0] = 0;
    };
    reported("forward");
    compare_backward(problem, 0, 0);
    reported("backward");
  }
}

// ---- far apart ----

// The same bits as with rows side by side. Of one block of keys, so that dq has one order even
// where it is added atomically.
void far_apart(ElementType type, bool packed, bool atomic) {
  Case c = {type, 2, 2, 2, 5, 40, 32, true, {}, Layout::kContiguous, 0.2};
  c.atomic = atomic;
  if (packed) {
    c.batch = 1;
    c.q_starts = {0, 2, 5};
    c.k_starts = {0, 30, 40};
  }
  Problem problem(c);
  Heads dout(type, c.batch, c.heads, c.queries, c.columns, c.layout), dq = dout;
  Heads dk(type, c.batch, c.heads / c.group, c.keys, c.columns, c.layout), dv = dk;
  dout.random(1);
  const AttentionBackward p = problem.backward(dq, dk, dv, dout);
  const FarHeads q(problem.q), k(problem.k), v(problem.v), out(problem.out), far_dout(dout),
      far_dq(dq), far_dk(dk), far_dv(dv);
  if (q.memory == nullptr || out.memory == nullptr || far_dv.memory == nullptr)
    return fail(c, "the host lends no address space");
  if (!ran(c, "forward", attention_forward(nullptr, type, problem.forward())) ||
      !ran(c, "backward", attention_backward(nullptr, type, p)))
    return;
  const AttentionForward far_forward = {problem.shape(), q.view(), k.view(), v.view(),
                                        out.view(),      p.lse,    p.scratch};
  AttentionBackward far_backward = p;
  far_backward.dq = far_dq.view();
  far_backward.dk = far_dk.view();
  far_backward.dv = far_dv.view();
  far_backward.dout = far_dout.view();
  far_backward.out = out.view();
  far_backward.q = q.view();
  far_backward.k = k.view();
  far_backward.v = v.view();
  if (!ran(c, "forward, far apart", attention_forward(nullptr, type, far_forward)) ||
      !ran(c, "backward, far apart", attention_backward(nullptr, type, far_backward)))
    return;
  expect(c, "far apart: tensors that are the same",
         out.same() + far_dq.same() + far_dk.same() + far_dv.same(), 4);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc > 1) seed = static_cast<unsigned>(std::strtoul(argv[1], nullptr, 10));
  std::printf("seed %u\n", seed);
  for (simt::Order order : {simt::Order::kForward, simt::Order::kReverse, simt::Order::kRandom}) {
    simt::set_options({order, seed});
    generator.seed(seed + static_cast<unsigned>(order));
    for (ElementType type : {ElementType::kF32, ElementType::kF16, ElementType::kBf16})
      for (int i = 0; i < 22; ++i) {
        run(some_case(type));
        if (argc > 2 && failures > 0) return 1;
      }
    for (ElementType type : {ElementType::kF32, ElementType::kF16, ElementType::kBf16}) {
      for (bool atomic : {false, true}) {
        if (atomic && type == ElementType::kF32) continue;
        nan_stays(type, atomic);
        nan_stays_packed(type, atomic);
      }
      wrong_starts(type);
    }
  }
  for (ElementType type : {ElementType::kF32, ElementType::kF16, ElementType::kBf16})
    for (bool packed : {false, true}) same_bits(type, packed);
  for (const auto& [type, queries] : {std::pair{ElementType::kF32, 1023},
                                      {ElementType::kBf16, 1023},
                                      {ElementType::kBf16, 65537}})
    run({type, 1, 1, 1, queries, 3, 8, false, {}, Layout::kContiguous, 0.3});
  // more sequences than threads that look at their starts
  Case many = {ElementType::kBf16, 1, 1, 1, 300, 450, 16, true, {}, Layout::kContiguous, 0.3};
  for (int i = 0; i <= 300; ++i) {
    many.q_starts.push_back(i);
    many.k_starts.push_back(i * 3 / 2);
  }
  run(many);
  for (ElementType type : {ElementType::kF16, ElementType::kBf16}) errors_of_dq(type);
  all_traffic();
  if (kFarRows)
    for (bool packed : {false, true}) {
      far_apart(ElementType::kF32, packed, false);
      for (bool atomic : {false, true}) far_apart(ElementType::kBf16, packed, atomic);
    }
  std::printf("%d checks, %d failures\n", checks, failures);
  return failures == 0 ? 0 : 1;
}
