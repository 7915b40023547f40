// Checks of the matrix products.
#include "ops/check.h"

using namespace gatun;

extern "C" {

gatun_status gatun_matmul(gatun_stream stream, const gatun_tensor* out_, const gatun_tensor* a_,
                          const gatun_tensor* b_, const gatun_matmul_args* options) {
  return guard([&] {
    Call call(Op::matmul, stream);
    gatun_matmul_args chosen = {};
    if (options != nullptr) chosen = call.options("args", options);
    call.flag("args->transpose_a", chosen.transpose_a);
    call.flag("args->transpose_b", chosen.transpose_b);
    call.flag("args->accumulate", chosen.accumulate);
    call.flag("args->gelu_erf", chosen.gelu_erf);
    call.finite("args->alpha", chosen.alpha);
    if (chosen.epilogue < GATUN_EPILOGUE_NONE || chosen.epilogue > GATUN_EPILOGUE_GELU_GRADIENT)
      call.error("args->epilogue is %d, epilogues are 0 to %d", chosen.epilogue,
                 GATUN_EPILOGUE_GELU_GRADIENT);
    if (chosen.precision < GATUN_MATMUL_F32 || chosen.precision > GATUN_MATMUL_BF16X3)
      call.error("args->precision is %d, precisions are 0 to %d", chosen.precision,
                 GATUN_MATMUL_BF16X3);
    if (chosen.accumulate != 0 && chosen.epilogue != GATUN_EPILOGUE_NONE)
      call.error("accumulate and an epilogue cannot be combined");
    if (chosen.accumulate != 0 && chosen.residual != nullptr)
      call.error("accumulate and a residual cannot be combined: accumulate adds what out holds");
    const bool with_bias =
        chosen.epilogue == GATUN_EPILOGUE_BIAS || chosen.epilogue == GATUN_EPILOGUE_BIAS_GELU;
    if (with_bias && chosen.bias == nullptr) call.error("the epilogue adds a bias, bias is null");
    if (!with_bias && chosen.bias != nullptr) call.error("bias is given, the epilogue adds none");
    const bool gradient = chosen.epilogue == GATUN_EPILOGUE_GELU_GRADIENT;
    if (gradient && chosen.preactivation == nullptr)
      call.error("the epilogue GELU_GRADIENT reads a preactivation, preactivation is null");
    if (!gradient && chosen.epilogue != GATUN_EPILOGUE_BIAS_GELU && chosen.preactivation != nullptr)
      call.error(
          "preactivation is given, only the epilogues BIAS_GELU and GELU_GRADIENT have a use for "
          "it");

    MatMul args;
    const Operand out = call.destination("out", out_, args.out);
    const Operand preactivation =
        gradient
            ? call.source("preactivation", chosen.preactivation, args.preactivation)
            : call.optional_destination("preactivation", chosen.preactivation, args.preactivation);
    const Operand a = call.source("a", a_, args.a);
    const Operand b = call.source("b", b_, args.b);
    const Operand bias = call.optional_source("bias", chosen.bias, args.bias);
    const Operand residual = call.optional_source("residual", chosen.residual, args.residual);

    call.floating({out, a, b, bias});
    call.same_dtype(b, a);
    call.dtype_or_f32(out, a);
    call.rank(out, 2, GATUN_MAX_RANK);
    call.rank(a, out->rank, out->rank);
    if (b->rank != out->rank && b->rank != 2)
      call.error("b is %s, of rank %d: rank 2, or that of out (%d), is wanted",
                 ShapeText(args.b).text, b->rank, out->rank);
    const int batch = out->rank - 2;
    for (int i = 0; i < batch; ++i)
      if (a->shape[i] != out->shape[i] || (b->rank > 2 && b->shape[i] != out->shape[i]))
        call.error("out is %s, a is %s, b is %s: the batch dimensions must agree",
                   ShapeText(args.out).text, ShapeText(args.a).text, ShapeText(args.b).text);
    const bool ta = chosen.transpose_a != 0, tb = chosen.transpose_b != 0;
    const int64_t m = a->size(ta ? 0 : 1), k = a->size(ta ? 1 : 0);
    const int64_t k_of_b = b->size(tb ? 0 : 1), n = b->size(tb ? 1 : 0);
    if (k != k_of_b)
      call.error("a is %s%s and b is %s%s: the inner dimensions are %lld and %lld",
                 ShapeText(args.a).text, ta ? " transposed" : "", ShapeText(args.b).text,
                 tb ? " transposed" : "", static_cast<long long>(k),
                 static_cast<long long>(k_of_b));
    if (out->size(1) != m || out->size(0) != n)
      call.error("out is %s, a %s%s times b %s%s makes %lld rows of %lld", ShapeText(args.out).text,
                 ShapeText(args.a).text, ta ? " transposed" : "", ShapeText(args.b).text,
                 tb ? " transposed" : "", static_cast<long long>(m), static_cast<long long>(n));
    call.columns(bias, out);
    call.dtype_or_f32(bias, out);
    call.same(preactivation, out);
    call.same(residual, out);
    call.may_be(out, residual);

    args.transpose_a = ta;
    args.transpose_b = tb;
    args.accumulate = chosen.accumulate != 0;
    args.gelu_erf = chosen.gelu_erf != 0;
    args.epilogue = chosen.epilogue;
    args.precision = chosen.precision;
    args.alpha = chosen.alpha == 0 ? 1 : chosen.alpha;
    call.submit(args, 2 * elements_of(args.out) * static_cast<double>(k),
                args.accumulate ? bytes_of(args.out) : 0);
  });
}

gatun_status gatun_bias_backward(gatun_stream stream, const gatun_tensor* dbias_,
                                 const gatun_tensor* dy_, uint32_t accumulate) {
  return guard([&] {
    Call call(Op::bias_backward, stream);
    BiasBackward args;
    const Operand dbias = call.optional_destination("dbias", dbias_, args.dbias);
    const Operand dy = call.source("dy", dy_, args.dy);
    call.floating({dbias, dy});
    call.rank(dy, 1, GATUN_MAX_RANK);
    call.columns(dbias, dy);
    call.dtype_or_f32(dbias, dy);
    call.mask(accumulate, 1);
    args.accumulate = accumulate;
    call.submit(args, elements_of(args.dy), accumulated(accumulate, 0, args.dbias));
  });
}

}  // extern "C"
