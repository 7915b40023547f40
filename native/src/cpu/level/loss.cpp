// Cross entropy of rows of logits, its gradient written over them.
#include <algorithm>
#include <cmath>

#include "cpu/dispatch.h"
#include "cpu/level/backend.h"
#include "cpu/level/rows.h"
#include "cpu/level/vec.h"

namespace gatun::cpu::GATUN_LEVEL {
namespace {

// What is read twice in a row's first pass: stays in L1, and long enough that moving its sum to
// double costs nothing.
constexpr int64_t kChunk = 2048;

// Where the index-th element (rows_only: the index-th row) of a view starts.
int64_t offset_of(const View& view, int64_t index, bool rows_only) {
  int64_t offset = 0;
  for (int d = view.rank - 1 - (rows_only ? 1 : 0); d >= 0; --d) {
    offset += index % view.shape[d] * view.stride[d];
    index /= view.shape[d];
  }
  return offset;
}

struct Statistics {
  double max = -INFINITY;
  double exponentials = 0;  // sum of e^(x - max)
  double logits = 0;        // sum of x
};

// One pass in chunks, the running sum rescaled when the maximum grows (Milakov & Gimelshein 2018,
// arXiv:1805.02867).
template <typename T>
Statistics statistics(const T* x, int64_t n, bool sum_logits) {
  Statistics row;
  for (int64_t begin = 0; begin < n; begin += kChunk) {
    const T* chunk = x + begin;
    const int64_t size = std::min(kChunk, n - begin);
    vf peak = splat(-INFINITY);
    vf total = vf{};
    each_vector(
        size, [&](int64_t i) { peak = max(load(chunk + i), peak); },
        [&](int64_t i, int count) {
          for (int j = 0; j < count; ++j) peak[0] = std::max(peak[0], to_float(chunk[i + j]));
        });
    const float chunk_max = max_lane(peak);
    const float most = std::max(static_cast<float>(row.max), chunk_max);
    const float offset = most == -INFINITY ? 0.f : most;  // -inf - -inf would be NaN
    vf exponentials = vf{};
    each_vector(
        size, [&](int64_t i) { exponentials += exp(load(chunk + i) - offset); },
        [&](int64_t i, int count) {
          vf e = exp(load_first(chunk + i, count) - offset);
          for (int j = count; j < kLanes; ++j) e[j] = 0.f;
          exponentials += e;
        });
    if (sum_logits) {
      each_vector(
          size, [&](int64_t i) { total += load(chunk + i); },
          [&](int64_t i, int count) { total += load_first(chunk + i, count); });
      row.logits += sum(total);
    }
    if (most > row.max) {
      row.exponentials *= std::exp(row.max - most);
      row.max = most;
    }
    row.exponentials += sum(exponentials);
  }
  return row;
}

// x = (softmax(x) - smoothing / n) * factor, then the target's share.
template <typename T>
void write_gradient(T* x, int64_t n, const Statistics& row, int32_t target, float smoothing,
                    float factor) {
  const float at_target = to_float(x[target]);
  const float peak = static_cast<float>(row.max);
  const float scale = static_cast<float>(factor / row.exponentials);
  const float uniform = smoothing == 0.f ? 0.f : factor * smoothing / static_cast<float>(n);
  each_vector(
      n, [&](int64_t i) { store(x + i, exp(load(x + i) - peak) * scale - uniform); },
      [&](int64_t i, int count) {
        store_first(x + i, exp(load_first(x + i, count) - peak) * scale - uniform, count);
      });
  // from its own logit, not from the rounded value just stored
  const double p = std::exp(static_cast<double>(at_target) - row.max) / row.exponentials;
  x[target] = from_float<T>(static_cast<float>((p - (1.0 - smoothing)) * factor) - uniform);
}

template <typename T>
void rows_of(Context& context, const CrossEntropy& args, double* row_losses, float factor) {
  const int64_t rows = args.logits.rows();
  const int64_t classes = args.logits.size(0);
  const bool serial = rows * classes < kSerialElements;
  parallel_parts(context, rows, 1, serial, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      T* x = args.logits.as<T>() + offset_of(args.logits, r, true);
      const int32_t target = args.targets.as<int32_t>()[offset_of(args.targets, r, false)];
      row_losses[r] = 0;
      if (target == args.ignore_index || target < 0 || target >= classes) {
        if (args.write_gradient) std::fill_n(x, classes, from_float<T>(0.f));
        continue;
      }
      const double smoothing = args.label_smoothing;
      const Statistics row = statistics(x, classes, smoothing != 0);
      const double lse = row.max + std::log(row.exponentials);
      double loss = (1 - smoothing) * (lse - to_float(x[target]));
      if (smoothing != 0) loss += smoothing * (lse - row.logits / static_cast<double>(classes));
      row_losses[r] = loss;
      if (args.write_gradient)
        write_gradient(x, classes, row, target, args.label_smoothing, factor);
    }
  });
}

}  // namespace

void cross_entropy(Context& context, const CrossEntropy& args) {
  // not View::rows(), which needs a last dimension with elements
  int64_t rows = 1;
  for (int d = 0; d + 1 < args.logits.rank; ++d) rows *= args.logits.shape[d];
  const int64_t classes = args.logits.size(0);
  const float factor = args.factor ? *args.factor.as<float>() : 1.f;
  double* row_losses = static_cast<double*>(
      context.workspace(static_cast<size_t>(std::max<int64_t>(1, rows)) * sizeof(double)));
  if (classes > 0 && rows > 0) {
    with_float(args.logits.dtype,
               [&]<typename T>() { rows_of<T>(context, args, row_losses, factor); });
  } else {
    std::fill_n(row_losses, rows, 0.0);
  }
  double total = 0;
  bool reported = false;
  for (int64_t r = 0; r < rows; ++r) {
    const int32_t target = args.targets.as<int32_t>()[offset_of(args.targets, r, false)];
    if (!reported && target != args.ignore_index && (target < 0 || target >= classes)) {
      reported = true;
      context.fault(GATUN_OUT_OF_RANGE, "cross_entropy",
                    "target %d of row %lld is not in [0, %lld) and not the ignored index %d",
                    target, static_cast<long long>(r), static_cast<long long>(classes),
                    args.ignore_index);
    }
    total += row_losses[r];
    if (args.row_losses) {
      args.row_losses.as<float>()[offset_of(args.row_losses, r, false)] =
          static_cast<float>(row_losses[r]);
    }
  }
  float* loss = args.loss.as<float>();
  const double scaled = total * factor;
  *loss = static_cast<float>(args.accumulate ? *loss + scaled : scaled);
}

}  // namespace gatun::cpu::GATUN_LEVEL
