// Attention forward, backward, decode and kv_append of every SIMD level against float64 references
// written here, on random ragged shapes, strides, lengths, groups and dtypes. Tolerance: four times
// the largest error of the same plain formula computed in f32 and rounded to the dtype (tensors are
// small and its luck varies), plus two units in the last place of the largest truth, plus, for
// gradients whose terms may cancel, or whose probabilities may be exact in the plain formula, what
// f32 leaves of the terms. Usage: cpu_attention_test [seed]
#include <algorithm>
#include <cmath>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "core/backend.h"
#include "cpu/levels.h"
#include "cpu/types.h"

namespace {

using namespace gatun;

uint64_t seed = 20261125;
std::mt19937_64 generator;
const char* level_name = "";
int failures = 0;
int64_t checks = 0;

__attribute__((format(printf, 1, 2))) void report(const char* format, ...) {
  if (++failures > 20) return;
  std::fprintf(stderr, "FAILED (seed %llu, level %s): ", static_cast<unsigned long long>(seed),
               level_name);
  va_list arguments;
  va_start(arguments, format);
  std::vfprintf(stderr, format, arguments);
  va_end(arguments);
  std::fputc('\n', stderr);
}

int64_t pick(int64_t low, int64_t high) {
  return std::uniform_int_distribution<int64_t>(low, high)(generator);
}
bool flip() { return pick(0, 1) == 1; }
double normal() { return std::normal_distribution<double>()(generator); }

struct TestContext final : Context {
  std::vector<char> memory;
  gatun_status status = GATUN_OK;
  std::string sentence;

  explicit TestContext(int count) { threads = count; }
  void* workspace(size_t bytes) override {
    memory.assign(bytes + 64, static_cast<char>(0xff));  // NaN: a read before a write shows
    return reinterpret_cast<void*>((reinterpret_cast<uintptr_t>(memory.data()) + 63) &
                                   ~uintptr_t{63});
  }
  void fault(gatun_status which, const char* op, const char* format, ...) override {
    char text[256];
    va_list arguments;
    va_start(arguments, format);
    std::vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
#pragma omp critical
    if (status == GATUN_OK) {
      status = which;
      sentence = std::string(op) + ": " + text;
    }
  }
};

int bytes_of(int32_t dtype) { return dtype == GATUN_F32 || dtype == GATUN_I32 ? 4 : 2; }
const char* name_of(int32_t dtype) {
  return dtype == GATUN_F32 ? "f32" : dtype == GATUN_F16 ? "f16" : "bf16";
}
int32_t any_float() {
  constexpr int32_t kFloats[] = {GATUN_F32, GATUN_F32, GATUN_F16, GATUN_BF16};
  return kFloats[pick(0, 3)];
}
// The value nearest to x in the dtype, by arithmetic.
double rounded(int32_t dtype, double x) {
  if (dtype == GATUN_F32) return static_cast<float>(x);
  if (x == 0 || !std::isfinite(x)) return x;
  const int digits = dtype == GATUN_F16 ? 11 : 8;
  const int least = dtype == GATUN_F16 ? -14 : -126;
  const double unit = std::ldexp(1., std::max(std::ilogb(x), least) - digits + 1);
  return std::nearbyint(x / unit) * unit;
}
double ulp(int32_t dtype, double x) {
  const int digits = dtype == GATUN_F32 ? 24 : dtype == GATUN_F16 ? 11 : 8;
  const int least = dtype == GATUN_F16 ? -14 : -126;
  return std::ldexp(1., (x == 0 ? least : std::max(std::ilogb(x), least)) - digits + 1);
}

// A tensor whose rows may have gaps and whose dimensions 1 and 2 may be stored swapped (heads
// inside tokens, as in a packed projection). Everything outside its elements is a canary.
struct Tensor {
  static constexpr int64_t kMargin = 256;
  int32_t dtype;
  std::vector<int64_t> shape, stride;
  std::vector<unsigned char> memory;

