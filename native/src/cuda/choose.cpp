// The choice of tokens on CUDA: kernels/choose.cu behind the ops.
#include "choose.h"

#include <climits>

#include "cuda/backend.h"
#include "cuda/layout.h"

namespace gatun::cuda {

namespace {

// What both ops share: [rows, columns] logits and an answer a row.
template <typename Args>
void set_rows(const char* op, const View& out, const View& logits, Args& p) {
  if (logits.shape[0] > INT_MAX)
    fail(GATUN_UNSUPPORTED, "%s: logits has %lld rows, cuda takes up to %d", op,
         static_cast<long long>(logits.shape[0]), INT_MAX);
  p.out = out.as<int32_t>();
  p.logits = logits.data;
  p.rows = logits.elements() == 0 ? 0 : logits.shape[0];
  p.out_stride = out.stride[0];
  p.logits_stride = logits.stride[0];
  p.columns = static_cast<int>(logits.shape[1]);
}

}  // namespace

void argmax(Context& context, const ArgMax& args) {
  kernels::ArgMax p = {};
  set_rows("argmax", args.out, args.logits, p);
  p.faults = faults_of(context);
  check_launch("argmax", kernels::argmax(stream_of(context), element_type(args.logits.dtype), p));
}

void sample(Context& context, const Sample& args) {
  kernels::Sample p = {};
  set_rows("sample", args.out, args.logits, p);
  p.logprobs = args.logprobs.as<float>();
  p.logprobs_stride = args.logprobs.stride[0];
  p.top_k = args.top_k;
  p.temperature = args.temperature;
  p.top_p = args.top_p;
  p.min_p = args.min_p;
  p.philox = {args.philox.seed, args.philox.step.as<int64_t>(), args.philox.site,
              args.philox.micro_batch};
  p.faults = faults_of(context);
  check_launch("sample", kernels::sample(stream_of(context), element_type(args.logits.dtype), p));
}

}  // namespace gatun::cuda
