// Checks of the optimizer's ops, which take many tensors in one call.
#include "ops/check.h"

using namespace gatun;

namespace {

// More tensors than any model has; a count beyond is not a count.
constexpr int32_t kMostTensors = 1 << 20;

void check_count(Call& call, const char* name, int32_t count) {
  if (count < 0 || count > kMostTensors)
    call.error("%s is %d, 0 to %d are possible", name, count, kMostTensors);
}

}  // namespace

extern "C" {

gatun_status gatun_global_norm(gatun_stream stream, const gatun_tensor* norm_,
                               const gatun_tensor* factor_, const gatun_tensor* const* tensors_,
                               int32_t count, double max_norm) {
  return guard([&] {
    Call call(Op::global_norm, stream);
    check_count(call, "count", count);
    call.finite("max_norm", max_norm);
    GlobalNorm args;
    const Operand norm = call.destination("norm", norm_, args.norm);
    const Operand factor = call.destination("factor", factor_, args.factor);
    call.scalar(norm, GATUN_F32);
    call.scalar(factor, GATUN_F32);
    const gatun_tensor* const* tensors = call.array("tensors", tensors_, count);
    args.tensors.resize(static_cast<size_t>(count));
    double elements = 0;
    for (int32_t i = 0; i < count; ++i) {
      View& view = args.tensors[static_cast<size_t>(i)];
      call.floating({call.source("tensors", tensors[i], view, i)});
      elements += elements_of(view);
    }
    args.max_norm = max_norm;
    call.submit(args, 2 * elements);
  });
}

gatun_status gatun_unscale(gatun_stream stream, const gatun_tensor* found_inf,
                           const gatun_tensor* const* tensors_, int32_t count,
                           const gatun_tensor* inverse_scale) {
  return guard([&] {
    Call call(Op::unscale, stream);
    check_count(call, "count", count);
    Unscale args;
    call.scalar(call.destination("found_inf", found_inf, args.found_inf), GATUN_F32);
    call.scalar(call.source("inverse_scale", inverse_scale, args.inverse_scale), GATUN_F32);
    const gatun_tensor* const* tensors = call.array("tensors", tensors_, count);
    args.tensors.resize(static_cast<size_t>(count));
    double elements = 0, read = 0;
    for (int32_t i = 0; i < count; ++i) {
      View& view = args.tensors[static_cast<size_t>(i)];
      call.floating({call.updated("tensors", tensors[i], view, i)});
      elements += elements_of(view);
      read += bytes_of(view);
    }
    call.submit(args, elements, read);
  });
}

gatun_status gatun_adamw(gatun_stream stream, const gatun_adamw_args* options) {
  return guard([&] {
    Call call(Op::adamw, stream);
    const gatun_adamw_args& chosen = call.options("args", options);
    const int32_t count = chosen.count;
    check_count(call, "args->count", count);
    for (const auto& [name, beta] :
         {std::pair("args->beta1", chosen.beta1), std::pair("args->beta2", chosen.beta2)})
      if (!(beta >= 0 && beta < 1)) call.error("%s is %g, a value in [0, 1) is wanted", name, beta);
    call.finite("args->eps", chosen.eps);
    if (chosen.eps < 0) call.error("args->eps is %g, below 0", chosen.eps);

    AdamW args;
    args.beta1 = chosen.beta1;
    args.beta2 = chosen.beta2;
    args.eps = chosen.eps;
    call.scalar(call.source("learning_rate", chosen.learning_rate, args.learning_rate), GATUN_F32);
    call.scalar(call.source("step", chosen.step, args.step), GATUN_I64);
    call.scalar(call.optional_source("clip", chosen.clip, args.clip), GATUN_F32);
    const auto n = static_cast<size_t>(count);
    const gatun_tensor* const* weights = call.array("weights", chosen.weights, count);
    const gatun_tensor* const* gradients = call.array("gradients", chosen.gradients, count);
    const gatun_tensor* const* ms = call.array("m", chosen.m, count);
    const gatun_tensor* const* vs = call.array("v", chosen.v, count);
    const float* decay = call.array("decay", chosen.decay, count);
    const gatun_tensor* const* copies =
        chosen.copies == nullptr ? nullptr : call.array("copies", chosen.copies, count);
    for (std::vector<View>* views : {&args.weights, &args.gradients, &args.m, &args.v})
      views->resize(n);
    if (copies != nullptr) args.copies.resize(n);
    if (n > 0) args.decay.assign(decay, decay + n);
    double elements = 0, extra = 0;
    for (size_t i = 0; i < n; ++i) {
      const int at = static_cast<int>(i);
      const Operand weight = call.updated("weights", weights[i], args.weights[i], at);
      const Operand gradient = call.source("gradients", gradients[i], args.gradients[i], at);
      const Operand m = call.updated("m", ms[i], args.m[i], at);
      const Operand v = call.updated("v", vs[i], args.v[i], at);
      call.floating({gradient});
      for (const Operand& f32 : {weight, m, v}) call.dtype(f32, GATUN_F32);
      for (const Operand& each : {gradient, m, v}) call.same_shape(each, weight);
      if (copies != nullptr) {
        const Operand copy = call.optional_destination("copies", copies[i], args.copies[i], at);
        if (copy && copy->dtype != GATUN_F16 && copy->dtype != GATUN_BF16)
          call.error("%s is %s, f16 or bf16 is wanted", NameText(copy).text,
                     dtype_name(copy->dtype));
        call.same_shape(copy, weight);
      }
      if (!std::isfinite(decay[i]))
        call.error("decay[%d] is %g, a finite number is wanted", at, static_cast<double>(decay[i]));
      elements += elements_of(args.weights[i]);
      // weights, m and v are read, too
      extra += 3 * bytes_of(args.weights[i]);
    }
    call.submit(args, 15 * elements, extra);
  });
}

}  // extern "C"
