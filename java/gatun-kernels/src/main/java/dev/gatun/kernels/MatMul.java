package dev.gatun.kernels;

import dev.gatun.kernels.internal.GatunH;
import dev.gatun.kernels.internal.Native;
import dev.gatun.kernels.internal.gatun_matmul_args;
import java.lang.foreign.MemorySegment;
import java.util.Arrays;
import org.jspecify.annotations.Nullable;

/**
 * Matrix products: out[.., M, N] = alpha · a · b over leading batch dimensions.
 *
 * <p>a [.., M, K] (or [.., K, M] transposed), b [.., K, N] (or [.., N, K]) with a's leading
 * dimensions, or of rank 2: one matrix for all. Rank 2 to 6; f32, f16, bf16, one dtype; sums in
 * f32.
 *
 * <p>Backward, for the plain orientation: da = alpha · dout · bᵀ, db = alpha · aᵀ · dout, summed
 * over the batch where b is one matrix for all.
 */
public final class MatMul {
    private MatMul() {}

    /**
     * How a product is taken.
     *
     * @param transposeA a is [.., K, M]
     * @param transposeB b is [.., N, K]
     * @param alpha factor on the product
     * @param precision what may be left out of a product of f32 operands, in the backward pass too
     */
    public record Options(
            boolean transposeA, boolean transposeB, double alpha, Precision precision) {
        /** a · b. */
        public static final Options PLAIN = new Options(false, false, 1, Precision.F32);

        /** a · bᵀ. */
        public static final Options TRANSPOSE_B = PLAIN.transposed(false, true);

        /** aᵀ · b. */
        public static final Options TRANSPOSE_A = PLAIN.transposed(true, false);

        public Options {
            if (alpha == 0 || !Double.isFinite(alpha)) {
                throw new IllegalArgumentException(
                        "matmul: wanted a finite alpha other than 0, had " + alpha);
            }
        }

        /** These options with another factor. */
        public Options withAlpha(double factor) {
            return new Options(transposeA, transposeB, factor, precision);
        }

        /** These options with another precision. */
        public Options withPrecision(Precision other) {
            return new Options(transposeA, transposeB, alpha, other);
        }

        private Options transposed(boolean a, boolean b) {
            return new Options(a, b, alpha, precision);
        }
    }

    /**
     * What may be left out of a product of f32 operands. It permits, and obliges no device: cpu
     * multiplies f32 in full, and products of 16-bit operands are exact in any case.
     */
    public enum Precision {
        /** Nothing: as accurate as multiplication in f32. */
        F32,
        /**
         * All but three products of bf16 parts: what is left out of a term is below 2⁻¹⁵ of it, for
         * half the work of {@link #F32} where tensor cores multiply.
         */
        BF16X3;

        int code() {
            return ordinal();
        }
    }

    /** The product in a new tensor of a's dtype. */
    public static Tensor forward(Ops ops, Tensor a, Tensor b, Options options) {
        a.valued();
        b.valued();
        if (a.rank() < 2 || b.rank() < 2) {
            throw new IllegalArgumentException(
                    "matmul: wanted at least 2 dimensions, had a %s and b %s".formatted(a, b));
        }
        long[] shape = a.shape();
        int rank = shape.length;
        shape[rank - 2] = a.size(options.transposeA ? -1 : -2);
        shape[rank - 1] = b.size(options.transposeB ? -2 : -1);
        Tensor out = ops.make(a.dtype(), shape);
        run(ops.stream, out, a, b, options, false);
        Tape tape = ops.tape();
        if (tape != null && (tape.needs(a) || tape.needs(b))) {
            tape.record(
                    new Tensor[] {out},
                    new Tensor[] {a, b},
                    new @Nullable Tensor[] {tape.needs(b) ? a : null, tape.needs(a) ? b : null},
                    () -> backward(tape, out, a, b, options));
        }
        return out;
    }

    private static void backward(Tape tape, Tensor out, Tensor a, Tensor b, Options options) {
        Tensor dout = tape.arrived(out);
        if (dout == null) {
            return;
        }
        Stream stream = tape.stream;
        boolean ta = options.transposeA;
        boolean tb = options.transposeB;
        Tape.Destination da = tape.destination(a);
        if (da.tensor() != null) {
            if (ta && b.rank() < a.rank()) {
                // b has no batch, so it cannot stand on the left: one product a batch entry
                eachOfBatch(
                        a.rank() - 2,
                        da.tensor(),
                        dout,
                        (dx, dy) -> run(stream, dx, b, dy, options.transposed(tb, true), da.add()));
            } else if (ta) {
                run(stream, da.tensor(), b, dout, options.transposed(tb, true), da.add());
            } else {
                run(stream, da.tensor(), dout, b, options.transposed(false, !tb), da.add());
            }
        }
        Tape.Destination db = tape.destination(b);
        Tensor to = db.tensor();
        if (to == null) {
            return;
        }
        Tensor left = a;
        Tensor right = dout;
        if (b.rank() < a.rank()) {
            if (ta) {
                boolean[] add = {db.add()};
                eachOfBatch(
                        a.rank() - 2,
                        a,
                        dout,
                        (x, dy) -> {
                            product(stream, to, x, dy, options, add[0]);
                            add[0] = true;
                        });
                return;
            }
            left = rows(tape, a);
            right = rows(tape, dout);
        }
        product(stream, to, left, right, options, db.add());
    }

