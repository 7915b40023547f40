// Checks of activations and dropout.
#include "ops/check.h"

using namespace gatun;

extern "C" {

gatun_status gatun_gelu_forward(gatun_stream stream, const gatun_tensor* y_, const gatun_tensor* x_,
                                int32_t erf) {
  return guard([&] {
    Call call(Op::gelu_forward, stream);
    GeluForward args;
    const Operand y = call.destination("y", y_, args.y);
    const Operand x = call.source("x", x_, args.x);
    call.floating({x});
    call.same(y, x);
    call.may_be(y, x);
    args.erf = erf != 0;
    call.submit(args, 10 * elements_of(args.x));
  });
}

gatun_status gatun_gelu_backward(gatun_stream stream, const gatun_tensor* dx_,
                                 const gatun_tensor* dy_, const gatun_tensor* x_, int32_t erf,
                                 uint32_t accumulate) {
  return guard([&] {
    Call call(Op::gelu_backward, stream);
    GeluBackward args;
    const Operand dx = call.optional_destination("dx", dx_, args.dx);
    const Operand dy = call.source("dy", dy_, args.dy);
    const Operand x = call.source("x", x_, args.x);
    call.floating({x});
    call.same(dx, x);
    call.same(dy, x);
    call.mask(accumulate, 1);
    call.may_be(dx, dy);
    call.may_be(dx, x);
    args.erf = erf != 0;
    args.accumulate = accumulate;
    call.submit(args, 16 * elements_of(args.x), accumulated(accumulate, 0, args.dx));
  });
}

gatun_status gatun_dropout(gatun_stream stream, const gatun_tensor* y_, const gatun_tensor* x_,
                           double p, const gatun_philox* philox, uint32_t accumulate) {
  return guard([&] {
    Call call(Op::dropout, stream);
    Dropout args;
    const Operand y = call.destination("y", y_, args.y);
    const Operand x = call.source("x", x_, args.x);
    call.floating({x});
    call.same(y, x);
    call.probability(p);
    call.philox(philox, args.philox);
    call.mask(accumulate, 1);
    call.may_be(y, x);
    args.p = p;
    args.accumulate = accumulate;
    call.submit(args, elements_of(args.x), accumulated(accumulate, 0, args.y));
  });
}

}  // extern "C"
