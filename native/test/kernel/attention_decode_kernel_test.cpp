// Runs kernels/attention_decode.cu on the host (native/src/sim) against float64: a sample of
// dtypes, head sizes, groups, pages, lengths and splits of the keys. Usage:
// attention_decode_kernel_test [seed [first]] (first: end at the first failure)
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "../../../kernels/attention_decode.cu"
#include "far_rows.h"
#include "heads.h"
#include "repeat.h"

namespace {

using namespace gatun::kernels;

struct Case {
  ElementType type, pages_type;
  int batch, heads, group, queries, columns, slots, row_pages;
  bool table;
  std::vector<int32_t> held;  // before the append
  Layout layout;
  double scale;
  int sm_count;
  int kv_heads() const { return heads / group; }
  int64_t pages_size() const { return static_cast<int64_t>(size_of(pages_type)); }
  int capacity() const { return row_pages * slots; }
  std::string text() const {
    char line[200];
    std::snprintf(line, sizeof line,
                  "%s, pages of %s, b%d h%d/%d q%d d%d, %d pages of %d%s, layout %d scale %.3g, %d "
                  "multiprocessors, held",
                  name_of(type), name_of(pages_type), batch, heads, group, queries, columns,
                  row_pages, slots, table ? "" : " without a table", static_cast<int>(layout),
                  scale, sm_count);
    std::string all = line;
    for (int32_t h : held) all += " " + std::to_string(h);
    return all;
  }
};

// A cache, the last tokens of each row, and what float64 makes of them.
struct Problem {
  const Case& c;
  const int page_count;  // one more than the rows have
  Heads q, out, k, v, k_pages, v_pages;
  Device<int32_t> table, lengths;
  Device<uint32_t> taken;
  Device<FaultRecord> record;
  Device<float> partials;

  explicit Problem(const Case& c)
      : c(c),
        page_count(c.batch * (c.table ? c.row_pages : 1) + 1),
        q(c.type, c.batch, c.heads, c.queries, c.columns, c.layout),
        out(q),
        k(c.type, c.batch, c.kv_heads(), c.queries, c.columns, c.layout),
        v(k),
        k_pages(c.pages_type, page_count, c.kv_heads(), c.slots, c.columns, c.layout),
        v_pages(k_pages),
        table(static_cast<size_t>(c.batch * c.row_pages)),
        lengths(c.held.begin(), c.held.end()),
        taken(1, 0),
        record(1, FaultRecord{}) {
    q.random(1);
    k.random(1);
    v.random(1);
    std::vector<int32_t> order(static_cast<size_t>(page_count));
    for (int i = 0; i < page_count; ++i) order[static_cast<size_t>(i)] = i;
    std::shuffle(order.begin(), order.end(), generator);
    std::copy_n(order.begin(), table.size() * c.table, table.begin());
    // slots that nobody has written are NaN
    for (Heads* cache : {&k_pages, &v_pages})
      cache->each([&](int64_t b, int64_t h, int64_t r, int64_t e) { cache->set(b, h, r, e, NAN); });
    std::normal_distribution<double> normal(0, 1);
    each_held([&](int64_t b, int64_t h, int64_t s, int64_t e) {
      set(k_pages, b, h, s, e, normal(generator));
      set(v_pages, b, h, s, e, normal(generator));
    });
  }
  template <typename F>
  void each_held(F f) const {
    for (int64_t b = 0; b < c.batch; ++b)
      for (int64_t s = 0; s < c.held[static_cast<size_t>(b)]; ++s)
        for (int64_t h = 0; h < c.kv_heads(); ++h)
          for (int64_t e = 0; e < c.columns; ++e) f(b, h, s, e);
  }
  int64_t page_of(int64_t b, int64_t slot) const {
    return c.table ? table[static_cast<size_t>(b * c.row_pages + slot / c.slots)] : b;
  }
  double get(const Heads& cache, int64_t b, int64_t h, int64_t slot, int64_t e) const {
    return cache.get(page_of(b, slot), h, slot % c.slots, e);
  }
  void set(Heads& cache, int64_t b, int64_t h, int64_t slot, int64_t e, double value) const {
    cache.set(page_of(b, slot), h, slot % c.slots, e, value);
  }
  FaultSink sink() { return {taken.data(), record.data()}; }
  Pages pages() const {
    return {c.table ? table.data() : nullptr, c.row_pages, page_count, c.slots, c.capacity()};
  }
  KvAppend append() {
    return {k_pages.view(), v_pages.view(), k.view(),  v.view(),  pages(), lengths.data(),
            c.batch,        c.kv_heads(),   c.queries, c.columns, sink()};
  }
  // With scratch, and a guard behind it.
  AttentionDecode decode() {
    AttentionDecode p = {out.view(),     q.view(),  k_pages.view(),
                         v_pages.view(), pages(),   lengths.data(),
                         c.batch,        c.heads,   c.group,
                         c.queries,      c.columns, static_cast<float>(c.scale),
                         sink(),         nullptr,   0};
    const size_t scratch =
        attention_decode_scratch_bytes(c.type, c.pages_type, p, c.sm_count) / sizeof(float);
    partials.assign(scratch + 4, NAN);
    partials[scratch] = 12345.f;
    p.partials = partials.data();
    return p;
  }

