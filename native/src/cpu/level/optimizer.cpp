// The global norm, unscaling and AdamW over lists of tensors: one parallel region over pieces of
// all of them.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <utility>
#include <vector>

#include "cpu/dispatch.h"
#include "cpu/level/backend.h"
#include "cpu/level/rows.h"
#include "cpu/level/vec.h"

#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace gatun::cpu::GATUN_LEVEL {
namespace {

// Elements of one piece: a piece is summed by one thread, so its size fixes the order of a sum
// whatever the number of threads; and long enough (some 10 us) to be handed out one by one.
constexpr int64_t kPiece = 16384;

struct Piece {
  int32_t tensor;
  int64_t begin;
  int64_t end;
};

template <typename ElementsOf>
std::vector<Piece> pieces_of(size_t tensors, ElementsOf elements_of) {
  std::vector<Piece> pieces;
  for (size_t i = 0; i < tensors; ++i) {
    const int64_t n = elements_of(i);
    for (int64_t begin = 0; begin < n; begin += kPiece)
      pieces.push_back({static_cast<int32_t>(i), begin, std::min(n, begin + kPiece)});
  }
  return pieces;
}

template <typename F>
void each_piece(const Context& context, const std::vector<Piece>& pieces, F f) {
  const int64_t count = static_cast<int64_t>(pieces.size());
  if (count <= 2 || context.threads <= 1) {
    for (int64_t i = 0; i < count; ++i) f(i, pieces[static_cast<size_t>(i)]);
    return;
  }
#pragma omp parallel for num_threads(context.threads) schedule(dynamic, 4)
  for (int64_t i = 0; i < count; ++i) f(i, pieces[static_cast<size_t>(i)]);
}

// A register of doubles: half the lanes.
typedef double vd __attribute__((vector_size(kLanes * 4)));

template <int... J>
inline vd low_doubles(vf v, std::integer_sequence<int, J...>) {
  return __builtin_convertvector(__builtin_shufflevector(v, v, J...), vd);
}
template <int... J>
inline vd high_doubles(vf v, std::integer_sequence<int, J...>) {
  return __builtin_convertvector(__builtin_shufflevector(v, v, (J + kLanes / 2)...), vd);
}

// In double, where no square of a float overflows or vanishes.
template <typename T>
double sum_of_squares(const T* x, int64_t n) {
  constexpr auto half = std::make_integer_sequence<int, kLanes / 2>();
  vd low[2] = {};
  vd high[2] = {};
  int64_t i = 0;
  for (; i + 2 * kLanes <= n; i += 2 * kLanes) {
#pragma GCC unroll 2
    for (int j = 0; j < 2; ++j) {
      const vf v = load(x + i + j * kLanes);
      const vd a = low_doubles(v, half);
      const vd b = high_doubles(v, half);
      low[j] += a * a;
      high[j] += b * b;
    }
  }
  const vd sums = (low[0] + low[1]) + (high[0] + high[1]);
  double total = 0;
  for (int lane = 0; lane < kLanes / 2; ++lane) total += sums[lane];
  for (; i < n; ++i) total += static_cast<double>(to_float(x[i])) * to_float(x[i]);
  return total;
}

// x *= scale; whether all elements were finite.
template <typename T>
bool scale_run(T* x, int64_t n, float scale) {
  vf off = {};  // x - x: 0, NaN of what is not finite
  each_vector(
      n,
      [&](int64_t i) {
        const vf v = load(x + i);
        off += v - v;
        store(x + i, v * scale);
      },
      [&](int64_t i, int count) {
        const vf v = load_first(x + i, count);
        off += v - v;
        store_first(x + i, v * scale, count);
      });
  bool finite = true;
  for (int lane = 0; lane < kLanes; ++lane) finite = finite && off[lane] == 0.f;
  return finite;
}

inline vf square_root(vf x) {
#if defined(__AVX512F__)
  return (vf)_mm512_maskz_sqrt_ps(0xffff, (__m512)x);
#elif defined(__AVX2__)
  return (vf)_mm256_sqrt_ps((__m256)x);
#else
  return (vf)_mm_sqrt_ps((__m128)x);
#endif
}

// The scalars of a step.
struct Step {
  float beta1, one_minus_beta1;
  float beta2, one_minus_beta2;
  float keep;       // 1 - learning rate * decay
  float rate;       // learning rate / (1 - beta1^step)
  float root_bias;  // 1 / sqrt(1 - beta2^step)
  float eps;
  float clip;
};

struct Moments {
  vf w, m, v;
};

inline Moments update(const Step& s, vf w, vf g, vf m, vf v) {
  g *= s.clip;
  m = m * s.beta1 + g * s.one_minus_beta1;
  v = v * s.beta2 + g * g * s.one_minus_beta2;
  const vf denominator = square_root(v) * s.root_bias + s.eps;
  return {w * s.keep - m / denominator * s.rate, m, v};
}

template <typename G, typename C>
void update_run(const Step& s, float* w, const G* g, float* m, float* v, C* copy, int64_t n) {
  each_vector(
      n,
      [&](int64_t i) {
        const Moments next = update(s, load(w + i), load(g + i), load(m + i), load(v + i));
        store(w + i, next.w);
        store(m + i, next.m);
        store(v + i, next.v);
        if (copy != nullptr) store(copy + i, next.w);
      },
      [&](int64_t i, int count) {
        const Moments next = update(s, load_first(w + i, count), load_first(g + i, count),
                                    load_first(m + i, count), load_first(v + i, count));
        store_first(w + i, next.w, count);
        store_first(m + i, next.m, count);
        store_first(v + i, next.v, count);
        if (copy != nullptr) store_first(copy + i, next.w, count);
      });
}

}  // namespace

