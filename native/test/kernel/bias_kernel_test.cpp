// Runs kernels/bias.cu on the host (native/src/sim) against float64, counted.
// Usage: bias_kernel_test [seed]
#include <cmath>
#include <cstdio>
#include <cstdlib>

#include "../../../kernels/bias.cu"
#include "device_matrix.h"
#include "far_rows.h"
#include "repeat.h"

namespace {

using namespace gatun::kernels;

struct Case {
  ElementType type, dbias_type;
  int64_t outer, inner, columns;
  int gap, shift;
  bool add;
  int sm_count;
};

bool check(bool right, const Case& c, const char* what) {
  ++checks;
  if (!right && ++failures <= 20)
    std::fprintf(
        stderr,
        "FAILED (seed %u) %s to %s %lldx%lldx%lld gap %d shift %d%s, %d multiprocessors: %s\n",
        seed, name_of(c.type), name_of(c.dbias_type), static_cast<long long>(c.outer),
        static_cast<long long>(c.inner), static_cast<long long>(c.columns), c.gap, c.shift,
        c.add ? " add" : "", c.sm_count, what);
  return right;
}

void run(const Case& c) {
  Matrix dy(c.type, c.outer, c.inner, c.columns, c.gap, c.shift);
  Matrix dbias(c.dbias_type, 1, 1, c.columns, 0, c.shift);
  dy.random();
  if (c.add) dbias.random();
  const std::vector<double> old = dbias.values(), in = dy.values();
  dy.remember();
  dbias.remember();
  BiasBackward p = {};
  p.dy = dy.data;
  p.dbias = dbias.data;
  p.columns = static_cast<int>(c.columns);
  p.add = c.add;
  p.layout.rows = c.outer * c.inner;
  p.layout.rank = 2;
  p.layout.shape[0] = c.inner;
  p.layout.shape[1] = c.outer;
  p.layout.stride[0][0] = dy.stride;
  p.layout.stride[0][1] = dy.product_stride;
  const size_t bytes = bias_backward_scratch_bytes(c.type, p, c.sm_count);
  std::vector<uint4, simt::DeviceAllocator<uint4>> scratch(bytes / 16 + 1);
  std::memset(scratch.data(), 0xff, scratch.size() * 16);
  p.partials = reinterpret_cast<float*>(scratch.data());
  simt::count_memory(true);
  simt::reset_counters();
  cudaError_t error = bias_backward(nullptr, c.type, c.dbias_type, p, c.sm_count);
  if (error == cudaSuccess) error = cudaDeviceSynchronize();
  if (!check(error == cudaSuccess, c, cudaGetErrorString(error))) return;
  const simt::Counters counters = simt::counters();

  for (int64_t i = 0; i < c.columns; ++i) {
    double sum = c.add ? old[static_cast<size_t>(i)] : 0, size = std::fabs(sum);
    for (int64_t r = 0; r < c.outer * c.inner; ++r) {
      const double x = in[static_cast<size_t>(r * c.columns + i)];
      sum += x;
      size += std::fabs(x);
    }
    const double tolerance =
        0x1p-24 * 8 * size + precision_of(c.dbias_type) * std::fabs(sum) + 0x1p-25;
    if (!check(std::fabs(dbias.get(0, 0, i) - sum) <= tolerance, c, "a wrong sum")) return;
  }
  check(dy.untouched() && dbias.untouched(), c, "wrote outside of dbias");
  const auto* last = reinterpret_cast<const unsigned char*>(scratch.data()) + bytes;
  check(last[0] == 0xff && last[15] == 0xff, c, "wrote beyond its scratch");

  // Whole vectors: dy is read once, sector by sector; the partial sums add a fraction.
  const int64_t elements = c.outer * c.inner * c.columns;
  if (c.columns * dy.size() % 16 != 0 || c.gap % 8 != 0 || c.shift % 8 != 0 || elements == 0)
    return;
  const int64_t partial_bytes = static_cast<int64_t>(bytes);
  check(counters.load.bytes == elements * dy.size() + partial_bytes, c, "dy is not read just once");
  check(c.outer * c.inner < 128 || elements < 100000 || partial_bytes * 20 <= elements * dy.size(),
        c, "the partial sums are more than 5 % of dy");
  if (c.columns * dy.size() % 32 == 0 && dy.stride * dy.size() % 32 == 0 &&
      dy.product_stride * dy.size() % 32 == 0 && c.shift == 0)
    check(counters.load.bytes * 10 >= counters.load.sectors * 32 * 9, c,
          "sectors are used in part");
}

// The same bits as with rows side by side.
void far_apart(int64_t columns) {
  using T = __nv_bfloat16;
  const Case c = {ElementType::kBf16, ElementType::kF32, 1, 3, columns, 0, 0, false, 4};
  Matrix dy(c.type, 1, c.inner, columns, 0, 0), dbias(c.dbias_type, 2, 1, columns, 0, 0);
  dy.random();
  FarRows<T> far_dy(c.inner, columns);
  far_dy.fill(reinterpret_cast<const T*>(dy.data));
  BiasBackward p = {};
  p.columns = static_cast<int>(columns);
  for (int far = 0; far < 2; ++far) {
    p.dy = far ? far_dy.data : static_cast<void*>(dy.data);
    p.dbias = dbias.at(far, 0, 0);
    p.layout = {c.inner, 1, {c.inner}, {{far ? far_dy.kApart : dy.stride}}};
    cudaError_t error = bias_backward(nullptr, c.type, c.dbias_type, p, c.sm_count);
    if (error == cudaSuccess) error = cudaDeviceSynchronize();
    if (!check(error == cudaSuccess, c, cudaGetErrorString(error))) return;
  }
  check(std::memcmp(dbias.at(0, 0, 0), dbias.at(1, 0, 0), static_cast<size_t>(columns) * 4) == 0, c,
        "other bits with rows far apart");
}

void same_bits(ElementType type, int64_t columns) {
  const Case c = {type, ElementType::kF32, 1, 300, columns, 0, 0, true, 4};
  Matrix dy(type, 1, c.inner, columns, 0, 0), dbias(c.dbias_type, 1, 1, columns, 0, 0);
  dy.random();
  BiasBackward p = {};
  p.dy = dy.data;
  p.dbias = dbias.data;
  p.columns = static_cast<int>(columns);
  p.add = true;
  p.layout = {c.inner, 1, {c.inner}, {{dy.stride}}};
  std::vector<float, simt::DeviceAllocator<float>> scratch(
      bias_backward_scratch_bytes(type, p, c.sm_count) / sizeof(float));
  check(!scratch.empty(), c, "one part only");
  p.partials = scratch.data();
  const int other = other_bits(seed, [&] {
    dbias.fill([](int64_t, int64_t, int64_t) { return 0.3f; });
    cudaError_t error = bias_backward(nullptr, type, c.dbias_type, p, c.sm_count);
    if (error == cudaSuccess) error = cudaDeviceSynchronize();
    Bits bits;
    if (error == cudaSuccess) append(bits, dbias.data, static_cast<size_t>(columns) * 4);
    return bits;
  });
  check(other < 0, c, "other bits in another order");
}

}  // namespace

