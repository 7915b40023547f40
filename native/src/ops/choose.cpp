// Checks of the ops that choose tokens.
#include "ops/check.h"

using namespace gatun;

namespace {

// out [R] against logits [R, V].
void check_choice(Call& call, const Operand& out, const Operand& logits) {
  call.dtype(out, GATUN_I32);
  call.floating({logits});
  call.rank(logits, 2, 2);
  call.shape(out, {logits->shape[0]}, "(one for each row of logits)");
  if (logits->shape[1] == 0 && logits->shape[0] > 0)
    call.error("logits is %s: there is no token to choose", ShapeText(*logits.view).text);
  if (logits->shape[1] > INT32_MAX)
    call.error("logits has %lld columns, an i32 index reaches %d",
               static_cast<long long>(logits->shape[1]), INT32_MAX);
}

}  // namespace

extern "C" {

gatun_status gatun_argmax(gatun_stream stream, const gatun_tensor* out_,
                          const gatun_tensor* logits_) {
  return guard([&] {
    Call call(Op::argmax, stream);
    ArgMax args;
    const Operand out = call.destination("out", out_, args.out);
    const Operand logits = call.source("logits", logits_, args.logits);
    check_choice(call, out, logits);
    call.submit(args, elements_of(args.logits));
  });
}

gatun_status gatun_sample(gatun_stream stream, const gatun_tensor* out_,
                          const gatun_tensor* logprobs_, const gatun_tensor* logits_,
                          const gatun_sample_args* options, const gatun_philox* philox) {
  return guard([&] {
    Call call(Op::sample, stream);
    const gatun_sample_args chosen = call.options("args", options);
    call.finite("args->temperature", chosen.temperature);
    if (chosen.temperature <= 0)
      call.error("args->temperature is %g, above 0 is wanted (argmax is the limit at 0)",
                 static_cast<double>(chosen.temperature));
    if (chosen.top_k < 0) call.error("args->top_k is %d, below 0", chosen.top_k);
    if (!(chosen.top_p > 0 && chosen.top_p <= 1))
      call.error("args->top_p is %g, a value in (0, 1] is wanted",
                 static_cast<double>(chosen.top_p));
    if (!(chosen.min_p >= 0 && chosen.min_p < 1))
      call.error("args->min_p is %g, a value in [0, 1) is wanted",
                 static_cast<double>(chosen.min_p));
    call.reserved("args->reserved", chosen.reserved);
    Sample args;
    const Operand out = call.destination("out", out_, args.out);
    const Operand logprobs = call.optional_destination("logprobs", logprobs_, args.logprobs);
    const Operand logits = call.source("logits", logits_, args.logits);
    check_choice(call, out, logits);
    call.dtype(logprobs, GATUN_F32);
    call.same_shape(logprobs, out);
    call.philox(philox, args.philox);
    args.temperature = chosen.temperature;
    args.top_k = chosen.top_k;
    args.top_p = chosen.top_p;
    args.min_p = chosen.min_p;
    call.submit(args, 5 * elements_of(args.logits));
  });
}

}  // extern "C"
