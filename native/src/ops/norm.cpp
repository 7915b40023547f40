// Checks of the normalisations.
#include "ops/check.h"

using namespace gatun;

namespace {

void check_columns_exist(Call& call, const Operand& x) {
  if (x->size(0) == 0)
    call.error("x is %s: rows without elements have no mean", ShapeText(*x.view).text);
}

}  // namespace

extern "C" {

gatun_status gatun_layer_norm_forward(gatun_stream stream, const gatun_tensor* y_,
                                      const gatun_tensor* sum_, const gatun_tensor* mean_,
                                      const gatun_tensor* rstd_, const gatun_tensor* x_,
                                      const gatun_tensor* residual_, const gatun_tensor* weight_,
                                      const gatun_tensor* bias_, double eps, double p,
                                      const gatun_philox* philox) {
  return guard([&] {
    Call call(Op::layer_norm_forward, stream);
    if ((sum_ == nullptr) != (residual_ == nullptr))
      call.error("%s is given and %s is null: both or neither is wanted",
                 sum_ != nullptr ? "sum" : "residual", sum_ != nullptr ? "residual" : "sum");
    LayerNormForward args = {};
    const Operand y = call.destination("y", y_, args.y);
    const Operand sum = call.optional_destination("sum", sum_, args.sum);
    const Operand mean = call.optional_destination("mean", mean_, args.mean);
    const Operand rstd = call.optional_destination("rstd", rstd_, args.rstd);
    const Operand x = call.source("x", x_, args.x);
    const Operand residual = call.optional_source("residual", residual_, args.residual);
    const Operand weight = call.source("weight", weight_, args.weight);
    const Operand bias = call.optional_source("bias", bias_, args.bias);

    call.floating({x, weight, bias});
    call.rank(x, 1, GATUN_MAX_RANK);
    check_columns_exist(call, x);
    call.same(y, x);
    call.same(sum, x);
    call.same(residual, x);
    for (const Operand& parameter : {weight, bias}) {
      call.columns(parameter, x);
      call.dtype_or_f32(parameter, x);
    }
    for (const Operand& statistic : {mean, rstd}) {
      call.dtype(statistic, GATUN_F32);
      call.rows(statistic, x);
    }
    call.finite("eps", eps);
    if (eps < 0) call.error("eps is %g, below 0", eps);
    call.may_be(sum, x);
    call.may_be(sum, residual);
    call.probability(p);
    if (p > 0) {
      if (residual_ == nullptr) call.error("p is %g and there is no residual: one is wanted", p);
      call.philox(philox, args.philox);
    }
    args.eps = eps;
    args.p = p;
    call.submit(args, (p > 0 ? 9 : 8) * elements_of(args.x));
  });
}

gatun_status gatun_layer_norm_backward(gatun_stream stream, const gatun_tensor* dx_,
                                       const gatun_tensor* dweight_, const gatun_tensor* dbias_,
                                       const gatun_tensor* ddropped_, const gatun_tensor* dy_,
                                       const gatun_tensor* x_, const gatun_tensor* mean_,
                                       const gatun_tensor* rstd_, const gatun_tensor* weight_,
                                       double p, const gatun_philox* philox, uint32_t accumulate) {
  return guard([&] {
    Call call(Op::layer_norm_backward, stream);
    call.probability(p);
    if ((ddropped_ != nullptr) != (p > 0))
      call.error("p is %g and ddropped is %s: it is wanted exactly where p > 0", p,
                 ddropped_ != nullptr ? "given" : "null");
    if (ddropped_ != nullptr && dx_ == nullptr)
      call.error("ddropped is given and dx is null: it is made from dx");
    LayerNormBackward args = {};
    const Operand dx = call.optional_destination("dx", dx_, args.dx);
    const Operand dweight = call.optional_destination("dweight", dweight_, args.dweight);
    const Operand dbias = call.optional_destination("dbias", dbias_, args.dbias);
    const Operand ddropped = call.optional_destination("ddropped", ddropped_, args.ddropped);
    const Operand dy = call.source("dy", dy_, args.dy);
    const Operand x = call.source("x", x_, args.x);
    const Operand mean = call.source("mean", mean_, args.mean);
    const Operand rstd = call.source("rstd", rstd_, args.rstd);
    const Operand weight = call.source("weight", weight_, args.weight);

    call.floating({x, weight});
    call.rank(x, 1, GATUN_MAX_RANK);
    check_columns_exist(call, x);
    call.same(dx, x);
    call.same(ddropped, x);
    call.same(dy, x);
    call.columns(weight, x);
    call.dtype_or_f32(weight, x);
    for (const Operand& gradient : {dweight, dbias}) {
      call.columns(gradient, x);
      call.dtype_or_f32(gradient, weight);
    }
    for (const Operand& statistic : {mean, rstd}) {
      call.dtype(statistic, GATUN_F32);
      call.rows(statistic, x);
    }
    if (p > 0) call.philox(philox, args.philox);
    call.mask(accumulate, 4);
    call.may_be(dx, dy);
    args.p = p;
    args.accumulate = accumulate;
    call.submit(args, (p > 0 ? 13 : 12) * elements_of(args.x),
                accumulated(accumulate, 0, args.dx) + accumulated(accumulate, 1, args.dweight) +
                    accumulated(accumulate, 2, args.dbias) +
                    accumulated(accumulate, 3, args.ddropped));
  });
}

}  // extern "C"
