// Runs kernels/attention*.cu on the host (native/src/sim) against float64: a sample of dtypes, head
// sizes, masks, groups, ragged lengths and strides. Usage: attention_kernel_test [seed [first]]
// (first: end at the first failure)
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "../../../kernels/attention.cu"
#include "../../../kernels/attention_decode.cu"
#include "../../../kernels/attention_f32.cu"
#include "element.h"

namespace {

using namespace gatun::kernels;

unsigned seed = 20261125;
std::mt19937 generator;
int failures = 0;
int checks = 0;

template <typename T>
using Device = std::vector<T, simt::DeviceAllocator<T>>;

// How [batch, heads, rows, columns] lies in memory.
enum class Layout {
  kContiguous,
  kInterleaved,  // [batch, rows, heads, columns] with gaps, as views of a packed projection
  kUnaligned,    // rows that 16-byte accesses cannot read
};

struct Heads {
  ElementType type;
  int64_t batch, heads, rows, columns;
  int64_t batch_stride, head_stride, row_stride;
  Device<uint4> memory;
  int64_t start;  // byte
  static constexpr int64_t kMargin = 64;

  Heads(ElementType t, int64_t b, int64_t h, int64_t r, int64_t c, Layout layout)
      : type(t), batch(b), heads(h), rows(r), columns(c) {
    if (layout == Layout::kInterleaved) {
      head_stride = c + 8;
      row_stride = h * head_stride + 16;
      batch_stride = r * row_stride + 8;
    } else {
      row_stride = c + (layout == Layout::kUnaligned ? 3 : 0);
      head_stride = r * row_stride + (layout == Layout::kUnaligned ? 1 : 0);
      batch_stride = h * head_stride;
    }
    start = kMargin + (layout == Layout::kUnaligned ? size() : 0);
    memory.resize(static_cast<size_t>((b * batch_stride + c) * size() / 16 + 2 * kMargin / 16 + 2));
    std::memset(memory.data(), 0xA5, memory.size() * 16);
  }
  int64_t size() const { return static_cast<int64_t>(size_of(type)); }
  char* bytes() { return reinterpret_cast<char*>(memory.data()); }
  int64_t offset(int64_t b, int64_t h, int64_t r, int64_t c) const {
    return start + (b * batch_stride + h * head_stride + r * row_stride + c) * size();
  }
  double get(int64_t b, int64_t h, int64_t r, int64_t c) const {
    return value_at(type, reinterpret_cast<const char*>(memory.data()) + offset(b, h, r, c));
  }
  void set(int64_t b, int64_t h, int64_t r, int64_t c, double value) {
    set_value(type, bytes() + offset(b, h, r, c), static_cast<float>(value));
  }
  template <typename F>
  void each(F f) const {
    for (int64_t b = 0; b < batch; ++b)
      for (int64_t h = 0; h < heads; ++h)
        for (int64_t r = 0; r < rows; ++r)
          for (int64_t c = 0; c < columns; ++c) f(b, h, r, c);
  }
  Heads& random(double scale) {
    std::normal_distribution<double> normal(0, scale);
    each([&](int64_t b, int64_t h, int64_t r, int64_t c) { set(b, h, r, c, normal(generator)); });
    return *this;
  }
  // As numbers of one head: [rows][columns].
  std::vector<double> head(int64_t b, int64_t h) const {
    std::vector<double> values;
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t c = 0; c < columns; ++c) values.push_back(get(b, h, r, c));
    return values;
  }
  HeadRows view() { return {bytes() + start, batch_stride, head_stride, row_stride}; }
  // All memory but the elements, to be compared after a run.
  std::vector<char> outside() {
    std::vector<char> all(bytes(), bytes() + memory.size() * 16);
    each([&](int64_t b, int64_t h, int64_t r, int64_t c) {
      std::memset(all.data() + offset(b, h, r, c), 0, static_cast<size_t>(size()));
    });
    return all;
  }
  std::vector<char> all() { return {bytes(), bytes() + memory.size() * 16}; }
};

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

void fail(const Case& c, const std::string& what) {
  if (++failures <= 20)
    std::fprintf(stderr, "FAILED (seed %u) %s: %s\n", seed, c.text().c_str(), what.c_str());
}

