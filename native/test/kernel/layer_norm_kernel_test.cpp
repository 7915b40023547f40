// Runs kernels/layer_norm.cu on the host (native/src/sim) against float64, for every tile and
// element type, ragged and strided. Usage: layer_norm_kernel_test [seed [first]]
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

#include "../../../kernels/layer_norm.cu"
#include "element.h"
#include "far_rows.h"
#include "repeat.h"
#include "tally.h"

namespace {

using namespace gatun;
using namespace gatun::kernels;

// Rows of elements at an address aligned to 16 (or 2 elements past one), with canaries between and
// around them.
struct Matrix {
  ElementType type;
  int64_t rows, columns, inner, inner_stride, outer_stride;
  std::vector<uint4, simt::DeviceAllocator<uint4>> memory;
  char* data;
  static constexpr int64_t kMargin = 64;

  // `inner` rows with one stride, then a larger step: two leading dimensions.
  Matrix(ElementType t, int64_t r, int64_t c, int64_t inner_rows, int64_t gap, bool misaligned)
      : type(t), rows(r), columns(c), inner(inner_rows), inner_stride(c + gap) {
    outer_stride = inner * inner_stride + 2 * gap;
    const int64_t bytes = ((rows + inner - 1) / inner * outer_stride + 16) * 4 + 2 * kMargin;
    memory.resize(static_cast<size_t>(bytes / 16 + 1));
    std::memset(memory.data(), 0xA5, memory.size() * 16);
    data = reinterpret_cast<char*>(memory.data()) + kMargin + (misaligned ? 2 * size() : 0);
  }
  int64_t size() const { return static_cast<int64_t>(size_of(type)); }
  int64_t offset(int64_t row) const {
    return row / inner * outer_stride + row % inner * inner_stride;
  }
  void* at(int64_t row, int64_t column) const { return data + (offset(row) + column) * size(); }
  double get(int64_t row, int64_t column) const { return value_at(type, at(row, column)); }
  void set(int64_t row, int64_t column, double value) const {
    set_value(type, at(row, column), static_cast<float>(value));
  }
  Matrix& random(double scale, double shift) {
    std::normal_distribution<double> normal(shift, scale);
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t c = 0; c < columns; ++c) set(r, c, normal(generator));
    return *this;
  }
  template <int kOperands>
  void describe(RowLayout<kOperands>& layout, int operand) const {
    layout.stride[operand][0] = inner_stride;
    layout.stride[operand][1] = outer_stride;
  }
  // What lies outside of the elements, to be compared after a run.
  std::vector<unsigned char> outside() const {
    const auto* all = reinterpret_cast<const unsigned char*>(memory.data());
    std::vector<unsigned char> bytes(all, all + memory.size() * 16);
    for (int64_t r = 0; r < rows; ++r)
      std::memset(bytes.data() +
                      (static_cast<char*>(at(r, 0)) - reinterpret_cast<const char*>(memory.data())),
                  0, static_cast<size_t>(columns * size()));
    return bytes;
  }
};

struct Case {
  ElementType type, parameter_type;
  int64_t rows, columns;
  bool gaps, misaligned, residual;
  int multiprocessors = 1;  // few blocks, so that each has several rows
  std::string text() const {
    return std::string(name_of(type)) + "/" + name_of(parameter_type) + " " + std::to_string(rows) +
           "x" + std::to_string(columns) + (gaps ? " gaps" : "") +
           (misaligned ? " misaligned" : "") + (residual ? " residual" : "");
  }
};