    /** db = alpha · op(a)ᵀ · dout, or its transpose where b was transposed. */
    private static void product(
            Stream stream, Tensor db, Tensor a, Tensor dout, Options options, boolean add) {
        boolean ta = options.transposeA;
        if (options.transposeB) {
            run(stream, db, dout, a, options.transposed(true, ta), add);
        } else {
            run(stream, db, a, dout, options.transposed(!ta, false), add);
        }
    }

    private interface Pair {
        void accept(Tensor first, Tensor second);
    }

    private static void eachOfBatch(int batchDims, Tensor first, Tensor second, Pair body) {
        if (batchDims == 0) {
            body.accept(first, second);
            return;
        }
        for (long i = 0; i < first.shape[0]; i++) {
            eachOfBatch(batchDims - 1, index(first, i), index(second, i), body);
        }
    }

    private static Tensor index(Tensor t, long i) {
        return new Tensor(
                t.storage,
                t.dtype(),
                Arrays.copyOfRange(t.shape, 1, t.shape.length),
                Arrays.copyOfRange(t.stride, 1, t.stride.length),
                t.offset + i * t.stride[0],
                t.base());
    }

    /** A tensor as [rows, last]: a view where the layout allows it, else a copy for this step. */
    static Tensor rows(Tape tape, Tensor t) {
        Tensor view = rowsOrNull(t);
        if (view != null) {
            return view;
        }
        Tensor copy = tape.temporary(t.dtype(), t.shape);
        Values.copyOn(tape.stream, copy, t);
        return denseRows(copy);
    }

    /** A tensor as it was made as [rows, last]. */
    static Tensor denseRows(Tensor t) {
        Tensor rows = rowsOrNull(t);
        if (rows == null) {
            throw new AssertionError(t + " is a view");
        }
        return rows;
    }

    static @Nullable Tensor rowsOrNull(Tensor t) {
        if (t.shape.length == 2) {
            return t;
        }
        long last = t.shape.length == 0 ? 1 : t.shape[t.shape.length - 1];
        long[] shape = {last == 0 ? 0 : t.elements() / last, last};
        long[] stride = Shapes.viewStrides(t.shape, t.stride, shape);
        return stride == null
                ? null
                : new Tensor(t.storage, t.dtype(), shape, stride, t.offset, t.base());
    }

    /**
     * What becomes of a product on its way to memory. All but the bias are shaped as the product.
     *
     * @param code GATUN_EPILOGUE_…
     * @param preactivation BIAS_GELU: receives the sum before the GELU, or null; GELU_GRADIENT: is
     *     read
     * @param residual added last; or null
     */
    record Epilogue(
            int code,
            Gelu form,
            @Nullable Tensor bias,
            @Nullable Tensor preactivation,
            @Nullable Tensor residual) {
        static final Epilogue NONE = plain(null, null);

        /** + bias + residual. */
        static Epilogue plain(@Nullable Tensor bias, @Nullable Tensor residual) {
            int code = bias == null ? GatunH.GATUN_EPILOGUE_NONE() : GatunH.GATUN_EPILOGUE_BIAS();
            return new Epilogue(code, Gelu.TANH, bias, null, residual);
        }

        /** gelu(. + bias). */
        static Epilogue gelu(Gelu form, @Nullable Tensor bias, @Nullable Tensor preactivation) {
            return new Epilogue(GatunH.GATUN_EPILOGUE_BIAS_GELU(), form, bias, preactivation, null);
        }

        /** . · gelu'(preactivation). */
        static Epilogue geluGradient(Gelu form, Tensor preactivation) {
            return new Epilogue(
                    GatunH.GATUN_EPILOGUE_GELU_GRADIENT(), form, null, preactivation, null);
        }
    }

    static void run(
            Stream stream, Tensor out, Tensor a, Tensor b, Options options, boolean accumulate) {
        run(stream, out, a, b, options, accumulate, Epilogue.NONE);
    }

    static void run(
            Stream stream,
            Tensor out,
            Tensor a,
            Tensor b,
            Options options,
            boolean accumulate,
            Epilogue epilogue) {
        MemorySegment args = stream.matmulArgs;
        gatun_matmul_args.transpose_a(args, options.transposeA ? 1 : 0);
        gatun_matmul_args.transpose_b(args, options.transposeB ? 1 : 0);
        gatun_matmul_args.accumulate(args, accumulate ? 1 : 0);
        gatun_matmul_args.epilogue(args, epilogue.code);
        gatun_matmul_args.gelu_erf(args, epilogue.form.code());
        gatun_matmul_args.alpha(args, (float) options.alpha);
        gatun_matmul_args.precision(args, options.precision.code());
        gatun_matmul_args.bias(args, Tensor.raw(epilogue.bias));
        gatun_matmul_args.preactivation(args, Tensor.raw(epilogue.preactivation));
        gatun_matmul_args.residual(args, Tensor.raw(epilogue.residual));
        Native.check(
                GatunH.gatun_matmul(stream.handle(), out.raw(), a.raw(), b.raw(), args), "matmul");
    }
}