void check(const Case& c, const char* what, int64_t b, int64_t h, int64_t r, int64_t i, double had,
           double wanted, double tolerance, bool& reported) {
  const bool same = std::isinf(wanted) ? had == wanted : std::fabs(had - wanted) <= tolerance;
  if (same || reported) return;
  reported = true;
  char line[200];
  std::snprintf(line, sizeof line, "%s[%lld,%lld,%lld,%lld]: had %.9g, wanted %.9g within %.3g",
                what, static_cast<long long>(b), static_cast<long long>(h),
                static_cast<long long>(r), static_cast<long long>(i), had, wanted, tolerance);
  fail(c, line);
}

void unchanged(const Case& c, const char* what, Heads& heads, const std::vector<char>& before) {
  ++checks;
  if (heads.outside() != before) fail(c, std::string(what) + ": wrote outside of the elements");
}

// Waits for what was launched.
bool ran(const Case& c, const char* what, cudaError_t launched) {
  ++checks;
  const cudaError_t error = launched != cudaSuccess ? launched : cudaDeviceSynchronize();
  if (error == cudaSuccess) return true;
  fail(c, std::string(what) + ": " + cudaGetErrorString(error));
  return false;
}

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
// of the destinations that are not wanted.
void compare_backward(Problem& problem, unsigned add, unsigned missing) {
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
  if (!ran(c, "backward", attention_backward(nullptr, c.type, p))) return;
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
  for (int i = 0; i < 3; ++i) {
    if (missing >> i & 1) continue;
    ++checks;
    bool reported = false;
    size_t at = 0;
    d[i].each([&](int64_t b, int64_t h, int64_t r, int64_t e) {
      check(c, kNames[i], b, h, r, e, d[i].get(b, h, r, e), wanted[i][at],
            terms[i][at] + 2 * eps * std::fabs(wanted[i][at]) + 1e-6, reported);
      ++at;
    });
    unchanged(c, kNames[i], d[i], before[i]);
  }
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

// ---- decode ----

struct DecodeCase {
  ElementType type, pages_type;
  int batch, heads, group, queries, columns, slots, row_pages;
  bool table;
  std::vector<int32_t> held;  // before the append
  Layout layout;
  double scale;
  int sm_count;
};

// Appends the last tokens of each row to a cache that holds the others, then attends to it.
void run_decode(const DecodeCase& d) {
  const int capacity = (d.table ? d.row_pages : 1) * d.slots;
  const int pages = d.table ? d.batch * d.row_pages + 1 : d.batch + 1;
  Case c = {d.type,    d.batch, d.heads, d.group,  d.queries, capacity,
            d.columns, true,    d.held,  d.layout, d.scale};
  Heads q(d.type, d.batch, d.heads, d.queries, d.columns, d.layout);
  Heads out = q;
  Heads k(d.type, d.batch, d.heads / d.group, d.queries, d.columns, d.layout);
  Heads v = k;
  Heads k_pages(d.pages_type, pages, d.heads / d.group, d.slots, d.columns, d.layout);
  Heads v_pages = k_pages;
  q.random(1);
  k.random(1);
  v.random(1);
  // slots that nobody has written are NaN
  for (Heads* cache : {&k_pages, &v_pages})
    cache->each([&](int64_t b, int64_t h, int64_t r, int64_t e) { cache->set(b, h, r, e, NAN); });
  Device<int32_t> table(static_cast<size_t>(d.batch * d.row_pages)),
      lengths(d.held.begin(), d.held.end());
  std::vector<int32_t> order(static_cast<size_t>(pages));
  for (int i = 0; i < pages; ++i) order[static_cast<size_t>(i)] = i;
  std::shuffle(order.begin(), order.end(), generator);
  for (size_t i = 0; i < table.size(); ++i) table[i] = d.table ? order[i] : 0;
  const auto page_of = [&](int64_t b, int64_t slot) -> int64_t {
    return d.table ? table[static_cast<size_t>(b * d.row_pages + slot / d.slots)] : b;
  };
  std::normal_distribution<double> normal(0, 1);
  for (int64_t b = 0; b < d.batch; ++b)
    for (int64_t s = 0; s < d.held[static_cast<size_t>(b)]; ++s)
      for (int64_t h = 0; h < d.heads / d.group; ++h)
        for (int64_t e = 0; e < d.columns; ++e) {
          k_pages.set(page_of(b, s), h, s % d.slots, e, normal(generator));
          v_pages.set(page_of(b, s), h, s % d.slots, e, normal(generator));
        }
  Heads k_wanted = k_pages, v_wanted = v_pages;
  for (int64_t b = 0; b < d.batch; ++b)
    for (int64_t t = 0; t < d.queries; ++t) {
      const int64_t s = d.held[static_cast<size_t>(b)] + t;
      for (int64_t h = 0; h < d.heads / d.group; ++h)
        for (int64_t e = 0; e < d.columns; ++e) {
          k_wanted.set(page_of(b, s), h, s % d.slots, e, k.get(b, h, t, e));
          v_wanted.set(page_of(b, s), h, s % d.slots, e, v.get(b, h, t, e));
        }
    }

  Device<uint32_t> taken(1, 0);
  Device<FaultRecord> record(1, FaultRecord{});
  const Pages where = {d.table ? table.data() : nullptr, d.row_pages, pages, d.slots, capacity};
  KvAppend append = {};
  append.k_pages = k_pages.view();
  append.v_pages = v_pages.view();
  append.k = k.view();
  append.v = v.view();
  append.pages = where;
  append.lengths = lengths.data();
  append.batch = d.batch;
  append.heads = d.heads / d.group;
  append.tokens = d.queries;
  append.columns = d.columns;
  append.faults = {taken.data(), record.data()};
  if (!ran(c, "kv_append", kv_append(nullptr, d.pages_type, d.type, append))) return;
  checks += 2;
  if (k_pages.all() != k_wanted.all() || v_pages.all() != v_wanted.all())
    fail(c, "kv_append: other bytes than wanted");

  AttentionDecode p = {};
  p.out = out.view();
  p.q = q.view();
  p.k_pages = k_pages.view();
  p.v_pages = v_pages.view();
  p.pages = where;
  p.lengths = lengths.data();
  p.batch = d.batch;
  p.heads = d.heads;
  p.group = d.group;
  p.queries = d.queries;
  p.columns = d.columns;
  p.scale = static_cast<float>(d.scale);
  p.faults = append.faults;
  const size_t scratch =
      attention_decode_scratch_bytes(d.type, d.pages_type, p, d.sm_count) / sizeof(float);
  Device<float> partials(scratch + 4, NAN);
  partials[scratch] = 12345.f;
  p.partials = partials.data();
  const auto before = out.outside();
  if (!ran(c, "decode", attention_decode(nullptr, d.type, d.pages_type, p, d.sm_count))) return;
  unchanged(c, "decode", out, before);
  if (partials[scratch] != 12345.f) fail(c, "decode: wrote beyond its scratch");
  if (record[0].kind != FaultKind::kNone) fail(c, "decode: a fault was reported");
  bool reported = false;
  // with 16-bit pages of the type of q, weights are rounded to it
  const double eps = d.type == d.pages_type ? precision_of(d.type) : 0x1p-20;
  for (int64_t b = 0; b < d.batch; ++b)
    for (int64_t h = 0; h < d.heads; ++h)
      for (int64_t i = 0; i < d.queries; ++i) {
        std::vector<double> weights;
        double peak = -INFINITY, mass = 0, size = 0;
        for (int64_t s = 0; s <= d.held[static_cast<size_t>(b)] + i; ++s) {
          double score = 0, terms = 0;
          for (int64_t e = 0; e < d.columns; ++e) {
            const double term = q.get(b, h, i, e) * d.scale *
                                k_pages.get(page_of(b, s), h / d.group, s % d.slots, e);
            score += term;
            terms += std::fabs(term);
          }
          weights.push_back(score);
          peak = std::max(peak, score);
          size = std::max(size, terms);
        }
        for (double& w : weights) mass += w = std::exp(w - peak);
        for (int64_t e = 0; e < d.columns; ++e) {
          double wanted = 0, terms = 0;
          for (size_t s = 0; s < weights.size(); ++s) {
            const auto slot = static_cast<int64_t>(s);
            const double term =
                weights[s] / mass * v_pages.get(page_of(b, slot), h / d.group, slot % d.slots, e);
            wanted += term;
            terms += std::fabs(term);
          }
          check(c, "decode", b, h, i, e, out.get(b, h, i, e), wanted,
                terms * (eps + 0x1p-20 * (size + 4)) + precision_of(d.type) * std::fabs(wanted) +
                    1e-7,
                reported);
        }
      }
}

// A page or slot out of range is dropped and reported, with the values of the sentence.
void faults() {
  const Case c = {ElementType::kBf16, 1, 1, 1, 3, 8, 64, true, {}, Layout::kContiguous, 1};
  for (int kind = 0; kind < 4; ++kind) {
    Heads q(c.type, 1, 1, c.queries, c.columns, c.layout), out = q, k = q, v = q;
    Heads k_pages(c.type, 3, 1, 4, c.columns, c.layout);
    for (Heads* heads : {&q, &k, &v, &k_pages}) heads->random(1);
    Heads v_pages = k_pages;
    Device<int32_t> table(2), lengths(1);
    table[0] = 2;
    table[1] = kind % 2 == 0 ? 3 : 1;    // there are three pages
    lengths[0] = kind % 2 == 0 ? 2 : 6;  // the last slot is one too far
    Device<uint32_t> taken(1, 0);
    Device<FaultRecord> record(1, FaultRecord{});
    const Pages pages = {table.data(), 2, 3, 4, 8};
    const FaultSink sink = {taken.data(), record.data()};
    const auto pages_before = k_pages.outside(), out_before = out.outside();
    if (kind < 2) {
      KvAppend p = {k_pages.view(),
                    v_pages.view(),
                    k.view(),
                    v.view(),
                    pages,
                    lengths.data(),
                    1,
                    1,
                    3,
                    64,
                    sink};
      ran(c, "kv_append", kv_append(nullptr, c.type, c.type, p));
      unchanged(c, "kv_append", k_pages, pages_before);
    } else {
      AttentionDecode p = {
          out.view(), q.view(), k_pages.view(), v_pages.view(), pages, lengths.data(), 1, 1, 1, 3,
          64,         1.f,      sink,           nullptr,        1};
      ran(c, "decode", attention_decode(nullptr, c.type, c.type, p, 1));
      unchanged(c, "decode", out, out_before);
    }
    const FaultKind wanted[] = {FaultKind::kAppendPage, FaultKind::kAppendSlot,
                                FaultKind::kDecodePage, FaultKind::kDecodeSlot};
    const int64_t values[4][4] = {{3, 4, 0, 3}, {8, 0, 8, 0}, {3, 4, 0, 3}, {8, 0, 8, 0}};
    ++checks;
    if (record[0].kind != wanted[kind] ||
        !std::equal(values[kind], values[kind] + 4, record[0].value))
      fail(c, "fault " + std::to_string(kind) + ": had kind " +
                  std::to_string(static_cast<int>(record[0].kind)) + " with " +
                  std::to_string(record[0].value[0]) + ", " + std::to_string(record[0].value[1]));
  }
}

int pick(std::initializer_list<int> of) { return of.begin()[generator() % of.size()]; }

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
  c.scale = generator() % 8 == 0 ? -0.3 : 1 / std::sqrt(static_cast<double>(c.columns));
  c.atomic = generator() % 3 == 0;
  if (generator() % 3 == 0) pack(c, pick({0, 1, 2, 5, 5, 40}));
  return c;
}

