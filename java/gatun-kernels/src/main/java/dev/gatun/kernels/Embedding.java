package dev.gatun.kernels;

import dev.gatun.kernels.internal.GatunH;
import dev.gatun.kernels.internal.Native;
import java.util.Arrays;
import org.jspecify.annotations.Nullable;

/**
 * Rows of a table: out[b, t, :] = table[ids[b, t], :] + positions[start[b] + t, :].
 *
 * <p>ids i32 [B, T] (or [T], as B = 1); table [V, D]; positions [P, D] or none; start i32 [B] or
 * none (0); out [B, T, D] ([T, D]). Float dtypes equal. An id or a position out of range is
 * clamped, and the next wait throws. Backward adds dout's rows up, in a fixed order, in dtable and
 * dpositions.
 */
public final class Embedding {
    private Embedding() {}

    /** The rows that ids name, plus positions where given. */
    public static Tensor forward(
            Ops ops, Tensor ids, Tensor table, @Nullable Tensor positions, @Nullable Tensor start) {
        if (table.rank() != 2) {
            throw new IllegalArgumentException("embedding: wanted a table [V, D], had " + table);
        }
        long[] shape = Arrays.copyOf(ids.shape, ids.shape.length + 1);
        shape[shape.length - 1] = table.size(1);
        Tensor out = ops.make(table.dtype(), shape);
        Native.check(
                GatunH.gatun_embedding_forward(
                        ops.handle(),
                        out.raw(),
                        ids.pointer(),
                        table.pointer(),
                        Tensor.pointer(positions),
                        Tensor.pointer(start)),
                "embedding_forward");
        Tape tape = ops.tape();
        if (tape != null && (tape.needs(table) || tape.needs(positions))) {
            tape.record(
                    new Tensor[] {out},
                    new @Nullable Tensor[] {table, positions},
                    new @Nullable Tensor[] {ids, start},
                    () -> {
                        Tensor dout = tape.arrived(out);
                        if (dout == null) {
                            return;
                        }
                        Tape.Destination dtable = tape.destination(table);
                        Tape.Destination dpositions = tape.destination(positions);
                        Native.check(
                                GatunH.gatun_embedding_backward(
                                        tape.stream.handle(),
                                        dtable.pointer(),
                                        dpositions.pointer(),
                                        dout.raw(),
                                        ids.raw(),
                                        Tensor.raw(start),
                                        dtable.bit(0) | dpositions.bit(1)),
                                "embedding_backward");
                    });
        }
        return out;
    }
}
