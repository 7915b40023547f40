// Runs kernels/matmul.cu on the host (native/src/sim) against float64. Usage:
// matmul_kernel_test [seed [first|all]]   first: end at the first failure; all: the whole product
// of types, transposes, epilogues and sizes instead of a sample
#include <algorithm>
#include <cmath>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "../../../kernels/matmul.cu"
#include "../../../kernels/matmul_few_rows.cu"
#include "device_matrix.h"
#include "far_rows.h"

namespace {

using namespace gatun::kernels;

struct Case {
  ElementType in, out;
  bool transpose_a, transpose_b;
  int64_t m, n, k;
  int64_t products = 1;
  bool one_b = false;      // the same b for all products
  int gap = 0, shift = 0;  // of a and b, elements
  int out_gap = 0, out_shift = 0;
  bool residual = false, in_place = false;  // in_place: the residual is out
  float alpha = 1;
  bool bias = false, bias_f32 = false, preactivation = false;
  Gelu gelu = Gelu::kNone;
  bool bf16x3 = false;
  int sm_count = 4;

  bool gradient() const { return gelu == Gelu::kTanhGradient || gelu == Gelu::kErfGradient; }

  std::string text() const {
    const auto number = [](int64_t i) { return std::to_string(i); };
    std::string s = std::string(name_of(in)) + " to " + name_of(out) + " " + number(products) +
                    "x " + number(m) + "x" + number(n) + "x" + number(k);
    if (transpose_a) s += " aT";
    if (transpose_b) s += " bT";
    if (one_b) s += " one b";
    s += " gap " + number(gap) + " shift " + number(shift);
    s += " out gap " + number(out_gap) + " shift " + number(out_shift);
    if (residual) s += in_place ? " residual in out" : " residual";
    s += " alpha " + std::to_string(alpha);
    if (bias) s += bias_f32 ? " bias f32" : " bias";
    const char* const kGelu[] = {"", " tanh", " erf", " tanh gradient", " erf gradient"};
    s += kGelu[static_cast<int>(gelu)];
    if (preactivation) s += " preactivation";
    if (bf16x3) s += " bf16x3";
    return s + ", " + number(sm_count) + " multiprocessors";
  }
};

bool check(bool right, const Case& c, const char* format, ...)
    __attribute__((format(printf, 3, 4)));
bool check(bool right, const Case& c, const char* format, ...) {
  ++checks;
  if (right) return true;
  if (++failures > 20) return false;
  std::fprintf(stderr, "FAILED (seed %u) %s: ", seed, c.text().c_str());
  va_list arguments;
  va_start(arguments, format);
  std::vfprintf(stderr, format, arguments);
  va_end(arguments);
  std::fputc('\n', stderr);
  return false;
}

// The operands of a case in device memory, and its launch.
struct Problem {
  Case c;
  Matrix a, b, out, bias, preactivation, residual;
  std::vector<double> old;

