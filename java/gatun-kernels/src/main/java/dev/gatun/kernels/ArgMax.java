package dev.gatun.kernels;

import dev.gatun.kernels.internal.GatunH;
import dev.gatun.kernels.internal.Native;

/**
 * The greedy choice: the index of the largest value of each row, the lowest on ties. NaN is never
 * chosen unless a row has nothing else (then 0, and the next wait throws). No gradient.
 */
public final class ArgMax {
    private ArgMax() {}

    /** logits [R, V], a float dtype, to i32 [R]. */
    public static Tensor of(Ops ops, Tensor logits) {
        if (logits.rank() != 2) {
            throw new IllegalArgumentException("argmax: wanted logits [R, V], had " + logits);
        }
        Tensor out = ops.make(DType.I32, logits.size(0));
        into(ops, out, logits);
        return out;
    }

    /** The same into an i32 [R] that is there. */
    public static void into(Ops ops, Tensor out, Tensor logits) {
        out.alive();
        Native.check(GatunH.gatun_argmax(ops.handle(), out.raw(), logits.pointer()), "argmax");
    }
}