template <typename Truth>
void compare(const char* what, const Case& c, const Matrix& had, double size, Truth truth) {
  ++checks;
  // f32 arithmetic on numbers of this size, then one rounding to the type
  for (int64_t r = 0; r < had.rows; ++r)
    for (int64_t i = 0; i < had.columns; ++i) {
      const double wanted = truth(r, i);
      const double tolerance =
          8 * 0x1p-24 * size + 2 * precision_of(had.type) * std::fabs(wanted) + 1e-7 * size;
      if (!(std::fabs(had.get(r, i) - wanted) <= tolerance)) {
        if (++failures <= 20)
          std::fprintf(stderr,
                       "FAILED (seed %u) %s %s [%lld,%lld]: had %.9g, wanted %.9g within %.3g\n",
                       seed, what, c.text().c_str(), static_cast<long long>(r),
                       static_cast<long long>(i), had.get(r, i), wanted, tolerance);
        return;
      }
    }
}

template <typename Truth>
void same_bits(const char* what, const Case& c, const Matrix& had, Truth truth) {
  ++checks;
  for (int64_t r = 0; r < had.rows; ++r)
    for (int64_t i = 0; i < had.columns; ++i)
      if (had.get(r, i) != truth(r, i)) {
        if (++failures <= 20)
          std::fprintf(stderr, "FAILED (seed %u) %s %s [%lld,%lld]: had %.9g, wanted %.9g\n", seed,
                       what, c.text().c_str(), static_cast<long long>(r), static_cast<long long>(i),
                       had.get(r, i), truth(r, i));
        return;
      }
}

void unchanged(const char* what, const Case& c, const Matrix& m,
               const std::vector<unsigned char>& before) {
  ++checks;
  if (m.outside() != before && ++failures <= 20)
    std::fprintf(stderr, "FAILED (seed %u) %s %s: wrote outside of the elements\n", seed, what,
                 c.text().c_str());
}

// Waits for what was launched.
bool ran(const char* what, const Case& c, cudaError_t launched) {
  ++checks;
  const cudaError_t error = launched != cudaSuccess ? launched : cudaDeviceSynchronize();
  if (error == cudaSuccess) return true;
  if (++failures <= 20)
    std::fprintf(stderr, "FAILED (seed %u) %s %s: %s\n", seed, what, c.text().c_str(),
                 cudaGetErrorString(error));
  return false;
}

