package dev.gatun.kernels;

import dev.gatun.kernels.internal.GatunH;
import dev.gatun.kernels.internal.Native;
import dev.gatun.kernels.internal.gatun_philox;
import java.lang.foreign.MemorySegment;
import java.util.Arrays;
import org.jspecify.annotations.Nullable;

/**
 * Making and moving values: fill, copy, cast, add, increment, random numbers, upload.
 *
 * <p>Gradients: cast, contiguous and add hand theirs on (add shares it with both operands); the
 * others have none.
 */
public final class Values {
    private Values() {}

    /** out[...] = value, rounded to out's dtype (truncated for integers). Any dtype. */
    public static void fill(Ops ops, Tensor out, double value) {
        out.alive();
        Native.check(GatunH.gatun_fill(ops.handle(), out.raw(), value), "fill");
    }

    static Tensor full(Ops ops, DType dtype, double value, long[] shape) {
        Tensor out = ops.make(dtype, shape);
        fill(ops, out, value);
        return out;
    }

    /**
     * out = src of the same shape; casts between any two of f32, f16, bf16 and between i32 and i64.
     * NaN stays NaN, f16 overflow becomes infinity. Not recorded: {@link Ops#cast} is.
     */
    public static void copy(Ops ops, Tensor out, Tensor src) {
        out.alive();
        src.valued();
        ops.handle();
        copyOn(ops.stream, out, src);
    }

    static void copyOn(Stream stream, Tensor out, Tensor src) {
        boolean tail = needsTail(out) || needsTail(src);
        Native.check(
                GatunH.gatun_copy(stream.handle(), tail(out, tail).raw(), tail(src, tail).raw()),
                "copy");
    }

    static void addOn(Stream stream, Tensor out, Tensor a, Tensor b) {
        boolean tail = needsTail(out) || needsTail(a) || needsTail(b);
        Native.check(
                GatunH.gatun_add(
                        stream.handle(),
                        tail(out, tail).raw(),
                        tail(a, tail).raw(),
                        tail(b, tail).raw()),
                "add");
    }

    // The C ABI wants a last stride of 1; a last dimension of size 1 may have any, so one more
    // dimension lets an op walk a transposed view.
    private static boolean needsTail(Tensor t) {
        int last = t.shape.length - 1;
        return last >= 0 && t.shape[last] > 1 && t.stride[last] != 1;
    }

    private static Tensor tail(Tensor t, boolean wanted) {
        if (!wanted) {
            return t;
        }
        int rank = t.shape.length;
        long[] shape = Arrays.copyOf(t.shape, rank + 1);
        long[] stride = Arrays.copyOf(t.stride, rank + 1);
        shape[rank] = 1;
        stride[rank] = 1;
        if (rank + 1 > Tensor.MAX_RANK) {
            throw new IllegalArgumentException(
                    "copy: %s has %d dimensions and its last one is strided: wanted at most %d then"
                            .formatted(t, rank, Tensor.MAX_RANK - 1));
        }
        return new Tensor(t.storage, t.dtype(), shape, stride, t.offset, t.base());
    }

    /** The values as another dtype, in a tensor of their own; x itself where it has that dtype. */
    public static Tensor cast(Ops ops, Tensor x, DType dtype) {
        x.valued();
        return x.dtype() == dtype ? x : dense(ops, x, dtype);
    }

    /** The values densely in row-major order; x itself where they lie so. */
    public static Tensor contiguous(Ops ops, Tensor x) {
        x.valued();
        return x.contiguous() ? x : dense(ops, x, x.dtype());
    }

    private static Tensor dense(Ops ops, Tensor x, DType dtype) {
        Tensor y = ops.make(dtype, x.shape);
        copyOn(ops.stream, y, x);
        Tape tape = ops.tape();
        if (tape != null && tape.needs(x)) {
            tape.record(
                    new Tensor[] {y}, new Tensor[] {x}, new Tensor[] {}, () -> handOn(tape, y, x));
        }
        return y;
    }

