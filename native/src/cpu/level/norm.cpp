// Layer normalisation, forward and backward (Ba et al. 2016, arXiv:1607.06450).
//
// Forward, a row at a time: one pass adds the residual, stores the sum and adds up the row, one
// adds up the squared deviations (one-pass variance cancels where |mean| >> std), one writes y. The
// row stays in the first-level cache between them, so memory sees each operand once.
//
// Backward, with xhat = (x - mean) rstd and g = dy weight:
//   dx = rstd (g - mean_D(g) - xhat mean_D(g xhat)),  dweight = sum dy xhat,  dbias = sum dy;
//   ddropped = dropout(dx) with the numbers of the forward pass.
#include <cmath>
#include <cstring>

#include "cpu/dispatch.h"
#include "cpu/level/backend.h"
#include "cpu/level/random.h"
#include "cpu/level/rows.h"
#include "cpu/level/vec.h"

namespace gatun::cpu::GATUN_LEVEL {
namespace {

// Elements that are summed in f32 before the sum goes on in f64.
constexpr int64_t kBlock = 4096;

// The sum over [0, n) of f(i), a vector from element i on, g(i, count) at the end with the lanes
// from count on zero. Four running sums hide the latency of the additions.
template <typename F, typename G>
inline double sum_of(int64_t n, F f, G g) {
  double total = 0;
  for (int64_t begin = 0; begin < n; begin += kBlock) {
    const int64_t end = std::min(n, begin + kBlock);
    vf s0{}, s1{}, s2{}, s3{};
    int64_t i = begin;
    for (; i + 4 * kLanes <= end; i += 4 * kLanes) {
      s0 += f(i);
      s1 += f(i + kLanes);
      s2 += f(i + 2 * kLanes);
      s3 += f(i + 3 * kLanes);
    }
    for (; i + kLanes <= end; i += kLanes) s0 += f(i);
    if (i < end) s1 += g(i, static_cast<int>(end - i));
    total += static_cast<double>(sum((s0 + s1) + (s2 + s3)));
  }
  return total;
}

// a where lane < n, else 0.
inline vf first_lanes(vf a, int n) {
  vi lane;
  for (int i = 0; i < kLanes; ++i) lane[i] = i;
  return (vf)((vi)a & (lane < n));
}

// A vector of D values as f32: itself, or converted into `scratch`.
const float* as_f32(const View& v, float* scratch) {
  if (v.dtype == GATUN_F32) return v.as<float>();
  with_float(v.dtype, [&]<typename T>() {
    const T* p = v.as<T>();
    for (int64_t i = 0; i < v.size(0); ++i) scratch[i] = to_float(p[i]);
  });
  return scratch;
}

// A statistic of each row, absent or not, as an operand of Rows: an absent one never moves.
View row_statistic(const View& statistic, const View& x) {
  if (statistic) return statistic;
  View none;
  none.rank = std::max(0, x.rank - 1);
  return none;
}

// sum = dropout(x) + residual for the row that starts at logical index `index`. The dropped value
// is rounded as an op of its own would store it. sum may be x or residual.
template <typename T>
void add_dropped(const PhiloxStream& stream, const DropoutRule& rule, int64_t index, int64_t n,
                 T* sum, const T* x, const T* residual) {
  each_word_run(stream, index, n, [&](int64_t begin, int64_t count, uint32_t* words, int skipped) {
    T* out = sum + begin;
    words += skipped;
    each_vector(
        count,
        [&](int64_t i) {
          const vf other = load(residual + begin + i);
          store(out + i, dropped(rule, load_words(words + i), load(x + begin + i)));
          store(out + i, load(out + i) + other);
        },
        [&](int64_t i, int rest) {
          const vf other = load_first(residual + begin + i, rest);
          store_first(
              out + i,
              dropped(rule, load_first_words(words + i, rest), load_first(x + begin + i, rest)),
              rest);
          store_first(out + i, load_first(out + i, rest) + other, rest);
        });
  });
}

template <typename T>
void normalise_row(T* y, T* sum_out, float* mean_out, float* rstd_out, const T* x,
                   const T* residual, const float* weight, const float* bias, int64_t n,
                   double eps) {
  double total;
  if (residual) {
    // the sum as it is stored: what the backward pass will see
    total = sum_of(
        n,
        [&](int64_t i) {
          store(sum_out + i, load(x + i) + load(residual + i));
          return load(sum_out + i);
        },
        [&](int64_t i, int count) {
          store_first(sum_out + i, load_first(x + i, count) + load_first(residual + i, count),
                      count);
          return load_first(sum_out + i, count);
        });
    x = sum_out;
  } else {
    total = sum_of(
        n, [&](int64_t i) { return load(x + i); },
        [&](int64_t i, int count) { return load_first(x + i, count); });
  }
  const double exact_mean = total / static_cast<double>(n);
  const float mean = static_cast<float>(exact_mean);
  // what f32 lost of the mean, which counts where |mean| >> std
  float rest = static_cast<float>(exact_mean - static_cast<double>(mean));
  const auto centred = [&](int64_t i) { return load(x + i) - mean - rest; };
  const auto centred_first = [&](int64_t i, int count) {
    return load_first(x + i, count) - mean - rest;
  };
  vf drift{};
  const double squares = sum_of(
      n,
      [&](int64_t i) {
        const vf d = centred(i);
        drift += d;
        return d * d;
      },
      [&](int64_t i, int count) {
        const vf d = first_lanes(centred_first(i, count), count);
        drift += d;
        return d * d;
      });
  // what the f32 sums of the first pass lost of the mean: the deviations do not add up to 0
  const double lost = static_cast<double>(sum(drift)) / static_cast<double>(n);
  const double variance = std::max(0., squares / static_cast<double>(n) - lost * lost);
  rest += static_cast<float>(lost);
  const float rstd = static_cast<float>(1 / std::sqrt(variance + eps));
  if (mean_out) *mean_out = static_cast<float>(static_cast<double>(mean) + rest);
  if (rstd_out) *rstd_out = rstd;
  if (bias)
    each_vector(
        n, [&](int64_t i) { store(y + i, centred(i) * rstd * load(weight + i) + load(bias + i)); },
        [&](int64_t i, int count) {
          store_first(y + i,
                      centred_first(i, count) * rstd * load_first(weight + i, count) +
                          load_first(bias + i, count),
                      count);
        });
  else
    each_vector(
        n, [&](int64_t i) { store(y + i, centred(i) * rstd * load(weight + i)); },
        [&](int64_t i, int count) {
          store_first(y + i, centred_first(i, count) * rstd * load_first(weight + i, count), count);
        });
}

// What the f32 mean of a row lost; 0 where it is far below the deviations' own rounding.
template <typename T>
float lost_mean(const T* x, float mean, float rstd, int64_t n) {
  constexpr float kFar = 8;  // standard deviations between the mean and 0
  if (!(std::abs(mean) * rstd > kFar)) return 0;
  return static_cast<float>(sum_of(
                                n, [&](int64_t i) { return load(x + i) - mean; },
                                [&](int64_t i, int count) {
                                  return first_lanes(load_first(x + i, count) - mean, count);
                                }) /
                            static_cast<double>(n));
}

// dx of one row; dx may be dy.
template <typename T>
void differentiate_row(T* dx, const T* dy, const T* x, float mean, float rest, float rstd,
                       const float* weight, int64_t n, bool add) {
  if (n == 1) {  // a single value is its own mean; the general form leaves a rounding times rstd
    if (!add) dx[0] = from_float<T>(0.f);
    return;
  }
  const auto gradient = [&](int64_t i) { return load(dy + i) * load(weight + i); };
  const auto gradient_first = [&](int64_t i, int count) {
    return load_first(dy + i, count) * load_first(weight + i, count);
  };
  const auto xhat = [&](int64_t i) { return (load(x + i) - mean - rest) * rstd; };
  const auto xhat_first = [&](int64_t i, int count) {
    return (load_first(x + i, count) - mean - rest) * rstd;
  };
  const double scale = 1 / static_cast<double>(n);
  const float g_mean = static_cast<float>(sum_of(n, gradient, gradient_first) * scale);
  const float gx_mean = static_cast<float>(
      sum_of(
          n, [&](int64_t i) { return gradient(i) * xhat(i); },
          [&](int64_t i, int count) {
            return first_lanes(gradient_first(i, count) * xhat_first(i, count), count);
          }) *
      scale);
  each_vector(
      n,
      [&](int64_t i) {
        const vf d = (gradient(i) - g_mean - xhat(i) * gx_mean) * rstd;
        store(dx + i, add ? load(dx + i) + d : d);
      },
      [&](int64_t i, int count) {
        const vf d = (gradient_first(i, count) - g_mean - xhat_first(i, count) * gx_mean) * rstd;
        store_first(dx + i, add ? load_first(dx + i, count) + d : d, count);
      });
}

// dweight += dy xhat and dbias += dy of one row; `dweight` or `dbias` may be null.
template <typename T>
void add_parameter_gradients(float* dweight, float* dbias, const T* dy, const T* x, float mean,
                             float rest, float rstd, int64_t n) {
  if (dweight)
    each_vector(
        n,
        [&](int64_t i) {
          store(dweight + i,
                load(dweight + i) + load(dy + i) * ((load(x + i) - mean - rest) * rstd));
        },
        [&](int64_t i, int count) {
          store_first(
              dweight + i,
              load_first(dweight + i, count) +
                  load_first(dy + i, count) * ((load_first(x + i, count) - mean - rest) * rstd),
              count);
        });
  if (dbias)
    each_vector(
        n, [&](int64_t i) { store(dbias + i, load(dbias + i) + load(dy + i)); },
        [&](int64_t i, int count) {
          store_first(dbias + i, load_first(dbias + i, count) + load_first(dy + i, count), count);
        });
}

// Rows whose parameter gradients are added up in f32 before they join their thread's total: long
// plain sums lose digits.
constexpr int64_t kRowBlock = 128;

int64_t padded(int64_t n) { return (n + 15) / 16 * 16; }

}  // namespace

void layer_norm_forward(Context& context, const LayerNormForward& args) {
  const int64_t n = args.x.size(0);
  if (args.x.elements() == 0) return;
  float* scratch = nullptr;
  if (args.weight.dtype != GATUN_F32 || (args.bias && args.bias.dtype != GATUN_F32))
    scratch =
        static_cast<float*>(context.workspace(static_cast<size_t>(2 * padded(n)) * sizeof(float)));
  const float* weight = as_f32(args.weight, scratch);
  const float* bias = args.bias ? as_f32(args.bias, scratch + padded(n)) : nullptr;
  const bool with_residual = static_cast<bool>(args.residual);
  const View& sum = with_residual ? args.sum : args.x;
  const View& residual = with_residual ? args.residual : args.x;
  const View mean = row_statistic(args.mean, args.x);
  const View rstd = row_statistic(args.rstd, args.x);
  const Rows<6> rows({&args.x, &args.y, &sum, &residual, &mean, &rstd}, Merge::kKeepLast);
  const bool drops = args.p > 0;
  const PhiloxStream stream = philox_stream(args.philox);
  const DropoutRule rule = dropout_rule(args.p);
  with_float(args.x.dtype, [&]<typename T>() {
    parallel_parts(context, rows.count, 1, rows.elements() < kSerialElements / 2,
                   [&](int64_t begin, int64_t end) {
                     rows.walk_rows(begin, end, [&](const int64_t(&at)[6], int64_t row) {
                       const T* x = args.x.as<T>() + at[0];
                       const T* other = with_residual ? args.residual.as<T>() + at[3] : nullptr;
                       T* total = with_residual ? sum.as<T>() + at[2] : nullptr;
                       if (drops) {
                         add_dropped(stream, rule, row * n, n, total, x, other);
                         x = total;
                         other = nullptr;
                       }
                       normalise_row(args.y.as<T>() + at[1], total,
                                     args.mean ? args.mean.as<float>() + at[4] : nullptr,
                                     args.rstd ? args.rstd.as<float>() + at[5] : nullptr, x, other,
                                     weight, bias, n, args.eps);
                     });
                   });
  });
}

void layer_norm_backward(Context& context, const LayerNormBackward& args) {
  const int64_t n = args.x.size(0);
  const int64_t count = args.x.elements() == 0 ? 0 : args.x.rows();
  const int threads = std::max(1, context.threads);
  // weight as f32, then of each thread: dweight and dbias of a block of rows, and their totals
  const int64_t width = padded(n);
  const int64_t each = 4 * width;
  float* scratch = static_cast<float*>(
      context.workspace(static_cast<size_t>(width + threads * each) * sizeof(float)));
  const float* weight = as_f32(args.weight, scratch);
  float* partials = scratch + width;
  const bool wants_dweight = static_cast<bool>(args.dweight);
  const bool wants_dbias = static_cast<bool>(args.dbias);
  const bool wants_parameters = wants_dweight || wants_dbias;
  const View& dx = args.dx ? args.dx : args.x;
  const View& ddropped = args.ddropped ? args.ddropped : args.x;
  const Rows<6> rows({&args.x, &dx, &args.dy, &args.mean, &args.rstd, &ddropped}, Merge::kKeepLast);
  const PhiloxStream stream = philox_stream(args.philox);
  const DropoutRule rule = dropout_rule(args.p);
  const int64_t rows_each = (count + threads - 1) / threads;
  const bool serial = count * n < kSerialElements / 2;
  const int parts = serial ? 1 : threads;
  const auto run = [&](int part) {
    float* block = partials + part * each;
    float* total = block + 2 * width;
    if (wants_parameters) std::memset(block, 0, static_cast<size_t>(each) * sizeof(float));
    const int64_t begin = serial ? 0 : std::min(count, part * rows_each);
    const int64_t end = serial ? count : std::min(count, begin + rows_each);
    with_float(args.x.dtype, [&]<typename T>() {
      for (int64_t first = begin; first < end; first += kRowBlock) {
        rows.walk_rows(first, std::min(end, first + kRowBlock),
                       [&](const int64_t(&at)[6], int64_t row) {
                         const T* x = args.x.as<T>() + at[0];
                         const T* dy = args.dy.as<T>() + at[2];
                         const float mean = args.mean.as<float>()[at[3]];
                         const float rstd = args.rstd.as<float>()[at[4]];
                         const float rest = lost_mean(x, mean, rstd, n);
                         if (wants_parameters)  // before dx, which may overwrite dy
                           add_parameter_gradients(wants_dweight ? block : nullptr,
                                                   wants_dbias ? block + width : nullptr, dy, x,
                                                   mean, rest, rstd, n);
                         if (args.dx)
                           differentiate_row(args.dx.as<T>() + at[1], dy, x, mean, rest, rstd,
                                             weight, n, adds(args.accumulate, 0));
                         if (args.ddropped)
                           drop_run(stream, rule, row * n, n, args.dx.as<T>() + at[1],
                                    ddropped.as<T>() + at[5], adds(args.accumulate, 3));
                       });
        if (!wants_parameters) continue;
        for (int64_t i = 0; i < 2 * width; ++i) {
          total[i] += block[i];
          block[i] = 0;
        }
      }
    });
  };
  if (parts == 1) {
    run(0);
  } else {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int part = 0; part < parts; ++part) run(part);
  }
  const auto finish = [&](const View& out, int64_t offset, bool add) {
    if (!out) return;
    with_float(out.dtype, [&]<typename T>() {
      for (int64_t i = 0; i < n; ++i) {
        float value = add ? to_float(out.as<T>()[i]) : 0.f;
        for (int part = 0; part < parts; ++part)
          value += partials[part * each + 2 * width + offset + i];
        out.as<T>()[i] = from_float<T>(value);
      }
    });
  };
  finish(args.dweight, 0, adds(args.accumulate, 1));
  finish(args.dbias, width, adds(args.accumulate, 2));
}

}  // namespace gatun::cpu::GATUN_LEVEL