void run(const Case& c) {
  const int64_t inner = c.rows % 2 == 0 ? 2 : 1;
  const int64_t gap = c.gaps ? (c.misaligned ? 3 : 16) : 0;
  const auto matrix = [&](ElementType type, int64_t rows, int64_t columns) {
    return Matrix(type, rows, columns, rows == c.rows ? inner : 1, rows == c.rows ? gap : 0,
                  c.misaligned);
  };
  // rows further apart than those of x, differently for each
  const auto apart = [gap](int64_t more) { return gap == 0 ? 0 : gap + more; };
  Matrix x = matrix(c.type, c.rows, c.columns), sum = x, y = x, dx = x;
  Matrix residual(c.type, c.rows, c.columns, inner, apart(16), c.misaligned);
  Matrix dy(c.type, c.rows, c.columns, inner, apart(48), c.misaligned);
  // copies of a Matrix point to the first one's memory
  for (Matrix* m : {&sum, &y, &dx})
    m->data = reinterpret_cast<char*>(m->memory.data()) +
              (x.data - reinterpret_cast<char*>(x.memory.data()));
  Matrix weight = matrix(c.parameter_type, 1, c.columns),
         bias = matrix(c.parameter_type, 1, c.columns);
  Matrix mean(ElementType::kF32, c.rows, 1, inner, gap, false);
  Matrix rstd(ElementType::kF32, c.rows, 1, inner, apart(5), false);
  x.random(1.5, generator() % 3 == 0 ? 10 : 0);
  residual.random(1, 0);
  weight.random(0.3, 1);
  bias.random(0.3, 0);
  dy.random(0.5, 0);
  dx.random(1, 0);

  const DropoutRule rule = dropout_rule(0.3);
  std::vector<int64_t, simt::DeviceAllocator<int64_t>> step(1, 5);
  const PhiloxSource philox = {generator(), step.data(), 9, 2};
  const bool drops = c.residual && generator() % 2;
  // a dropped value as f32 and as it is stored
  const auto dropped = [&](int64_t r, int64_t i, double value) {
    const uint32_t word = philox.stream().word(static_cast<uint64_t>(r * c.columns + i));
    return word >> 8 >= rule.threshold ? static_cast<float>(value) * rule.scale : 0.f;
  };
  const auto stored_as = [&](float value) {
    return c.type == ElementType::kF32   ? value
           : c.type == ElementType::kF16 ? __half2float(__float2half_rn(value))
                                         : __bfloat162float(__float2bfloat16_rn(value));
  };

  std::vector<double> input(static_cast<size_t>(c.rows * c.columns)), means, rstds;
  for (int64_t r = 0; r < c.rows; ++r) {
    double total = 0, squares = 0;
    for (int64_t i = 0; i < c.columns; ++i) {
      if (c.residual) {
        sum.set(r, i,
                static_cast<double>((drops ? stored_as(dropped(r, i, x.get(r, i)))
                                           : static_cast<float>(x.get(r, i))) +
                                    static_cast<float>(residual.get(r, i))));
        input[static_cast<size_t>(r * c.columns + i)] = sum.get(r, i);
        sum.set(r, i, NAN);
      } else {
        input[static_cast<size_t>(r * c.columns + i)] = x.get(r, i);
      }
      total += input[static_cast<size_t>(r * c.columns + i)];
    }
    means.push_back(total / static_cast<double>(c.columns));
    for (int64_t i = 0; i < c.columns; ++i)
      squares += std::pow(input[static_cast<size_t>(r * c.columns + i)] - means.back(), 2);
    rstds.push_back(1 / std::sqrt(squares / static_cast<double>(c.columns) + 1e-5));
  }
  double largest_rstd = 1;
  for (double r : rstds) largest_rstd = std::max(largest_rstd, r);
  const auto in = [&](int64_t r, int64_t i) {
    return input[static_cast<size_t>(r * c.columns + i)];
  };
  const auto xhat = [&](int64_t r, int64_t i) {
    return (in(r, i) - means[static_cast<size_t>(r)]) * rstds[static_cast<size_t>(r)];
  };

  const bool in_place = c.residual && generator() % 2;
  Matrix& stored = in_place ? residual : sum;
  LayerNormForward f = {};
  f.x = x.data;
  f.weight = weight.data;
  f.bias = bias.data;
  f.y = y.data;
  f.mean = reinterpret_cast<float*>(mean.data);
  f.rstd = reinterpret_cast<float*>(rstd.data);
  if (c.residual) {
    f.residual = residual.data;
    f.sum = stored.data;
  }
  if (drops) {
    f.drops = true;
    f.rule = rule;
    f.philox = philox;
  }
  f.columns = static_cast<int>(c.columns);
  f.eps = 1e-5f;
  f.layout.rows = c.rows;
  // one dimension where the strides allow it, as the host merges them
  f.layout.rank = gap == 0 || inner == 1 ? 1 : 2;
  f.layout.shape[0] = f.layout.rank == 1 ? c.rows : inner;
  f.layout.shape[1] = c.rows / inner;
  const auto describe = [&](auto& layout, int operand, const Matrix& m) {
    m.describe(layout, operand);
    if (layout.rank == 1 && inner == 1) layout.stride[operand][0] = m.outer_stride;
  };
  describe(f.layout, LayerNormForward::kX, x);
  describe(f.layout, LayerNormForward::kResidual, residual);
  describe(f.layout, LayerNormForward::kY, y);
  describe(f.layout, LayerNormForward::kSum, stored);
  describe(f.layout, LayerNormForward::kMean, mean);
  describe(f.layout, LayerNormForward::kRstd, rstd);
  const auto y_before = y.outside(), sum_before = stored.outside(), mean_before = mean.outside();
  if (!ran("forward", c, layer_norm_forward(nullptr, c.type, c.parameter_type, f))) return;
  double size = 1;
  for (int64_t r = 0; r < c.rows; ++r)
    for (int64_t i = 0; i < c.columns; ++i)
      size = std::max(size, (std::fabs(in(r, i)) + 1) * rstds[static_cast<size_t>(r)] * 2);
  compare("y", c, y, size,
          [&](int64_t r, int64_t i) { return xhat(r, i) * weight.get(0, i) + bias.get(0, i); });
  compare("mean", c, mean, size, [&](int64_t r, int64_t) { return means[static_cast<size_t>(r)]; });
  compare("rstd", c, rstd, size * largest_rstd,
          [&](int64_t r, int64_t) { return rstds[static_cast<size_t>(r)]; });
  if (c.residual) same_bits("sum", c, stored, in);
  unchanged("y", c, y, y_before);
  unchanged("sum", c, stored, sum_before);
  unchanged("mean", c, mean, mean_before);

  Matrix normalised = x;
  normalised.data = reinterpret_cast<char*>(normalised.memory.data()) +
                    (x.data - reinterpret_cast<char*>(x.memory.data()));
  for (int64_t r = 0; r < c.rows; ++r) {
    for (int64_t i = 0; i < c.columns; ++i) normalised.set(r, i, in(r, i));
    mean.set(r, 0, means[static_cast<size_t>(r)]);
    rstd.set(r, 0, rstds[static_cast<size_t>(r)]);
  }
  const bool over_dy = generator() % 2;
  Matrix dweight = matrix(c.parameter_type, 1, c.columns),
         dbias = matrix(ElementType::kF32, 1, c.columns);
  dweight.random(1, 0);
  dbias.random(1, 0);
  LayerNormBackward b = {};
  b.add_dx = !over_dy && generator() % 2;
  b.add_dweight = generator() % 2;
  b.add_dbias = generator() % 2;
  b.add_ddropped = generator() % 2;
  const int missing = static_cast<int>(generator() % 5);
  Matrix ddropped(c.type, c.rows, c.columns, inner, apart(32), c.misaligned);
  ddropped.random(1, 0);
  const auto ddropped_before = ddropped.outside();
  std::vector<double> upstream, old_dx, old_dweight, old_dbias, old_ddropped;
  for (int64_t r = 0; r < c.rows; ++r)
    for (int64_t i = 0; i < c.columns; ++i) {
      upstream.push_back(dy.get(r, i));
      old_dx.push_back(b.add_dx ? dx.get(r, i) : 0);
      old_ddropped.push_back(b.add_ddropped ? ddropped.get(r, i) : 0);
    }
  for (int64_t i = 0; i < c.columns; ++i) {
    old_dweight.push_back(b.add_dweight ? dweight.get(0, i) : 0);
    old_dbias.push_back(b.add_dbias ? dbias.get(0, i) : 0);
  }
  Matrix& into = over_dy ? dy : dx;
  b.dx = missing == 0 ? nullptr : into.data;
  b.dweight = missing == 1 ? nullptr : dweight.data;
  b.dbias = missing == 2 ? nullptr : dbias.data;
  if (drops && missing != 0) {
    b.ddropped = ddropped.data;
    b.rule = rule;
    b.philox = philox;
  }
  b.dy = dy.data;
  b.x = normalised.data;
  b.mean = reinterpret_cast<float*>(mean.data);
  b.rstd = reinterpret_cast<float*>(rstd.data);
  b.weight = weight.data;
  b.dweight_type = c.parameter_type;
  b.dbias_type = ElementType::kF32;
  b.columns = static_cast<int>(c.columns);
  b.layout.rows = c.rows;
  b.layout.rank = f.layout.rank;
  b.layout.shape[0] = f.layout.shape[0];
  b.layout.shape[1] = f.layout.shape[1];
  describe(b.layout, LayerNormBackward::kDx, into);
  describe(b.layout, LayerNormBackward::kDdropped, ddropped);
  describe(b.layout, LayerNormBackward::kDy, dy);
  describe(b.layout, LayerNormBackward::kX, normalised);
  describe(b.layout, LayerNormBackward::kMean, mean);
  describe(b.layout, LayerNormBackward::kRstd, rstd);
  std::vector<float, simt::DeviceAllocator<float>> partials(
      layer_norm_backward_scratch_bytes(c.type, c.parameter_type, b, c.multiprocessors) / 4 + 1,
      NAN);
  b.partials = partials.data();
  const float canary = 12345.f;
  partials.back() = canary;
  const auto dx_before = into.outside(), dweight_before = dweight.outside();
  if (!ran("backward", c,
           layer_norm_backward(nullptr, c.type, c.parameter_type, b, c.multiprocessors)))
    return;
  const auto g = [&](int64_t r, int64_t i) {
    return upstream[static_cast<size_t>(r * c.columns + i)];
  };
  std::vector<double> g_means, gx_means;
  for (int64_t r = 0; r < c.rows; ++r) {
    double g_total = 0, gx_total = 0;
    for (int64_t i = 0; i < c.columns; ++i) {
      g_total += g(r, i) * weight.get(0, i);
      gx_total += g(r, i) * weight.get(0, i) * xhat(r, i);
    }
    g_means.push_back(g_total / static_cast<double>(c.columns));
    gx_means.push_back(gx_total / static_cast<double>(c.columns));
  }
  if (missing != 0)
    compare("dx", c, into, size * size * 4 * largest_rstd, [&](int64_t r, int64_t i) {
      const size_t row = static_cast<size_t>(r);
      return old_dx[static_cast<size_t>(r * c.columns + i)] +
             rstds[row] * (g(r, i) * weight.get(0, i) - g_means[row] - xhat(r, i) * gx_means[row]);
    });
  if (b.ddropped != nullptr)
    same_bits("ddropped", c, ddropped, [&](int64_t r, int64_t i) {
      const float value = stored_as(dropped(r, i, into.get(r, i)));
      return static_cast<double>(stored_as(
          b.add_ddropped
              ? value + static_cast<float>(old_ddropped[static_cast<size_t>(r * c.columns + i)])
              : value));
    });
  unchanged("ddropped", c, ddropped, ddropped_before);
  const double column_size = size * 2 * static_cast<double>(c.rows);
  if (missing != 1)
    compare("dweight", c, dweight, column_size, [&](int64_t, int64_t i) {
      double total = old_dweight[static_cast<size_t>(i)];
      for (int64_t r = 0; r < c.rows; ++r) total += g(r, i) * xhat(r, i);
      return total;
    });
  if (missing != 2)
    compare("dbias", c, dbias, column_size, [&](int64_t, int64_t i) {
      double total = old_dbias[static_cast<size_t>(i)];
      for (int64_t r = 0; r < c.rows; ++r) total += g(r, i);
      return total;
    });
  unchanged("dx", c, into, dx_before);
  unchanged("dweight", c, dweight, dweight_before);
  ++checks;
  if (partials.back() != canary) {
    ++failures;
    std::fprintf(stderr, "FAILED %s: wrote beyond its scratch\n", c.text().c_str());
  }
}

