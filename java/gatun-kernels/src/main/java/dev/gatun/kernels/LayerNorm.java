package dev.gatun.kernels;

import dev.gatun.kernels.internal.GatunH;
import dev.gatun.kernels.internal.Native;
import java.lang.foreign.MemorySegment;
import java.util.Arrays;
import org.jspecify.annotations.Nullable;

/**
 * Layer normalisation (Ba et al. 2016, arXiv:1607.06450) over the last dimension D, with a fused
 * residual and dropout: sum = dropout(x) + residual; y = (sum − mean) · rstd · weight + bias, rstd
 * = 1 / √(var + eps), variance biased.
 *
 * <p>x, residual [.., D] of one float dtype; weight, bias [D] of that dtype or f32. Backward: dx,
 * dweight, dbias in one pass over dy and the normalised input; mean and rstd are kept in f32 while
 * recording. Without dropout x and residual have the same gradient, and share it; with dropout the
 * same pass gives x its own. Dropout is that of {@link Dropout}: the same numbers, none unless
 * recording.
 */
public final class LayerNorm {
    private LayerNorm() {}

    /**
     * What the fused form gives.
     *
     * @param sum dropout(x) + residual, the next layer's residual
     * @param normed the normalised sum
     */
    public record Residual(Tensor sum, Tensor normed) {}

    /** y = norm(x). */
    public static Tensor forward(
            Ops ops, Tensor x, Tensor weight, @Nullable Tensor bias, double eps) {
        return run(ops, x, null, weight, bias, eps, 0).normed;
    }

    /** sum = dropout(x) + residual, normed = norm(sum). */
    public static Residual forward(
            Ops ops,
            Tensor x,
            Tensor residual,
            Tensor weight,
            @Nullable Tensor bias,
            double eps,
            double dropout) {
        Dropout.check("layer_norm", dropout);
        return run(ops, x, residual, weight, bias, eps, ops.recording() ? dropout : 0);
    }

    private static Residual run(
            Ops ops,
            Tensor x,
            @Nullable Tensor residual,
            Tensor weight,
            @Nullable Tensor bias,
            double eps,
            double p) {
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
        Dropped dropped = p == 0 ? null : new Dropped(p, ops.rng(), ops.nextSite());
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
                        eps,
                        p,
                        philox(ops, dropped)),
                "layer_norm_forward");
        if (tape != null && mean != null && rstd != null) {
            Tensor normalised = sum == null ? x : sum;
            Tensor keptMean = mean;
            Tensor keptRstd = rstd;
            Saved saved = new Saved(normalised, keptMean, keptRstd, weight, bias, dropped);
            tape.record(
                    sum == null ? new Tensor[] {y} : new Tensor[] {y, sum},
                    new @Nullable Tensor[] {x, residual, weight, bias},
                    new @Nullable Tensor[] {
                        normalised,
                        keptMean,
                        keptRstd,
                        weight,
                        dropped == null ? null : dropped.rng.step()
                    },
                    sum == null
                            ? () -> backward(tape, saved, y, x)
                            : () -> backwardOfSum(tape, saved, y, sum, x, residual));
        }
        return new Residual(sum == null ? x : sum, y);
    }

    /** The random numbers of a dropout. */
    private record Dropped(double p, Rng rng, int site) {}

    private static MemorySegment philox(Ops ops, @Nullable Dropped dropped) {
        return dropped == null ? MemorySegment.NULL : Values.philox(ops, dropped.rng, dropped.site);
    }

    private record Saved(
            Tensor normalised,
            Tensor mean,
            Tensor rstd,
            Tensor weight,
            @Nullable Tensor bias,
            @Nullable Dropped dropped) {}

    private static void backward(Tape tape, Saved saved, Tensor y, Tensor x) {
        Tensor dy = tape.arrived(y);
        if (dy != null) {
            run(tape, saved, dy, tape.destinationAlike(x), Tape.Destination.NONE);
        }
    }

    private static void backwardOfSum(
            Tape tape, Saved saved, Tensor y, Tensor sum, Tensor x, @Nullable Tensor residual) {
        Tensor dy = tape.arrived(y);
        Tensor total = tape.arrived(sum);
        Dropped dropped = saved.dropped;
        if (dy != null && (tape.needs(x) || tape.needs(residual))) {
            // the slot of sum takes both parts: what the next layer gave it, and this norm's
            Tape.Destination to = tape.destination(sum);
            Tape.Destination dx =
                    dropped == null ? Tape.Destination.NONE : tape.destinationAlike(x);
            run(tape, saved, dy, to, dx);
            total = to.tensor();
        } else {
            if (dy != null) {
                run(tape, saved, dy, Tape.Destination.NONE, Tape.Destination.NONE);
            }
            if (total != null && dropped != null) {
                Dropout.backward(tape, total, x, dropped.p, dropped.rng, dropped.site);
            }
        }
        if (total != null) {
            if (dropped == null) {
                tape.give(x, total);
            }
            tape.give(residual, total);
        }
    }

    /** dx: of the normalised input; ddropped: of the x that was dropped. */
    private static void run(
            Tape tape, Saved saved, Tensor dy, Tape.Destination dx, Tape.Destination ddropped) {
        Tape.Destination dw = tape.destination(saved.weight);
        Tape.Destination db = tape.destination(saved.bias);
        if (!dx.wanted() && !dw.wanted() && !db.wanted()) {
            return;
        }
        Dropped dropped = ddropped.wanted() ? saved.dropped : null;
        Native.check(
                GatunH.gatun_layer_norm_backward(
                        tape.stream.handle(),
                        dx.pointer(),
                        dw.pointer(),
                        db.pointer(),
                        ddropped.pointer(),
                        dy.raw(),
                        saved.normalised.raw(),
                        saved.mean.raw(),
                        saved.rstd.raw(),
                        saved.weight.raw(),
                        dropped == null ? 0 : dropped.p,
                        philox(tape, dropped),
                        dx.bit(0) | dw.bit(1) | db.bit(2) | ddropped.bit(3)),
                "layer_norm_backward");
    }
}
