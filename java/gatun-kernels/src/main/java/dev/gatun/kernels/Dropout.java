package dev.gatun.kernels;

import dev.gatun.kernels.internal.GatunH;
import dev.gatun.kernels.internal.Native;
import java.lang.foreign.MemorySegment;
import org.jspecify.annotations.Nullable;

/**
 * Dropout (Srivastava et al. 2014): y = x / (1 − p) where Philox keeps the element, else 0.
 *
 * <p>Any shape, float dtypes, 0 &le; p &lt; 1. Identity (x itself) unless the Ops records, and for
 * p = 0. No mask is kept: the backward pass draws the same numbers again, so the Rng's step must
 * not move between the two.
 */
public final class Dropout {
    private Dropout() {}

    /** Drops elements of x with probability p while recording. */
    public static Tensor forward(Ops ops, Tensor x, double p) {
        check("dropout", p);
        x.valued();
        if (!ops.recording() || p == 0) {
            return x;
        }
        Tensor y = ops.make(x.dtype(), x.shape);
        Rng rng = ops.rng();
        int site = ops.nextSite();
        MemorySegment philox = Values.philox(ops, rng, site);
        Native.check(
                GatunH.gatun_dropout(ops.handle(), y.raw(), x.pointer(), p, philox, 0), "dropout");
        Tape tape = ops.tape();
        if (tape != null && tape.needs(x)) {
            tape.record(
                    new Tensor[] {y},
                    new Tensor[] {x},
                    new @Nullable Tensor[] {rng.step()},
                    () -> {
                        Tensor dy = tape.arrived(y);
                        if (dy != null) {
                            backward(tape, dy, x, p, rng, site);
                        }
                    });
        }
        return y;
    }

    static void check(String op, double p) {
        if (!(p >= 0 && p < 1)) {
            throw new IllegalArgumentException(op + ": wanted p in [0, 1), had " + p);
        }
    }

    /** Gives x the gradient of its dropped values. */
    static void backward(Tape tape, Tensor dy, Tensor x, double p, Rng rng, int site) {
        Tape.Destination dx = tape.destinationAlike(x);
        if (dx.wanted()) {
            Native.check(
                    GatunH.gatun_dropout(
                            tape.stream.handle(),
                            dx.pointer(),
                            dy.raw(),
                            p,
                            Values.philox(tape, rng, site),
                            dx.bit(0)),
                    "dropout");
        }
    }
}