// ---- counters against ideals ----

void expect(const Case& c, const char* what, int64_t had, int64_t wanted) {
  ++checks;
  if (had == wanted) return;
  fail(c,
       std::string(what) + ": had " + std::to_string(had) + ", wanted " + std::to_string(wanted));
}

simt::Counters counters_of(const char* launch) {
  for (const auto& [name, counters] : simt::kernel_counters())
    if (name == launch) return counters;
  return {};
}

void no_conflicts(const Case& c, const simt::Counters& had) {
  expect(c, "wavefronts of ldmatrix", had.matrix.wavefronts, had.matrix.phases);
  expect(c, "wavefronts of copies", had.copy_store.wavefronts, had.copy_store.phases);
  expect(c, "wavefronts of loads", had.shared_load.wavefronts, had.shared_load.phases);
  expect(c, "wavefronts of stores", had.shared_store.wavefronts, had.shared_store.phases);
  expect(c, "sectors of copies", had.copy_load.sectors * 32, had.copy_load.bytes);
  expect(c, "sectors of stores", had.store.sectors * 32, had.store.bytes);
}

// The pairs of rows of `own` and tiles of `passing` rows that have something to see, where a warp
// has `each` rows, times `passing`: what a kernel multiplies.
template <typename Seen>
int64_t pairs(int64_t own, int each, int64_t other, int passing, Seen seen) {
  int64_t count = 0;
  for (int64_t first = 0; first < own; first += each)
    for (int64_t tile = 0; tile < other; tile += passing)
      if (seen(first, first + each - 1, tile, tile + passing - 1)) count += int64_t{each} * passing;
  return count;
}

