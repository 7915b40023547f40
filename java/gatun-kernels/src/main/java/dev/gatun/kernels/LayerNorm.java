package dev.gatun.kernels;

import dev.gatun.kernels.internal.GatunH;
import dev.gatun.kernels.internal.Native;
import java.util.Arrays;
import org.jspecify.annotations.Nullable;

/**
 * Layer normalisation (Ba et al. 2016, arXiv:1607.06450) over the last dimension D, with a fused
 * residual: sum = x + residual; y = (sum − mean) · rstd · weight + bias, rstd = 1 / √(var + eps),
 * variance biased.
 *
 * <p>x, residual [.., D] of one float dtype; weight, bias [D] of that dtype or f32. Backward: dx,
 * dweight, dbias in one pass over dy and the normalised input; mean and rstd are kept in f32 while
 * recording. x and residual have the same gradient, and share it.
 */
public final class LayerNorm {
    private LayerNorm() {}

    /**
     * What the fused form gives.
     *
     * @param sum x + residual, the next layer's residual
     * @param normed the normalised sum
     */
    public record Residual(Tensor sum, Tensor normed) {}

    /** y = norm(x). */
    public static Tensor forward(
            Ops ops, Tensor x, Tensor weight, @Nullable Tensor bias, double eps) {
        return run(ops, x, null, weight, bias, eps).normed;
    }

    /** sum = x + residual, normed = norm(sum). */
    public static Residual forward(
            Ops ops, Tensor x, Tensor residual, Tensor weight, @Nullable Tensor bias, double eps) {
        return run(ops, x, residual, weight, bias, eps);
    }

    private static Residual run(
            Ops ops,
            Tensor x,
            @Nullable Tensor residual,
            Tensor weight,
            @Nullable Tensor bias,
            double eps) {
        if (x.rank() == 0) {
            throw new IllegalArgumentException("layer_norm: wanted x [.., D], had " + x);
        }
        ops.open();
        Tape tape = ops.tape();
        boolean recorded =
                tape != null
                        && (tape.needs(x)
                                || tape.needs(residual)
                                || tape.needs(weight)
                                || tape.needs(bias));
        Tensor y = ops.make(x.dtype(), x.shape);
        Tensor sum = residual == null ? null : ops.make(x.dtype(), x.shape);
        Tensor mean = null;
        Tensor rstd = null;
        if (recorded) {
            long[] rows = Arrays.copyOf(x.shape, x.shape.length - 1);
            mean = ops.make(DType.F32, rows);
            rstd = ops.make(DType.F32, rows);
        }
        Native.check(
                GatunH.gatun_layer_norm_forward(
                        ops.handle(),
                        y.raw(),
                        Tensor.raw(sum),
                        Tensor.raw(mean),
                        Tensor.raw(rstd),
                        x.pointer(),
                        Tensor.pointer(residual),
                        weight.pointer(),
                        Tensor.pointer(bias),
                        eps),
                "layer_norm_forward");
        if (tape != null && mean != null && rstd != null) {
            Tensor normalised = sum == null ? x : sum;
            Tensor keptMean = mean;
            Tensor keptRstd = rstd;
            Saved saved = new Saved(normalised, keptMean, keptRstd, weight, bias);
            tape.record(
                    sum == null ? new Tensor[] {y} : new Tensor[] {y, sum},
                    new @Nullable Tensor[] {x, residual, weight, bias},
                    new Tensor[] {normalised, keptMean, keptRstd, weight},
                    sum == null
                            ? () -> backward(tape, saved, y, x)
                            : () -> backwardOfSum(tape, saved, y, sum, x, residual));
        }
        return new Residual(sum == null ? x : sum, y);
    }

    private record Saved(
            Tensor normalised, Tensor mean, Tensor rstd, Tensor weight, @Nullable Tensor bias) {}

    private static void backward(Tape tape, Saved saved, Tensor y, Tensor x) {
        Tensor dy = tape.arrived(y);
        if (dy != null) {
            run(tape, saved, dy, tape.destinationAlike(x));
        }
    }

    private static void backwardOfSum(
            Tape tape, Saved saved, Tensor y, Tensor sum, Tensor x, @Nullable Tensor residual) {
        Tensor dy = tape.arrived(y);
        Tensor total = tape.arrived(sum);
        if (dy != null && (tape.needs(x) || tape.needs(residual))) {
            // the slot of sum takes both parts: what the next layer gave it, and this norm's
            Tape.Destination to = tape.destination(sum);
            run(tape, saved, dy, to);
            total = to.tensor();
        } else if (dy != null) {
            run(tape, saved, dy, Tape.Destination.NONE);
        }
        if (total != null) {
            tape.give(x, total);
            tape.give(residual, total);
        }
    }

    private static void run(Tape tape, Saved saved, Tensor dy, Tape.Destination dx) {
        Tape.Destination dw = tape.destination(saved.weight);
        Tape.Destination db = tape.destination(saved.bias);
        if (!dx.wanted() && !dw.wanted() && !db.wanted()) {
            return;
        }
        Native.check(
                GatunH.gatun_layer_norm_backward(
                        tape.stream.handle(),
                        dx.pointer(),
                        dw.pointer(),
                        db.pointer(),
                        dy.raw(),
                        saved.normalised.raw(),
                        saved.mean.raw(),
                        saved.rstd.raw(),
                        saved.weight.raw(),
                        dx.bit(0) | dw.bit(1) | db.bit(2)),
                "layer_norm_backward");
    }
}