void global_norm(Context& context, const GlobalNorm& args) {
  std::vector<Rows<1>> tensors;
  tensors.reserve(args.tensors.size());
  for (const View& tensor : args.tensors) tensors.emplace_back(Rows<1>({&tensor}, Merge::kAll));
  const std::vector<Piece> pieces =
      pieces_of(tensors.size(), [&](size_t i) { return tensors[i].elements(); });
  double* sums = static_cast<double*>(context.workspace((pieces.size() + 1) * sizeof(double)));
  each_piece(context, pieces, [&](int64_t index, const Piece& piece) {
    const View& tensor = args.tensors[static_cast<size_t>(piece.tensor)];
    double squares = 0;
    with_float(tensor.dtype, [&]<typename T>() {
      tensors[static_cast<size_t>(piece.tensor)].walk(
          piece.begin, piece.end, [&](const int64_t(&at)[1], int64_t n, int64_t) {
            squares += sum_of_squares(tensor.as<T>() + at[0], n);
          });
    });
    sums[index] = squares;
  });
  double total = 0;
  for (size_t i = 0; i < pieces.size(); ++i) total += sums[i];
  const float norm = static_cast<float>(std::sqrt(total));
  *args.norm.as<float>() = norm;
  double factor = 1;
  if (!std::isfinite(norm)) {
    factor = NAN;
  } else if (args.max_norm > 0) {
    factor = std::min(1.0, args.max_norm / (static_cast<double>(norm) + 1e-6));
  }
  if (args.factor) *args.factor.as<float>() = static_cast<float>(factor);
}

void unscale(Context& context, const Unscale& args) {
  const float scale = *args.inverse_scale.as<float>();
  std::vector<Rows<1>> tensors;
  tensors.reserve(args.tensors.size());
  for (const View& tensor : args.tensors) tensors.emplace_back(Rows<1>({&tensor}, Merge::kAll));
  const std::vector<Piece> pieces =
      pieces_of(tensors.size(), [&](size_t i) { return tensors[i].elements(); });
  std::atomic<bool> found{false};
  each_piece(context, pieces, [&](int64_t, const Piece& piece) {
    const size_t i = static_cast<size_t>(piece.tensor);
    bool finite = true;
    with_float(args.tensors[i].dtype, [&]<typename T>() {
      tensors[i].walk(piece.begin, piece.end, [&](const int64_t(&at)[1], int64_t n, int64_t) {
        finite = scale_run(args.tensors[i].as<T>() + at[0], n, scale) && finite;
      });
    });
    if (!finite) found.store(true, std::memory_order_relaxed);
  });
  *args.found_inf.as<float>() = found.load(std::memory_order_relaxed) ? 1.f : 0.f;
}

void adamw(Context& context, const AdamW& args) {
  const int64_t step = *args.step.as<int64_t>();
  if (step < 1) {
    context.fault(GATUN_OUT_OF_RANGE, "adamw",
                  "step is %lld, wanted 1 or more: count it up before the update",
                  static_cast<long long>(step));
    return;
  }
  const double rate = *args.learning_rate.as<float>();
  const double bias1 = 1 - std::pow(args.beta1, static_cast<double>(step));
  const double bias2 = 1 - std::pow(args.beta2, static_cast<double>(step));
  Step scalars;
  scalars.beta1 = static_cast<float>(args.beta1);
  scalars.one_minus_beta1 = static_cast<float>(1 - args.beta1);
  scalars.beta2 = static_cast<float>(args.beta2);
  scalars.one_minus_beta2 = static_cast<float>(1 - args.beta2);
  scalars.keep = 1;
  scalars.rate = static_cast<float>(rate / bias1);
  scalars.root_bias = static_cast<float>(1 / std::sqrt(bias2));
  scalars.eps = static_cast<float>(args.eps);
  scalars.clip = args.clip ? *args.clip.as<float>() : 1.f;

  const auto copy_of = [&](size_t i) -> const View* {
    return i < args.copies.size() && args.copies[i] ? &args.copies[i] : nullptr;
  };
  std::vector<Rows<5>> tensors;
  tensors.reserve(args.weights.size());
  for (size_t i = 0; i < args.weights.size(); ++i) {
    const View* copy = copy_of(i);
    tensors.emplace_back(Rows<5>({&args.weights[i], &args.gradients[i], &args.m[i], &args.v[i],
                                  copy == nullptr ? &args.weights[i] : copy},
                                 Merge::kAll));
  }
  const std::vector<Piece> pieces =
      pieces_of(tensors.size(), [&](size_t i) { return tensors[i].elements(); });
  each_piece(context, pieces, [&](int64_t, const Piece& piece) {
    const size_t i = static_cast<size_t>(piece.tensor);
    Step s = scalars;
    s.keep = static_cast<float>(1 - rate * (i < args.decay.size() ? args.decay[i] : 0.f));
    const View* copy = copy_of(i);
    with_float(args.gradients[i].dtype, [&]<typename G>() {
      with_float(copy == nullptr ? GATUN_BF16 : copy->dtype, [&]<typename C>() {
        tensors[i].walk(piece.begin, piece.end, [&](const int64_t(&at)[5], int64_t n, int64_t) {
          update_run(s, args.weights[i].as<float>() + at[0], args.gradients[i].as<G>() + at[1],
                     args.m[i].as<float>() + at[2], args.v[i].as<float>() + at[3],
                     copy == nullptr ? nullptr : copy->as<C>() + at[4], n);
        });
      });
    });
  });
}

}  // namespace gatun::cpu::GATUN_LEVEL