void expect(const Case& c, const char* what, bool holds) {
  ++checks;
  if (!holds && ++failures <= 20)
    std::fprintf(stderr, "FAILED (seed %u) %s: %s\n", seed, c.text().c_str(), what);
}

// Both passes over dense rows, as the forward pass needs them: y, mean and rstd feed the backward.
struct Dense {
  Case c;
  Matrix x, residual, sum, y, dy, dx, weight, dweight, dbias, mean, rstd;
  std::vector<float, simt::DeviceAllocator<float>> partials;

  explicit Dense(const Case& of)
      : c(of),
        x(matrix(c.type, c.rows)),
        residual(matrix(c.type, c.rows)),
        sum(matrix(c.type, c.rows)),
        y(matrix(c.type, c.rows)),
        dy(matrix(c.type, c.rows)),
        dx(matrix(c.type, c.rows)),
        weight(matrix(c.parameter_type, 1)),
        dweight(matrix(ElementType::kF32, 1)),
        dbias(matrix(ElementType::kF32, 1)),
        mean(ElementType::kF32, c.rows, 1, 1, 0, false),
        rstd(ElementType::kF32, c.rows, 1, 1, 0, false) {
    for (Matrix* m : {&x, &residual, &dy, &weight}) m->random(1, 0);
  }
  Dense(const Dense&) = delete;
  Matrix matrix(ElementType type, int64_t rows) const {
    return Matrix(type, rows, c.columns, 1, 0, false);
  }
  LayerNormForward forward() {
    LayerNormForward f = {};
    f.x = x.data;
    f.residual = residual.data;
    f.weight = weight.data;
    f.y = y.data;
    f.sum = sum.data;
    f.mean = reinterpret_cast<float*>(mean.data);
    f.rstd = reinterpret_cast<float*>(rstd.data);
    f.eps = 1e-5f;
    lay_rows(f, c.rows, static_cast<int>(c.columns), c.columns);
    f.layout.stride[LayerNormForward::kMean][0] = f.layout.stride[LayerNormForward::kRstd][0] = 1;
    return f;
  }
  LayerNormBackward backward() {
    LayerNormBackward b = {};
    b.dx = dx.data;
    b.dweight = dweight.data;
    b.dbias = dbias.data;
    b.dy = dy.data;
    b.x = sum.data;
    b.mean = reinterpret_cast<float*>(mean.data);
    b.rstd = reinterpret_cast<float*>(rstd.data);
    b.weight = weight.data;
    b.dweight_type = b.dbias_type = ElementType::kF32;
    lay_rows(b, c.rows, static_cast<int>(c.columns), c.columns);
    b.layout.stride[LayerNormBackward::kMean][0] = b.layout.stride[LayerNormBackward::kRstd][0] = 1;
    partials.resize(layer_norm_backward_scratch_bytes(c.type, c.parameter_type, b, kSmCount) / 4);
    b.partials = partials.data();
    return b;
  }
  static constexpr int kSmCount = 4;
  bool launch(const LayerNormForward& f) const {
    return ran("forward", c, layer_norm_forward(nullptr, c.type, c.parameter_type, f));
  }
  bool launch(const LayerNormBackward& b) const {
    return ran("backward", c, layer_norm_backward(nullptr, c.type, c.parameter_type, b, kSmCount));
  }
  Bits results() const {
    Bits bits;
    for (const Matrix* m : {&y, &sum, &dx, &dweight, &dbias, &mean, &rstd})
      append(bits, m->data, static_cast<size_t>(m->rows * m->columns * m->size()));
    return bits;
  }
};