// Every product of visible tiles once; q, k, v (and dout) as often as the tiling says; all shared
// memory without conflicts.
template <int kWidth>
void traffic(int tokens, bool causal) {
  Case c = {ElementType::kBf16,  1,    2, 1, tokens, tokens, kWidth, causal, {},
            Layout::kContiguous, 0.125};
  Problem problem(c);
  simt::count_memory(true);
  simt::reset_counters();
  if (!ran(c, "forward", attention_forward(nullptr, c.type, problem.forward()))) return;
  const simt::Counters forward = counters_of("attention_forward");
  const auto sees = [&](int64_t, int64_t last_query, int64_t key, int64_t) {
    return !causal || key <= last_query;
  };
  const auto seen = [&](int64_t key, int64_t, int64_t, int64_t last_query) {
    return !causal || key <= last_query;
  };
  // multiplications of one head for one product; an mma has 16 x 8 x 16
  const auto products = [&](int64_t visible) { return c.heads * visible * kWidth / (16 * 8 * 16); };
  const int64_t row = kWidth * 2;  // bytes
  constexpr AttentionTile kForward = kAttentionForward<kWidth>;
  expect(c, "mma of forward", forward.mma,
         2 * products(pairs(tokens, kForward.strips * 16, tokens, kForward.other, sees)));
  expect(c, "bytes loaded by forward", forward.copy_load.bytes,
         c.heads * row *
             (tokens +
              2 * pairs(tokens, kForward.rows, tokens, kForward.other, sees) / kForward.rows));
  expect(c, "bytes stored by forward", forward.store.bytes, c.heads * tokens * row);
  no_conflicts(c, forward);

  problem.compare_forward();
  simt::reset_counters();
  compare_backward(problem, 0, 0);
  const simt::Counters keys = counters_of("attention_backward_keys");
  const simt::Counters queries = counters_of("attention_backward_queries");
  simt::count_memory(false);
  constexpr AttentionTile kKeys = kAttentionKeyGradient<kWidth>;
  constexpr AttentionTile kQueries = kAttentionQueryGradient<kWidth>;
  // wide heads are split: each part computes the scores and their gradients
  constexpr int kParts = kWidth / kAttentionKeyGradientColumns<kWidth>;
  expect(c, "mma of backward_keys", keys.mma,
         (2 * kParts + 2) * products(pairs(tokens, kKeys.strips * 16, tokens, kKeys.other, seen)));
  expect(c, "mma of backward_queries", queries.mma,
         3 * products(pairs(tokens, kQueries.strips * 16, tokens, kQueries.other, sees)));
  // rows that pass by bring 8 bytes of statistics
  expect(c, "bytes loaded by backward_keys", keys.copy_load.bytes,
         kParts * c.heads *
             (2 * row * tokens +
              (2 * row + 8) * pairs(tokens, kKeys.rows, tokens, kKeys.other, seen) / kKeys.rows));
  expect(c, "bytes loaded by backward_queries", queries.copy_load.bytes,
         c.heads * 2 * row *
             (tokens + pairs(tokens, kQueries.rows, tokens, kQueries.other, sees) / kQueries.rows));
  expect(c, "bytes stored by backward_keys", keys.store.bytes, 2 * c.heads * tokens * row);
  expect(c, "bytes stored by backward_queries", queries.store.bytes, c.heads * tokens * row);
  no_conflicts(c, keys);
  no_conflicts(c, queries);

  // atomic: five products, and f32 sums of each tile that passes a block of keys
  if (kWidth > kAttentionAtomicColumns) return;
  c.atomic = true;
  simt::count_memory(true);
  simt::reset_counters();
  compare_backward(problem, 0, 0);
  const simt::Counters all = counters_of("attention_backward_keys_atomic");
  const simt::Counters dq = counters_of("attention_backward_dq");
  const simt::Counters rows = counters_of("attention_backward_rows");
  simt::count_memory(false);
  expect(c, "launches of backward_queries", counters_of("attention_backward_queries").launches, 0);
  expect(c, "mma of backward_keys, atomic", all.mma,
         5 * products(pairs(tokens, kKeys.strips * 16, tokens, kKeys.other, seen)));
  expect(c, "bytes loaded by backward_keys, atomic", all.copy_load.bytes, keys.copy_load.bytes);
  expect(c, "bytes stored by backward_keys, atomic", all.store.bytes, keys.store.bytes);
  expect(
      c, "bytes of atomic additions", all.atomic.bytes,
      c.heads * kWidth * 4 * (pairs(tokens, kKeys.rows, tokens, kKeys.other, seen) / kKeys.rows));
  expect(c, "sectors of atomic additions", all.atomic.sectors * 32, all.atomic.bytes);
  no_conflicts(c, all);
  expect(c, "bytes loaded by backward_dq", dq.load.bytes, c.heads * tokens * kWidth * 4);
  expect(c, "sectors loaded by backward_dq", dq.load.sectors * 32, dq.load.bytes);
  expect(c, "bytes stored by backward_dq", dq.store.bytes, c.heads * tokens * row);
  expect(c, "sectors stored by backward_dq", dq.store.sectors * 32, dq.store.bytes);
  expect(c, "bytes zeroed by backward_rows", rows.store.bytes, c.heads * tokens * kWidth * 4);
}

