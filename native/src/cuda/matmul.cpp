// Matrix products and the gradient of a bias on CUDA: kernels/matmul.cu and bias.cu behind the ops.
#include "matmul.h"

#include "bias.h"
#include "cuda/backend.h"
#include "cuda/layout.h"

namespace gatun::cuda {

namespace {

// A dimension as the kernel takes it.
int dimension(const char* op, const char* what, int64_t size) {
  if (size > kernels::kMatmulLargest)
    fail(GATUN_UNSUPPORTED, "%s: %s is %lld, cuda takes up to %lld", op, what,
         static_cast<long long>(size), static_cast<long long>(kernels::kMatmulLargest));
  return static_cast<int>(size);
}

}  // namespace

void matmul(Context& context, const MatMul& args) {
  using Operand = kernels::MatMul;
  kernels::MatMul p = {};
  p.a = args.a.data;
  p.b = args.b.data;
  p.out = args.out.data;
  p.bias = args.bias.data;
  p.preactivation = args.preactivation.data;
  // to add to what out holds is to have it for a residual
  const View& residual = args.accumulate ? args.out : args.residual;
  p.residual = residual.data;
  p.a_stride = args.a.step(1);
  p.b_stride = args.b.step(1);
  p.out_stride = args.out.step(1);
  p.preactivation_stride = args.preactivation.step(1);
  p.residual_stride = residual.step(1);
  p.n = dimension("matmul", "N", args.out.size(0));
  p.k = dimension("matmul", "K", args.a.size(args.transpose_a ? 1 : 0));
  p.alpha = args.alpha;
  p.transpose_a = args.transpose_a;
  p.transpose_b = args.transpose_b;
  p.bf16x3 = args.precision == GATUN_MATMUL_BF16X3;
  if (args.bias) p.bias_type = element_type(args.bias.dtype);
  if (args.epilogue == GATUN_EPILOGUE_BIAS_GELU)
    p.gelu = args.gelu_erf ? kernels::Gelu::kErf : kernels::Gelu::kTanh;
  if (args.epilogue == GATUN_EPILOGUE_GELU_GRADIENT)
    p.gelu = args.gelu_erf ? kernels::Gelu::kErfGradient : kernels::Gelu::kTanhGradient;

  // Batch dimensions, from the innermost, are rows of one product for as long as a, out,
  // preactivation and residual walk through them as through their rows and b stays the same; the
  // others are the batch.
  int64_t m = args.out.size(1);
  bool as_rows = !args.transpose_a;
  p.batch.rows = 1;
  for (int d = 2; d < args.out.rank; ++d) {
    const int64_t size = args.out.size(d);
    if (size == 1) continue;
    const int64_t b_step = d < args.b.rank ? args.b.step(d) : 0;
    const int64_t step[Operand::kOperands] = {args.a.step(d), b_step, args.out.step(d),
                                              args.preactivation.step(d), residual.step(d)};
    if (as_rows && b_step == 0 && m == 1) {  // a single row may have any stride
      p.a_stride = step[Operand::kA];
      p.out_stride = step[Operand::kOut];
      p.preactivation_stride = step[Operand::kPreactivation];
      p.residual_stride = step[Operand::kResidual];
    }
    as_rows = as_rows && b_step == 0 && step[Operand::kA] == m * p.a_stride &&
              step[Operand::kOut] == m * p.out_stride &&
              step[Operand::kPreactivation] == m * p.preactivation_stride &&
              step[Operand::kResidual] == m * p.residual_stride &&
              m * size <= kernels::kMatmulLargest;
    if (as_rows) {
      m *= size;
      continue;
    }
    const int i = p.batch.rank++;
    p.batch.rows *= size;
    p.batch.shape[i] = size;
    for (int operand = 0; operand < Operand::kOperands; ++operand)
      p.batch.stride[operand][i] = step[operand];
  }
  p.m = dimension("matmul", "M", m);

  const kernels::ElementType in = element_type(args.a.dtype), out = element_type(args.out.dtype);
  const int sm_count = multiprocessors();
  p.partials = scratch<float>(context, kernels::matmul_scratch_bytes(in, out, p, sm_count));
  check_launch("matmul", kernels::matmul(stream_of(context), in, out, p, sm_count));
}

void bias_backward(Context& context, const BiasBackward& args) {
  if (!args.dbias) return;
  kernels::BiasBackward p = {};
  p.dy = args.dy.data;
  p.dbias = args.dbias.data;
  p.columns = dimension("bias_backward", "N", args.dy.size(0));
  p.add = adds(args.accumulate, 0);
  p.layout = row_layout(args.dy, {&args.dy});
  const kernels::ElementType type = element_type(args.dy.dtype);
  const int sm_count = multiprocessors();
  p.partials = scratch<float>(context, kernels::bias_backward_scratch_bytes(type, p, sm_count));
  check_launch("bias_backward",
               kernels::bias_backward(stream_of(context), type, element_type(args.dbias.dtype), p,
                                      sm_count));
}

}  // namespace gatun::cuda