  Tensor(int32_t type, std::vector<int64_t> dims, bool ragged = false)
      : dtype(type), shape(std::move(dims)), stride(shape.size()) {
    std::vector<size_t> order(shape.size());
    for (size_t i = 0; i < order.size(); ++i) order[i] = i;
    if (ragged && order.size() == 4 && flip()) std::swap(order[1], order[2]);
    int64_t extent = 1;
    for (size_t i = order.size(); i-- > 0;) {
      stride[order[i]] = extent;
      extent *= std::max<int64_t>(shape[order[i]], 1);
      if (ragged) extent += pick(0, 1) * pick(0, 40);
    }
    memory.assign(static_cast<size_t>(2 * kMargin + extent * bytes_of(dtype)), 0xA5);
  }
  int64_t size() const {
    int64_t n = 1;
    for (int64_t s : shape) n *= s;
    return n;
  }
  int64_t offset(int64_t index) const {
    int64_t at = 0;
    for (size_t d = shape.size(); d-- > 0;) {
      at += index % shape[d] * stride[d];
      index /= shape[d];
    }
    return at;
  }
  unsigned char* address(int64_t index) {
    return memory.data() + kMargin + offset(index) * bytes_of(dtype);
  }
  double get(int64_t index) {
    const unsigned char* p = address(index);
    if (dtype == GATUN_F32) {
      float x;
      std::memcpy(&x, p, 4);
      return x;
    }
    uint16_t bits;
    std::memcpy(&bits, p, 2);
    return dtype == GATUN_F16 ? cpu::to_float(cpu::f16{bits}) : cpu::to_float(cpu::bf16{bits});
  }
  void set(int64_t index, double value) {
    unsigned char* p = address(index);
    const float x = static_cast<float>(value);
    if (dtype == GATUN_I32) {
      const int32_t i = static_cast<int32_t>(value);
      std::memcpy(p, &i, 4);
    } else if (dtype == GATUN_F32) {
      std::memcpy(p, &x, 4);
    } else {
      const uint16_t bits = dtype == GATUN_F16 ? cpu::from_float<cpu::f16>(x).bits
                                               : cpu::from_float<cpu::bf16>(x).bits;
      std::memcpy(p, &bits, 2);
    }
  }
  void fill_normal(double size = 1) {
    for (int64_t i = 0; i < this->size(); ++i) set(i, rounded(dtype, size * normal()));
  }
  std::vector<double> values() {
    std::vector<double> all(static_cast<size_t>(size()));
    for (int64_t i = 0; i < size(); ++i) all[static_cast<size_t>(i)] = get(i);
    return all;
  }
  View view() {
    View v;
    v.data = memory.data() + kMargin;
    v.dtype = dtype;
    v.rank = static_cast<int32_t>(shape.size());
    for (size_t d = 0; d < shape.size(); ++d) {
      v.shape[d] = shape[d];
      v.stride[d] = stride[d];
    }
    return v;
  }
  // Whether all bytes that are no element still hold the canary.
  bool canaries() const {
    std::vector<bool> used(memory.size());
    for (int64_t i = 0; i < size(); ++i)
      for (int b = 0; b < bytes_of(dtype); ++b)
        used[static_cast<size_t>(kMargin + offset(i) * bytes_of(dtype) + b)] = true;
    for (size_t i = 0; i < memory.size(); ++i)
      if (!used[i] && memory[i] != 0xA5) return false;
    return true;
  }
};

double largest_of(const std::vector<double>& x) {
  double most = 0;
  for (double value : x)
    if (std::isfinite(value)) most = std::max(most, std::fabs(value));
  return most;
}

// had is within the tolerance of truth, given the plain computation of the same dtype and the size
// of the terms where they cancel.
void compare(const std::string& what, int32_t dtype, const std::vector<double>& truth,
             const std::vector<double>& plain, Tensor& had, double terms = 0) {
  double error = 0, largest = 0;
  for (size_t i = 0; i < truth.size(); ++i) {
    if (!std::isfinite(truth[i])) continue;
    largest = std::max(largest, std::fabs(truth[i]));
    error = std::max(error, std::fabs(rounded(dtype, plain[i]) - truth[i]));
  }
  const double tolerance = 4 * error + 2 * ulp(dtype, largest) + std::ldexp(terms, -22);
  ++checks;
  for (size_t i = 0; i < truth.size(); ++i) {
    const double x = had.get(static_cast<int64_t>(i));
    const bool same = std::isnan(truth[i])   ? std::isnan(x)
                      : std::isinf(truth[i]) ? x == truth[i]
                                             : std::fabs(x - truth[i]) <= tolerance;
    if (same) continue;
    report("%s [%zu]: wanted %.9g within %.3g, had %.9g", what.c_str(), i, truth[i], tolerance, x);
    break;
  }
  if (!had.canaries()) report("%s: wrote beyond its elements", what.c_str());
}

// ---- the references: one head, rows of plain loops in A; q comes with the scale in it ----

template <typename A>
std::vector<A> scaled(std::vector<A> x, double factor) {
  for (A& value : x) value *= static_cast<A>(factor);
  return x;
}

template <typename A>
struct Head {
  int64_t queries, keys, columns;
  std::vector<A> q, k, v;
  A scale;
  std::vector<int64_t> sees;  // keys that each query sees
  mutable double terms = 0;   // the largest sum of magnitudes behind an element of dq or dk