// Each key and value of a row once, whatever the splits.
void decode_traffic() {
  constexpr int kWidth = 128, kHeld = 1000, kSlots = 16;
  const Case c = {ElementType::kBf16,  1, 8, 4, 1, kHeld + 1, kWidth, true, {},
                  Layout::kContiguous, 1};
  simt::count_memory(true);
  simt::reset_counters();
  run_decode({c.type,
              c.type,
              1,
              c.heads,
              c.group,
              1,
              kWidth,
              kSlots,
              128,
              true,
              {kHeld},
              c.layout,
              0.1,
              132});
  const simt::Counters had = counters_of("attention_decode");
  simt::count_memory(false);
  const int64_t row = kWidth * 2, kv_heads = c.heads / c.group;
  const int64_t splits = attention_decode_splits(kv_heads, 128 * kSlots, 132);
  expect(c, "blocks of decode", had.blocks, kv_heads * splits);
  expect(c, "bytes loaded by decode", had.copy_load.bytes,
         kv_heads * row * (2 * (kHeld + 1) + splits * c.group));
  no_conflicts(c, had);
}

// ---- the same bits, and NaNs that stay where they are ----

// The bytes that a run of everything leaves.
std::vector<char> all_results(const Case& c) {
  const unsigned state = seed + 7;
  generator.seed(state);
  Problem problem(c);
  std::vector<char> bytes;
  const auto keep = [&](Heads& heads) {
    const auto all = heads.all();
    bytes.insert(bytes.end(), all.begin(), all.end());
  };
  if (!ran(c, "forward", attention_forward(nullptr, c.type, problem.forward()))) return bytes;
  keep(problem.out);
  keep(problem.lse);
  Heads dout = problem.q, dq = problem.q, dk = problem.k, dv = problem.v;
  const AttentionBackward p = problem.backward(dq, dk, dv, dout);
  if (!ran(c, "backward", attention_backward(nullptr, c.type, p))) return bytes;
  for (Heads* heads : {&dq, &dk, &dv}) keep(*heads);
  return bytes;
}

