// The optimizer's ops on CUDA: kernels/optimizer.cu behind them.
#include "optimizer.h"

#include <vector>

#include "cuda/backend.h"
#include "cuda/layout.h"

namespace gatun::cuda {

namespace {

// A tensor without gaps is one row: rank 0 and all elements in `columns`.
template <int kOperands>
int64_t list_layout(const View* const (&operands)[kOperands],
                    kernels::RowLayout<kOperands>& layout) {
  bool contiguous = true;
  for (const View* each : operands) contiguous = contiguous && each->contiguous();
  if (contiguous) {
    layout = {};
    layout.rows = 1;
    return operands[0]->elements();
  }
  layout = row_layout(*operands[0], operands);
  return operands[0]->size(0);
}

std::vector<kernels::ListTensor> list_of(const std::vector<View>& views) {
  std::vector<kernels::ListTensor> tensors(views.size());
  for (size_t i = 0; i < tensors.size(); ++i) {
    tensors[i].data = views[i].data;
    tensors[i].type = element_type(views[i].dtype);
    tensors[i].columns = list_layout({&views[i]}, tensors[i].layout);
  }
  return tensors;
}

}  // namespace

void global_norm(Context& context, const GlobalNorm& args) {
  const std::vector<kernels::ListTensor> tensors = list_of(args.tensors);
  const int64_t count = static_cast<int64_t>(tensors.size());
  kernels::GlobalNorm p = {};
  p.norm = args.norm.as<float>();
  p.factor = args.factor.as<float>();
  p.max_norm = args.max_norm;
  p.sums = scratch<double>(context, kernels::global_norm_scratch_bytes(tensors.data(), count));
  check_launch("global_norm", kernels::global_norm(stream_of(context), tensors.data(), count, p));
}

void unscale(Context& context, const Unscale& args) {
  const std::vector<kernels::ListTensor> tensors = list_of(args.tensors);
  check_launch(
      "unscale",
      kernels::unscale(stream_of(context), tensors.data(), static_cast<int64_t>(tensors.size()),
                       {args.found_inf.as<float>(), args.inverse_scale.as<float>()}));
}

void adamw(Context& context, const AdamW& args) {
  std::vector<kernels::AdamWTensor> tensors(args.weights.size());
  for (size_t i = 0; i < tensors.size(); ++i) {
    const View& weight = args.weights[i];
    const View* copy = i < args.copies.size() && args.copies[i] ? &args.copies[i] : nullptr;
    kernels::AdamWTensor& t = tensors[i];
    t.weight = weight.as<float>();
    t.gradient = args.gradients[i].data;
    t.m = args.m[i].as<float>();
    t.v = args.v[i].as<float>();
    t.gradient_type = element_type(args.gradients[i].dtype);
    if (copy != nullptr) {
      t.copy = copy->data;
      t.copy_type = element_type(copy->dtype);
    }
    t.decay = args.decay[i];
    t.columns = list_layout(
        {&weight, &args.gradients[i], &args.m[i], &args.v[i], copy == nullptr ? &weight : copy},
        t.layout);
  }
  kernels::AdamW p = {};
  p.learning_rate = args.learning_rate.as<float>();
  p.step = args.step.as<int64_t>();
  p.clip = args.clip.as<float>();
  p.beta1 = args.beta1;
  p.beta2 = args.beta2;
  p.eps = args.eps;
  p.faults = faults_of(context);
  p.scratch = static_cast<kernels::AdamWStep*>(context.workspace(sizeof(kernels::AdamWStep)));
  check_launch("adamw", kernels::adamw(stream_of(context), tensors.data(),
                                       static_cast<int64_t>(tensors.size()), p));
}

}  // namespace gatun::cuda
