package dev.gatun.kernels;

import dev.gatun.kernels.internal.GatunH;
import dev.gatun.kernels.internal.Native;
import dev.gatun.kernels.internal.gatun_cross_entropy_args;
import java.lang.foreign.MemorySegment;
import java.util.Arrays;
import org.jspecify.annotations.Nullable;

/**
 * Cross-entropy of logits and targets, fused: log-sum-exp, loss and gradient in one pass.
 *
 * <p>logits [.., V], any float dtype; targets i32 [..], one a row. loss = factor · Σ row losses,
 * f32; a row loss is (1 − e) nll + e · mean over V of −log p for label smoothing e, and 0 where the
 * target is ignored. The factor, an f32 scalar on the device, is usually 1 / (number of targets of
 * the window), times a loss scale.
 *
 * <p>While recording, the logits are consumed: their gradient is written over them, so that a
 * vocabulary's worth of rows exists once. The loss must then be what {@link Tape#backward} starts
 * from; losses may be added, but weights belong in the factor.
 */
public final class CrossEntropy {
    private CrossEntropy() {}

    /**
     * How targets count.
     *
     * @param ignoreIndex targets of this value count nothing; usually -100
     * @param labelSmoothing e in [0, 1)
     */
    public record Options(int ignoreIndex, double labelSmoothing) {
        /** Ignores -100, no smoothing. */
        public static final Options DEFAULT = new Options(-100, 0);

        public Options {
            if (!(labelSmoothing >= 0 && labelSmoothing < 1)) {
                throw new IllegalArgumentException(
                        "cross_entropy: wanted labelSmoothing in [0, 1), had " + labelSmoothing);
            }
        }
    }

    /** The loss, an f32 scalar; null as factor means 1. */
    public static Tensor forward(
            Ops ops, Tensor logits, Tensor targets, Options options, @Nullable Tensor factor) {
        logits.valued();
        Tensor loss = ops.make(DType.F32);
        Tape tape = ops.tape();
        if (tape == null || !tape.needs(logits)) {
            run(ops, loss, null, logits, targets, options, factor, false);
            return loss;
        }
        // A leaf, or a part of a tensor, keeps its values: the gradient goes into a copy.
        boolean consumed =
                logits.base().leafGradient() == null
                        && logits.storage.scope != null
                        && logits.elements() == logits.base().elements();
        Tensor gradient = logits;
        if (!consumed) {
            gradient = ops.make(logits.dtype(), logits.shape);
            Values.copyOn(ops.stream, gradient, logits);
        }
        run(ops, loss, null, gradient, targets, options, factor, true);
        if (consumed) {
            logits.consumedBy("cross_entropy");
        }
        Tensor dlogits = gradient;
        tape.record(
                new Tensor[] {loss},
                new Tensor[] {logits},
                new Tensor[] {dlogits},
                () -> {
                    Tensor dloss = tape.arrived(loss);
                    if (dloss == null) {
                        return;
                    }
                    if (!tape.unit(dloss)) {
                        throw new IllegalStateException(
                                "cross_entropy: its loss must be what backward() starts from; weigh"
                                        + " losses by their factor");
                    }
                    tape.give(logits, dlogits);
                });
        return loss;
    }

    /**
     * The unscaled loss of each row, f32 [..]: 0 where ignored. Consumes nothing, records nothing.
     */
    public static Tensor rows(Ops ops, Tensor logits, Tensor targets, Options options) {
        if (logits.rank() == 0) {
            throw new IllegalArgumentException(
                    "cross_entropy: wanted logits [.., V], had " + logits);
        }
        long[] shape = Arrays.copyOf(logits.shape, logits.shape.length - 1);
        Tensor losses = ops.make(DType.F32, shape);
        Tensor flat = losses.view(losses.elements());
        Tensor loss = ops.make(DType.F32);
        run(ops, loss, flat, logits, targets, options, null, false);
        return losses;
    }

    private static void run(
            Ops ops,
            Tensor loss,
            @Nullable Tensor rows,
            Tensor logits,
            Tensor targets,
            Options options,
            @Nullable Tensor factor,
            boolean gradient) {
        MemorySegment args = ops.stream.crossEntropyArgs;
        gatun_cross_entropy_args.ignore_index(args, options.ignoreIndex);
        gatun_cross_entropy_args.label_smoothing(args, (float) options.labelSmoothing);
        gatun_cross_entropy_args.write_gradient(args, gradient ? 1 : 0);
        gatun_cross_entropy_args.factor(args, Tensor.pointer(factor));
        gatun_cross_entropy_args.accumulate(args, 0);
        Native.check(
                GatunH.gatun_cross_entropy(
                        ops.handle(),
                        loss.raw(),
                        Tensor.raw(rows),
                        logits.pointer(),
                        targets.pointer(),
                        args),
                "cross_entropy");
    }
}
