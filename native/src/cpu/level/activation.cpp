// GELU in both forms, and dropout.
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
  const DropoutRule rule = dropout_rule(args.p);
  const bool add = adds(args.accumulate, 0);
  each_run(context, {&args.y, &args.x}, [&](const int64_t(&at)[2], int64_t n, int64_t index) {
    drop_run(stream, rule, index, n, args.x.as<T>() + at[1], args.y.as<T>() + at[0], add);
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