    /** a + b, of one shape and dtype, in a new tensor. */
    public static Tensor add(Ops ops, Tensor a, Tensor b) {
        a.valued();
        b.valued();
        Tensor y = ops.make(a.dtype(), a.shape);
        addOn(ops.stream, y, a, b);
        Tape tape = ops.tape();
        if (tape != null && (tape.needs(a) || tape.needs(b))) {
            tape.record(
                    new Tensor[] {y},
                    new Tensor[] {a, b},
                    new Tensor[] {},
                    () -> {
                        handOn(tape, y, a);
                        handOn(tape, y, b);
                    });
        }
        return y;
    }

    private static void handOn(Tape tape, Tensor y, Tensor x) {
        Tensor dy = tape.arrived(y);
        if (dy != null) {
            tape.give(x, dy);
        }
    }

    /** out += by on an i32 or i64 tensor. */
    public static void increment(Ops ops, Tensor out, long by) {
        Native.check(GatunH.gatun_increment(ops.handle(), out.pointer(), by), "increment");
    }

    static Tensor uniform(Ops ops, DType dtype, double low, double high, long[] shape) {
        Tensor out = ops.make(dtype, shape);
        uniform(ops, out, low, high);
        return out;
    }

    /** out uniform in [low, high), from the Ops's Rng and its next site. Float dtypes. */
    public static void uniform(Ops ops, Tensor out, double low, double high) {
        MemorySegment philox = philox(ops, ops.rng(), ops.nextSite());
        out.alive();
        Native.check(
                GatunH.gatun_random_uniform(ops.handle(), out.raw(), low, high, philox),
                "random_uniform");
    }

    static Tensor normal(Ops ops, DType dtype, double mean, double std, long[] shape) {
        Tensor out = ops.make(dtype, shape);
        normal(ops, out, mean, std);
        return out;
    }

    /** out ~ N(mean, std²) by Box-Muller, from the Ops's Rng and its next site. Float dtypes. */
    public static void normal(Ops ops, Tensor out, double mean, double std) {
        MemorySegment philox = philox(ops, ops.rng(), ops.nextSite());
        out.alive();
        Native.check(
                GatunH.gatun_random_normal(ops.handle(), out.raw(), mean, std, philox),
                "random_normal");
    }

    static MemorySegment philox(Ops ops, Rng rng, int site) {
        MemorySegment args = ops.stream.philox;
        gatun_philox.seed(args, rng.seed());
        gatun_philox.site(args, site);
        gatun_philox.micro_batch(args, rng.microBatch());
        gatun_philox.step(args, Tensor.pointer(rng.step()));
        return args;
    }

    static Tensor upload(Ops ops, float[] values, long[] shape) {
        Shapes.wantElements("upload", values.length, shape);
        Tensor out = ops.make(DType.F32, shape);
        out.write(values);
        return out;
    }

    static Tensor upload(Ops ops, int[] values, long[] shape) {
        Shapes.wantElements("upload", values.length, shape);
        Tensor out = ops.make(DType.I32, shape);
        out.write(values);
        return out;
    }

    /**
     * Token ids, each in [0, limit): checked here, so that a wrong one never reaches the device.
     */
    static Tensor ids(Ops ops, int[] ids, int limit, long[] shape) {
        return upload(ops, checked("ids", ids, limit, null), shape);
    }

    static void ids(Tensor out, int[] ids, int limit) {
        out.write(checked("ids", ids, limit, null));
    }

    /** Labels, each in [0, limit) or ignoreIndex. */
    static Tensor labels(Ops ops, int[] labels, int limit, int ignoreIndex, long[] shape) {
        return upload(ops, checked("labels", labels, limit, ignoreIndex), shape);
    }

    static void labels(Tensor out, int[] labels, int limit, int ignoreIndex) {
        out.write(checked("labels", labels, limit, ignoreIndex));
    }

    private static int[] checked(String what, int[] ids, int limit, @Nullable Integer ignored) {
        for (int i = 0; i < ids.length; i++) {
            if ((ids[i] < 0 || ids[i] >= limit) && (ignored == null || ids[i] != ignored)) {
                throw new IllegalArgumentException(
                        "%s: %d at index %d is not in [0, %d)%s"
                                .formatted(
                                        what,
                                        ids[i],
                                        i,
                                        limit,
                                        ignored == null ? "" : " and not " + ignored));
            }
        }
        return ids;
    }
}