  bool run_append() {
    return ran(c, "kv_append", kv_append(nullptr, c.pages_type, c.type, append()));
  }
  bool run_decode() {
    const auto before = out.outside();
    if (!ran(c, "decode", attention_decode(nullptr, c.type, c.pages_type, decode(), c.sm_count)))
      return false;
    unchanged(c, "decode", out, before);
    expect(c, "the guard behind the scratch", static_cast<int64_t>(partials[partials.size() - 4]),
           12345);
    return true;
  }
  // Appends, and compares all bytes of the pages with those that there should be.
  bool append_and_compare() {
    Heads k_wanted = k_pages, v_wanted = v_pages;
    for (int64_t b = 0; b < c.batch; ++b)
      for (int64_t t = 0; t < c.queries; ++t)
        for (int64_t h = 0; h < c.kv_heads(); ++h)
          for (int64_t e = 0; e < c.columns; ++e) {
            const int64_t slot = c.held[static_cast<size_t>(b)] + t;
            set(k_wanted, b, h, slot, e, k.get(b, h, t, e));
            set(v_wanted, b, h, slot, e, v.get(b, h, t, e));
          }
    if (!run_append()) return false;
    expect(c, "kv_append: caches with other bytes than wanted",
           (k_pages.all() != k_wanted.all()) + (v_pages.all() != v_wanted.all()), 0);
    return true;
  }
  void compare() const {
    checks += 2;
    if (record[0].kind != FaultKind::kNone) fail(c, "a fault was reported");
    bool reported = false;
    // with 16-bit pages of the type of q, weights are rounded to it
    const double eps = c.type == c.pages_type ? precision_of(c.type) : 0x1p-20;
    const auto width = static_cast<size_t>(c.columns);
    std::vector<double> weights, keys, values, wanted, terms;
    for (int64_t b = 0; b < c.batch; ++b)
      for (int64_t h = 0; h < c.heads; ++h) {
        const int64_t all = c.held[static_cast<size_t>(b)] + c.queries;
        if (h % c.group == 0) {
          keys.clear();
          values.clear();
          for (int64_t s = 0; s < all; ++s)
            for (int64_t e = 0; e < c.columns; ++e) {
              keys.push_back(get(k_pages, b, h / c.group, s, e));
              values.push_back(get(v_pages, b, h / c.group, s, e));
            }
        }
        const auto queries = q.head(b, h);
        for (int64_t i = 0; i < c.queries; ++i) {
          const double* const query = queries.data() + static_cast<size_t>(i) * width;
          weights.assign(static_cast<size_t>(all - c.queries + i + 1), 0);
          double peak = -INFINITY, mass = 0, size = 0;
          for (size_t s = 0; s < weights.size(); ++s) {
            double magnitude = 0;
            for (size_t e = 0; e < width; ++e) {
              const double term = query[e] * c.scale * keys[s * width + e];
              weights[s] += term;
              magnitude += std::fabs(term);
            }
            peak = std::max(peak, weights[s]);
            size = std::max(size, magnitude);
          }
          for (double& w : weights) mass += w = std::exp(w - peak);
          wanted.assign(width, 0);
          terms.assign(width, 0);
          for (size_t s = 0; s < weights.size(); ++s)
            for (size_t e = 0; e < width; ++e) {
              const double term = weights[s] / mass * values[s * width + e];
              wanted[e] += term;
              terms[e] += std::fabs(term);
            }
          for (size_t e = 0; e < width; ++e) {
            const auto column = static_cast<int64_t>(e);
            check(c, "decode", b, h, i, column, out.get(b, h, i, column), wanted[e],
                  terms[e] * (eps + 0x1p-20 * (size + 4)) +
                      precision_of(c.type) * std::fabs(wanted[e]) + 1e-7,
                  reported);
          }
        }
      }
  }
};

// Appends the last tokens of each row to a cache that holds the others, then attends to it.
void run(const Case& c) {
  Problem problem(c);
  if (problem.append_and_compare() && problem.run_decode()) problem.compare();
}

Case some_case(ElementType type) {
  Case c;
  c.type = type;
  c.pages_type = generator() % 3 ? type : static_cast<ElementType>(generator() % 3);
  c.batch = pick({1, 2, 3});
  c.group = pick({1, 1, 2, 4, 8});
  c.heads = c.group * pick({1, 2});
  c.queries = pick({1, 1, 1, 2, 3, 8, 20});
  c.columns = pick({13, 32, 40, 64, 80, 128, 128, 256});
  c.table = generator() % 4;
  c.slots = c.table ? pick({1, 3, 16, 64, 100}) : pick({64, 130, 600});
  c.row_pages = c.table ? pick({400, 700}) / c.slots + 1 : 1;
  for (int b = 0; b < c.batch; ++b)
    c.held.push_back(std::min(pick({0, 1, 30, 63, 64, 65, 300, 1000}), c.capacity() - c.queries));
  c.layout = static_cast<Layout>(generator() % 3);
  c.scale = some_scale(c.columns);
  c.sm_count = pick({1, 4, 132});
  return c;
}

// A page or slot out of range is dropped and reported, with the values of the sentence.
void faults() {
  const auto type = ElementType::kBf16;
  for (int kind = 0; kind < 4; ++kind) {
    // there are three pages; or the last slot is one too far
    const Case c = {
        type, type, 1, 1, 1, 3, 64, 4, 2, true, {kind % 2 == 0 ? 2 : 5}, Layout::kContiguous, 1, 1};
    Problem problem(c);
    problem.k_pages.random(1);
    problem.v_pages.random(1);
    problem.table[0] = 2;
    problem.table[1] = kind % 2 == 0 ? 3 : 1;
    if (kind % 2 != 0) problem.lengths[0] = 6;
    const auto pages_before = problem.k_pages.outside();
    if (kind < 2) {
      problem.run_append();
      unchanged(c, "kv_append", problem.k_pages, pages_before);
    } else {
      problem.run_decode();
    }
    const FaultKind wanted[] = {FaultKind::kAppendPage, FaultKind::kAppendSlot,
                                FaultKind::kDecodePage, FaultKind::kDecodeSlot};
    const int64_t values[4][4] = {{3, 4, 0, 3}, {8, 0, 8, 0}, {3, 4, 0, 3}, {8, 0, 8, 0}};
    const FaultRecord& had = problem.record[0];
    ++checks;
    if (had.kind != wanted[kind] || !std::equal(values[kind], values[kind] + 4, had.value))
      fail(c, "fault " + std::to_string(kind) + ": had kind " +
                  std::to_string(static_cast<int>(had.kind)) + " with " +
                  std::to_string(had.value[0]) + ", " + std::to_string(had.value[1]));
  }
}

// ---- parts of the keys ----

// Scores of which each sixteen keys have others, hundreds of powers of 2 apart, the parts of the
// keys as well: whatever joins them must scale by the largest of all. The heads of a group look
// opposite ways.
void far_peaks(ElementType type, ElementType pages_type) {
  const Case c = {type,  pages_type,          1,     2,  2, 1, 64, 16, 40, true,
                  {600}, Layout::kContiguous, 0.125, 132};
  Problem problem(c);
  problem.q.each([&](int64_t b, int64_t h, int64_t i, int64_t e) {
    if (h == 1) problem.q.set(b, 1, i, e, -problem.q.get(b, 0, i, e));
  });
  std::uniform_real_distribution<double> of_tile(-30, 30), of_warp(-15, 15);
  double tile = 0, warp = 0;
  problem.each_held([&](int64_t b, int64_t h, int64_t s, int64_t e) {
    if (e == 0 && s % 64 == 0) tile = of_tile(generator);
    if (e == 0 && s % 16 == 0) warp = of_warp(generator);
    problem.set(
        problem.k_pages, b, h, s, e,
        problem.get(problem.k_pages, b, h, s, e) + (tile + warp) * problem.q.get(b, 0, 0, e));
  });
  if (problem.append_and_compare() && problem.run_decode()) problem.compare();
}

// ---- counters against ideals ----

// Each key and value that a block's rows see is read once for all of them, q by each part of the
// keys, results and parts once; whole sectors, no bank twice, and the products of padded tiles.
void traffic(const Case& c) {
  Problem problem(c);
  simt::count_memory(true);
  simt::reset_counters();
  const bool fine = problem.run_append() && problem.run_decode();
  simt::count_memory(false);
  if (!fine) return;
  problem.compare();
  const bool tensor_cores = c.type == c.pages_type && c.type != ElementType::kF32;
  const simt::Counters append = counters_of("kv_append");
  const simt::Counters decode =
      counters_of(tensor_cores ? "attention_decode" : "attention_decode_f32");
  const simt::Counters join = counters_of("attention_decode_join");

  constexpr int64_t kTile = 64;
  const auto tiles_of = [](int64_t keys) { return (keys + kTile - 1) / kTile; };
  const int64_t group_rows = c.group * c.queries, each = tensor_cores && group_rows > 16 ? 64 : 16;
  const int64_t row_blocks = (group_rows + each - 1) / each;
  const int64_t whole = c.batch * c.kv_heads() * row_blocks;  // blocks, were nothing split
  // two blocks a multiprocessor, each with two tiles at least; four tiles stay together
  const int64_t most = tiles_of(c.capacity());
  const int64_t splits =
      most <= 4 ? 1 : std::min({(2 * c.sm_count + whole - 1) / whole, most / 2, int64_t{128}});
  const int64_t width = attention_width(c.columns);
  const int64_t size = static_cast<int64_t>(size_of(c.type)), row = c.columns * size;
  const int64_t page_row = c.columns * c.pages_size();
  int64_t keys = 0, tiles = 0;  // that the blocks of one head of keys see, over the batch
  for (int32_t held : c.held)
    for (int64_t first = 0; first < group_rows; first += each) {
      int64_t seen = 0;
      for (int64_t r = first; r < std::min(first + each, group_rows); ++r)
        seen = std::max(seen, held + r % c.queries + 1);
      tiles += tiles_of(seen);
      keys += std::min(tiles_of(seen) * kTile, int64_t{held} + c.queries);
    }
  const int64_t rows = int64_t{c.batch} * c.heads * c.queries;

  expect(c, "blocks of decode", decode.blocks, whole * splits);
  expect(c, "mma of decode", decode.mma,
         tensor_cores ? c.kv_heads() * tiles * 2 * (each * kTile * width) / (16 * 8 * 16) : 0);
  // f32 reads q, and pages of 16 bits, by loads
  expect(
      c, "bytes copied by decode", decode.copy_load.bytes,
      (tensor_cores || c.pages_type == ElementType::kF32 ? c.kv_heads() * 2 * keys * page_row : 0) +
          (tensor_cores ? splits * rows * row : 0));
  whole_sectors(c, "sectors copied by decode", decode.copy_load);
  no_conflicts(c, decode);
  expect(c, "launches of the join", join.launches, splits > 1);
  if (splits > 1) {
    // sums, peak and mass; those of a row may take a sector of their own
    const int64_t sums = splits * rows * c.columns * 4, statistics = splits * rows * 8;
    expect(c, "bytes stored by decode", decode.store.bytes, sums + statistics);
    expect(c, "sectors stored by decode, but for the statistics",
           std::max(decode.store.sectors, sums / 32 + splits * rows), sums / 32 + splits * rows);
    expect(c, "bytes loaded by the join", join.load.bytes,
           splits * rows * (c.columns * 4 + c.columns / 4 * 2 * 8));
    expect(c, "bytes stored by the join", join.store.bytes, rows * row);
    whole_sectors(c, "sectors stored by the join", join.store);
  } else {
    expect(c, "bytes stored by decode", decode.store.bytes, rows * row);
    whole_sectors(c, "sectors stored by decode", decode.store);
  }
  int64_t bytes = 0, sectors = 0;
  for (const simt::Counters* all : {&decode, &join})
    for (const auto* global : {&all->load, &all->store, &all->copy_load}) {
      bytes += global->bytes;
      sectors += global->sectors;
    }
  expect(c, "tenths of the sectors of both that are used, nine at least",
         std::min<int64_t>(bytes * 10 / (sectors * 32), 9), 9);

  // k and v; beside them each thread looks up a page and a length
  const int64_t elements = 2 * c.batch * c.kv_heads() * c.queries * c.columns;
  expect(c, "bytes stored by kv_append", append.store.bytes, elements * c.pages_size());
  if (c.type != c.pages_type) return;  // element by element
  whole_sectors(c, "sectors stored by kv_append", append.store);
  expect(c, "bytes loaded by kv_append", append.load.bytes,
         elements * c.pages_size() + elements / 2 * c.pages_size() / 16 * 4);
}

// ---- the same bits, and NaNs that stay where they are ----

// Of the pages after the append, and of what decode makes of them, keys in one part and in several.
void same_bits(const Case& c) {
  const int other = other_bits(seed, [&] {
    generator.seed(seed + 7);
    Problem problem(c);
    Bits bits;
    if (!problem.run_append() || !problem.run_decode()) return bits;
    for (Heads* heads : {&problem.k_pages, &problem.v_pages, &problem.out})
      append(bits, heads->bytes(), heads->memory.size() * 16);
    return bits;
  });
  expect(c, "the first run with other bits", other, -1);
}

// Numbers, then NaN and infinity, in pages of another row of the batch and of nobody, in slots past
// a row's length, in another head of keys and in another query: the results of everybody else keep
// their bits.
void nan_stays(ElementType type, ElementType pages_type, int sm_count) {
  const Case c = {type,          pages_type,          3,     4,       2, 2, 64, 16, 64, true,
                  {100, 3, 701}, Layout::kContiguous, 0.125, sm_count};
  Problem problem(c);
  for (Heads* cache : {&problem.k_pages, &problem.v_pages}) cache->random(1);
  if (!problem.run_append() || !problem.run_decode()) return;
  const Heads before = problem.out;
  const auto poison = [&](Heads& cache, double value) {
    Heads kept = cache;
    cache.each([&](int64_t b, int64_t h, int64_t r, int64_t e) { cache.set(b, h, r, e, value); });
    for (int64_t b : {0, 2})
      for (int64_t h = 0; h < c.kv_heads(); ++h)
        for (int64_t s = 0; s < c.held[static_cast<size_t>(b)] + c.queries; ++s)
          for (int64_t e = 0; e < c.columns; ++e)
            if (b == 0 || h == 0) problem.set(cache, b, h, s, e, problem.get(kept, b, h, s, e));
  };
  // row 1, heads 2 and 3 of row 2, and the query below
  const auto poisoned = [](int64_t b, int64_t h, int64_t i) {
    return b == 1 || (b == 2 && h >= 2) || (b == 0 && h == 3 && i == 1);
  };
  const auto compare = [&](const char* what) {
    if (!problem.run_decode()) return;
    int64_t wrong = 0;
    problem.out.each([&](int64_t b, int64_t h, int64_t i, int64_t e) {
      const double had = problem.out.get(b, h, i, e);
      wrong += poisoned(b, h, i) ? !std::isnan(had) : had != before.get(b, h, i, e);
    });
    expect(c, what, wrong, 0);
  };
  for (int64_t e = 0; e < c.columns; ++e) problem.q.set(0, 3, 1, e, NAN);
  for (Heads* cache : {&problem.k_pages, &problem.v_pages}) poison(*cache, NAN);
  compare("NaNs that spread or vanished");
  for (Heads* cache : {&problem.k_pages, &problem.v_pages}) poison(*cache, INFINITY);
  compare("infinities that spread or vanished");
}

// ---- far apart ----

// The same bits as with rows side by side: rows of all operands 2^31 elements apart.
void far_apart(ElementType type) {
  const Case c = {type, type, 2, 2, 2, 5, 32, 20, 2, true, {18, 33}, Layout::kContiguous, 0.2, 1};
  Problem problem(c);
  const FarHeads k_pages(problem.k_pages), v_pages(problem.v_pages), k(problem.k), v(problem.v),
      q(problem.q), out(problem.out);
  for (const FarHeads* far : {&k_pages, &v_pages, &k, &v, &q, &out})
    if (far->memory == nullptr) return fail(c, "the host lends no address space");
  KvAppend append = problem.append();
  AttentionDecode decode = problem.decode();
  if (!problem.run_append() || !problem.run_decode()) return;
  append.k_pages = decode.k_pages = k_pages.view();
  append.v_pages = decode.v_pages = v_pages.view();
  append.k = k.view();
  append.v = v.view();
  decode.q = q.view();
  decode.out = out.view();
  if (!ran(c, "kv_append, far apart", kv_append(nullptr, type, type, append)) ||
      !ran(c, "decode, far apart", attention_decode(nullptr, type, type, decode, c.sm_count)))
    return;
  expect(c, "far apart: tensors that are the same", k_pages.same() + v_pages.same() + out.same(),
         3);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc > 1) seed = static_cast<unsigned>(std::strtoul(argv[1], nullptr, 10));
  std::printf("seed %u\n", seed);
  constexpr auto kF32 = ElementType::kF32, kF16 = ElementType::kF16, kBf16 = ElementType::kBf16;
  constexpr std::pair<ElementType, ElementType> kPairs[] = {
      {kF32, kF32}, {kF16, kF16}, {kBf16, kBf16}, {kF32, kBf16}, {kF16, kF32}};  // q, pages
  for (simt::Order order : {simt::Order::kForward, simt::Order::kReverse, simt::Order::kRandom}) {
    simt::set_options({order, seed});
    generator.seed(seed + static_cast<unsigned>(order));
    for (ElementType type : {kF32, kF16, kBf16})
      for (int i = 0; i < 25; ++i) {
        run(some_case(type));
        if (argc > 2 && failures > 0) return 1;
      }
    faults();
    for (const auto& [type, pages_type] : kPairs) {
      far_peaks(type, pages_type);
      for (int sm_count : {1, 132}) nan_stays(type, pages_type, sm_count);
    }
  }
  simt::set_options({simt::Order::kForward, seed});
  const auto of = [](ElementType type, ElementType pages_type, int heads, int group, int queries,
                     int columns, int sm_count) {
    return Case{type,      pages_type,          2,   heads,   group, queries, columns, 16, 64, true,
                {400, 77}, Layout::kContiguous, 0.1, sm_count};
  };
  for (const auto& [type, pages_type] : kPairs)
    for (int sm_count : {1, 132}) {
      for (int queries = 1; queries <= 8; ++queries) {
        const int group = queries % 3 + 1;
        traffic(of(type, pages_type, group, group, queries, 64, sm_count));
      }
      for (int columns : {32, 80, 128, 256})
        traffic(of(type, pages_type, 4, 2, 1, columns, sm_count));
      same_bits(of(type, pages_type, 4, 2, 2, 64, sm_count));
    }
  for (ElementType type : {kF16, kBf16}) same_bits(of(type, type, 6, 6, 3, 64, 132));
  // more keys than 16 bits count, in parts and in one
  for (const auto& [type, sm_count] : {std::pair{kF32, 132}, {kBf16, 132}, {kBf16, 1}})
    run({type, type, 1, 1, 1, 1, 32, 64, 1025, true, {65536}, Layout::kContiguous, 0.2, sm_count});
  if (kFarRows)
    for (ElementType type : {kF32, kBf16}) far_apart(type);
  std::printf("%d checks, %d failures\n", checks, failures);
  return failures == 0 ? 0 : 1;
}
