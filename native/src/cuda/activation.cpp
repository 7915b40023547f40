// Activations and dropout on CUDA: kernels/activation.cu behind the ops.
#include "activation.h"

#include "cuda/backend.h"
#include "cuda/layout.h"

namespace gatun::cuda {

void gelu_forward(Context& context, const GeluForward& args) {
  kernels::GeluForward p = {};
  p.y = args.y.data;
  p.x = args.x.data;
  p.runs = run_layout({&args.y, &args.x}, Order::kAny);
  check_launch("gelu_forward",
               kernels::gelu_forward(stream_of(context), element_type(args.x.dtype), args.erf, p));
}

void gelu_backward(Context& context, const GeluBackward& args) {
  if (!args.dx) return;
  kernels::GeluBackward p = {};
  p.dx = args.dx.data;
  p.dy = args.dy.data;
  p.x = args.x.data;
  p.add = adds(args.accumulate, 0);
  p.runs = run_layout({&args.dx, &args.dy, &args.x}, Order::kAny);
  check_launch("gelu_backward",
               kernels::gelu_backward(stream_of(context), element_type(args.x.dtype), args.erf, p));
}

void dropout(Context& context, const Dropout& args) {
  kernels::Dropout p = {};
  p.y = args.y.data;
  p.x = args.x.data;
  p.philox = philox_source(args.philox);
  p.rule = dropout_rule(args.p);
  p.add = adds(args.accumulate, 0);
  p.runs = run_layout({&args.y, &args.x}, Order::kRowMajor);
  check_launch("dropout", kernels::dropout(stream_of(context), element_type(args.x.dtype), p));
}

}  // namespace gatun::cuda