// Blocks of several rows each, and the second kernel.
void same_bits_in_all_orders(ElementType type, int64_t columns) {
  Dense d({type, type, 70, columns, false, false, true});
  const LayerNormForward f = d.forward();
  const LayerNormBackward b = d.backward();
  expect(d.c, "other bits in another order",
         other_bits(seed, [&] { return d.launch(f) && d.launch(b) ? d.results() : Bits(); }) < 0);
}

// A NaN in a row of x, or of dy, is in that row of y and dx and in no other, but in all of
// dweight's column.
void nan_stays(ElementType type, int64_t columns) {
  constexpr int64_t kRow = 3, kUpstreamRow = 17;
  Dense d({type, type, 20, columns, false, false, true});
  d.x.set(kRow, columns / 2, NAN);
  d.dy.set(kUpstreamRow, columns - 1, NAN);
  if (!d.launch(d.forward()) || !d.launch(d.backward())) return;
  for (int64_t r = 0; r < d.c.rows; ++r)
    for (int64_t i = 0; i < columns; ++i)
      if (std::isnan(d.y.get(r, i)) != (r == kRow) ||
          std::isnan(d.dx.get(r, i)) != (r == kRow || r == kUpstreamRow))
        return expect(d.c, "a NaN spread or vanished", false);
  for (int64_t i = 0; i < columns; ++i)
    if (!std::isnan(d.dweight.get(0, i)) || std::isnan(d.dbias.get(0, i)) != (i == columns - 1))
      return expect(d.c, "a NaN in a gradient of a parameter", false);
}