void same_bits(ElementType type, bool packed) {
  Case c = {type, 2, 4, 2, 65, 130, 64, true, {130, 77}, Layout::kInterleaved, 0.125};
  if (packed) pack(c, 5);
  const simt::Options before = simt::options();
  const std::vector<char> first = all_results(c);
  for (int i = 0; i < 20; ++i) {
    simt::set_options({static_cast<simt::Order>(i % 3), seed + static_cast<unsigned>(i)});
    ++checks;
    if (all_results(c) != first) fail(c, "other bits in run " + std::to_string(i));
  }
  simt::set_options(before);
}

// One batch row, one head and all keys past a length are NaN: nobody else's results are.
void nan_stays(ElementType type) {
  const Case c = {type, 2, 4, 2, 40, 100, 64, false, {100, 70}, Layout::kContiguous, 0.125};
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

// A copy of a tensor in a sparse mapping, its rows 2^31 elements apart.
struct FarHeads {
  static constexpr int64_t kRow = (int64_t{1} << 31) + 8;
  const Heads& like;
  char* memory;

  explicit FarHeads(const Heads& heads) : like(heads) {
    memory = static_cast<char*>(simt::allocate_sparse(
        static_cast<size_t>(heads.batch * heads.heads * heads.rows * kRow * heads.size())));
    like.each([&](int64_t b, int64_t h, int64_t r, int64_t e) {
      std::memcpy(at(b, h, r, e), near(b, h, r, e), static_cast<size_t>(like.size()));
    });
  }
  FarHeads(const FarHeads&) = delete;
  ~FarHeads() { simt::release(memory); }
  const char* near(int64_t b, int64_t h, int64_t r, int64_t e) const {
    return reinterpret_cast<const char*>(like.memory.data()) + like.offset(b, h, r, e);
  }
  char* at(int64_t b, int64_t h, int64_t r, int64_t e) const {
    return memory + (((b * like.heads + h) * like.rows + r) * kRow + e) * like.size();
  }
  HeadRows view() const { return {memory, like.heads * like.rows * kRow, like.rows * kRow, kRow}; }
  bool same() const {
    bool all = true;
    like.each([&](int64_t b, int64_t h, int64_t r, int64_t e) {
      all = all &&
            std::memcmp(at(b, h, r, e), near(b, h, r, e), static_cast<size_t>(like.size())) == 0;
    });
    return all;
  }
};

// The same bits as with rows side by side.
void far_apart(ElementType type, bool packed) {
  Case c = {type, 2, 2, 2, 5, 40, 32, true, {}, Layout::kContiguous, 0.2};
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
  if (packed) return;

  // a cache of two pages of 20 slots a row
  Heads pages(type, 4, 1, 20, c.columns, c.layout);
  pages.random(1);
  const FarHeads far_k_pages(pages), far_v_pages(pages);
  Heads k_pages = pages, v_pages = pages, decoded = problem.q;
  const FarHeads far_decoded(decoded);
  Heads tokens(type, 2, 1, c.queries, c.columns, c.layout);
  tokens.random(1);
  const FarHeads far_tokens(tokens);
  Device<int32_t> table = {3, 1, 0, 2}, lengths = {18, 33};
  Device<uint32_t> taken(1, 0);
  Device<FaultRecord> record(1, FaultRecord{});
  const Pages where = {table.data(), 2, 4, 20, 40};
  const FaultSink sink = {taken.data(), record.data()};
  KvAppend append = {
      k_pages.view(), v_pages.view(), tokens.view(), tokens.view(), where, lengths.data(), 2, 1,
      c.queries,      c.columns,      sink};
  AttentionDecode decode = {decoded.view(),
                            problem.q.view(),
                            k_pages.view(),
                            v_pages.view(),
                            where,
                            lengths.data(),
                            2,
                            c.heads,
                            c.group,
                            c.queries,
                            c.columns,
                            0.2f,
                            sink,
                            nullptr,
                            1};
  bool fine = ran(c, "kv_append", kv_append(nullptr, type, type, append)) &&
              ran(c, "decode", attention_decode(nullptr, type, type, decode, 1));
  append.k_pages = decode.k_pages = far_k_pages.view();
  append.v_pages = decode.v_pages = far_v_pages.view();
  append.k = append.v = far_tokens.view();
  decode.out = far_decoded.view();
  decode.q = q.view();
  fine = fine && ran(c, "kv_append, far apart", kv_append(nullptr, type, type, append)) &&
         ran(c, "decode, far apart", attention_decode(nullptr, type, type, decode, 1));
  if (!fine) return;
  // the far caches were copied from `pages`, so they are compared with what the near ones became
  int64_t other = 0;
  for (const auto& [far, near] : {std::pair{&far_k_pages, &k_pages}, {&far_v_pages, &v_pages}})
    near->each([&](int64_t b, int64_t h, int64_t r, int64_t e) {
      other += std::memcmp(far->at(b, h, r, e), near->bytes() + near->offset(b, h, r, e),
                           static_cast<size_t>(near->size())) != 0;
    });
  expect(c, "far apart: elements of the cache that differ", other, 0);
  expect(c, "far apart: decode is the same", far_decoded.same(), 1);
}

DecodeCase some_decode(ElementType type) {
  DecodeCase d;
  d.type = type;
  d.pages_type = generator() % 3 ? type : static_cast<ElementType>(generator() % 3);
  d.batch = pick({1, 2, 3});
  d.group = pick({1, 1, 2, 4, 8});
  d.heads = d.group * pick({1, 2});
  d.queries = pick({1, 1, 1, 2, 3, 8, 20});
  d.columns = pick({13, 32, 40, 64, 80, 128, 128, 256});
  d.table = generator() % 4;
  d.slots = d.table ? pick({1, 3, 16, 64, 100}) : pick({64, 130, 600});
  d.row_pages = d.table ? pick({400, 700}) / d.slots + 1 : 1;
  const int capacity = d.row_pages * d.slots;
  for (int b = 0; b < d.batch; ++b)
    d.held.push_back(std::min(pick({0, 1, 30, 63, 64, 65, 300, 1000}), capacity - d.queries));
  d.layout = static_cast<Layout>(generator() % 3);
  d.scale = generator() % 8 == 0 ? -0.3 : 1 / std::sqrt(static_cast<double>(d.columns));
  d.sm_count = pick({1, 4, 132});
  return d;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc > 1) seed = static_cast<unsigned>(std::strtoul(argv[1], nullptr, 10));
  std::printf("seed %u\n", seed);
  for (simt::Order order : {simt::Order::kForward, simt::Order::kReverse, simt::Order::kRandom}) {
    simt::set_options({order, seed});
    generator.seed(seed + static_cast<unsigned>(order));
    for (ElementType type : {ElementType::kF32, ElementType::kF16, ElementType::kBf16})
      for (int i = 0; i < 25; ++i) {
        run(some_case(type));
        if (argc > 2 && failures > 0) return 1;
      }
    for (ElementType type : {ElementType::kF32, ElementType::kF16, ElementType::kBf16})
      for (int i = 0; i < 25; ++i) {
        run_decode(some_decode(type));
        if (argc > 2 && failures > 0) return 1;
      }
    faults();
    for (ElementType type : {ElementType::kF32, ElementType::kF16, ElementType::kBf16}) {
      nan_stays(type);
      for (bool atomic : {false, true}) nan_stays_packed(type, atomic);
      wrong_starts(type);
    }
  }
  for (ElementType type : {ElementType::kF32, ElementType::kF16, ElementType::kBf16})
    for (bool packed : {false, true}) same_bits(type, packed);
  traffic<64>(256, true);
  traffic<128>(256, true);
  traffic<32>(128, false);
  traffic<96>(128, true);
  traffic<256>(128, true);
  decode_traffic();
  for (ElementType type : {ElementType::kF32, ElementType::kBf16})
    for (bool packed : {false, true}) far_apart(type, packed);
  std::printf("%d checks, %d failures\n", checks, failures);
  return failures == 0 ? 0 : 1;
}