  // Scores of query i, -inf where unseen; their log-sum-exp.
  A lse(int64_t i, std::vector<A>& s) const {
    A most = -std::numeric_limits<A>::infinity();
    s.assign(static_cast<size_t>(keys), most);
    for (int64_t j = 0; j < sees[i]; ++j) {
      A dot = 0;
      for (int64_t d = 0; d < columns; ++d) dot += q[i * columns + d] * k[j * columns + d];
      s[j] = dot;
      most = std::max(most, s[j]);
    }
    if (sees[i] <= 0) return most;
    A mass = 0;
    for (int64_t j = 0; j < sees[i]; ++j) mass += std::exp(s[j] - most);
    return most + std::log(mass);
  }
  void forward(std::vector<A>& out, std::vector<A>& sums) const {
    out.assign(static_cast<size_t>(queries * columns), 0);
    sums.assign(static_cast<size_t>(queries), 0);
    std::vector<A> s;
    for (int64_t i = 0; i < queries; ++i) {
      sums[i] = lse(i, s);
      for (int64_t j = 0; j < sees[i]; ++j) {
        const A p = std::exp(s[j] - sums[i]);
        for (int64_t d = 0; d < columns; ++d) out[i * columns + d] += p * v[j * columns + d];
      }
    }
  }
  // dq is set; dk, dv are added to.
  void backward(const std::vector<A>& dout, const std::vector<A>& out, std::vector<A>& dq,
                std::vector<A>& dk, std::vector<A>& dv) const {
    dq.assign(static_cast<size_t>(queries * columns), 0);
    std::vector<A> s, dk_terms(dk.size());
    for (int64_t i = 0; i < queries; ++i) {
      const A sum = lse(i, s);
      A delta = 0;
      for (int64_t d = 0; d < columns; ++d) delta += dout[i * columns + d] * out[i * columns + d];
      std::vector<A> dq_terms(static_cast<size_t>(columns));
      for (int64_t j = 0; j < sees[i]; ++j) {
        const A p = std::exp(s[j] - sum);
        A dp = 0;
        for (int64_t d = 0; d < columns; ++d) {
          dp += dout[i * columns + d] * v[j * columns + d];
          dv[j * columns + d] += p * dout[i * columns + d];
        }
        const A ds = p * (dp - delta);
        for (int64_t d = 0; d < columns; ++d) {
          dq[i * columns + d] += ds * scale * k[j * columns + d];
          dk[j * columns + d] += ds * q[i * columns + d];
          const A size = p * (std::fabs(dp) + std::fabs(delta));
          dq_terms[d] += size * std::fabs(scale * k[j * columns + d]);
          dk_terms[j * columns + d] += size * std::fabs(q[i * columns + d]);
        }
      }
      for (A x : dq_terms) terms = std::max(terms, static_cast<double>(x));
    }
    for (A x : dk_terms) terms = std::max(terms, static_cast<double>(x));
  }
};

template <typename A>
std::vector<A> head_values(Tensor& t, int64_t b, int64_t h) {
  const int64_t n = t.shape[2] * t.shape[3];
  std::vector<A> all(static_cast<size_t>(n));
  for (int64_t i = 0; i < n; ++i)
    all[static_cast<size_t>(i)] = static_cast<A>(t.get((b * t.shape[1] + h) * n + i));
  return all;
}

struct Case {
  int64_t batches, kv_heads, group, queries, keys, columns;
  bool causal, with_lengths, ragged;
  int32_t dtype;
  float scale;
  int threads;
  std::vector<int64_t> lengths;
  std::vector<int64_t> q_starts = {}, k_starts = {};  // empty: not packed