// A grid has at most 2^31 - 1 blocks; with more rows, where a row is a block's, a block has
// several.
void few_blocks() {
  Dense d({ElementType::kF32, ElementType::kF32, 7, 33, false, false, true});
  const LayerNormForward f = d.forward();
  const LayerNormBackward b = d.backward();
  if (!d.launch(f) || !d.launch(b)) return;
  const Bits wanted = d.results();
  const auto forget = [](Matrix& m) {
    for (int64_t r = 0; r < m.rows; ++r)
      for (int64_t i = 0; i < m.columns; ++i) m.set(r, i, NAN);
  };
  forget(d.y);
  forget(d.sum);
  constexpr auto kForward = layer_norm_forward_loop<float, float, 1>;
  constexpr auto kBackward = layer_norm_backward_loop<float, float, 1>;
  if (!ran("forward, 2 blocks", d.c,
           gatun::kernels::launch("forward", kForward, 2, kNormLoopThreads,
                                  sizeof(NormForwardShared<kNormLoopThreads>), nullptr, f)))
    return;
  forget(d.dx);
  if (!ran("backward, 2 blocks", d.c,
           gatun::kernels::launch("backward", kBackward, 2, kNormLoopThreads, sizeof(LoopShared),
                                  nullptr, b)))
    return;
  expect(d.c, "other bits with fewer blocks than rows", d.results() == wanted);
}

