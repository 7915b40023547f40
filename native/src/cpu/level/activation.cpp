// GELU in both forms, and dropout.
#include <cstring>

#include "cpu/dispatch.h"
#include "cpu/level/backend.h"
#include "cpu/level/gelu.h"
#include "cpu/level/random.h"
#include "cpu/level/rows.h"
#include "cpu/level/vec.h"

namespace gatun::cpu::GATUN_LEVEL {
namespace {

template <typename Form, typename T>
void gelu(Context& context, const GeluForward& args) {
  each_run(context, {&args.y, &args.x}, [&](const int64_t(&at)[2], int64_t n, int64_t) {
    T* y = args.y.as<T>() + at[0];
    const T* x = args.x.as<T>() + at[1];
    each_vector(
        n, [&](int64_t i) { store(y + i, Form::forward(load(x + i))); },
        [&](int64_t i, int count) {
          store_first(y + i, Form::forward(load_first(x + i, count)), count);
        });
  });
}

template <typename Form, typename T>
void gelu_gradient(Context& context, const GeluBackward& args) {
  const bool add = adds(args.accumulate, 0);
  each_run(context, {&args.dx, &args.dy, &args.x}, [&](const int64_t(&at)[3], int64_t n, int64_t) {
    T* dx = args.dx.as<T>() + at[0];
    const T* dy = args.dy.as<T>() + at[1];
    const T* x = args.x.as<T>() + at[2];
    each_vector(
        n,
        [&](int64_t i) {
          const vf d = load(dy + i) * Form::derivative(load(x + i));
          store(dx + i, add ? load(dx + i) + d : d);
        },
        [&](int64_t i, int count) {
          const vf d = load_first(dy + i, count) * Form::derivative(load_first(x + i, count));
          store_first(dx + i, add ? load_first(dx + i, count) + d : d, count);
        });
  });
}

template <typename T>
void drop(Context& context, const Dropout& args) {
  const PhiloxStream stream = philox_stream(args.philox);
  const bool add = adds(args.accumulate, 0);
  const DropoutRule rule = dropout_rule(args.p);
  const int32_t threshold = static_cast<int32_t>(rule.threshold);
  const auto kept = [&](vu word, vf x) {
    return select((vi)(word >> 8) >= threshold, x * rule.scale, splat(0.f));
  };
  each_run(context, {&args.y, &args.x}, [&](const int64_t(&at)[2], int64_t n, int64_t index) {
    T* run_y = args.y.as<T>() + at[0];
    const T* run_x = args.x.as<T>() + at[1];
    each_word_run(stream, index, n, [&](int64_t begin, int64_t part, uint32_t* words, int skipped) {
      T* y = run_y + begin;
      const T* x = run_x + begin;
      words += skipped;
      each_vector(
          part,
          [&](int64_t i) {
            const vf value = kept(load_words(words + i), load(x + i));
            store(y + i, add ? load(y + i) + value : value);
          },
          [&](int64_t i, int count) {
            uint32_t rest[kLanes] = {};
            std::memcpy(rest, words + i, sizeof(uint32_t) * static_cast<size_t>(count));
            const vf value = kept(load_words(rest), load_first(x + i, count));
            store_first(y + i, add ? load_first(y + i, count) + value : value, count);
          });
    });
  });
}

}  // namespace

void gelu_forward(Context& context, const GeluForward& args) {
  with_float(args.x.dtype, [&]<typename T>() {
    if (args.erf)
      gelu<GeluErf, T>(context, args);
    else
      gelu<GeluTanh, T>(context, args);
  });
}

void gelu_backward(Context& context, const GeluBackward& args) {
  with_float(args.x.dtype, [&]<typename T>() {
    if (args.erf)
      gelu_gradient<GeluErf, T>(context, args);
    else
      gelu_gradient<GeluTanh, T>(context, args);
  });
}

void dropout(Context& context, const Dropout& args) {
  with_float(args.x.dtype, [&]<typename T>() { drop<T>(context, args); });
}

}  // namespace gatun::cpu::GATUN_LEVEL