  // What attends to itself: all of a row, or a packed sequence, and the rows behind them.
  struct Span {
    int64_t first_query, queries, first_key, keys;
    bool blind;
  };
  std::vector<Span> spans() const {
    if (q_starts.empty()) return {{0, queries, 0, keys, false}};
    std::vector<Span> all;
    for (size_t s = 0; s < q_starts.size(); ++s) {
      const bool last = s + 1 == q_starts.size();
      all.push_back({q_starts[s], (last ? queries : q_starts[s + 1]) - q_starts[s], k_starts[s],
                     (last ? keys : k_starts[s + 1]) - k_starts[s], last});
    }
    return all;
  }
  double factor() const { return scale != 0 ? scale : 1 / std::sqrt(static_cast<double>(columns)); }
  int64_t sees(int64_t b, const Span& span, int64_t i) const {
    int64_t n = std::clamp<int64_t>(with_lengths ? lengths[b] : span.keys, 0, span.keys);
    if (causal) n = std::min(n, i + span.keys - span.queries + 1);
    return span.blind ? 0 : std::max<int64_t>(n, 0);
  }
  std::string name() const {
    char text[256];
    std::snprintf(text, sizeof text,
                  "B=%lld Hkv=%lld group=%lld Tq=%lld Tk=%lld D=%lld%s%s%s %s scale=%g threads=%d",
                  static_cast<long long>(batches), static_cast<long long>(kv_heads),
                  static_cast<long long>(group), static_cast<long long>(queries),
                  static_cast<long long>(keys), static_cast<long long>(columns),
                  causal ? " causal" : "", with_lengths ? " lengths" : "", ragged ? " ragged" : "",
                  name_of(dtype), static_cast<double>(scale), threads);
    std::string all = text;
    for (size_t s = 0; s < q_starts.size(); ++s)
      all += (s == 0 ? " packed " : " ") + std::to_string(q_starts[s]) + "/" +
             std::to_string(k_starts[s]);
    return all;
  }
};

// So many sequences instead of a batch, and some rows behind them.
void pack(Case& c, int64_t sequences) {
  c.batches = 1;
  c.with_lengths = false;
  c.q_starts = c.k_starts = {0};
  for (int64_t s = 0; s < sequences; ++s) {
    const int64_t queries = pick(0, 3) == 0 ? 0 : pick(1, 90);
    c.q_starts.push_back(c.q_starts.back() + queries);
    c.k_starts.push_back(c.k_starts.back() + (flip() ? queries : pick(0, 110)));
  }
  c.queries = c.q_starts.back() + pick(0, 2) * pick(0, 40);
  c.keys = c.k_starts.back() + pick(0, 2) * pick(0, 40);
}

Case random_case() {
  Case c;
  constexpr int64_t kColumns[] = {1, 3, 8, 12, 16, 31, 32, 40, 64, 80, 128, 200};
  c.batches = pick(1, 3);
  c.kv_heads = pick(1, 3);
  c.group = pick(1, 3);
  const bool large = pick(0, 4) == 0;
  c.queries = pick(1, large ? 210 : 70);
  c.keys = flip() ? c.queries : pick(1, large ? 400 : 110);
  c.columns = kColumns[pick(0, 11)];
  if (large) c.batches = 1, c.columns = std::min<int64_t>(c.columns, 64);
  if (pick(0, 30) == 0) c.columns = pick(300, 512), c.queries = pick(1, 20), c.batches = 1;
  c.causal = flip();
  c.with_lengths = flip();
  c.ragged = flip();
  c.dtype = any_float();
  c.scale = flip() ? 0.f : static_cast<float>(0.05 + 0.3 * std::fabs(normal()));
  c.threads = static_cast<int>(pick(1, 3));
  for (int64_t b = 0; b < c.batches; ++b)
    c.lengths.push_back(pick(0, 3) == 0 ? pick(0, 1) * (c.keys + 5) : pick(0, c.keys));
  if (pick(0, 3) == 0) pack(c, pick(0, 5));
  return c;
}

template <typename A>
struct References {
  std::vector<A> out, lse, dq, dk, dv;
  double terms = 0;
};

template <typename A>
void append(std::vector<A>& to, const std::vector<A>& from) {
  to.insert(to.end(), from.begin(), from.end());
}

// Forward and backward of all heads, in A from the rounded inputs. `stored` is the output that the
// backward pass is given; null: the reference's own.
template <typename A>
References<A> reference(const Case& c, Tensor& q, Tensor& k, Tensor& v, Tensor& dout,
                        Tensor* stored) {
  References<A> all;
  const std::vector<Case::Span> spans = c.spans();
  const auto rows = [&](const std::vector<A>& x, int64_t first, int64_t count) {
    return std::vector<A>(x.begin() + first * c.columns, x.begin() + (first + count) * c.columns);
  };
  for (int64_t b = 0; b < c.batches; ++b)
    for (int64_t kv = 0; kv < c.kv_heads; ++kv) {
      std::vector<std::vector<A>> dk, dv;
      for (const Case::Span& span : spans) {
        dk.emplace_back(static_cast<size_t>(span.keys * c.columns));
        dv.emplace_back(dk.back().size());
      }
      const std::vector<A> keys = head_values<A>(k, b, kv), values = head_values<A>(v, b, kv);
      for (int64_t g = 0; g < c.group; ++g) {
        const int64_t h = kv * c.group + g;
        const std::vector<A> queries = scaled(head_values<A>(q, b, h), c.factor());
        const std::vector<A> douts = head_values<A>(dout, b, h);
        const std::vector<A> outs =
            stored == nullptr ? std::vector<A>() : head_values<A>(*stored, b, h);
        for (size_t s = 0; s < spans.size(); ++s) {
          const Case::Span& span = spans[s];
          Head<A> head{span.queries,
                       span.keys,
                       c.columns,
                       rows(queries, span.first_query, span.queries),
                       rows(keys, span.first_key, span.keys),
                       rows(values, span.first_key, span.keys),
                       static_cast<A>(c.factor()),
                       {},
                       0};
          for (int64_t i = 0; i < span.queries; ++i) head.sees.push_back(c.sees(b, span, i));
          std::vector<A> out, lse, dq;
          head.forward(out, lse);
          head.backward(rows(douts, span.first_query, span.queries),
                        stored == nullptr ? out : rows(outs, span.first_query, span.queries), dq,
                        dk[s], dv[s]);
          all.terms += head.terms;
          append(all.out, out);
          append(all.lse, lse);
          append(all.dq, dq);
        }
      }
      for (size_t s = 0; s < spans.size(); ++s) {
        append(all.dk, dk[s]);
        append(all.dv, dv[s]);
      }
    }
  return all;
}

std::vector<double> wide(const std::vector<float>& x) { return {x.begin(), x.end()}; }
std::vector<double> plus(std::vector<double> a, const std::vector<double>& b) {
  for (size_t i = 0; i < a.size(); ++i) a[i] += b[i];
  return a;
}

Tensor lengths_tensor(const std::vector<int64_t>& lengths) {
  Tensor t(GATUN_I32, {static_cast<int64_t>(lengths.size())});
  for (size_t i = 0; i < lengths.size(); ++i)
    t.set(static_cast<int64_t>(i), static_cast<double>(lengths[i]));
  return t;
}

void check_forward_backward(const Backend& backend, const Case& c) {
  const int64_t heads = c.kv_heads * c.group;
  const std::vector<int64_t> wide_shape{c.batches, heads, c.queries, c.columns};
  const std::vector<int64_t> kv_shape{c.batches, c.kv_heads, c.keys, c.columns};
  Tensor q(c.dtype, wide_shape, c.ragged), k(c.dtype, kv_shape, c.ragged),
      v(c.dtype, kv_shape, c.ragged), out(c.dtype, wide_shape, c.ragged),
      dout(c.dtype, wide_shape, c.ragged), dq(c.dtype, wide_shape, c.ragged),
      dk(c.dtype, kv_shape, c.ragged), dv(c.dtype, kv_shape, c.ragged);
  Tensor lse(GATUN_F32, {c.batches, heads, c.queries});
  Tensor lengths = lengths_tensor(c.lengths);
  q.fill_normal(pick(0, 3) == 0 ? 6 : 1);
  k.fill_normal();
  v.fill_normal();
  dout.fill_normal();
  dq.fill_normal();
  dk.fill_normal();
  dv.fill_normal();
  const std::vector<double> dq0 = dq.values(), dk0 = dk.values(), dv0 = dv.values();
  const View seen = c.with_lengths ? lengths.view() : View{};
  Tensor q_starts = lengths_tensor(c.q_starts), k_starts = lengths_tensor(c.k_starts);
  const bool packed = !c.q_starts.empty();
  const View from_q = packed ? q_starts.view() : View{}, from_k = packed ? k_starts.view() : View{};

  TestContext context(c.threads);
  const bool keeps_lse = pick(0, 7) != 0;
  backend.attention_forward(context, {out.view(), keeps_lse ? lse.view() : View{}, q.view(),
                                      k.view(), v.view(), seen, from_q, from_k, c.causal, c.scale});
  if (!keeps_lse)
    backend.attention_forward(context, {out.view(), lse.view(), q.view(), k.view(), v.view(), seen,
                                        from_q, from_k, c.causal, c.scale});
  const References<double> truth = reference<double>(c, q, k, v, dout, nullptr);
  const References<float> plain = reference<float>(c, q, k, v, dout, &out);
  compare("attention_forward out " + c.name(), c.dtype, truth.out, wide(plain.out), out);
  compare("attention_forward lse " + c.name(), GATUN_F32, truth.lse, wide(plain.lse), lse);

  const uint32_t accumulate = static_cast<uint32_t>(pick(0, 7));
  const int64_t wanted = pick(0, 3) == 0 ? pick(1, 7) : 7;
  const AttentionBackward backward{wanted & 1 ? dq.view() : View{},
                                   wanted & 2 ? dk.view() : View{},
                                   wanted & 4 ? dv.view() : View{},
                                   dout.view(),
                                   out.view(),
                                   lse.view(),
                                   q.view(),
                                   k.view(),
                                   v.view(),
                                   seen,
                                   from_q,
                                   from_k,
                                   c.causal,
                                   c.scale,
                                   flip(),  // dq_atomic, which the cpu has no use for
                                   accumulate};
  backend.attention_backward(context, backward);
  const auto gradient = [&](const char* what, int bit, Tensor& had, const std::vector<double>& old,
                            std::vector<double> want, std::vector<double> approximate) {
    if (!(wanted >> bit & 1)) {
      if (had.values() != old) report("%s %s: written though null", what, c.name().c_str());
      return;
    }
    if (adds(accumulate, bit)) {
      want = plus(want, old);
      approximate = plus(approximate, old);
    }
    compare(std::string("attention_backward ") + what + " " + c.name(), c.dtype, want, approximate,
            had, bit < 2 ? truth.terms : largest_of(truth.lse) * largest_of(truth.dv));
  };
  gradient("dq", 0, dq, dq0, truth.dq, wide(plain.dq));
  gradient("dk", 1, dk, dk0, truth.dk, wide(plain.dk));
  gradient("dv", 2, dv, dv0, truth.dv, wide(plain.dv));

  // The same call again gives the same bits.
  if (accumulate == 0) {
    const auto before = std::vector{dq.memory, dk.memory, dv.memory, out.memory};
    backend.attention_forward(context, {out.view(), lse.view(), q.view(), k.view(), v.view(), seen,
                                        from_q, from_k, c.causal, c.scale});
    backend.attention_backward(context, backward);
    if (before != std::vector{dq.memory, dk.memory, dv.memory, out.memory})
      report("%s: a second run gave other bits", c.name().c_str());
  }
  if (context.status != GATUN_OK) report("%s: %s", c.name().c_str(), context.sentence.c_str());
}

// NaN and infinities stay where they belong: in the rows that see them.
void check_special_values(const Backend& backend) {
  Case c = random_case();
  c.dtype = GATUN_F32;
  c.causal = true;
  c.with_lengths = false;
  c.batches = c.kv_heads = c.group = 1;
  c.queries = c.keys = pick(20, 150);
  Tensor q(c.dtype, {1, 1, c.queries, c.columns}), k(c.dtype, {1, 1, c.keys, c.columns}),
      v(c.dtype, {1, 1, c.keys, c.columns}), out(c.dtype, {1, 1, c.queries, c.columns});
  Tensor lse(GATUN_F32, {1, 1, c.queries});
  q.fill_normal();
  k.fill_normal();
  v.fill_normal();
  const int64_t sick_query = pick(0, c.queries - 1), sick_key = pick(1, c.keys - 1);
  q.set(sick_query * c.columns, NAN);
  k.set(sick_key * c.columns, flip() ? NAN : INFINITY);
  TestContext context(2);
  backend.attention_forward(context, {out.view(), lse.view(), q.view(), k.view(), v.view(), View{},
                                      View{}, View{}, true, 0.f});
  ++checks;
  for (int64_t i = 0; i < c.queries; ++i)
    for (int64_t d = 0; d < c.columns; ++d) {
      const double x = out.get(i * c.columns + d);
      if (i == sick_query && !std::isnan(x)) report("NaN in query %lld was lost", (long long)i);
      if (i != sick_query && i < sick_key && !std::isfinite(x))
        report("query %lld does not see key %lld but became %g", (long long)i, (long long)sick_key,
               x);
    }
  if (std::isnan(k.get(sick_key * c.columns)))
    for (int64_t i = sick_key; i < c.queries; ++i)
      if (!std::isnan(out.get(i * c.columns)))
        report("NaN in key %lld was lost", (long long)sick_key);

  // Scores of -infinity weigh nothing; huge finite scores do not overflow.
  q.fill_normal();
  k.fill_normal();
  for (int64_t i = 0; i < c.queries; ++i) q.set(i * c.columns, 1);
  for (int64_t j = 1; j < c.keys; ++j) k.set(j * c.columns, j % 2 ? -INFINITY : 3e4);
  backend.attention_forward(context, {out.view(), lse.view(), q.view(), k.view(), v.view(), View{},
                                      View{}, View{}, true, 1.f});
  ++checks;
  for (int64_t i = 0; i < out.size(); ++i)
    if (!std::isfinite(out.get(i))) {
      report("a score of -infinity or 3e4 gave %g", out.get(i));
      break;
    }
}

// Starts that do not ascend from 0 to the rows at most are put right, and the first is reported.
void check_wrong_starts(const Backend& backend) {
  struct Wrong {
    std::vector<int64_t> q, k, right_q, right_k;
    const char* sentence;
  };
  for (const Wrong& wrong :
       {Wrong{{0, 20, 10, 50},
              {0, 9, 10, 60},
              {0, 20, 20, 50},
              {0, 9, 10, 60},
              "attention: q_starts[2] is 10, wanted 20 to 50: starts ascend from 0 and end within "
              "the rows"},
        Wrong{{3, 20, 30, 51},
              {0, 9, 10, 60},
              {0, 20, 30, 50},
              {0, 9, 10, 60},
              "attention: q_starts[0] is 3, wanted 0 to 0: starts ascend from 0 and end within the "
              "rows"},
        Wrong{{0, 20, 30, 40},
              {0, 70, -5, 60},
              {0, 20, 30, 40},
              {0, 60, 60, 60},
              "attention: k_starts[1] is 70, wanted 0 to 60: starts ascend from 0 and end within "
              "the rows"}}) {
    Tensor q(GATUN_F32, {1, 2, 50, 16}), k(GATUN_F32, {1, 2, 60, 16});
    q.fill_normal();
    k.fill_normal();
    Tensor q_starts = lengths_tensor(wrong.q), k_starts = lengths_tensor(wrong.k);
    Tensor right_q = lengths_tensor(wrong.right_q), right_k = lengths_tensor(wrong.right_k);
    const auto all = [&](const View& from_q, const View& from_k, TestContext& context) {
      Tensor out = q, lse(GATUN_F32, {1, 2, 50}), dq = q, dk = k, dv = k;
      backend.attention_forward(context, {out.view(), lse.view(), q.view(), k.view(), k.view(),
                                          View{}, from_q, from_k, true, 0.f});
      backend.attention_backward(
          context, {dq.view(), dk.view(), dv.view(), q.view(), out.view(), lse.view(), q.view(),
                    k.view(), k.view(), View{}, from_q, from_k, true, 0.f, false, 0});
      return std::vector{out.memory, lse.memory, dq.memory, dk.memory, dv.memory};
    };
    TestContext bad(2), good(2);
    ++checks;
    if (all(q_starts.view(), k_starts.view(), bad) != all(right_q.view(), right_k.view(), good))
      report("wrong starts: other results than those put right");
    if (bad.sentence != wrong.sentence) report("wrong starts: %s", bad.sentence.c_str());
    if (good.status != GATUN_OK) report("right starts: %s", good.sentence.c_str());
  }
}

void check_empty(const Backend& backend) {
  TestContext context(2);
  Tensor q(GATUN_F32, {2, 2, 0, 8}), k(GATUN_F32, {2, 2, 5, 8}), out(GATUN_F32, {2, 2, 0, 8});
  Tensor lse(GATUN_F32, {2, 2, 0}), dk(GATUN_F32, {2, 2, 5, 8}), dv(GATUN_F32, {2, 2, 5, 8});
  k.fill_normal();
  dk.fill_normal();
  dv.fill_normal();
  backend.attention_forward(context, {out.view(), lse.view(), q.view(), k.view(), k.view(), View{},
                                      View{}, View{}, false, 0.f});
  backend.attention_backward(
      context, {View{}, dk.view(), dv.view(), out.view(), out.view(), lse.view(), q.view(),
                k.view(), k.view(), View{}, View{}, View{}, false, 0.f, false, 0});
  ++checks;
  for (int64_t i = 0; i < dk.size(); ++i)
    if (dk.get(i) != 0 || dv.get(i) != 0) {
      report("no queries: dk, dv must be 0");
      break;
    }
  Tensor q2(GATUN_F32, {1, 2, 3, 8}), none(GATUN_F32, {1, 1, 0, 8}), out2(GATUN_F32, {1, 2, 3, 8});
  Tensor lse2(GATUN_F32, {1, 2, 3}), dq2(GATUN_F32, {1, 2, 3, 8});
  q2.fill_normal();
  out2.fill_normal();
  dq2.fill_normal();
  backend.attention_forward(context, {out2.view(), lse2.view(), q2.view(), none.view(), none.view(),
                                      View{}, View{}, View{}, true, 0.f});
  backend.attention_backward(
      context, {dq2.view(), none.view(), none.view(), out2.view(), out2.view(), lse2.view(),
                q2.view(), none.view(), none.view(), View{}, View{}, View{}, true, 0.f, false, 0});
  ++checks;
  for (int64_t i = 0; i < out2.size(); ++i)
    if (out2.get(i) != 0 || dq2.get(i) != 0) {
      report("no keys: out, dq must be 0");
      break;
    }
  for (int64_t i = 0; i < lse2.size(); ++i)
    if (lse2.get(i) != -INFINITY) report("no keys: lse must be -infinity");
}

// ---- the paged cache ----

void check_paged(const Backend& backend) {
  const int64_t batches = pick(1, 3), kv_heads = pick(1, 3), group = pick(1, 4);
  const int64_t columns = flip() ? pick(1, 70) : 16 * pick(1, 8);
  const int64_t slots = flip() ? pick(1, 20) : pick(64, 300);
  const int64_t old = pick(0, 2) == 0 ? 0 : pick(0, pick(0, 9) == 0 ? 1500 : 300);
  const int64_t tokens = flip() ? 1 : pick(1, pick(1, 90));
  const bool table = flip() || slots < old + tokens;
  const int64_t row_pages = (old + tokens + slots - 1) / slots + pick(0, 1);
  const int64_t pages = table ? batches * row_pages + pick(0, 3) : batches + pick(0, 2);
  const int32_t stored = any_float(), given = flip() ? stored : any_float();
  char text[256];
  std::snprintf(text, sizeof text,
                "B=%lld Hkv=%lld group=%lld D=%lld slots=%lld old=%lld Tq=%lld%s pages %s, q %s",
                (long long)batches, (long long)kv_heads, (long long)group, (long long)columns,
                (long long)slots, (long long)old, (long long)tokens, table ? " table" : "",
                name_of(stored), name_of(given));
  const std::string what = text;

  const bool ragged = flip();
  Tensor k_pages(stored, {pages, kv_heads, slots, columns}, ragged),
      v_pages(stored, {pages, kv_heads, slots, columns}, ragged);
  // What no token wrote is NaN: reading it shows.
  for (int64_t i = 0; i < k_pages.size(); ++i) {
    k_pages.set(i, NAN);
    v_pages.set(i, NAN);
  }
  Tensor page_table(GATUN_I32, {batches, row_pages});
  std::vector<int64_t> shuffled(static_cast<size_t>(pages));
  for (int64_t p = 0; p < pages; ++p) shuffled[static_cast<size_t>(p)] = p;
  std::shuffle(shuffled.begin(), shuffled.end(), generator);
  const auto page_of = [&](int64_t b, int64_t slot) {
    return table ? shuffled[static_cast<size_t>(b * row_pages + slot / slots)] : b;
  };
  if (table)
    for (int64_t i = 0; i < batches * row_pages; ++i)
      page_table.set(i, static_cast<double>(shuffled[static_cast<size_t>(i)]));
  std::vector<int64_t> lengths;
  for (int64_t b = 0; b < batches; ++b) lengths.push_back(b == 0 ? old : pick(0, old));
  Tensor length = lengths_tensor(lengths);
  Tensor none = lengths_tensor(std::vector<int64_t>(static_cast<size_t>(batches), 0));

  // All keys of each row, the old and the new, are appended: the old from 0 on.
  Tensor k_old(given, {batches, kv_heads, old, columns}, ragged),
      v_old(given, {batches, kv_heads, old, columns}, ragged),
      k(given, {batches, kv_heads, tokens, columns}, ragged),
      v(given, {batches, kv_heads, tokens, columns}, ragged);
  for (Tensor* t : {&k_old, &v_old, &k, &v}) t->fill_normal();
  TestContext context(static_cast<int>(pick(1, 3)));
  const View table_view = table ? page_table.view() : View{};
  backend.kv_append(context, {k_pages.view(), v_pages.view(), k_old.view(), v_old.view(),
                              table_view, none.view()});
  backend.kv_append(
      context, {k_pages.view(), v_pages.view(), k.view(), v.view(), table_view, length.view()});
  if (context.status != GATUN_OK) report("%s: %s", what.c_str(), context.sentence.c_str());
  if (!k_pages.canaries() || !v_pages.canaries())
    report("kv_append %s: wrote beyond its pages", what.c_str());
  ++checks;
  bool appended = true;
  const auto cached = [&](Tensor& pages_of, int64_t b, int64_t h, int64_t slot, int64_t d) {
    return pages_of.get(((page_of(b, slot) * kv_heads + h) * slots + slot % slots) * columns + d);
  };
  for (int64_t b = 0; b < batches; ++b)
    for (int64_t h = 0; h < kv_heads; ++h)
      for (int64_t t = 0; t < tokens; ++t)
        for (int64_t d = 0; d < columns; ++d) {
          const int64_t at = ((b * kv_heads + h) * tokens + t) * columns + d;
          const int64_t slot = lengths[static_cast<size_t>(b)] + t;
          appended = appended && cached(k_pages, b, h, slot, d) == rounded(stored, k.get(at)) &&
                     cached(v_pages, b, h, slot, d) == rounded(stored, v.get(at));
        }
  if (!appended) report("kv_append %s: a slot does not hold its row", what.c_str());

  Tensor q(given, {batches, kv_heads * group, tokens, columns}, ragged),
      out(given, {batches, kv_heads * group, tokens, columns}, ragged);
  q.fill_normal();
  const float scale = flip() ? 0.f : 0.3f;
  backend.attention_decode(context, {out.view(), q.view(), k_pages.view(), v_pages.view(),
                                     table_view, length.view(), scale});
  std::vector<double> truth, plain;
  for (int64_t b = 0; b < batches; ++b)
    for (int64_t h = 0; h < kv_heads * group; ++h) {
      const int64_t keys = lengths[static_cast<size_t>(b)] + tokens;
      const double factor =
          scale != 0 ? static_cast<double>(scale) : 1 / std::sqrt(static_cast<double>(columns));
      Head<double> head{tokens, keys, columns, scaled(head_values<double>(q, b, h), factor), {}, {},
                        factor, {},   0};
      for (int64_t j = 0; j < keys; ++j)
        for (int64_t d = 0; d < columns; ++d) {
          head.k.push_back(cached(k_pages, b, h / group, j, d));
          head.v.push_back(cached(v_pages, b, h / group, j, d));
        }
      for (int64_t i = 0; i < tokens; ++i) head.sees.push_back(keys - tokens + i + 1);
      Head<float> narrow{tokens,
                         keys,
                         columns,
                         scaled(head_values<float>(q, b, h), factor),
                         {head.k.begin(), head.k.end()},
                         {head.v.begin(), head.v.end()},
                         static_cast<float>(head.scale),
                         head.sees,
                         0};
      std::vector<double> one, sums;
      head.forward(one, sums);
      append(truth, one);
      std::vector<float> two, sums2;
      narrow.forward(two, sums2);
      append(plain, wide(two));
    }
  compare("attention_decode " + what, given, truth, plain, out);
  if (context.status != GATUN_OK) report("%s: %s", what.c_str(), context.sentence.c_str());

  // A slot beyond the pages, a page that does not exist: reported, dropped, nothing else touched.
  const auto pages_before = std::vector{k_pages.memory, v_pages.memory};
  TestContext broken(3);
  std::vector<int64_t> beyond(static_cast<size_t>(batches),
                              flip() ? -tokens - 3 : (table ? row_pages : 1) * slots);
  Tensor far = lengths_tensor(beyond);
  backend.kv_append(broken,
                    {k_pages.view(), v_pages.view(), k.view(), v.view(), table_view, far.view()});
  ++checks;
  if (broken.status != GATUN_OUT_OF_RANGE) report("kv_append %s: no fault beyond", what.c_str());
  if (pages_before != std::vector{k_pages.memory, v_pages.memory})
    report("kv_append %s: a slot beyond the pages was written", what.c_str());
  broken.status = GATUN_OK;
  backend.attention_decode(
      broken, {out.view(), q.view(), k_pages.view(), v_pages.view(), table_view, far.view(), 0.f});
  if (broken.status != GATUN_OUT_OF_RANGE)
    report("attention_decode %s: no fault beyond", what.c_str());
  if (!table) return;
  for (int64_t i = 0; i < page_table.size(); ++i)
    page_table.set(i, flip() ? -1 : static_cast<double>(pages + pick(0, 1000000)));
  broken.status = GATUN_OK;
  backend.kv_append(
      broken, {k_pages.view(), v_pages.view(), k.view(), v.view(), table_view, length.view()});
  if (broken.status != GATUN_OUT_OF_RANGE ||
      pages_before != std::vector{k_pages.memory, v_pages.memory})
    report("kv_append %s: wrong pages must be dropped and reported", what.c_str());
  broken.status = GATUN_OK;
  backend.attention_decode(broken, {out.view(), q.view(), k_pages.view(), v_pages.view(),
                                    table_view, length.view(), 0.f});
  if (broken.status != GATUN_OUT_OF_RANGE || !out.canaries())
    report("attention_decode %s: wrong pages must be reported", what.c_str());
}

void check_level(const Backend& backend, const char* name) {
  level_name = name;
  generator.seed(seed);
  const int failed = failures;
  const int64_t before = checks;
  check_empty(backend);
  for (int i = 0; i < 150 && failures < 20; ++i) check_forward_backward(backend, random_case());
  for (int i = 0; i < 6 && failures < 20; ++i) {  // one head, several threads: spans of keys
    Case c = random_case();
    c.batches = c.kv_heads = 1;
    c.columns = std::min<int64_t>(c.columns, 40);
    c.keys = pick(390, 900);
    c.lengths = {pick(0, c.keys)};
    c.threads = static_cast<int>(pick(2, 5));
    c.q_starts = c.k_starts = {};
    if (i % 3 == 0) {  // one of them is long
      c.with_lengths = false;
      c.queries += 20;
      c.q_starts = {0, 10, 10, c.queries - 5};
      c.k_starts = {0, 3, 7, c.keys - 2};
    }
    check_forward_backward(backend, c);
  }
  check_wrong_starts(backend);
  for (int i = 0; i < 20 && failures < 20; ++i) check_special_values(backend);
  for (int i = 0; i < 150 && failures < 20; ++i) check_paged(backend);
  std::printf("%s: %lld checks, %d failures\n", name, static_cast<long long>(checks - before),
              failures - failed);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc > 1) seed = std::strtoull(argv[1], nullptr, 10);
  std::printf("seed %llu\n", static_cast<unsigned long long>(seed));
  check_level(gatun_backend_plain, "plain");
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
    check_level(gatun_backend_avx2, "avx2");
  else
    std::printf("skipped avx2: this processor has none\n");
  if (__builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw"))
    check_level(gatun_backend_avx512, "avx512");
  else
    std::printf("skipped avx512: this processor has none\n");
  return failures == 0 ? 0 : 1;
}