// Rows 2^31 elements apart: the same bits as side by side.
void far_apart(int64_t columns) {
  using T = __nv_bfloat16;
  constexpr ElementType kType = ElementType::kBf16;
  Dense d({kType, kType, 3, columns, false, false, true});
  LayerNormForward f = d.forward();
  LayerNormBackward b = d.backward();
  if (!d.launch(f) || !d.launch(b)) return;
  const Bits dweight = d.results();
  FarRows<T> x(3, columns), residual(3, columns), sum(3, columns), y(3, columns), dy(3, columns),
      dx(3, columns);
  const auto rows = [](const Matrix& m) { return reinterpret_cast<const T*>(m.data); };
  x.fill(rows(d.x));
  residual.fill(rows(d.residual));
  dy.fill(rows(d.dy));
  f.x = x.data;
  f.residual = residual.data;
  f.sum = sum.data;
  f.y = y.data;
  b.x = sum.data;
  b.dy = dy.data;
  b.dx = dx.data;
  for (int operand : {LayerNormForward::kX, LayerNormForward::kResidual, LayerNormForward::kY,
                      LayerNormForward::kSum})
    f.layout.stride[operand][0] = x.kApart;
  for (int operand : {LayerNormBackward::kDx, LayerNormBackward::kDy, LayerNormBackward::kX})
    b.layout.stride[operand][0] = x.kApart;
  if (!d.launch(f) || !d.launch(b)) return;
  expect(d.c, "other rows far apart",
         y.equals(rows(d.y)) && sum.equals(rows(d.sum)) && dx.equals(rows(d.dx)));
  expect(d.c, "other sums over rows far apart", d.results() == dweight);
}

