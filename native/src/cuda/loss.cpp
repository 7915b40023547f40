// The losses on CUDA: kernels/loss.cu behind the op.
#include "loss.h"

#include <climits>

#include "cuda/backend.h"
#include "cuda/layout.h"

namespace gatun::cuda {

void cross_entropy(Context& context, const CrossEntropy& args) {
  const char* op = "cross_entropy";
  kernels::CrossEntropy p = {};
  p.layout = row_layout(args.logits, {&args.logits});
  const int64_t columns = args.logits.size(0);
  if (columns > INT_MAX || p.layout.rows > INT_MAX)
    fail(GATUN_UNSUPPORTED,
         "%s: logits has %lld rows of %lld classes, cuda takes up to %d of either", op,
         static_cast<long long>(p.layout.rows), static_cast<long long>(columns), INT_MAX);
  p.logits = args.logits.data;
  p.targets = args.targets.as<int32_t>();
  p.factor = args.factor.as<float>();
  p.loss = args.loss.as<float>();
  p.row_losses = args.row_losses.as<float>();
  p.faults = faults_of(context);
  p.columns = static_cast<int>(columns);
  p.ignore_index = args.ignore_index;
  p.smoothing = args.label_smoothing;
  p.write_gradient = args.write_gradient;
  p.accumulate = args.accumulate;
  p.sums = scratch<double>(context, kernels::cross_entropy_scratch_bytes(p));
  check_launch(op, kernels::cross_entropy(stream_of(context), element_type(args.logits.dtype), p));
}

}  // namespace gatun::cuda
