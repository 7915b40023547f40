// Checks of the losses.
#include "ops/check.h"

using namespace gatun;

extern "C" {

gatun_status gatun_cross_entropy(gatun_stream stream, const gatun_tensor* loss_,
                                 const gatun_tensor* row_losses_, const gatun_tensor* logits_,
                                 const gatun_tensor* targets_,
                                 const gatun_cross_entropy_args* options) {
  return guard([&] {
    Call call(Op::cross_entropy, stream);
    const gatun_cross_entropy_args chosen = call.options("args", options);
    call.flag("args->accumulate", chosen.accumulate);
    call.reserved("args->reserved", chosen.reserved);
    if (!(chosen.label_smoothing >= 0 && chosen.label_smoothing < 1))
      call.error("args->label_smoothing is %g, a value in [0, 1) is wanted",
                 static_cast<double>(chosen.label_smoothing));
    const bool write_gradient = chosen.write_gradient != 0;

    CrossEntropy args;
    const Operand loss = call.destination("loss", loss_, args.loss);
    const Operand row_losses =
        call.optional_destination("row_losses", row_losses_, args.row_losses);
    const Operand logits = write_gradient ? call.updated("logits", logits_, args.logits)
                                          : call.source("logits", logits_, args.logits);
    const Operand targets = call.source("targets", targets_, args.targets);
    const Operand factor = call.optional_source("args->factor", chosen.factor, args.factor);
    call.scalar(loss, GATUN_F32);
    call.floating({logits});
    call.rank(logits, 1, GATUN_MAX_RANK);
    call.dtype(targets, GATUN_I32);
    call.dtype(row_losses, GATUN_F32);
    if (logits->size(0) == 0 && targets->elements() > 0)
      call.error("logits is %s: there is no class to choose", ShapeText(args.logits).text);
    // [R] or the shape of logits without the last dimension
    const int64_t rows = args.logits.rows();
    for (const Operand& each : {targets, row_losses}) {
      if (!each) continue;
      call.contiguous(each);
      if (each->rank != 1 || each->size(0) != rows) call.rows(each, logits);
    }
    call.scalar(factor, GATUN_F32);
    args.ignore_index = chosen.ignore_index;
    args.label_smoothing = chosen.label_smoothing;
    args.write_gradient = write_gradient;
    args.accumulate = chosen.accumulate != 0;
    call.submit(args, elements_of(args.logits) * (write_gradient ? 6 : 4),
                write_gradient ? bytes_of(args.logits) : 0);
  });
}

}  // extern "C"