  explicit Problem(const Case& of)
      : c(of),
        a(c.in, c.products, c.transpose_a ? c.k : c.m, c.transpose_a ? c.m : c.k, c.gap, c.shift),
        b(c.in, c.one_b ? 1 : c.products, c.transpose_b ? c.n : c.k, c.transpose_b ? c.k : c.n,
          c.gap, c.shift),
        out(c.out, c.products, c.m, c.n, c.out_gap, c.out_shift),
        bias(c.bias_f32 ? ElementType::kF32 : c.out, 1, 1, c.n, 0, c.out_shift),
        preactivation(c.out, c.products, c.m, c.n, c.out_gap, c.out_shift),
        residual(c.out, c.products, c.m, c.n, c.gap, c.out_shift) {
    for (Matrix* m : {&a, &b, &bias, &residual}) m->random();
    if (c.gradient()) preactivation.random();
    if (c.in_place) out.random();
    old = (c.in_place ? out : residual).values();
    for (Matrix* m : {&a, &b, &out, &bias, &preactivation, &residual}) m->remember();
  }
  MatMul arguments() {
    MatMul p = {};
    p.a = a.data;
    p.b = b.data;
    p.out = out.data;
    p.a_stride = a.stride;
    p.b_stride = b.stride;
    p.out_stride = out.stride;
    p.preactivation_stride = preactivation.stride;
    const Matrix& added = c.in_place ? out : residual;
    if (c.residual) p.residual = added.data;
    p.residual_stride = added.stride;
    p.m = static_cast<int>(c.m);
    p.n = static_cast<int>(c.n);
    p.k = static_cast<int>(c.k);
    p.alpha = c.alpha;
    p.transpose_a = c.transpose_a;
    p.transpose_b = c.transpose_b;
    p.bf16x3 = c.bf16x3;
    p.gelu = c.gelu;
    if (c.bias) p.bias = bias.data;
    p.bias_type = bias.type;
    if (c.preactivation) p.preactivation = preactivation.data;
    p.batch.rows = c.products;
    if (c.products != 1) {
      p.batch.rank = 1;
      p.batch.shape[0] = c.products;
      p.batch.stride[MatMul::kA][0] = a.product_stride;
      p.batch.stride[MatMul::kB][0] = c.one_b ? 0 : b.product_stride;
      p.batch.stride[MatMul::kOut][0] = out.product_stride;
      p.batch.stride[MatMul::kPreactivation][0] = preactivation.product_stride;
      p.batch.stride[MatMul::kResidual][0] = added.product_stride;
    }
    return p;
  }
  bool launch() {
    MatMul p = arguments();
    const size_t bytes = matmul_scratch_bytes(c.in, c.out, p, c.sm_count);
    std::vector<uint4, simt::DeviceAllocator<uint4>> scratch(bytes / 16 + 1);
    std::memset(scratch.data(), 0xff, scratch.size() * 16);
    if (bytes > 0) p.partials = reinterpret_cast<float*>(scratch.data());
    cudaError_t error = matmul(nullptr, c.in, c.out, p, c.sm_count);
    if (error == cudaSuccess) error = cudaDeviceSynchronize();
    const bool ran = check(error == cudaSuccess, c, "%s", cudaGetErrorString(error));
    const auto* last = reinterpret_cast<const unsigned char*>(scratch.data()) + bytes;
    return check(std::all_of(last, last + 16, [](unsigned char x) { return x == 0xff; }), c,
                 "wrote beyond its scratch") &&
           ran;
  }
};

double gelu(Gelu form, double x) {
  switch (form) {
    case Gelu::kTanh:
      return x / (1 + std::exp(-2 * std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
    case Gelu::kErf:
      return 0.5 * x * std::erfc(-x / std::sqrt(2.0));
    default:
      return x;
  }
}
// By differences of the form itself, right to 1e-9.
double gelu_slope(Gelu gradient, double x) {
  const Gelu form = gradient == Gelu::kTanhGradient ? Gelu::kTanh : Gelu::kErf;
  constexpr double kStep = 1e-4;
  return (8 * (gelu(form, x + kStep) - gelu(form, x - kStep)) -
          (gelu(form, x + 2 * kStep) - gelu(form, x - 2 * kStep))) /
         (12 * kStep);
}

void compare(Problem& problem) {
  const Case& c = problem.c;
  const std::vector<double> a = problem.a.values(), b = problem.b.values();
  for (int64_t p = 0; p < c.products; ++p)
    for (int64_t i = 0; i < c.m; ++i)
      for (int64_t j = 0; j < c.n; ++j) {
        double sum = 0, size = 0;
        for (int64_t k = 0; k < c.k; ++k) {
          const double x =
              a[static_cast<size_t>(p * c.m * c.k + (c.transpose_a ? k * c.m + i : i * c.k + k))];
          const double y = b[static_cast<size_t>((c.one_b ? 0 : p) * c.n * c.k +
                                                 (c.transpose_b ? j * c.k + k : k * c.n + j))];
          sum += x * y;
          size += std::fabs(x * y);
        }
        const double old =
            c.residual ? problem.old[static_cast<size_t>((p * c.m + i) * c.n + j)] : 0;
        const double bias = c.bias ? problem.bias.get(0, 0, j) : 0;
        const double before = static_cast<double>(c.alpha) * sum + bias;
        const double wanted =
            old + (c.gradient() ? before * gelu_slope(c.gelu, problem.preactivation.get(p, i, j))
                                : gelu(c.gelu, before));
        // f32 sums of exact products, six for one of f32 or three, alpha, bias and old, GELU (whose
        // slope is below 1.13), and what bf16x3 leaves out
        const double parts = c.in != ElementType::kF32 ? 1 : c.bf16x3 ? 3 : 6;
        const double steps =
            4 + std::sqrt(parts * static_cast<double>(c.k)) + (c.bf16x3 ? 0x1p9 : 0);
        const double tolerance = 0x1p-24 * (steps * size * std::fabs(static_cast<double>(c.alpha)) +
                                            2 * (std::fabs(old) + std::fabs(bias))) +
                                 1e-30;
        const double had = problem.out.get(p, i, j);
        const double approximation = c.gelu == Gelu::kNone ? 0 : 1e-6 * std::fabs(before);
        const bool right =
            std::fabs(had - wanted) <= 1.13 * tolerance + approximation +
                                           precision_of(c.out) * (std::fabs(wanted) + tolerance) +
                                           (c.out == ElementType::kF16 ? 0x1p-25 : 0);
        if (!check(right, c, "out[%lld, %lld, %lld] is %.9g, wanted %.9g within %.3g",
                   static_cast<long long>(p), static_cast<long long>(i), static_cast<long long>(j),
                   had, wanted, tolerance))
          return;
        if (!c.preactivation || c.gradient()) continue;
        const double kept = problem.preactivation.get(p, i, j);
        if (!check(std::fabs(kept - before) <=
                       tolerance + precision_of(c.out) * (std::fabs(before) + tolerance),
                   c, "preactivation[%lld, %lld, %lld] is %.9g, wanted %.9g",
                   static_cast<long long>(p), static_cast<long long>(i), static_cast<long long>(j),
                   kept, before))
          return;
      }
}

void run(const Case& c) {
  Problem problem(c);
  const std::vector<double> before = problem.preactivation.values();
  const std::vector<double> old = problem.residual.values();
  if (!problem.launch()) return;
  compare(problem);
  check(problem.out.untouched(), c, "wrote outside of out");
  check(problem.preactivation.untouched(), c, "wrote outside of preactivation");
  check(problem.a.untouched() && problem.b.untouched() && problem.bias.untouched() &&
            problem.residual.untouched(),
        c, "wrote outside of an operand");
  if (c.gradient())
    check(problem.preactivation.values() == before, c, "wrote to the preactivation of a gradient");
  check(problem.residual.values() == old, c, "wrote to the residual");
}

constexpr int kEpilogues = 7;
void set_epilogue(Case& c, int which) {
  c.bias = which >= 1 && which <= 4;
  c.bias_f32 = which == 2 || which == 4;
  constexpr Gelu kForms[kEpilogues] = {Gelu::kNone,       Gelu::kNone, Gelu::kNone,
                                       Gelu::kTanh,       Gelu::kErf,  Gelu::kTanhGradient,
                                       Gelu::kErfGradient};
  c.gelu = kForms[which];
  c.preactivation = c.gradient() || (c.gelu != Gelu::kNone && pick(2) == 0);
  const int residual = pick(4);
  c.residual = residual >= 2;
  c.in_place = residual == 3;
}

// One of the product of output types, transposes, epilogues and alignments.
constexpr int kVariants = 2 * 4 * kEpilogues * 2;
void set_variant(Case& c, int i) {
  c.out = i % 2 == 0 ? ElementType::kF32 : c.in;
  c.transpose_a = i / 2 % 2 != 0;
  c.transpose_b = i / 4 % 2 != 0;
  set_epilogue(c, i / 8 % kEpilogues);
  const bool aligned = i / 8 / kEpilogues == 0;
  c.gap = aligned ? 8 : 3;
  c.shift = aligned ? 0 : 1;
}

Case random_case(ElementType in, int64_t m, int64_t n, int64_t k) {
  Case c = {in, pick(2) ? ElementType::kF32 : in, pick(2) == 0, pick(2) == 0, m, n, k};
  if (pick(4) == 0) {
    c.products = 1 + pick(3);
    c.one_b = pick(2) == 0;
  }
  // aligned to 16 bytes more often than not
  const int kGaps[] = {0, 8, 16, 3, 2}, kShifts[] = {0, 8, 0, 1, 2};
  c.gap = kGaps[pick(5)];
  c.shift = kShifts[pick(5)];
  c.out_gap = kGaps[pick(5)];
  c.out_shift = kShifts[pick(5)];
  c.alpha = pick(2) ? 1.f : -0.375f;
  set_epilogue(c, pick(kEpilogues));
  c.bf16x3 = pick(3) == 0;
  const int kCounts[] = {1, 4, 16, 132};
  c.sm_count = kCounts[pick(4)];
  return c;
}

constexpr ElementType kTypes[] = {ElementType::kF32, ElementType::kF16, ElementType::kBf16};
constexpr simt::Order kOrders[] = {simt::Order::kForward, simt::Order::kReverse,
                                   simt::Order::kRandom};

// ---- counters ----

// What m x n x k costs, from the shape and the size of a tile alone.
struct Ideal {
  int64_t tile_m, tile_n, tile_k, splits;
};

int64_t whole(int64_t size, int64_t of) { return (size + of - 1) / of * of; }

simt::Counters counted(Problem& problem) {
  simt::count_memory(true);
  simt::reset_counters();
  problem.launch();
  const simt::Counters had = simt::counters();
  simt::count_memory(false);
  return had;
}

void equal(const Case& c, const char* what, int64_t had, int64_t wanted) {
  check(had == wanted, c, "%s: %lld, wanted %lld", what, static_cast<long long>(had),
        static_cast<long long>(wanted));
}

// Every mma of the padded shape and no other; no access to shared memory waits for a bank; a is
// read once a column of tiles, b once a row of tiles, preactivation and residual once, out is
// written once, all in whole sectors.
void count_tiles(const Case& c, const Ideal& ideal) {
  Problem problem(c);
  const simt::Counters had = counted(problem);
  const int64_t size = problem.a.size(), out_size = problem.out.size();
  const int64_t tiles_m = whole(c.m, ideal.tile_m) / ideal.tile_m;
  const int64_t tiles_n = whole(c.n, ideal.tile_n) / ideal.tile_n;
  const int64_t k_tiles = whole(c.k, ideal.tile_k) / ideal.tile_k;
  const bool f32 = c.in == ElementType::kF32;
  equal(c, "mma", had.mma,
        tiles_m * ideal.tile_m / 16 * (tiles_n * ideal.tile_n / 8) * (k_tiles * ideal.tile_k / 16) *
            (!f32       ? 1
             : c.bf16x3 ? 3
                        : 6));
  equal(c, "bank conflicts of ldmatrix", had.matrix.wavefronts, had.matrix.phases);
  equal(c, "bank conflicts of copies", had.copy_store.wavefronts, had.copy_store.phases);
  equal(c, "bank conflicts of loads", had.shared_load.wavefronts, had.shared_load.phases);
  equal(c, "bank conflicts of stores", had.shared_store.wavefronts, had.shared_store.phases);
  equal(c, "bytes of a and b", had.copy_load.bytes,
        tiles_n * c.m * c.k * size + tiles_m * c.k * c.n * size);
  equal(c, "sectors of a and b", had.copy_load.sectors * 32, had.copy_load.bytes);
  const int64_t partials = ideal.splits > 1 ? ideal.splits * c.m * c.n * 4 : 0;
  equal(c, "bytes stored", had.store.bytes, c.m * c.n * out_size + partials);
  equal(c, "bytes loaded for the result", had.load.bytes,
        partials + (c.gradient() + c.residual) * c.m * c.n * out_size);
  equal(c, "sectors loaded for the result", had.load.sectors * 32, had.load.bytes);
  equal(c, "sectors stored", had.store.sectors * 32, had.store.bytes);
  equal(c, "barriers", had.barriers, tiles_m * tiles_n * (ideal.splits * 2 + k_tiles));
}

// b is read once, a once by each block (32 columns, or a line of 128 bytes), preactivation and
// residual once; where b is transposed by lanes that have four columns of them and no neighbours.
void count_few_rows(const Case& c) {
  Problem problem(c);
  const simt::Counters had = counted(problem);
  const int64_t size = problem.a.size();
  const int64_t columns = c.transpose_b ? 32 : 128 / size;
  equal(c, "mma", had.mma, 0);
  const int64_t result = (c.gradient() + c.residual) * c.m * c.n * problem.out.size();
  equal(c, "distinct bytes read", had.distinct_read, (c.m * c.k + c.k * c.n) * size + result);
  equal(c, "bytes read", had.load.bytes,
        (whole(c.n, columns) / columns * c.m * c.k + c.k * c.n) * size + result);
  equal(c, "bytes stored", had.store.bytes, c.m * c.n * problem.out.size());
  const int64_t unused = c.transpose_b ? 32 - 4 * problem.out.size() : 0;  // of a sector
  equal(c, "sectors read", had.load.sectors * 32,
        had.load.bytes + result / (4 * problem.out.size()) * unused);
  equal(c, "bank conflicts of loads", had.shared_load.wavefronts, had.shared_load.phases);
  equal(c, "bank conflicts of stores", had.shared_store.wavefronts, had.shared_store.phases);
  compare(problem);
}

void count() {
  for (int transposes = 0; transposes < 4; ++transposes) {
    Case c = {ElementType::kBf16,
              ElementType::kBf16,
              transposes % 2 != 0,
              transposes >= 2,
              256,
              512,
              160};
    c.sm_count = 1;
    count_tiles(c, {128, 256, 32, 1});
    c.gelu = Gelu::kTanhGradient;
    c.preactivation = c.residual = true;
    count_tiles(c, {128, 256, 32, 1});
    c.in_place = true;
    c.m = 240, c.n = 496, c.k = 176, c.out = ElementType::kF32;
    count_tiles(c, {128, 256, 32, 1});
    c.m = 64, c.n = 80, c.k = 320;
    count_tiles(c, {64, 64, 64, 1});
    c.k = 2048, c.sm_count = 132, c.out = ElementType::kBf16;
    Problem problem(c);
    const size_t scratch = matmul_scratch_bytes(c.in, c.out, problem.arguments(), c.sm_count);
    const auto splits = static_cast<int64_t>(scratch) / (c.m * c.n * 4);
    check(splits > 1, c, "it is not split");
    count_tiles(c, {64, 64, 64, splits});
    c = {ElementType::kF32, ElementType::kF32, transposes % 2 != 0, transposes >= 2, 256, 128, 96};
    c.sm_count = 1;
    count_tiles(c, {128, 64, 32, 1});
    c.bf16x3 = true;
    count_tiles(c, {128, 64, 32, 1});
    c.bf16x3 = false;
    c.gelu = Gelu::kTanhGradient;
    c.preactivation = c.residual = true;
    c.m = 120, c.n = 56, c.k = 40;
    count_tiles(c, {128, 64, 32, 1});
  }
  for (ElementType type : kTypes)
    for (int64_t m : {1, 8})
      for (bool transpose_b : {false, true}) {
        Case c = {type, type, false, transpose_b, m, 320, 256};
        c.sm_count = 1;
        count_few_rows(c);
        c.gelu = Gelu::kErfGradient;
        c.preactivation = c.residual = true;
        count_few_rows(c);
      }
}

// So much of k that every slot of the ring is filled again and again; and so many rows of tiles
// that the raster has a second band.
void fill_rings() {
  struct {
    int64_t m, n, k;
    int tile, sm_count;
    bool f32 = false;
  } constexpr kCases[] = {
      {120, 248, 288, kMatmulTileLarge, 1},   {64, 72, 512, kMatmulTileSmall, 1},
      {64, 72, 512, kMatmulTileSmall, 4},     {520, 72, 24, kMatmulTileSmall, 4},
      {72, 40, 288, kMatmulTileF32, 1, true}, {1032, 72, 24, kMatmulTileF32, 4, true}};
  for (const auto& s : kCases)
    for (ElementType in : kTypes)
      for (int transposes = 0; transposes < 4; ++transposes) {
        if (s.f32 != (in == ElementType::kF32)) continue;
        Case c = {in, ElementType::kF32, transposes % 2 != 0, transposes >= 2, s.m, s.n, s.k};
        set_epilogue(c, pick(kEpilogues));
        c.gap = 8;
        c.sm_count = s.sm_count;
        const Choice choice = choose(c.in, c.out, Problem(c).arguments(), c.sm_count);
        check(choice.copies && choice.tile == s.tile, c, "tile %d", choice.tile);
        run(c);
      }
}

// Few rows of parts of k so long that the block's piece of a is filled again and again; the
// last unit of k is partly filled.
void long_few_rows() {
  for (ElementType in : kTypes)
    for (int transposes = 0; transposes < 4; ++transposes) {
      Case c = {in, ElementType::kF32, transposes % 2 != 0, transposes >= 2, 3, 24, 33001};
      c.gap = c.transpose_b ? 7 : 8;  // rows of b are aligned
      c.sm_count = 1;
      const Choice choice = choose(c.in, c.out, Problem(c).arguments(), c.sm_count);
      const int depth =
          c.transpose_b ? kFewRowsBytes / static_cast<int>(size_of(in)) : kFewRowsDepth;
      check(choice.few_rows && choice.problem.k_of_a_split > 2 * depth, c, "parts of %d",
            choice.problem.k_of_a_split);
      run(c);
    }
}

// ---- what does not spread, does not change, does not wrap ----

// A NaN in a row of a, or a column of b, is in that row or column of out and nowhere else.
void nan_stays(ElementType in, int64_t m, int64_t depth) {
  Case c = {in, ElementType::kF32, pick(2) == 0, pick(2) == 0, m, 72, depth};
  c.sm_count = depth > 500 ? 132 : 4;
  Problem problem(c);
  if (depth > 500)
    check(matmul_scratch_bytes(c.in, c.out, problem.arguments(), c.sm_count) > 0, c,
          "it is not split");
  const int64_t row = pick(static_cast<int>(m)), column = pick(72);
  const int64_t k = pick(static_cast<int>(depth));
  c.transpose_a ? problem.a.set(0, k, row, NAN) : problem.a.set(0, row, k, NAN);
  c.transpose_b ? problem.b.set(0, column, k, NAN) : problem.b.set(0, k, column, NAN);
  if (!problem.launch()) return;
  for (int64_t i = 0; i < m; ++i)
    for (int64_t j = 0; j < 72; ++j)
      if (!check(std::isnan(problem.out.get(0, i, j)) == (i == row || j == column), c,
                 "NaN in row %lld of a and column %lld of b: out[%lld, %lld] is %g",
                 static_cast<long long>(row), static_cast<long long>(column),
                 static_cast<long long>(i), static_cast<long long>(j), problem.out.get(0, i, j)))
        return;
}

// 20 runs, blocks in three orders.
void same_bits(ElementType in, int64_t m, int64_t n, int64_t k) {
  const Case c = {in, ElementType::kF32, false, false, m, n, k};
  Problem problem(c);
  std::vector<double> first;
  const simt::Options before = simt::options();
  for (unsigned i = 0; i < 20; ++i) {
    simt::set_options({kOrders[i % 3], seed + i});
    if (!problem.launch()) break;
    if (i == 0) first = problem.out.values();
    if (!check(problem.out.values() == first, c, "other bits in run %u", i)) break;
  }
  simt::set_options(before);
}

// Rows, and products, more than 2^31 elements apart.
void far_apart(int64_t m, int64_t depth, bool transpose_a, bool transpose_b) {
  constexpr int64_t kFar = (int64_t{1} << 31) + 8;
  constexpr int64_t kN = 8, kProducts = 2;
  using T = __nv_bfloat16;
  Case c = {ElementType::kBf16, ElementType::kBf16, transpose_a, transpose_b, m, kN, depth,
            kProducts};
  c.sm_count = 132;  // split, where k is long
  const int64_t a_rows = transpose_a ? depth : m, b_rows = transpose_b ? kN : depth;
  const int64_t rows = std::max({a_rows, b_rows, m});
  const int64_t apart = rows * kFar + 16;
  std::vector<T*> all;
  for (int i = 0; i < 3; ++i)
    all.push_back(
        static_cast<T*>(simt::allocate_sparse(static_cast<size_t>(kProducts * apart) * sizeof(T))));
  for (T* p : all)
    if (!check(p != nullptr, c, "the host lends no address space")) return;
  T *a = all[0], *b = all[1], *out = all[2];
  const auto at_a = [&](int64_t p, int64_t i, int64_t k) {
    return p * apart + (transpose_a ? k * kFar + i : i * kFar + k);
  };
  const auto at_b = [&](int64_t p, int64_t k, int64_t j) {
    return p * apart + (transpose_b ? j * kFar + k : k * kFar + j);
  };
  for (int64_t p = 0; p < kProducts; ++p)
    for (int64_t k = 0; k < depth; ++k) {
      for (int64_t i = 0; i < m; ++i)
        a[at_a(p, i, k)] = __float2bfloat16_rn(static_cast<float>(pick(9) - 4));
      for (int64_t j = 0; j < kN; ++j)
        b[at_b(p, k, j)] = __float2bfloat16_rn(static_cast<float>(pick(9) - 4));
    }
  MatMul args = {};
  args.a = a;
  args.b = b;
  args.out = out;
  args.a_stride = args.b_stride = args.out_stride = kFar;
  args.m = static_cast<int>(m);
  args.n = kN;
  args.k = static_cast<int>(depth);
  args.alpha = 1;
  args.transpose_a = transpose_a;
  args.transpose_b = transpose_b;
  const auto run_products = [&](int64_t first, int64_t count) {
    MatMul p = args;
    p.a = a + first * apart;
    p.b = b + first * apart;
    p.out = out + first * apart;
    p.batch.rows = count;
    p.batch.rank = count > 1 ? 1 : 0;
    p.batch.shape[0] = count;
    for (int operand : {MatMul::kA, MatMul::kB, MatMul::kOut}) p.batch.stride[operand][0] = apart;
    std::vector<float, simt::DeviceAllocator<float>> partials(
        matmul_scratch_bytes(c.in, c.out, p, c.sm_count) / sizeof(float));
    p.partials = partials.data();
    cudaError_t error = matmul(nullptr, c.in, c.out, p, c.sm_count);
    if (error == cudaSuccess) error = cudaDeviceSynchronize();
    return check(error == cudaSuccess, c, "%s", cudaGetErrorString(error));
  };
  // together, and one alone: few rows are a path of their own
  if (run_products(0, kProducts) && run_products(1, 1)) {
    for (int64_t p = 0; p < kProducts; ++p)
      for (int64_t i = 0; i < m; ++i)
        for (int64_t j = 0; j < kN; ++j) {
          float sum = 0;
          for (int64_t k = 0; k < depth; ++k)
            sum += __bfloat162float(a[at_a(p, i, k)]) * __bfloat162float(b[at_b(p, k, j)]);
          const float wanted = __bfloat162float(__float2bfloat16_rn(sum));
          const float had = __bfloat162float(out[p * apart + i * kFar + j]);
          check(had == wanted, c, "rows 2^31 apart: out[%lld, %lld, %lld] is %g, wanted %g",
                static_cast<long long>(p), static_cast<long long>(i), static_cast<long long>(j),
                static_cast<double>(had), static_cast<double>(wanted));
        }
  }
  for (T* p : all) simt::release(p);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc > 1) seed = static_cast<unsigned>(std::strtoul(argv[1], nullptr, 10));
  const bool first = argc > 2 && std::strcmp(argv[2], "first") == 0;
  const bool all = argc > 2 && std::strcmp(argv[2], "all") == 0;
  std::printf("seed %u\n", seed);
  constexpr int64_t kSizes[][3] = {{1, 1, 1},     {1, 8, 8},       {1, 72, 520},  {2, 31, 1023},
                                   {8, 64, 64},   {9, 33, 17},     {16, 16, 16},  {31, 33, 65},
                                   {64, 64, 64},  {65, 63, 129},   {3, 200, 300}, {128, 256, 32},
                                   {130, 70, 96}, {17, 300, 1023}, {0, 3, 4},     {3, 0, 4},
                                   {3, 4, 0},     {70, 520, 40},   {1024, 2, 3},  {1, 130, 5000}};
  for (simt::Order order : kOrders) {
    simt::set_options({order, seed});
    generator.seed(seed + static_cast<unsigned>(order));
    for (ElementType in : kTypes)
      for (const auto& s : kSizes)
        for (int i = 0; i < (all ? kVariants : 1); ++i) {
          Case c = random_case(in, s[0], s[1], s[2]);
          if (all) set_variant(c, i);
          run(c);
          if (first && failures > 0) return 1;
        }
    for (ElementType in : kTypes)
      for (int64_t m : {3, 70})
        for (int64_t depth : {40, 704}) nan_stays(in, m, depth);
  }
  simt::set_options({simt::Order::kForward, seed});
  count();
  fill_rings();
  long_few_rows();
  run({ElementType::kBf16, ElementType::kBf16, false, false, 65537, 8, 8});
  for (ElementType in : kTypes) {
    same_bits(in, 70, 40, 700);
    same_bits(in, 70, 40, 704);  // by 16-byte copies
    same_bits(in, 5, 40, 700);
  }
  if (!kFarRows) std::printf("no rows 2^31 apart: sanitizers keep a map of all address space\n");
  for (int i = 0; kFarRows && i < 4; ++i)
    for (int64_t m : {2, 70}) far_apart(m, m == 2 ? 16 : 320, i % 2 != 0, i >= 2);
  std::printf("%d checks, %d failures\n", checks, failures);
  return failures == 0 ? 0 : 1;
}
