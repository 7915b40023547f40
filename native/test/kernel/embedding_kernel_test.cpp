// Runs kernels/embedding.cu on the host (native/src/sim) against float64: ids from one to every row
// of the table, rows that begin and end anywhere among the segments of the sorted tokens, wrong ids
// and positions with their report, the same bits in every order of threads and blocks.
// Usage: embedding_kernel_test [seed]
#include "../../../kernels/embedding.cu"
#include "far_rows.h"
#include "operands.h"
#include "repeat.h"

namespace {

using namespace gatun::kernels;

template <typename T>
constexpr ElementType kType = sizeof(T) == 4              ? ElementType::kF32
                              : std::is_same_v<T, __half> ? ElementType::kF16
                                                          : ElementType::kBf16;

struct Faults {
  DeviceVector<uint32_t> taken = DeviceVector<uint32_t>(1, 0);
  FaultRecord record = {};
  FaultSink sink() { return {taken.data(), &record}; }
  void expect(const char* what, FaultKind kind, int64_t value, int64_t b, int64_t t, int64_t rows) {
    ++checks;
    if (record.kind != kind ||
        (kind != FaultKind::kNone && (record.value[0] != value || record.value[1] != b ||
                                      record.value[2] != t || record.value[3] != rows)))
      report("%s: fault %d of %lld at [%lld,%lld], %lld rows", what, static_cast<int>(record.kind),
             static_cast<long long>(record.value[0]), static_cast<long long>(record.value[1]),
             static_cast<long long>(record.value[2]), static_cast<long long>(record.value[3]));
    record = {};
    taken[0] = 0;
  }
};

// The bits of the gradients of each trial, as the first order of threads gave them.
std::vector<std::vector<unsigned char>> expected_bits;
size_t trial_index;

template <typename To, typename T>
void test(int64_t b, int64_t t, int64_t v, int64_t d) {
  const int64_t p = t + pick({0, 3});
  const bool with_positions = generator() % 4 != 0, with_start = with_positions && p > t;
  const Form form = pick({Form::kDense, Form::kDense, Form::kGaps, Form::kRagged});
  Operand<int32_t> ids({b, t}, form), start({b}, Form::kDense);
  Operand<T> table({v, d}, form), positions({p, d}, form), out({b, t, d}, form),
      dout({b, t, d}, form);
  table.random();
  positions.random();
  dout.random();
  const int kind = static_cast<int>(generator() % 3);  // any; mostly one; one
  const int64_t single = pick<int64_t>({0, v / 2, v - 1});
  for (int64_t i = 0; i < ids.count(); ++i)
    ids.set(i, kind == 2 || (kind == 1 && generator() % 8 != 0)
                   ? static_cast<double>(single)
                   : static_cast<double>(generator() % static_cast<uint64_t>(v)));
  for (int64_t i = 0; i < b; ++i) start.set(i, static_cast<double>(generator() % 4));
  FaultKind fault = FaultKind::kNone;
  int64_t wrong = 0, wrong_at = 0;
  if (ids.count() > 0 && generator() % 3 == 0) {
    fault = FaultKind::kEmbeddingId;
    wrong_at = static_cast<int64_t>(generator() % static_cast<uint64_t>(ids.count()));
    wrong = pick<int64_t>({v, -1, INT32_MAX, INT32_MIN});
    ids.set(wrong_at, static_cast<double>(wrong));
  }
  Faults faults;
  const auto expect_fault = [&](const char* what) {
    const int64_t each = std::max<int64_t>(t, 1);
    faults.expect(what, fault, wrong, wrong_at / each, wrong_at % each, v);
  };
  const auto id = [&](int64_t token) {
    return std::clamp<int64_t>(static_cast<int64_t>(ids.get(token)), 0, v - 1);
  };
  const auto position = [&](int64_t token) {
    return (with_start ? static_cast<int64_t>(start.get(token / t)) : 0) + token % t;
  };
  const Tokens tokens = {
      ids.data(),   with_start ? start.data() : nullptr, b, t, {ids.stride[0], ids.stride[1]}, 1,
      faults.sink()};
  EmbeddingForward f = {};
  f.tokens = tokens;
  f.out = out.data();
  f.table = table.data();
  f.positions = with_positions ? positions.data() : nullptr;
  f.columns = d;
  f.table_rows = v;
  f.position_rows = p;
  f.out_step[0] = out.stride[0];
  f.out_step[1] = out.stride[1];
  f.table_step = table.stride[0];
  f.positions_step = positions.stride[0];
  if (!ran("embedding_forward", embedding_forward(nullptr, kType<T>, f))) return;
  compare("embedding_forward", out, 0, [&](int64_t i) {
    const double row = table.get(id(i / d) * d + i % d);
    return with_positions ? rounded_to<T>(row + positions.get(position(i / d) * d + i % d)) : row;
  });
  expect_fault("embedding_forward");

  for (bool by_position : {false, true}) {
    if (by_position && !with_positions) break;
    const int64_t rows = by_position ? p : v;
    Operand<To> gradient({rows, d}, form);
    gradient.random();
    EmbeddingBackward g = {};
    g.tokens = tokens;
    g.by_position = by_position;
    g.add = generator() % 2;
    g.gradient = gradient.data();
    g.dout = dout.data();
    g.rows = rows;
    g.columns = d;
    g.gradient_step = gradient.stride[0];
    g.dout_step[0] = dout.stride[0];
    g.dout_step[1] = dout.stride[1];
    std::vector<double> truth = gradient.values(), size(truth.size());
    if (!g.add) std::fill(truth.begin(), truth.end(), 0);
    for (int64_t token = 0; token < b * t; ++token)
      for (int64_t i = 0; i < d; ++i) {
        const auto at = static_cast<size_t>((by_position ? position(token) : id(token)) * d + i);
        truth[at] += dout.get(token * d + i);
        size[at] += std::fabs(dout.get(token * d + i));
      }
    const size_t bytes = embedding_backward_scratch_bytes(b * t, d);
    DeviceVector<uint4> scratch(bytes / 16 + 2);
    std::memset(scratch.data(), 0xA5, scratch.size() * 16);
    g.scratch = scratch.data();
    if (!ran("embedding_backward", embedding_backward(nullptr, kType<To>, kType<T>, g))) return;
    const double largest = (size.empty() ? 0 : *std::max_element(size.begin(), size.end())) + 8;
    compare(by_position ? "dpositions" : "dtable", gradient, (1e-6 + kUlp<To>)*largest,
            [&](int64_t i) { return truth[static_cast<size_t>(i)]; });
    ++checks;
    const auto* end = reinterpret_cast<const unsigned char*>(scratch.data());
    for (size_t i = bytes; i < scratch.size() * 16; ++i)
      if (end[i] != 0xA5) {
        report("embedding_backward: wrote beyond its scratch");
        break;
      }
    if (!by_position) expect_fault("embedding_backward");
    if (trial_index == expected_bits.size()) expected_bits.push_back(gradient.contents());
    ++checks;
    if (expected_bits[trial_index++] != gradient.contents())
      report("embedding_backward: another order of threads gave other bits");
  }
}

// Rows of the table, of out and of the gradient: the same bits as side by side.
void test_far() {
  using T = __nv_bfloat16;
  constexpr int64_t kTokens = 3, kRows = 2;
  for (int64_t columns : {33, 64}) {
    Operand<int32_t> ids({1, kTokens}, Form::kDense);
    Operand<T> table({kRows, columns}, Form::kDense), out({kTokens, columns}, Form::kDense),
        gradient({kRows, columns}, Form::kDense);
    FarRows<T> far_table(kRows, columns), far_out(kTokens, columns), far_gradient(kRows, columns);
    table.random();
    far_table.fill(table.data());
    for (int64_t i = 0; i < kTokens; ++i) ids.set(i, i == 1 ? 0 : 1);
    Faults faults;
    EmbeddingForward f = {};
    f.tokens = {ids.data(), nullptr, 1, kTokens, {kTokens, 1}, 1, faults.sink()};
    f.out = out.data();
    f.table = table.data();
    f.columns = f.out_step[1] = f.table_step = columns;
    f.table_rows = kRows;
    EmbeddingForward far_f = f;
    far_f.out = far_out.data;
    far_f.table = far_table.data;
    far_f.out_step[1] = far_f.table_step = far_out.kApart;
    if (!ran("embedding_forward", embedding_forward(nullptr, kType<T>, f)) ||
        !ran("embedding_forward, far apart", embedding_forward(nullptr, kType<T>, far_f)))
      return;
    EXPECT(far_out.equals(out.data()));
    DeviceVector<uint4> scratch(embedding_backward_scratch_bytes(kTokens, columns) / 16 + 1);
    EmbeddingBackward g = {};
    g.tokens = f.tokens;
    g.gradient = gradient.data();
    g.dout = out.data();
    g.rows = kRows;
    g.columns = g.gradient_step = g.dout_step[1] = columns;
    g.scratch = scratch.data();
    EmbeddingBackward far_g = g;
    far_g.gradient = far_gradient.data;
    far_g.dout = far_out.data;
    far_g.gradient_step = far_g.dout_step[1] = far_out.kApart;
    if (!ran("embedding_backward", embedding_backward(nullptr, kType<T>, kType<T>, g)) ||
        !ran("embedding_backward, far apart",
             embedding_backward(nullptr, kType<T>, kType<T>, far_g)))
      return;
    EXPECT(far_gradient.equals(gradient.data()));
  }
}

// Rows of the table that many segments of sorted tokens share.
template <typename To, typename T>
void test_same_bits() {
  constexpr int64_t kTokens = 300, kRows = 5, kColumns = 40;
  Operand<int32_t> ids({1, kTokens}, Form::kDense);
  Operand<T> dout({kTokens, kColumns}, Form::kDense);
  Operand<To> gradient({kRows, kColumns}, Form::kDense);
  dout.random();
  for (int64_t i = 0; i < kTokens; ++i) ids.set(i, static_cast<double>(generator() % 16 / 4));
  Faults faults;
  DeviceVector<uint4> scratch(embedding_backward_scratch_bytes(kTokens, kColumns) / 16 + 1);
  EmbeddingBackward g = {};
  g.tokens = {ids.data(), nullptr, 1, kTokens, {kTokens, 1}, 1, faults.sink()};
  g.gradient = gradient.data();
  g.dout = dout.data();
  g.rows = kRows;
  g.columns = g.gradient_step = g.dout_step[1] = kColumns;
  g.scratch = scratch.data();
  EXPECT(other_bits(static_cast<unsigned>(seed), [&] {
           return ran("embedding_backward", embedding_backward(nullptr, kType<To>, kType<T>, g))
                      ? gradient.contents()
                      : Bits();
         }) < 0);
}

// Positions beyond their table.
void test_positions() {
  Operand<int32_t> ids({2, 3}, Form::kDense), start({2}, Form::kDense);
  Operand<float> table({4, 8}, Form::kDense), positions({6, 8}, Form::kDense),
      out({2, 3, 8}, Form::kDense);
  table.random();
  positions.random();
  for (int i = 0; i < 6; ++i) ids.set(i, 1);
  start.set(0, 0);
  start.set(1, 4);
  Faults faults;
  EmbeddingForward f = {{ids.data(), start.data(), 2, 3, {3, 1}, 1, faults.sink()},
                        out.data(),
                        table.data(),
                        positions.data(),
                        8,
                        4,
                        6,
                        {24, 8},
                        8,
                        8};
  if (!ran("embedding_forward", embedding_forward(nullptr, ElementType::kF32, f))) return;
  compare("clamped position", out, 0, [&](int64_t i) {
    const int64_t position = std::min<int64_t>(5, (i / 24 ? 4 : 0) + i / 8 % 3);
    return rounded_to<float>(table.get(8 + i % 8) + positions.get(position * 8 + i % 8));
  });
  faults.expect("position", FaultKind::kEmbeddingPosition, 6, 1, 2, 6);
}

void test_traffic() {
  constexpr int64_t kTokens = 512, kRows = 1000, kColumns = 768;
  using T = __nv_bfloat16;
  Operand<int32_t> ids({1, kTokens}, Form::kDense);
  Operand<T> table({kRows, kColumns}, Form::kDense), out({kTokens, kColumns}, Form::kDense);
  Operand<float> gradient({kRows, kColumns}, Form::kDense);
  table.random();
  for (int64_t i = 0; i < kTokens; ++i) ids.set(i, static_cast<double>(i * 7 % kRows));
  Faults faults;
  const Tokens tokens = {ids.data(), nullptr, 1, kTokens, {kTokens, 1}, 1, faults.sink()};
  EmbeddingForward f = {};
  f.tokens = tokens;
  f.out = out.data();
  f.table = table.data();
  f.columns = kColumns;
  f.table_rows = kRows;
  f.out_step[1] = f.table_step = kColumns;
  const auto count = [&](const char* what, cudaError_t launched, int64_t loaded, int64_t stored) {
    const bool done = ran(what, launched);
    simt::count_memory(false);
    const simt::Counters had = simt::counters();
    std::printf("%s: loaded %lld bytes of %lld, stored %lld of %lld\n", what,
                static_cast<long long>(had.load.bytes), static_cast<long long>(loaded),
                static_cast<long long>(had.store.bytes), static_cast<long long>(stored));
    ++checks;
    if (done && (static_cast<double>(had.load.bytes) > 1.05 * static_cast<double>(loaded) ||
                 static_cast<double>(had.store.bytes) > 1.05 * static_cast<double>(stored)))
      report("%s: more bytes than that", what);
    simt::reset_counters();
    simt::count_memory(true);
  };
  simt::reset_counters();
  simt::count_memory(true);
  const int64_t values = kTokens * kColumns * 2;
  count("embedding_forward bf16", embedding_forward(nullptr, kType<T>, f), values + 4 * kTokens,
        values);
  EmbeddingBackward g = {};
  g.tokens = tokens;
  g.gradient = gradient.data();
  g.dout = out.data();
  g.rows = kRows;
  g.columns = kColumns;
  g.gradient_step = g.dout_step[1] = kColumns;
  DeviceVector<uint4> scratch(embedding_backward_scratch_bytes(kTokens, kColumns) / 16 + 1);
  g.scratch = scratch.data();
  // beside dout: the keys, which every warp of 32 rows reads twice, from L2
  const int64_t keys = (kRows + 31) / 32 * kTokens * 4 * 2;
  count("embedding_backward f32 from bf16",
        embedding_backward(nullptr, ElementType::kF32, kType<T>, g), values + 2 * keys,
        kRows * kColumns * 4 + 3 * 4 * kTokens);
  simt::count_memory(false);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc > 1) seed = std::strtoull(argv[1], nullptr, 10);
  in_all_orders([] {
    generator.seed(seed);
    trial_index = 0;
    const auto dimensions = [](auto test_case) {
      for (int trial = 0; trial < 4; ++trial)
        test_case(pick<int64_t>({1, 2, 5}), pick<int64_t>({1, 2, 3, 31, 33, 100}),
                  pick<int64_t>({1, 2, 50, 300, 700}), pick<int64_t>({1, 8, 33, 64, 264}));
    };
    dimensions(test<float, float>);
    dimensions(test<float, __half>);
    dimensions(test<__half, __half>);
    dimensions(test<float, __nv_bfloat16>);
    dimensions(test<__nv_bfloat16, __nv_bfloat16>);
    test<float, __nv_bfloat16>(2, 600, 40, 16);
    test<float, float>(1, 160, 3, 520);
    test<float, float>(0, 1, 3, 8);
    // one row, and no key left over behind the sorted ones
    for (int trial = 0; trial < 3; ++trial) test<float, float>(1, 2 * kEmbeddingScan, 1, 8);
    test_positions();
  });
  trial_index = expected_bits.size();
  for (int64_t tokens : {0, 1, 2, 31, 33, 1023, 65537}) test<float, __half>(1, tokens, 2, 1);
  test<float, float>(1, 3, 65537, 1);
  if (kFarRows) test_far();
  test_same_bits<float, float>();
  test_same_bits<float, __half>();
  test_same_bits<__nv_bfloat16, __nv_bfloat16>();
  test_traffic();
  return summary();
}