int main(int argc, char** argv) {
  if (argc > 1) seed = static_cast<unsigned>(std::strtoul(argv[1], nullptr, 10));
  std::printf("seed %u\n", seed);
  constexpr ElementType kTypes[] = {ElementType::kF32, ElementType::kF16, ElementType::kBf16};
  for (simt::Order order : {simt::Order::kForward, simt::Order::kReverse, simt::Order::kRandom}) {
    simt::set_options({order, seed});
    generator.seed(seed + static_cast<unsigned>(order));
    for (ElementType type : kTypes)
      for (int64_t columns : {1, 8, 31, 64, 257, 768, 2304})
        for (int64_t rows : {0, 1, 2, 31, 33, 300, 1023}) {
          const int kGaps[] = {0, 8, 3}, kShifts[] = {0, 8, 1}, kCounts[] = {1, 4, 132};
          run({type, pick(2) ? type : ElementType::kF32, 1 + pick(2), rows, columns, kGaps[pick(3)],
               kShifts[pick(3)], pick(2) == 0, kCounts[pick(3)]});
        }
    run({ElementType::kBf16, ElementType::kF32, 1, 65537, 8, 0, 0, false, 132});
  }
  simt::count_memory(false);
  if (kFarRows)
    for (int64_t columns : {33, 64}) far_apart(columns);
  for (ElementType type : kTypes)
    for (int64_t columns : {64, 257}) same_bits(type, columns);
  std::printf("%d checks, %d failures\n", checks, failures);
  return failures == 0 ? 0 : 1;
}
