// Layer normalisation on CUDA: kernels/layer_norm.cu behind the op.
#include <climits>

#include "cuda/backend.h"
#include "cuda/layout.h"
#include "layer_norm.h"

namespace gatun::cuda {

namespace {

int columns_of(const char* op, const View& x) {
  if (x.size(0) > INT_MAX)
    fail(GATUN_UNSUPPORTED, "%s: x has rows of %lld elements, cuda takes up to %d", op,
         static_cast<long long>(x.size(0)), INT_MAX);
  return static_cast<int>(x.size(0));
}

// weight, bias and their gradients may each be f32 or x's type, the kernel takes one type for
// weight and bias.
kernels::ElementType parameter_type(const char* op, const View& weight, const View& bias) {
  if (bias && bias.dtype != weight.dtype)
    fail(GATUN_UNSUPPORTED, "%s: on cuda weight and bias are of one dtype", op);
  return element_type(weight.dtype);
}

}  // namespace

void layer_norm_forward(Context& context, const LayerNormForward& args) {
  const char* op = "layer_norm_forward";
  kernels::LayerNormForward p = {};
  p.x = args.x.data;
  p.residual = args.residual.data;
  p.weight = args.weight.data;
  p.bias = args.bias.data;
  p.y = args.y.data;
  p.sum = args.sum.data;
  p.mean = args.mean.as<float>();
  p.rstd = args.rstd.as<float>();
  p.columns = columns_of(op, args.x);
  p.eps = static_cast<float>(args.eps);
  p.drops = args.p > 0;
  p.rule = dropout_rule(args.p);
  p.philox = philox_source(args.philox);
  p.layout =
      row_layout(args.x, {&args.x, &args.residual, &args.y, &args.sum, &args.mean, &args.rstd});
  check_launch(op, kernels::layer_norm_forward(stream_of(context), element_type(args.x.dtype),
                                               parameter_type(op, args.weight, args.bias), p));
}

void layer_norm_backward(Context& context, const LayerNormBackward& args) {
  const char* op = "layer_norm_backward";
  kernels::LayerNormBackward p = {};
  p.dx = args.dx.data;
  p.dweight = args.dweight.data;
  p.dbias = args.dbias.data;
  p.ddropped = args.ddropped.data;
  p.dy = args.dy.data;
  p.x = args.x.data;
  p.mean = args.mean.as<float>();
  p.rstd = args.rstd.as<float>();
  p.weight = args.weight.data;
  if (args.dweight) p.dweight_type = element_type(args.dweight.dtype);
  if (args.dbias) p.dbias_type = element_type(args.dbias.dtype);
  p.add_dx = adds(args.accumulate, 0);
  p.add_dweight = adds(args.accumulate, 1);
  p.add_dbias = adds(args.accumulate, 2);
  p.add_ddropped = adds(args.accumulate, 3);
  p.rule = dropout_rule(args.p);
  p.philox = philox_source(args.philox);
  p.columns = columns_of(op, args.x);
  p.layout =
      row_layout(args.x, {&args.dx, &args.dy, &args.x, &args.mean, &args.rstd, &args.ddropped});
  const kernels::ElementType type = element_type(args.x.dtype);
  const kernels::ElementType parameters = element_type(args.weight.dtype);
  const int sm_count = multiprocessors();
  p.partials = scratch<float>(
      context, kernels::layer_norm_backward_scratch_bytes(type, parameters, p, sm_count));
  check_launch(op, kernels::layer_norm_backward(stream_of(context), type, parameters, p, sm_count));
}

}  // namespace gatun::cuda