// The traffic of the forward pass, counted at ptx.cuh: y leaves once; x, weight and bias arrive
// once a row at most; and every 32-byte sector that a request touches is used whole.
void traffic(ElementType type) {
  constexpr int64_t kRows = 1024, kColumns = 768;
  const auto matrix = [&](int64_t rows) { return Matrix(type, rows, kColumns, 1, 0, false); };
  Matrix x = matrix(kRows), y = matrix(kRows), weight = matrix(1), bias = matrix(1);
  x.random(1, 0);
  weight.random(1, 0);
  bias.random(1, 0);
  LayerNormForward f = {};
  f.x = x.data;
  f.y = y.data;
  f.weight = weight.data;
  f.bias = bias.data;
  f.eps = 1e-5f;
  lay_rows(f, kRows, kColumns, kColumns);
  simt::reset_counters();
  simt::count_memory(true);
  const auto start = std::chrono::steady_clock::now();
  const Case c = {type, type, kRows, kColumns, false, false, false};
  if (!ran("forward", c, layer_norm_forward(nullptr, type, type, f))) return;
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  simt::count_memory(false);
  const simt::Counters had = simt::counters();
  const int64_t bytes = kRows * kColumns * x.size();
  std::printf(
      "layer_norm_forward %s %lldx%lld: %.3f s; stored %lld bytes, loaded %lld, %lld barriers\n",
      name_of(type), static_cast<long long>(kRows), static_cast<long long>(kColumns),
      seconds.count(), static_cast<long long>(had.store.bytes),
      static_cast<long long>(had.load.bytes), static_cast<long long>(had.barriers));
  ++checks;
  if (had.store.bytes != bytes || had.load.bytes < bytes || had.load.bytes > 3 * bytes ||
      had.store.sectors * 32 != had.store.bytes || had.load.sectors * 32 != had.load.bytes) {
    ++failures;
    std::fprintf(stderr, "FAILED traffic: x has %lld bytes, %lld sectors stored, %lld loaded\n",
                 static_cast<long long>(bytes), static_cast<long long>(had.store.sectors),
                 static_cast<long long>(had.load.sectors));
  }
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
      for (ElementType parameter_type : {type, ElementType::kF32})
        for (int64_t columns : {1, 3, 8, 16, 64, 100, 512, 520, 768, 1001, 2048, 2056, 8192, 8200})
          for (int variant = 0; variant < 3; ++variant) {
            const int64_t some[] = {1, 2, 5, 18, 40};
            const int64_t rows = columns > 2048 ? some[generator() % 3] : some[generator() % 5];
            run({type, parameter_type, rows, columns, variant > 0, variant == 2,
                 generator() % 2 == 0});
            if (argc > 2 && failures > 0) return 1;
          }
    // more partial rows than threads add up a column of them
    for (ElementType type : kTypes) run({type, type, 150, 520, false, false, false, 132});
    // rows of any length, each block with several
    for (ElementType type : kTypes) run({type, type, 39, 8200, true, true, true});
    for (ElementType type : kTypes) traffic(type);
    // no rows: the parameter gradients are zeroed
    run({ElementType::kF32, ElementType::kF32, 0, 64, false, false, false});
  }
  for (int64_t columns : {64, 100}) same_bits_in_all_orders(ElementType::kF32, columns);
  same_bits_in_all_orders(ElementType::kF16, 64);
  same_bits_in_all_orders(ElementType::kBf16, 520);
  for (ElementType type : kTypes)
    for (int64_t columns : {33, 64, 520}) nan_stays(type, columns);
  if (kFarRows)
    for (int64_t columns : {33, 64}) far_apart(columns);
  for (int64_t rows : {31, 33, 1023})
    for (ElementType type : kTypes) run({type, type, rows, 8, true, false, rows == 33});
  run({ElementType::kF32, ElementType::kF32, 65537, 4, false, false, false});
  for (ElementType type : kTypes) run({type, type, 0, 33, false, false, true});
  few_blocks();
  std::printf("%d checks, %d failures\n", checks, failures);
  return failures == 0 ? 0 : 1;
}
